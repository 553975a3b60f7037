"""What to mind before one compares the numbers of a section: differences between its runs that no axis names."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from shared.report.aggregate import norm_labels, reference_problems
from shared.report.records import Record
from shared.report.wording import plural


def cautions(records: Sequence[Record]) -> list[str]:
    """List what else than the axes of the tables differs between runs, and references that lead nowhere.

    Args:
        records: The runs of a section.

    Returns:
        Sentences.
    """
    found = reference_problems(records)
    found += _several(records, "commit", "commits", lambda record: record.commit)
    if any(record.commit.endswith("+changes") for record in records):
        found.append("“+changes” marks runs of a working tree with changes that no commit holds.")
    found += _several(records, "kind of device", "kinds of device", _device_kind)
    found += _several(records, "version of torch", "versions of torch", _torch_version)
    return found


def readings_by_norm(records: Sequence[Record]) -> list[str]:
    """List the readings of the paper in force, each once; with the norms it concerns where those are not all.

    Args:
        records: Runs.

    Returns:
        E.g. "S = D/G (BGN only)".
    """
    labels = norm_labels({record.norm for record in records})
    norms: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for reading in record.readings:
            norms[reading].add(record.norm)
    listing = []
    for reading, concerned in norms.items():
        names = [label for norm, label in labels.items() if norm in concerned]
        listing.append(reading if len(names) == len(labels) else f"{reading} ({' and '.join(names)} only)")
    return listing


def _several(records: Sequence[Record], one: str, many: str, value_of: Callable[[Record], str]) -> list[str]:
    """Warn where a value is not the same for all runs, with the norms that ran under each."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[value_of(record)].append(record)
    if len(groups) < 2:
        return []
    parts = []
    for value, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = ", ".join(norm_labels({record.norm for record in members}).values())
        parts.append(f"{value or f'unknown {one}'} ({plural(len(members), 'run')}: {names})")
    return [f"the runs come from {len(groups)} {many}: {', '.join(parts)}."]


def _device_kind(record: Record) -> str:
    """Name a device: a CPU whatever its model, an accelerator with it."""
    kind = record.device.partition(" ")[0]
    return kind if kind == "cpu" else re.sub(r", \d+ threads", "", record.device)


def _torch_version(record: Record) -> str:
    versions = record.raw.get("versions")
    return str(versions.get("torch", "")) if isinstance(versions, dict) else ""
