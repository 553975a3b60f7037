"""The batches of a loop: sizes, orders without repeats, independence of history, and the lengths on Office-31."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.filtering import Kept, keep
from uda.sampling import LoopPlan

# Images a class of Office-31 (Saenko et al. 2010), classes in alphabetical order, counted in the published folders
OFFICE31 = {
    "amazon": [92, 82, 72, 82, 36, 94, 91, 97, 97, 81, 99, 100, 100, 98, 100, 99, 100, 94, 96, 95, 93, 100, 98, 98, 90,
               75, 100, 99, 99, 96, 64],
    "dslr": [12, 21, 24, 12, 16, 12, 13, 14, 15, 15, 13, 10, 24, 16, 31, 22, 12, 8, 10, 10, 13, 15, 23, 18, 10, 7, 18,
             26, 21, 22, 15],
    "webcam": [29, 21, 28, 12, 16, 31, 40, 18, 21, 19, 27, 27, 30, 19, 30, 43, 30, 27, 28, 32, 16, 20, 30, 27, 40, 11,
               25, 30, 24, 23, 21],
}  # fmt: skip


def labels_of(counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def plan_of(source_counts, target_counts, *, threshold=1.0, minimum=3, seed=0, loop=0, **sizes):
    """A plan over shuffled labels in which a tenth of the target images lie too far for a threshold below 1."""
    generator = torch.Generator().manual_seed(0)
    source, target = labels_of(source_counts), labels_of(target_counts)
    source = source[torch.randperm(len(source), generator=generator)]
    target = target[torch.randperm(len(target), generator=generator)]
    distances = (torch.arange(len(target)) % 10 == 0).double() * 0.99
    kept = keep(target, distances, threshold=threshold, minimum=minimum, num_classes=len(target_counts))
    return LoopPlan(source_labels=source, target_labels=target, kept=kept, seed=seed, loop=loop, **sizes)


@pytest.mark.parametrize(
    ("source", "target", "iterations"),
    [
        ("amazon", "dslr", 94),
        ("amazon", "webcam", 94),
        ("dslr", "amazon", 94),
        ("webcam", "amazon", 94),
        ("dslr", "webcam", 26),
        ("webcam", "dslr", 26),
    ],
)
def test_a_loop_on_office31_has_the_iterations_of_the_official_code(source, target, iterations):
    """With true labels for pseudo-labels; the images add up to the published 2,817, 498 and 795."""
    assert {name: sum(counts) for name, counts in OFFICE31.items()} == {"amazon": 2817, "dslr": 498, "webcam": 795}
    plan = plan_of(OFFICE31[source], OFFICE31[target])
    assert len(plan) == iterations
    batch = plan.batch(iterations - 1)
    assert [len(part) for part in batch] == [30, 10, 30, 30, 30, 30]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=2, max_size=14),
    num_selected=st.integers(1, 10),
    source_images=st.integers(1, 4),
    target_images=st.integers(1, 4),
    minimum=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_every_batch_is_as_described(counts, num_selected, source_images, target_images, minimum, seed):
    source_counts, target_counts = zip(*counts)
    plan = plan_of(
        source_counts, target_counts, threshold=0.5, minimum=minimum, seed=seed, batch_size=2,
        num_selected=num_selected, source_images=source_images, target_images=target_images,
    )  # fmt: skip
    kept = plan.kept.classes
    in_source = Counter(plan.source_labels.tolist())
    in_target = Counter(plan.target_labels[plan.kept.images].tolist())
    if kept:
        passes = sum(
            max(in_source[c] // min(source_images, in_source[c]), in_target[c] // min(target_images, in_target[c]))
            for c in kept
        )
        assert len(plan) == math.ceil(passes / min(num_selected, len(kept)))
    else:
        assert len(plan) == len(plan.source_labels) // 2
    for iteration in range(len(plan)):
        batch = plan.batch(iteration)
        classes = batch.classes.tolist()
        assert len(classes) == len(set(classes)) == min(num_selected, len(kept))
        assert set(classes) <= set(kept)
        assert len(set(batch.source.tolist())) == 2
        for images, labels, truth, available, most in (
            (batch.source_by_class, batch.source_labels, plan.source_labels, in_source, source_images),
            (batch.target_by_class, batch.target_labels, plan.target_labels, in_target, target_images),
        ):
            assert torch.equal(truth[images], labels)
            assert len(set(images.tolist())) == len(images)
            assert labels.tolist() == [c for c in classes for _ in range(min(most, available[c]))]
        assert plan.kept.images[batch.target_by_class].all()


def test_no_source_image_comes_twice_before_all_whole_batches_are_used_up():
    plan = plan_of([20, 15], [40, 40], batch_size=8)
    assert plan.source_batches == 4
    orders = [torch.cat([plan.source(4 * k + j) for j in range(4)]).tolist() for k in range(3)]
    assert all(len(set(order)) == 32 for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert set(orders[0]) != set(orders[1])  # other images are left out


def test_classes_come_once_a_permutation_whose_rest_is_left_out():
    """31 classes, ten at a time: three batches, then a new order."""
    plan = plan_of([3] * 31, [90] * 31)
    rounds = [torch.cat([plan.classes(3 * k + j) for j in range(3)]).tolist() for k in range(4)]
    assert all(len(set(classes)) == 30 for classes in rounds)
    assert len({tuple(classes) for classes in rounds}) == 4
    assert len({(set(range(31)) - set(classes)).pop() for classes in rounds}) > 1


def test_draws_are_uniform():
    """Within five standard deviations: of every image of a class, and of every class, over many iterations."""
    plan = plan_of([12] * 4, [900] * 4, num_selected=2, batch_size=6)
    iterations = len(plan)
    assert iterations == 600
    batches = [plan.batch(k) for k in range(iterations)]
    for images, size in (
        (torch.cat([b.source_by_class for b in batches]), 48),
        (torch.cat([b.source for b in batches]), 48),
    ):
        drawn = torch.bincount(images, minlength=size).double()
        share = len(images) / size
        assert (drawn - share).abs().max() < 5 * math.sqrt(share)
    pairs = Counter(tuple(sorted(b.classes.tolist())) for b in batches)
    assert len(pairs) == 6
    assert all(abs(count - 100) < 5 * math.sqrt(100) for count in pairs.values())


def test_a_batch_depends_on_nothing_before_it():
    whole = plan_of(OFFICE31["dslr"], OFFICE31["webcam"], seed=4, loop=7)
    batches = [whole.batch(k) for k in range(len(whole))]
    torch.manual_seed(0)
    resumed = plan_of(OFFICE31["dslr"], OFFICE31["webcam"], seed=4, loop=7)
    for iteration in (25, 3, 11):
        assert all(torch.equal(a, b) for a, b in zip(resumed.batch(iteration), batches[iteration]))


def test_seeds_and_loops_and_iterations_and_domains_differ():
    sizes = ([50] * 12, [50] * 12)
    batches = [
        plan_of(*sizes, seed=seed, loop=loop).batch(k)
        for seed, loop, k in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    for part in range(6):
        assert len({tuple(batch[part].tolist()) for batch in batches}) == 4
    same_places = LoopPlan(
        source_labels=labels_of([50] * 12), target_labels=labels_of([50] * 12), seed=0, loop=0,
        kept=Kept(torch.ones(600, dtype=torch.bool), list(range(12))),
    ).batch(0)  # fmt: skip
    assert not torch.equal(same_places.source_by_class, same_places.target_by_class)


def test_a_loop_without_a_kept_class_is_one_pass_of_cross_entropy():
    plan = plan_of([40, 30], [2, 2])
    assert plan.kept.classes == []
    assert len(plan) == 70 // 30
    batch = plan.batch(1)
    assert [len(part) for part in batch] == [30, 0, 0, 0, 0, 0]
    assert {part.dtype for part in batch} == {torch.int64}
    assert not set(batch.source.tolist()) & set(plan.batch(0).source.tolist())


def test_fewer_classes_and_images_than_asked_for():
    plan = plan_of([40, 2, 40], [5, 3, 0])
    assert plan.kept.classes == [0, 1]
    assert len(plan) == math.ceil((40 // 3 + 3 // 3) / 2)
    batch = plan.batch(0)
    assert sorted(batch.classes.tolist()) == [0, 1]
    assert sorted(batch.source_labels.tolist()) == [0, 0, 0, 1, 1]
    assert sorted(batch.target_labels.tolist()) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 31}, "batch_size must be at most the 30 source images, .*; got 31"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"num_selected": 0}, "num_selected must be at least 1; got 0"),
        ({"source_images": 0}, "source_images must be at least 1; got 0"),
        ({"target_images": 0}, "target_images must be at least 1; got 0"),
        ({"loop": -1}, "loop must be at least 0; got -1"),
        ({"kept": Kept(torch.ones(5, dtype=torch.bool), [0])}, "one for each of the 20 target labels; got 5"),
        ({"kept": Kept(torch.ones(20, dtype=torch.bool), [0, 2])}, r"source_labels must hold .* got none of \[2\]"),
        ({"kept": Kept(torch.zeros(20, dtype=torch.bool), [1])}, r"kept\.images must hold .* got none of \[1\]"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {
        "source_labels": labels_of([15, 15]), "target_labels": labels_of([10, 10]), "seed": 0, "loop": 0,
        "kept": Kept(torch.ones(20, dtype=torch.bool), [0, 1]),
    } | changes  # fmt: skip
    with pytest.raises(ValueError, match=message) as caught:
        LoopPlan(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("iteration", [-1, 94])
def test_an_iteration_outside_the_loop_is_named(iteration):
    plan = plan_of(OFFICE31["amazon"], OFFICE31["dslr"])
    with pytest.raises(ValueError, match=rf"iteration must be in \[0, 94\).*; got {iteration}"):
        plan.batch(iteration)
