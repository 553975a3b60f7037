"""The CPU kernel behind plain Python calls: normalise a matrix by groups of its columns, and the derivative."""

import ctypes
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from norm_layers.build import load_kernel
from norm_layers.plan import MatrixLayout, cut_columns

_BLOCK = 512
_MAX_TASKS, _ROWS_PER_CHUNK = 32, 256
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_double


class _Plan(ctypes.Structure):
    """The struct `Plan` of the kernel."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "columns", "groups", "channels", "blocks", "chunks")),
        *((name, _POINTER) for name in ("run_starts", "run_groups", "block_runs")),
        *((name, _POINTER) for name in ("segment_starts", "segment_groups", "segment_channels", "block_segments")),
    ]


class _Functions(NamedTuple):
    """The two functions of the kernel for one dtype."""

    normalise: Callable[..., None]
    differentiate: Callable[..., None]


@functools.cache
def cpu_functions() -> dict[torch.dtype, _Functions]:
    """Give the kernel's functions by dtype of the input; the first call loads the kernel, and builds it if need be.

    Returns:
        The functions; nothing where there is no kernel.
    """
    library = load_kernel()
    if library is None:
        return {}
    functions = {}
    for dtype in _DTYPES:
        name = str(dtype).removeprefix("torch.")
        normalise, differentiate = library[f"normalise_{name}"], library[f"differentiate_{name}"]
        normalise.argtypes = [_POINTER] * 9 + [_FLOAT, _INT, _FLOAT, _INT]
        differentiate.argtypes = [_POINTER] * 9 + [_INT]
        normalise.restype = differentiate.restype = None
        functions[dtype] = _Functions(normalise, differentiate)
    return functions


def cpu_normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    layout: MatrixLayout,
    *,
    momentum: float,
    unbiased: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Normalise by the batch's statistics and move the running ones.

    Args:
        x: Input, dense and in the memory order of the layout.
        weight: Scale per channel in the dtype of the statistics. None: 1.
        bias: Shift per channel, likewise. None: 0.
        running_mean: Running mean per group, likewise; moved in place. None: not kept.
        running_var: Running variance per group, likewise.
        layout: The input as a matrix.
        momentum: Weight of this batch in the running statistics.
        unbiased: Whether the running variance is unbiased.
        eps: Added to the variance.

    Returns:
        The output, and means over reciprocal standard deviations, shape (2, G).
    """
    y = torch.empty_like(x)
    num_groups = layout.num_groups
    statistics = torch.empty(2, num_groups, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    means, step = statistics.data_ptr(), num_groups * statistics.element_size()
    cpu_functions()[x.dtype].normalise(
        _plan(layout)[0],
        x.data_ptr(),
        y.data_ptr(),
        None if weight is None else weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        means,
        means + step,
        None if running_mean is None else running_mean.data_ptr(),
        None if running_var is None else running_var.data_ptr(),
        momentum,
        unbiased,
        eps,
        torch.get_num_threads(),
    )
    return y, statistics


def cpu_differentiate(
    dy: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, layout: MatrixLayout, *, needs_input: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Give the gradients of `cpu_normalise`.

    Args:
        dy: Gradient of the output, in the memory order of x.
        x: Input.
        weight: Scale per channel. None: 1.
        statistics: As `cpu_normalise` gave them.
        layout: The input as a matrix.
        needs_input: Whether the input's gradient is wanted.

    Returns:
        Gradients of x (None if not wanted), of the scale and of the shift.
    """
    dx = torch.empty_like(x) if needs_input else None
    num_channels = layout.num_channels
    affine = torch.empty(2, num_channels, dtype=statistics.dtype)
    size, means, dweight = statistics.element_size(), statistics.data_ptr(), affine.data_ptr()
    cpu_functions()[x.dtype].differentiate(
        _plan(layout)[0],
        dy.data_ptr(),
        x.data_ptr(),
        None if dx is None else dx.data_ptr(),
        None if weight is None else weight.data_ptr(),
        means,
        means + layout.num_groups * size,
        dweight,
        dweight + num_channels * size,
        torch.get_num_threads(),
    )
    return dx, affine[0], affine[1]


@functools.lru_cache(maxsize=256)
def _plan(layout: MatrixLayout) -> tuple[int, object]:
    """Give the address of the kernel's plan, and what keeps it alive."""
    runs = cut_columns(layout, block_size=_BLOCK, by_channel=False)
    segments = cut_columns(layout, block_size=_BLOCK, by_channel=True)
    num_blocks = len(runs.block_offsets) - 1
    # By the shape alone, so that results are the same on any number of threads.
    num_chunks = max(1, min(layout.rows // _ROWS_PER_CHUNK, _MAX_TASKS // num_blocks))
    arrays = [runs.starts, runs.groups, runs.block_offsets]
    arrays += [segments.starts, segments.groups, segments.channels, segments.block_offsets]
    sizes = (layout.rows, layout.columns, layout.num_groups, layout.num_channels, num_blocks, num_chunks)
    plan = _Plan(*sizes, *(array.data_ptr() for array in arrays))
    return ctypes.addressof(plan), (plan, arrays)
