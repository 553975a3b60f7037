"""How a kernel walks over an input: the groups and channels of its columns, cut into runs and segments.

The input is a matrix of rows and columns. A contiguous batch has a row per sample and a column per element d of the
merged (C, H, W) axis; a channels_last batch whose groups are whole channels has a row per position and a column per
channel (the Triton kernels' way; the CPU kernel takes `bands.py` for any but the smallest). Groups and channels are
runs of consecutive columns, so that each piece of the matrix that a kernel reduces, scales or shifts has one group and
one channel.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from norm_layers.groups import Uneven, check_values_per_statistic, groups_in_force


def group_bounds(num_elements: int, *, num_groups: int) -> Tensor:
    """Give the first element of each group, and the end, as in `norm_layers.groups.group_blocks`.

    Args:
        num_elements: D.
        num_groups: G, at most D.

    Returns:
        G + 1 places in the D elements.
    """
    size, num_larger = divmod(num_elements, num_groups)
    index = torch.arange(num_groups + 1, device="cpu")
    return index * size + index.clamp(max=num_larger)


class MatrixLayout(NamedTuple):
    """An input as a matrix, and where the groups and channels of its columns change.

    Args:
        rows: Rows.
        columns: Columns.
        num_channels: C.
        num_groups: G; statistics run over the rows and the columns of a group.
        channel_columns: Columns of each channel.
        channels_last: Whether the matrix is that of a channels_last input.
        samples: Samples that lie side by side in one row, with groups of their own; 1 where samples are rows.
    """

    rows: int
    columns: int
    num_channels: int
    num_groups: int
    channel_columns: int
    channels_last: bool
    samples: int = 1

    @property
    def num_statistics(self) -> int:
        """Groups of all samples together."""
        return self.num_groups

    @property
    def flat_groups(self) -> int | None:
        """Groups of each sample where it has statistics of its own, or is alone in the batch; else None."""
        return self.num_groups // self.samples if self.rows == 1 else None

    def group_bounds(self) -> Tensor:
        """Give the first column of each group, and the end: sizes differ by at most one, the larger ones first."""
        columns = self.columns // self.samples
        starts = group_bounds(columns, num_groups=self.num_groups // self.samples)[:-1]
        firsts = torch.arange(0, self.columns, columns, device="cpu")[:, None]
        return torch.cat([(firsts + starts).reshape(-1), starts.new_tensor([self.columns])])


class ColumnPieces(NamedTuple):
    """Consecutive columns that lie in one block, one group and, for segments, one channel.

    Args:
        starts: First column of each piece, and the end.
        groups: Group of each piece.
        channels: Channel of each piece; of its first column for runs.
        block_offsets: First piece of each block, and the end.
        group_offsets: First piece of each group, and the end.
    """

    starts: Tensor
    groups: Tensor
    channels: Tensor
    block_offsets: Tensor
    group_offsets: Tensor


@functools.lru_cache(maxsize=1024)
def batch_layout(
    shape: tuple[int, ...], num_groups: int, uneven: Uneven, channels_last: bool, training: bool
) -> MatrixLayout:
    """Check G against an input and give its matrix.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G asked for.
        uneven: As in `groups_in_force`.
        channels_last: Whether the input is channels_last in memory.
        training: Whether every group must have more than one value.

    Returns:
        The matrix of the channels_last input where groups are whole channels, else that of a contiguous one.

    Raises:
        ValueError: As in `groups_in_force` and `check_values_per_statistic`.
    """
    groups = groups_in_force(shape, num_groups=num_groups, uneven=uneven)
    if training:
        check_values_per_statistic(shape, num_groups=groups)
    num_samples, num_channels = shape[:2]
    positions = math.prod(shape[2:])
    if channels_last and num_channels % groups == 0:
        return MatrixLayout(num_samples * positions, num_channels, num_channels, groups, 1, True)
    return MatrixLayout(num_samples, num_channels * positions, num_channels, groups, positions, False)


def cut_columns(layout: MatrixLayout, *, block_starts: Tensor, by_channel: bool) -> ColumnPieces:
    """Cut the columns at every border of a block and a group, and of a channel where asked.

    Args:
        layout: The matrix.
        block_starts: First column of each block, and the end.
        by_channel: Whether to cut at channels too: segments, else runs.

    Returns:
        The pieces, in order.
    """
    groups = layout.group_bounds()
    channels = torch.arange(0, layout.columns + 1, layout.channel_columns, device="cpu")
    starts = torch.cat([block_starts, groups, channels] if by_channel else [block_starts, groups]).unique()
    first = starts[:-1]
    return ColumnPieces(
        starts=starts,
        groups=torch.bucketize(first, groups, right=True) - 1,
        channels=first // layout.channel_columns % layout.num_channels,
        block_offsets=torch.searchsorted(starts, block_starts),
        group_offsets=torch.searchsorted(starts, groups),
    )


class Walk(NamedTuple):
    """How the CPU kernel walks over a matrix; by the shape alone, so that no result depends on the threads.

    Args:
        bundle_groups: First group of each bundle, and the end. The groups of a bundle are reduced, and then scaled
            and shifted while they are still in the cache.
        bundle_blocks: First block of each bundle, and the end.
        block_starts: First column of each block, and the end; a block lies in one bundle.
        num_chunks: Parts of the rows that are summed apart, and maybe by several threads.
        inside: Whether threads share each bundle, instead of taking one each.
        runs: The blocks cut at groups.
        segments: The blocks cut at groups and channels.
        wide_runs: Whether runs are so wide that each is summed over rows and columns at once.
        wide_segments: The same of segments.
    """

    bundle_groups: Tensor
    bundle_blocks: Tensor
    block_starts: Tensor
    num_chunks: int
    inside: bool
    runs: ColumnPieces
    segments: ColumnPieces
    wide_runs: bool
    wide_segments: bool


_KIB = 1024
_SMALL_GROUP, _BUNDLE, _SHARED_BUNDLE = 256 * _KIB, 128 * _KIB, 1024 * _KIB  # bytes; half of a usual cache a core
_MIN_COLUMNS = 256  # of a bundle: memory is slow in shorter pieces of a row
_WIDE, _WIDE_IN_FEW_ROWS, _FEW_ROWS = 48, 16, 8  # average columns of a wide piece
_NARROW_BLOCK, _WIDE_BLOCK = 512, 1024  # columns; the kernel's arrays have the former
_MAX_TASKS, _ROWS_PER_CHUNK = 32, 256


def plan_walk(layout: MatrixLayout, *, element_size: int) -> Walk:
    """Choose how to walk over a matrix.

    Args:
        layout: The matrix.
        element_size: Bytes of a value.

    Returns:
        The walk.
    """
    rows, columns, groups = layout.rows, layout.columns, layout.num_groups
    column_bytes = rows * element_size
    group_columns, total = columns / groups, columns * column_bytes
    is_small = group_columns * column_bytes <= _SMALL_GROUP
    target = min(max(total / 16, _BUNDLE / 4), _BUNDLE) if is_small else _SHARED_BUNDLE
    per_bundle = max(1, math.ceil(max(target / column_bytes, _MIN_COLUMNS) / group_columns))
    bounds = layout.group_bounds()
    bundle_groups = torch.tensor([*range(0, groups, per_bundle), groups], device="cpu")
    bundle_starts = bounds[bundle_groups]

    channels = torch.arange(0, columns, layout.channel_columns, device="cpu")
    num_segments = len(torch.cat([bounds[:-1], channels]).unique())
    widest = _WIDE if rows > _FEW_ROWS else _WIDE_IN_FEW_ROWS
    wide_runs, wide_segments = group_columns >= widest, columns >= widest * num_segments
    block = _WIDE_BLOCK if wide_runs and wide_segments else _NARROW_BLOCK
    blocks_per_bundle = -(-bundle_starts.diff() // block)
    bundle_blocks = torch.cat([bundle_starts.new_zeros(1), blocks_per_bundle.cumsum(0)])
    bundle_of_block = torch.arange(len(blocks_per_bundle), device="cpu").repeat_interleave(blocks_per_bundle)
    place = torch.arange(int(bundle_blocks[-1]), device="cpu") - bundle_blocks[bundle_of_block]
    block_starts = torch.cat([bundle_starts[bundle_of_block] + place * block, bundle_starts[-1:]])

    num_bundles, most_blocks = len(blocks_per_bundle), int(blocks_per_bundle.max())
    inside = total > _SMALL_GROUP and (not is_small or num_bundles < 8)
    num_chunks = max(1, min(rows // _ROWS_PER_CHUNK, _MAX_TASKS // most_blocks)) if inside else 1
    runs, segments = (
        cut_columns(layout, block_starts=block_starts, by_channel=by_channel) for by_channel in (False, True)
    )
    return Walk(
        bundle_groups,
        bundle_blocks,
        block_starts,
        num_chunks,
        inside,
        runs,
        segments,
        wide_runs,
        wide_segments,
    )
