"""What the tests of the tasks' whole runs share: starting a smoke run, going on with it, and reading what it left."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from shared.catalog import load_tasks
from shared.cli import main
from shared.report.records import parse_record
from shared.task import TaskModule

TRANSDUCTIVE_NORM = """
import torch
class Transductive(torch.nn.BatchNorm2d):
    def __init__(self, num_channels):
        super().__init__(num_channels, track_running_stats=False)
"""
"""A norm from outside whose output depends on the other images of the batch, in evaluation too."""


class TaskRuns:
    """Runs of one task's smoke config, without W&B.

    Args:
        task: Name of the task.
        smoke: Flags of every new run.
        always: Flags of every new run and of every one that goes on.
    """

    def __init__(self, task: str, *, smoke: Sequence[str] = (), always: Sequence[str] = ("--report=false",)):
        self.task, self.smoke, self.always = task, tuple(smoke), tuple(always)
        entry = importlib.import_module(f"{task}.__main__")
        self.module, self.data = entry.MODULE, entry.DATA
        self.config = load_tasks()[task].configs["smoke"]

    def run(self, runs: Path, *flags: str, module: type[TaskModule] | None = None) -> int:
        """Start a run below `runs`, of another module where one is given; return the exit code."""
        arguments = [f"--config={self.config}", f"--runs={runs}", "--wandb=off", *self.always, *self.smoke, *flags]
        return main(self.task, module or self.module, self.data, arguments)

    def resume(self, folder: Path, module: type[TaskModule] | None = None) -> int:
        """Go on with a run; return the exit code."""
        arguments = [f"--config={folder / 'config.yaml'}", f"--resume={folder}", *self.always]
        return main(self.task, module or self.module, self.data, arguments)

    def only_run(self, runs: Path) -> Path:
        """Return the folder of the one run below `runs`."""
        (folder,) = (runs / self.task).iterdir()
        return folder


def read_record(folder: Path) -> dict:
    """Return a run's record, which must be one that the report takes."""
    text = (folder / "record.json").read_text()
    parse_record(text)
    return json.loads(text)


def read_checkpoint(folder: Path, name: str = "last.ckpt") -> dict:
    """Return a checkpoint of a run."""
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def read_weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """Return the state_dict in a checkpoint of a run."""
    return read_checkpoint(folder, name)["state_dict"]


def best_in_the_second_epoch(module: type[TaskModule]) -> type[TaskModule]:
    """Return the module with its held-out score lowered away from the second epoch.

    Which weights are the best is then no matter of chance, and they are not the last ones.
    """

    class BestInTheSecondEpoch(module):
        def log(self, name, value, *args, **kwargs):
            away = 100 * abs(self.current_epoch - 1) if name == self.monitor else 0
            super().log(name, value - away, *args, **kwargs)

    return BestInTheSecondEpoch
