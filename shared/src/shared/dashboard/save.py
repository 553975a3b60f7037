"""Saves the workspace and the report: created once, and updated ever after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.dashboard.build import build_report, build_workspace
from shared.dashboard.views import TaskView
from shared.errors import UserError, one_line
from shared.runs import write_json

STATE = "dashboard.json"


def save(views: Sequence[TaskView], api: Any, *, entity: str | None, project: str, runs: Path) -> list[str]:
    """Save both, and note their ids in `runs`/dashboard.json, so that the next call updates them.

    Args:
        views: The tasks.
        api: W&B's public API.
        entity: User or team; None for the key's own.
        project: Project, made if it is not there.
        runs: Folder that keeps the note.

    Returns:
        A line for each.

    Raises:
        UserError: If W&B refuses.
    """
    from wandb.errors import Error
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    entity = entity or api.default_entity
    place = f"{api.settings['base_url'].rstrip('/')}/{entity}/{project}"
    file = runs / STATE
    notes = _read(file)
    note = notes.get(place, {})
    lines = []
    try:
        if project not in [each.name for each in api.projects(entity)]:
            api.create_project(project, entity)
        workspace = build_workspace(views, entity=entity, project=project)
        workspace._internal_name, workspace._internal_id = note.get("workspace", ["", ""])
        lines.append(f"workspace {'updated' if workspace._internal_id else 'created'}: {workspace.save().url}")
        note["workspace"] = [workspace._internal_name, workspace._internal_id]
        _write(file, notes | {place: note})
        report = build_report(views, entity=entity, project=project)
        report.id = note.get("report", "")
        lines.append(f"report {'updated' if report.id else 'created'}: {report.save().url}")
        note["report"] = report.id
        _write(file, notes | {place: note})
    except (Error, WandbApiFailedError, ValueError) as error:
        again = f" If it was deleted there, take its line out of {file}." if note else ""
        raise UserError(f"make dashboard needs W&B to take it; got: {one_line(error).rstrip('.')}.{again}") from error
    return lines


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        return {}
    try:
        notes = json.loads(file.read_text())
    except ValueError:
        notes = None
    if not isinstance(notes, dict) or not all(isinstance(note, dict) for note in notes.values()):
        raise UserError(f"{file} must hold the ids of the dashboards; it does not. Delete it to make new ones.")
    return notes


def _write(file: Path, notes: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, notes)
