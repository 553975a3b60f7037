"""The W&B policy: never a prompt, never a hang, never a lost run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.catalog import load_tasks
from shared.errors import UserError
from shared.runs import create_run
from shared.tracking import finish_wandb, start_wandb
from shared.wandb_mode import api_key, resolve_mode, server_address

SMOKE = load_tasks()["classification"].configs["smoke"]
KEY = "a" * 40


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize(
    ("asked", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
        ("off", {"WANDB_MODE": "online"}, "off"),
        ("online", {"WANDB_API_KEY": KEY}, "online"),
    ],
)
def test_mode(asked, environment, mode, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(asked) == mode


def test_a_key_is_found_in_the_netrc_file_of_the_server_in_use(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert api_key() is None
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert api_key() == KEY
    assert resolve_mode("auto") == "online"


@pytest.mark.parametrize(
    ("server", "machine"),
    [
        ("http://127.0.0.1:9", "127.0.0.1:9"),  # as `wandb login` writes it
        ("https://api.wandb.ai", "api.wandb.ai"),
        (None, "api.wandb.ai"),  # a key from before W&B's server got its second name
        (None, "api.forge.coreweave.com"),
    ],
)
def test_a_key_is_found_under_every_name_of_the_server(server, machine, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    if server is not None:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    (tmp_path / "netrc").write_text(f"machine other.example\n  login user\n  password {'b' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert api_key() is None
    with (tmp_path / "netrc").open("a") as file:
        file.write(f"machine {machine}\n  login user\n  password {KEY}\n")
    assert api_key() == KEY


def test_the_server_of_wandb_login_is_in_use(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    assert server_address() == "https://api.forge.coreweave.com"
    (tmp_path / "settings").write_text("[default]\nbase_url = http://127.0.0.1:8\n")
    assert server_address() == "http://127.0.0.1:8"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert server_address() == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("asked", "environment", "message"),
    [
        ("online", {}, "wandb=online needs a key"),
        ("auto", {"WANDB_API_KEY": "short"}, "at least 40 characters; got 5"),
        ("on", {}, "wandb must be one of auto, online, offline, off; got 'on'"),
    ],
)
def test_mistakes(asked, environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        resolve_mode(asked)


def start(runs: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "classification", f"--config={SMOKE}", f"--runs={runs}", *flags]
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_server_that_is_not_there_costs_no_run(tmp_path):
    process = start(tmp_path, "--wandb=online", WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "W&B cannot be reached" in err
    (file,) = tmp_path.rglob("record.json")
    record = json.loads(file.read_text())
    assert record["status"] == "done"
    assert record["wandb"] == {"mode": "offline", "id": file.parent.name, "url": None}
    assert list(file.parent.glob("wandb/offline-run-*/*.wandb"))
    assert "offline in" in out


@pytest.mark.slow
def test_sigterm_leaves_a_resumable_run_and_no_success(tmp_path):
    process = start(tmp_path, "--wandb=offline", "--trainer.max_epochs=500")
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "make resume=" in out
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "norm", "further"),
    [("c" * 70, "bn", {}), ("smoke", "mynorms:Норма", {}), ("smoke", "bn", {"transfer": "a" * 70 + "-to-b", "x": ""})],
)
def test_whatever_a_cell_is_called_wandb_takes_it(tmp_path, monkeypatch, config, norm, further):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynorms.py").write_text("import torch\nНорма = torch.nn.BatchNorm2d\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = create_run(
        runs=tmp_path, run_dir=None, task="uda", norm=norm, config=config, batch_size=2, seed=0, command="make"
    )
    axes = {"task": "uda", "norm": norm, "num_groups": None, "batch_size": 2, "seed": 0, **further}
    logger = start_wandb(run, mode="offline", project="p", entity=None, axes=axes, cell_hash="1a2b3c", config={})
    try:
        tags = logger.experiment.tags
        assert {"uda", "bs2"} < set(tags)
        assert all(0 < len(tag) <= 64 for tag in tags)
        assert len(logger.experiment.group) <= 128
    finally:
        finish_wandb(logger, summary={}, exit_code=0)


def test_settings_that_wandb_does_not_take_are_named(tmp_path):
    run = create_run(
        runs=tmp_path, run_dir=None, task="uda", norm="bn", config="c", batch_size=2, seed=0, command="make"
    )
    axes = {"task": "uda", "norm": "bn", "num_groups": None, "batch_size": 2, "seed": 0}
    with pytest.raises(UserError, match="W&B's settings must be ones that it takes"):
        start_wandb(run, mode="offline", project="p", entity=7, axes=axes, cell_hash="1a2b3c", config={})
