"""How kernels cut an input: every piece has one block, one group and one channel, and every bundle whole groups."""

import pytest
import torch

from norm_layers.plan import MatrixLayout, batch_layout, cut_columns, plan_walk


def groups_of_columns(layout):
    """Group of each column, by tensor_split."""
    parts = torch.arange(layout.columns).tensor_split(layout.num_groups)
    return torch.cat([torch.full((len(part),), g) for g, part in enumerate(parts)])


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("block_size", [4, 7, 64, 10_000])
@pytest.mark.parametrize(("shape", "num_groups"), [((4, 8, 3, 2), 5), ((2, 6, 5, 5), 7), ((3, 4, 4, 4), 16)])
def test_pieces_have_one_block_one_group_and_one_channel(shape, num_groups, block_size, by_channel):
    layout = batch_layout(shape, num_groups, "split", False, True)
    columns = layout.columns
    blocks = torch.tensor([*range(0, columns, block_size), columns])
    pieces = cut_columns(layout, block_starts=blocks, by_channel=by_channel)
    groups = groups_of_columns(layout)
    channels = torch.arange(columns) // layout.channel_columns
    assert (int(pieces.starts[0]), int(pieces.starts[-1])) == (0, columns)
    for index, (start, end) in enumerate(pieces.starts.unfold(0, 2, 1).tolist()):
        assert start < end
        assert set(groups[start:end].tolist()) == {int(pieces.groups[index])}
        assert start // block_size == (end - 1) // block_size
        assert int(channels[start]) == int(pieces.channels[index])
        if by_channel:
            assert len(set(channels[start:end].tolist())) == 1
    assert pieces.starts[pieces.block_offsets].tolist() == blocks.tolist()
    assert pieces.starts[pieces.group_offsets].tolist() == layout.group_bounds().tolist()


def test_samples_side_by_side_have_groups_of_their_own():
    layout = MatrixLayout(1, 3 * 10, 2, 3 * 4, 5, False, samples=3)
    bounds = [0, 3, 6, 8]
    assert layout.group_bounds().tolist() == [*(10 * n + b for n in range(3) for b in bounds), 30]
    pieces = cut_columns(layout, block_starts=torch.tensor([0, 30]), by_channel=True)
    assert pieces.channels.unique().tolist() == [0, 1]


def test_channels_last_batches_are_matrices_of_positions_where_groups_are_whole_channels():
    shape = (4, 8, 3, 2)
    assert batch_layout(shape, 4, "split", True, True) == MatrixLayout(24, 8, 8, 4, 1, True)
    assert batch_layout(shape, 16, "split", True, True) == MatrixLayout(4, 48, 8, 16, 6, False)


@pytest.mark.parametrize(
    ("shape", "num_groups", "channels_last"),
    [
        ((2, 64, 8, 8), 256, False),
        ((2, 768, 1, 1), 256, False),
        ((2, 36, 32, 32), 256, False),
        ((3, 6, 5, 5), 7, False),
        ((32, 64, 56, 56), 1, False),
        ((32, 256, 14, 14), 128, False),
        ((128, 64, 112, 112), 512, False),
        ((2, 2048, 7, 7), 1, False),
        ((32, 64, 56, 56), 32, True),
        ((2, 2048, 7, 7), 32, True),
    ],
)
def test_a_walk_covers_all_columns_in_bundles_of_whole_groups(shape, num_groups, channels_last):
    layout = batch_layout(shape, num_groups, "split", channels_last, True)
    walk = plan_walk(layout, element_size=4)
    bounds = layout.group_bounds()
    assert (int(walk.bundle_groups[0]), int(walk.bundle_groups[-1])) == (0, num_groups)
    assert bool((walk.bundle_groups.diff() > 0).all())
    assert walk.block_starts[walk.bundle_blocks].tolist() == bounds[walk.bundle_groups].tolist()
    widths = walk.block_starts.diff()
    is_wide = walk.wide_runs and walk.wide_segments
    assert int(widths.min()) > 0
    assert int(widths.max()) <= (1024 if is_wide else 512)  # the arrays of the kernel have room for 512
    assert 1 <= walk.num_chunks <= layout.rows
    assert walk.inside or walk.num_chunks == 1
