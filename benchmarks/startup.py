"""Start-up: seconds to the first step of each task's smoke config and to its help, and memory of the default configs.

    python -m benchmarks.startup

All are new processes, timed by the clock on the wall: `make task=… config=smoke` until metrics.csv holds the loss of
the first step, `make task=… args=--help` again and again, of which the first does not count, and a process that makes
the first steps of the default config, for its largest resident memory.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch

from benchmarks.beside import prepared_run
from benchmarks.rows import Row, main
from shared.catalog import ROOT, load_tasks
from shared.record import peak_memory_bytes

HELP_SECONDS = 3.0
PATIENCE = 600.0
"""Seconds after which a process that shows no step is given up."""
NORM = "norm=bn"


def first_step_seconds(task: str) -> float:
    """Return how long `make` takes until the first step is logged.

    Raises:
        RuntimeError: If no step comes.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output").open("w+") as output:
        words = [f"task={task}", NORM, "config=smoke", "wandb=off", f"runs={folder}/runs"]
        start = time.perf_counter()
        process = subprocess.Popen(
            ["make", *words, "args=--trainer.log_every_n_steps=1 --report=false"], cwd=ROOT, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None and time.perf_counter() - start < PATIENCE:
                if any("loss_step" in file.read_text() for file in Path(folder, "runs").rglob("metrics.csv")):
                    return time.perf_counter() - start
                time.sleep(0.01)
            output.seek(0)
            raise RuntimeError(f"{task} made no step: {output.read()[-500:]}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def help_seconds(task: str, *, pairs: int) -> float:
    """Return how long a task's help takes when it was asked for before."""
    times = []
    for _ in range(1 + pairs):
        start = time.perf_counter()
        subprocess.run(["make", f"task={task}", "args=--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


class FewSteps(pl.Callback):
    """Ends a fit after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Count a step."""
        self.steps -= 1
        trainer.should_stop = self.steps <= 0


def peak_mebibytes(task: str, *, config: str, steps: int) -> int:
    """Return the largest resident memory of a process that makes the first steps of a config."""
    command = [sys.executable, "-m", "benchmarks.startup", "peak", task, config, str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return round(int(done.stdout.split()[-1]) / 2**20)


def print_peak(task: str, config: str, steps: str) -> int:
    """Make the steps in this process, and print its largest resident memory in bytes."""
    with tempfile.TemporaryDirectory() as name:
        run = prepared_run(task, NORM.replace("norm=", "--model.norm="), config=config, folder=Path(name))
        run.trainer.limit_val_batches = 0
        run.trainer.callbacks.append(FewSteps(int(steps)))  # type: ignore[attr-defined]
        run.trainer.fit(run.module, datamodule=run.data)
    print(peak_memory_bytes(torch.device("cpu")))
    return 0


def measure(*, pairs: int = 9, tiny: bool = False) -> list[Row]:
    """Measure every task, or one where only the way is tried."""
    rows = []
    tasks = list(load_tasks())[: 1 if tiny else None]
    for task in tasks:
        runs = [first_step_seconds(task) for _ in range(1 if tiny else min(pairs, 2))]
        what = "`make task=… config=smoke` to the first step"
        rows.append(Row(task=task, what=what, ours=round(statistics.median(runs), 2), unit="s"))
    for task in tasks:
        seconds = help_seconds(task, pairs=1 if tiny else min(pairs, 3))
        what = "`make task=… args=--help`, warm"
        rows.append(Row(task=task, what=what, ours=round(seconds, 2), unit="s", at_most=HELP_SECONDS))
    for task in tasks:
        config, steps = ("smoke", 2) if tiny else ("default", 5)
        peak = peak_mebibytes(task, config=config, steps=steps)
        what = f"largest resident memory, {steps} steps of the {config} config"
        rows.append(Row(task=task, what=what, ours=peak, unit="MiB"))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        raise SystemExit(print_peak(*sys.argv[2:]))
    raise SystemExit(main(["benchmarks.startup"], name="startup"))
