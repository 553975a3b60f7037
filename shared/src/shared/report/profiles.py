"""Profiles of a record: a measured number over a setting of the test, such as robust accuracy over eps."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.report.fields import BadRecordError, pair, require

Point = tuple[float, float]


@dataclass(frozen=True)
class Profile:
    """A measured number over a setting of the test, of one run.

    Args:
        title: What is shown ("PGD-20 accuracy over eps").
        x: What is varied, with its unit ("eps × 255").
        unit: Unit of the number; empty where it has none.
        points: (x, value), two or more, x increasing.
    """

    title: str
    x: str
    unit: str
    points: tuple[Point, ...]

    @property
    def layout(self) -> tuple[str, str, str, tuple[float, ...]]:
        """Equal for two profiles that can be averaged point by point."""
        return (self.title, self.x, self.unit, tuple(x for x, _ in self.points))


def parse_profiles(raw: Mapping[str, Any]) -> dict[str, Profile]:
    """Check the profiles of a record.

    Args:
        raw: The field `profiles`: name to an object of title, x, unit and points.

    Returns:
        The profiles by name.

    Raises:
        BadRecordError: A field is missing or of the wrong type, there are fewer than two points, a point is not two
            finite numbers, or x does not increase.
    """
    return {name: _profile(name, entry) for name, entry in raw.items()}


def _profile(name: str, entry: object) -> Profile:
    if not name:
        raise BadRecordError("a profile must have a name; got ''")
    if not isinstance(entry, dict):
        raise BadRecordError(f"the profile {name} must be an object; got {entry!r:.60}")
    try:
        title, x, points = require(entry, "title", str), require(entry, "x", str), require(entry, "points", list)
        unit = "" if entry.get("unit") == "" else require(entry, "unit", str)
    except BadRecordError as error:
        raise BadRecordError(f"in the profile {name}, {error}") from None
    if len(points) < 2:
        raise BadRecordError(f"in the profile {name}, points must be two or more; got {len(points)}")
    found = [_point(name, point) for point in points]
    for (before, _), (after, _) in itertools.pairwise(found):
        if after <= before:
            raise BadRecordError(
                f"in the profile {name}, x must increase from point to point; got {after:g} after {before:g}"
            )
    return Profile(title, x, unit, tuple(found))


def _point(name: str, raw: object) -> Point:
    point = pair(raw)
    if point is None:
        raise BadRecordError(f"in the profile {name}, a point must be two finite numbers; got {raw!r:.60}")
    return point
