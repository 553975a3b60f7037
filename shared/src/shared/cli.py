"""One run from the command line to its record: parse, check, train, test, record."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from shared.audit import audit_network
from shared.callbacks import Diverged, DivergenceGuard, EpochLines, History, RandomState, RunCheckpoint, Throughput
from shared.catalog import ROOT
from shared.csv_logger import CsvLogger, cut_after, last_step
from shared.errors import UserError, exit_with_usage_error
from shared.parser import SuiteCLI
from shared.record import build_record
from shared.runs import Run, create_run, open_run, source_version, write_json
from shared.screen import final_screen
from shared.signals import Interrupted, StopSignals
from shared.task import TaskData, TaskModule
from shared.tracking import RunWandbLogger, finish_wandb, resolve_mode, start_wandb

MANY_RUNS = 300
"""Runs beyond which a run no longer brings the report up to date by itself; `make report` does."""


@dataclass(kw_only=True)
class Prepared:
    """A run that has been checked and is ready to train; nothing has been written yet.

    Args:
        cli: The parsed settings.
        module: The task, with its network built.
        data: The opened data.
        norm_audit: Every norm layer's shape and groups.
        wandb_mode: online, offline or off.
        config: The config's name.
    """

    cli: SuiteCLI
    module: TaskModule
    data: TaskData
    norm_audit: dict[str, Any]
    wandb_mode: str
    config: str


def prepare(module: type[TaskModule], data: type[TaskData], arguments: list[str] | None) -> Prepared:
    """Parse the command line, open the data, build the network and audit its norms.

    Raises:
        ValueError: For any request that cannot be carried out.
    """
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")  # Lightning 2.6 under torch 2.15
    for library in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(library).setLevel(logging.WARNING)
    cli = SuiteCLI(module, data, arguments)
    options = cli.config_init
    wandb_mode = resolve_mode(options.wandb)
    cli.trainer_settings()
    files = options.config or []
    config = Path(str(files[0])).stem if files else "default"
    if options.resume is not None:
        run = open_run(options.resume)
        config = run.config
    cli.datamodule.open()
    pl.seed_everything(options.seed, workers=True, verbose=False)
    cli.model.build(cli.datamodule)
    audit = audit_network(
        cli.model.network, cli.model.example_input(cli.datamodule), batch_size=cli.datamodule.batch_size
    )
    return Prepared(
        cli=cli, module=cli.model, data=cli.datamodule, norm_audit=audit, wandb_mode=wandb_mode, config=config
    )


def run_axes(prepared: Prepared) -> dict[str, Any]:
    """Return the grid's axes of this run, as flat scalars."""
    module, data, options = prepared.module, prepared.data, prepared.cli.config_init
    return {
        "norm": module.norm,
        "num_groups": module.groups_in_force(),
        "batch_size": data.batch_size,
        "seed": options.seed,
        **module.axes(),
    }


def open_or_create_run(prepared: Prepared, task: str) -> Run:
    """Return the resumed run, or make the directory of a new one and write its config.yaml."""
    options, axes = prepared.cli.config_init, run_axes(prepared)
    if options.resume is not None:
        run = open_run(options.resume)
        if (run.commit, run.dirty) != source_version():
            print(
                f"The code has changed since the run began (commit {run.commit}); its record will say so.", flush=True
            )
        return run
    command = os.environ.get("NORM_SUITE_COMMAND") or shlex.join(["python", "-m", task, *sys.argv[1:]])
    run = create_run(
        runs=options.runs, run_dir=options.run_dir, task=task, norm=axes["norm"], config=prepared.config,
        batch_size=axes["batch_size"], seed=axes["seed"], command=command,
    )  # fmt: skip
    (run.path / "config.yaml").write_text(prepared.cli.resolved_yaml())
    return run


def make_trainer(
    prepared: Prepared, folder: Path, loggers: list[Any], signals: StopSignals
) -> tuple[pl.Trainer, History, Throughput]:
    """Build the trainer with the callbacks of every run."""
    settings = prepared.cli.trainer_settings()
    history, throughput = History(), Throughput()
    checkpoint = RunCheckpoint(
        folder,
        signals,
        minutes=prepared.cli.config_init.checkpoint_minutes,
        monitor=prepared.module.monitor,
        mode=prepared.module.mode,
    )
    callbacks: list[pl.Callback] = [history, RandomState(), DivergenceGuard(), throughput, checkpoint]
    if settings.get("enable_progress_bar") is None and not sys.stderr.isatty():
        settings["enable_progress_bar"] = False
        callbacks.append(EpochLines(prepared.module.shown))
    settings.setdefault("enable_model_summary", None)
    settings["enable_model_summary"] = bool(settings["enable_model_summary"])
    trainer = pl.Trainer(
        **settings, logger=loggers, callbacks=callbacks, default_root_dir=folder.parent, inference_mode=False
    )
    prepared.module.prepare_trainer(trainer)
    return trainer, history, throughput


def train(
    prepared: Prepared, run: Run | None, wandb_logger: RunWandbLogger | None, loggers: list[Any], signals: StopSignals
) -> dict[str, Any] | None:
    """Train, test and return the record (on rank 0; None on other ranks)."""
    resume = prepared.cli.config_init.resume
    folder = run.checkpoints if run else resume / "checkpoints" if resume else Path("checkpoints-of-rank-0")
    trainer, history, throughput = make_trainer(prepared, folder, loggers, signals)
    status, tested = "done", {}
    last = folder / "last.ckpt"
    try:
        trainer.fit(
            prepared.module,
            datamodule=prepared.data,
            ckpt_path=last
            if resume and last.is_file()
            else None,  # stopped before its first checkpoint: from the start
            weights_only=True,
        )
        if signals.received is not None:
            raise Interrupted(signals.received)
        signals.immediate = True
        trainer.test(prepared.module, datamodule=prepared.data, verbose=False)
        tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
    except Diverged as error:
        status = "diverged"
        rank_zero_print(f"diverged: {error}")
    if run is None:
        return None
    axes = run_axes(prepared)
    return build_record(
        run, outcome=prepared.module.outcome(prepared.data, history.epochs, tested), status=status,
        norm=axes.pop("norm"), num_groups=axes.pop("num_groups"), batch_size=axes.pop("batch_size"),
        seed=axes.pop("seed"), axes=axes,
        dataset=prepared.data.describe(), norm_audit=prepared.norm_audit, trainer_protocol=prepared.cli.trainer_protocol(),
        device=trainer.strategy.root_device,
        wall_time_seconds=throughput.state_dict()["wall_seconds"], images_per_second=throughput.images_per_second,
        wandb=wandb_entry(prepared.wandb_mode, run, wandb_logger),
    )  # fmt: skip


def wandb_entry(mode: str, run: Run, logger: RunWandbLogger | None) -> dict[str, Any]:
    """Return the record's `wandb` entry."""
    if logger is None:
        return {"mode": "off", "id": None, "url": None}
    experiment = logger.experiment
    is_offline = bool(experiment.offline)
    return {
        "mode": "offline" if is_offline else mode,
        "id": experiment.id or run.name,
        "url": None if is_offline else experiment.url,
    }


def wandb_summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return the flat numbers that W&B's tables and bar charts show: final/… for every metric."""
    return {f"final/{name}": metric["value"] for name, metric in record["metrics"].items()} | {
        "status": record["status"]
    }


@rank_zero_only
def rank_zero_print(text: str) -> None:
    """Print on rank 0."""
    print(text, flush=True)


def execute(prepared: Prepared, task: str) -> int:
    """Carry out a prepared run and return the exit code: 0, or 128 + the signal that stopped it."""
    is_main = getattr(rank_zero_only, "rank", 0) == 0
    options = prepared.cli.config_init
    run = open_or_create_run(prepared, task) if is_main else None
    if run and run.is_finished:
        print(final_screen(run, json.loads(run.record_file.read_text())))
        print("This run is finished; nothing to do.")
        return 0
    wandb_logger, loggers = None, []
    with StopSignals() as signals:
        try:
            if run:
                sent = last_step(run.path / "metrics.csv")
                if options.resume is not None:
                    cut_after(run.path / "metrics.csv", checkpoint_step(run.last_checkpoint) - 1)
                wandb_logger = start_wandb(
                    run, mode=prepared.wandb_mode, project=options.wandb_project, entity=options.wandb_entity,
                    axes={"task": task, **run_axes(prepared)}, skip_through_step=sent,
                    config=json.loads(json.dumps(prepared.cli.config.as_dict(), default=str)),
                )  # fmt: skip
                loggers = [CsvLogger(run.path / "metrics.csv"), *([wandb_logger] if wandb_logger else [])]
        except UserError:
            if run and options.resume is None:
                shutil.rmtree(run.path)
            raise
        try:
            record = train(prepared, run, wandb_logger, loggers, signals)
        except Interrupted as stop:
            finish_wandb(wandb_logger, summary={}, exit_code=stop.exit_code)
            if run:
                rank_zero_print(f"Stopped. Go on with: make resume={run.path}")
            return stop.exit_code
        except BaseException as error:
            finish_wandb(wandb_logger, summary={}, exit_code=1)
            if isinstance(error, UserError) and run and options.resume is None and not run.last_checkpoint.is_file():
                shutil.rmtree(run.path)
            raise
        if run and record:
            write_json(run.record_file, record)
            finish_wandb(wandb_logger, summary=wandb_summary(record), exit_code=0)
            report = write_run_report(run, options.runs) if options.report else None
            print(final_screen(run, record, report=report), flush=True)
    return 0


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
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def main(task: str, module: type[TaskModule], data: type[TaskData], arguments: list[str] | None = None) -> int:
    """Run a task from its command line.

    Args:
        task: The task's name.
        module: Its LightningModule.
        data: Its LightningDataModule.
        arguments: The command line; None takes sys.argv.

    Returns:
        The exit code: 0 for a finished or diverged run, 128 + n if signal n stopped it. A request that cannot be
        carried out ends the process with code 2 and one line on stderr.
    """
    try:
        prepared = prepare(module, data, arguments)
    except (ValueError, OSError) as error:
        exit_with_usage_error(error)
    try:
        return execute(prepared, task)
    except UserError as error:
        exit_with_usage_error(error)
