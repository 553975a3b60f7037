"""The small data sets that several tasks train on: CIFAR-10, and embedded images in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shared.data.cifar10 import MEAN as CIFAR10_MEAN
from shared.data.cifar10 import STD as CIFAR10_STD
from shared.data.cifar10 import load_cifar10
from shared.data.embedded import embedded_images
from shared.data.sets import ImageSet
from shared.errors import UserError

EMBEDDED_MEAN, EMBEDDED_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
EMBEDDED_SIZES = {"train": 4000, "test": 2000}
SUBSET_SEED = 0
"""Subsets are drawn with this seed whatever the run's, so that all seeds and norms see the same images."""


@dataclass(frozen=True, kw_only=True)
class SmallSet:
    """Training and test images of a small data set, or class-balanced subsets of them.

    Args:
        train: Training images.
        test: Test images.
        full_sizes: Size of the whole set by split; empty for embedded images, of which there is no whole.
    """

    train: ImageSet
    test: ImageSet
    full_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def subsets(self) -> list[str]:
        """Which splits are subsets, in words."""
        sizes = {"train": len(self.train), "test": len(self.test)}
        return [f"{sizes[s]:,} of {n:,} {s} images" for s, n in self.full_sizes.items() if sizes[s] != n]


def channel_statistics(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, on the scale [0, 1].

    Args:
        dataset: "embedded" or "cifar10".
    """
    return (EMBEDDED_MEAN, EMBEDDED_STD) if dataset == "embedded" else (CIFAR10_MEAN, CIFAR10_STD)


def open_embedded(
    *, num_classes: int = 10, image_size: int = 32, train_images: int | None = None, test_images: int | None = None
) -> SmallSet:
    """Draw training and test images.

    Args:
        num_classes: Number of classes.
        image_size: Side in pixels.
        train_images: Number of training images; None: 4,000.
        test_images: Number of test images; None: 2,000.

    Raises:
        UserError: If a number is not a multiple of the classes.
    """
    sizes = {
        "train": EMBEDDED_SIZES["train"] if train_images is None else train_images,
        "test": EMBEDDED_SIZES["test"] if test_images is None else test_images,
    }
    for split, size in sizes.items():
        if size < 1 or size % num_classes:
            raise UserError(f"{split}_images must be a multiple of num_classes = {num_classes}; got {size}.")
    train, test = (
        embedded_images(
            num_classes=num_classes, images_per_class=size // num_classes, image_size=image_size, seed=SUBSET_SEED,
            split=split,
        )
        for split, size in sizes.items()
    )  # fmt: skip
    return SmallSet(train=train, test=test)


def open_cifar10(
    data_dir: Path, *, download: bool = False, train_images: int | None = None, test_images: int | None = None
) -> SmallSet:
    """Read CIFAR-10, or class-balanced subsets of it.

    Args:
        data_dir: Folder with the images.
        download: Whether torchvision may download them.
        train_images: Size of the training subset; None: all 50,000.
        test_images: Size of the test subset; None: all 10,000.

    Raises:
        ValueError: If the images are not there or not the published ones, or a subset is larger than the set.
    """
    return take_subsets(*load_cifar10(data_dir, download=download), train_images=train_images, test_images=test_images)


def take_subsets(
    train: ImageSet, test: ImageSet, *, train_images: int | None = None, test_images: int | None = None
) -> SmallSet:
    """Return class-balanced subsets.

    Args:
        train: All training images.
        test: All test images.
        train_images: Size of the training subset; None: all.
        test_images: Size of the test subset; None: all.

    Raises:
        ValueError: If a subset is empty or larger than the set.
    """
    return SmallSet(
        train=train if train_images is None else train.subset(train_images, seed=SUBSET_SEED),
        test=test if test_images is None else test.subset(test_images, seed=SUBSET_SEED),
        full_sizes={"train": len(train), "test": len(test)},
    )
