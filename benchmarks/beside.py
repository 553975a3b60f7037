"""Two sides measured in turns in one process, so that a busy or throttled machine slows both.

`compare` takes two functions. `Beside` is a Lightning callback: between batches of a real fit, with all that the suite
does around a step, it lets the reference make its steps on the very same batches.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

from shared.catalog import load_tasks
from shared.csv_logger import CsvLogger
from shared.prepare import Prepared, prepare
from shared.signals import StopSignals

SHOWN_OPERATIONS = 4
"""Operations that a profile names."""


def now() -> float:
    """Return the process's own time where it has one thread, which other processes do not lengthen; else the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass
class Turns:
    """Seconds of one call, turn by turn."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    profile: str = ""
    """Where our time goes, once it was asked for."""

    @property
    def ratio(self) -> float:
        """How many times as fast ours is: the median over the turns."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.ours, self.theirs))


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, seconds: float = 0.2, wanted: float = 0.0
) -> Turns:
    """Time two functions in turns, after one call of each.

    Args:
        ours: One side.
        theirs: The other.
        pairs: Turns.
        seconds: About how long one turn of the slower side takes; a turn is one call at least.
        wanted: Ratio below which ours is profiled.
    """
    slowest = max(_time(ours, 1), _time(theirs, 1), *(_time(side, 1) for side in (ours, theirs)))
    calls = max(1, int(seconds / slowest))
    turns = Turns()
    for turn in range(pairs):
        sides = [(ours, turns.ours), (theirs, turns.theirs)]
        for function, times in sides if turn % 2 == 0 else reversed(sides):
            times.append(_time(function, calls))
    if turns.ratio < wanted:
        turns.profile = profiled(ours)
    return turns


def _time(function: Callable[[], object], calls: int) -> float:
    start = now()
    for _ in range(calls):
        function()
    return (now() - start) / calls


def profiled(function: Callable[[], object]) -> str:
    """Return which operations take the most of a function's time, and how much is outside of them."""
    start = now()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        function()
    return shares(found, now() - start)


def shares(found: profile, seconds: float) -> str:
    """Return which operations take the most of the seconds profiled; torch's own calls, without those they make."""
    own = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    total = max(seconds, sum(own.values()), 1e-9)
    largest = sorted(own, key=lambda name: -own[name])[:SHOWN_OPERATIONS]
    parts = [f"{name.removeprefix('aten::')} {own[name] / total:.0%}" for name in largest]
    return ", ".join([*parts, f"other operations {(sum(own.values()) - sum(own[n] for n in largest)) / total:.0%}"])


class Beside(pl.Callback):
    """Lets a reference make the steps of a fit, too, a turn of ours and a turn of theirs.

    Our time runs from the end of the reference's turn to the end of ours: loading, augmenting, the step, logging and
    all callbacks. A turn that an epoch's end falls into is left out, since there is more than steps in it.

    Args:
        begin: Makes the reference once the fit has its network and optimiser; gets the module, returns what makes one
            step on a batch.
        steps: Steps of a turn.
        pairs: Turns of each side; the fit ends after them.
        warm_up: Steps before the first turn.
        wanted: Ratio below which ours is profiled, over one turn more.
    """

    def __init__(
        self,
        begin: Callable[[Any], Callable[[Any], object]],
        *,
        steps: int,
        pairs: int,
        warm_up: int = 2,
        wanted: float = 0.0,
    ) -> None:
        self.begin, self.steps, self.pairs, self.warm_up, self.wanted = begin, steps, pairs, warm_up, wanted
        self.turns = Turns()
        self._reference: Callable[[Any], object] | None = None
        self._batches: list[Any] = []
        self._done, self._start = 0, 0.0
        self._profile: AbstractContextManager[Any] = nullcontext()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Begin the turn anew."""
        self._batches.clear()
        self._start = now()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """End our turn where it is over, and give the reference its own."""
        self._done += 1
        if self._done <= self.warm_up:
            if self._reference is None:
                self._reference = self.begin(pl_module)
            self._reference(batch)
            self._begin_turn()
            return
        self._batches.append(batch)
        if len(self._batches) < self.steps:
            return
        seconds = now() - self._start
        if isinstance(self._profile, profile):
            self._profile.__exit__(None, None, None)
            self.turns.profile = shares(self._profile, seconds)
            trainer.should_stop = True
            return
        assert self._reference is not None
        start = now()
        for given in self._batches:
            self._reference(given)
        self.turns.theirs.append((now() - start) / self.steps)
        self.turns.ours.append(seconds / self.steps)
        if len(self.turns.ours) >= self.pairs:
            if self.turns.ratio >= self.wanted:
                trainer.should_stop = True
            else:
                self._profile = profile(activities=[ProfilerActivity.CPU])
                self._profile.__enter__()
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._batches.clear()
        self._start = now()


def prepared_run(task: str, *flags: str, config: str = "default", folder: Path) -> Prepared:
    """Return a task's run as `make` would prepare it, without W&B, with metrics.csv and checkpoints in a folder.

    Args:
        task: Its name.
        flags: Further flags.
        config: Name of the config.
        folder: Where the run writes.
    """
    found = load_tasks()[task]
    entry = __import__(f"{task}.__main__", fromlist=["MODULE"])
    quiet = "--trainer.enable_progress_bar=false"  # a line an epoch would count down from epochs that never come
    arguments = [f"--config={found.config(config)}", "--wandb=off", f"--runs={folder}", quiet, *flags]
    with StopSignals() as signals:
        prepared = prepare(entry.MODULE, entry.DATA, arguments, signals)
    prepared.checkpoint.folder = folder / "checkpoints"
    prepared.trainer.loggers = [CsvLogger(folder / "metrics.csv")]
    return prepared


def fit_beside(task: str, *flags: str, config: str = "default", beside: Beside) -> tuple[Turns, Prepared]:
    """Fit a task with a reference beside it, without validation.

    Args:
        task: The task.
        flags: Further flags.
        config: Name of the config.
        beside: The reference.

    Returns:
        The turns, and the run that was fitted.
    """
    with tempfile.TemporaryDirectory() as name:
        prepared = prepared_run(task, "--trainer.max_epochs=1000", *flags, config=config, folder=Path(name))
        prepared.trainer.limit_val_batches = 0
        prepared.trainer.callbacks.append(beside)  # type: ignore[attr-defined]
        prepared.trainer.fit(prepared.module, datamodule=prepared.data)
    return beside.turns, prepared
