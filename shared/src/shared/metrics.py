"""Means that are exact over batches, resumes and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    r"""Weighted mean of scalars, :math:`\sum_i w_i v_i / \sum_i w_i`, over all batches and ranks.

    Its state is part of the module's state dict, so that a mean over an epoch survives a stop within it.
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
