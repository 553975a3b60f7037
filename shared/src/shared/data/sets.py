"""A labelled set of images held in memory, with the facts that a run's record states about it."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from shared.data.random import epoch_permutation


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled set of RGB images in memory.

    Args:
        images: uint8 pixels, shape (N, 3, H, W).
        labels: int64 class numbers, shape (N,), each in ``[0, len(classes))``.
        classes: Class names; the label is the position in this tuple.
        name: Name that the run's record states, for instance ``"cifar10/train"``.

    Raises:
        TypeError: Wrong dtype of images or labels.
        ValueError: Wrong shape, a label outside the classes, or class names that repeat.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise TypeError(f"images must be a uint8 tensor; got {self.images.dtype}.")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be an int64 tensor; got {self.labels.dtype}.")
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be of shape (N, 3, H, W); got {tuple(self.images.shape)}.")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be of shape ({len(self.images)},), one per image; got {tuple(self.labels.shape)}."
            )
        if len(set(self.classes)) != len(self.classes):
            repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise ValueError(f"classes must be different from each other; got {', '.join(repeated)} more than once.")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"labels must be in [0, {len(self.classes)}), the number of classes; "
                f"got {int(self.labels.min())} to {int(self.labels.max())}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, counting those without an image."""
        return len(self.classes)

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    def checksum(self) -> str:
        """Return the SHA-256 over shape, images and labels; computed once."""
        return self._checksum

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().astype("<i8", copy=False).data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a record states about the set, as JSON-able values.

        Returns:
            ``name``, ``num_images``, ``num_classes``, ``resolution`` ([height, width] in pixels) and ``checksum``.
        """
        return {
            "name": self.name,
            "num_images": len(self),
            "num_classes": self.num_classes,
            "resolution": list(self.resolution),
            "checksum": self.checksum(),
        }

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel on the scale [0, 1], for `normalise`.

        Both follow from the counts of the 256 pixel values, so they are exact and the same on every machine.
        """
        levels = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in range(3):
            counts = torch.bincount(self.images[:, channel].flatten(), minlength=256).cpu().double()
            share = counts / counts.sum()
            mean = (share * levels).sum()
            means.append(float(mean))
            deviations.append(float((share * (levels - mean).square()).sum().sqrt()))
        return tuple(means), tuple(deviations)

    def select(self, indices: Int64[Tensor, " num_selected"], *, name: str) -> "ImageSet":
        """Return the images at ``indices``, in that order, with all class names kept.

        Args:
            indices: Positions in this set.
            name: Name of the new set.
        """
        indices = indices.to(self.labels.device)
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices], name=name)

    def subset(self, num_images: int, *, seed: int) -> "ImageSet":
        """Draw a class-balanced subset: the numbers of images of two classes differ by at most one while both last.

        Args:
            num_images: Size of the subset, in images; at most the size of the set.
            seed: Seed of the draw; the same seed gives nested subsets for growing ``num_images``.

        Returns:
            The subset in the order of this set; its name tells size and seed.

        Raises:
            ValueError: ``num_images`` is not in [1, size of the set].
        """
        if not 1 <= num_images <= len(self):
            raise ValueError(f"num_images must be in [1, {len(self)}], the size of {self.name}; got {num_images}.")
        order, rank = self._shuffled_ranks(seed)
        chosen = order[torch.argsort(rank, stable=True)[:num_images]]
        return self.select(chosen.sort().values, name=f"{self.name}[{num_images}, seed {seed}]")

    def split(self, size: int | float, *, seed: int) -> tuple["ImageSet", "ImageSet"]:
        """Split into two disjoint sets, each class in proportion.

        Args:
            size: Size of the first set: a number of images (int) or a share of the set (float in (0, 1)).
            seed: Seed of the draw.

        Returns:
            The first set, of the given size, and the rest, both in the order of this set.

        Raises:
            ValueError: Either part would be empty.
        """
        num_first = round(size * len(self)) if isinstance(size, float) else size
        if not 1 <= num_first < len(self):
            raise ValueError(
                f"size must leave both parts at least one of the {len(self)} images of {self.name}; got {size}."
            )
        order, rank = self._shuffled_ranks(seed)
        class_sizes = torch.bincount(self.labels.cpu(), minlength=self.num_classes)[self.labels.cpu()[order]]
        by_share = torch.argsort((rank + 0.5) / class_sizes, stable=True)
        first, rest = order[by_share[:num_first]].sort().values, order[by_share[num_first:]].sort().values
        return (
            self.select(first, name=f"{self.name}[first {num_first}, seed {seed}]"),
            self.select(rest, name=f"{self.name}[other {len(rest)}, seed {seed}]"),
        )

    def _shuffled_ranks(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return a seeded order of the images and, in that order, each one's rank inside its class."""
        order = epoch_permutation(len(self), seed=seed, epoch=0)
        labels = self.labels.cpu()[order]
        by_class = torch.argsort(labels, stable=True)
        starts = torch.cumsum(torch.bincount(labels, minlength=self.num_classes), 0).roll(1)
        starts[0] = 0
        rank = torch.empty_like(labels)
        rank[by_class] = torch.arange(len(self)) - starts[labels[by_class]]
        return order, rank
