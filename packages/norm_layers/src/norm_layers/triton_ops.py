"""The Triton kernels as operators of torch, with shapes for tracing and derivatives.

`torch.ops.norm_layers.normalise(x, weight, bias, num_groups, channels_last, unbiased, eps)` gives the output and, per
group, mean, reciprocal standard deviation and variance; `differentiate` its gradients.
"""

import contextlib
import functools
import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from norm_layers import triton_kernels as kernels
from norm_layers.derivative import plain_gradients
from norm_layers.plain import plain_batch_group_norm
from norm_layers.plan import ColumnPieces, MatrixLayout, cut_columns

_BLOCK, _TILE = 1024, 4096  # columns of a piece at most, values of a tile
_PROGRAMS = 1024  # enough to fill a GPU
_PIECES = 128
# On the CPU through Triton's interpreter, which shows that the numbers are right and nothing else.
_DEVICES = ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",)


def matrix_layout(x: Tensor, *, num_groups: int, channels_last: bool) -> MatrixLayout:
    """Give x as a matrix.

    Args:
        x: Input of shape (N, C, *spatial), dense in the memory format meant.
        num_groups: G in force.
        channels_last: Whether a row is a position instead of a sample.

    Returns:
        The matrix.
    """
    num_channels = x.shape[1]
    positions = x.numel() // (x.shape[0] * num_channels)
    if channels_last:
        return MatrixLayout(x.shape[0] * positions, num_channels, num_channels, num_groups, 1, True)
    return MatrixLayout(x.shape[0], num_channels * positions, num_channels, num_groups, positions, False)


class _Launch(NamedTuple):
    """How a kind of kernel is spread over a matrix: programs, and the tile of each."""

    grid: tuple[int, int]
    chunk_rows: int
    tile: dict[str, int]


class _Pieces(NamedTuple):
    """Pieces on the device, where those of each group (then of each channel) begin, and how to reduce them."""

    starts: Tensor
    groups: Tensor
    channels: Tensor
    offsets: Tensor
    launch: _Launch

    @property
    def number(self) -> int:
        """Number of pieces."""
        return len(self.groups)

    def partial(self) -> tuple[Tensor, Tensor]:
        """Give room for two numbers per piece and chunk."""
        room = torch.empty(2, self.launch.grid[1], self.number, device=self.starts.device)
        return room[0], room[1]


class _Plan(NamedTuple):
    """Everything about a matrix that does not depend on its values."""

    layout: MatrixLayout
    runs: _Pieces
    segments: _Pieces
    blocks: _Launch
    num_larger: int
    size: int


@functools.lru_cache(maxsize=256)
def plan(layout: MatrixLayout, device: torch.device) -> _Plan:
    """Cut a matrix and spread it over programs; the result is kept, so that a CUDA graph finds it on the device.

    Args:
        layout: The matrix.
        device: Where its values lie.

    Returns:
        The plan.
    """
    size, num_larger = divmod(layout.columns, layout.num_groups)
    blocks = torch.tensor([*range(0, layout.columns, _BLOCK), layout.columns], device="cpu")
    segments = cut_columns(layout, block_starts=blocks, by_channel=True)
    runs = segments if layout.channels_last else cut_columns(layout, block_starts=blocks, by_channel=False)
    width = min(_BLOCK, triton.next_power_of_2(layout.columns))
    return _Plan(
        layout,
        _place(layout, runs, device),
        _place(layout, segments, device),
        _spread(layout.rows, triton.cdiv(layout.columns, width), width),
        num_larger,
        size,
    )


def _place(layout: MatrixLayout, pieces: ColumnPieces, device: torch.device) -> _Pieces:
    """Put pieces on the device, with the programs that reduce them."""
    channel_bounds = torch.arange(0, layout.columns + 1, layout.channel_columns, device="cpu")
    offsets = [torch.searchsorted(pieces.starts, bounds) for bounds in (layout.group_bounds(), channel_bounds)]
    if layout.channels_last:
        width = min(128, triton.next_power_of_2(layout.columns))
        launch = _spread(layout.rows, triton.cdiv(layout.columns, width), width)
    else:
        widest = int((pieces.starts[1:] - pieces.starts[:-1]).max())
        launch = _spread(layout.rows, len(pieces.groups), triton.next_power_of_2(widest))
    starts, groups, channels, places = (
        array.to(device) for array in (pieces.starts, pieces.groups, pieces.channels, torch.cat(offsets))
    )
    return _Pieces(starts, groups, channels, places, launch)


def _spread(rows: int, across: int, width: int) -> _Launch:
    """Give enough programs for `across` tiles of this width, each with a chunk of the rows."""
    tile_rows = min(max(1, _TILE // width), triton.next_power_of_2(rows))
    chunks = min(triton.cdiv(rows, tile_rows), triton.cdiv(_PROGRAMS, across))
    chunk_rows = triton.cdiv(triton.cdiv(rows, chunks), tile_rows) * tile_rows
    return _Launch((across, triton.cdiv(rows, chunk_rows)), chunk_rows, {"ROWS": tile_rows, "COLUMNS": width})


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the device of x the current one, where kernels start."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_groups: int,
    channels_last: bool,
    unbiased: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Run the forward kernels."""
    how = plan(matrix_layout(x, num_groups=num_groups, channels_last=channels_last), x.device)
    layout, runs = how.layout, how.runs
    y = torch.empty_like(x)
    statistics = torch.empty(3, num_groups, device=x.device)
    means, squares = runs.partial()
    sizes = (layout.rows, layout.columns)
    with _on_device(x):
        kernels.moments_kernel[runs.launch.grid](
            *(x, runs.starts, means, squares, *sizes, runs.number, runs.launch.chunk_rows),
            PER_COLUMN=channels_last,
            **runs.launch.tile,
        )
        kernels.combine_moments_kernel[(num_groups,)](
            *(means, squares, runs.starts, runs.offsets, statistics, layout.rows, runs.number, num_groups),
            *(runs.launch.grid[1], runs.launch.chunk_rows, eps),
            UNBIASED=unbiased,
            PIECES=_PIECES,
        )
        kernels.scale_kernel[how.blocks.grid](
            *(x, y, x if weight is None else weight, x if bias is None else bias, statistics, *sizes, num_groups),
            *(layout.channel_columns, how.num_larger, how.size, how.blocks.chunk_rows),
            HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None,
            **how.blocks.tile,
        )
    return y, statistics


def _differentiate(
    dy: Tensor, x: Tensor, weight: Tensor | None, statistics: Tensor, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward kernels."""
    num_groups = statistics.shape[1]
    how = plan(matrix_layout(x, num_groups=num_groups, channels_last=channels_last), x.device)
    layout, segments = how.layout, how.segments
    dx = torch.empty_like(x)
    sums, products = segments.partial()
    terms = torch.empty(2, num_groups, device=x.device)
    affine = torch.empty(2, layout.num_channels, device=x.device)
    gain = x if weight is None else weight
    sizes = (layout.rows, layout.columns)
    with _on_device(x):
        kernels.products_kernel[segments.launch.grid](
            *(dy, x, segments.starts, segments.groups, statistics, sums, products, *sizes, segments.number),
            segments.launch.chunk_rows,
            PER_COLUMN=channels_last,
            **segments.launch.tile,
        )
        kernels.combine_products_kernel[(num_groups + layout.num_channels,)](
            *(sums, products, segments.starts, segments.groups, segments.channels, segments.offsets, gain, statistics),
            *(terms, affine, layout.rows, segments.number, num_groups, layout.num_channels, segments.launch.grid[1]),
            HAS_WEIGHT=weight is not None,
            PIECES=_PIECES,
        )
        kernels.gradient_kernel[how.blocks.grid](
            *(dy, x, dx, gain, statistics, terms, *sizes, num_groups),
            *(layout.channel_columns, how.num_larger, how.size, how.blocks.chunk_rows),
            HAS_WEIGHT=weight is not None,
            **how.blocks.tile,
        )
    return dx, affine[0].clone(), affine[1].clone()


def _fake_normalise(
    x: Tensor,
    weight: Tensor | None,  # noqa: ARG001 - the operator's signature
    bias: Tensor | None,  # noqa: ARG001
    num_groups: int,
    channels_last: bool,  # noqa: ARG001
    unbiased: bool,  # noqa: ARG001
    eps: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """Give the shapes of `normalise`."""
    return torch.empty_like(x), x.new_empty((3, num_groups), dtype=torch.float32)


def _fake_differentiate(
    dy: Tensor,  # noqa: ARG001
    x: Tensor,
    weight: Tensor | None,  # noqa: ARG001
    statistics: Tensor,  # noqa: ARG001
    channels_last: bool,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the shapes of `differentiate`."""
    dweight, dbias = (x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), dweight, dbias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward pass needs: the input, the parameters and three numbers per group."""
    x, weight, bias, num_groups, channels_last, _, eps = inputs
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.options = (num_groups, channels_last, eps)


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Give the gradients; where they are to be differentiated again, as torch's own operations."""
    x, weight, bias, statistics = ctx.saved_tensors
    num_groups, channels_last, eps = ctx.options
    if torch.is_grad_enabled():

        def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return plain_batch_group_norm(x, None, None, weight, bias, num_groups=num_groups, training=True, eps=eps)

        gradients = plain_gradients(normalise, (x, weight, bias), dy, wanted=ctx.needs_input_grad[:3])
        return *gradients, None, None, None, None
    form = torch.preserve_format if dy.stride() == x.stride() else _format(x, channels_last)
    dy = dy if form is torch.preserve_format else dy.contiguous(memory_format=form)
    dx, dweight, dbias = torch.ops.norm_layers.differentiate(dy, x, weight, statistics, channels_last)
    dweight, dbias = (None if p is None else g for p, g in ((weight, dweight), (bias, dbias)))
    return dx, dweight, dbias, None, None, None, None


def _format(x: Tensor, channels_last: bool) -> torch.memory_format:
    """Give the memory format of a matrix."""
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


_library = torch.library.Library("norm_layers", "DEF")
_library.define(
    "normalise(Tensor x, Tensor? weight, Tensor? bias, int num_groups, bool channels_last, bool unbiased, float eps)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "differentiate(Tensor dy, Tensor x, Tensor? weight, Tensor statistics, bool channels_last)"
    " -> (Tensor, Tensor, Tensor)"
)
for _device in _DEVICES:
    _library.impl("normalise", _normalise, _device)
    _library.impl("differentiate", _differentiate, _device)
torch.library.register_fake("norm_layers::normalise", _fake_normalise, lib=_library)
torch.library.register_fake("norm_layers::differentiate", _fake_differentiate, lib=_library)
torch.library.register_autograd("norm_layers::normalise", _backward, setup_context=_keep, lib=_library)
