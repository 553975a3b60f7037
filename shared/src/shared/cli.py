"""One run from the command line to its record: prepare, train, test, record."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from shared.callbacks import Diverged
from shared.catalog import ROOT
from shared.csv_logger import CsvLogger, cut_after, logged_numbers
from shared.damage import refuse_damaged_checkpoint
from shared.errors import UserError, exit_with_usage_error, one_line
from shared.prepare import Prepared, prepare
from shared.record import build_record
from shared.runs import Run, create_run, hold_run, read_record, write_json
from shared.screen import final_screen
from shared.signals import Interrupted, StopSignals
from shared.source import UNKNOWN, norm_source, source_diff, source_version
from shared.task import TaskData, TaskModule
from shared.tracking import RunWandbLogger, finish_wandb, start_wandb

MANY_RUNS = 300
"""Runs beyond which a run no longer brings the report up to date by itself; `make report` does."""


def main(task: str, module: type[TaskModule], data: type[TaskData], arguments: list[str] | None = None) -> int:
    """Run a task from its command line.

    Args:
        task: The task's name.
        module: Its LightningModule.
        data: Its LightningDataModule.
        arguments: The command line; None takes sys.argv.

    Returns:
        The exit code: 0 for a finished, diverged or degenerate run, 128 + n if signal n stopped it. A request that
        cannot be carried out ends the process with code 2 and one line on stderr.
    """
    with StopSignals() as signals:
        signals.immediate = True
        try:
            return execute(prepare_or_exit(module, data, arguments, signals), task, signals)
        except UserError as error:
            exit_with_usage_error(error)
        except Interrupted as stop:
            return stop.exit_code


def prepare_or_exit(
    module: type[TaskModule], data: type[TaskData], arguments: list[str] | None, signals: StopSignals
) -> Prepared:
    """Prepare a run; before anything is written, every bad value and missing file is the user's to mend."""
    try:
        return prepare(module, data, arguments, signals)
    except (ValueError, OSError) as error:
        exit_with_usage_error(error)


@rank_zero_only
def say(text: str) -> None:
    """Print on rank 0."""
    print(text, flush=True)


def show_finished(run: Run) -> int:
    """Show the result of a run that needs no more training."""
    try:
        record = read_record(run.record_file)
    except ValueError as error:
        raise UserError(f"{error}. Delete it, and the run goes on with: make resume={run.path}") from error
    say(final_screen(run, record))
    say("This run is finished; nothing to do.")
    return 0


def execute(prepared: Prepared, task: str, signals: StopSignals) -> int:
    """Carry out a prepared run and return the exit code: 0, or 128 + the signal that stopped it."""
    if prepared.resumed is not None and prepared.resumed.is_finished:
        return show_finished(prepared.resumed)
    if getattr(rank_zero_only, "rank", 0) != 0:
        if prepared.resumed is not None:
            prepared.checkpoint.folder = prepared.resumed.checkpoints
        return train(prepared, signals)[0]
    run = prepared.resumed or create(prepared, task)
    with hold_run(run):
        prepared.checkpoint.folder = run.checkpoints
        prepared.module.run_dir = run.path
        try:
            wandb_logger = attach_loggers(prepared, run, task)
        except UserError:
            remove_if_new(prepared, run)
            raise
        except OSError as error:
            remove_if_new(prepared, run)
            raise unwritable(prepared, error) from error
        return carry_on(prepared, run, wandb_logger, signals)


def create(prepared: Prepared, task: str) -> Run:
    """Make the directory of a new run and write its config.yaml.

    Raises:
        UserError: If it cannot be written.
    """
    options, axes = prepared.cli.config_init, prepared.axes()
    command = os.environ.get("NORM_SUITE_COMMAND") or shlex.join(["python", "-m", task, *sys.argv[1:]])
    try:
        run = create_run(
            runs=options.runs, run_dir=options.run_dir, task=task, norm=axes["norm"], config=prepared.config,
            batch_size=axes["batch_size"], seed=axes["seed"], command=command,
            config_files=[Path(str(file)) for file in options.config or []], settings=prepared.cli.resolved_yaml(),
        )  # fmt: skip
    except OSError as error:
        raise unwritable(prepared, error) from error
    return run


def unwritable(prepared: Prepared, error: OSError) -> UserError:
    """Return what is said where a run's files cannot be written."""
    options = prepared.cli.config_init
    folder = options.resume or options.run_dir or options.runs
    return UserError(f"runs must be a folder that can be written; got {folder} ({error}).")


def remove_if_new(prepared: Prepared, run: Run) -> None:
    """Remove the directory of a run that never trained."""
    if prepared.resumed is None and not run.last_checkpoint.is_file():
        shutil.rmtree(run.path)


def attach_loggers(prepared: Prepared, run: Run, task: str) -> RunWandbLogger | None:
    """Give the trainer metrics.csv and W&B, without what an earlier process logged after the last checkpoint."""
    options = prepared.cli.config_init
    metrics = run.path / "metrics.csv"
    sent = logged_numbers(metrics)
    if prepared.resumed is not None:
        if is_other_code(run, prepared.module.norm):
            say(f"The code has changed since the run began (commit {run.commit}); its record will say so.")
        refuse_damaged_checkpoint(run)
        cut_after(metrics, checkpoint_step(run.last_checkpoint) - 1)
    wandb_logger = start_wandb(
        run, mode=prepared.wandb_mode, project=options.wandb_project, entity=options.wandb_entity,
        axes={"task": task, **prepared.axes()}, cell_hash=prepared.cell_hash(), already_sent=sent,
        config=json.loads(json.dumps(prepared.cli.config.as_dict(), default=str)),
    )  # fmt: skip
    prepared.trainer.loggers = [CsvLogger(metrics), *([wandb_logger] if wandb_logger else [])]
    return wandb_logger


def is_other_code(run: Run, norm: str) -> bool:
    """Return whether the code, or that of the norm, is not what the run began with."""
    known = run.source_diff != UNKNOWN
    now = (*source_version(), source_diff() if known else UNKNOWN, norm_source(norm) if known else run.norm_source)
    return (run.commit, run.dirty, run.source_diff, run.norm_source) != now


def carry_on(prepared: Prepared, run: Run, wandb_logger: RunWandbLogger | None, signals: StopSignals) -> int:
    """Train, write the record, close W&B, and show the result."""
    try:
        code, status, tested = train(prepared, signals)
        record = None if code else make_record(prepared, run, wandb_logger, status, tested)
    except BaseException as error:
        finish_wandb(wandb_logger, summary={}, exit_code=1)
        if isinstance(error, UserError):
            remove_if_new(prepared, run)
        raise
    if record is None:
        finish_wandb(wandb_logger, summary={}, exit_code=code)
        say(f"Stopped. Go on with: make resume={run.path}")
        return code
    try:
        write_json(run.record_file, record)
    except OSError as error:
        finish_wandb(wandb_logger, summary={}, exit_code=1)
        raise UserError(
            f"the record must be written to {run.record_file}; got: {error}. Mend that, then: make resume={run.path}"
        ) from error
    finish_wandb(wandb_logger, summary=wandb_summary(record), exit_code=0)
    options = prepared.cli.config_init
    try:
        report = write_run_report(run, options.runs) if options.report else None
    except OSError as error:
        say(f"The report could not be written ({one_line(error)}); make report runs={options.runs} out=DIR writes it.")
        report = None
    say(final_screen(run, record, report=report))
    return 0


def train(prepared: Prepared, signals: StopSignals) -> tuple[int, str, dict[str, float]]:
    """Train and test.

    Returns:
        The exit code (0, or 128 + the signal that stopped the run), how the run ended ("done", "diverged" or
        "degenerate"), and the test's metrics.
    """
    trainer, module, data = prepared.trainer, prepared.module, prepared.data
    last = prepared.checkpoint.folder / "last.ckpt"
    try:
        signals.immediate = False
        has_checkpoint = prepared.resumed is not None and last.is_file()  # else it stopped before its first one
        trainer.fit(module, datamodule=data, ckpt_path=last if has_checkpoint else None, weights_only=True)
        if signals.received is not None:
            raise Interrupted(signals.received)
        signals.immediate = True
        loaded = "last"
        for weights in module.tested_weights:
            if weights != loaded:
                load_weights(prepared, weights)
            module.testing = loaded = weights
            trainer.test(module, datamodule=data, verbose=False)
        signals.immediate = False  # from here on the record is written first
    except Diverged as error:
        say(f"{error.status}: {error}")
        return 0, error.status, {}
    except Interrupted as stop:
        return stop.exit_code, "stopped", {}
    except SIGTERMException:  # Lightning's own, where ours came too early
        return 128 + signal.SIGTERM, "stopped", {}
    return 0, "done", {name: float(value) for name, value in trainer.callback_metrics.items()}


def load_weights(prepared: Prepared, name: str) -> None:
    """Give the module the weights of last.ckpt or best.ckpt, on every rank."""
    import torch

    path = prepared.trainer.strategy.broadcast(prepared.checkpoint.folder / f"{name}.ckpt")
    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prepared.module.load_state_dict(weights)


def make_record(
    prepared: Prepared, run: Run, wandb_logger: RunWandbLogger | None, status: str, tested: dict[str, float]
) -> dict[str, Any]:
    """Return the record of a finished run."""
    axes, cost, audit = prepared.axes(), prepared.cost, prepared.norm_audit
    if prepared.module.tested_audit is not None:
        audit = prepared.module.tested_audit | {"first_network": audit}
    return build_record(
        run, outcome=prepared.module.outcome(prepared.data, prepared.history.epochs, tested), status=status,
        norm=axes.pop("norm"), num_groups=axes.pop("num_groups"),
        default_num_groups=prepared.module.default_groups(), batch_size=axes.pop("batch_size"),
        seed=axes.pop("seed"), axes=axes, dataset=prepared.data.describe(), norm_audit=audit,
        trainer_protocol=prepared.cli.trainer_protocol(), device=prepared.trainer.strategy.root_device,
        wall_time_seconds=cost.wall_seconds, images_per_second=cost.images_per_second,
        peak_memory=cost.peak_memory, wandb=wandb_entry(run, wandb_logger),
    )  # fmt: skip


def wandb_entry(run: Run, logger: RunWandbLogger | None) -> dict[str, Any]:
    """Return the record's `wandb` entry."""
    if logger is None:
        return {"mode": "off", "id": None, "url": None}
    experiment = logger.experiment
    if experiment.offline:
        return {"mode": "offline", "id": experiment.id or run.name, "url": None}
    return {"mode": "online", "id": experiment.id or run.name, "url": experiment.url}


def wandb_summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return the flat numbers that W&B's tables and bar charts show: final/… for every metric."""
    numbers = {f"final/{name}": metric["value"] for name, metric in record["metrics"].items()}
    return {**numbers, "status": record["status"]}


def write_run_report(run: Run, runs: Path) -> Path | None:
    """Bring the report of a folder of runs up to date.

    Returns:
        The page; None if the run lies elsewhere, or there are so many runs that it would take long.
    """
    if runs.resolve() not in run.path.resolve().parents or sum(1 for _ in runs.glob("*/*/record.json")) > MANY_RUNS:
        return None
    from shared.report.reading import read_records
    from shared.report.writing import write_report

    out = runs / "report"
    write_report(read_records(runs=runs, results=ROOT / "results" / "runs"), out)
    return out / "report.html"


def checkpoint_step(path: Path) -> int:
    """Return the number of optimiser steps done when a checkpoint was written; 0 if there is none yet."""
    import torch

    if not path.is_file():
        return 0
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:  # whatever a file holds that is none of ours
        raise UserError(f"a checkpoint must be one that a run wrote; got {path} ({one_line(error)[:200]}).") from error
