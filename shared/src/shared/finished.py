"""What of a grid is finished, and what stopped and can go on: told by commands, and by norm and config as they are.

A record or a stopped run of a norm from outside, or of a config, that has been edited since is not the cell's. Those
from before such sources were noted count as they always did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.catalog import Task
from shared.damage import damage
from shared.grids import Cell
from shared.runs import Run, find_runs, is_held, read_record
from shared.source import config_source, norm_source, source_diff, source_version


def cell_config(cell: Cell, tasks: Mapping[str, Task]) -> str | None:
    """Return the checksum of what a cell's config sets; None where the file cannot be read."""
    try:
        return config_source([tasks[cell["task"]].config(cell.get("config", "default"))])
    except (OSError, ValueError, yaml.YAMLError):
        return None


def changed_source(sources: Mapping[str, Any], *, norm: str, config: str | None) -> str | None:
    """Return what has been edited since a run: "norm", "config", or None.

    Args:
        sources: The run's record, or the fields of its run.json.
        norm: Its norm as given.
        config: The config's checksum now; None where it is not known.
    """
    try:
        now = norm_source(norm)
    except ValueError:
        now = None
    if None not in (now, sources.get("norm_source")) and now != sources["norm_source"]:
        return "norm"
    if None not in (config, sources.get("config_source")) and config != sources["config_source"]:
        return "config"
    return None


def finished_records(runs: Path, configs: Mapping[str, str | None] | None = None) -> dict[str, dict[str, Any]]:
    """Return the records of all finished runs below `runs`, by their commands; the latest of a command.

    Args:
        runs: The folder.
        configs: Commands whose records must be of norm and config as they are now, with the config's checksum.
    """
    records: dict[str, dict[str, Any]] = {}
    for file in runs.rglob("record.json"):
        try:
            record = read_record(file)
        except ValueError:
            continue
        command = record["command"]
        if configs and command in configs and changed_source(record, norm=record["norm"], config=configs[command]):
            continue
        if record["finished"] > records.get(command, {}).get("finished", ""):
            records[command] = record
    return records


def stopped_run(runs: Path, command: str, *, config: str | None) -> tuple[Run | None, list[str]]:
    """Return the latest run of a command that stopped after a checkpoint and can go on, and why later ones cannot.

    Args:
        runs: Folder of runs.
        command: The command.
        config: The checksum of its config now; None where it is not known.
    """
    stopped = [
        run
        for run in find_runs(runs)
        if run.command == command and not run.is_finished and run.last_checkpoint.is_file() and not is_held(run)
    ]
    reasons: list[str] = []
    for run in sorted(stopped, key=lambda run: run.last_checkpoint.stat().st_mtime, reverse=True):
        reason = damage(run)
        if reason is None:
            norm = yaml.safe_load((run.path / "config.yaml").read_text())["model"]["norm"]
            changed = changed_source(vars(run), norm=norm, config=config)
            if changed is None:
                return run, reasons
            reason = f"its {changed} has been edited since"
        reasons.append(f"{run.path} cannot go on: {reason}")
    return None, reasons


def other_code(records: Iterable[dict[str, Any]]) -> list[str]:
    """Return the commit of each of these records that is of another state of the code than the present one."""
    (commit, _), diff = source_version(), source_diff()
    return [
        f"{record.get('commit')}" + ("+changes" if record.get("dirty") else "")
        for record in records
        if record.get("commit") != commit or record.get("source_diff", diff) != diff
    ]


def other_data(records: Iterable[dict[str, Any]], runs: Path, data_dir: str | None) -> set[str]:
    """Return the folders with real images of these finished runs, where they are not `data_dir`."""
    asked = Path(data_dir).expanduser().resolve() if data_dir else None
    others = set()
    for record in records:
        try:
            settings = yaml.safe_load((runs / record["task"] / record["run"] / "config.yaml").read_text())
            used = settings["data"]["data_dir"]
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
        if used and Path(used).expanduser().resolve() != asked:
            others.add(str(used))
    return others
