"""The difference of two norms that were tested on the same items: seeds crossed with items.

Pure functions of plain numbers; nothing outside the standard library.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.report.student import t_quantile

Table = Sequence[Sequence[float]]


@dataclass(frozen=True)
class CrossedEstimate:
    """A difference of means over seeds and items.

    Args:
        mean: The difference.
        variance: Squared standard error of the mean.
        degrees: Its degrees of freedom.
        margin: Half of the 95 % interval.
        over_seeds: Whether the margin covers other seeds too. Otherwise it is over the items only.
    """

    mean: float
    variance: float
    degrees: float
    margin: float
    over_seeds: bool


@dataclass(frozen=True)
class _Terms:
    """What a table adds to the variance of the mean: seeds and residual, each divided by what it is averaged over."""

    mean: float
    item_means: list[float]
    seeds: float
    residual: float
    seed_degrees: int
    residual_degrees: int


def crossed_estimate(first: Table, second: Table | None = None) -> CrossedEstimate:
    r"""Mean of a table over random seeds and random items, or difference of the means of two tables, with its noise.

    Model: :math:`d_{se} = \mu + a_s + b_e + r_{se}` with independent seed effects a, item effects b and residuals r of
    variances :math:`\sigma_a^2, \sigma_b^2, \sigma_r^2`. The grand mean of S seeds and E items has the variance
    :math:`\sigma_a^2/S + \sigma_b^2/E + \sigma_r^2/SE`. With A the variance of the seed means divided by S, B that of
    the item means divided by E, and R the residual mean square divided by SE, the expectations are
    :math:`\sigma_a^2/S + \sigma_r^2/SE`, :math:`\sigma_b^2/E + \sigma_r^2/SE` and :math:`\sigma_r^2/SE`. So

    .. math:: V = A + B - R, \qquad \nu = \frac{V^2}{A^2/(S-1) + B^2/(E-1) + R^2/((S-1)(E-1))}

    is unbiased and has about :math:`\nu` degrees of freedom. V is never below the larger of A and B, with the degrees
    of freedom of that one. The margin is :math:`t_{\nu} \sqrt{V}`. Because :math:`\nu` comes out too large where two
    or three seeds happen to agree, the margin is never below that of the seed means alone,
    :math:`t_{S-1} \sqrt{A}`; without this, an interval of two seeds covers the truth in 88 % instead of 95 %.

    Two tables of the same items, with seeds of their own: A and R are the sums over both tables, B is from the
    differences of the item means, and each A has its own S - 1. Where a table has one seed, A and R are unknown:
    V = B with E - 1 degrees of freedom, the noise of the items alone.

    Args:
        first: Values of shape (S, E), one row per seed. For paired seeds, the differences.
        second: Values of shape (S', E) on the same items in the same order, which are subtracted. None: nothing is.

    Returns:
        The mean, its variance and its margin.

    Raises:
        ValueError: There are fewer than two items, no seed, or rows of different length.

    Source: two-way random effects analysis of variance, Searle, Casella and McCulloch, Variance Components (1992),
        chapter 4; degrees of freedom: Satterthwaite (1946).
    """
    tables = [table for table in (first, second) if table is not None]
    _check(tables)
    terms = [_terms(table) for table in tables]
    num_items = len(first[0])
    means = terms[0].item_means
    mean = terms[0].mean
    if second is not None:
        means = [one - other for one, other in zip(means, terms[1].item_means, strict=True)]
        mean -= terms[1].mean
    items = _mean_square(means) / num_items
    if not all(term.seed_degrees for term in terms):
        margin = t_quantile(0.975, num_items - 1) * math.sqrt(items)
        return CrossedEstimate(mean, items, num_items - 1, margin, over_seeds=False)
    seeds = [(term.seeds, term.seed_degrees) for term in terms]
    alone, degrees_alone = satterthwaite(seeds)
    signed = [*seeds, (items, num_items - 1), *((-term.residual, term.residual_degrees) for term in terms)]
    variance, degrees = satterthwaite(signed)
    if variance < max(alone, items):
        variance, degrees = (alone, degrees_alone) if alone > items else (items, float(num_items - 1))
    if variance <= 0:
        return CrossedEstimate(mean, 0.0, degrees, 0.0, over_seeds=True)
    margin = max(t_quantile(0.975, q) * math.sqrt(v) for q, v in ((degrees, variance), (degrees_alone, alone)))
    return CrossedEstimate(mean, variance, degrees, margin, over_seeds=True)


def satterthwaite(terms: Sequence[tuple[float, int]]) -> tuple[float, float]:
    r"""Sum of independent mean squares, and its degrees of freedom.

    .. math:: V = \sum_i v_i, \qquad \nu = V^2 / \sum_i (v_i^2 / \nu_i)

    Args:
        terms: Mean squares v, already multiplied by their (possibly negative) weights, each with its degrees ν.

    Returns:
        V and ν; where all v are 0, the smallest of their degrees.

    Source: F. E. Satterthwaite, An approximate distribution of estimates of variance components (1946).
    """
    total = math.fsum(value for value, _ in terms)
    denominator = math.fsum(value**2 / degrees for value, degrees in terms)
    return total, total**2 / denominator if denominator > 0 else float(min(degrees for _, degrees in terms))


def _check(tables: Sequence[Table]) -> None:
    lengths = {len(row) for table in tables for row in table}
    if not all(tables) or len(lengths) != 1 or min(lengths) < 2:
        shapes = " and ".join(str([len(row) for row in table]) for table in tables)
        raise ValueError(f"tables must have a row of the same two or more items for each seed; got rows of {shapes}.")


def _terms(table: Table) -> _Terms:
    num_seeds, num_items = len(table), len(table[0])
    seed_means = [math.fsum(row) / num_items for row in table]
    item_means = [math.fsum(values) / num_seeds for values in zip(*table, strict=True)]
    mean = math.fsum(seed_means) / num_seeds
    if num_seeds < 2:
        return _Terms(mean, item_means, 0.0, 0.0, 0, 0)
    squares = math.fsum(
        (value - seed_mean - item_mean + mean) ** 2
        for row, seed_mean in zip(table, seed_means, strict=True)
        for value, item_mean in zip(row, item_means, strict=True)
    )
    degrees = (num_seeds - 1) * (num_items - 1)
    residual = squares / degrees / (num_seeds * num_items)
    return _Terms(mean, item_means, _mean_square(seed_means) / num_seeds, residual, num_seeds - 1, degrees)


def _mean_square(values: Sequence[float]) -> float:
    """Sample variance (n − 1)."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
