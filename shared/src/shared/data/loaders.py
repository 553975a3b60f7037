"""Batches of images with an exact position: any loader here resumes at the batch where it stopped."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared.data.plan import BatchPlan
from shared.data.sets import ImageSet


class Batch(NamedTuple):
    """One rank's share of a batch.

    Attributes:
        images: uint8 pixels, shape (N, 3, H, W).
        labels: int64 class numbers, shape (N,).
        indices: int64 number of each image in its set, shape (N,): the key of its augmentation.
        valid: bool, shape (N,). False only for the placeholder of a rank left without an image in the last batch;
            with one rank, or with ``drop_last``, always True. Losses and metrics must leave out what is not valid.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    valid: Tensor


class ResumableLoader(ABC):
    """An iterable of `Batch` that knows its epoch and its next batch.

    The contract, which `pytorch_lightning` 2.6 keeps and a plain loop can keep too:

    * ``set_epoch(e)`` comes before the first batch of epoch e is drawn; a new epoch starts at batch 0, the present
      one keeps its position. Lightning calls it on ``loader.sampler``, which is the loader itself.
    * ``state_dict()`` counts the batches handed out. Taken after batch k was trained on (``on_train_batch_end``),
      it makes a resumed run go on with batch k + 1. Lightning fetches no batch ahead from a loader that has a
      length, so its checkpoints are exact. Worker processes may run ahead; what they hold is not counted.
    * A consumer that draws ahead by itself, or stops inside a step, corrects the position with `seek`.
    * After ``load_state_dict`` the next iteration goes on from the position; later ones start at batch 0.

    Args:
        plan: Which images make up which batch.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self._epoch = 0
        self._resume_at = 0
        self._next_batch = 0

    @abstractmethod
    def _draw(self, *, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on."""

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        # a generator: epoch and position are read at the first batch, since Lightning asks for the iterator of the
        # first epoch before it sets the epoch
        epoch, start = self._epoch, self._resume_at
        self._resume_at, self._next_batch = 0, start
        for position, batch in enumerate(self._draw(epoch=epoch, start=start), start=start):
            self._next_batch = position + 1
            yield batch

    @property
    def sampler(self) -> "ResumableLoader":
        """The object on which Lightning calls ``set_epoch``: the loader itself."""
        return self

    @property
    def epoch(self) -> int:
        """Number of the present epoch."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; stay where the loader is if that is the present epoch.

        Args:
            epoch: Epoch number, at least 0.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch != self._epoch:
            self.seek(epoch=epoch, batch=0)

    def seek(self, *, epoch: int, batch: int) -> None:
        """Make the next iteration begin at a batch of an epoch.

        Args:
            epoch: Epoch number, at least 0.
            batch: Number of the batch, from 0 to the length; the length means that the epoch is over.

        Raises:
            ValueError: ``epoch`` or ``batch`` is outside its range.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0; got {epoch}.")
        if not 0 <= batch <= len(self):
            raise ValueError(f"batch must be in [0, {len(self)}], the number of batches per epoch; got {batch}.")
        self._epoch, self._resume_at, self._next_batch = epoch, batch, batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position and what it depends on, as plain numbers.

        Returns:
            ``epoch``, ``next_batch`` (batches of this epoch already handed out), and ``global_batch_size``,
            ``num_images``, ``seed``, ``shuffle``, which a resumed loader must share. The same on every rank.
        """
        return {"epoch": self._epoch, "next_batch": self._next_batch, **self._identity()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to the position of a `state_dict`.

        The number of ranks may differ from the saved run's as long as the global batch size is the same.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: The position belongs to another order: a key that must agree differs.
        """
        for key, value in self._identity().items():
            if state_dict[key] != value:
                raise ValueError(
                    f"{key} must be the same as in the checkpoint, {state_dict[key]}, to resume; got {value}."
                )
        self.seek(epoch=state_dict["epoch"], batch=state_dict["next_batch"])

    def _identity(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "global_batch_size": plan.global_batch_size,
            "num_images": plan.num_images,
            "seed": plan.seed,
            "shuffle": plan.shuffle,
        }


class ArrayLoader(ResumableLoader):
    """Batches from an image set held in memory, on the CPU or on the device that trains.

    Args:
        image_set: The images.
        batch_size: Images per rank and batch.
        shuffle: Whether each epoch has its own order (training), or that of the set (evaluation).
        seed: Seed of the orders.
        rank: This process's number.
        world_size: Number of processes; see `BatchPlan` for how they share the images.
        drop_last: Whether a short last global batch is left out.
        device: Where the images are held and the batches made. None: where they are.

    Raises:
        ValueError: As `BatchPlan`.
    """

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            BatchPlan(
                num_images=len(image_set),
                batch_size=batch_size,
                shuffle=shuffle,
                seed=seed,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last,
            )
        )
        self.device = image_set.images.device if device is None else torch.device(device)
        self._images = image_set.images.to(self.device)
        self._labels = image_set.labels.to(self.device)

    def _draw(self, *, epoch: int, start: int) -> Iterator[Batch]:
        order = self.plan.order(epoch).to(self.device)
        for number in range(start, len(self)):
            indices, valid = self.plan.deal(order, batch=number)
            yield Batch(self._images[indices], self._labels[indices], indices, valid)
