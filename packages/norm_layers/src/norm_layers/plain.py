"""Batch Group Normalization written with torch's own operations: the reference of every faster route.

Legend: N batch, C channels, `spatial` any axes after them, D = C·H·W, G groups, S = D/G elements of a group.
The merged axis d runs over the logical (C, H, W) with C slowest, and group g covers a contiguous run of it.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from norm_layers.groups import Uneven, check_values_per_statistic, group_blocks, groups_in_force
from norm_layers.shapes import Float, restore_memory_format


def plain_batch_group_norm(
    x: Float[Tensor, "N C *spatial"],
    running_mean: Float[Tensor, " G"] | None,
    running_var: Float[Tensor, " G"] | None,
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    uneven: Uneven = "split",
    unbiased_running_var: bool = True,
) -> Float[Tensor, "N C *spatial"]:
    """Compute `functional.batch_group_norm`, whose arguments and result these are, with torch's own operations.

    Everything torch can do to a graph of its own operations works here: compilation, export, function transforms,
    forward and double differentiation, any device and dtype.

    Args:
        x: Input of shape (N, C, *spatial).
        running_mean: Running m_g of shape (G,). None: not kept.
        running_var: Running v_g of shape (G,). None: not kept.
        weight: Scale gamma per channel. None: 1.
        bias: Shift beta per channel. None: 0.
        num_groups: G.
        training: Whether to normalise by the batch's statistics.
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.
        uneven: As in `groups_in_force`.
        unbiased_running_var: Whether the running variance is unbiased.

    Returns:
        Output of the shape, dtype and memory format of x.

    Raises:
        ValueError: As in `functional.batch_group_norm`.
    """
    if not training and (running_mean is None or running_var is None):
        raise ValueError("running_mean and running_var must be tensors where training is False; got None.")
    num_channels = x.shape[1]
    if not training and num_channels % num_groups == 0:
        # Groups of whole channels: an ordinary batch norm per channel, at every resolution and in any memory format.
        repeats = num_channels // num_groups
        means, variances = (_repeat(statistic, repeats) for statistic in (running_mean, running_var))
        return F.batch_norm(x, means, variances, *affine_parameters(x, weight, bias), False, 0.0, eps)

    if x.numel() == 0:
        return channel_affine(x, x, weight, bias)
    num_groups = groups_in_force(x.shape, num_groups=num_groups, uneven=uneven)
    if training:
        check_values_per_statistic(x.shape, num_groups=num_groups)
    options = _BlockOptions(training, momentum, eps, unbiased_running_var)
    if num_groups == num_channels:
        statistics = (_first(running_mean, num_groups), _first(running_var, num_groups))
        return _normalise_block(x, *statistics, *affine_parameters(x, weight, bias), options)

    num_samples, num_elements = x.shape[0], math.prod(x.shape[1:])
    blocks = group_blocks(num_elements, num_groups=num_groups)
    if len(blocks) == 1 and num_groups % num_channels == 0:
        # Groups inside one channel each: the affine goes into the same kernel, which then saves one input less.
        scale, shift = (_repeat(p, num_groups // num_channels) for p in affine_parameters(x, weight, bias))
        grouped = x.reshape(num_samples, num_groups, blocks[0].group_size)
        y = _normalise_block(
            grouped, _first(running_mean, num_groups), _first(running_var, num_groups), scale, shift, options
        )
        return restore_memory_format(y.view(x.shape), x)

    flat = x.reshape(num_samples, num_elements)
    pieces = []
    for first_group, block_groups, first_element, group_size in blocks:
        piece = flat.narrow(1, first_element, block_groups * group_size)
        normalised = _normalise_block(
            piece.reshape(num_samples, block_groups, group_size),
            None if running_mean is None else running_mean.narrow(0, first_group, block_groups),
            None if running_var is None else running_var.narrow(0, first_group, block_groups),
            None,
            None,
            options,
        )
        pieces.append(normalised.reshape(num_samples, block_groups * group_size))
    y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    return restore_memory_format(channel_affine(y.view(x.shape), x, weight, bias), x)


def plain_flat_group_norm(
    x: Float[Tensor, "N C *spatial"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> Float[Tensor, "N C *spatial"]:
    """Compute `instance_functional.flat_group_norm` with torch's own operations.

    Args:
        x: Input of shape (N, C, *spatial), not empty.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G, at most D.
        eps: Added to the variance.

    Returns:
        Output of the shape, dtype and memory format of x.
    """
    num_samples, num_elements = x.shape[0], math.prod(x.shape[1:])
    flat = x.reshape(num_samples, num_elements)
    pieces = []
    for _, block_groups, first_element, group_size in group_blocks(num_elements, num_groups=num_groups):
        piece = flat.narrow(1, first_element, block_groups * group_size)
        grouped = piece.reshape(num_samples, block_groups, group_size)
        y = torch.group_norm(grouped, block_groups, None, None, eps, torch.backends.cudnn.enabled)
        pieces.append(y.reshape(num_samples, block_groups * group_size))
    y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    return restore_memory_format(channel_affine(y.view(x.shape), x, weight, bias), x)


def plain_positional_norm(
    x: Float[Tensor, "N C *spatial"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    eps: float = 1e-5,
) -> Float[Tensor, "N C *spatial"]:
    """Compute `instance_functional.positional_norm` with torch's own operations.

    Args:
        x: Input of shape (N, C, *spatial).
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        eps: Added to the variance.

    Returns:
        Output of the shape, dtype and memory format of x.
    """
    dtype = x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
    channels_last = x.to(dtype).movedim(1, -1)
    y = F.layer_norm(channels_last, (x.shape[1],), weight, bias, eps).movedim(-1, 1)
    return restore_memory_format(y.to(x.dtype), x)


def channel_affine(
    y: Float[Tensor, "N C *spatial"],
    x: Float[Tensor, "N C *spatial"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
) -> Float[Tensor, "N C *spatial"]:
    """Scale and shift each channel, and give the result the dtype of the layer's input.

    y'[n, c, ...] = weight[c] · y[n, c, ...] + bias[c] (eq. 5).

    Args:
        y: Normalised input.
        x: Input of the layer, for its dtype.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.

    Returns:
        A tensor of the shape of y and the dtype of x.
    """
    per_channel = (1, -1, *(1 for _ in x.shape[2:]))
    if weight is not None:
        y = y * weight.view(per_channel)
    if bias is not None:
        y = y + bias.view(per_channel)
    return y.to(x.dtype)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Give the dtype in which statistics of x are computed and kept: float32 for half precision, else that of x.

    Args:
        x: Input.

    Returns:
        torch.float32 or the dtype of x.
    """
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


class _BlockOptions(NamedTuple):
    """The options of `batch_group_norm` that concern the statistics of one block."""

    training: bool
    momentum: float
    eps: float
    unbiased_running_var: bool


def _normalise_block(
    grouped: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    options: _BlockOptions,
) -> Tensor:
    """Normalise (N, groups, ...) per group; the kernel of batch norm has a group for each of its channels."""
    training, momentum, eps, unbiased = options
    if unbiased or not training or running_mean is None or running_var is None:
        return F.batch_norm(grouped, running_mean, running_var, scale, shift, training, momentum, eps)
    # With momentum 1 the kernel hands out the batch's own mean and unbiased variance.
    mean, var = torch.zeros_like(running_mean), torch.ones_like(running_var)
    y = F.batch_norm(grouped, mean, var, scale, shift, True, 1.0, eps)
    num_values = grouped.numel() // grouped.shape[1]
    with torch.no_grad():
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * ((num_values - 1) / num_values), momentum)
    return y


def affine_parameters(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Give the affine parameters in the dtype of the statistics, as the batch-norm kernels want them."""
    dtype = statistics_dtype(x)
    if weight is not None and weight.dtype is not dtype:
        weight = weight.to(dtype)
    if bias is not None and bias.dtype is not dtype:
        bias = bias.to(dtype)
    return weight, bias


def _repeat(values: Tensor | None, repeats: int) -> Tensor | None:
    """Repeat each element, e.g. group statistics for the channels of the group."""
    return values if values is None or repeats == 1 else values.repeat_interleave(repeats)


def _first(values: Tensor | None, count: int) -> Tensor | None:
    """Give the first elements as a view: under "clamp" fewer groups are in force than the buffers have."""
    return values if values is None or values.shape[0] == count else values.narrow(0, 0, count)
