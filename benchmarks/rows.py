"""Rows of measurements, and the JSON file and the Markdown table that hold them."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.beside import Turns
from shared.record import device_name, versions
from shared.source import source_version

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Args:
        task: What it belongs to.
        what: What is measured, with sizes.
        ours: The number.
        unit: Its unit.
        reference: What it is compared to, with its version; empty where it stands alone.
        theirs: The reference's number.
        ratio: How many times as fast ours is, the median over turns.
        at_least: Target of the ratio.
        at_most: Target of the number itself.
        why: Where our time goes, where a target is missed.
        note: What else must be known to read the row.
    """

    task: str
    what: str
    ours: float
    unit: str
    reference: str = ""
    theirs: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""
    note: str = ""

    @property
    def target(self) -> str:
        """The target in words; empty where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g} ×"
        return "" if self.at_most is None else f"< {self.at_most:g} {self.unit}"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or nothing to compare with."""
        if self.at_least is not None:
            return None if self.ratio is None else self.ratio >= self.at_least
        return None if self.at_most is None else self.ours < self.at_most


def timed_row(turns: Turns, *, rate_of: int | None = None, **columns: Any) -> Row:
    """Return the row of two sides that took turns.

    Args:
        turns: Their times.
        rate_of: Images of a call, where rates are to be told instead of milliseconds.
        columns: The other columns.
    """

    def number(times: list[float]) -> float:
        middle = sorted(times)[len(times) // 2]
        return round(middle * 1e3, 3) if rate_of is None else round(rate_of / middle)

    unit = "ms" if rate_of is None else "images/s"
    return Row(
        ours=number(turns.ours), theirs=number(turns.theirs), ratio=round(turns.ratio, 3), unit=unit,
        why=turns.profile, **columns,
    )  # fmt: skip


def version(package: str) -> str:
    """Return a package's name and version, as installed."""
    return f"{package} {importlib.metadata.version(package)}"


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the JSON file holds: the rows, and what they belong to."""
    commit, dirty = source_version()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit + "-dirty" * dirty,
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rows": [asdict(row) | {"target": row.target, "met": row.met} for row in rows],
    }


def markdown(found: dict[str, Any]) -> str:
    """Write a record as Markdown: the table, then what is missed and why, and notes.

    Args:
        found: What `record` returned.
    """
    rows = found["rows"]
    lines = [["Task", "Measured", "Ours", "Compared to", "Theirs", "Times as fast", "Target", "Met"]]
    lines += [["---"] * len(lines[0])]
    for row in rows:
        lines.append(
            [
                row["task"],
                row["what"],
                f"{row['ours']:,g} {row['unit']}",
                row["reference"] or "–",
                "–" if row["theirs"] is None else f"{row['theirs']:,g} {row['unit']}",
                "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
                row["target"] or "–",
                {True: "yes", False: "**no**", None: "–"}[row["met"]],
            ]
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    library = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    parts = [
        "# The tasks beside what they are compared to",
        f"{found['date']}, commit {found['commit']}, {found['device']}, {found['threads']} thread(s); {library}. Both "
        "sides in turns in one process; numbers are medians, and “times as fast” is the median of the ratios of the "
        "turns.",
        table,
    ]
    missed = [f"* {row['task']}, {row['what']}: {row['why']}" for row in rows if row["met"] is False]
    notes = [f"* {row['task']}, {row['what']}: {row['note']}" for row in rows if row["note"]]
    if missed:
        parts += ["## Missed, and where the time goes", "\n".join(missed)]
    if notes:
        parts += ["## Notes", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def write(rows: Sequence[Row], folder: Path, *, name: str) -> None:
    """Write NAME.json and NAME.md.

    Args:
        rows: The rows.
        folder: Where to.
        name: Name of the files.
    """
    found = record(rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (folder / f"{name}.md").write_text(markdown(found))


Measure = Callable[..., list[Row]]


def main(modules: Sequence[str], *, name: str, arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the files.

    Args:
        modules: The benchmarks; each has a docstring and `measure(pairs=, tiny=)`, which returns rows.
        name: Of the files.
        arguments: The command line; None takes sys.argv.
    """
    parser = argparse.ArgumentParser(description="Measure tasks beside what they are compared to.")
    parser.add_argument("--pairs", type=int, default=9, help="turns of each side")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to see that everything runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=None, help="folder for the files; none are written if left out")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error(f"pairs must be at least 1; got {options.pairs}.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows: list[Row] = []
    for module in modules:
        rows += importlib.import_module(module).measure(pairs=options.pairs, tiny=options.tiny)
    print(markdown(record(rows)))
    if options.out is not None:
        write(rows, options.out, name=name)
    return 0
