"""How the CPU kernel walks over a channels_last input: bands of positions in which every channel has one group.

A group is a run of the merged (C, H, W) axis, which a channels_last input does not hold in order. But between two
neighbouring positions at which any group begins, each channel lies in one group: a band. Its rows, a position of a
sample each, are summed per channel, and the sums combined per group.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from norm_layers.plan import group_bounds


class BandLayout(NamedTuple):
    """A channels_last input.

    Args:
        problems: Parts of the batch with statistics of their own: 1, or N.
        samples: Samples of each part.
        positions: H·W.
        num_channels: C.
        num_groups: G of each part.
    """

    problems: int
    samples: int
    positions: int
    num_channels: int
    num_groups: int

    @property
    def num_statistics(self) -> int:
        """Groups of all parts together."""
        return self.problems * self.num_groups

    @property
    def flat_groups(self) -> int | None:
        """Groups of each sample where it has statistics of its own, or is alone in the batch; else None."""
        return self.num_groups if self.samples == 1 else None

    @property
    def is_thick(self) -> bool:
        """Whether bands hold so many rows that they cost less than a copy into the order of the merged axis."""
        starts = first_positions(self.positions, self.num_channels, self.num_groups)
        return self.samples * self.positions >= _THICK * len(starts)


class BandWalk(NamedTuple):
    """How the kernel walks over it; by the shape alone, so that no result depends on the threads.

    Args:
        band_starts: First position of each band, and the end.
        cell_groups: Group of each channel in each band, shape (bands, C).
        bundle_bands: First band of each bundle, and the end. A bundle holds all values of its groups.
        bundle_groups: First place of each bundle in `listed_groups`, and the end.
        listed_groups: The groups of the bundles.
        group_values: Values of each group, in float64.
        num_chunks: Parts of a band's rows that are summed apart, and maybe by several threads.
        inside: Whether threads share each bundle, instead of taking one each.
    """

    band_starts: Tensor
    cell_groups: Tensor
    bundle_bands: Tensor
    bundle_groups: Tensor
    listed_groups: Tensor
    group_values: Tensor
    num_chunks: int
    inside: bool


_KIB = 1024
_LEAST_BUNDLE, _SMALL_BUNDLE = 64 * _KIB, 256 * _KIB  # bytes; the latter is half of a usual cache a core
_MAX_TASKS, _ENOUGH = 32, 8  # tasks of a bundle; tasks or bundles for as many threads
_CHUNK, _LEAST_ROWS, _MOST_ROWS = 64 * _KIB, 64, 256  # bytes and rows of a chunk
_THICK = 8  # rows of a band


def plan_bands(layout: BandLayout, *, element_size: int) -> BandWalk:
    """Choose how to walk over a channels_last input.

    Args:
        layout: The input.
        element_size: Bytes of a value.

    Returns:
        The walk.
    """
    problems, samples, positions, channels, groups = layout
    bounds = group_bounds(channels * positions, num_groups=groups)
    starts = first_positions(positions, channels, groups)
    cells = torch.arange(channels, device="cpu") * positions + starts[:, None]
    cell_groups = torch.bucketize(cells, bounds, right=True) - 1
    band_starts = torch.cat([starts, starts.new_tensor([positions])])

    num_bands = len(starts)
    index = torch.arange(num_bands, device="cpu")[:, None].expand_as(cell_groups).reshape(-1)
    flat = cell_groups.reshape(-1)
    first = torch.full((groups,), num_bands, device="cpu").scatter_reduce(0, flat, index, "amin")
    last = torch.zeros(groups, dtype=torch.int64, device="cpu").scatter_reduce(0, flat, index, "amax")
    # Between two bands a bundle may end if no group lies on both sides.
    change = torch.zeros(num_bands + 1, dtype=torch.int64, device="cpu")
    open_groups = change.index_add(0, first, torch.ones_like(first)).index_add(0, last, -torch.ones_like(last))
    may_end = (open_groups.cumsum(0)[:num_bands] == 0).tolist()
    band_bytes = (band_starts.diff() * (samples * channels * element_size)).tolist()
    ends, gathered = [0], 0
    for band in range(num_bands):
        gathered += band_bytes[band]
        if may_end[band] and (gathered >= _LEAST_BUNDLE or band == num_bands - 1):
            ends.append(band + 1)
            gathered = 0
    bundle_bands = torch.tensor(ends, device="cpu")
    bundle_of_group = torch.bucketize(first, bundle_bands, right=True) - 1
    listed_groups = torch.argsort(bundle_of_group, stable=True)
    bundle_groups = torch.searchsorted(bundle_of_group[listed_groups], torch.arange(len(ends), device="cpu"))

    num_bundles, most_bands = len(ends) - 1, int(bundle_bands.diff().max())
    bundle_bytes = samples * positions * channels * element_size / num_bundles
    rows_per_chunk = min(max(_CHUNK // (channels * element_size), _LEAST_ROWS), _MOST_ROWS)
    fewest_rows = samples * int(band_starts.diff().min())
    num_chunks = max(1, min(fewest_rows // rows_per_chunk, _MAX_TASKS // most_bands))
    num_tasks, alone = num_chunks * most_bands, problems * num_bundles
    serves = num_tasks >= _ENOUGH if alone >= _ENOUGH else num_tasks > alone
    inside = serves and bundle_bytes > (_SMALL_BUNDLE if alone >= _ENOUGH else _SMALL_BUNDLE / num_bundles)
    return BandWalk(
        band_starts,
        cell_groups,
        bundle_bands,
        bundle_groups,
        listed_groups,
        bounds.diff().double() * samples,
        num_chunks if inside else 1,
        inside,
    )


@functools.lru_cache(maxsize=1024)
def first_positions(positions: int, num_channels: int, num_groups: int) -> Tensor:
    """Give the first position of each band: all at which any group begins.

    Args:
        positions: H·W.
        num_channels: C.
        num_groups: G.
    """
    return (group_bounds(num_channels * positions, num_groups=num_groups) % positions).unique()
