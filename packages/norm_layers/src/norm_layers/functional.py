"""Batch Group Normalization as pure functions.

Legend: N batch, C channels, `spatial` any axes after them, D = C·H·W, G groups, S = D/G elements of a group.
The merged axis d runs over the logical (C, H, W) with C slowest, and group g covers a contiguous run of it.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from norm_layers.shapes import Float, describe_shape, restore_memory_format

Uneven = Literal["split", "error", "clamp"]
UNEVEN_CHOICES: tuple[Uneven, ...] = get_args(Uneven)


class GroupBlock(NamedTuple):
    """A run of groups of one size: `num_groups` groups of `group_size` elements, from group and element on.

    Args:
        first_group: Index of the first group.
        num_groups: Groups in the run.
        first_element: Index d of the first element.
        group_size: Elements of each group.
    """

    first_group: int
    num_groups: int
    first_element: int
    group_size: int


def group_blocks(num_elements: int, *, num_groups: int) -> tuple[GroupBlock, ...]:
    """Cut D elements into G contiguous groups whose sizes differ by at most one (the rule of torch.tensor_split).

    The first D mod G groups have ceil(D/G) elements and the others floor(D/G), so two runs of equal size suffice.

    Args:
        num_elements: D.
        num_groups: G, at most D.

    Returns:
        One block where G divides D, otherwise two.
    """
    size, num_larger = num_elements // num_groups, num_elements % num_groups  # divmod cannot be traced
    if num_larger == 0:
        return (GroupBlock(0, num_groups, 0, size),)
    larger = GroupBlock(0, num_larger, 0, size + 1)
    return (larger, GroupBlock(num_larger, num_groups - num_larger, num_larger * (size + 1), size))


def groups_in_force(shape: torch.Size | tuple[int, ...], *, num_groups: int, uneven: Uneven) -> int:
    """Check G against the input's shape and give the number of groups that is used.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G asked for.
        uneven: Where G does not divide D: "split" takes sizes that differ by at most one, "error" raises, "clamp"
            splits too and takes D groups where G is above D.

    Returns:
        G, or D where it was clamped.

    Raises:
        ValueError: If G is above D (unless "clamp"), or does not divide D under "error".
    """
    num_elements = math.prod(shape[1:])
    if num_groups > num_elements and uneven != "clamp":
        raise ValueError(
            f"num_groups must be at most D = C·H·W; got {describe_shape(shape, num_groups)}. "
            "Take fewer groups, or uneven='clamp' for D groups at such layers."
        )
    if uneven == "error" and num_elements % num_groups != 0:
        raise ValueError(
            f"num_groups must divide D = C·H·W under uneven='error'; got {describe_shape(shape, num_groups)}. "
            "Take another G, or uneven='split' for groups whose sizes differ by at most one."
        )
    return min(num_groups, num_elements)


def check_values_per_statistic(shape: torch.Size | tuple[int, ...], *, num_groups: int) -> None:
    """Raise if some group has a single value in the whole batch: its variance would be zero.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G in force.

    Raises:
        ValueError: If N·floor(D/G) is 1 or less.
    """
    if shape[0] * (math.prod(shape[1:]) // num_groups) <= 1:
        raise ValueError(
            "Expected more than 1 value per channel (group) when training; got "
            f"{describe_shape(shape, num_groups)}, which is 1 value per statistic. "
            "Take a larger batch, fewer groups, or call eval()."
        )


def batch_group_norm(
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
    """Normalise groups of the merged (C, H, W) axis by statistics over the batch and the group.

    m_g = mean over n and d in group g of f[n, d], v_g = mean of (f[n, d] - m_g)² (biased), then
    y[n, d] = weight[c(d)] · (f[n, d] - m_g(d)) / sqrt(v_g(d) + eps) + bias[c(d)] with c(d) = d // (H·W).

    Training: m_g and v_g are the batch's, and the running statistics, where given, are updated in place:
    r ← r + momentum · (batch value - r). Evaluation: m_g and v_g are the running statistics.
    With G = C this is batch normalization, bit for bit in its running statistics.

    Args:
        x: Input of shape (N, C, *spatial), any floating dtype; half precision accumulates in float32.
        running_mean: Running m_g of shape (G,), float32 beside half-precision input. None: not kept.
        running_var: Running v_g of shape (G,). None: not kept.
        weight: Scale gamma per channel. None: 1.
        bias: Shift beta per channel. None: 0.
        num_groups: G.
        training: Whether to normalise by the batch's statistics.
        momentum: Weight of this batch in the running statistics, from 0 to 1.
        eps: Added to the variance, in the input's units squared.
        uneven: As in `groups_in_force`.
        unbiased_running_var: Whether the running variance takes v_g · n/(n-1), as torch does, or v_g (eq. 9).

    Returns:
        Output of the shape, dtype and memory format of x.

    Raises:
        ValueError: If G does not fit the shape, a statistic has one value in training, or evaluation has no
            running statistics.

    Source:
        BGN paper, eq. 8, 9, 4 and 5.
    """
    if not training and (running_mean is None or running_var is None):
        raise ValueError("running_mean and running_var must be tensors where training is False; got None.")
    num_channels = x.shape[1]
    if not training and num_channels % num_groups == 0:
        # Groups of whole channels: an ordinary batch norm per channel, at every resolution and in any memory format.
        repeats = num_channels // num_groups
        means, variances = (_repeat(statistic, repeats) for statistic in (running_mean, running_var))
        return F.batch_norm(x, means, variances, *_parameters(x, weight, bias), False, 0.0, eps)

    if x.numel() == 0:
        return channel_affine(x, x, weight, bias)
    num_groups = groups_in_force(x.shape, num_groups=num_groups, uneven=uneven)
    if training:
        check_values_per_statistic(x.shape, num_groups=num_groups)
    options = _BlockOptions(training, momentum, eps, unbiased_running_var)
    if num_groups == num_channels:
        statistics = (_first(running_mean, num_groups), _first(running_var, num_groups))
        return _normalise_block(x, *statistics, *_parameters(x, weight, bias), options)

    num_samples, num_elements = x.shape[0], math.prod(x.shape[1:])
    blocks = group_blocks(num_elements, num_groups=num_groups)
    if len(blocks) == 1 and num_groups % num_channels == 0:
        # Groups inside one channel each: the affine goes into the same kernel, which then saves one input less.
        scale, shift = (_repeat(p, num_groups // num_channels) for p in _parameters(x, weight, bias))
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


def _parameters(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Give the affine parameters in the dtype of the statistics, as the batch-norm kernels want them."""
    dtype = statistics_dtype(x)
    return (None if weight is None else weight.to(dtype), None if bias is None else bias.to(dtype))


def _repeat(values: Tensor | None, repeats: int) -> Tensor | None:
    """Repeat each element, e.g. group statistics for the channels of the group."""
    return values if values is None or repeats == 1 else values.repeat_interleave(repeats)


def _first(values: Tensor | None, count: int) -> Tensor | None:
    """Give the first elements as a view: under "clamp" fewer groups are in force than the buffers have."""
    return values if values is None or values.shape[0] == count else values.narrow(0, 0, count)
