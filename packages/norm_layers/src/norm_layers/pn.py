"""Positional Normalization (Li et al. 2019)."""

from torch import Tensor

from norm_layers.base import ChannelAffine
from norm_layers.instance_functional import positional_norm
from norm_layers.shapes import check_input


class PositionalNorm(ChannelAffine):
    """Positional Normalization: one mean and variance per sample and position, over the channels.

    mu[n, h, w] = mean over c of f[n, c, h, w]; y = weight[c] · (f - mu) / sqrt(var + eps) + bias[c].

    Shapes: input and output (N, C, *spatial); weight and bias (C,). The same in training and evaluation. The
    variance is biased, and mean and standard deviation are not re-injected later in the net.

    Args:
        num_channels: C.
        eps: Added to the variance, in the input's units squared.
        affine: Whether to learn a scale and a shift per channel.

    Source:
        Li et al. 2019; BGN paper, footnote 2, with the affine of eq. 5.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        check_input(x, self.num_channels)
        return positional_norm(x, self.weight, self.bias, eps=self.eps)
