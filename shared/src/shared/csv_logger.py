"""metrics.csv: every logged number as one line, never twice."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

COLUMNS = ["epoch", "step", "metric", "value"]


def logged_numbers(path: Path) -> set[tuple[int, str]]:
    """Return the (step, metric) pairs in metrics.csv."""
    if not path.is_file():
        return set()
    with path.open(newline="") as file:
        return {(int(row["step"]), row["metric"]) for row in csv.DictReader(file) if row["value"]}


def cut_after(path: Path, step: int) -> None:
    """Drop the lines of steps beyond `step`, and a half-written last line, atomically."""
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["value"] and int(row["step"]) <= step]
    temporary = path.with_suffix(".partial")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


class CsvLogger(Logger):
    """Lightning logger that appends (epoch, step, metric, value) lines and flushes them at once.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """The logger's name."""
        return "csv"

    @property
    def version(self) -> str:
        """The format's version."""
        return "1"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log nothing: config.yaml holds the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line a metric."""
        is_new = not self.path.exists()
        epoch = metrics.get("epoch", "")
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerows(
                [epoch, step or 0, name, repr(float(value))] for name, value in metrics.items() if name != "epoch"
            )
