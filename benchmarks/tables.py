"""The Markdown report of a benchmark record."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.shapes import NETS

Row = dict[str, Any]


def markdown(record: dict[str, Any]) -> str:
    """Write a record of `benchmarks.norm_layers` as Markdown.

    Args:
        record: What the JSON file holds.

    Returns:
        A summary by norm, one by net, the cases that miss a target with their profiles, and what was left out.
    """
    rows = record["rows"]
    parts = [
        "# Norm layers beside nn.BatchNorm2d",
        f"{record['date']}, commit {record['commit']}, {record['device']}, {record['threads']} thread(s), "
        f"torch {record['torch']}, {record['dtype']}. Ratios to `nn.BatchNorm2d` on the same input, in turns; below 1 "
        "is faster or leaner. Training: forward and backward. `plain`: the same layer with torch's own operations.",
        "## By norm",
        _summary(rows, lambda row: (row["norm"], row["layout"]), ("Norm", "Layout")),
        "## By net and batch size",
        _summary(
            rows,
            lambda row: (NETS[row["net"]].title, str(row["batch_size"]), row["norm"], row["layout"]),
            ("Net", "Batch", "Norm", "Layout"),
        ),
        "## Training slower than nn.BatchNorm2d",
        _misses(rows),
        "## Every case",
        _cases(rows),
    ]
    if record["left_out"]:
        parts += ["## Left out, too large", "\n".join(f"* {item}" for item in record["left_out"])]
    return "\n\n".join(parts) + "\n"


def _summary(rows: list[Row], key: Callable[[Row], tuple[str, ...]], names: tuple[str, ...]) -> str:
    """Give medians and extremes of the cases that share a key."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    lines = []
    for values, members in groups.items():
        training = [row["training"]["ours"]["ratio"] for row in members]
        lines.append(
            [
                *values,
                str(len(members)),
                f"{statistics.median(training):.2f}",
                f"{min(training):.2f}-{max(training):.2f}",
                f"{sum(ratio <= 1 for ratio in training)}/{len(training)}",
                f"{statistics.median(row['training']['plain']['ratio'] for row in members):.2f}",
                f"{statistics.median(row['evaluation']['ours']['ratio'] for row in members):.2f}",
                f"{max(_memory(row, 'saved') for row in members):.2f}",
                f"{max(_memory(row, 'peak') for row in members):.2f}",
            ]
        )
    head = [
        *names,
        "cases",
        "training, median",
        "range",
        "at most 1",
        "plain",
        "evaluation",
        "saved, max",
        "peak, max",
    ]
    return _table(head, lines)


def _misses(rows: list[Row]) -> str:
    """List the cases that are slower than batch norm, with where their time goes."""
    missed = [row for row in rows if row["training"]["ours"]["ratio"] > 1]
    if not missed:
        return "None."
    lines = [
        [
            *_case(row),
            f"{row['training']['ours']['ratio']:.2f}",
            f"{row['training']['ours']['microseconds']:.0f}",
            ", ".join(f"{name} {share:.0%}" for name, share in row.get("profile", {}).items()),
        ]
        for row in sorted(missed, key=lambda row: -row["training"]["ours"]["ratio"])
    ]
    return _table([*CASE, "ratio", "µs", "Profile"], lines)


def _cases(rows: list[Row]) -> str:
    """List everything."""
    lines = [
        [
            *_case(row),
            f"{row['training']['batch_norm']['microseconds']:.0f}",
            f"{row['training']['ours']['ratio']:.2f}",
            f"{row['training']['plain']['ratio']:.2f}",
            f"{row['evaluation']['ours']['ratio']:.2f}",
            f"{_memory(row, 'saved'):.2f}",
            f"{_memory(row, 'peak'):.2f}",
        ]
        for row in rows
    ]
    head = [*CASE, "BatchNorm2d, µs"]
    return _table([*head, "training", "plain", "evaluation", "saved", "peak"], lines)


CASE = ("Norm", "Batch", "C x H x W", "G", "Layout")


def _case(row: Row) -> list[str]:
    """Name a case: the cells under `CASE`."""
    shape = "x".join(map(str, row["shape"]))
    return [row["norm"], str(row["batch_size"]), shape, str(row["num_groups"] or ""), row["layout"]]


def _memory(row: Row, what: str) -> float:
    """Give the ratio of saved or peak bytes to those of batch norm."""
    return row[what]["ours"] / row[what]["batch_norm"]


def _table(head: list[str], lines: list[list[str]]) -> str:
    """Set a Markdown table."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
