"""Lightning callbacks of every run: history, divergence, throughput, progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from shared.checkpoints import RunCheckpoint
from shared.errors import UserError
from shared.record import peak_memory_bytes


class Diverged(Exception):
    """The training loss is no longer a finite number; ends the run with a record that has no numbers."""

    status = "diverged"
    """How the record says that the run ended."""


class Degenerate(Diverged):
    """The network cannot learn, whatever the training does."""

    status = "degenerate"


class History(Checkpoint):
    """Keeps each epoch's metrics, in the checkpoints too, so that a rule over the last epochs survives a resume.

    A Checkpoint to Lightning, because only those look at an epoch after the module has logged it.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has its own validation metrics; Lightning would show the former ones again."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch's metrics; the epoch counts from 1."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        fresh = {name: value for name, value in metrics.items() if self._validated or not name.startswith("val/")}
        self.epochs.append({"epoch": trainer.current_epoch + 1, **fresh})
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Return the history for the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history from the checkpoint."""
        self.epochs = list(state_dict["epochs"])


def steps_per_epoch(trainer: pl.Trainer, num_batches: int) -> int:
    """Return the optimiser steps in an epoch; Lightning makes one at its last batch, too, whatever is accumulated.

    Lightning's `estimated_stepping_batches` must not be used for this: it makes the training loader before a
    checkpoint's loader state is there, and the state is then never loaded.

    Args:
        trainer: The trainer, with its limits and accumulation.
        num_batches: Batches that the training loader yields.

    Raises:
        UserError: If the limit leaves no batch.
    """
    limit = trainer.limit_train_batches
    limited = min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)
    if limited < 1:
        raise UserError(
            f"trainer.limit_train_batches must leave a batch of the {num_batches} of an epoch; got {limit}."
        )
    return -(-limited // trainer.accumulate_grad_batches)


def share_of_batches(trainer: pl.Trainer) -> float | str:
    """Return the share of an epoch's batches that is trained on, as `limit_train_batches` gives it: 1.0 for all.

    Args:
        trainer: The trainer. A whole number is a number of batches to it, also 1.
    """
    limit = trainer.limit_train_batches
    return f"{limit} {'batch' if limit == 1 else 'batches'}" if isinstance(limit, int) else limit


class DivergenceGuard(Callback):
    """Ends a run whose training loss is no longer finite.

    Args:
        every_n_steps: Steps between two looks, each of which waits for the GPU.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Raise Diverged on a loss that is not finite."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        is_due = batch_idx % self.every_n_steps == 0 or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if loss is None or not is_due:
            return
        is_finite = bool(torch.isfinite(loss))
        if trainer.world_size > 1:
            is_finite = trainer.strategy.reduce_boolean_decision(is_finite, all=True)
        if not is_finite:
            raise Diverged(
                f"the training loss is not finite at step {trainer.global_step} (epoch {trainer.current_epoch + 1})"
            )


class Cost(Callback):
    """Counts training images, the seconds spent on them, peak memory and wall time, over resumes too.

    Images a second leave out validation, saving and the first `WARM_UP` batches of a process. Peak memory is that of
    training on this rank. Wall time lacks what a crashed process did after its last checkpoint.

    Args:
        checkpoint: Whose time for saving is left out.
    """

    WARM_UP = 3

    def __init__(self, checkpoint: RunCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.images = 0
        self.seconds = 0.0
        self.peak_memory = 0
        self._earlier_wall_seconds = 0.0
        self._started = time.monotonic()
        self._batches = 0
        self._clock: float | None = None
        self._images_on_clock = 0

    @property
    def wall_seconds(self) -> float:
        """Seconds from the start of the run to now."""
        return self._earlier_wall_seconds + time.monotonic() - self._started

    @property
    def images_per_second(self) -> float | None:
        """Training images a second over all ranks; None before there are any."""
        return self.images / self.seconds if self.seconds > 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Return the counts; within an epoch, with the images and the seconds since its clock started."""
        seconds = self.seconds if self._clock is None else self.seconds + self._now() - self._clock
        counts = {"images": self.images + self._images_on_clock, "seconds": seconds, "peak_memory": self.peak_memory}
        return {**counts, "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts."""
        self.images, self.seconds, self.peak_memory, self._earlier_wall_seconds = (
            state_dict[key] for key in ("images", "seconds", "peak_memory", "wall_seconds")
        )

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock of an epoch, or after the warm-up."""
        if self._clock is None and self._batches >= self.WARM_UP:
            self._clock = self._now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; stop the clock at the epoch's last one, before validation."""
        self._batches += 1
        if self._clock is None:
            return
        self._images_on_clock += len(batch[0]) * trainer.world_size
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.images += self._images_on_clock
            self.seconds += self._now() - self._clock
            self._clock, self._images_on_clock = None, 0
            self.peak_memory = max(self.peak_memory, peak_memory_bytes(trainer.strategy.root_device))

    def _now(self) -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.monotonic() - self.checkpoint.seconds_saving


class EpochLines(Checkpoint):
    """Prints one line an epoch where there is no terminal for a progress bar (a Checkpoint for History's reason).

    Args:
        metrics: Names of the metrics to print.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = metrics
        self._epochs = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's metrics and the time left."""
        self._epochs += 1
        if not trainer.is_global_zero:
            return
        each = (time.monotonic() - self._started) / self._epochs
        left = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        shown = {name: trainer.callback_metrics[name] for name in self.metrics if name in trainer.callback_metrics}
        numbers = "  ".join(f"{name} {float(value):.4g}" for name, value in shown.items())
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {numbers}  "
            f"{each:.1f} s each, {each * left:.0f} s left",
            flush=True,
        )
