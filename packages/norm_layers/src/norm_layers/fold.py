"""Carry the statistics of a trained batch norm over to G groups, as pure functions.

Legend: C channels, G groups of the merged (C, H, W) axis with C slowest, so group g covers the channel interval
[g·C/G, (g+1)·C/G) whatever H and W are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from norm_layers.shapes import Float


class NormState(NamedTuple):
    """Running statistics and affine parameters of a norm layer.

    Args:
        running_mean: Mean per channel or group.
        running_var: Variance per channel or group.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor | None
    bias: Tensor | None


def pool_channel_statistics(
    mean: Float[Tensor, " C"], var: Float[Tensor, " C"], *, num_groups: int
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """Give the mean and variance of groups from those of the channels that they cover.

    m_g = sum_c a[g, c] · m_c, v_g = sum_c a[g, c] · (v_c + (m_c - m_g)²), with a[g, c] the part of group g that lies
    in channel c. A group inside one channel gets that channel's statistics.

    Args:
        mean: m_c, shape (C,).
        var: v_c, shape (C,).
        num_groups: G.

    Returns:
        m_g and v_g, shape (G,), of the dtype of their channel values.
    """
    num_channels = len(mean)
    if num_groups % num_channels == 0:
        return tuple(values.repeat_interleave(num_groups // num_channels) for values in (mean, var))  # type: ignore[return-value]
    # In units of 1/G of a channel all borders are integers, so the parts are exact.
    group_starts = torch.arange(num_groups, device=mean.device).unsqueeze(1) * num_channels
    channel_starts = torch.arange(num_channels, device=mean.device).unsqueeze(0) * num_groups
    ends = torch.minimum(group_starts + num_channels, channel_starts + num_groups)
    overlap = (ends - torch.maximum(group_starts, channel_starts)).clamp(min=0).double() / num_channels
    channel_mean, channel_var = mean.double(), var.double()
    group_mean = overlap @ channel_mean
    spread = (channel_mean.unsqueeze(0) - group_mean.unsqueeze(1)).square()
    group_var = (overlap * (channel_var.unsqueeze(0) + spread)).sum(dim=1)
    return group_mean.to(mean.dtype), group_var.to(var.dtype)


def fold_batch_norm(
    batch_norm: NormState, *, num_groups: int, source_eps: float, eps: float, repeat: bool = False
) -> NormState:
    """Turn a batch norm into a batch group norm with the same output in evaluation, at every resolution.

    With s = sqrt(var + eps): G dividing C gives weight' = weight · s_g / s_c and
    bias' = bias + weight · (m_g - m_c) / s_c over pooled statistics. Any other G has groups that may hold parts of
    several channels, depending on H·W: statistics (0, 1 - eps) and the whole batch norm in weight' and bias'.

    Args:
        batch_norm: Running statistics and affine parameters per channel.
        num_groups: G.
        source_eps: eps of the batch norm.
        eps: eps of the result.
        repeat: Where C divides G, give all groups of a channel its statistics and keep weight and bias instead. In
            training the layer then starts from the batch norm's own scale and shift, but in evaluation the output
            is the same only on maps whose H·W the quotient G/C divides.

    Returns:
        Statistics of length G and affine parameters of length C; None for a parameter that was None and stays so.

    Source:
        Algebra on eq. 4-5: both sides are the same affine map per channel.
    """
    mean, var, weight, bias = batch_norm
    num_channels = len(mean)
    one_channel_each = num_groups == num_channels or (repeat and num_groups % num_channels == 0)
    if one_channel_each and source_eps == eps:
        return NormState(*pool_channel_statistics(mean, var, num_groups=num_groups), weight, bias)
    dtype = mean.dtype if weight is None else weight.dtype
    scale = torch.ones_like(mean) if weight is None else weight
    shift = torch.zeros_like(mean) if bias is None else bias
    mean, var, scale, shift = (values.detach().double() for values in (mean, var, scale, shift))
    if num_channels % num_groups == 0 or one_channel_each:
        group_mean, group_var = pool_channel_statistics(mean, var, num_groups=num_groups)
    else:
        group_mean, group_var = mean.new_zeros(num_groups), mean.new_full((num_groups,), 1.0 - eps)
    of_channel = torch.arange(num_channels, device=mean.device) * num_groups // num_channels
    ratio = scale / torch.sqrt(var + source_eps)
    new_scale = ratio * torch.sqrt(group_var[of_channel] + eps)
    new_shift = shift + ratio * (group_mean[of_channel] - mean)
    statistics_dtype = batch_norm.running_mean.dtype
    return NormState(
        group_mean.to(statistics_dtype), group_var.to(statistics_dtype), new_scale.to(dtype), new_shift.to(dtype)
    )
