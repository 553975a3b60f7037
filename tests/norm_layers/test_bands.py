"""The bands in which the kernel walks over channels_last inputs."""

import pytest
import torch

from norm_layers.bands import BandLayout, plan_bands
from norm_layers.groups import group_blocks

CASES = [
    (1, 4, 6, 8, 1),
    (1, 4, 6, 8, 4),
    (1, 32, 64, 64, 256),
    (1, 32, 1024, 36, 256),
    (1, 2, 1024, 16, 128),
    (1, 3, 25, 6, 7),
    (5, 1, 25, 6, 7),
    (1, 2, 49, 30, 512),
    (1, 2, 5, 3, 15),
    (1, 32, 784, 128, 512),
]


@pytest.mark.parametrize("layout", [BandLayout(*case) for case in CASES], ids=str)
def test_every_channel_of_a_band_has_one_group(layout):
    walk = plan_bands(layout, element_size=4)
    group_of = torch.empty(layout.num_channels * layout.positions, dtype=torch.int64)
    for block in group_blocks(len(group_of), num_groups=layout.num_groups):
        for group in range(block.num_groups):
            first = block.first_element + group * block.group_size
            group_of[first : first + block.group_size] = block.first_group + group
    by_position = group_of.view(layout.num_channels, layout.positions).T
    band_of = torch.bucketize(torch.arange(layout.positions), walk.band_starts, right=True) - 1
    assert torch.equal(walk.cell_groups[band_of], by_position)
    assert torch.equal(walk.group_values, group_of.bincount().double() * layout.samples)
    assert (int(walk.band_starts[0]), int(walk.band_starts[-1])) == (0, layout.positions)
    differ = (by_position[1:] != by_position[:-1]).any(dim=1).nonzero().flatten() + 1
    assert walk.band_starts[1:-1].tolist() == differ.tolist()  # no more bands than needed


@pytest.mark.parametrize("layout", [BandLayout(*case) for case in CASES], ids=str)
def test_bundles_hold_all_values_of_their_groups(layout):
    walk = plan_bands(layout, element_size=4)
    listed = []
    for bundle in range(len(walk.bundle_bands) - 1):
        first, last = walk.bundle_bands[bundle], walk.bundle_bands[bundle + 1]
        groups = walk.listed_groups[walk.bundle_groups[bundle] : walk.bundle_groups[bundle + 1]]
        assert groups.sort().values.tolist() == walk.cell_groups[first:last].unique().tolist()
        listed += groups.tolist()
    assert sorted(listed) == list(range(layout.num_groups))
    assert 1 <= walk.num_chunks <= layout.samples * int(walk.band_starts.diff().min())
    assert walk.inside or walk.num_chunks == 1


@pytest.mark.parametrize(
    ("layout", "inside"),
    [
        (BandLayout(64, 1, 196, 512, 128), False),  # a thread for each sample
        (BandLayout(16, 1, 12544, 64, 64), True),  # samples larger than a cache
        (BandLayout(1, 32, 3136, 64, 32), True),
        (BandLayout(1, 2, 64, 16, 4), False),
    ],
)
def test_threads_have_work(layout, inside):
    walk = plan_bands(layout, element_size=4)
    assert walk.inside is inside
    tasks = walk.num_chunks * int(walk.bundle_bands.diff().max())
    assert tasks >= 8 or not inside


@pytest.mark.parametrize(
    ("layout", "is_thick"),
    [
        (BandLayout(1, 32, 64, 64, 256), True),
        (BandLayout(1, 2, 64, 64, 256), True),
        (BandLayout(32, 1, 1024, 64, 1000), False),
        (BandLayout(1, 1, 3136, 64, 511), False),
        (BandLayout(1, 2, 2, 8, 4), False),
    ],
)
def test_thin_bands_are_left_to_a_copy(layout, is_thick):
    assert layout.is_thick is is_thick
