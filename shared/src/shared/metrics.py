"""Means that are exact over batches and ranks, and on one process over resumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    r"""Weighted mean of scalars, :math:`\sum_i w_i v_i / \sum_i w_i`, over all batches and ranks.

    Its state is part of the module's state dict, so that a mean over an epoch survives a stop within it; of several
    ranks, that of rank 0. It stays in float32 at least in a module of half precision, where a count of 50,000 would
    be rounded.
    (torchmetrics' MeanMetric either waits for the GPU at every update to look for NaN, or drops the weights.)
    """

    total: Tensor
    weight: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, default=torch.zeros(()), dist_reduce_fx="sum", persistent=True)

    def update(self, values: Tensor, weights: Tensor | float = 1.0) -> None:
        """Add values.

        Args:
            values: Shape (N,), or a scalar.
            weights: One weight for each value, or one for all; 0 leaves a value out.
        """
        weights = torch.as_tensor(weights, device=values.device, dtype=self.weight.dtype).expand(values.shape)
        self.total += (values.to(self.total.dtype) * weights).sum()
        self.weight += weights.sum()

    def compute(self) -> Tensor:
        """Return the mean; NaN if there is no weight."""
        return self.total / self.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> WeightedMean:
        """Move the state, and make it no less precise, when the module is moved or cast."""
        before = {name: getattr(self, name) for name in ("total", "weight")}
        super()._apply(fn, *args, **kwargs)
        for name, value in before.items():
            moved = getattr(self, name)
            setattr(self, name, value.to(moved.device, torch.promote_types(value.dtype, moved.dtype)))
        return self
