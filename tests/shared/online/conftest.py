"""One small W&B with one smoke run of every task, made once for all tests that look at it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import wandb
from wandb_runs import TASKS, end, run_dir, start_run, wait_for
from wandb_server import ServedRun, WandbServer

FLAGS = {"adversarial": ["--model.strong_steps=20"]}
"""As in all configs but smoke, because a metric is named after it."""


@dataclass
class OnlineRun:
    """A finished online run: its folder, what W&B got, and what was printed."""

    path: Path
    served: ServedRun
    out: str
    err: str


@pytest.fixture
def server():
    server = WandbServer()
    yield server
    server.kill()


@pytest.fixture
def own_wandb(server: WandbServer):
    """This process's own W&B talks to this test's server, and forgets it afterwards."""
    before = dict(os.environ)
    wandb.teardown()
    os.environ.update(server.environment())
    yield
    wandb.teardown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def filled_server():
    server = WandbServer()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def online_runs(filled_server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnlineRun]:
    """A smoke run of every task, logged online."""
    runs = {}
    for task in TASKS:
        folder = tmp_path_factory.mktemp(task)
        out, err = end(start_run(task, folder, *FLAGS.get(task, []), **filled_server.environment()))
        path = run_dir(folder)
        runs[task] = OnlineRun(path, filled_server.runs[path.name], out, err)
    return runs


@pytest.fixture(scope="session")
def orphan(tmp_path_factory: pytest.TempPathFactory) -> OnlineRun:
    """An online run whose server died in mid-run, after a part of its history had arrived.

    The client sends history every 15 seconds, which the run waits for, stopped, instead of training that long.
    """
    folder = tmp_path_factory.mktemp("orphan")
    server = WandbServer()
    environment = server.environment() | {"WANDB_FINISH_TIMEOUT": "4"}
    process = start_run("classification", folder, "--trainer.max_epochs=4", **environment)
    wait_for(process, lambda: list(folder.rglob("last.ckpt")))
    process.send_signal(signal.SIGSTOP)
    wait_for(process, lambda: any(run.history for run in server.runs.values()))
    server.kill()
    process.send_signal(signal.SIGCONT)
    out, err = end(process)
    path = run_dir(folder)
    return OnlineRun(path, server.runs[path.name], out, err)


@pytest.fixture(scope="session")
def fallen_back(tmp_path_factory: pytest.TempPathFactory) -> OnlineRun:
    """A run that was to be online, and went offline because the server was out of order."""
    folder = tmp_path_factory.mktemp("offline")
    server = WandbServer()
    server.fault = 503
    out, err = end(start_run("classification", folder, **server.environment(), WANDB_INIT_TIMEOUT="3"))
    server.kill()
    path = run_dir(folder)
    return OnlineRun(path, ServedRun(path.name, "", ""), out, err)
