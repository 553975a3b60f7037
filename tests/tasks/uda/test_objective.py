"""What a step minimises, against its parts by hand, and which statistics and gradients each method leaves."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from uda.cdd import cdd
from uda.domain_norm import PerDomain
from uda.loaders import LoopImages
from uda.objective import step_loss
from uda.weights import build_network

OPTIONS = {"num_classes": 5, "cdd_weight": 0.3, "normaliser": "dataset", "intra_only": False}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(
        "resnet20", norm="bn", num_groups=None, num_classes=5, batch_size=6, weights=None, conversion="fold", width=4
    ).train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 16, 16, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 1, 1, 3, 3, 1, 1, 3, 3, 3])
    return LoopImages(images, labels, torch.arange(16), (6, 5, 5))


def moved(network, before):
    """Return the domains whose running means have moved since, each in all layers or in none."""
    domains = set()
    norms = [layer for layer in network.modules() if isinstance(layer, PerDomain)]
    old = [layer for layer in before.modules() if isinstance(layer, PerDomain)]
    for domain in ("source", "target"):
        changes = {
            not torch.equal(getattr(a, domain).running_mean, getattr(b, domain).running_mean)
            for a, b in zip(norms, old, strict=True)
        }
        assert len(changes) == 1
        domains |= {domain} if changes == {True} else set()
    return domains


def test_the_loss_is_cross_entropy_and_the_weighted_discrepancy_of_three_passes(network, batch):
    by_hand = deepcopy(network)
    loss, measures = step_loss(network, batch, method="can", **OPTIONS)
    loss.backward()
    logits = by_hand.answer(batch.images[:6], domain="source").logits
    source = by_hand.answer(batch.images[6:11], domain="source")
    target = by_hand.answer(batch.images[11:], domain="target")
    terms = cdd(
        [source.features, source.logits.softmax(1)], [target.features, target.logits.softmax(1)],
        source_labels=batch.labels[6:11], target_labels=batch.labels[11:], num_classes=5,
    )  # fmt: skip
    cross_entropy = F.cross_entropy(logits, batch.labels[:6])
    cross_entropy.backward(retain_graph=True)
    (0.3 * terms.value).backward()
    torch.testing.assert_close(loss, cross_entropy + 0.3 * terms.value)
    assert measures == {
        "cross_entropy": cross_entropy.detach(), "cdd": terms.value.detach(), "intra": terms.intra.detach(),
        "inter": terms.inter.detach(),
    }  # fmt: skip
    for ours, expected in zip(network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)
    for name, value in by_hand.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("method", "domains"),
    [("can", {"source", "target"}), ("norm_branch", {"source", "target"}), ("source_only", {"source"})],
)
def test_which_statistics_move(network, batch, method, domains):
    before = deepcopy(network)
    loss, measures = step_loss(network, batch, method=method, **OPTIONS)
    assert moved(network, before) == domains
    loss.backward()
    gradients = {name for name, value in network.named_parameters() if value.grad is not None and ".target." in name}
    assert bool(gradients) == (method == "can")
    assert ("cdd" in measures) == (method == "can")
    if method != "can":
        assert loss == F.cross_entropy(before.answer(batch.images[:6], domain="source").logits, batch.labels[:6])


def test_the_control_has_the_statistics_of_the_whole_method(network, batch):
    control = deepcopy(network)
    step_loss(network, batch, method="can", **OPTIONS)
    step_loss(control, batch, method="norm_branch", **OPTIONS)
    for name, value in network.state_dict().items():
        assert torch.equal(control.state_dict()[name], value), name


def test_without_pairs_the_source_alone_counts(network, batch):
    before = deepcopy(network)
    alone = LoopImages(batch.images[:6], batch.labels[:6], batch.indices[:6], (6, 0, 0))
    _, measures = step_loss(network, alone, method="can", **OPTIONS)
    assert set(measures) == {"cross_entropy"}
    assert moved(network, before) == {"source"}
