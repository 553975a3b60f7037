"""What the command line expects of a task's two Lightning classes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from shared.errors import UserError
from shared.runs import Outcome, Scalar


class TaskData(pl.LightningDataModule, ABC):
    """The images of a run.

    Every task's data module has the constructor arguments `batch_size` (images per worker and step), `data_dir`,
    `download` and `seed`, which the make interface and the run set.
    """

    batch_size: int
    seed: int = 0

    @abstractmethod
    def open(self) -> None:
        """Find, check and load the data; called once, before anything is written. Raises ValueError on bad data."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the record's `dataset` entry: name, sizes, full or subset, resolution, classes, checksum, note."""


class TaskModule(pl.LightningModule, ABC):
    """A task's training and evaluation.

    Every task's module has the constructor arguments `norm` and `num_groups`, and builds `network` in `build`, so that
    the norm audit, conversion and checkpoint checks find it.
    """

    network: nn.Module
    norm: str
    num_groups: int | None
    monitor: str | None = None
    """Metric whose best epoch is kept as best.ckpt."""
    mode: str = "max"
    """Whether the largest ("max") or smallest ("min") value of `monitor` is best."""
    headline: str
    """Metric that the report and the dashboards lead with."""
    compared: Sequence[str] = ()
    """Further metrics of the record that dashboards compare."""
    curves: Sequence[str] = ("train/loss",)
    """Metrics that every run logs by epoch, for the dashboards."""
    further_axes: Sequence[str] = ()
    """Names of what `axes` returns."""
    shown: Sequence[str] = ("train/loss",)
    """Metrics that a line per epoch shows."""
    tested_weights: tuple[Literal["last", "best"], ...] = ("last",)
    """Which weights are tested after training, one after the other; "best" are those of best.ckpt."""
    testing: Literal["last", "best"] = "last"
    """Which weights are being tested; set by the run."""
    tested_audit: dict[str, Any] | None = None
    """Norm audit of the network that is tested, where that is not the one that was built first."""
    run_dir: Path | None = None
    """Where the task may leave files of its own; set by the run on rank 0, None on the others."""

    compiles: bool = False
    """Whether `torch.compile` compiles `compiled_parts`; set by the run."""
    compiles_any_size: bool | None = None
    """Whether it does so for inputs of any size; None: once sizes differ; False: for each size anew."""

    @abstractmethod
    def build(self, data: TaskData) -> None:
        """Build `network` for the opened data; called once, after seeding. Raises ValueError if that is impossible."""

    @abstractmethod
    def example_input(self, data: TaskData) -> Tensor:
        """Return a batch of the shape that the network trains on with one image per worker, for the norm audit."""

    @abstractmethod
    def groups_in_force(self) -> int | None:
        """Return the G that the run's norm layers got; None for norms without groups."""

    @abstractmethod
    def default_groups(self) -> int | None:
        """Return the G that the norm layers get when the user gives none; None for norms without groups."""

    @abstractmethod
    def outcome(self, data: TaskData, history: list[dict[str, float]], tested: dict[str, float]) -> Outcome:
        """Return what the record says.

        Args:
            data: The run's data.
            history: One dictionary of metrics per epoch, with its number under "epoch" (1 for the first).
            tested: Metrics of the test after training, on the weights that were tested last; empty if training
                diverged.
        """

    def axes(self) -> dict[str, Scalar]:
        """Return the settings beyond norm, num_groups, batch_size and seed that a table may vary; none by default."""
        return {}

    def compiled_parts(self) -> Iterable[nn.Module]:
        """Return the modules that are compiled where the run asks for it; the whole network by default."""
        return [self.network]

    def compile_parts(self, **options: Any) -> None:
        """Have `torch.compile` compile the parts at their next call, where the run asks for it.

        Args:
            options: Further ones of `torch.compile`.
        """
        if not self.compiles:
            return
        # The compiler itself looks at .grad of what one part gives to the next.
        warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
        torch._dynamo.config.recompile_limit = 64  # of a code object, which parts of one kind share
        for part in self.compiled_parts():
            part.compile(dynamic=self.compiles_any_size, **options)

    def prepare_trainer(self, trainer: pl.Trainer) -> None:
        """Set what the task needs on the trainer before training; nothing by default."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another norm layer; in float64, take its weights as they are.

        Lightning loads weights first and makes the module float64 afterwards.
        """
        if self.trainer.precision == "64-true":
            self.double()
        found = checkpoint.get("norm_suite", {})
        for name, ours in {"norm": self.norm, "num_groups": self.groups_in_force()}.items():
            if name in found and found[name] != ours:
                raise UserError(f"{name} must be that of the checkpoint ({found[name]}); got {ours}.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write which norm layer the weights belong to."""
        checkpoint["norm_suite"] = {"norm": self.norm, "num_groups": self.groups_in_force()}
