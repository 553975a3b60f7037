"""Random resized crops against torchvision's resizing and its published law."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from shared.data.augment import flip_mask
from shared.data.crops import random_resized_crop_flip, resized_crop_boxes
from shared.data.random import hash_uniform


def reference_box(index: int, height: int, width: int, seed: int, epoch: int, scale) -> list[int]:
    """What RandomResizedCrop.get_params of torchvision does, with the keyed numbers in place of its generator."""

    def draw(counter: int, name: str) -> float:
        return float(hash_uniform(torch.tensor([counter]), seed=seed, epoch=epoch, stream=f"resized_crop_{name}"))

    for number in range(index * 10, index * 10 + 10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draw(number, "area"))
        low, high = math.log(3 / 4), math.log(4 / 3)
        ratio = math.exp(low + (high - low) * draw(number, "ratio"))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = math.floor(draw(index, "top") * (height - box_height + 1))
            left = math.floor(draw(index, "left") * (width - box_width + 1))
            return [top, left, box_height, box_width]
    if width / height < 3 / 4:
        box_height, box_width = round(width / (3 / 4)), width
    elif width / height > 4 / 3:
        box_height, box_width = height, round(height * (4 / 3))
    else:
        box_height, box_width = height, width
    return [(height - box_height) // 2, (width - box_width) // 2, box_height, box_width]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(4, 300),
    st.integers(4, 300),
    st.integers(0, 9),
    st.sampled_from([(0.08, 1.0), (0.9, 1.0), (0.2, 0.3)]),
)
def test_boxes_equal_the_loop(height, width, seed, scale):
    indices = torch.arange(3) + 17
    boxes = resized_crop_boxes(indices, height=height, width=width, seed=seed, epoch=2, scale=scale)
    expected = [reference_box(index, height, width, seed, 2, scale) for index in indices.tolist()]
    assert boxes.tolist() == expected
    assert bool(((boxes[:, 0] >= 0) & (boxes[:, 0] + boxes[:, 2] <= height)).all())
    assert bool(((boxes[:, 1] >= 0) & (boxes[:, 1] + boxes[:, 3] <= width)).all())


def test_boxes_follow_the_law_of_torchvision():
    boxes = resized_crop_boxes(torch.arange(3000), height=90, width=120, seed=0, epoch=0).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.zeros(3, 90, 120)
        drawn = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    theirs = torch.tensor(drawn).double()
    for law in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0] / (91 - box[:, 2]),
        lambda box: box[:, 1] / (121 - box[:, 3]),
    ):
        ours_sorted, theirs_sorted = law(boxes).sort().values, law(theirs).sort().values
        places = torch.cat([ours_sorted, theirs_sorted])
        shares = [torch.searchsorted(values, places, right=True) / 3000 for values in (ours_sorted, theirs_sorted)]
        # Kolmogorov and Smirnov: a distance beyond 1.95 sqrt(2 / n) has probability 0.001
        assert float((shares[0] - shares[1]).abs().max()) < 1.95 * (2 / 3000) ** 0.5


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 24), st.integers(5, 24), st.integers(0, 50))
def test_pixels_equal_torchvision(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, height, width), generator=generator, dtype=torch.uint8)
    indices = torch.arange(3)
    out = random_resized_crop_flip(images, indices=indices, seed=seed, epoch=1)
    boxes = resized_crop_boxes(indices, height=height, width=width, seed=seed, epoch=1).tolist()
    flipped = flip_mask(indices, seed=seed, epoch=1)
    for n in range(3):
        expected = resized_crop(images[n].double(), *boxes[n], size=[height, width], antialias=True)
        expected = expected.flip(-1) if flipped[n] else expected
        assert float((out[n].double() - expected).abs().max()) <= 0.5 + 1e-3
    whole = F.interpolate(images.double(), (height, width), mode="bilinear")
    assert torch.equal(whole, images.double())


def test_result_depends_on_keys_alone():
    images = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8)
    indices = torch.arange(9) * 3
    whole = random_resized_crop_flip(images, indices=indices, seed=1, epoch=0)
    parts = [
        random_resized_crop_flip(images[p], indices=indices[p], seed=1, epoch=0) for p in torch.arange(9).split(4)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not np.array_equal(random_resized_crop_flip(images, indices=indices, seed=1, epoch=1), whole)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_message(scale):
    with pytest.raises(ValueError, match=r"^scale must be two increasing shares in \(0, 1\]; got"):
        resized_crop_boxes(torch.arange(2), height=8, width=8, seed=0, epoch=0, scale=scale)
