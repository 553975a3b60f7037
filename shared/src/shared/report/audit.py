"""The norm audit in words: what each norm's layers computed, where that is another norm, or a fallback."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from shared.report.aggregate import norm_labels
from shared.report.markup import data_table, element, escape, folded, row_header
from shared.report.records import Record
from shared.report.wording import NOT_APPLICABLE, listed, plural

Layer = Mapping[str, Any]
FALLBACKS = ("flat", "divisor", "split", "clamp")


def audited_layers(record: Record) -> list[Layer]:
    """Give the kinds of norm layers of a run, with `shape` [C, H, W], `count` and what the audit says of them."""
    audit = record.raw.get("norm_audit")
    layers = audit.get("layers") if isinstance(audit, dict) else None
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def audit_table(records: Sequence[Record]) -> str:
    """Build the table of what the norm layers computed with, one row per norm, batch size and G; empty without audits.

    Args:
        records: Runs of one experiment.

    Returns:
        HTML.
    """
    labels = norm_labels({record.norm for record in records})
    seen: dict[tuple[int, int, int], tuple[str, list[Layer]]] = {}
    for record in records:
        key = (list(labels).index(record.norm), -(record.batch_size or 0), record.num_groups or 0)
        if layers := audited_layers(record):
            seen.setdefault(key, (record.norm, layers))
    if not seen:
        return ""
    rows = []
    for (_, size, groups), (norm, layers) in sorted(seen.items()):
        values = _span([layer.get("values_per_statistic") for layer in layers])
        texts = (-size or "?", groups or NOT_APPLICABLE, sum(map(_count, layers)), values)
        words = element("td", escape(describe_layers(layers, asked=norm)), class_="text")
        rows.append([row_header(labels[norm]), *(element("td", escape(text)) for text in texts), words])
    header = ["norm", "batch size", "G asked", "layers", "values per statistic", "what the layers compute"]
    return folded("Norm audit: what the layers computed with", data_table("", header, rows))


def describe_layers(layers: Sequence[Layer], *, asked: str) -> str:
    """Say what the layers of a run compute.

    Args:
        layers: Kinds of layers, as in a record's norm audit.
        asked: The norm of the run, by registry name or import path.

    Returns:
        E.g. "6 layers exactly IN, 13 layers 2 channels per group"; kinds in the order of the network.
    """
    counts: dict[str, int] = defaultdict(int)
    for layer in layers:
        counts[_kind(layer, asked)] += _count(layer)
    return ", ".join(f"{plural(count, 'layer')} {kind}" for kind, count in counts.items())


def layer_notes(records: Sequence[Record]) -> list[str]:
    """Say of each norm whose layers are partly another norm, or a fallback, that they are.

    Args:
        records: The runs of a table.

    Returns:
        One sentence per norm and kind of deviation; it names the batch sizes where only some have it.
    """
    labels = norm_labels({record.norm for record in records})
    sizes: dict[str, set[int]] = defaultdict(set)
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        sizes[record.norm].add(record.batch_size or 0)
        if note := _note(audited_layers(record), record):
            found[record.norm][note].add(record.batch_size or 0)
    return [
        f"{label}{_at(where, sizes[norm])}: {note}."
        for norm, label in labels.items()
        for note, where in found[norm].items()
    ]


def _at(where: set[int], every: set[int]) -> str:
    if where == every:
        return ""
    names = [str(size) for size in sorted(where, reverse=True)]
    return f" at batch size{'s' if len(names) > 1 else ''} {listed(names)}"


def _note(layers: Sequence[Layer], record: Record) -> str:
    """The deviations of one run: "6 of 19 layers are exactly IN; 7 use flat groups …"; empty where there are none."""
    counts: dict[str, int] = defaultdict(int)
    channels: dict[str, set[int]] = defaultdict(set)
    for layer in layers:
        if deviation := _deviation(layer, record.norm):
            counts[deviation] += _count(layer)
            channels[deviation].update(shape[:1] if (shape := _shape(layer)) else ())
    total = sum(map(_count, layers))
    parts: list[str] = []
    for deviation, count in sorted(counts.items(), key=lambda item: item[0] in FALLBACKS):
        noun = "" if parts else f" of {total} layers" if count < total else f"all {plural(total, 'layer')}"
        who = noun if noun.startswith("all") else f"{count}{noun}"
        parts.append(f"{who} {_predicate(deviation, count, record.num_groups, sorted(channels[deviation]))}")
    return "; ".join(parts)


def _deviation(layer: Layer, asked: str) -> str:
    """What the layer is instead: "exactly IN", "BN", or the name of a fallback; empty where it is what was asked."""
    if other := _other_norm(layer, asked):
        return other
    if isinstance(layer.get("equivalent"), str):
        return f"exactly {layer['equivalent'].lstrip('=')}"
    return str(layer.get("fallback") or "")


def _predicate(deviation: str, count: int, groups: int | None, channels: Sequence[int]) -> str:
    verb = "uses" if count == 1 else "use"
    asked = "G" if groups is None else f"G = {groups}"
    divides = f"because {asked} does not divide"
    each = f"{listed([str(number) for number in channels])} channels" if channels else "the channels"
    fallbacks = {
        "flat": f"{verb} flat groups over C·H·W, {divides} {each}",
        "divisor": f"{verb} fewer groups, {divides} {each}",
        "split": f"{verb} groups of unequal size, {divides} their C·H·W values",
        "clamp": f"{verb} fewer groups, because they have fewer values than {asked}",
    }
    return fallbacks.get(deviation, f"{'is' if count == 1 else 'are'} {deviation}")


def _kind(layer: Layer, asked: str) -> str:
    deviation, shape, groups = _deviation(layer, asked), _shape(layer), layer.get("num_groups")
    if _other_norm(layer, asked) or deviation.startswith("exactly"):
        return deviation
    fallback = f", fallback {deviation}" if deviation else ""
    if not isinstance(groups, int) or groups < 1:
        return norm_labels({asked})[asked] + fallback
    if not shape:
        return f"G = {groups}{fallback}"
    if deviation == "split":
        return f"groups of unequal size (G = {groups} does not divide C·H·W = {math.prod(shape)})"
    if deviation == "flat":
        return f"flat {_fraction(shape[0], groups)} (G = {groups} does not divide C = {shape[0]})"
    size = _group_size(shape[0], groups)
    lowered = {"divisor": f"a divisor of C = {shape[0]}", "clamp": f"C·H·W = {math.prod(shape)}"}
    return size + (f" (G lowered to {lowered[deviation]})" if deviation in lowered else fallback)


def _group_size(channels: int, groups: int) -> str:
    if channels % groups == 0:
        return f"{plural(channels // groups, 'channel')} per group"
    return f"{groups // channels} groups per channel" if groups % channels == 0 else _fraction(channels, groups)


def _fraction(channels: int, groups: int) -> str:
    size = Fraction(channels, groups)
    return f"groups of {size} channel{'s' if size > 1 else ''}"


def _other_norm(layer: Layer, asked: str) -> str:
    """Label of the layer's norm where the run asked for another of the registry; empty where it is that one."""
    from norm_layers.registry import NORMS

    own = layer.get("norm")
    return NORMS[own].label if isinstance(own, str) and own != asked and own in NORMS and asked in NORMS else ""


def _shape(layer: Layer) -> list[int]:
    """[C, H, W], or empty where the record does not tell."""
    shape = layer.get("shape")
    usable = isinstance(shape, list) and shape and all(isinstance(side, int) and side > 0 for side in shape)
    return list(shape) if usable and isinstance(shape, list) else []


def _count(layer: Layer) -> int:
    count = layer.get("count")
    return count if isinstance(count, int) else 1


def _span(values: Sequence[object]) -> str:
    numbers = sorted({value for value in values if isinstance(value, int | float)})
    if not numbers:
        return NOT_APPLICABLE
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
