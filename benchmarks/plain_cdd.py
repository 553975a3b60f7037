"""CAN's contrastive domain discrepancy with nested loops: what `benchmarks.uda` measures ours against.

Written anew after the description of the official code (commit 39acc51): the distances of a layer once, cut into
blocks by class, then a loop over layers, pairs of classes, blocks and kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST, LARGEST = 1e-5, 1e5


def pairwise(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared distances of all rows."""
    shape = (len(first), len(second), first.shape[1])
    return (first[:, None].expand(shape) - second[None].expand(shape)).pow(2).sum(2)


def blocks(distances: Tensor, rows: list[int], columns: list[int]) -> list[list[Tensor]]:
    """Cut a matrix of distances by the sizes of the classes."""
    return [list(part.split(columns, dim=1)) for part in distances.split(rows, dim=0)]


def kernel(distances: Tensor, gamma: Tensor, num_kernels: int = 5, multiplier: float = 2.0) -> Tensor:
    """Return the sum of the kernels."""
    total = torch.zeros_like(distances)
    for number in range(num_kernels):
        bandwidth = (gamma * multiplier ** (number - num_kernels // 2)).clamp(min=SMALLEST)
        total = total + torch.exp(-(distances / bandwidth).clamp(SMALLEST, LARGEST))
    return total


def plain_cdd(source: Sequence[Tensor], target: Sequence[Tensor], *, sizes: list[int], num_classes: int) -> Tensor:
    """Return the discrepancy of a class-aware batch, rows class after class.

    Args:
        source: Layers of the source.
        target: Layers of the target.
        sizes: Rows of each class, in both.
        num_classes: By which sums are divided.
    """
    intra = inter = torch.zeros((), dtype=source[0].dtype)
    for of_source, of_target in zip(source, target):
        within_source = blocks(pairwise(of_source, of_source), sizes, sizes)
        within_target = blocks(pairwise(of_target, of_target), sizes, sizes)
        across = blocks(pairwise(of_source, of_target), sizes, sizes)
        for a in range(len(sizes)):
            for b in range(len(sizes)):
                ss, tt, st = within_source[a][a], within_target[b][b], across[a][b]
                number = sizes[a] + sizes[b]
                gamma = ((ss.sum() + tt.sum() + 2 * st.sum()) / (number * (number - 1))).detach()
                distance = kernel(ss, gamma).mean() + kernel(tt, gamma).mean() - 2 * kernel(st, gamma).mean()
                if a == b:
                    intra = intra + distance / num_classes
                else:
                    inter = inter + distance / (num_classes * (num_classes - 1))
    return intra - inter
