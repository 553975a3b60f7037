"""What to mind before one compares the numbers of a section.

Differences between its runs that no axis names, and the reasons that the runs themselves give to doubt a number.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from shared.report.aggregate import norm_labels, reference_problems
from shared.report.records import Record, with_commit
from shared.report.wording import MINUS, listed, plural, shortened

MAX_NAMED = 6
RANGE = "\N{EN DASH}"
NUMBER = re.compile(rf"(?<![\w.])(?<![A-Za-z]-)[-+{MINUS}]?\d+(?:,\d{{3}})*(?:\.\d+)?(?!\.?\w|/)")


def cautions(records: Sequence[Record], *, superseded: Sequence[Record] = ()) -> list[str]:
    """List reasons to doubt a number, references that lead nowhere, and what else than the axes differs between runs.

    Args:
        records: The runs of a section.
        superseded: Those that are left out, because their seed ran again with other code.

    Returns:
        Sentences.
    """
    found = doubts(records)
    for how in dict.fromkeys(record.replaced for record in superseded):
        older = [record for record in superseded if record.replaced == how]
        one = len(older) == 1
        kind = "commits" if how.endswith("commit") else "code"
        found.append(
            f"{plural(len(older), 'run')} {'is' if one else 'are'} left out, because {'its' if one else 'their'} "
            f"seed was run again {how}, and values of different {kind} are never averaged into one; "
            f"the newest counts: {shortened([with_commit(record) for record in older], MAX_NAMED, 'run')}."
        )
    found += reference_problems(records)
    found += _several(records, "commit", "commits", lambda record: record.commit)
    if any(record.commit.endswith("+changes") for record in records):
        found.append("“+changes” marks runs of a working tree with changes that no commit holds.")
    found += _other_sources(records)
    found += _several(records, "kind of device", "kinds of device", _device_kind)
    found += _several(records, "version of torch", "versions of torch", _torch_version)
    return found


def doubts(records: Sequence[Record]) -> list[str]:
    """List the warnings of runs; those of several seeds that differ in their numbers only are one.

    Args:
        records: Runs.

    Returns:
        "run NAME: WARNING", or "BGN (seeds 0, 1 and 2): WARNING" with "low–high" for each number that varies.
    """
    found: dict[tuple[object, ...], list[tuple[Record, str]]] = defaultdict(list)
    for record in records:
        times: dict[str, int] = defaultdict(int)
        for text in dict.fromkeys(record.warnings):
            kind = NUMBER.sub("#", text)
            found[record.norm, record.batch_size, record.num_groups, kind, times[kind]].append((record, text))
            times[kind] += 1
    lines = []
    for members in found.values():
        first, text = members[0]
        if len(members) == 1:
            lines.append(f"run {first.run}: {text}")
        else:
            name = f"{_cell_name(first, records)} ({_seeds([record for record, _ in members])})"
            lines.append(f"{name}: {_with_ranges([each for _, each in members])}")
    return lines


def doubted_norms(records: Sequence[Record]) -> list[str]:
    """List the norms of which a run gives a reason to doubt a number, as the reader sees them."""
    labels = norm_labels({record.norm for record in records})
    return [label for norm, label in labels.items() if any(r.norm == norm and r.warnings for r in records)]


def _cell_name(record: Record, records: Sequence[Record]) -> str:
    """Name a run's norm, with the batch size and G where runs differ in them."""
    name = norm_labels({each.norm for each in records})[record.norm]
    if len({each.batch_size for each in records}) > 1:
        name += f" at batch size {record.batch_size}"
    if len({each.num_groups for each in records if each.norm == record.norm}) > 1:
        name += f" with G = {record.num_groups}"
    return name


def _seeds(records: Sequence[Record]) -> str:
    """Name seeds, "seeds 0, 1 and 2"; with the number of runs where some ran several times."""
    numbers = [str(seed) for seed in sorted({record.seed for record in records})]
    text = f"seed{'s' if len(numbers) > 1 else ''} {listed(numbers)}"
    return text if len(numbers) == len(records) else f"{plural(len(records), 'run')}, {text}"


def _with_ranges(texts: Sequence[str]) -> str:
    """Write texts that differ in their numbers only as one, with the lowest and the highest of each number."""
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    ends = [(min(column, key=_value), max(column, key=_value)) for column in columns]
    written = iter([low if _value(low) == _value(high) else f"{low}{RANGE}{high}" for low, high in ends])
    return NUMBER.sub(lambda _: next(written), texts[0])


def _value(number: str) -> float:
    return float(number.replace(",", "").replace(MINUS, "-"))


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


def _other_sources(records: Sequence[Record]) -> list[str]:
    """Warn where runs of one norm had other files of it, or runs of one commit other changes that it does not hold."""
    found = []
    for norm in norm_labels({record.norm for record in records}):
        own = [record for record in records if record.norm == norm and record.norm_source]
        found += _several(own, "file", "versions of the norm's own file", lambda record: record.norm_source or "")
    for commit in dict.fromkeys(record.commit for record in records):
        same = [record for record in records if record.commit == commit and record.source_diff]
        several = _several(same, "changes", "states of uncommitted changes", lambda record: record.source_diff or "")
        found += [text.replace("the runs", f"the runs of commit {commit}", 1) for text in several]
    return found


def _device_kind(record: Record) -> str:
    """Name a device: a CPU whatever its model, an accelerator with it."""
    kind = record.device.partition(" ")[0]
    return kind if kind == "cpu" else re.sub(r", \d+ threads", "", record.device)


def _torch_version(record: Record) -> str:
    versions = record.raw.get("versions")
    return str(versions.get("torch", "")) if isinstance(versions, dict) else ""
