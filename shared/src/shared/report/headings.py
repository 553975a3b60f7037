"""What tells sections of one task and config apart, for their headings."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.report.experiments import CELL_AXES, Experiment
from shared.report.wording import METHODS, plain, pretty

MAX_DIFFERENCES = 3
DATA = "data"
NAMES = {"train": "training images", "test": "test images", "num_classes": "classes"}
"""Parts of a data set that are written after their number."""


def distinctions(headings: Sequence[str], families: Sequence[Sequence[Experiment]]) -> list[str]:
    """Say what parts sections with equal headings.

    Args:
        headings: Heading of each section.
        families: The experiments of each section.

    Returns:
        For each section "epochs 99, not 12" or "data 1111abcd, not 5c0669aa", compared with the one of equal heading
        that has most runs; for that one, what it has where others differ. Empty where no other heading is equal.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, heading in enumerate(headings):
        groups[heading].append(place)
    found = [""] * len(headings)
    for places in groups.values():
        if len(places) > 1:
            for place, text in zip(places, _apart([families[each] for each in places]), strict=True):
                found[place] = text
    return found


def _apart(families: Sequence[Sequence[Experiment]]) -> list[str]:
    facts = [_facts(family) for family in families]
    sizes = [sum(len(experiment.records) for experiment in family) for family in families]
    reference = max(range(len(families)), key=lambda place: (sizes[place], -place))
    varying = [_varying(own, facts[reference]) for own in facts]
    of_reference = sorted({name for names in varying for name in names})
    texts = []
    for place, own in enumerate(facts):
        if place != reference:
            parts = [_part(name, own.get(name), [facts[reference].get(name)]) for name in varying[place]]
        else:
            parts = [
                _part(name, own.get(name), [other.get(name) for other in facts if other.get(name) != own.get(name)])
                for name in of_reference
            ]
        more = " and more" if len(parts) > MAX_DIFFERENCES else ""
        texts.append("; ".join(parts[:MAX_DIFFERENCES]) + more)
    return [
        text if text and texts.count(text) == 1 else "; ".join(filter(None, [text, str(number)]))
        for number, text in enumerate(texts, start=1)
    ]


def _varying(own: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names of the facts that differ. Another number of images tells more than the checksum that follows from it."""
    names = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
    told = not {"data set", "resolution", *NAMES.values()}.isdisjoint(names)
    return [name for name in names if name != DATA or not (told or None in (own.get(name), other.get(name)))]


def _part(name: str, own: str | None, others: Sequence[str | None]) -> str:
    """Write a fact, and what it is elsewhere where that is one thing."""
    if own is None:
        return f"no {name}"
    there = f", not {others[0]}" if len(set(others)) == 1 and others[0] is not None else ""
    if name in NAMES.values():
        return f"{own} {name}{there}"
    return f"{own}{there}" if name in ("model", "data set") else f"{name} {own}{there}"


def _facts(family: Sequence[Experiment]) -> dict[str, str]:
    """What a section's runs share, in words, by name."""
    facts: dict[str, set[str]] = defaultdict(set)
    for experiment in family:
        first = experiment.first
        pairs: list[tuple[str, Any]] = [("model", pretty(first.model)), ("number:", first.selection)]
        pairs += [("headline", first.headline), *_data_facts(first.dataset)]
        pairs += [(_spaced(name), value) for name, value in (*experiment.protocol.items(), *experiment.axes.items())]
        pairs += [(_spaced(name), _by_size(values)) for name, values in experiment.following.items()]
        for name, value in pairs:
            if name not in CELL_AXES and value is not None:
                facts[name].add(METHODS.get(value, value) if name == "method" else _text(value))
    return {name: ", ".join(sorted(values)) for name, values in facts.items() if name != DATA or len(values) == 1}


def _data_facts(dataset: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    checksum = str(dataset.get("checksum") or "unknown").rpartition(":")[2][:8]
    yield "data set", pretty(str(dataset.get("name", "unknown data")))
    yield DATA, checksum
    yield "resolution", dataset.get("resolution")
    for name, words in NAMES.items():
        yield words, dataset.get(name)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _by_size(values: Mapping[int, Any]) -> str:
    size = max(values)
    return f"{plain(values[size])} at batch size {size}"


def _text(value: Any) -> str:
    return plain(value) if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True, default=str)
