"""The norms whose statistics belong to one sample (GN and its special cases, PN), as pure functions.

Legend: N batch, C channels, `spatial` any axes after them, D = C·H·W, G groups.
"""

import math

import torch
from torch import Tensor

from norm_layers.cpu_positional import fused_positional_norm
from norm_layers.fused import fused_flat_group_norm
from norm_layers.plain import channel_affine, plain_flat_group_norm, plain_positional_norm, statistics_dtype
from norm_layers.shapes import Float, describe_shape, memory_format, restore_memory_format

_NARROW = 8  # channels of a group, below which torch's own is slow in channels_last


def group_norm(
    x: Float[Tensor, "N C *spatial"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> Float[Tensor, "N C *spatial"]:
    """Normalise groups of channels of each sample by their own mean and biased variance.

    mu[n, g] = mean over c in group g, h, w of f[n, c, h, w]. G = 1 is layer, G = C instance normalization.
    Single values pass (their output is the bias), where `F.group_norm` raises for a batch of one.

    Args:
        x: Input of shape (N, C, *spatial).
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G, a divisor of C.
        eps: Added to the variance, in the input's units squared.

    Returns:
        Output of the shape, dtype and memory format of x.

    Source:
        BGN paper, eq. 6 and 7.
    """
    if x.numel() == 0:
        return channel_affine(x, x, weight, bias)
    if _is_slow_in_torch(x, weight, num_groups):
        y = fused_flat_group_norm(x, weight, bias, num_groups=num_groups, eps=eps)
        if y is not None:
            return y
    dtype = x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
    y = torch.group_norm(x.to(dtype), num_groups, weight, bias, eps, torch.backends.cudnn.enabled)
    return restore_memory_format(y.to(x.dtype), x)


def _is_slow_in_torch(x: Tensor, weight: Tensor | None, num_groups: int) -> bool:
    """Say whether torch's group normalization is slow for an input that the CPU kernel normalises as exactly."""
    num_channels = x.shape[1]
    is_narrow = num_channels < _NARROW * num_groups and num_channels % num_groups == 0
    is_exact = weight is None or weight.dtype in (x.dtype, statistics_dtype(x))
    return is_narrow and is_exact and not x.is_contiguous() and memory_format(x) is not torch.contiguous_format


def flat_group_norm(
    x: Float[Tensor, "N C *spatial"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> Float[Tensor, "N C *spatial"]:
    """Normalise groups of the merged (C, H, W) axis of each sample: group norm at a G that does not divide C.

    mu[n, g] = mean over d in group g of f[n, d], with D elements in G contiguous groups whose sizes differ by at
    most one. It equals `group_norm` where G divides C, and batch group norm for a batch of one.

    Args:
        x: Input of shape (N, C, *spatial).
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G, at most D.
        eps: Added to the variance, in the input's units squared.

    Returns:
        Output of the shape, dtype and memory format of x.

    Raises:
        ValueError: If G is above D.

    Source:
        BGN paper, eq. 6-7 with M·H·W = D/G, the reading under which every group number that it reports is defined.
    """
    if x.numel() == 0:
        return channel_affine(x, x, weight, bias)
    if num_groups > math.prod(x.shape[1:]):
        raise ValueError(
            f"num_groups must be at most D = C·H·W; got {describe_shape(x.shape, num_groups)}. "
            "Take fewer groups, or fallback='divisor' for a divisor of C."
        )
    y = fused_flat_group_norm(x, weight, bias, num_groups=num_groups, eps=eps)
    return plain_flat_group_norm(x, weight, bias, num_groups=num_groups, eps=eps) if y is None else y


def positional_norm(
    x: Float[Tensor, "N C *spatial"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    eps: float = 1e-5,
) -> Float[Tensor, "N C *spatial"]:
    """Normalise each position of each sample over the channels.

    mu[n, h, w] = mean over c of f[n, c, h, w], with the biased variance.

    Args:
        x: Input of shape (N, C, *spatial).
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        eps: Added to the variance, in the input's units squared.

    Returns:
        Output of the shape, dtype and memory format of x.

    Source:
        Li et al. 2019, "Positional Normalization", without re-injection.
    """
    y = fused_positional_norm(x, weight, bias, eps=eps)
    return plain_positional_norm(x, weight, bias, eps=eps) if y is None else y
