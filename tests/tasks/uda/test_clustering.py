"""Clustering of the target against loops over plain floats, with the matching tried out permutation by permutation."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.clustering import (
    cluster,
    cosine_distances,
    drift,
    in_class_order,
    label_change,
    match_clusters,
    shift,
    source_centres,
)

FOUR_CYCLE = {
    "images": [116, 33, 46, 35, 118, 180, 230, 111, 212, 301],
    "centres": [141, 80, 344, 306],
}
"""Angles in degrees for which the clusters wander so far that clusters 0, 1, 2, 3 become classes 1, 2, 3, 0."""


def at(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def length(row):
    return math.sqrt(sum(x * x for x in row))


def loop_distance(first, second):
    product = sum(x * y for x, y in zip(first, second))
    return 0.5 * (1 - product / (max(length(first), 1e-12) * max(length(second), 1e-12)))


def loop_sums(rows, labels, num_classes, normalise):
    sums = [[0.0] * len(rows[0]) for _ in range(num_classes)]
    for row, label in zip(rows, labels):
        divisor = length(row) if normalise else 1.0
        sums[label] = [x + y / divisor for x, y in zip(sums[label], row)]
    return sums


def loop_assign(rows, centres):
    distances = [[loop_distance(row, centre) for centre in centres] for row in rows]
    return [of_row.index(min(of_row)) for of_row in distances], [min(of_row) for of_row in distances]


def loop_cluster(features, initial_centres, *, tolerance, normalise, max_iterations=1000):
    rows, initial = features.tolist(), initial_centres.tolist()
    centres, iterations, moved = initial, 0, math.inf
    while moved >= tolerance and iterations < max_iterations:
        labels, _ = loop_assign(rows, centres)
        sums = loop_sums(rows, labels, len(initial), normalise)
        new = [sums[c] if c in labels else initial[c] for c in range(len(initial))]
        moved = sum(loop_distance(a, b) for a, b in zip(new, centres)) / len(initial)
        centres, iterations = new, iterations + 1
    labels, distances = loop_assign(rows, centres)
    costs = [[loop_distance(centre, other) for other in initial] for centre in centres]
    best = min(
        itertools.permutations(range(len(initial))), key=lambda p: sum(costs[k][p[k]] for k in range(len(initial)))
    )
    by_class = [centres[best.index(c)] for c in range(len(initial))]
    return [best[label] for label in labels], distances, by_class, iterations, list(best)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    images=st.integers(1, 25),
    classes=st.integers(1, 5),
    size=st.integers(2, 4),
    normalise=st.booleans(),
    chunk=st.integers(1, 30),
    tolerance=st.sampled_from([0.005, 1e-6]),
)
def test_clusters_are_those_of_loops(seed, images, classes, size, normalise, chunk, tolerance):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, size, generator=generator, dtype=torch.float64)
    initial = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    labels, distances, centres, iterations, _ = loop_cluster(
        features, initial, tolerance=tolerance, normalise=normalise
    )
    found = cluster(features, initial, tolerance=tolerance, normalise=normalise, chunk=chunk)
    assert found.labels.tolist() == labels
    assert found.iterations == iterations
    assert found.converged == (iterations < 1000)
    torch.testing.assert_close(found.distances, torch.tensor(distances, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.centres, torch.tensor(centres, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_clusters_are_renamed_and_their_centres_put_in_the_order_of_the_classes():
    """The official code orders the centres by π instead of its inverse, which a four-cycle tells apart."""
    features, initial = at(*FOUR_CYCLE["images"]), at(*FOUR_CYCLE["centres"])
    labels, distances, centres, _, permutation = loop_cluster(features, initial, tolerance=1e-6, normalise=True)
    assert permutation == [1, 2, 3, 0]
    found = cluster(features, initial, tolerance=1e-6, normalise=True)
    assert found.labels.tolist() == labels
    torch.testing.assert_close(found.centres, torch.tensor(centres, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    own = cosine_distances(features, found.centres).gather(1, found.labels[:, None])[:, 0]
    torch.testing.assert_close(own, found.distances, rtol=1e-12, atol=1e-12)  # an image lies at its label's centre
    torch.testing.assert_close(found.distances, torch.tensor(distances, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(permutation=st.permutations(range(6)), seed=st.integers(0, 1000))
def test_matching_finds_any_permutation(permutation, seed):
    classes = torch.randn(6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    clusters = 3 * classes[list(permutation)]  # cluster k is class permutation[k]
    matched = match_clusters(clusters, classes)
    assert matched.tolist() == list(permutation)
    assert torch.equal(in_class_order(clusters, matched), 3 * classes)


def test_an_empty_cluster_goes_back_to_its_initial_centre():
    images, initial = at(5, 15, 90, 100), 7 * at(0, 80, 250)
    found = cluster(images, initial, normalise=True)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(found.centres[2], initial[2])
    # the second cluster begins with the images at 81 and 1 degrees and loses both
    initial = at(140, 30, 320)
    found = cluster(at(81, 331, 101, 351, 101, 1), initial, normalise=True)
    assert found.iterations > 1
    assert found.labels.tolist() == [0, 2, 0, 2, 0, 2]
    assert torch.equal(found.centres[1], initial[1])


def test_iterations_are_limited():
    features, initial = at(*FOUR_CYCLE["images"]), at(*FOUR_CYCLE["centres"])
    expected = loop_cluster(features, initial, tolerance=1e-6, normalise=True, max_iterations=2)
    found = cluster(features, initial, tolerance=1e-6, normalise=True, max_iterations=2)
    assert (found.labels.tolist(), found.iterations, found.converged) == (expected[0], 2, False)
    assert cluster(features, initial, tolerance=1e-6, normalise=True).converged


def test_long_features_count_more_unless_normalised():
    features = torch.cat([9 * at(0), at(60)])
    labels = torch.tensor([0, 0])
    raw = source_centres(features, labels, num_classes=1, normalise=False)
    normalised = source_centres(features, labels, num_classes=1, normalise=True)
    torch.testing.assert_close(raw, (9 * at(0) + at(60)), rtol=1e-14, atol=1e-14)
    assert shift(normalised, at(30)) == pytest.approx(0, abs=1e-14)
    found = {n: cluster(features, at(0), normalise=n).centres for n in (True, False)}
    torch.testing.assert_close(found[False], raw, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found[True], normalised, rtol=1e-14, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 50), normalise=st.booleans())
def test_source_centres_are_those_of_a_loop(seed, chunk, normalise):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(40, 3, generator=generator)
    labels = torch.cat([torch.arange(4), torch.randint(0, 4, (36,), generator=generator)])
    expected = loop_sums(features.tolist(), labels.tolist(), 4, normalise)
    centres = source_centres(features, labels, num_classes=4, normalise=normalise, chunk=chunk)
    torch.testing.assert_close(centres, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_features_of_any_precision_are_clustered_in_float64():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(200, 16, generator=generator).bfloat16()
    initial = torch.rand(5, 16, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cluster(features, initial, normalise=False)
    exact = cluster(features.double(), initial.double(), normalise=False)
    assert torch.equal(found.labels, exact.labels)
    assert torch.equal(found.distances, exact.distances)
    assert found.centres.dtype == found.distances.dtype == torch.float64


def test_domains_alike_are_told_apart():
    """Labels come out right where classes are far apart, with their measures of change."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(6, 12, generator=generator, dtype=torch.float64) * 3
    truth = torch.arange(6).repeat_interleave(10)
    source = means[truth] + torch.randn(60, 12, generator=generator, dtype=torch.float64)
    target = means[truth] + 0.5 + torch.randn(60, 12, generator=generator, dtype=torch.float64)
    centres = source_centres(source, truth, num_classes=6, normalise=False)
    found = cluster(target, centres, normalise=False)
    assert torch.equal(found.labels, truth)
    expected = sum(loop_distance(a, b) for a, b in zip(found.centres.tolist(), centres.tolist())) / 6
    assert shift(found.centres, centres) == pytest.approx(expected, rel=1e-12)
    assert shift(found.centres, centres) > 0.001


def test_distances_and_changes():
    assert cosine_distances(at(0, 90), at(0, 90, 180)).flatten().tolist() == pytest.approx([0, 0.5, 1, 0.5, 0, 0.5])
    assert cosine_distances(torch.zeros(1, 2), at(0).float()).item() == 0.5
    assert drift(at(0, 0), 5 * at(0, 180)) == pytest.approx(0.5)
    assert drift(at(0, 10), at(0, 10)) == pytest.approx(0, abs=1e-15)
    assert label_change(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 2, 1, 3])) == 0.5
    assert label_change(torch.tensor([1]), torch.tensor([1])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 0.0}, r"tolerance must be above 0; got 0\.0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1; got 0"),
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"target_features": torch.zeros(0, 2)}, r"target_features must be \(images, d\).*got \(0, 2\)"),
        ({"target_features": torch.tensor([[1.0, math.nan]])}, "target_features must be finite; got NaN or infinity"),
        ({"initial_centres": torch.ones(2, 3)}, r"initial_centres must be \(classes, 2\).*got \(2, 3\)"),
        ({"initial_centres": torch.full((2, 2), math.inf)}, "initial_centres must be finite; got NaN or infinity"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"target_features": at(0, 90), "initial_centres": at(0, 90), "normalise": True} | changes
    with pytest.raises(ValueError, match=message) as caught:
        cluster(arguments.pop("target_features"), arguments.pop("initial_centres"), **arguments)
    assert "\n" not in str(caught.value)


def test_bad_comparisons_are_named():
    with pytest.raises(ValueError, match=r"every class from 0 to 2 and no other; got none of \[1\], and besides \[\]"):
        source_centres(at(0, 10), torch.tensor([0, 2]), num_classes=3, normalise=True)
    with pytest.raises(ValueError, match=r"every class from 0 to 1 and no other; got none of \[\], and besides \[2\]"):
        source_centres(at(0, 10, 20), torch.tensor([0, 1, 2]), num_classes=2, normalise=True)
    with pytest.raises(ValueError, match="labels must be one for each of the 2 features; got 3"):
        source_centres(at(0, 10), torch.tensor([0, 1, 1]), num_classes=2, normalise=True)
    with pytest.raises(ValueError, match="features must be finite"):
        source_centres(torch.tensor([[math.nan, 0]]), torch.tensor([0]), num_classes=1, normalise=True)
    with pytest.raises(ValueError, match=r"centres must be of the same classes; got \(1, 2\) and \(2, 2\)"):
        drift(at(0), at(0, 1))
    with pytest.raises(ValueError, match="previous_labels must be of the same images, at least one; got 1 labels"):
        label_change(torch.tensor([0, 1]), torch.tensor([0]))
