"""Settings of the paper and of the official code as data, the stop rules, and scores that need no labels."""

import math

import pytest
import torch

from uda import protocol
from uda.loops import LoopState, mean_entropy, neighbourhood_density, start_loop


@pytest.mark.parametrize(
    ("pair", "name", "groups"),
    [
        (("dslr", "amazon"), "da", 512), (("webcam", "amazon"), "wa", 512), (("webcam", "dslr"), "wd", 512),
        (("amazon", "dslr"), "ad", 1), (("amazon", "webcam"), "aw", 8), (("dslr", "webcam"), "dw", 32),
        (("cats", "dogs"), "cats-dogs", 32),
    ],
)  # fmt: skip
def test_the_paper_s_groups(pair, name, groups):
    assert protocol.transfer_name(*pair) == name
    assert name not in protocol.GROUPS or protocol.domains_of(name) == pair
    assert protocol.num_groups("bgn", transfer=name) == groups
    assert protocol.num_groups("gn", transfer=name) == 32
    assert protocol.num_groups("bn", transfer=name) is None


def test_learning_rates():
    def factor(loop, iteration, decay):
        return protocol.learning_rate_factor(loop=loop, iteration=iteration, decay=decay, rate=0.1, step=25)

    assert [factor(loop, 94 * loop, "loop") for loop in (0, 24, 25, 49)] == pytest.approx([1, 1, 0.1, 0.1])
    assert factor(0, 75, "iteration") == pytest.approx(1e-3), "1e-6 after 75 steps from 1e-3, in the first loop"
    assert factor(3, 1000, "inv") == pytest.approx(2**-0.75)
    assert factor(40, 4000, "none") == 1


def test_stop_rules():
    moving = {"shift": 0.0005, "drift": 0.01, "label_change": 0.1}
    still = {"shift": 0.0005, "drift": 0.0005, "label_change": 0.0005}
    assert not protocol.is_at_rest({"shift": 0.0}, rule="shift"), "two loops at least"
    assert protocol.is_at_rest(moving, rule="shift")
    assert not protocol.is_at_rest(moving, rule="official")
    assert protocol.is_at_rest(still, rule="official")
    assert not protocol.is_at_rest(still, rule="never")
    assert not protocol.is_at_rest(still | {"shift": 0.001}, rule="shift")


def test_neighbourhood_density_and_entropy_against_loops():
    torch.manual_seed(0)
    probabilities = torch.randn(7, 3).mul(2).softmax(1).double()
    total = 0.0
    for i in range(7):
        weights = []
        for j in range(7):
            if j != i:
                cosine = float(probabilities[i] @ probabilities[j]) / float(
                    probabilities[i].norm() * probabilities[j].norm()
                )
                weights.append(math.exp(cosine / 0.05))
        shares = [weight / sum(weights) for weight in weights]
        total -= sum(share * math.log(share) for share in shares)
    for chunk in (2, 7, 100):
        assert neighbourhood_density(probabilities, chunk=chunk) == pytest.approx(total / 7)
    entropy = -sum(float(p) * math.log(float(p)) for row in probabilities for p in row) / 7
    assert mean_entropy(probabilities) == pytest.approx(entropy)


def test_a_loop_s_state_comes_back_from_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    source, target = torch.randn(12, 6), torch.randn(9, 6)
    labels = torch.arange(12) % 3
    settings = {"num_classes": 3, "threshold": 0.6, "minimum": 1, "normalise": False}
    first = start_loop(previous=None, source_features=source, source_labels=labels, target_features=target, **settings)
    second = start_loop(
        previous=first, source_features=source, source_labels=labels, target_features=target, **settings
    )
    assert (first.loop, second.loop) == (0, 1)
    assert "drift" not in first.measures
    assert second.measures["drift"] == pytest.approx(0, abs=1e-12)
    assert second.measures["label_change"] == 0
    assert second.measures["kept_share"] == pytest.approx(float(second.kept.images.double().mean()))
    torch.save(second.state_dict(), tmp_path / "state.pt")
    loaded = LoopState.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert loaded.measures == second.measures
    assert loaded.kept.classes == second.kept.classes
    for name in ("labels", "distances", "centres"):
        assert torch.equal(getattr(loaded, name), getattr(second, name))
