"""Runs of the suite as processes of their own, which log to the small W&B."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.catalog import load_tasks

TASKS = load_tasks()


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start `python` with these arguments, without a terminal."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_run(task: str, runs: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """Start a smoke run of a task."""
    config = TASKS[task].configs["smoke"]
    return start(["-m", task, f"--config={config}", f"--runs={runs}", "--report=false", *flags], **environment)


def end(process: subprocess.Popen[str], *, code: int = 0) -> tuple[str, str]:
    """Wait for a process, which must end with this code, and return what it printed on stdout and stderr."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out, err


def wait_for(process: subprocess.Popen[str], condition: Callable[[], Any]) -> None:
    """Wait until a condition holds while a process runs."""
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, "the process ended before its time: " + "".join(process.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run_dir(runs: Path) -> Path:
    """Return the folder of the one run below a folder of runs."""
    (identity,) = runs.rglob("run.json")
    return identity.parent


def record(run: Path) -> dict[str, Any]:
    """Return a run's record."""
    return json.loads((run / "record.json").read_text())


def kept_numbers(run: Path) -> list[tuple[int, str, float]]:
    """Return the (step, metric, value) lines of a run's metrics.csv, in order."""
    with (run / "metrics.csv").open(newline="") as file:
        return sorted((int(row["step"]), row["metric"], float(row["value"])) for row in csv.DictReader(file))


def sent_numbers(history: list[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """Return the (step, metric, value) triples of a W&B history, in order; not W&B's own, the epoch and pictures."""
    return sorted(
        (int(row["trainer/global_step"]), name, value)
        for row in history
        for name, value in row.items()
        if not name.startswith("_") and name not in ("trainer/global_step", "epoch") and not isinstance(value, dict)
    )
