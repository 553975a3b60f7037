"""How a kernel walks over an input: the groups and channels of its columns, cut into runs and segments.

The input is a matrix of rows and columns. A contiguous batch has a row per sample and a column per element d of the
merged (C, H, W) axis; a channels_last batch whose groups are whole channels has a row per position and a column per
channel. Groups and channels are runs of consecutive columns, so that each piece of the matrix that a kernel reduces,
scales or shifts has one group and one channel.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from norm_layers.groups import Uneven, check_values_per_statistic, groups_in_force


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

    def group_bounds(self) -> Tensor:
        """Give the first column of each group, and the end: sizes differ by at most one, the larger ones first."""
        columns, groups = self.columns // self.samples, self.num_groups // self.samples
        size, num_larger = divmod(columns, groups)
        index = torch.arange(self.num_groups + 1, device="cpu")
        inside = index % groups
        return index // groups * columns + inside * size + inside.clamp(max=num_larger)


class ColumnPieces(NamedTuple):
    """Consecutive columns that lie in one block, one group and, for segments, one channel.

    Args:
        starts: First column of each piece, and the end.
        groups: Group of each piece.
        channels: Channel of each piece; of its first column for runs.
        block_offsets: First piece of each block, and the end.
    """

    starts: Tensor
    groups: Tensor
    channels: Tensor
    block_offsets: Tensor


@functools.lru_cache(maxsize=1024)
def batch_layout(shape: tuple[int, ...], *, num_groups: int, uneven: Uneven, channels_last: bool) -> MatrixLayout:
    """Check G against an input of a training batch and give its matrix.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G asked for.
        uneven: As in `groups_in_force`.
        channels_last: Whether the input is channels_last in memory.

    Returns:
        The matrix of the channels_last input where groups are whole channels, else that of a contiguous one.

    Raises:
        ValueError: As in `groups_in_force` and `check_values_per_statistic`.
    """
    groups = groups_in_force(shape, num_groups=num_groups, uneven=uneven)
    check_values_per_statistic(shape, num_groups=groups)
    num_samples, num_channels = shape[:2]
    positions = math.prod(shape[2:])
    if channels_last and num_channels % groups == 0:
        return MatrixLayout(num_samples * positions, num_channels, num_channels, groups, 1, True)
    return MatrixLayout(num_samples, num_channels * positions, num_channels, groups, positions, False)


def cut_columns(layout: MatrixLayout, *, block_size: int, by_channel: bool) -> ColumnPieces:
    """Cut the columns at every border of a block and a group, and of a channel where asked.

    Args:
        layout: The matrix.
        block_size: Columns of a block; blocks start at multiples of it.
        by_channel: Whether to cut at channels too: segments, else runs.

    Returns:
        The pieces, in order.
    """
    columns = layout.columns
    num_blocks = -(-columns // block_size)
    blocks = (torch.arange(num_blocks + 1, device="cpu") * block_size).clamp(max=columns)
    groups = layout.group_bounds()
    channels = torch.arange(0, columns + 1, layout.channel_columns, device="cpu")
    starts = torch.cat([blocks, groups, channels] if by_channel else [blocks, groups]).unique()
    first = starts[:-1]
    return ColumnPieces(
        starts=starts,
        groups=torch.bucketize(first, groups, right=True) - 1,
        channels=first // layout.channel_columns % layout.num_channels,
        block_offsets=torch.searchsorted(starts, blocks),
    )
