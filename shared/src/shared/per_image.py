"""Numbers of each image of a set, filled in batch by batch by any number of processes."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor

from shared.data.loaders import Batch


class PerImage:
    """A row of numbers for each image of a set.

    Args:
        num_images: Images of the set.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.values: Tensor | None = None

    def add(self, values: Tensor, batch: Batch) -> None:
        """Put a batch's rows in their places.

        Args:
            values: Shape (N, d).
            batch: The batch that they are of.
        """
        if self.values is None:
            self.values = values.new_zeros(self.num_images, values.shape[1])
        self.values[batch.indices[batch.valid]] = values[batch.valid]

    def gather(self, trainer: pl.Trainer) -> Tensor:
        """Return the rows of all images, on every process.

        Args:
            trainer: Whose processes have filled in their images; each image has zeros on all but one.
        """
        assert self.values is not None, "add() comes first"
        if trainer.world_size == 1:
            return self.values
        return trainer.strategy.reduce(self.values, reduce_op="sum")
