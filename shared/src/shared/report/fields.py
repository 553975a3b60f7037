"""Checks of the fields of a JSON object that is to be a record."""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_BITS = 64
MAX_DEPTH = 40
LARGEST = 1e50
"""No float32 is larger, and its fourth power, which the statistics take, is still a float."""


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


def scalar(raw: Mapping[str, Any], name: str, *, where: str) -> None:
    """Check that a field is a number, a text, true, false or null, where it is there.

    Args:
        raw: The object.
        name: Name of the field.
        where: What the object is, for the message.

    Raises:
        BadRecordError: It is a list or an object.
    """
    if isinstance(raw.get(name), list | dict):
        raise BadRecordError(f"{where}.{name} must be a number or a text; got {raw[name]!r:.60}")


def text_or_none(raw: Mapping[str, Any], name: str, *, where: str) -> None:
    """Check that a field is a text where it is there; arguments as of `scalar`."""
    if not isinstance(raw.get(name), str | None):
        raise BadRecordError(f"{where}.{name} must be of type str; got {raw[name]!r:.60}")


def check_depth(raw: Mapping[str, Any]) -> None:
    """Refuse a record, given whole, whose lists and objects are nested too deeply to be written.

    Raises:
        BadRecordError: There are more than `MAX_DEPTH` levels.
    """
    for name, _, depth in _parts(raw):
        if depth > MAX_DEPTH:
            raise BadRecordError(f"{name:.60} must be nested at most {MAX_DEPTH} levels deep; it is deeper")


def check_bits(raw: Mapping[str, Any]) -> None:
    """Refuse a record, given whole, with a whole number that no calculation could take.

    Raises:
        BadRecordError: One has more than `MAX_BITS` bits.
    """
    for name, value, _ in _parts(raw):
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise BadRecordError(f"{name:.60} must have at most {MAX_BITS} bits; got {value.bit_length()}")


def _parts(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Every value in an object, with its name and depth; no call for each level, which may be hundreds."""
    waiting: list[tuple[str, Any, int]] = [(name, value, 1) for name, value in raw.items()]
    while waiting:
        name, value, depth = waiting.pop()
        yield name, value, depth
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", entry, depth + 1) for key, entry in value.items()]
        elif isinstance(value, list):
            waiting += [(name, entry, depth + 1) for entry in value]


def without_surrogates(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no file can hold, in all texts of a JSON value."""
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_surrogates(entry) for entry in value]
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def finite(value: object) -> float | None:
    """The value as a float; None where it is no number, or not a finite one, or beyond `LARGEST`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None


def pair(raw: object) -> tuple[float, float] | None:
    """Two finite numbers; None where there are not two."""
    if not isinstance(raw, list) or len(raw) != 2:
        return None
    first, second = finite(raw[0]), finite(raw[1])
    return None if first is None or second is None else (first, second)
