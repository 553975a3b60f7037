"""Lightning callbacks of every run: history, checkpoints, divergence, throughput, progress."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from shared.signals import Interrupted, StopSignals


class Diverged(Exception):
    """The training loss is no longer a finite number."""


class History(Checkpoint):
    """Keeps each epoch's metrics, in the checkpoints too, so that a rule over the last epochs survives a resume.

    A Checkpoint to Lightning, because only those look at an epoch after the module has logged it.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch's metrics; the epoch counts from 1."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({"epoch": trainer.current_epoch + 1, **metrics})

    def state_dict(self) -> dict[str, Any]:
        """Return the history for the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history from the checkpoint."""
        self.epochs = list(state_dict["epochs"])


class RandomState(Callback):
    """Puts the state of every random generator into the checkpoints and takes it from there."""

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all generators, as types that load with `weights_only`."""
        version, internal, gauss = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        return {
            "python": [version, list(internal), gauss],
            "numpy": [
                str(name),
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                int(position),
                int(has_gauss),
                float(cached),
            ],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: building and restoring may still draw numbers."""
        self._state: dict[str, Any] | None = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the generators of a resumed run."""
        state, self._state = getattr(self, "_state", None), None
        if state is None:
            return
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"].cpu())


class RunCheckpoint(Checkpoint):
    """Writes checkpoints/last.ckpt atomically at every epoch's end, every `minutes`, and when a signal asks to stop.

    Args:
        folder: Where the checkpoints go.
        signals: Whether the run was asked to stop.
        minutes: Time between two checkpoints within an epoch.
        monitor: Metric whose best epoch is kept as best.ckpt; None keeps none.
        mode: "max" or "min".
    """

    def __init__(
        self,
        folder: Path,
        signals: StopSignals,
        *,
        minutes: float = 30.0,
        monitor: str | None = None,
        mode: str = "max",
    ) -> None:
        self.folder, self.signals, self.seconds, self.monitor, self.mode = folder, signals, minutes * 60, monitor, mode
        self.best: float | None = None
        self._saved_at = time.monotonic()
        self._leaving = False

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value so far."""
        self.best = state_dict["best"]

    def save(self, trainer: pl.Trainer, name: str) -> None:
        """Write a checkpoint whole or not at all."""
        path = self.folder / name
        temporary = path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(path)
        trainer.strategy.barrier("RunCheckpoint.save")
        self._saved_at = time.monotonic()

    def _asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Return whether any rank was asked to stop, the same on all ranks."""
        asked = self.signals.received is not None
        return asked if trainer.world_size == 1 else not trainer.strategy.reduce_boolean_decision(not asked, all=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and take the signals from Lightning."""
        self.signals.take_back()
        self._saved_at = time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Leave, once the step that was saved has been logged."""
        if self._leaving:
            raise Interrupted(self.signals.received or 15)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save within an epoch if it is time; the epoch's end, after validation, has its own save."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        due = time.monotonic() - self._saved_at >= self.seconds
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        self._leaving = self._asked_to_stop(trainer)
        if due or self._leaving:
            self.save(trainer, "last.ckpt")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch, and the best one."""
        if self.monitor is not None and self.monitor in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.monitor])
            sign = 1 if self.mode == "max" else -1
            if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
                self.best = value
                self.save(trainer, "best.ckpt")
        self.save(trainer, "last.ckpt")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave between two epochs, once the finished one has been saved and logged."""
        if trainer.current_epoch > 0 and self._asked_to_stop(trainer):
            raise Interrupted(self.signals.received or 15)


def steps_per_epoch(trainer: pl.Trainer, num_batches: int) -> int:
    """Return the optimiser steps in an epoch.

    Lightning's `estimated_stepping_batches` must not be used for this: it makes the training loader before a
    checkpoint's loader state is there, and the state is then never loaded.

    Args:
        trainer: The trainer, with its limits and accumulation.
        num_batches: Batches that the training loader yields.
    """
    limit = trainer.limit_train_batches
    limited = min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)
    return max(1, limited // trainer.accumulate_grad_batches)


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


class Throughput(Callback):
    """Counts training images and the seconds spent on them (validation and saving left out), over resumes too."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.wall_seconds = 0.0
        self._epoch_started = 0.0
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        wall = self.wall_seconds + time.monotonic() - self._started
        return {"images": self.images, "seconds": self.seconds, "wall_seconds": wall}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts."""
        self.images, self.seconds, self.wall_seconds = (
            state_dict[key] for key in ("images", "seconds", "wall_seconds")
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.monotonic()
        self._epoch_images = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch, and close the epoch at its last one."""
        if not self._epoch_started:  # resumed within an epoch: its clock starts here
            self._epoch_started, self._epoch_images = time.monotonic(), 0
            return
        self._epoch_images += len(batch[0]) * trainer.world_size
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self.images += self._epoch_images
            self.seconds += time.monotonic() - self._epoch_started

    @property
    def images_per_second(self) -> float | None:
        """Training images a second over all ranks; None before the first epoch is through."""
        return self.images / self.seconds if self.seconds > 0 else None


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
