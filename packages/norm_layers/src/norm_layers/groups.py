"""How D elements are cut into G groups, and the checks of G against an input.

Legend: N batch, C channels, D = C·H·W elements of a sample, G groups.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch

from norm_layers.shapes import describe_shape

Uneven = Literal["split", "error", "clamp"]
UNEVEN_CHOICES: tuple[Uneven, ...] = get_args(Uneven)


class GroupBlock(NamedTuple):
    """A run of groups of one size: `num_groups` groups of `group_size` elements, from group and element on.

    Args:
        first_group: Index of the first group.
        num_groups: Groups in the run.
        first_element: Index d of the first element.
        group_size: Elements of each group.
    """

    first_group: int
    num_groups: int
    first_element: int
    group_size: int


def group_blocks(num_elements: int, *, num_groups: int) -> tuple[GroupBlock, ...]:
    """Cut D elements into G contiguous groups whose sizes differ by at most one (the rule of torch.tensor_split).

    The first D mod G groups have ceil(D/G) elements and the others floor(D/G), so two runs of equal size suffice.

    Args:
        num_elements: D.
        num_groups: G, at most D.

    Returns:
        One block where G divides D, otherwise two.
    """
    size, num_larger = num_elements // num_groups, num_elements % num_groups  # divmod cannot be traced
    if num_larger == 0:
        return (GroupBlock(0, num_groups, 0, size),)
    larger = GroupBlock(0, num_larger, 0, size + 1)
    return (larger, GroupBlock(num_larger, num_groups - num_larger, num_larger * (size + 1), size))


def groups_in_force(shape: torch.Size | tuple[int, ...], *, num_groups: int, uneven: Uneven) -> int:
    """Check G against the input's shape and give the number of groups that is used.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G asked for.
        uneven: Where G does not divide D: "split" takes sizes that differ by at most one, "error" raises, "clamp"
            splits too and takes D groups where G is above D.

    Returns:
        G, or D where it was clamped.

    Raises:
        ValueError: If G is above D (unless "clamp"), or does not divide D under "error".
    """
    num_elements = math.prod(shape[1:])
    if num_groups > num_elements and uneven != "clamp":
        raise ValueError(
            f"num_groups must be at most D = C·H·W; got {describe_shape(shape, num_groups)}. "
            "Take fewer groups, or uneven='clamp' for D groups at such layers."
        )
    if uneven == "error" and num_elements % num_groups != 0:
        raise ValueError(
            f"num_groups must divide D = C·H·W under uneven='error'; got {describe_shape(shape, num_groups)}. "
            "Take another G, or uneven='split' for groups whose sizes differ by at most one."
        )
    return min(num_groups, num_elements)


def check_values_per_statistic(shape: torch.Size | tuple[int, ...], *, num_groups: int) -> None:
    """Raise if some group has a single value in the whole batch: its variance would be zero.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G in force.

    Raises:
        ValueError: If N·floor(D/G) is 1 or less.
    """
    if shape[0] * (math.prod(shape[1:]) // num_groups) <= 1:
        raise ValueError(
            "Expected more than 1 value per channel (group) when training; got "
            f"{describe_shape(shape, num_groups)}, which is 1 value per statistic. "
            "Take a larger batch, fewer groups, or call eval()."
        )
