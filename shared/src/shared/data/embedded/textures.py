"""How two colours fill a shape, and where the colours come from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from shared.data.embedded.shapes import Plane

Column = Float32[ndarray, " N"]
Colour = Float32[ndarray, "N 3"]


def wave(phase: Plane) -> Plane:
    """Return a smooth wave of period 1 between 0 (at whole phases) and 1, a cubic in place of a cosine.

    Args:
        phase: Phase of each pixel, in periods.
    """
    ramp = np.abs(2 * (phase - np.floor(phase)) - 1)
    return 1 - ramp * ramp * (3 - 2 * ramp)


class Place(NamedTuple):
    """Where the pixels are, in the shape's frame.

    Attributes:
        x: Horizontal coordinate.
        y: Vertical coordinate.
        distance: Signed distance to the shape, in the same unit.
        phase: Where the texture begins, in periods: one value per image, shape (N, 1, 1).
        blotches: Smooth noise in [0, 1].
    """

    x: Plane
    y: Plane
    distance: Plane
    phase: Float32[ndarray, "N 1 1"]
    blotches: Plane


def texture_share(texture: str, place: Place) -> Plane:
    """Return the share of the second colour at each pixel, in [0, 1].

    Args:
        texture: One of `TEXTURES`.
        place: Where the pixels are.
    """
    return _SHARES[texture](place)


def hue_colour(hue: Column, saturation: Column, value: Column) -> Colour:
    """Convert hue, saturation and value, each in [0, 1], to red, green and blue.

    Args:
        hue: Hue; whole turns do not matter.
        saturation: Saturation.
        value: Value.
    """
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = hue * 6 + offset
        place = place - 6 * np.floor(place / 6)
        channels.append(value - value * saturation * np.clip(np.minimum(place, 4 - place), 0, 1))
    return np.stack(channels, axis=1)


def related_colour(relation: str, hue: Column, saturation: Column, value: Column) -> Colour:
    """Return the second colour that a relation gives for the first.

    Args:
        relation: One of `RELATIONS`.
        hue: Hue of the first colour.
        saturation: Saturation of the first colour.
        value: Value of the first colour.
    """
    if relation == "lighter":
        return hue_colour(hue, saturation * 0.3, 0.4 * value + 0.6)
    if relation == "darker":
        return hue_colour(hue, saturation, value * 0.3)
    if relation == "opposite":
        return hue_colour(hue + 0.5, saturation, value)
    if relation == "third":
        return hue_colour(hue + 0.3333333, saturation, value)
    return hue_colour(hue, np.zeros_like(saturation), 0.6 * value)


def _sharp(smooth: Plane) -> Plane:
    return np.clip((smooth - 0.5) * 3 + 0.5, 0, 1)


_SHARES: dict[str, Callable[[Place], Plane]] = {
    "border": lambda at: np.clip((at.distance + 0.3) * 6 + 0.5, 0, 1),
    "stripes": lambda at: _sharp(wave(1.5 * at.y + at.phase)),
    "checks": lambda at: _sharp(0.5 + 2 * (wave(1.1 * at.x + at.phase) - 0.5) * (wave(1.1 * at.y + at.phase) - 0.5)),
    "dots": lambda at: _sharp(1.6 * wave(1.6 * at.x + at.phase) * wave(1.6 * at.y + at.phase)),
    "rings": lambda at: _sharp(wave(1.6 * np.sqrt(at.x * at.x + at.y * at.y) + 0.2 * at.phase)),
    "halves": lambda at: np.clip(at.x * 6 + 0.5, 0, 1),
    "ramp": lambda at: np.clip(0.5 + 0.6 * at.y, 0, 1),
    "blotches": lambda at: _sharp(at.blotches),
}
