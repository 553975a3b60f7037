"""`make runs` and `make clean-runs`: what lies in a folder of runs, and deleting what is not wanted, after asking."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.catalog import load_tasks
from shared.errors import UserError, choose, exit_with_usage_error
from shared.report.__main__ import check_exists
from shared.report.wording import duration, memory, plural
from shared.runs import Run, find_runs, is_held, read_record

UNFINISHED = ("running", "stopped", "begun")
DELETABLE = {
    "unfinished": ("stopped", "begun"),
    "lost": ("diverged", "degenerate"),
    "all": ("stopped", "begun", "diverged", "degenerate", "done", "damaged"),
}
"""What `state=` of clean-runs deletes; a run that a process is training is never deleted."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run as the list shows it.

    Args:
        run: The run.
        state: done, diverged or degenerate as its record says; else running, stopped (it has a checkpoint to go on
            from), begun (it has none), or damaged (its record cannot be read).
        norm: The norm as it was given; its short name where there is no record.
        headline: The headline number with its metric; "" where there is none.
        age: Seconds since something was written.
    """

    run: Run
    state: str
    norm: str
    headline: str
    age: float


def list_runs(folder: Path, *, task: str | None = None) -> Iterator[Listed]:
    """Yield the runs below a folder, by task and name.

    Args:
        folder: Folder of runs.
        task: Only this task's; None for all.
    """
    return (describe(run) for run in find_runs(folder) if task in (None, run.task))


def describe(run: Run) -> Listed:
    """Say what state a run is in."""
    record = None
    if run.is_finished:
        try:
            record = read_record(run.record_file)
            state = record["status"]
        except ValueError:
            state = "damaged"
    elif is_held(run):
        state = "running"
    else:
        state = "stopped" if run.last_checkpoint.is_file() else "begun"
    files = [run.path / name for name in ("run.json", "record.json", "metrics.csv", "checkpoints/last.ckpt")]
    written = max(file.stat().st_mtime for file in files if file.is_file())
    norm = run.name.removeprefix(f"{run.task}-").partition("-")[0] if record is None else record["norm"]
    return Listed(run=run, state=state, norm=norm, headline=headline(record), age=max(0.0, time.time() - written))


def headline(record: dict[str, Any] | None) -> str:
    """Return "test/top1 61.20 %" of a record; "" where it has no number."""
    if record is None or (metric := record["metrics"].get(record["headline"], {})).get("value") is None:
        return ""
    return f"{record['headline']} {metric['value']:.2f} {metric.get('unit', '')}".rstrip()


def table(listed: Sequence[Listed]) -> list[str]:
    """Return the lines of the list: state, task, norm, config, headline number, age and folder."""
    rows = [("state", "task", "norm", "config", "headline", "age", "folder")]
    rows += [
        (each.state, each.run.task, each.norm, each.run.config, each.headline or "-", duration(each.age),
         str(each.run.path))
        for each in listed
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def show(folder: Path, *, task: str | None) -> None:
    """Print the runs of a folder, and how to go on with those that are not finished."""
    listed = list(list_runs(folder, task=task))
    if not listed:
        print(f"No runs in {folder} yet. Make one: make task={task or next(iter(load_tasks()))} norm=bgn")
        return
    print("\n".join(table(listed)))
    waiting = [each for each in listed if each.state in UNFINISHED]
    print(f"\n{plural(len(listed), 'run')}, {len(waiting)} not finished.")
    for each in waiting:
        if each.state == "stopped":
            print(f"Go on with it: make resume={each.run.path}")


def clean(folder: Path, *, task: str | None, state: str, is_sure: bool) -> int:
    """Delete runs, after asking.

    Args:
        folder: Folder of runs.
        task: Only this task's; None for all.
        state: A key of `DELETABLE`.
        is_sure: Do not ask.

    Returns:
        Exit code: 0, or 1 where the answer was no.

    Raises:
        UserError: If there is nobody to ask.
    """
    listed = [each for each in list_runs(folder, task=task) if each.state in DELETABLE[state]]
    if not listed:
        print(f"Nothing to delete in {folder} (state={state}).")
        return 0
    print("\n".join(table(listed)))
    size = sum(file.stat().st_size for each in listed for file in each.run.path.rglob("*") if file.is_file())
    question = f"Delete {plural(len(listed), 'run')} ({memory(size)})?"
    if not is_sure:
        if not sys.stdin.isatty():
            raise UserError(f"clean-runs must be answered at a terminal or called with yes=1; got neither. {question}")
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was deleted.")
            return 1
    kept = 0
    for each in listed:
        if not each.run.is_finished and is_held(each.run):
            kept += 1
            continue
        shutil.rmtree(each.run.path)
    print(f"Deleted {plural(len(listed) - kept, 'run')}." + (f" {kept} began to train and stayed." if kept else ""))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """List or clean a folder of runs from the command line."""
    parser = argparse.ArgumentParser(prog="make runs", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--task", default=None, help="only this task's")
    parser.add_argument("--clean", action="store_true", help="delete instead of listing")
    parser.add_argument("--state", default="unfinished", help="what is deleted: unfinished, lost or all")
    parser.add_argument("--yes", default="0", help="1: delete without asking")
    options = parser.parse_args(arguments)
    try:
        if options.task is not None:
            choose("task", options.task, load_tasks())
        if options.runs.exists() and not options.runs.is_dir():
            raise UserError(f"runs must be a folder; got the file {str(options.runs)!r}.")
        check_exists(options.runs)
        if not options.clean:
            show(options.runs, task=options.task)
            return 0
        choose("state", options.state, DELETABLE)
        choose("yes", options.yes, ("0", "1"))
        return clean(options.runs, task=options.task, state=options.state, is_sure=options.yes == "1")
    except ValueError as error:
        exit_with_usage_error(error)


if __name__ == "__main__":
    raise SystemExit(main())
