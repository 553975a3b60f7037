"""Training batches under both readings of an epoch: a pass over the images, or a number of iterations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from fewshot.protocol import CODE_BLOCK
from shared.data.loaders import Batch, ResumableLoader
from shared.data.plan import BatchPlan
from shared.data.random import hash_uniform
from shared.data.sets import ImageSet


def draw_by_class(
    labels: Int64[Tensor, " N"], *, num_draws: int, seed: int, epoch: int, block: int = CODE_BLOCK
) -> Int64[Tensor, " num_draws"]:
    """Draw images: of each block in a row, the classes uniformly with repeats, the images of a class without.

    Args:
        labels: Class of each image.
        num_draws: Number of draws.
        seed: Seed of the run.
        epoch: Epoch number.
        block: Draws among which an image appears at most once, if its class has at least so many images.

    Returns:
        Image numbers.

    Source: the sampler of Gidaris and Komodakis' code (nKbase = 64 classes, nTestBase = 32 images).
    """
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    counters = torch.arange(num_draws)
    classes = (hash_uniform(counters, seed=seed, epoch=epoch, stream="draw_class").double() * len(sizes)).long()
    blocks = counters // block

    def draw(slots: Tensor, attempt: int) -> Tensor:
        uniform = hash_uniform(slots, seed=seed, epoch=epoch, stream=f"draw_image_{attempt}").double()
        return starts[classes[slots]] + (uniform * sizes[classes[slots]]).long()

    places = draw(counters, 0)
    for attempt in range(1, 1000):  # a later draw that repeats an earlier one of its block is made anew
        keys = blocks * len(labels) + places
        by_key = torch.argsort(keys, stable=True)
        is_repeat = torch.zeros(num_draws, dtype=torch.bool)
        is_repeat[by_key[1:]] = keys[by_key][1:] == keys[by_key][:-1]
        slots = (is_repeat & (sizes[classes] >= block)).nonzero()[:, 0]
        if len(slots) == 0:
            break
        places[slots] = draw(slots, attempt)
    return order[places]


@dataclass(frozen=True, kw_only=True)
class DrawnPlan(BatchPlan):
    """Batches of images drawn by class, a number of iterations an epoch; `num_images` counts the draws.

    Args:
        labels: Class of each image.
    """

    labels: Tensor

    def order(self, epoch: int) -> Int64[Tensor, " num_images"]:
        """Return the images of the epoch, in order.

        Args:
            epoch: Epoch number.
        """
        return draw_by_class(self.labels, num_draws=self.num_images, seed=self.seed, epoch=epoch)


class BaseLoader(ResumableLoader):
    """Training batches of the base classes.

    A batch's `indices`, the keys of its augmentation, are the images' numbers in a pass over the data. Where an epoch
    is a number of iterations, an image comes several times, and they are the positions in the epoch.

    Args:
        images: The base images.
        members: Numbers of the images that are trained on.
        batch_size: Images per rank and batch.
        iterations: Iterations of an epoch; None: a pass over the members.
        seed: Seed of the order.
        rank: This process's number.
        world_size: Number of processes.
        device: Where the images are held.

    Raises:
        ValueError: As `BatchPlan`.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        members: Int64[Tensor, " M"],
        batch_size: int,
        iterations: int | None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if iterations is None:
            plan = BatchPlan(
                num_images=len(members), batch_size=batch_size, shuffle=True, seed=seed, rank=rank,
                world_size=world_size, drop_last=True,
            )  # fmt: skip
        else:
            plan = DrawnPlan(
                num_images=iterations * batch_size * world_size, batch_size=batch_size, shuffle=True, seed=seed,
                rank=rank, world_size=world_size, drop_last=True, labels=images.labels[members].cpu(),
            )  # fmt: skip
        super().__init__(plan)
        self.device = torch.device(device)
        self._images, self._labels = images.images.to(self.device), images.labels.to(self.device)
        self._members = members.to(self.device)

    def _draw(self, *, epoch: int, start: int) -> Iterator[Batch]:
        order = self.plan.order(epoch).to(self.device)
        is_pass = not isinstance(self.plan, DrawnPlan)
        positions = torch.arange(len(order), device=self.device)
        for number in range(start, len(self)):
            dealt, valid = self.plan.deal(positions, batch=number)
            images = self._members[order[dealt]]
            yield Batch(self._images[images], self._labels[images], images if is_pass else dealt, valid)
