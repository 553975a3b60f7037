"""Instance Normalization (Ulyanov, Vedaldi and Lempitsky 2016)."""

import math

import torch
from torch import Tensor

from norm_layers.base import ChannelAffine
from norm_layers.instance_functional import group_norm
from norm_layers.shapes import check_input, warn_once


class InstanceNorm(ChannelAffine):
    """Instance Normalization: one mean and variance per sample and channel.

    mu[n, c] = mean over h, w of f[n, c, h, w]; y = weight[c] · (f - mu) / sqrt(var + eps) + bias[c].

    Shapes: input and output (N, C, *spatial); weight and bias (C,). The same in training and evaluation.
    Unlike `nn.InstanceNorm2d` it is affine by default, keeps channels_last, and takes maps of one pixel. There the
    output is the bias whatever the input is, which is logged once.

    Args:
        num_channels: C.
        eps: Added to the variance, in the input's units squared.
        affine: Whether to learn a scale and a shift per channel.

    Source:
        BGN paper, "Methodology", with the affine of eq. 5.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        check_input(x, self.num_channels)
        if not torch.compiler.is_compiling() and math.prod(x.shape[2:]) == 1:
            warn_once(
                f"InstanceNorm: maps of 1 pixel (C={self.num_channels}) have one value per statistic; "
                "the output is the bias, and no gradient flows through the layer."
            )
        return group_norm(x, self.weight, self.bias, num_groups=self.num_channels, eps=self.eps)
