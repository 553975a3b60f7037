"""The operations of an edge of a cell, in search (norms without affine, one more after a pool) and in evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nas.space import PRIMITIVES, Gene
from shared.errors import choose

NormLayer = Callable[[int], nn.Module]


def depends_on_input_alone(operation: nn.Module) -> bool:
    """Return whether an operation has no tensors of its own, so that one of its kind can stand for another.

    Such are a pool and its norm without affine parameters and running statistics. One that somebody listens to, as the
    norm audit does, counts for itself.

    Args:
        operation: The operation.
    """
    for part in operation.modules():
        own = (*part._parameters.values(), *part._buffers.values())
        if part._forward_pre_hooks or part._forward_hooks or any(tensor is not None for tensor in own):
            return False
    return True


class Rectified(nn.Module):
    """A ReLU before a body; a search network computes the ReLU of a state once and calls the bodies.

    Args:
        body: What follows the ReLU.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H2 W2"]:
        """Apply ReLU, then the body."""
        return self.body(F.relu(x))


class TwoOffsets(nn.Module):
    """Halve a map by two 1x1 convolutions of stride 2, one on the even and one on the odd positions, then a norm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, an even number.
        norm_layer: Builds the norm.

    Raises:
        ValueError: If the number of output channels is odd.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm_layer: NormLayer) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels must be even, to halve a map; got {out_channels}.")
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.norm = norm_layer(out_channels)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H2 W2"]:
        """Halve a map whose height and width are even."""
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


class Zero(nn.Module):
    """The operation "none": zeros of the shape that the edge's other operations give.

    Args:
        stride: 1, or 2 on an edge that halves the map.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H2 W2"]:
        """Return zeros that hang on no input."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def relu_conv_norm(in_channels: int, out_channels: int, *, norm_layer: NormLayer) -> Rectified:
    """Return ReLU, 1x1 convolution, norm: what brings an input of a cell to the cell's channels.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_layer: Builds the norm.
    """
    return Rectified(nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), norm_layer(out_channels)))


def factorized_reduce(in_channels: int, out_channels: int, *, norm_layer: NormLayer) -> Rectified:
    """Return ReLU and the halving of `TwoOffsets`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, an even number.
        norm_layer: Builds the norm.
    """
    return Rectified(TwoOffsets(in_channels, out_channels, norm_layer=norm_layer))


class EveryOther(nn.Conv2d):
    r"""A convolution of stride 2 and dilation 2, which reads every other row and column only: computed on these alone.

    .. math:: y_{ij} = \sum_{kl} w_{kl}\, x_{2i + 2k - p,\, 2j + 2l - p}
        = \sum_{kl} w_{kl}\, x'_{i + k - p/2,\, j + l - p/2}, \quad x'_{ij} = x_{2i, 2j}

    The same numbers, p being even; the backward pass takes a fifth to a twentieth of the time on a CPU.
    """

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H2 W2"]:
        """Apply the convolution."""
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)  # half of ours, which is kernel_size - 1
        return F.conv2d(x[:, :, ::2, ::2], self.weight, padding=padding, groups=self.groups)


def _depthwise(channels: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    kind = EveryOther if (stride, dilation) == (2, 2) else nn.Conv2d
    padding = dilation * (kernel - 1) // 2
    return kind(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


def _separable(channels: int, kernel: int, stride: int, norm_layer: NormLayer) -> Rectified:
    return Rectified(
        nn.Sequential(
            _depthwise(channels, kernel, stride, 1),
            nn.Conv2d(channels, channels, 1, bias=False),
            norm_layer(channels),
            nn.ReLU(),
            _depthwise(channels, kernel, 1, 1),
            nn.Conv2d(channels, channels, 1, bias=False),
            norm_layer(channels),
        )
    )


def _dilated(channels: int, kernel: int, stride: int, norm_layer: NormLayer) -> Rectified:
    return Rectified(
        nn.Sequential(
            _depthwise(channels, kernel, stride, 2),
            nn.Conv2d(channels, channels, 1, bias=False),
            norm_layer(channels),
        )
    )


def _pool(name: str, channels: int, stride: int, norm_layer: NormLayer, norm_after_pool: bool) -> nn.Module:
    pool = (
        nn.MaxPool2d(3, stride, padding=1)
        if name == "max_pool_3x3"
        else nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    )
    return nn.Sequential(pool, norm_layer(channels)) if norm_after_pool else pool


def build_operation(
    name: str, channels: int, *, stride: int, norm_layer: NormLayer, norm_after_pool: bool = False
) -> nn.Module:
    """Build an operation.

    Args:
        name: One of `PRIMITIVES`.
        channels: Channels of input and output.
        stride: 1, or 2 on an edge that halves the map.
        norm_layer: Builds a norm from its number of channels.
        norm_after_pool: Whether a norm follows a pool: in search, so that the outputs of all operations can be
            weighed against each other; not in evaluation.

    Raises:
        ValueError: If the name is unknown.

    Source: quark0/darts, commit f276dd3: `operations.py`, and `MixedOp` of `model_search.py` for the norm after pools.
    """
    choose("operation", name, PRIMITIVES)
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else factorized_reduce(channels, channels, norm_layer=norm_layer)
    if name.endswith("pool_3x3"):
        return _pool(name, channels, stride, norm_layer, norm_after_pool)
    kernel = int(name[-1])
    build = _separable if name.startswith("sep") else _dilated
    return build(channels, kernel, stride, norm_layer)


def gene_stride(gene: Gene, *, is_reduction: bool) -> int:
    """Return the stride of a gene: 2 on the edges from a reduction cell's two inputs, else 1.

    Args:
        gene: The gene.
        is_reduction: Whether its cell halves the map.
    """
    return 2 if is_reduction and gene.input < 2 else 1
