"""Batch Group Normalization and flat group normalization in one step, by kernels that keep the input alone.

Statistics, their combination per group, and one scale and shift per piece of a channel and a group, forward and
backward. The kernels are for plain tensors outside of any transform; whatever else may come (compilers, `torch.func`,
forward-mode and double differentiation, tensor subclasses) falls back to `norm_layers.plain`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from norm_layers.cpu_kernel import cpu_differentiate, cpu_functions, cpu_normalise
from norm_layers.groups import Uneven
from norm_layers.plain import affine_parameters, plain_batch_group_norm, plain_flat_group_norm, statistics_dtype
from norm_layers.plan import MatrixLayout, batch_layout
from norm_layers.shapes import memory_format, restore_memory_format


def fused_batch_group_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    num_groups: int,
    momentum: float,
    eps: float,
    uneven: Uneven,
    unbiased_running_var: bool,
) -> Tensor | None:
    """Compute `batch_group_norm` in training with a kernel, where one serves.

    Args:
        x: Input of shape (N, C, *spatial), not empty.
        running_mean: Running mean per group, moved in place. None: not kept.
        running_var: Running variance per group, likewise.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G.
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.
        uneven: As in `groups_in_force`.
        unbiased_running_var: Whether the running variance is unbiased.

    Returns:
        The output; None where the caller is to take torch's own operations, with nothing changed.

    Raises:
        ValueError: As in `batch_group_norm`.
    """
    if not _is_eager(x, weight, bias) or x.device.type != "cpu" or x.dtype not in cpu_functions():
        return None
    channels_last = memory_format(x) is not torch.contiguous_format
    layout = batch_layout(tuple(x.shape), num_groups=num_groups, uneven=uneven, channels_last=channels_last)
    if layout.num_groups == layout.num_channels:
        return None  # batch normalization, which is torch's own to the last bit
    dtype = statistics_dtype(x)
    if not (_fits(running_mean, num_groups, dtype) and _fits(running_var, num_groups, dtype)):
        return None
    options = _Options(layout, momentum, unbiased_running_var, eps)
    return _normalise(x, weight, bias, running_mean, running_var, options)


def fused_flat_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *, num_groups: int, eps: float
) -> Tensor | None:
    """Compute `flat_group_norm` with a kernel, where one serves.

    Args:
        x: Input of shape (N, C, *spatial), not empty.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G, at most D.
        eps: Added to the variance.

    Returns:
        The output; None where the caller is to take torch's own operations.
    """
    if not _is_eager(x, weight, bias) or x.device.type != "cpu" or x.dtype not in cpu_functions():
        return None
    num_samples, num_channels = x.shape[:2]
    layout = MatrixLayout(
        rows=1,
        columns=x.numel(),
        num_channels=num_channels,
        num_groups=num_samples * num_groups,
        channel_columns=x.numel() // (num_samples * num_channels),
        channels_last=False,
        samples=num_samples,
    )
    options = _Options(layout, 0.0, False, eps)
    return _normalise(x, weight, bias, None, None, options)


def _normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    options: "_Options",
) -> Tensor | None:
    """Run the kernel on x in the memory format of the layout, unless it cannot read the parameters."""
    scale, shift = affine_parameters(x, weight, bias)
    num_channels, dtype = options.layout.num_channels, statistics_dtype(x)
    if not (_fits(scale, num_channels, dtype) and _fits(shift, num_channels, dtype)):
        return None
    if memory_format(x) is torch.contiguous_format:
        return _FusedNorm.apply(x.contiguous(), scale, shift, running_mean, running_var, options)
    matrix = x.contiguous(memory_format=_form(x, options.layout))
    y = _FusedNorm.apply(matrix, scale, shift, running_mean, running_var, options)
    return restore_memory_format(y, x)


def _form(x: Tensor, layout: MatrixLayout) -> torch.memory_format:
    """Give the memory format in which x is the matrix of a layout."""
    return memory_format(x) if layout.channels_last else torch.contiguous_format


class _Options(NamedTuple):
    """The options of `_FusedNorm` that are no tensors.

    Args:
        layout: The input as a matrix.
        momentum: Weight of this batch in the running statistics.
        unbiased_running_var: Whether the running variance is unbiased.
        eps: Added to the variance.
    """

    layout: MatrixLayout
    momentum: float
    unbiased_running_var: bool
    eps: float


class _FusedNorm(torch.autograd.Function):
    """The kernel and its derivative, whose own derivative is that of torch's operations."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        options: _Options,
    ) -> Tensor:
        y, statistics = cpu_normalise(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            options.layout,
            momentum=options.momentum,
            unbiased=options.unbiased_running_var,
            eps=options.eps,
        )
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.options = options
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        options = ctx.options
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return *_plain_gradients(dy, x, weight, bias, wanted, options), None, None, None
        dy = dy.contiguous(memory_format=_form(x, options.layout))
        dx, dweight, dbias = cpu_differentiate(dy, x, weight, statistics, options.layout, needs_input=wanted[0])
        return dx, dweight if wanted[1] else None, dbias if wanted[2] else None, None, None, None


def _plain_gradients(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, wanted: Sequence[bool], options: _Options
) -> list[Tensor | None]:
    """Give the gradients as functions of x, the parameters and dy that can be differentiated again."""
    layout, eps = options.layout, options.eps
    if layout.rows == 1:
        groups = layout.num_groups // layout.samples
        y = plain_flat_group_norm(x, weight, bias, num_groups=groups, eps=eps)
    else:
        y = plain_batch_group_norm(x, None, None, weight, bias, num_groups=layout.num_groups, training=True, eps=eps)
    inputs = [values for values, want in zip((x, weight, bias), wanted) if want and values is not None]
    gradients = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
    return [next(gradients) if want else None for want in wanted]


def _is_eager(*inputs: Tensor | None) -> bool:
    """Say whether a kernel may run: plain tensors, and nothing that wants to see torch's own operations instead."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
        and all(values is None or type(values) in (Tensor, nn.Parameter) for values in inputs)
    )


def _fits(values: Tensor | None, count: int, dtype: torch.dtype) -> bool:
    """Say whether a kernel can read parameters or running statistics as they lie in memory."""
    return values is None or (
        values.dtype is dtype and values.device.type == "cpu" and values.numel() == count and values.is_contiguous()
    )
