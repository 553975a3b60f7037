"""Layer Normalization of feature maps (Ba, Kiros and Hinton 2016)."""

from torch import Tensor

from norm_layers.base import ChannelAffine
from norm_layers.instance_functional import group_norm
from norm_layers.shapes import check_input


class LayerNorm(ChannelAffine):
    """Layer Normalization: one mean and variance per sample, over channels and positions.

    mu[n] = mean over c, h, w of f[n, c, h, w]; y = weight[c] · (f - mu) / sqrt(var + eps) + bias[c].

    Shapes: input and output (N, C, *spatial); weight and bias (C,), not one per element as in
    `nn.LayerNorm((C, H, W))`, which would fix the resolution. The same in training and evaluation.

    Args:
        num_channels: C.
        eps: Added to the variance, in the input's units squared.
        affine: Whether to learn a scale and a shift per channel.

    Source:
        BGN paper, "Related Work", with the affine of eq. 5.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        check_input(x, self.num_channels)
        return group_norm(x, self.weight, self.bias, num_groups=1, eps=self.eps)
