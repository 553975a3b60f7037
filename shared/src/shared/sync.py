"""Sends to W&B what runs kept on disk: those logged offline, and online ones that their server left."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from shared.errors import UserError, exit_with_usage_error, one_line
from shared.runs import Run, find_runs, is_held, read_record
from shared.wandb_mode import PATIENCE, connect

RUNS_AT_A_TIME = 50
"""Runs in one call of `wandb sync`, after which they are told of."""
ENDED = ("finished", "failed")
"""States of a run at W&B whose last word has arrived."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one process of a run logged: a folder that W&B made, with one .wandb file.

    Args:
        run: The run.
        file: The .wandb file.
    """

    run: Run
    file: Path

    @property
    def is_online(self) -> bool:
        """Whether the process logged online."""
        return not self.file.parent.name.startswith("offline-")

    @property
    def wandb_id(self) -> str:
        """The run's id at W&B: its name, or what a sweep's agent chose."""
        return self.file.stem.removeprefix("run-")

    @property
    def marker(self) -> Path:
        """The file by which W&B marks a piece that has been sent."""
        return self.file.with_name(f"{self.file.name}.synced")


def find_pieces(runs: Path) -> list[Piece]:
    """Return every piece below a folder of runs, a run's pieces in the order in which they were logged."""
    pieces = []
    for run in find_runs(runs):
        files = [file for file in run.path.glob("wandb/*run-*/run-*.wandb") if not file.parent.is_symlink()]
        pieces += [Piece(run=run, file=file) for file in sorted(files, key=lambda file: _began(file.parent))]
    return pieces


def _began(folder: Path) -> str:
    return folder.name.removeprefix("offline-").removeprefix("run-")


def unsent(pieces: list[Piece], api: Any) -> list[Piece]:
    """Return the pieces that W&B lacks, and mark the online ones of which it has everything.

    An online piece after which the run went on online is left alone: its rows would overwrite the later ones'.

    Args:
        pieces: The pieces, a run's in their order.
        api: W&B's public API, which is asked for the state of each run that was online.
    """
    last_online = {piece.run.path: piece for piece in pieces if piece.is_online}
    missing = []
    for piece in pieces:
        if piece.marker.exists() or (piece.is_online and piece is not last_online[piece.run.path]):
            continue
        if piece.is_online and _has_ended(piece, api):
            piece.marker.touch()
        else:
            missing.append(piece)
    return missing


def _has_ended(piece: Piece, api: Any) -> bool:
    """Return whether the last word of an online run has arrived."""
    import wandb

    try:
        return api.run(f"{_project(piece, api)}/{piece.wandb_id}").state in ENDED
    except (wandb.errors.CommError, ValueError) as error:
        if "not find" not in str(error):
            raise UserError(f"make sync needs an answer of W&B; got: {one_line(error)}") from error
        return False


def _project(piece: Piece, api: Any) -> str:
    """Return entity/project of a run: of its address where it has a record, else of its settings.

    Raises:
        ValueError: If they cannot be read.
    """
    if piece.run.is_finished:
        wandb = read_record(piece.run.record_file).get("wandb")
        address = wandb.get("url") if isinstance(wandb, dict) else None
        if isinstance(address, str) and address:
            return "/".join(urlsplit(address).path.split("/")[-4:-2])
    file = piece.run.path / "config.yaml"
    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds no settings")
    return f"{settings.get('wandb_entity') or api.default_entity}/{settings.get('wandb_project')}"


def damaged_runs(pieces: list[Piece], api: Any) -> dict[str, str]:
    """Return the runs of which it cannot be told where they were online, each with the reason.

    Args:
        pieces: The pieces.
        api: W&B's public API.
    """
    damaged = {}
    for piece in pieces:
        if piece.is_online:
            try:
                _project(piece, api)
            except ValueError as error:
                damaged[piece.run.name] = one_line(error)
    return damaged


def send(pieces: list[Piece], *, logs: Path) -> tuple[dict[str, str], str]:
    """Send pieces with `wandb sync`.

    Args:
        pieces: The pieces, a run's in their order.
        logs: Where W&B may leave its logs.

    Returns:
        Address of every run by its id, and the last complaint.
    """
    logs.mkdir(parents=True, exist_ok=True)
    folders = [str(piece.file.parent.resolve()) for piece in pieces]
    environment = PATIENCE | os.environ | {"WANDB_MODE": "online", "WANDB_DIR": str(logs.resolve())}
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--include-online", *folders],
        env={name: value for name, value in environment.items() if name not in ("WANDB_SILENT", "WANDB_SERVICE")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    addresses = dict(re.findall(r"\[\S*?([^/\s\]]+)\] View run .*?at (\S+)", said))
    complaints = re.findall(r"(?:ERROR|Error:) *(.+)", said)
    return addresses, next(iter(complaints), "W&B gave no reason")


def sync(runs: Path) -> int:
    """Send what W&B lacks of the runs below a folder, with a line a run.

    Args:
        runs: The folder.

    Returns:
        Exit code: 0, or 1 if something could not be sent.

    Raises:
        UserError: Without a key, or if W&B does not answer.
    """
    if not runs.is_dir():
        raise UserError(f"runs must be a folder of runs; got {str(runs)!r}.")
    api = connect("make sync")
    pieces = find_pieces(runs)
    running = {piece.run.name for piece in pieces if is_held(piece.run)}
    damaged = damaged_runs(pieces, api)
    missing = unsent([piece for piece in pieces if piece.run.name not in running | damaged.keys()], api)
    names = list(dict.fromkeys(piece.run.name for piece in missing))
    failed = 0
    for start in range(0, len(names), RUNS_AT_A_TIME):
        batch = names[start : start + RUNS_AT_A_TIME]
        its = [piece for piece in missing if piece.run.name in batch]
        addresses, complaint = send(its, logs=runs / "sync-logs")
        unmarked = {piece.run.name for piece in its if not piece.marker.exists()}
        ids = {piece.run.name: piece.wandb_id for piece in its}
        for name in batch:
            state = f"FAILED ({complaint})" if name in unmarked else f"sent to {addresses.get(ids[name], 'W&B')}"
            print(f"{name}: {state}", flush=True)
        failed += len(unmarked)
    for name in sorted(running):
        print(f"{name}: still training, left alone", flush=True)
    lost = {name: reason for name, reason in damaged.items() if name not in running}
    for name, reason in lost.items():
        print(f"{name}: FAILED ({reason})", flush=True)
    others = len({piece.run.name for piece in pieces}) - len(names) - len(running) - len(lost)
    failed += len(lost)
    print(f"{len(names) + len(lost) - failed} sent, {failed} failed, {others} had been sent before.", flush=True)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Send runs from the command line."""
    parser = argparse.ArgumentParser(prog="make sync", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs")
    options = parser.parse_args(arguments)
    try:
        return sync(options.runs)
    except UserError as error:
        exit_with_usage_error(error)


if __name__ == "__main__":
    raise SystemExit(main())
