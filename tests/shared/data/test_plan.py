"""How one order is dealt to ranks."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.plan import BatchPlan

PLANS = {
    "num_images": st.integers(1, 60),
    "batch_size": st.integers(1, 5),
    "world_size": st.integers(1, 4),
    "shuffle": st.booleans(),
    "seed": st.integers(0, 99),
    "epoch": st.integers(0, 5),
}


def batches(plan: BatchPlan, epoch: int) -> list[tuple[list[int], list[bool]]]:
    order = plan.order(epoch)
    dealt = [plan.deal(order, batch=number) for number in range(len(plan))]
    return [(indices.tolist(), valid.tolist()) for indices, valid in dealt]


@settings(max_examples=60, deadline=None)
@given(**PLANS)
def test_ranks_share_the_batches_of_one_device(num_images, batch_size, world_size, shuffle, seed, epoch):
    common = {"num_images": num_images, "shuffle": shuffle, "seed": seed}
    one = batches(BatchPlan(batch_size=batch_size * world_size, **common), epoch)
    ranks = [
        batches(BatchPlan(batch_size=batch_size, rank=rank, world_size=world_size, **common), epoch)
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(one)}
    for number, (whole, whole_valid) in enumerate(one):
        assert all(whole_valid)
        dealt = [[index for index, counts in zip(*rank[number], strict=True) if counts] for rank in ranks]
        assert list(itertools.chain(*dealt)) == whole
        assert all(1 <= len(rank[number][0]) <= batch_size for rank in ranks)
    assert sorted(itertools.chain(*(whole for whole, _ in one))) == list(range(num_images))


@settings(max_examples=40, deadline=None)
@given(**PLANS)
def test_drop_last_gives_whole_batches_only(num_images, batch_size, world_size, shuffle, seed, epoch):
    common = {"num_images": num_images, "shuffle": shuffle, "seed": seed, "world_size": world_size, "drop_last": True}
    if num_images < batch_size * world_size:
        with pytest.raises(ValueError, match=r"^batch_size must be at most \d+ where drop_last is on"):
            BatchPlan(batch_size=batch_size, **common)
        return
    seen = []
    for rank in range(world_size):
        plan = BatchPlan(batch_size=batch_size, rank=rank, **common)
        assert len(plan) == num_images // (batch_size * world_size)
        for indices, valid in batches(plan, epoch):
            assert len(indices) == batch_size
            assert all(valid)
            seen += indices
    assert len(seen) == len(set(seen))


def test_order_of_evaluation_is_that_of_the_set():
    plan = BatchPlan(num_images=5, batch_size=2, shuffle=False, seed=0)
    assert torch.equal(plan.order(3), torch.arange(5))
    assert batches(plan, 3) == [([0, 1], [True, True]), ([2, 3], [True, True]), ([4], [True])]


def test_rank_without_an_image_gets_one_placeholder():
    plan = BatchPlan(num_images=5, batch_size=2, shuffle=False, seed=0, rank=1, world_size=2)
    assert batches(plan, 0) == [([2, 3], [True, True]), ([0], [False])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1; got 0."),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0."),
        ({"world_size": 0}, "world_size must be at least 1; got 0."),
        ({"rank": 2, "world_size": 2}, "rank must be in [0, 2), the world size; got 2."),
        (
            {"batch_size": 4, "world_size": 3, "drop_last": True},
            "batch_size must be at most 3 where drop_last is on: 10 images on 3 rank(s); got 4.",
        ),
    ],
)
def test_messages(change, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        BatchPlan(**{"num_images": 10, "batch_size": 2, "shuffle": True, "seed": 0, **change})
    assert str(caught.value) == message
