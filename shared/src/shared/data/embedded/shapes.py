"""Signed distances of the shapes and arrangements: negative inside, one unit is about half the object.

Only +, -, ×, /, square root, absolute value, minimum and maximum are used here and in the sister files: IEEE 754 fixes
their results, so the images are the same on every machine, which sine or exponential functions would not be.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

Plane = Float32[ndarray, "N H W"]

# cosine and sine of the directions of the sides
_TRIANGLE_SIDES = ((0.0, 1.0), (0.8660254, -0.5), (-0.8660254, -0.5))
_STAR_SIDES = (
    (0.0, 1.0),
    (0.9510565, 0.3090170),
    (0.5877853, -0.8090170),
    (-0.5877853, -0.8090170),
    (-0.9510565, 0.3090170),
)
_WHEEL_MIRRORS = ((0.0, 1.0), (0.8660254, 0.5), (0.8660254, -0.5))


def shape_distance(shape: str, x: Plane, y: Plane) -> Plane:
    """Return the signed distance to a shape of about the unit disc's size.

    Args:
        shape: One of `SHAPES`.
        x: Horizontal coordinate of each pixel in the shape's frame.
        y: Vertical coordinate.
    """
    return _DISTANCES[shape](x, y)


def arrange(arrangement: str, x: Plane, y: Plane) -> tuple[Plane, Plane, float]:
    """Fold the plane so that one shape becomes several copies.

    Args:
        arrangement: One of `ARRANGEMENTS`; ``"single"`` and ``"nested"`` leave the plane as it is.
        x: Horizontal coordinate of each pixel in the object's frame.
        y: Vertical coordinate.

    Returns:
        The coordinates in the frame of the nearest copy, in units of that copy, and that unit.
    """
    if arrangement == "pair":
        unit = 0.55
        return (np.abs(x) - 0.55) / unit, y / unit, unit
    if arrangement == "row":
        unit = 0.42
        return (x - np.clip(np.floor(x / 0.85 + 0.5), -1, 1) * 0.85) / unit, y / unit, unit
    if arrangement == "grid":
        unit = 0.44
        return (np.abs(x) - 0.5) / unit, (np.abs(y) - 0.5) / unit, unit
    if arrangement == "wheel":
        unit = 0.36
        for normal_x, normal_y in _WHEEL_MIRRORS:
            beyond = 2 * np.minimum(x * normal_x + y * normal_y, 0)
            x, y = x - beyond * normal_x, y - beyond * normal_y
        return (x - 0.6) / unit, (y - 0.3) / unit, unit
    return x, y, 1.0


def _disc(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y) - 0.85


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - 0.75


def _triangle(x: Plane, y: Plane) -> Plane:
    sides = [x * normal_x + y * normal_y for normal_x, normal_y in _TRIANGLE_SIDES]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - 0.5


def _star(x: Plane, y: Plane) -> Plane:
    # a point is inside a pentagram if it is outside of at most one of its five lines
    largest = np.full_like(x, -np.inf)
    second = largest
    for normal_x, normal_y in _STAR_SIDES:
        side = x * normal_x + y * normal_y
        second = np.maximum(second, np.minimum(largest, side))
        largest = np.maximum(largest, side)
    return second - 0.33


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.sqrt(x * x + y * y) - 0.68) - 0.22


def _cross(x: Plane, y: Plane) -> Plane:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - 0.95, short - 0.28)


def _crescent(x: Plane, y: Plane) -> Plane:
    shifted = x - 0.5
    return np.maximum(np.sqrt(x * x + y * y) - 0.9, 0.75 - np.sqrt(shifted * shifted + y * y))


def _heart(x: Plane, y: Plane) -> Plane:
    side, up = np.abs(x), y + 0.1
    bump_x, bump_y = side - 0.38, up + 0.3
    bump = np.sqrt(bump_x * bump_x + bump_y * bump_y) - 0.45
    body = np.maximum((side + up) * 0.7071068 - 0.68, -0.2 - up)
    return np.minimum(bump, np.maximum(body, side - 0.83))


def _hourglass(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(y) - 0.85, (np.abs(x) - 0.9 * np.abs(y) - 0.08) * 0.74)


def _corner(x: Plane, y: Plane) -> Plane:
    upright = np.maximum(np.abs(x + 0.5) - 0.28, np.abs(y) - 0.8)
    foot = np.maximum(np.abs(x) - 0.78, np.abs(y - 0.52) - 0.28)
    return np.minimum(upright, foot)


_DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
    "hourglass": _hourglass,
    "corner": _corner,
}
