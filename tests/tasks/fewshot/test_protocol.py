"""The schedule at its edges, the two readings of an epoch, and the interval."""

import numpy as np
import pytest
import torch

from fewshot import protocol
from fewshot.loaders import BaseLoader, draw_by_class
from shared.data.sets import ImageSet


def test_learning_rates_change_where_the_code_changes_them():
    expected = {0: 0.1, 19: 0.1, 20: 0.006, 39: 0.006, 40: 0.0012, 49: 0.0012, 50: 0.00024, 59: 0.00024}
    assert {epoch: protocol.learning_rate(epoch) for epoch in expected} == expected


@pytest.mark.parametrize(
    ("rates", "milestones"), [((0.1,), (2,)), ((0.1, 0.0), (2,)), ((0.1, 0.01, 0.001), (5, 2)), ((), ())]
)
def test_a_schedule_that_is_none_is_refused(rates, milestones):
    with pytest.raises(ValueError, match="must"):
        protocol.check_schedule(rates, milestones)


def test_the_interval_is_that_of_numpy():
    hits = torch.tensor([30, 45, 60, 75, 20, 41])
    metric = protocol.episode_metric(hits, 75)
    values = hits.numpy() / 75 * 100
    assert metric.value == pytest.approx(values.mean(), abs=1e-12)
    half = 1.96 * values.std(ddof=1) / np.sqrt(6)
    assert metric.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-12)
    assert metric.n == 6


def test_padding_keeps_its_share_of_the_image():
    assert [protocol.crop_padding(size) for size in (84, 42, 32, 224)] == [8, 4, 3, 21]


def base_images(num_classes=64, each=10) -> ImageSet:
    numbers = torch.arange(num_classes * each)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    return ImageSet(images, numbers // each, tuple(f"c{n}" for n in range(num_classes)), "base")


def loader(images, **settings):
    defaults = {"members": torch.arange(len(images)), "batch_size": 32, "iterations": None, "seed": 0}
    return BaseLoader(images, **defaults | settings)


def test_both_readings_of_an_epoch():
    """38,400 images in batches of 256: 150 iterations a pass; 60 epochs are 9,000 or 60,000 iterations."""
    images = base_images(64, 600)
    assert len(loader(images, batch_size=256)) == 150
    assert len(loader(images, batch_size=256, iterations=1000)) == protocol.CODE_ITERATIONS
    assert len(loader(images, batch_size=128, world_size=2)) == 150
    assert len(loader(images, batch_size=128, world_size=2, iterations=1000)) == 1000


def test_a_pass_has_every_member_once():
    images = base_images()
    members = torch.arange(0, 640, 2)
    batches = list(loader(images, members=members))
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == members.tolist()
    for batch in batches:
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.indices % 256)
        assert torch.equal(batch.labels, batch.indices // 10)


def test_drawing_by_class_is_the_code_s():
    labels = torch.cat([torch.zeros(10, dtype=torch.long), torch.arange(640) // 10])  # 20 of class 0, 10 of each other
    drawn = draw_by_class(labels, num_draws=32 * 2000, seed=0, epoch=0)
    counts = torch.bincount(labels[drawn], minlength=64).double()
    statistic = float(((counts - 1000) ** 2 / 1000).sum())
    assert statistic < 63 + 5 * (2 * 63) ** 0.5, "classes are equally likely, whatever their sizes"
    of_class = torch.bincount(drawn[labels[drawn] == 0], minlength=650)[labels == 0].double()
    assert float(((of_class - of_class.mean()) ** 2 / of_class.mean()).sum()) < 19 + 5 * (38**0.5)
    assert torch.equal(drawn, draw_by_class(labels, num_draws=32 * 2000, seed=0, epoch=0))
    assert not torch.equal(drawn, draw_by_class(labels, num_draws=32 * 2000, seed=0, epoch=1))


def test_an_image_comes_once_in_a_block():
    labels = torch.arange(4 * 40) // 40
    drawn = draw_by_class(labels, num_draws=32 * 300, seed=1, epoch=0)
    assert all(len(set(block.tolist())) == 32 for block in drawn.view(300, 32))
    repeats = sum(len(set(block.tolist())) < 64 for block in drawn.view(150, 64))
    assert repeats > 100, "and may come again in the next one"


def test_an_image_that_comes_again_has_another_key():
    images = base_images(4, 40)
    batches = list(loader(images, iterations=20, batch_size=32))
    keys = torch.cat([batch.indices for batch in batches])
    assert keys.tolist() == list(range(640)), "the key of the augmentation is the position in the epoch"
    assert all(torch.equal(batch.labels, batch.images[:, 0, 0, 0].long() // 40) for batch in batches)


@pytest.mark.parametrize("iterations", [None, 7])
def test_ranks_share_a_batch_and_a_loader_resumes(iterations):
    images = base_images(8, 30)
    whole = list(loader(images, batch_size=32, iterations=iterations))
    ranks = [list(loader(images, batch_size=16, world_size=2, rank=r, iterations=iterations)) for r in (0, 1)]
    for batch, *parts in zip(whole, *ranks):
        assert torch.equal(batch.indices, torch.cat([part.indices for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))
    stopped = loader(images, batch_size=32, iterations=iterations)
    iterator = iter(stopped)
    for _ in range(3):
        next(iterator)
    again = loader(images, batch_size=32, iterations=iterations)
    again.load_state_dict(stopped.state_dict())
    assert [b.indices.tolist() for b in again] == [b.indices.tolist() for b in whole[3:]]
