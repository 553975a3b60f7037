"""The CPU kernel behind plain Python calls: normalise by groups of the merged (C, H, W) axis, and the derivative."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from norm_layers.bands import BandLayout, plan_bands
from norm_layers.build import DTYPES, kernel_functions
from norm_layers.plan import MatrixLayout, plan_walk

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
_NUMBERS = ("rows", "columns", "groups", "channels", "bundles", "chunks", "wide_runs", "wide_segments", "inside")
_ARRAYS = (
    *("bundle_blocks", "bundle_groups", "block_starts", "group_starts", "run_starts", "block_runs", "group_runs"),
    *("segment_starts", "segment_groups", "segment_channels", "block_segments", "group_segments"),
)


_BAND_NUMBERS = (
    "problems", "samples", "positions", "channels", "groups", "bands", "bundles", "chunks", "inside",
)  # fmt: skip
_BAND_ARRAYS = ("band_starts", "cell_groups", "bundle_bands", "bundle_groups", "listed_groups", "group_values")


class _Bands(ctypes.Structure):
    """The struct `Bands` of the kernel."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _BAND_NUMBERS),
        *((name, _POINTER) for name in _BAND_ARRAYS),
    ]


class _Plan(ctypes.Structure):
    """The struct `Plan` of the kernel."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, _POINTER) for name in _ARRAYS),
    ]


class _Functions(NamedTuple):
    """The functions of the kernel for one dtype and one kind of layout."""

    normalise: Callable[..., None]
    evaluate: Callable[..., None]
    differentiate: Callable[..., None]


_ARGUMENTS: dict[str, list[Any]] = {
    "normalise": [_POINTER] * 9 + [_FLOAT, _INT, _FLOAT, _INT],
    "evaluate": [_POINTER] * 9 + [_FLOAT, _INT],
    "differentiate": [_POINTER] * 9 + [_INT, _INT],
}


@functools.cache
def cpu_functions() -> dict[tuple[type, torch.dtype], _Functions]:
    """Give the kernel's functions by layout and dtype of the input; the first call loads it, and builds it if need be.

    Returns:
        The functions; nothing where there is no kernel.
    """
    functions: dict[tuple[type, torch.dtype], _Functions] = {}
    for layout, prefix in ((MatrixLayout, ""), (BandLayout, "bands_")):
        found = kernel_functions({prefix + name: types for name, types in _ARGUMENTS.items()}, list(DTYPES))
        functions.update({(layout, DTYPES[kind]): _Functions(*calls) for kind, calls in found.items()})
    return functions


class CpuKernel(NamedTuple):
    """The kernel made ready for inputs of one shape: what every call needs, which costs as much as a small input.

    Args:
        layout: The input as a matrix, or in bands.
        form: Memory format of the input in that layout.
        functions: The functions of the kernel.
        plan: Address of how it walks over the input.
        kept_dtype: Dtype of the statistics, the scale and the shift.
        kept_shape: Shape of means over reciprocal standard deviations.
        kept_bytes: Bytes of either.
        alive: What lies at the plan's address.
    """

    layout: MatrixLayout | BandLayout
    form: torch.memory_format
    functions: _Functions
    plan: int
    kept_dtype: torch.dtype
    kept_shape: tuple[int, int]
    kept_bytes: int
    alive: object


def cpu_kernel(layout: MatrixLayout | BandLayout, form: torch.memory_format, dtype: torch.dtype) -> CpuKernel | None:
    """Make the kernel ready.

    Args:
        layout: The input as a matrix, or in bands.
        form: Memory format of the input in that layout.
        dtype: That of the input.

    Returns:
        The kernel; None where there is none.
    """
    functions = cpu_functions().get((type(layout), dtype))
    if functions is None:
        return None
    if isinstance(layout, BandLayout):
        plan, alive = _band_plan(layout, dtype.itemsize)
    else:
        plan, alive = _matrix_plan(layout, dtype.itemsize)
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    count = layout.num_statistics
    return CpuKernel(layout, form, functions, plan, kept, (2, count), count * kept.itemsize, alive)


class KernelOptions(NamedTuple):
    """What the kernel is told beside tensors.

    Args:
        kernel: The kernel for the input's shape.
        training: Whether the batch's statistics normalise, else the running ones.
        momentum: Weight of this batch in the running statistics.
        unbiased: Whether the running variance is unbiased.
        eps: Added to the variance.
    """

    kernel: CpuKernel
    training: bool
    momentum: float
    unbiased: bool
    eps: float


def cpu_normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    options: KernelOptions,
) -> tuple[Tensor, Tensor]:
    """Normalise by the batch's statistics and move the running ones, or, in evaluation, normalise by these.

    Args:
        x: Input, dense and in the memory order of the layout.
        weight: Scale per channel in the dtype of the statistics. None: 1.
        bias: Shift per channel, likewise. None: 0.
        running_mean: Running mean per group, likewise; in training moved in place. None: not kept.
        running_var: Running variance per group, likewise.
        options: The rest.

    Returns:
        The output, and means over reciprocal standard deviations, shape (2, G).
    """
    kernel, training, momentum, unbiased, eps = options
    y = torch.empty_like(x)
    statistics = x.new_empty(kernel.kept_shape, dtype=kernel.kept_dtype)
    means = statistics.data_ptr()
    tensors = (
        kernel.plan,
        x.data_ptr(),
        y.data_ptr(),
        None if weight is None else weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        means,
        means + kernel.kept_bytes,
        None if running_mean is None else running_mean.data_ptr(),
        None if running_var is None else running_var.data_ptr(),
    )
    if training:
        kernel.functions.normalise(*tensors, momentum, unbiased, eps, torch.get_num_threads())
    else:
        kernel.functions.evaluate(*tensors, eps, torch.get_num_threads())
    return y, statistics


def cpu_differentiate(
    dy: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, options: KernelOptions, *, needs_input: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Give the gradients of `cpu_normalise`.

    Args:
        dy: Gradient of the output, in the memory order of x.
        x: Input.
        weight: Scale per channel. None: 1.
        statistics: As `cpu_normalise` gave them.
        options: As `cpu_normalise` was told.
        needs_input: Whether the input's gradient is wanted.

    Returns:
        Gradients of x (None if not wanted), of the scale and of the shift.
    """
    kernel = options.kernel
    dx = torch.empty_like(x) if needs_input else None
    dweight = statistics.new_empty(kernel.layout.num_channels)
    dbias = torch.empty_like(dweight)
    means = statistics.data_ptr()
    kernel.functions.differentiate(
        kernel.plan,
        dy.data_ptr(),
        x.data_ptr(),
        None if dx is None else dx.data_ptr(),
        None if weight is None else weight.data_ptr(),
        means,
        means + kernel.kept_bytes,
        dweight.data_ptr(),
        dbias.data_ptr(),
        options.training,
        torch.get_num_threads(),
    )
    return dx, dweight, dbias


def _matrix_plan(layout: MatrixLayout, element_size: int) -> tuple[int, object]:
    """Give the address of the kernel's plan of a matrix, and what lies there."""
    walk = plan_walk(layout, element_size=element_size)
    runs, segments = walk.runs, walk.segments
    sizes = (layout.rows, layout.columns, layout.num_groups, layout.num_channels, len(walk.bundle_groups) - 1)
    arrays = [walk.bundle_blocks, walk.bundle_groups, walk.block_starts, layout.group_bounds()]
    arrays += [runs.starts, runs.block_offsets, runs.group_offsets]
    arrays += [segments.starts, segments.groups, segments.channels, segments.block_offsets, segments.group_offsets]
    arrays = [array.contiguous() for array in arrays]
    plan = _Plan(
        *sizes,
        walk.num_chunks,
        walk.wide_runs,
        walk.wide_segments,
        walk.inside,
        *(array.data_ptr() for array in arrays),
    )
    return ctypes.addressof(plan), (plan, arrays)


def _band_plan(layout: BandLayout, element_size: int) -> tuple[int, object]:
    """Give the same of an input in bands."""
    walk = plan_bands(layout, element_size=element_size)
    sizes = (*layout, len(walk.cell_groups), len(walk.bundle_bands) - 1, walk.num_chunks, walk.inside)
    arrays = [walk.band_starts, walk.cell_groups, walk.bundle_bands, walk.bundle_groups, walk.listed_groups]
    arrays = [array.contiguous() for array in (*arrays, walk.group_values)]
    bands = _Bands(*sizes, *(array.data_ptr() for array in arrays))
    return ctypes.addressof(bands), (bands, arrays)
