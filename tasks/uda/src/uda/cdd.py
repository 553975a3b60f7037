"""Contrastive domain discrepancy: draws the two domains of a class together and different classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

NORMALISERS = ("dataset", "selected")
SMALLEST, LARGEST = 1e-5, 1e5
"""Bounds of the kernels' exponents; the first is also the smallest bandwidth."""


class CddTerms(NamedTuple):
    """The discrepancy and its two parts, scalars.

    Attributes:
        value: What is minimised: ``intra - inter``, or ``intra`` where only that was asked for.
        intra: Discrepancy between the domains within classes.
        inter: Discrepancy between different classes; 0 where fewer than two classes are selected.
    """

    value: Tensor
    intra: Tensor
    inter: Tensor


class _Blocks(NamedTuple):
    """Rows of a batch by class: row numbers (P, k), filled up with 0, and which of them count."""

    rows: Tensor
    valid: Tensor


def cdd(
    source: Sequence[Float[Tensor, "_ _"]],
    target: Sequence[Float[Tensor, "_ _"]],
    *,
    source_labels: Int64[Tensor, " Ns"],
    target_labels: Int64[Tensor, " Nt"],
    num_classes: int,
    normaliser: str = "dataset",
    intra_only: bool = False,
    num_kernels: int = 5,
    multiplier: float = 2.0,
) -> CddTerms:
    r"""Return the contrastive domain discrepancy of a class-aware batch.

    For classes a (of the source) and b (of the target), with squared Euclidean distances D, per layer:

    .. math::
        \gamma_{ab} &= \frac{\sum D_{ss}(a,a) + \sum D_{tt}(b,b) + 2 \sum D_{st}(a,b)}{(n_a + n_b)(n_a + n_b - 1)} \\
        k_{ab}(D) &= \sum_{i=0}^{K-1} \exp\!\big(-\mathrm{clip}(D / \beta_i, 10^{-5}, 10^5)\big), \quad
            \beta_i = \max(\gamma_{ab}\, r^{i - \lfloor K/2 \rfloor}, 10^{-5}) \\
        m_{ab} &= \sum_{layers} \big[\overline{k_{ab}(D_{ss}(a,a))} + \overline{k_{ab}(D_{tt}(b,b))}
            - 2\, \overline{k_{ab}(D_{st}(a,b))}\big] \\
        \mathrm{intra} &= \frac1M \sum_a m_{aa}, \quad \mathrm{inter} = \frac{1}{M(M-1)} \sum_{a \ne b} m_{ab}, \quad
        \mathrm{CDD} = \mathrm{intra} - \mathrm{inter}

    The means run over all pairs, a row with itself too (V-statistic). The bandwidths are constants to the gradient,
    and an exponent that is clipped passes none. Computed in float32 at least, under autocast too: m is a small
    difference of means. The same in train and eval mode.

    Args:
        source: One tensor (Ns, d_l) for each aligned layer; the official code aligns pooled features and
            probabilities.
        target: One tensor (Nt, d_l) for each of the same layers.
        source_labels: Class of each source row; any set of classes, in any order.
        target_labels: Pseudo-label of each target row; the same set of classes. Labels held on the CPU spare a
            synchronisation with the device.
        num_classes: Classes of the data set.
        normaliser: M. ``dataset``: num_classes (the official code, where 10 of 31 classes are selected: intra is 0.32
            and inter 0.097 of their means). ``selected``: the classes in the batch (the article's formula).
        intra_only: Whether value is intra alone; inter is measured all the same.
        num_kernels: K.
        multiplier: r, the ratio of neighbouring bandwidths.

    Raises:
        TypeError: If labels are not int64.
        ValueError: If a class is in one domain only, or sizes or options do not fit.

    Source: Kang et al. 2019, contrastive domain discrepancy; bandwidths, clips, layers and M as in the official code
        (commit 39acc51).
    """
    if normaliser not in NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}; got {normaliser!r}.")
    if num_kernels < 1:
        raise ValueError(f"num_kernels must be at least 1; got {num_kernels}.")
    if multiplier <= 0:
        raise ValueError(f"multiplier must be above 0; got {multiplier}.")
    _check_layers(source, target, num_source=len(source_labels), num_target=len(target_labels))
    classes = _common_classes(source_labels, target_labels, num_classes=num_classes)
    device = source[0].device
    source_blocks = _blocks(source_labels, classes.to(source_labels.device), device=device)
    target_blocks = _blocks(target_labels, classes.to(target_labels.device), device=device)
    with torch.autocast(device.type, enabled=False):
        discrepancies = torch.stack(
            [
                _layer_discrepancies(
                    _at_least_float32(of_source), _at_least_float32(of_target), source_blocks, target_blocks,
                    num_kernels=num_kernels, multiplier=multiplier,
                )
                for of_source, of_target in zip(source, target)
            ]
        ).sum(dim=0)  # fmt: skip
        divisor = num_classes if normaliser == "dataset" else len(classes)
        within = discrepancies.diagonal()
        same = torch.eye(len(classes), dtype=torch.bool, device=device)
        intra = within.sum() / divisor
        inter = discrepancies.masked_fill(same, 0).sum() / max(divisor * (divisor - 1), 1)
        return CddTerms(intra if intra_only else intra - inter, intra, inter)


def _layer_discrepancies(
    source: Float[Tensor, "Ns D"],
    target: Float[Tensor, "Nt D"],
    source_blocks: _Blocks,
    target_blocks: _Blocks,
    *,
    num_kernels: int,
    multiplier: float,
) -> Float[Tensor, "P P"]:
    """Return m of one layer for every pair of classes: rows the source's, columns the target's."""
    by_class_s, by_class_t = source[source_blocks.rows], target[target_blocks.rows]  # (P, k, D)
    distances_s = _squared_distances(by_class_s, by_class_s)  # (P, k, k)
    distances_t = _squared_distances(by_class_t, by_class_t)
    distances_st = _squared_distances(by_class_s[:, None], by_class_t[None])  # (P, P, k, k)
    weights_s = _pairs(source_blocks.valid, source_blocks.valid)
    weights_t = _pairs(target_blocks.valid, target_blocks.valid)
    weights_st = _pairs(source_blocks.valid[:, None], target_blocks.valid[None])

    with torch.no_grad():
        sums_s, sums_t = (distances_s * weights_s).sum((1, 2)), (distances_t * weights_t).sum((1, 2))
        sizes = source_blocks.valid.sum(1)[:, None] + target_blocks.valid.sum(1)[None]
        sums = sums_s[:, None] + sums_t[None] + 2 * (distances_st * weights_st).sum((2, 3))
        gamma = sums / (sizes * (sizes - 1))
        powers = multiplier ** (torch.arange(num_kernels, device=gamma.device, dtype=gamma.dtype) - num_kernels // 2)
        bandwidths = (gamma[..., None] * powers).clamp(min=SMALLEST)[:, :, None, None]  # (P, P, 1, 1, K)

    def mean_kernel(distances: Tensor, weights: Tensor) -> Tensor:
        exponents = (distances[..., None] / bandwidths).clamp(SMALLEST, LARGEST)
        kernels = torch.exp(-exponents).sum(-1)
        return (kernels * weights).sum((2, 3)) / weights.sum((2, 3))

    return (
        mean_kernel(distances_s[:, None], weights_s[:, None])
        + mean_kernel(distances_t[None], weights_t[None])
        - 2 * mean_kernel(distances_st, weights_st)
    )


def _squared_distances(first: Float[Tensor, "*b k D"], second: Float[Tensor, "*c l D"]) -> Float[Tensor, "*d k l"]:
    # not by the product of the matrices: it cancels for near rows, and may run in TF32
    return (first[..., :, None, :] - second[..., None, :, :]).square().sum(-1)


def _pairs(first: Bool[Tensor, "*b k"], second: Bool[Tensor, "*c l"]) -> Bool[Tensor, "*d k l"]:
    return first[..., :, None] & second[..., None, :]


def _blocks(labels: Int64[Tensor, " N"], classes: Int64[Tensor, " P"], *, device: torch.device) -> _Blocks:
    sizes = (labels[None] == classes[:, None]).sum(1)
    order = torch.argsort(labels, stable=True)
    places = torch.arange(int(sizes.max()), device=labels.device)
    valid = places < sizes[:, None]
    starts = sizes.cumsum(0) - sizes
    rows = order[((starts[:, None] + places) * valid)] * valid
    return _Blocks(rows.to(device), valid.to(device))


def _common_classes(source_labels: Tensor, target_labels: Tensor, *, num_classes: int) -> Int64[Tensor, " P"]:
    """Return the classes of the batch, sorted, after checking that both domains have them."""
    for name, labels in (("source_labels", source_labels), ("target_labels", target_labels)):
        if labels.dtype != torch.int64:
            raise TypeError(f"{name} must be int64; got {labels.dtype}.")
        if len(labels) == 0:
            raise ValueError(f"{name} must hold at least one label; got none. Leave the term out of this step.")
    classes = source_labels.unique()
    of_source, of_target = set(classes.tolist()), set(target_labels.unique().tolist())
    if of_source != of_target:
        raise ValueError(
            f"target_labels must hold the classes of source_labels; got {sorted(of_source - of_target)} in the source "
            f"only and {sorted(of_target - of_source)} in the target only."
        )
    if len(of_source) > num_classes:
        raise ValueError(f"num_classes must be at least the {len(of_source)} classes selected; got {num_classes}.")
    return classes


def _check_layers(source: Sequence[Tensor], target: Sequence[Tensor], *, num_source: int, num_target: int) -> None:
    if len(source) == 0 or len(source) != len(target):
        raise ValueError(
            f"source and target must have the same layers, at least one; got {len(source)} and {len(target)}."
        )
    for number, (of_source, of_target) in enumerate(zip(source, target)):
        expected = (num_source, num_target, of_source.shape[-1])
        if of_source.ndim != 2 or of_target.ndim != 2 or (len(of_source), *of_target.shape) != expected:
            raise ValueError(
                f"layer {number} must be ({num_source}, d) in the source and ({num_target}, d) in the target, a row "
                f"for each label; got {tuple(of_source.shape)} and {tuple(of_target.shape)}."
            )


def _at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
