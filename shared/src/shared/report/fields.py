"""Checks of the fields of a JSON object that is to be a record."""

import math
from collections.abc import Mapping
from typing import Any


class BadRecordError(ValueError):
    """The record cannot be used; the message says why in one line."""


def require(raw: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a field that must be there, be of a type, and not be empty text.

    Args:
        raw: The object.
        name: Name of the field.
        kind: Its type; a boolean is no integer.

    Returns:
        The value.

    Raises:
        BadRecordError: It is missing, of another type, or empty.
    """
    if name not in raw:
        raise BadRecordError(f"the field {name} is missing, so the record is half-written")
    value = raw[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecordError(f"{name} must be of type {kind.__name__}; got {value!r:.60}")
    if value == "":
        raise BadRecordError(f"{name} must not be empty; got ''")
    return value


def optional(raw: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """Return a field as `require` does, or the default where it is missing or null."""
    return default if raw.get(name) is None else require(raw, name, kind)


def finite(value: object) -> float | None:
    """The value as a float; None where it is no number, or not a finite one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the floats
        return None


def pair(raw: object) -> tuple[float, float] | None:
    """Two finite numbers; None where there are not two."""
    if not isinstance(raw, list) or len(raw) != 2:
        return None
    first, second = finite(raw[0]), finite(raw[1])
    return None if first is None or second is None else (first, second)
