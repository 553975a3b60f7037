"""The one screen with which a run ends."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from shared.catalog import default_data_dir
from shared.report.paper import paper_value
from shared.runs import Run


def _number(metric: dict[str, Any]) -> str:
    if metric["value"] is None:
        return "X"
    text = f"{metric['value']:.2f} {metric['unit']}".rstrip()
    if metric.get("ci95"):
        low, high = metric["ci95"]
        text += f" (95 % CI {low:.2f} to {high:.2f}, n = {metric['n']:,})"
    return text


def _paper_number(record: dict[str, Any], cell: dict[str, Any]) -> str | None:
    value = paper_value(table=cell["table"], norm=record["norm"], setting=cell["setting"], metric=cell["metric"])
    return value if value is None or isinstance(value, str) else f"{value} %"


def _further_numbers(record: dict[str, Any]) -> dict[str, str]:
    """Return the other numbers that the paper prints for such a run, each beside the paper's."""
    lines = {}
    for cell in record["paper"]:
        name = cell["record_metric"]
        if name != record["headline"] and name in record["metrics"]:
            paper = _paper_number(record, cell)
            lines[name] = _number(record["metrics"][name]) + (
                f"   [paper {paper}{'' if cell['comparable'] else ', not comparable'}]" if paper else ""
            )
    return lines


def _paper_line(record: dict[str, Any]) -> str:
    cells = [cell for cell in record["paper"] if cell["record_metric"] == record["headline"]]
    for cell in cells:
        number = _paper_number(record, cell)
        if number is not None:
            reasons = cell["why"].split("; ")
            why = "; ".join(reasons[:2]) + (f"; and {len(reasons) - 2} more in the record" if len(reasons) > 2 else "")
            return f"{number} (Table {cell['table']}" + (")" if cell["comparable"] else f"; not comparable: {why})")
    return "no number for this setting"


def final_screen(run: Run, record: dict[str, Any], *, report: Path | None = None) -> str:
    """Return what a finished run prints: its number, the paper's, where everything is, and what to do next.

    Args:
        run: The run.
        record: Its record.
        report: The report that has been brought up to date; None if it has not.
    """
    headline = record["metrics"].get(record["headline"])
    ours = record["status"] if record["status"] != "done" else _number(headline) if headline else "X"
    groups = "" if record["num_groups"] is None else f", G = {record['num_groups']}"
    wandb = record["wandb"]
    send = f".venv/bin/wandb login, then make sync{elsewhere(run)}"
    tracked = {"off": "off", "offline": f"offline in {run.path / 'wandb'}; to send it: {send}"}
    data = record["dataset"]
    compare = f"make report runs={run.path.parent.parent}"
    lines = [
        (f"{record['headline']}", f"{ours}   [{record['selection']}]"),
        ("paper", _paper_line(record)),
        *_further_numbers(record).items(),
        *(("warning", " ".join(text.split())) for text in record.get("warnings") or ()),
        (
            "run",
            f"{record['task']}/{record['config']}, {record['norm']}{groups}, batch size {record['batch_size']}, "
            f"seed {record['seed']}",
        ),
        ("data", f"{data['name']}: {data.get('note') or 'whole'}"),
        ("record", str(run.record_file)),
        ("W&B", wandb.get("url") or tracked.get(wandb["mode"], wandb["mode"])),
        ("report", f"{report}, with every other run there; open it in a browser")
        if report is not None
        else ("compare", compare + ("" if run.path.parent.name == record["task"] else "  (give your runs folder)")),
    ]
    if run.command.startswith("make "):
        lines.append(("next", next_command(run, record)))
    width = max(len(name) for name, _ in lines)
    rule = "─" * 78
    return "\n".join([rule, *(f"{name:<{width}}  {text}" for name, text in lines), rule])


def comparison(outcomes: Sequence[tuple[Mapping[str, str], dict[str, Any] | None]]) -> list[str]:
    """Return the lines that put several runs side by side: what they differ in, and their headline numbers.

    Args:
        outcomes: The variables of each run, and its record; None where it has none.
    """
    names = list(dict.fromkeys(name for variables, _ in outcomes for name in variables))
    varied = [name for name in names if len({variables.get(name) for variables, _ in outcomes}) > 1] or ["norm"]
    rows = [[*varied, "", "images/s"]]
    for variables, record in outcomes:
        metric = record["metrics"].get(record["headline"]) if record else None
        number = "X" if record is None else record["status"]
        if record and record["status"] == "done" and metric:
            number = f"{record['headline']} {_number(metric)}"
        rate = f"{record['images_per_second']:,.0f}" if record and record.get("images_per_second") else "–"
        rows.append([*(variables.get(name, "") for name in varied), number, rate])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = "─" * 78
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    return [rule, *lines, rule]


def elsewhere(run: Run) -> str:
    """Return the make variable that names the folder of runs; nothing for the default one."""
    runs = str(run.path.parent.parent)
    return "" if runs == "runs" else f" runs={shlex.quote(runs)}"


def next_command(run: Run, record: dict[str, Any]) -> str:
    """Return the command of the same run with the norm to compare with: BN, or BGN after BN.

    It ends in data_dir=… where the run had one that is not there by itself.
    """
    other = "bn" if record["norm"] != "bn" else "bgn"
    command = re.sub(r" (norm|num_groups)=\S+", "", run.command) + f" norm={other}"
    needs_data_dir = record["dataset"]["name"] != "embedded" and data_dir_of(run) not in (None, default_data_dir())
    return command + elsewhere(run) + (" data_dir=…" if needs_data_dir else "")


def data_dir_of(run: Run) -> str | None:
    """Return the folder of real images in a run's settings; None where it has none, "" where that is not known."""
    try:
        found = yaml.safe_load((run.path / "config.yaml").read_text())["data"].get("data_dir")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return ""
    return None if found is None else str(found)
