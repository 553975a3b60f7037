"""Which images make up which batch: one global order, dealt to the ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from shared.data.random import epoch_permutation


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batches of every epoch, for one rank.

    Global batch b holds positions ``[b * W * B, (b + 1) * W * B)`` of the epoch's order (W ranks, B images per
    rank); rank r takes ``[b * W * B + r * B, … + B)`` of it. So W ranks with batches of B see, batch by batch, the
    images that one device sees with batches of ``W * B``, and chunk r of that device's batch is rank r's batch.

    Without ``drop_last`` the last global batch may be short. Every image is then dealt exactly once, and all ranks
    have the same number of batches: a rank left without an image gets one placeholder, marked as not valid.

    Args:
        num_images: Size of the set.
        batch_size: Images per rank and batch.
        shuffle: Whether the order is a new permutation each epoch, or the order of the set.
        seed: Seed of the permutations.
        rank: This process's number, in ``[0, world_size)``.
        world_size: Number of processes.
        drop_last: Whether a short last global batch is left out.

    Raises:
        ValueError: A size below 1, a rank outside the world, or ``drop_last`` that would leave no batch.
    """

    num_images: int
    batch_size: int
    shuffle: bool
    seed: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, {self.world_size}), the world size; got {self.rank}.")
        if len(self) == 0:
            raise ValueError(
                f"batch_size must be at most {self.num_images // self.world_size} where drop_last is on: "
                f"{self.num_images} images on {self.world_size} rank(s); got {self.batch_size}."
            )

    @property
    def global_batch_size(self) -> int:
        """Images per batch over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        whole, rest = divmod(self.num_images, self.global_batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> Int64[Tensor, " num_images"]:
        """Return the global order of the images in ``epoch``.

        Args:
            epoch: Epoch number.
        """
        if self.shuffle:
            return epoch_permutation(self.num_images, seed=self.seed, epoch=epoch)
        return torch.arange(self.num_images)

    def deal(
        self, order: Int64[Tensor, " num_images"], *, batch: int
    ) -> tuple[Int64[Tensor, " num_dealt"], Bool[Tensor, " num_dealt"]]:
        """Return this rank's share of one global batch.

        Args:
            order: The epoch's order, from `order`.
            batch: Number of the batch in the epoch.

        Returns:
            The image numbers, at most ``batch_size`` and at least one, and whether each counts: False only for the
            placeholder (image 0) of a rank left without an image.
        """
        start = batch * self.global_batch_size + self.rank * self.batch_size
        indices = order[start : start + self.batch_size]
        if len(indices) == 0:
            return order.new_zeros(1), order.new_zeros(1, dtype=torch.bool)
        return indices, torch.ones_like(indices, dtype=torch.bool)
