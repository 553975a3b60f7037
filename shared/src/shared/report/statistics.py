"""The numbers behind the tables: mean, deviation, and whether two norms differ by more than the noise does.

Pure functions of plain numbers; nothing outside the standard library.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from shared.report.crossed import CrossedEstimate, crossed_estimate, satterthwaite
from shared.report.student import t_quantile

NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)
EQUAL_SPREAD = 1e-6  # share of the values below which a spread is the rounding of float32


@dataclass(frozen=True)
class Summary:
    """Mean and spread over seeds.

    Args:
        mean: Arithmetic mean.
        deviation: Sample standard deviation (n − 1). None: one seed.
        n: Number of seeds.
    """

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """First minus second, with a 95 % interval over seeds and test items.

    Args:
        mean: Difference of the two means.
        low: Lower end. None: the noise is unknown.
        high: Upper end. None: the noise is unknown.
        paired: Whether the same seeds were compared one by one.
        obstacle: Why there is no interval: "one seed", or "no spread" where every seed gives the same difference and
            the error of the test set is unknown, or every item does. None: there is one.
    """

    mean: float
    low: float | None
    high: float | None
    paired: bool
    obstacle: Literal["one seed", "no spread"] | None

    @property
    def decided(self) -> bool | None:
        """Whether the interval leaves zero out. None: the noise is unknown."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation.

    Args:
        values: One number per seed, at least one.

    Returns:
        The summary.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("values must not be empty; got none. Summarise only cells that have a run.")
    mean = math.fsum(values) / len(values)
    deviation = (
        math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) if values[1:] else None
    )
    return Summary(mean, deviation, len(values))


def sampling_error(value: float, *, ci95: tuple[float, float] | None, n: int | None, unit: str) -> float | None:
    """Standard error of one measured number over the draw of the test items.

    From its 95 % interval, `(high − low) / (2 · 1.96)`; without one, the binomial `√(p · (100 − p) / n)`, which no
    percentage over n items exceeds.

    Args:
        value: The number, in `unit`.
        ci95: Its 95 % interval over the test items. None: unknown.
        n: Number of test items. None: unknown.
        unit: Only "%" is bounded.

    Returns:
        The standard error, in `unit`. None: unknown.
    """
    if ci95 is not None:
        return (ci95[1] - ci95[0]) / (2.0 * NORMAL_QUANTILE)
    if unit != "%" or not n or not 0.0 <= value <= 100.0:
        return None
    return math.sqrt(value * (100.0 - value) / n)


ItemValues = Mapping[int, Sequence[float]]


def compare(
    first: Mapping[int, float],
    second: Mapping[int, float],
    *,
    sampling: float | None = None,
    items: tuple[ItemValues, ItemValues] | None = None,
) -> Difference:
    """Difference of two norms with a 95 % interval over seeds and test items.

    Where both norms have values for the same items, the interval is that of `crossed_estimate`, over seeds and items
    together. Otherwise it is `d ± √(m² + (1.96 · e)²)`. The margin of the seeds, m, is `t(n − 1) · sd(d) / √n` over
    the paired differences where two or more seeds are shared, Welch's margin where each norm has two or more seeds of
    its own. The error of the test set, e, is not divided by the number of seeds, because all seeds see the same
    images. It keeps accuracies, which come in steps of 100/n %, from looking certain when their differences happen to
    be equal. Errors of two norms on the same images go together, and e ignores that, so the interval is rather too
    wide than too narrow.

    No interval where one seed decides nothing, and where every seed gives the same difference and e is unknown or 0.

    Args:
        first: Value by seed.
        second: Value by seed.
        sampling: e, the standard error of the difference over the draw of the test items. None: unknown, and m alone
            is the margin. Not used with `items`.
        items: Values by seed and item of the first and the second, for the seeds above, both on the same items in the
            same order. None: not known, or not the same.

    Returns:
        The difference.

    Source: Student (1908); Welch (1947).
    """
    shared_seeds = sorted(first.keys() & second.keys())
    largest = max(map(abs, (*first.values(), *second.values())))
    if len(shared_seeds) >= 2:
        differences = summarise([first[seed] - second[seed] for seed in shared_seeds])
        spread, mean, paired = _variance(differences), differences.mean, True
        degrees = float(len(shared_seeds) - 1)
    else:
        one, other = summarise(list(first.values())), summarise(list(second.values()))
        mean, paired = one.mean - other.mean, False
        if one.n < 2 or other.n < 2:
            return Difference(mean, None, None, paired, "one seed")
        spread, degrees = satterthwaite([(_variance(one), one.n - 1), (_variance(other), other.n - 1)])
    if items:
        seeds = (shared_seeds, shared_seeds) if paired else (sorted(first), sorted(second))
        estimate = compare_items(items, seeds)
        spread, sampling, margin = estimate.variance, None, estimate.margin
    else:
        margin = math.hypot(t_quantile(0.975, degrees) * math.sqrt(spread), NORMAL_QUANTILE * (sampling or 0.0))
    if math.sqrt(spread) <= EQUAL_SPREAD * largest and not sampling:
        return Difference(mean, None, None, paired, "no spread")
    return Difference(mean, mean - margin, mean + margin, paired, None)


def compare_items(items: tuple[ItemValues, ItemValues], seeds: tuple[Sequence[int], Sequence[int]]) -> CrossedEstimate:
    """Difference of two norms on the same items.

    Args:
        items: Values by seed and item of the first and the second.
        seeds: Seeds of the first and of the second; where they are the same, the norms are compared seed by seed.

    Returns:
        The difference with its margin; that is over the items alone where a norm has one seed.
    """
    first, second = ([values[seed] for seed in several] for values, several in zip(items, seeds, strict=True))
    if list(seeds[0]) != list(seeds[1]):
        return crossed_estimate(first, second)
    return crossed_estimate(
        [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(first, second, strict=True)]
    )


def _variance(summary: Summary) -> float:
    """Squared standard error of the mean."""
    return 0.0 if summary.deviation is None else summary.deviation**2 / summary.n
