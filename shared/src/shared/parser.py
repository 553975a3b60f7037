"""LightningCLI as the suite uses it: one YAML plus flags, parsed into two classes and the trainer's settings."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from shared.errors import UserError
from shared.quick_help import keep_help
from shared.runs import Scalar
from shared.task import TaskData, TaskModule
from shared.wandb_mode import DEFAULT_PROJECT

SUITE_TRAINER_SETTINGS = ("logger", "callbacks", "default_root_dir", "inference_mode", "enable_checkpointing")
"""Trainer settings that the run makes itself."""
REFUSED_TRAINER_SETTINGS = {
    "fast_dev_run": "use config=smoke",
    "max_steps": "give trainer.max_epochs",
    "max_time": "stop the run with Ctrl-C and resume it",
    "overfit_batches": "take a small subset of the data",
    "barebones": "a run without checkpoints has no record",
    "val_check_interval": "an epoch's end is when a run validates and keeps its checkpoint",
    "limit_val_batches": "every test image counts",
    "limit_test_batches": "every test image counts",
}
"""Trainer settings under which a record would not say what was measured, and what to do instead."""

NEUTRAL_TRAINER_SETTINGS = (
    *("accelerator", "strategy", "devices", "num_nodes", "max_epochs", "precision", "log_every_n_steps"),
    *("enable_progress_bar", "enable_model_summary", "profiler", "barebones", "benchmark", "detect_anomaly"),
    *("limit_predict_batches", "use_distributed_sampler", "enable_autolog_hparams", "model_registry"),
    "num_sanity_val_steps",
)
"""Where a run runs and what it shows, or what every task's protocol names itself."""


class SuiteParser(LightningArgumentParser):
    """Parser whose errors are one line, with the nearest flag for a misspelt one, and whose help is kept."""

    def print_help(self, *args: Any, **kwargs: Any) -> None:
        """Print the help, and keep it for the next time."""
        keep_help(self.format_help())
        super().print_help(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        """Raise the error as a UserError."""
        raise UserError(self._clear(" ".join(str(message).split())))

    def _clear(self, message: str) -> str:
        if found := re.search(
            r'key "(?:[\w]+\.)*(\w+)": Expected a typing\.Literal\[(.+?)\]\. Got value: (.*)', message
        ):
            choices = re.findall(r"'([^']*)'", found[2])
            near = difflib.get_close_matches(found[3], choices, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            return f"{found[1]} must be one of {', '.join(choices)}; got {found[3]!r}.{hint}"
        if found := re.search(r"nrecognized arguments?: (\S+)", message):
            key = found[1].lstrip("-").split("=")[0]
        elif found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            key = f"{found[1]}.{found[2]}"
        elif found := re.search(
            r"(?:does not accept option|[Kk]ey|[Oo]ption) '([\w.]+)'(?: is not (?:accepted|expected))?$", message
        ):
            key = found[1]
        else:
            return message
        known = [action.dest for action in self._actions if getattr(action, "dest", None)]
        meant = nearest_flag(key, known)
        hint = f" Did you mean {meant!r}?" if meant else " See --help."
        return f"setting must be one of the task's flags; got {key!r}.{hint}"


def nearest_flag(key: str, known: Sequence[str]) -> str | None:
    """Return the flag that was meant: by initials ("lr"), by spelling, or by a word in common ("rate").

    Args:
        key: What came, such as "model.lr".
        known: The flags; those of the same group are looked through first.
    """
    group, _, name = key.rpartition(".")
    beside = [flag for flag in known if flag.rpartition(".")[0] == group]
    for flags in (beside, known):
        last = {flag: flag.rpartition(".")[2] for flag in flags}
        words = {flag: text.split("_") for flag, text in last.items()}
        by_initials = [flag for flag in flags if len(name) > 1 and "".join(each[:1] for each in words[flag]) == name]
        spelt = difflib.get_close_matches(name, last.values(), n=1)
        by_spelling = [flag for flag in flags if last[flag] in spelt]
        by_word = [flag for flag in flags if set(words[flag]) & set(name.split("_"))]
        if near := by_initials or by_spelling or by_word:
            return near[0]
    return None


class SuiteCLI(LightningCLI):
    """LightningCLI that only parses and builds: the model and the data, without a trainer.

    Args:
        module: The task's LightningModule.
        data: The task's LightningDataModule.
        args: The command line; None takes sys.argv.
    """

    def __init__(self, module: type[TaskModule], data: type[TaskData], args: list[str] | None = None) -> None:
        super().__init__(
            module, data, run=False, save_config_callback=None, args=args, auto_configure_optimizers=False,
            parser_kwargs={"prog": f"python -m {module.__module__.partition('.')[0]}"},
            trainer_defaults={"log_every_n_steps": 10, "num_sanity_val_steps": 0},
        )  # fmt: skip

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make the parser."""
        kwargs.pop("dump_header", None)
        return SuiteParser(**kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings of every run."""
        parser.add_argument("--config", action="config", help="YAML file with settings; flags after it override it.")
        parser.add_argument("--seed", type=int, default=0, help="Random seed of weights, order and augmentation.")
        parser.add_argument(
            "--runs", type=Path, default=Path("runs"), help="Folder below which the run gets its directory."
        )
        parser.add_argument("--run_dir", type=Path | None, default=None, help="The run's own directory, new or empty.")
        parser.add_argument(
            "--report", type=bool, default=True, help="Whether to bring the report of --runs up to date."
        )
        parser.add_argument("--resume", type=Path | None, default=None, help="Continue the run in this directory.")
        mode = Literal["auto", "online", "offline", "off"]
        parser.add_argument("--wandb", type=mode, default="auto", help="W&B: auto is online with a key, else offline.")
        parser.add_argument("--wandb_project", type=str, default=DEFAULT_PROJECT, help="W&B project.")
        parser.add_argument(
            "--wandb_entity", type=str | None, default=None, help="W&B user or team; None: the key's own."
        )
        parser.add_argument(
            "--compile", type=bool, default=False,
            help="Whether torch.compile compiles the network, for a GPU; on a CPU it is slower than without.",
        )  # fmt: skip
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=30.0, help="Minutes between checkpoints in an epoch."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the model and the data the settings they share."""
        parser.link_arguments("seed", "data.seed")
        parser.link_arguments("data.batch_size", "model.batch_size")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments, or the command line where they are None."""
        self.config = parser.parse_args(args)

    def _add_instantiators(self) -> None:
        """Keep jsonargparse's own: Lightning's notes the arguments in hparams, which config.yaml holds already."""

    def _set_seed(self) -> None:
        """Leave seeding to the run, which seeds right before the network is built."""

    def instantiate_classes(self) -> None:
        """Build the model and the data; the trainer comes later, with the run directory."""
        self.config_init = self.parser.instantiate(self.config)
        self.model, self.datamodule = self.config_init.model, self.config_init.data

    def trainer_settings(self) -> dict[str, Any]:
        """Return the trainer's settings.

        Raises:
            UserError: If one is given that the suite sets itself.
        """
        settings = dict(self.config_init.trainer)
        defaults = inspect.signature(pl.Trainer).parameters
        for name in SUITE_TRAINER_SETTINGS:
            if settings.pop(name) != defaults[name].default:
                raise UserError(f"trainer.{name} must be left out: the run sets it itself.")
        for name, instead in REFUSED_TRAINER_SETTINGS.items():
            if settings[name] != defaults[name].default:
                raise UserError(f"trainer.{name} must be left out: {instead}; got {settings[name]}.")
        if not settings["max_epochs"] or settings["max_epochs"] < 1:
            raise UserError(f"trainer.max_epochs must be at least 1; got {settings['max_epochs']}.")
        every = settings["check_val_every_n_epoch"]
        if every is None or not 1 <= every <= settings["max_epochs"]:
            raise UserError(
                f"trainer.check_val_every_n_epoch must be from 1 to the {settings['max_epochs']} epochs of the run; "
                f"got {every}."
            )
        return settings

    def trainer_protocol(self) -> dict[str, Scalar]:
        """Return the trainer settings that may change results and are not Lightning's defaults.

        Runs that differ in one of them must not share a table. The number of epochs is left to the task's protocol.
        """
        defaults = inspect.signature(pl.Trainer).parameters
        settings = self.trainer_settings()
        changed = {n: v for n, v in settings.items() if n not in NEUTRAL_TRAINER_SETTINGS and v != defaults[n].default}
        return {f"trainer.{name}": str(value) for name, value in changed.items()}

    def resolved_yaml(self) -> str:
        """Return every setting as YAML, without what concerns only where and how this run is kept."""
        config = self.config.clone()
        for name in ("config", "run_dir", "resume"):
            config.pop(name, None)
        return self.parser.dump(config, skip_validation=True)
