"""Training batches of one loop: source images for the cross-entropy, and pairs by class for the discrepancy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared.data.loaders import ResumableLoader
from shared.data.plan import BatchPlan
from shared.data.sets import ImageSet
from uda.sampling import LoopPlan


class LoopImages(NamedTuple):
    """The images of one iteration: first the source's, then the source's and the target's by class.

    Attributes:
        images: uint8 pixels, (B + Ns + Nt, 3, H, W).
        labels: Class of the first B + Ns images, pseudo-label of the others.
        indices: Key of each image's augmentation, another one whenever an image is drawn.
        sizes: B, Ns and Nt.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    sizes: tuple[int, int, int]


class LoopLoader(ResumableLoader):
    """The iterations of one loop, from any of them on.

    Args:
        source: The source.
        target: The target, of whose labels no use is made.
        plan: The loop's batches.
        epoch: Lightning's number of this loop.
        device: Where the images are made.
        has_pairs: Whether the pairs by class are made; without, the number of iterations is that with them.
    """

    def __init__(
        self,
        source: ImageSet,
        target: ImageSet,
        *,
        plan: LoopPlan,
        epoch: int,
        device: torch.device,
        has_pairs: bool = True,
    ) -> None:
        super().__init__(
            BatchPlan(
                num_images=len(plan) * plan.batch_size, batch_size=plan.batch_size, shuffle=True, seed=plan.seed,
                drop_last=True,
            )
        )  # fmt: skip
        self.loop_plan = plan
        self._epoch = epoch
        self.device, self.has_pairs = device, has_pairs
        self._source, self._target = source.images.to(device), target.images.to(device)
        self._source_labels = source.labels

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to the position of a checkpoint; one from the end of the epoch before is at the start of this one.

        Args:
            state_dict: What `state_dict` returned.
        """
        if state_dict["epoch"] == self._epoch:
            super().load_state_dict(state_dict)

    def _draw(self, *, epoch: int, start: int) -> Iterator[LoopImages]:  # type: ignore[override]  # noqa: ARG002
        num_source, num_target = len(self._source), len(self._target)
        per_iteration = 2 * num_source + num_target
        for number in range(start, len(self)):
            batch = self.loop_plan.batch(number)
            if not self.has_pairs:
                batch = batch.without_pairs()
            parts = (batch.source, batch.source_by_class, batch.target_by_class)
            images = torch.cat(
                [self._source[torch.cat(parts[:2]).to(self.device)], self._target[parts[2].to(self.device)]]
            )
            keys = torch.cat([parts[0], parts[1] + num_source, parts[2] + 2 * num_source]) + number * per_iteration
            labels = torch.cat([self._source_labels[batch.source], batch.source_labels, batch.target_labels])
            yield LoopImages(images, labels, keys.to(self.device), tuple(map(len, parts)))  # type: ignore[arg-type]
