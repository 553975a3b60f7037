"""The batches of one loop of CAN: source images for the cross-entropy, and class-aware pairs for the discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from shared.data.random import hash_bits
from uda.filtering import Kept


class LoopBatch(NamedTuple):
    """Image numbers of one iteration, int64 on the CPU.

    Attributes:
        source: Source images for the cross-entropy, (batch_size,).
        classes: Classes drawn, (P,); empty where no class was kept.
        source_by_class: Source images for the discrepancy, class after class in the order of `classes`.
        source_labels: Class of each of them.
        target_by_class: Kept target images, in the same order.
        target_labels: Pseudo-label of each of them.
    """

    source: Tensor
    classes: Tensor
    source_by_class: Tensor
    source_labels: Tensor
    target_by_class: Tensor
    target_labels: Tensor

    def without_pairs(self) -> LoopBatch:
        """Return the same images for the cross-entropy, and none for the discrepancy."""
        return LoopBatch(self.source, *(part[:0] for part in self[1:]))


def num_iterations(
    source_counts: Sequence[int],
    target_counts: Sequence[int],
    *,
    num_selected: int,
    source_images: int,
    target_images: int,
) -> int:
    r"""Return the iterations of a loop in which one or more classes were kept.

    .. math:: \Big\lceil \frac1P \sum_{c\ kept} \max\big(\lfloor n_{s,c} / b_{s,c} \rfloor,
        \lfloor n_{t,c} / b_{t,c} \rfloor\big) \Big\rceil, \quad P = \min(\text{num\_selected}, C), \quad
        b_c = \min(\text{images}, n_c)

    Args:
        source_counts: Source images of each kept class.
        target_counts: Kept target images of each.
        num_selected: Classes of an iteration at most.
        source_images: Source images a class at most.
        target_images: Target images a class at most.

    Source: `ClassAwareDataLoader.__len__` of the official code (commit 39acc51).
    """
    passes = sum(
        max(of_source // min(source_images, of_source), of_target // min(target_images, of_target))
        for of_source, of_target in zip(source_counts, target_counts)
    )
    return -(-passes // min(num_selected, len(source_counts)))


@dataclass(frozen=True, kw_only=True, eq=False)
class LoopPlan:
    """Every batch of one loop, as a function of (seed, loop, iteration): iteration k needs none before it.

    Cross-entropy: the source in a shuffled order, in whole batches; when these are used up, in a new order. Classes:
    the kept ones in a shuffled order, P at a time; when fewer than P are left, in a new order. Images of a class:
    drawn without repeats, anew in every iteration. Where no class was kept, the loop is one pass of cross-entropy.

    Args:
        source_labels: Class of each source image.
        target_labels: Pseudo-label of each target image.
        kept: What passed the filter.
        seed: Seed of the run.
        loop: Number of the loop, from 0.
        batch_size: Source images of a cross-entropy batch.
        num_selected: Classes of an iteration at most; P is this, or the number of kept classes if smaller.
        source_images: Source images a class and iteration; all of them where a class has fewer.
        target_images: Kept target images a class and iteration; all of them where a class has fewer.

    Raises:
        ValueError: If a number is below its least value, the source is smaller than a batch, or a kept class has no
            image in a domain.

    Source: Kang et al. 2019, class-aware sampling; sizes, orders and lengths as in the official code
        (commit 39acc51).
    """

    source_labels: Tensor
    target_labels: Tensor
    kept: Kept
    seed: int
    loop: int
    batch_size: int = 30
    num_selected: int = 10
    source_images: int = 3
    target_images: int = 3

    def __post_init__(self) -> None:
        for name, least in (
            ("loop", 0), ("batch_size", 1), ("num_selected", 1), ("source_images", 1), ("target_images", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if len(self.source_labels) < self.batch_size:
            raise ValueError(
                f"batch_size must be at most the {len(self.source_labels)} source images, since short batches are "
                f"left out; got {self.batch_size}. Ask for a smaller batch."
            )
        if self.kept.images.shape != self.target_labels.shape:
            raise ValueError(
                f"kept.images must be one for each of the {len(self.target_labels)} target labels; "
                f"got {len(self.kept.images)}."
            )
        for name, members in (("source_labels", self._source_members), ("kept.images", self._target_members)):
            empty = [label for label, images in members.items() if len(images) == 0]
            if empty:
                raise ValueError(f"{name} must hold an image of every kept class; got none of {empty}.")

    @cached_property
    def _source_members(self) -> dict[int, Tensor]:
        labels = self.source_labels.cpu()
        return {label: (labels == label).nonzero()[:, 0] for label in self.kept.classes}

    @cached_property
    def _target_members(self) -> dict[int, Tensor]:
        labels, images = self.target_labels.cpu(), self.kept.images.cpu()
        return {label: ((labels == label) & images).nonzero()[:, 0] for label in self.kept.classes}

    @property
    def source_batches(self) -> int:
        """Cross-entropy batches of one pass over the source."""
        return len(self.source_labels) // self.batch_size

    @property
    def classes_per_batch(self) -> int:
        """P, the classes of an iteration; 0 where no class was kept."""
        return min(self.num_selected, len(self.kept.classes))

    def __len__(self) -> int:
        """Return the iterations of the loop, at least one."""
        if not self.kept.classes:
            return self.source_batches
        return num_iterations(
            [len(images) for images in self._source_members.values()],
            [len(images) for images in self._target_members.values()],
            num_selected=self.num_selected,
            source_images=self.source_images,
            target_images=self.target_images,
        )

    def batch(self, iteration: int) -> LoopBatch:
        """Return the images of one iteration.

        Args:
            iteration: From 0 to the length of the plan, less one.

        Raises:
            ValueError: If the iteration is outside the loop.
        """
        if not 0 <= iteration < len(self):
            raise ValueError(f"iteration must be in [0, {len(self)}), the iterations of this loop; got {iteration}.")
        classes = self.classes(iteration)
        source, source_labels = self._draw(
            self._source_members, classes, most=self.source_images, stream=f"can_source_{iteration}"
        )
        target, target_labels = self._draw(
            self._target_members, classes, most=self.target_images, stream=f"can_target_{iteration}"
        )
        return LoopBatch(self.source(iteration), classes, source, source_labels, target, target_labels)

    def source(self, iteration: int) -> Int64[Tensor, " batch_size"]:
        """Return the cross-entropy images of one iteration.

        Args:
            iteration: Number of the iteration, at least 0.
        """
        number, place = divmod(iteration, self.source_batches)
        order = self._shuffled(torch.arange(len(self.source_labels)), stream=f"can_cross_entropy_{number}")
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def classes(self, iteration: int) -> Int64[Tensor, " P"]:
        """Return the classes of one iteration.

        Args:
            iteration: Number of the iteration, at least 0.
        """
        kept = torch.tensor(self.kept.classes, dtype=torch.int64)
        size = self.classes_per_batch
        if size == 0:
            return kept
        number, place = divmod(iteration, len(kept) // size)
        return self._shuffled(kept, stream=f"can_classes_{number}")[place * size : (place + 1) * size]

    def _draw(self, members: dict[int, Tensor], classes: Tensor, *, most: int, stream: str) -> tuple[Tensor, Tensor]:
        images = [self._shuffled(members[label], stream=stream)[:most] for label in classes.tolist()]
        if not images:
            return classes, classes
        sizes = torch.tensor([len(of_class) for of_class in images])
        return torch.cat(images), classes.repeat_interleave(sizes)

    def _shuffled(self, numbers: Tensor, *, stream: str) -> Tensor:
        """Return the numbers sorted by their hash, as `shared.data.random.epoch_permutation` does for a whole set."""
        keys = hash_bits(numbers, seed=self.seed, epoch=self.loop, stream=stream)
        return numbers[torch.argsort(keys, stable=True)]
