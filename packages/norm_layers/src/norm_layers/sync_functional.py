"""Batch Group Normalization with statistics summed over several ranks, as a pure function.

Legend as in `functional`: N batch of this rank, C channels, D = C·H·W, G groups.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from norm_layers.functional import Uneven, channel_affine, group_blocks, groups_in_force, statistics_dtype
from norm_layers.shapes import Float, restore_memory_format

AllReduce = Callable[[Tensor], Tensor]


def synchronised_batch_group_norm(
    x: Float[Tensor, "N C *spatial"],
    running_mean: Float[Tensor, " G"] | None,
    running_var: Float[Tensor, " G"] | None,
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    all_reduce: AllReduce,
    momentum: float = 0.1,
    eps: float = 1e-5,
    uneven: Uneven = "split",
    unbiased_running_var: bool = True,
) -> Float[Tensor, "N C *spatial"]:
    """Normalise by batch statistics over the samples of all ranks, in training.

    The counts and sums are reduced first, then the centred sums of squares: with the mean of all ranks subtracted
    there is no cancellation. Ranks may have different numbers of samples, or none, but must all make the call.

    Args:
        x: This rank's part of the batch, shape (N, C, *spatial); N may be 0.
        running_mean: Running mean per group, updated in place. None: not kept.
        running_var: Running variance per group, updated in place. None: not kept.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G.
        all_reduce: Sum of a tensor over the ranks, with the gradient of that sum.
        momentum: Weight of this batch in the running statistics, from 0 to 1.
        eps: Added to the variance, in the input's units squared.
        uneven: As in `batch_group_norm`.
        unbiased_running_var: As in `batch_group_norm`; n counts the values of all ranks.

    Returns:
        This rank's part of the output.

    Raises:
        ValueError: If G does not fit the shape.

    Source:
        BGN paper, eq. 8, 9, 4 and 5, with n over the samples of all ranks.
    """
    num_samples, num_elements = x.shape[0], math.prod(x.shape[1:])
    num_groups = groups_in_force(x.shape, num_groups=num_groups, uneven=uneven)
    blocks = group_blocks(num_elements, num_groups=num_groups)
    flat = x.reshape(num_samples, num_elements).to(statistics_dtype(x))
    grouped = [
        flat.narrow(1, block.first_element, block.num_groups * block.group_size).reshape(
            num_samples, block.num_groups, block.group_size
        )
        for block in blocks
    ]
    counts = torch.cat([flat.new_full((b.num_groups,), float(num_samples * b.group_size)) for b in blocks])
    sums = torch.cat([values.sum(dim=(0, 2)) for values in grouped])
    total_sum, total_count = all_reduce(torch.stack([sums, counts])).unbind()
    total_count = total_count.detach().clamp(min=1.0)
    mean = total_sum / total_count
    centred = [
        values - mean.narrow(0, block.first_group, block.num_groups).unsqueeze(-1)
        for values, block in zip(grouped, blocks)
    ]
    var = all_reduce(torch.cat([values.square().sum(dim=(0, 2)) for values in centred])) / total_count
    inverse = torch.rsqrt(var + eps)
    y = torch.cat(
        [
            (values * inverse.narrow(0, block.first_group, block.num_groups).unsqueeze(-1)).flatten(1)
            for values, block in zip(centred, blocks)
        ],
        dim=1,
    )
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            correction = total_count / (total_count - 1).clamp(min=1.0) if unbiased_running_var else 1.0
            running_mean[:num_groups].lerp_(mean.to(running_mean.dtype), momentum)
            running_var[:num_groups].lerp_((var * correction).to(running_var.dtype), momentum)
    return restore_memory_format(channel_affine(y.view(x.shape), x, weight, bias), x)
