"""Checkpoints from which a run goes on bit for bit: written at epoch ends, by time, and when asked to stop."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from shared.signals import Interrupted, StopSignals

LOOK_EVERY = 20
"""With several ranks, batches between two looks at clock and signals, since all ranks must agree on the answer."""


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

    `folder` is where they go, set before training; `seconds_saving` adds up what saving took.

    Args:
        signals: Whether the run was asked to stop.
        minutes: Time between two checkpoints within an epoch.
        monitor: Metric whose best epoch is kept as best.ckpt; None keeps none.
        mode: "max" or "min".
    """

    def __init__(
        self,
        signals: StopSignals,
        *,
        minutes: float = 30.0,
        monitor: str | None = None,
        mode: str = "max",
    ) -> None:
        self.folder = Path("checkpoints-of-rank-0")  # only rank 0 writes, once it knows where
        self.signals, self.seconds, self.monitor, self.mode = signals, minutes * 60, monitor, mode
        self.best: float | None = None
        self.seconds_saving = 0.0
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
        began = time.monotonic()
        path = self.folder / name
        temporary = path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            handle = os.open(temporary, os.O_RDONLY)
            os.fsync(handle)  # else a crash of the machine may leave the name without what it names
            os.close(handle)
            temporary.replace(path)
        trainer.strategy.barrier("RunCheckpoint.save")
        self._saved_at = time.monotonic()
        self.seconds_saving += self._saved_at - began

    def _any_rank(self, trainer: pl.Trainer, answer: bool) -> bool:
        """Return whether the answer is yes on any rank, the same on all ranks."""
        return answer if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(answer, all=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and take the signals from Lightning."""
        self.signals.take_back()
        self._saved_at = time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Leave, once the step that was saved has been logged."""
        if self._leaving:
            raise Interrupted(self.signals.received or signal.SIGTERM)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save within an epoch if it is time.

        Not after the last batch, since the epoch's end, after validation, has its own save; and not between the
        micro-batches of one step, whose gradients are in no checkpoint.
        """
        is_within_step = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if is_within_step or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if trainer.world_size > 1 and (batch_idx + 1) // trainer.accumulate_grad_batches % LOOK_EVERY:
            return
        is_due = self._any_rank(trainer, time.monotonic() - self._saved_at >= self.seconds)
        self._leaving = self._any_rank(trainer, self.signals.received is not None)
        if is_due or self._leaving:
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
        if trainer.current_epoch > 0 and self._any_rank(trainer, self.signals.received is not None):
            raise Interrupted(self.signals.received or signal.SIGTERM)
