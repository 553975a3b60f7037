"""Batch Normalization (Ioffe and Szegedy 2015)."""

from torch import Tensor, nn

from norm_layers.base import FloatStatistics, check_momentum, normalise
from norm_layers.shapes import check_input, check_positive
from norm_layers.sync_functional import AllReduce


class BatchNorm(FloatStatistics, nn.BatchNorm2d):
    """`nn.BatchNorm2d` for inputs with 0 to 3 spatial axes.

    mu[c] = mean over n, h, w of f[n, c, h, w]; y = weight[c] · (f - mu[c]) / sqrt(var[c] + eps) + bias[c].

    Shapes: input and output (N, C, *spatial); weight, bias and running statistics (C,). In training the batch's
    statistics normalise and the running ones follow; in evaluation the running ones normalise. The running
    statistics are float32 in a half-precision model.

    Args:
        num_channels: C.
        eps: Added to the variance, in the input's units squared.
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.
        affine: Whether to learn a scale and a shift per channel.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's.

    Raises:
        ValueError: If an option is out of range; in training also if a channel has a single value in the batch.

    Source:
        BGN paper, eq. 2-5.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        check_positive("num_channels", num_channels)
        check_positive("eps", eps)
        check_momentum(momentum)
        super().__init__(num_channels, eps, momentum, affine, track_running_stats)
        self.all_reduce: AllReduce | None = None
        self._lift_statistics()

    @property
    def num_channels(self) -> int:
        """C, under the name that all norm layers share."""
        return self.num_features

    def forward(self, input: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        check_input(input, self.num_channels)
        return normalise(input, self, self.weight, self.bias, num_groups=self.num_channels, all_reduce=self.all_reduce)
