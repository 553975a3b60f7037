"""The in-memory loader: content, order, position, messages."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.loaders import ArrayLoader


def indices_of(batches) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_batches_hold_the_images_of_their_indices(make_image_set):
    image_set = make_image_set(11)
    loader = ArrayLoader(image_set, batch_size=4, shuffle=True, seed=3)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for batch in batches:
        assert torch.equal(batch.images, image_set.images[batch.indices])
        assert torch.equal(batch.labels, image_set.labels[batch.indices])
        assert batch.valid.all()
    assert sorted(itertools.chain(*indices_of(batches))) == list(range(11))


def test_every_epoch_has_its_own_order_and_repeats(make_image_set):
    loader = ArrayLoader(make_image_set(20), batch_size=4, shuffle=True, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(indices_of(loader))
    assert orders[0] == orders[2] != orders[1]
    assert indices_of(loader) == orders[0]  # again, without set_epoch: from the start
    next(iter(loader))
    assert indices_of(loader) == orders[0]  # a broken-off iteration leaves no trace


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_resumes_at_the_next_batch(epoch, consumed, shuffle):
    from shared.data.sets import ImageSet

    image_set = ImageSet(torch.zeros(18, 3, 2, 2, dtype=torch.uint8), torch.zeros(18, dtype=torch.int64), ("a",), "x")
    make = {"batch_size": 4, "shuffle": shuffle, "seed": 1}
    first = ArrayLoader(image_set, **make)
    first.set_epoch(epoch)
    expected = indices_of(first)
    iterator = iter(first)
    for _ in range(consumed):
        next(iterator)
    state = first.state_dict()
    assert (state["epoch"], state["next_batch"]) == (epoch, consumed) or consumed == 0
    resumed = ArrayLoader(image_set, **make)
    iter(resumed)  # asking for an iterator draws nothing
    if consumed:
        resumed.load_state_dict(state)
    resumed.set_epoch(epoch)
    assert indices_of(resumed) == expected[consumed:]
    assert indices_of(resumed) == expected
    resumed.set_epoch(epoch + 1)
    assert resumed.state_dict()["next_batch"] == 0


def test_resumes_with_another_number_of_ranks(make_image_set):
    image_set = make_image_set(32)
    one = ArrayLoader(image_set, batch_size=8, shuffle=True, seed=0)
    iterator = iter(one)
    next(iterator)
    state = one.state_dict()
    rest = indices_of(iterator)
    parts = []
    for rank in range(2):
        loader = ArrayLoader(image_set, batch_size=4, shuffle=True, seed=0, rank=rank, world_size=2)
        loader.load_state_dict(state)
        parts.append(indices_of(loader))
    assert [first + second for first, second in zip(*parts, strict=True)] == rest


def test_finished_epoch_yields_nothing_until_the_next(make_image_set):
    loader = ArrayLoader(make_image_set(8), batch_size=4, shuffle=True, seed=0)
    loader.seek(epoch=2, batch=2)
    loader.set_epoch(2)
    assert list(loader) == []
    loader.set_epoch(3)
    assert len(list(loader)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 2}, "global_batch_size must be the same as in the checkpoint, 4, to resume; got 2."),
        ({"seed": 9}, "seed must be the same as in the checkpoint, 0, to resume; got 9."),
        ({"shuffle": False}, "shuffle must be the same as in the checkpoint, True, to resume; got False."),
    ],
)
def test_refuses_the_position_of_another_order(make_image_set, change, message):
    make = {"batch_size": 4, "shuffle": True, "seed": 0}
    state = ArrayLoader(make_image_set(8), **make).state_dict()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        ArrayLoader(make_image_set(8), **{**make, **change}).load_state_dict(state)
    assert str(caught.value) == message


def test_position_messages(make_image_set):
    loader = ArrayLoader(make_image_set(8), batch_size=4, shuffle=True, seed=0)
    with pytest.raises(ValueError, match=r"^epoch must be at least 0; got -1.$"):
        loader.set_epoch(-1)
    with pytest.raises(ValueError, match=r"^batch must be in \[0, 2\], the number of batches per epoch; got 3.$"):
        loader.seek(epoch=0, batch=3)


def test_state_survives_a_restricted_load(make_image_set, tmp_path):
    state = ArrayLoader(make_image_set(8), batch_size=4, shuffle=True, seed=0).state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_holds_the_images_on_the_device(make_image_set):
    loader = ArrayLoader(make_image_set(8), batch_size=4, shuffle=True, seed=0, device="meta")
    assert {part.device.type for part in next(iter(loader))} == {"meta"}
