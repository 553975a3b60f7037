"""Everything about a run that is decided, checked and built before anything is written."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shared.audit import audit_network
from shared.callbacks import Cost, DivergenceGuard, EpochLines, History
from shared.checkpoints import RandomState, RunCheckpoint
from shared.compiling import check_compiler
from shared.damage import refuse_damaged_settings
from shared.errors import UserError, one_line
from shared.parser import SuiteCLI
from shared.runs import Run, open_run
from shared.signals import StopSignals
from shared.task import TaskData, TaskModule
from shared.wandb_mode import resolve_mode

MAY_CHANGE_ON_RESUME = (
    *("config", "resume", "runs", "run_dir", "report", "checkpoint_minutes", "data.data_dir", "data.num_workers"),
    *("compile", "data.cache_dir"),
    *("wandb", "wandb_project", "wandb_entity", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes"),
)


@dataclass(kw_only=True)
class Prepared:
    """A run that has been checked and is ready to train; nothing has been written yet.

    Args:
        cli: The parsed settings.
        module: The task, with its network built.
        data: The opened data.
        trainer: The trainer, still without loggers.
        history: Its record of epochs.
        cost: Its count of images, seconds and memory.
        checkpoint: Its checkpoints, whose folder is not yet known.
        norm_audit: Every norm layer's shape and groups.
        wandb_mode: online, offline or off.
        config: The config's name.
        resumed: The run to go on with; None for a new one.
    """

    cli: SuiteCLI
    module: TaskModule
    data: TaskData
    trainer: pl.Trainer
    history: History
    cost: Cost
    checkpoint: RunCheckpoint
    norm_audit: dict[str, Any]
    wandb_mode: str
    config: str
    resumed: Run | None

    def axes(self) -> dict[str, Any]:
        """Return the grid's axes of this run, as flat scalars."""
        return {
            "norm": self.module.norm,
            "num_groups": self.module.groups_in_force(),
            "batch_size": self.data.batch_size,
            "seed": self.cli.config_init.seed,
            **self.module.axes(),
        }

    def cell_hash(self) -> str:
        """Return six digits that the seeds of one cell have in common: of all settings that make numbers, and data."""
        neutral = {*MAY_CHANGE_ON_RESUME, "seed", "data.seed"}
        settings = {name: value for name, value in _flat(self.cli.config.as_dict()).items() if name not in neutral}
        text = json.dumps([settings, self.data.describe().get("checksum")], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:6]


def prepare(
    module: type[TaskModule], data: type[TaskData], arguments: list[str] | None, signals: StopSignals
) -> Prepared:
    """Parse the command line, open the data, build network and trainer, and audit the norms.

    Args:
        module: The task's LightningModule.
        data: Its LightningDataModule.
        arguments: The command line; None takes sys.argv.
        signals: Where requests to stop are noted.

    Raises:
        ValueError: For any request that cannot be carried out.
    """
    _quieten_libraries()
    _refuse_damaged_settings(arguments)
    cli = SuiteCLI(module, data, arguments)
    options = cli.config_init
    wandb_mode = resolve_mode(options.wandb)
    settings = cli.trainer_settings()
    config = Path(str(options.config[0])).stem if options.config else "default"
    resumed = None
    if options.resume is not None:
        resumed = open_run(options.resume)
        config = resumed.config
        _refuse_other_settings(cli, resumed)
    cli.datamodule.open()
    pl.seed_everything(options.seed, workers=True, verbose=False)
    cli.model.build(cli.datamodule)
    audit = audit_network(
        cli.model.network,
        cli.model.example_input(cli.datamodule),
        batch_size=cli.datamodule.batch_size,
        norm=cli.model.norm,
    )
    trainer, history, cost, checkpoint = _make_trainer(cli, settings, signals)
    cli.model.compiles = options.compile
    cli.model.prepare_trainer(trainer)
    if options.compile:
        check_compiler(trainer.strategy.root_device)
        cli.model.compile_parts()
    return Prepared(
        cli=cli, module=cli.model, data=cli.datamodule, trainer=trainer, history=history, cost=cost,
        checkpoint=checkpoint, norm_audit=audit, wandb_mode=wandb_mode, config=config, resumed=resumed,
    )  # fmt: skip


def _quieten_libraries() -> None:
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")  # Lightning 2.6 under torch 2.15
    warnings.filterwarnings("ignore", message=r"The number of training batches .* smaller than the logging interval")
    for library in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _refuse_damaged_settings(arguments: list[str] | None) -> None:
    """Raise UserError if the run to go on with has no settings, before they are parsed with a message of no file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path, nargs="?", default=None)
    folder = parser.parse_known_args(arguments)[0].resume
    if folder is not None and (folder / "run.json").is_file() and not (folder / "record.json").is_file():
        refuse_damaged_settings(open_run(folder))


def _refuse_other_settings(cli: SuiteCLI, run: Run) -> None:
    """Raise UserError if a setting that makes the numbers is not the resumed run's."""
    saved = _flat(cli.parser.parse_args([f"--config={run.path / 'config.yaml'}"]).as_dict())
    given = _flat(cli.config.as_dict())
    for name, value in given.items():
        if name not in MAY_CHANGE_ON_RESUME and value != saved.get(name):
            raise UserError(
                f"{name} must be the resumed run's ({saved.get(name)}); got {value}. Start a new run for it."
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _make_trainer(
    cli: SuiteCLI, settings: dict[str, Any], signals: StopSignals
) -> tuple[pl.Trainer, History, Cost, RunCheckpoint]:
    """Build the trainer with the callbacks of every run."""
    module, options = cli.model, cli.config_init
    checkpoint = RunCheckpoint(
        signals, minutes=options.checkpoint_minutes, monitor=module.monitor, mode=module.mode
    )  # fmt: skip
    history, cost = History(), Cost(checkpoint)
    callbacks: list[pl.Callback] = [history, RandomState(), DivergenceGuard(), cost, checkpoint]
    if settings["enable_progress_bar"] is None and not sys.stderr.isatty():
        settings["enable_progress_bar"] = False
        callbacks.append(EpochLines(module.shown))
    settings["enable_model_summary"] = bool(settings["enable_model_summary"])
    try:
        trainer = pl.Trainer(
            **settings, logger=False, callbacks=callbacks, default_root_dir=options.runs, inference_mode=False
        )
    except (MisconfigurationException, ImportError, RuntimeError, TypeError) as error:
        raise UserError(f"trainer must be one that this machine can run; got: {one_line(error)}") from error
    return trainer, history, cost, checkpoint
