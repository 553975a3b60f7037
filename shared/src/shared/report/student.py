"""Student's t distribution, in the standard library alone."""

import math


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
        if middle in (low, high):
            break
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
