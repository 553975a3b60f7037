"""The numbers behind the tables: mean, deviation, and whether two norms differ by more than the noise does.

Pure functions of plain numbers; nothing outside the standard library.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

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
    """First minus second, with a 95 % interval over seeds and test images.

    Args:
        mean: Difference of the two means.
        low: Lower end. None: the noise is unknown.
        high: Upper end. None: the noise is unknown.
        paired: Whether the same seeds were compared one by one.
        obstacle: Why there is no interval: "one seed", or "no spread" where every seed gives the same difference and
            the error of the test set is unknown. None: there is one.
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


def compare(first: Mapping[int, float], second: Mapping[int, float], *, sampling: float | None = None) -> Difference:
    """Difference of two norms with a 95 % interval over seeds and test images.

    `d ± √(m² + (1.96 · e)²)`. The margin of the seeds, m, is `t(n − 1) · sd(d) / √n` over the paired differences where
    two or more seeds are shared, Welch's margin where each norm has two or more seeds of its own. The error of the
    test set, e, is not divided by the number of seeds, because all seeds see the same images. It keeps accuracies,
    which come in steps of 100/n %, from looking certain when their differences happen to be equal. Errors of two
    norms on the same images go together, and e ignores that, so the interval is rather too wide than too narrow.

    No interval where one seed decides nothing, and where every seed gives the same difference and e is unknown or 0.

    Args:
        first: Value by seed.
        second: Value by seed.
        sampling: e, the standard error of the difference over the draw of the test items. None: unknown, and m alone
            is the margin.

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
        variances = (_variance(one), _variance(other))
        spread, degrees = sum(variances), _welch_degrees(variances, (one.n, other.n))
    if math.sqrt(spread) <= EQUAL_SPREAD * largest and not sampling:
        return Difference(mean, None, None, paired, "no spread")
    margin = math.hypot(t_quantile(0.975, degrees) * math.sqrt(spread), NORMAL_QUANTILE * (sampling or 0.0))
    return Difference(mean, mean - margin, mean + margin, paired, None)


def _variance(summary: Summary) -> float:
    """Squared standard error of the mean."""
    return 0.0 if summary.deviation is None else summary.deviation**2 / summary.n


def _welch_degrees(variances: tuple[float, float], counts: tuple[int, int]) -> float:
    """Degrees of freedom of Welch and Satterthwaite: `(Σ v)² / Σ v²/(n − 1)`."""
    denominator = sum(variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True))
    return sum(variances) ** 2 / denominator if denominator > 0 else float(min(counts) - 1)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        probability: Between 0.5 and 1, both excluded.
        degrees: Degrees of freedom, above 0.

    Returns:
        The `t` with `P(T ≤ t) = probability`.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 0.5 < probability < 1:
        raise ValueError(f"probability must be between 0.5 and 1; got {probability}. Use the symmetry of t below 0.5.")
    if degrees <= 0:
        raise ValueError(f"degrees must be above 0; got {degrees}. Two values give one degree of freedom.")
    low, high = 0.0, 1.0
    while _t_distribution(high, degrees) < probability:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        if _t_distribution(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _t_distribution(t: float, degrees: float) -> float:
    """`P(T ≤ t)` for t ≥ 0: `1 − I_x(ν/2, 1/2) / 2` with `x = ν / (ν + t²)`."""
    return 1.0 - _incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5) / 2.0


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function `I_x(a, b)`."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function.

    Source: Press et al., Numerical Recipes, 3rd edition, section 6.4.
    """
    tiny = 1e-300
    numerator, denominator = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    denominator = 1.0 / (denominator if abs(denominator) > tiny else tiny)
    value = denominator
    for step in range(1, 500):
        for coefficient in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            denominator = 1.0 + coefficient * denominator
            denominator = 1.0 / (denominator if abs(denominator) > tiny else tiny)
            numerator = 1.0 + coefficient / numerator
            numerator = numerator if abs(numerator) > tiny else tiny
            value *= denominator * numerator
        if abs(denominator * numerator - 1.0) < 1e-15:
            break
    return value
