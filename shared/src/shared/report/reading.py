"""Find run records: what is usable, and what is left out and why.

A record that cannot be trusted is never averaged and never stops the report.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from shared.report.records import BadRecordError, Record, canonical_json, parse_record

RECORD_FILE = "record.json"


@dataclass(frozen=True)
class LeftOut:
    """Something that was found and not used.

    Args:
        source: File, with the line number in a `.jsonl`.
        reason: One sentence.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class RecordSet:
    """What was read.

    Args:
        records: Usable records, one per run name, in the order of the run names.
        left_out: Everything else.
        published: Names of the runs that are among the published ones.
    """

    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...]
    published: frozenset[str] = frozenset()

    def of_task(self, task: str | None) -> "RecordSet":
        """Keep the records of one task.

        Args:
            task: Name of the task. None: keep all.

        Raises:
            ValueError: There are records, and none is of this task.
        """
        tasks = sorted({record.task for record in self.records})
        if task is None or not tasks:
            return self
        if task not in tasks:
            raise ValueError(f"task must be one that has runs ({', '.join(tasks)}); got {task!r}.")
        kept = tuple(record for record in self.records if record.task == task)
        return replace(self, records=kept)


def read_records(*, runs: Path | None, results: Path | None) -> RecordSet:
    """Read every record below `runs` and every line of `results/*.jsonl`.

    A run found in both places counts once. Where two records of one name differ, the published one is used and the
    other is left out.

    Args:
        runs: Folder of run folders. None: not read.
        results: Folder of published `<task>.jsonl` files. None: not read.

    Returns:
        The usable records and what was left out.
    """
    chosen: dict[str, Record] = {}
    left_out: list[LeftOut] = []
    published = set()
    for source, text in _sources(runs=runs, results=results):
        try:
            record = parse_record(text)
        except BadRecordError as error:
            left_out.append(LeftOut(source, str(error)))
            continue
        known = chosen.setdefault(record.run, record)
        if not source.endswith(RECORD_FILE):
            published.add(record.run)
        if known is not record and canonical_json(known.raw) != canonical_json(record.raw):
            reason = f"a different record of the run {record.run} was read before this one, and is used"
            left_out.append(LeftOut(source, reason))
    return RecordSet(tuple(chosen[name] for name in sorted(chosen)), tuple(left_out), frozenset(published))


def _sources(*, runs: Path | None, results: Path | None) -> Iterator[tuple[str, str | None]]:
    if results is not None and results.is_dir():
        for path in sorted(results.glob("*.jsonl")):
            text = _read_text(path)
            if text is None:
                yield str(path), None
                continue
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    if runs is not None:
        for path in find_record_files(runs):
            yield str(path), _read_text(path)


def find_record_files(root: Path) -> Iterator[Path]:
    """Yield every `record.json` at or below a folder, sorted, without looking into the run folders further."""
    for folder, subfolders, files in os.walk(root):
        if RECORD_FILE in files:
            subfolders.clear()
            yield Path(folder) / RECORD_FILE
        subfolders.sort()


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
