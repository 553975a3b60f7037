"""Batch Group Normalization with statistics summed over several ranks, and the sum that it takes.

Legend as in `functional`: N batch of this rank, C channels, D = C·H·W, G groups.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from norm_layers.groups import Uneven, group_blocks, groups_in_force
from norm_layers.plain import channel_affine, statistics_dtype
from norm_layers.shapes import Float, describe_shape, restore_memory_format


@runtime_checkable
class AllReduce(Protocol):
    """Differentiable sum of a tensor over ranks; all of them must call it."""

    @property
    def is_local(self) -> bool:
        """Whether there is one rank, so that the sum is the tensor itself."""
        ...

    def __call__(self, values: Tensor) -> Tensor:
        """Sum `values` over the ranks."""
        ...


class AllReduceSum:
    """Sum a tensor over the ranks of a process group, with the gradient of that sum.

    Without an initialised process group, or with one rank, it gives the tensor back.

    Args:
        process_group: Ranks to sum over. None for all.
    """

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self.process_group = process_group

    @property
    def is_local(self) -> bool:
        """Whether there is one rank, so that the sum is the tensor itself."""
        return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(self.process_group) == 1

    def __call__(self, values: Tensor) -> Tensor:
        """Sum `values` over the ranks; all of them must call this."""
        return values if self.is_local else _AllReduceSum.apply(values, self.process_group)


def synchronised_batch_group_norm(
    x: Float[Tensor, "N C *spatial"],
    running_mean: Float[Tensor, " G"] | None,
    running_var: Float[Tensor, " G"] | None,
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    all_reduce: Callable[[Tensor], Tensor],
    num_batches_tracked: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    uneven: Uneven = "split",
    unbiased_running_var: bool = True,
) -> Float[Tensor, "N C *spatial"]:
    """Normalise by batch statistics over the samples of all ranks, in training.

    The counts and sums are reduced first, then the centred sums of squares: with the mean of all ranks subtracted
    there is no cancellation. Ranks may have different numbers of samples, or none, but must all make the call. Where
    no rank has a sample, running statistics and counter stay as they are.

    Args:
        x: This rank's part of the batch, shape (N, C, *spatial); N may be 0.
        running_mean: Running mean per group, updated in place. None: not kept.
        running_var: Running variance per group, updated in place. None: not kept.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G.
        all_reduce: Sum of a tensor over the ranks, with the gradient of that sum.
        num_batches_tracked: Counter of batches, moved in place. None: not kept.
        momentum: Weight of this batch in the running statistics, from 0 to 1.
        eps: Added to the variance, in the input's units squared.
        uneven: As in `batch_group_norm`.
        unbiased_running_var: As in `batch_group_norm`; n counts the values of all ranks.

    Returns:
        This rank's part of the output.

    Raises:
        ValueError: If G does not fit the shape; on the CPU also, on every rank, if some group has a single value over
            all ranks. On an accelerator that would cost a wait for it: the output is the bias there, as it is where
            all values are equal, and the running variance moves towards 0.

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
    total_count = total_count.detach()
    if total_count.device.type == "cpu" and not torch.compiler.is_compiling() and bool((total_count == 1).any()):
        raise ValueError(
            "Expected more than 1 value per channel (group) when training; got "
            f"{describe_shape(x.shape, num_groups)} on this rank, which is 1 value per statistic over all ranks. "
            "Take a larger batch, fewer groups, or call eval()."
        )
    any_sample = total_count > 0
    total_count = total_count.clamp(min=1.0)
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
            for running, batch in ((running_mean, mean), (running_var, var * correction)):
                # A weight of 0 rather than a branch: the count is on the device, and asking for it would wait for it.
                running[:num_groups].lerp_(batch.to(running.dtype), any_sample.to(running.dtype) * momentum)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(any_sample.any().to(num_batches_tracked.dtype))
    return restore_memory_format(channel_affine(y.view(x.shape), x, weight, bias), x)


class _AllReduceSum(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
        ctx.process_group = process_group
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(gradient, ctx.process_group), None
