"""What a crash of the machine or a full disk can leave of a run's files, found before anything relies on them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import yaml

from shared.errors import UserError, one_line
from shared.runs import Run


def checkpoint_damage(file: Path) -> str | None:
    """Return what is wrong with a checkpoint, which is a zip file with checksums; None if it is whole."""
    try:
        with zipfile.ZipFile(file) as archive:
            part = archive.testzip()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        return one_line(error)
    return None if part is None else f"{part} in it is not what was written"


def settings_damage(file: Path) -> str | None:
    """Return what is wrong with a run's config.yaml; None if it holds settings."""
    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return one_line(error)
    return None if isinstance(settings, dict) and settings else "there are no settings in it"


def damage(run: Run) -> str | None:
    """Return why a run that stopped after a checkpoint cannot go on; None if it can."""
    if found := settings_damage(run.path / "config.yaml"):
        return f"config.yaml is damaged: {found}"
    if found := checkpoint_damage(run.last_checkpoint):
        return f"checkpoints/last.ckpt is damaged: {found}"
    return None


def refuse_damaged_settings(run: Run) -> None:
    """Raise UserError where a run's config.yaml is not there whole: it would go on with other settings."""
    file = run.path / "config.yaml"
    if found := settings_damage(file):
        raise UserError(
            f"config.yaml of a run must hold its settings; got {file} ({found}). Make the run anew: {run.command}"
        )


def refuse_damaged_checkpoint(run: Run) -> None:
    """Raise UserError where the checkpoint that a run is to go on from is not there whole."""
    file = run.last_checkpoint
    if file.is_file() and (found := checkpoint_damage(file)):
        raise UserError(
            f"a checkpoint must be whole; got {file}, which is damaged ({found}). Delete it, and the run starts over "
            f"with: make resume={run.path}"
        )
