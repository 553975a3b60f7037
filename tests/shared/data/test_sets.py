"""Image sets: facts, balanced subsets, proportional splits, messages."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.sets import ImageSet


def tagged_set(class_sizes: list[int]) -> ImageSet:
    """A set whose images name themselves; the classes are mixed."""
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.arange(len(labels))[:, None, None, None].expand(-1, 3, 2, 2).to(torch.uint8)
    return ImageSet(images.contiguous(), labels, tuple(f"c{k}" for k in range(len(class_sizes))), "tagged")


def test_describe_is_json_and_checksum_is_sha256(make_image_set):
    image_set = make_image_set(7)
    digest = hashlib.sha256(b"(7, 3, 8, 8)")
    digest.update(image_set.images.numpy().tobytes())
    digest.update(np.array(image_set.labels.tolist(), dtype="<i8").tobytes())
    facts = image_set.describe()
    assert facts == {
        "name": "random",
        "num_images": 7,
        "num_classes": 3,
        "resolution": [8, 8],
        "checksum": digest.hexdigest(),
    }
    assert json.loads(json.dumps(facts)) == facts


def test_checksum_sees_pixels_labels_and_layout(make_image_set):
    image_set = make_image_set(6)
    other_pixel = image_set.images.clone()
    other_pixel[3, 1, 2, 2] ^= 1
    variants = [
        image_set,
        ImageSet(other_pixel, image_set.labels, image_set.classes, "a"),
        ImageSet(image_set.images, image_set.labels.roll(1), image_set.classes, "b"),
        ImageSet(image_set.images.view(6, 3, 4, 16), image_set.labels, image_set.classes, "c"),
    ]
    assert len({variant.checksum() for variant in variants}) == 4
    same = ImageSet(image_set.images.to(memory_format=torch.channels_last), image_set.labels, image_set.classes, "d")
    assert same.checksum() == image_set.checksum()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 0), st.data())
def test_subset_is_balanced_nested_and_in_order(class_sizes, data):
    image_set = tagged_set(class_sizes)
    num_images = data.draw(st.integers(1, len(image_set)))
    seed = data.draw(st.integers(0, 5))
    subset = image_set.subset(num_images, seed=seed)
    tags = subset.images[:, 0, 0, 0].tolist()
    assert len(subset) == num_images
    assert tags == sorted(set(tags))
    assert subset.labels.tolist() == image_set.labels[torch.tensor(tags)].tolist()
    counts = torch.bincount(subset.labels, minlength=len(class_sizes)).tolist()
    most = max(counts)
    # a class may fall short of the largest by more than one only if it has no image left
    assert all(count >= most - 1 or count == size for count, size in zip(counts, class_sizes))
    smaller = image_set.subset(max(1, num_images - 1), seed=seed)
    assert set(smaller.images[:, 0, 0, 0].tolist()) <= set(tags)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1), st.data())
def test_split_is_disjoint_complete_and_proportional(class_sizes, data):
    image_set = tagged_set(class_sizes)
    size = data.draw(st.integers(1, len(image_set) - 1))
    first, rest = image_set.split(size, seed=data.draw(st.integers(0, 5)))
    tags = [part.images[:, 0, 0, 0].tolist() for part in (first, rest)]
    assert len(first) == size
    assert sorted(tags[0] + tags[1]) == list(range(len(image_set)))
    counts = torch.bincount(first.labels, minlength=len(class_sizes)).tolist()
    assert all(abs(count - size * have / len(image_set)) <= 1.5 for count, have in zip(counts, class_sizes))


def test_split_by_share_and_seeds_differ(make_image_set):
    image_set = make_image_set(30)
    assert [len(part) for part in image_set.split(0.3, seed=0)] == [9, 21]
    tags = [image_set.subset(9, seed=seed).checksum() for seed in (0, 0, 1)]
    assert tags[0] == tags[1] != tags[2]
    assert image_set.subset(9, seed=1).name == "random[9, seed 1]"


def test_channel_statistics_equal_float64(make_image_set):
    image_set = make_image_set(9)
    mean, std = image_set.channel_statistics()
    pixels = image_set.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, TypeError, "images must be a uint8 tensor; got torch.float32."),
        ({"labels": torch.zeros(2, dtype=torch.int32)}, TypeError, "labels must be an int64 tensor; got torch.int32."),
        (
            {"images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)},
            ValueError,
            "images must be of shape (N, 3, H, W); got (2, 4, 4, 3).",
        ),
        ({"labels": torch.tensor([0])}, ValueError, "labels must be of shape (2,), one per image; got (1,)."),
        (
            {"labels": torch.tensor([0, 2])},
            ValueError,
            "labels must be in [0, 2), the number of classes; got 0 to 2.",
        ),
        (
            {"labels": torch.tensor([-1, 1])},
            ValueError,
            "labels must be in [0, 2), the number of classes; got -1 to 1.",
        ),
        (
            {"classes": ("cat", "cat")},
            ValueError,
            "classes must be different from each other; got cat more than once.",
        ),
    ],
)
def test_construction_messages(change, error, message):
    fields = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "classes": ("cat", "dog"),
        "name": "x",
    }
    with pytest.raises(error) as caught:
        ImageSet(**{**fields, **change})
    assert str(caught.value) == message


def test_size_messages(make_image_set):
    image_set = make_image_set(5)
    with pytest.raises(ValueError, match=r"^num_images must be in \[1, 5\], the size of random; got 6.$"):
        image_set.subset(6, seed=0)
    for size in (0, 5, 0.05, 1.0):
        with pytest.raises(ValueError, match=r"^size must leave both parts at least one of the 5 images of random"):
            image_set.split(size, seed=0)
