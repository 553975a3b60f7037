"""Imprinting and its scores against loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.imprinting import CosineClassifier, ImprintingNetwork, episode_hits, imprint, joint_hits, unit
from fewshot.module import FewshotModule


def loop_unit(vector):
    return [value / math.sqrt(sum(v * v for v in vector)) for value in vector]


def loop_hits(embeddings, episode, shots):
    rows = embeddings.tolist()
    weights = []
    for images in episode:
        support = [loop_unit(rows[i]) for i in images[:shots]]
        weights.append(loop_unit([sum(column) / shots for column in zip(*support)]))
    hits = 0
    for label, images in enumerate(episode):
        for image in images[shots:]:
            scores = [sum(a * b for a, b in zip(rows[image], weight)) for weight in weights]
            hits += scores.index(max(scores)) == label
    return hits


def draw(seed, *, classes=6, images=9, size=4, episodes=3, ways=4):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 1, size, generator=generator, dtype=torch.float64)
    embeddings = unit(centres + torch.randn(classes, images, size, generator=generator, dtype=torch.float64))
    chosen = []
    for _ in range(episodes):
        labels = torch.randperm(classes, generator=generator)[:ways]
        chosen.append(torch.stack([int(c) * images + torch.randperm(images, generator=generator) for c in labels]))
    return embeddings.flatten(0, 1), torch.stack(chosen)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), shots=st.integers(1, 5))
def test_hits_are_those_of_a_loop(seed, shots):
    embeddings, episodes = draw(seed)
    expected = [loop_hits(embeddings, episode.tolist(), shots) for episode in episodes]
    assert episode_hits(embeddings, episodes, shots=shots).tolist() == expected


def test_many_episodes_are_scored_in_parts():
    embeddings, episodes = draw(1, episodes=230)
    whole = episode_hits(embeddings, episodes, shots=2)
    assert whole.tolist() == [int(episode_hits(embeddings, e[None], shots=2)) for e in episodes]


def test_the_weight_of_one_shot_is_the_image_itself():
    embeddings, _ = draw(0)
    torch.testing.assert_close(imprint(embeddings[:, None]), embeddings, rtol=1e-14, atol=1e-14)


def test_order_does_not_matter():
    """Of the queries, of the labelled images, of the classes, of the images in the store."""
    embeddings, episodes = draw(2)
    expected = episode_hits(embeddings, episodes, shots=3)
    queries = torch.cat([episodes[:, :, :3], episodes[:, :, 3:].flip(2)], dim=2)
    support = torch.cat([episodes[:, :, :3].flip(2), episodes[:, :, 3:]], dim=2)
    classes = episodes.flip(1)
    for permuted in (queries, support, classes):
        assert torch.equal(episode_hits(embeddings, permuted, shots=3), expected)
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0))
    places = torch.argsort(order)
    assert torch.equal(episode_hits(embeddings[order], places[episodes], shots=3), expected)


def test_joint_hits_are_those_of_a_loop():
    novel, episodes = draw(3, episodes=4)
    base, _ = draw(4, classes=5, images=3)
    labels = torch.arange(5).repeat_interleave(3)
    raw = torch.randn(5, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    queries = torch.tensor([[0, 4, 8], [14, 2, 7], [1, 3, 13], [10, 11, 12]])
    got_novel, got_base = joint_hits(novel, episodes, base, queries, labels, raw, shots=2)
    for number, episode in enumerate(episodes.tolist()):
        new = [loop_unit([sum(c) / 2 for c in zip(*(novel[i].tolist() for i in row[:2]))]) for row in episode]
        weights = [loop_unit(row) for row in raw.tolist()] + new

        def best(vector, weights=weights):
            scores = [sum(a * b for a, b in zip(vector.tolist(), weight)) for weight in weights]
            return scores.index(max(scores))

        assert int(got_novel[number]) == sum(best(novel[i]) == 5 + w for w, row in enumerate(episode) for i in row[2:])
        assert int(got_base[number]) == sum(best(base[i]) == int(labels[i]) for i in queries[number].tolist())


def test_the_classifier_is_a_scaled_cosine():
    torch.manual_seed(0)
    head = CosineClassifier(7, 3, scale=4.0).double()
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(x), 4.0 * cosine, rtol=1e-12, atol=1e-12)
    assert {name for name, _ in head.named_parameters()} == {"weight", "scale"}
    assert torch.autograd.gradcheck(lambda v: torch.func.functional_call(head, dict(head.named_parameters()), v), x)


def test_the_classifier_keeps_its_precision_under_autocast():
    torch.manual_seed(0)
    head, x = CosineClassifier(64, 5), torch.randn(9, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(x.bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(x.bfloat16().float()), rtol=0, atol=1e-5)


def test_initial_weights_have_the_source_s_spread():
    torch.manual_seed(0)
    head = CosineClassifier(640, 64)
    assert float(head.weight.detach().std()) == pytest.approx(math.sqrt(2 / 640), rel=0.02)
    assert float(head.scale.detach()) == 10.0


def test_embedding_in_train_mode_is_impossible():
    module = FewshotModule(norm="bn", widths=[4, 4, 4, 4])
    module.build_network(3)
    images = torch.randn(4, 3, 16, 16)
    with pytest.raises(RuntimeError, match="must be in eval mode"):
        module.network.embed(images)
    module.network.eval()
    assert torch.equal(
        module.network.embed(images)[:1].round(decimals=5), module.network.embed(images[:1]).round(decimals=5)
    )
    next(module.network.features.children()).train()
    with pytest.raises(RuntimeError, match="must be in eval mode"):
        module.network.embed(images)


def test_embeddings_have_length_one():
    network = ImprintingNetwork(torch.nn.Identity(), CosineClassifier(5, 2)).eval()
    torch.testing.assert_close(network.embed(torch.randn(6, 5)).norm(dim=1), torch.ones(6))
    assert torch.equal(network.embed(torch.zeros(1, 5)), torch.zeros(1, 5)), "and a zero vector stays one"
