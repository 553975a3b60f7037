"""Batch Group Normalization and flat group normalization in one step, by kernels that keep the input alone.

Statistics, their combination per group, and one scale and shift per piece of a channel and a group, forward and
backward. The kernels are for plain tensors outside of any transform; whatever else may come (compilers, `torch.func`,
forward-mode and double differentiation, tensor subclasses) falls back to `norm_layers.plain`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from norm_layers.bands import BandLayout
from norm_layers.cpu_kernel import CpuKernel, KernelOptions, cpu_differentiate, cpu_kernel, cpu_normalise
from norm_layers.cpu_transpose import in_format
from norm_layers.derivative import plain_gradients
from norm_layers.eager import is_eager, is_readable, wants_gradients
from norm_layers.groups import Uneven
from norm_layers.plain import affine_parameters, plain_batch_group_norm, plain_flat_group_norm, statistics_dtype
from norm_layers.plan import MatrixLayout, batch_layout
from norm_layers.shapes import memory_format
from norm_layers.triton_route import triton_normalise, triton_serves


def fused_batch_group_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    num_groups: int,
    training: bool,
    momentum: float,
    eps: float,
    uneven: Uneven,
    unbiased_running_var: bool,
) -> Tensor | None:
    """Compute `batch_group_norm` with a kernel, where one serves.

    Args:
        x: Input of shape (N, C, *spatial), not empty.
        running_mean: Running mean per group, moved in place in training. None: not kept, in training alone.
        running_var: Running variance per group, likewise.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G.
        training: Whether to normalise by the batch's statistics.
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.
        uneven: As in `groups_in_force`.
        unbiased_running_var: Whether the running variance is unbiased.

    Returns:
        The output; None where the caller is to take torch's own operations, with nothing changed.

    Raises:
        ValueError: As in `batch_group_norm`.
    """
    if not is_eager(x, weight, bias) or not (x.is_cpu or (training and triton_serves(x))):
        return None
    if (running_mean is None) is not (running_var is None):
        return None  # which torch refuses
    dtype = statistics_dtype(x)
    if not (is_readable(running_mean, x, num_groups, dtype) and is_readable(running_var, x, num_groups, dtype)):
        return None
    form = torch.contiguous_format if x.is_contiguous() else memory_format(x)
    if x.is_cpu:
        kernel = _batch_kernel(x.shape, x.dtype, form, num_groups, uneven, training)
        if kernel is None:
            return None
        options = KernelOptions(kernel, training, momentum, unbiased_running_var, eps)
        return _normalise(x, weight, bias, running_mean, running_var, options)
    layout = batch_layout(x.shape, num_groups, uneven, form is not torch.contiguous_format, training)
    if layout.num_groups == layout.num_channels:
        return None  # batch normalization, which is torch's own to the last bit
    if layout.num_groups % layout.num_channels == 0 and layout.columns % layout.num_groups == 0:
        return None  # groups inside channels: batch normalization of a view, in one call of torch's own
    affine = _affine(x, weight, bias)
    if affine is None:
        return None
    matrix = in_format(x, form if layout.channels_last else torch.contiguous_format)
    y = triton_normalise(
        matrix, *affine, running_mean, running_var, layout, momentum=momentum, unbiased=unbiased_running_var, eps=eps
    )
    return y if matrix is x else in_format(y, form)


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
    if not is_eager(x, weight, bias) or not x.is_cpu:
        return None
    form = torch.contiguous_format if x.is_contiguous() else memory_format(x)
    kernel = _flat_kernel(x.shape, x.dtype, form, num_groups)
    if kernel is None:
        return None
    return _normalise(x, weight, bias, None, None, KernelOptions(kernel, True, 0.0, False, eps))


@functools.lru_cache(maxsize=256)
def _batch_kernel(
    shape: torch.Size, dtype: torch.dtype, form: torch.memory_format, num_groups: int, uneven: Uneven, training: bool
) -> CpuKernel | None:
    """Give the CPU kernel that takes statistics over a batch of this shape, or None where torch's own serves."""
    channels_last = form is not torch.contiguous_format
    matrix = batch_layout(shape, num_groups, uneven, channels_last, training)
    if matrix.num_groups == matrix.num_channels:
        return None  # batch normalization, which is torch's own to the last bit
    bands = BandLayout(1, shape[0], math.prod(shape[2:]), matrix.num_channels, matrix.num_groups)
    if channels_last and bands.is_thick:
        return cpu_kernel(bands, form, dtype)
    return cpu_kernel(matrix, form if matrix.channels_last else torch.contiguous_format, dtype)


@functools.lru_cache(maxsize=256)
def _flat_kernel(
    shape: torch.Size, dtype: torch.dtype, form: torch.memory_format, num_groups: int
) -> CpuKernel | None:
    """Give the CPU kernel that takes statistics over each sample of this shape, or None where there is none."""
    num_samples, num_channels, *spatial = shape
    positions = math.prod(spatial)
    bands = BandLayout(num_samples, 1, positions, num_channels, num_groups)
    if form is not torch.contiguous_format and bands.is_thick:
        return cpu_kernel(bands, form, dtype)
    matrix = MatrixLayout(
        rows=1,
        columns=num_samples * num_channels * positions,
        num_channels=num_channels,
        num_groups=num_samples * num_groups,
        channel_columns=positions,
        channels_last=False,
        samples=num_samples,
    )
    return cpu_kernel(matrix, torch.contiguous_format, dtype)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None] | None:
    """Give scale and shift in the dtype of the statistics; None where a kernel cannot read them."""
    weight, bias = affine_parameters(x, weight, bias)
    num_channels, dtype = x.shape[1], statistics_dtype(x)
    if is_readable(weight, x, num_channels, dtype) and is_readable(bias, x, num_channels, dtype):
        return weight, bias
    return None


def _normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    options: KernelOptions,
) -> Tensor | None:
    """Run the CPU kernel on x in its memory format, unless it cannot read the parameters."""
    affine = _affine(x, weight, bias)
    if affine is None:
        return None
    matrix = in_format(x, options.kernel.form)
    if wants_gradients(x, *affine):
        y = _FusedNorm.apply(matrix, *affine, (running_mean, running_var), options)
    else:
        y, _ = cpu_normalise(matrix, *affine, running_mean, running_var, options)
    return y if matrix is x else in_format(y, memory_format(x))


class _FusedNorm(torch.autograd.Function):
    """The kernel and its derivative, whose own derivative is that of torch's operations."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        options: KernelOptions,
    ) -> Tensor:
        y, statistics = cpu_normalise(x, weight, bias, *running, options)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.options = options
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        options = ctx.options
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not is_eager(dy):
            dx, *affine = _plain_gradients(dy, x, weight, bias, statistics, wanted, options)
            if dx is not None and is_eager(dx):
                dx = in_format(dx, options.kernel.form)
            return dx, *affine, None, None
        dy = in_format(dy, options.kernel.form)
        dx, dweight, dbias = cpu_differentiate(dy, x, weight, statistics, options, needs_input=wanted[0])
        return dx, dweight if wanted[1] else None, dbias if wanted[2] else None, None, None


def _plain_gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    wanted: Sequence[bool],
    options: KernelOptions,
) -> list[Tensor | None]:
    """Give the gradients through torch's own operations."""
    layout, eps = options.kernel.layout, options.eps

    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        groups = layout.num_groups
        if not options.training:
            mean, inverse = statistics  # as they were: the layer's own may have moved since
            var = inverse.pow(-2) - eps
            return plain_batch_group_norm(x, mean, var, weight, bias, num_groups=groups, training=False, eps=eps)
        if layout.flat_groups is not None:
            return plain_flat_group_norm(x, weight, bias, num_groups=layout.flat_groups, eps=eps)
        return plain_batch_group_norm(x, None, None, weight, bias, num_groups=groups, training=True, eps=eps)

    return plain_gradients(normalise, (x, weight, bias), dy, wanted=wanted)
