"""Positional normalization in one step on the CPU, by a kernel that keeps the input and two numbers per position.

Without it, a contiguous input is copied to channels_last and back, forward and backward.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from norm_layers.build import DTYPES, kernel_functions
from norm_layers.derivative import plain_gradients
from norm_layers.eager import is_eager, is_readable, wants_gradients
from norm_layers.plain import affine_parameters, plain_positional_norm, statistics_dtype

_LONG, _POINTER, _INT, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int, ctypes.c_double
_LEAST_POSITIONS = 16  # of a sample: a vector of float32


class _Functions(NamedTuple):
    """The functions of the kernel for one dtype."""

    normalise: Callable[..., None]
    differentiate: Callable[..., None]


_ARGUMENTS: dict[str, list[Any]] = {
    "positions": [_LONG] * 3 + [_POINTER] * 6 + [_FLOAT, _INT],
    "positions_gradient": [_LONG] * 3 + [_POINTER] * 8 + [_INT],
}


@functools.cache
def positional_functions() -> dict[torch.dtype, _Functions]:
    """Give the kernel's functions by dtype of the input.

    Returns:
        The functions; nothing where there is no kernel.
    """
    found = kernel_functions(_ARGUMENTS, list(DTYPES))
    return {DTYPES[kind]: _Functions(*functions) for kind, functions in found.items()}


def fused_positional_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Tensor | None:
    """Compute `positional_norm` with a kernel, where one serves.

    Args:
        x: Input of shape (N, C, *spatial).
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        eps: Added to the variance.

    Returns:
        The output; None where the caller is to take torch's own operations, as for inputs in channels_last.
    """
    if not is_eager(x, weight, bias) or not x.is_cpu or not x.is_contiguous() or x.dtype not in positional_functions():
        return None
    num_channels, dtype = x.shape[1], statistics_dtype(x)
    if x.numel() == 0 or math.prod(x.shape[2:]) < _LEAST_POSITIONS:
        return None
    weight, bias = affine_parameters(x, weight, bias)
    if not (is_readable(weight, x, num_channels, dtype) and is_readable(bias, x, num_channels, dtype)):
        return None
    if wants_gradients(x, weight, bias):
        return _PositionalNorm.apply(x, weight, bias, eps)
    return _normalise(x, weight, bias, eps)[0]


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Give samples, channels and positions."""
    num_samples, num_channels = x.shape[:2]
    return num_samples, num_channels, x.numel() // (num_samples * num_channels)


def _normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Give the output, and means over reciprocal standard deviations, shape (2, N * positions)."""
    sizes, y = _sizes(x), torch.empty_like(x)
    num_statistics = sizes[0] * sizes[2]
    statistics = torch.empty(2, num_statistics, dtype=statistics_dtype(x), device="cpu")
    means = statistics.data_ptr()
    positional_functions()[x.dtype].normalise(
        *sizes,
        x.data_ptr(),
        y.data_ptr(),
        None if weight is None else weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        means,
        means + num_statistics * statistics.element_size(),
        eps,
        torch.get_num_threads(),
    )
    return y, statistics


class _PositionalNorm(torch.autograd.Function):
    """The kernel and its derivative, whose own derivative is that of torch's operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, statistics = _normalise(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not is_eager(dy):
            norm = functools.partial(plain_positional_norm, eps=ctx.eps)
            return *plain_gradients(norm, (x, weight, bias), dy, wanted=wanted), None
        dy = dy.contiguous()
        dx = torch.empty_like(x) if wanted[0] else None
        affine = [torch.empty(x.shape[1], dtype=statistics.dtype, device="cpu") for _ in range(2)]
        means = statistics.data_ptr()
        positional_functions()[x.dtype].differentiate(
            *_sizes(x),
            dy.data_ptr(),
            x.data_ptr(),
            None if dx is None else dx.data_ptr(),
            None if weight is None else weight.data_ptr(),
            means,
            means + statistics.shape[1] * statistics.element_size(),
            affine[0].data_ptr(),
            affine[1].data_ptr(),
            torch.get_num_threads(),
        )
        return dx, affine[0] if wanted[1] else None, affine[1] if wanted[2] else None, None
