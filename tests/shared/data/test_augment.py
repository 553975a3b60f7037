"""Augmentation against loops over images and pixels in float64, and its independence of the batch."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.augment import centre_crop, cutout, normalise, random_crop_flip, random_flip
from shared.data.random import hash_uniform


def random_images(num_images: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (num_images, 3, height, width), generator=generator, dtype=torch.uint8)


def draw(index: int, seed: int, epoch: int, stream: str) -> float:
    return float(hash_uniform(torch.tensor([index]), seed=seed, epoch=epoch, stream=stream))


SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 4), st.integers(0, 50), st.integers(0, 3), st.integers(1, 5))
def test_crop_and_flip_equal_loops(size, padding, seed, epoch, num_images):
    height, width = size
    images = random_images(num_images, height, width)
    indices = torch.arange(num_images) * 7 + 3
    out = random_crop_flip(images, indices=indices, seed=seed, epoch=epoch, padding=padding)
    for n, index in enumerate(indices.tolist()):
        offset_y = int(draw(index, seed, epoch, "crop_y") * (2 * padding + 1))
        offset_x = int(draw(index, seed, epoch, "crop_x") * (2 * padding + 1))
        flipped = draw(index, seed, epoch, "flip") < 0.5
        for y in range(height):
            for x in range(width):
                from_y = y + offset_y - padding
                from_x = (width - 1 - x if flipped else x) + offset_x - padding
                inside = 0 <= from_y < height and 0 <= from_x < width
                expected = images[n, :, from_y, from_x].tolist() if inside else [0, 0, 0]
                assert out[n, :, y, x].tolist() == expected


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(1, 9), st.integers(0, 50))
def test_cutout_equals_loops(size, length, seed):
    height, width = size
    images = random_images(4, height, width).double() + 1
    indices = torch.arange(4) + 11
    out = cutout(images, length=length, indices=indices, seed=seed, epoch=1)
    for n, index in enumerate(indices.tolist()):
        centre_y = int(draw(index, seed, 1, "cutout_y") * height)
        centre_x = int(draw(index, seed, 1, "cutout_x") * width)
        expected = images[n].clone()
        top, bottom = max(centre_y - length // 2, 0), min(centre_y + length // 2, height)
        left, right = max(centre_x - length // 2, 0), min(centre_x + length // 2, width)
        expected[:, top:bottom, left:right] = 0
        assert torch.equal(out[n], expected)


@pytest.mark.parametrize("augment", [random_flip, random_crop_flip])
def test_result_depends_on_keys_alone(augment):
    images, indices = random_images(12, 8, 8), torch.arange(12) + 100
    whole = augment(images, indices=indices, seed=5, epoch=2)
    assert whole.dtype == torch.uint8
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment(images[order], indices=indices[order], seed=5, epoch=2), whole[order])
    parts = [augment(images[part], indices=indices[part], seed=5, epoch=2) for part in torch.arange(12).split(5)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(augment(images, indices=indices, seed=5, epoch=3), whole)
    assert not torch.equal(augment(images, indices=indices, seed=6, epoch=2), whole)


def test_crops_and_flips_are_uniform():
    # an image of its own coordinates tells where each crop came from
    num_images, padding, size = 20_000, 2, 4
    coordinates = torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, 1, size, size)
    images = coordinates.expand(num_images, 3, size, size).contiguous()
    out = random_crop_flip(images, indices=torch.arange(num_images), seed=0, epoch=0, padding=padding)
    kinds, counts = torch.unique(out.flatten(1), dim=0, return_counts=True)
    expected = num_images / (2 * 25)
    assert len(kinds) == 50
    assert float((counts - expected).abs().max()) < 5 * expected**0.5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.05, 0.95), min_size=6, max_size=6))
def test_normalise_equals_float64(values):
    mean, std = tuple(values[:3]), tuple(values[3:])
    images = random_images(3, 5, 4)
    out = normalise(images, mean=mean, std=std)
    expected = (images.numpy().astype(np.float64) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), expected, rtol=2e-6, atol=2e-6 / min(std))


def test_normalise_keeps_layout_and_gives_dtype():
    images = random_images(2, 4, 4).to(memory_format=torch.channels_last)
    out = normalise(images, mean=(0.5,) * 3, std=(0.25,) * 3, dtype=torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_global_generator_is_untouched():
    before = torch.get_rng_state()
    images, indices = random_images(2, 4, 4), torch.arange(2)
    random_crop_flip(images, indices=indices, seed=0, epoch=0)
    cutout(images, length=2, indices=indices, seed=0, epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_messages():
    images, indices = random_images(2, 4, 4), torch.arange(2)
    with pytest.raises(ValueError, match=r"^padding must be at least 0 pixels; got -1.$"):
        random_crop_flip(images, indices=indices, seed=0, epoch=0, padding=-1)
    with pytest.raises(ValueError, match=r"^length must be at least 1 pixel; got 0.$"):
        cutout(images, length=0, indices=indices, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"^mean and std must have one value per channel \(3\); got"):
        normalise(images, mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match=r"^std must be above 0; got \(0.5, 0.0, 0.5\).$"):
        normalise(images, mean=(0.5, 0.5, 0.5), std=(0.5, 0.0, 0.5))
    with pytest.raises(TypeError, match=r"^images must be a uint8 tensor; got torch.float32.$"):
        inspect.unwrap(normalise)(images.float(), mean=(0.5,) * 3, std=(0.5,) * 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 7), st.integers(0, 2), st.integers(1, 3), st.integers(0, 50))
def test_a_smaller_window_equals_loops(side, padding, size, seed):
    images = random_images(4, side, side)
    indices = torch.arange(4) * 5 + 1
    out = random_crop_flip(images, indices=indices, seed=seed, epoch=2, padding=padding, size=size)
    assert out.shape == (4, 3, size, size)
    places = side + 2 * padding - size + 1
    for n, index in enumerate(indices.tolist()):
        padded = np.pad(images[n].numpy(), ((0, 0), (padding, padding), (padding, padding)))
        top, left = (int(draw(index, seed, 2, f"crop_{axis}") * places) for axis in "yx")
        window = padded[:, top : top + size, left : left + size]
        if draw(index, seed, 2, "flip") < 0.5:
            window = window[:, :, ::-1]
        assert np.array_equal(out[n].numpy(), window)


def test_the_central_square():
    images = random_images(2, 7, 10)
    assert torch.equal(centre_crop(images, 4), images[:, :, 1:5, 3:7])
    assert torch.equal(centre_crop(images, 7), images[:, :, :, 1:8])


@pytest.mark.parametrize("size", [0, 8])
def test_a_window_must_fit(size):
    images = random_images(2, 7, 10)
    with pytest.raises(ValueError, match="size must be from 1 to"):
        centre_crop(images, size)
    with pytest.raises(ValueError, match="size must be from 1 to"):
        random_crop_flip(images, indices=torch.arange(2), seed=0, epoch=0, padding=0, size=size)
