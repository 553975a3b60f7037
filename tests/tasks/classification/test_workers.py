"""Eight workers are the same mathematics as ranks, as virtual workers, and as accumulated micro-batches."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shared.catalog import load_tasks

SMOKE = load_tasks()["classification"].configs["smoke"]
WAYS = {
    "virtual": ["--model.virtual_workers=4"],
    "mixed": ["--model.virtual_workers=2"],
    "accumulated": [],
    "ranks": ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"],
}


def run(folder: Path, norm: str, way: str) -> tuple[dict[str, torch.Tensor], dict]:
    flags = [
        f"--config={SMOKE}",
        f"--run_dir={folder}",
        "--wandb=off",
        f"--model.norm={norm}",
        "--model.total_workers=4",
    ]
    flags += [
        "--trainer.precision=64-true",
        "--data.train_images=170",
        "--data.test_images=70",
        "--data.eval_batch_size=23",
        *WAYS[way],
    ]
    done = subprocess.run(
        [sys.executable, "-m", "classification", *flags], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 10, "170 images are 5 whole steps of 4 × 8, twice"
    state = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("network.")}
    return state, json.loads((folder / "record.json").read_text())


@pytest.mark.slow
def test_two_ranks_stop_together_and_go_on(tmp_path):
    flags = [f"--config={SMOKE}", f"--run_dir={tmp_path / 'run'}", "--wandb=off", "--model.total_workers=2"]
    command = [sys.executable, "-m", "classification", *flags, *WAYS["ranks"], "--trainer.max_epochs=30"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "run/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "make resume=" in out
    again = [
        sys.executable,
        "-m",
        "classification",
        f"--config={tmp_path / 'run/config.yaml'}",
        f"--resume={tmp_path / 'run'}",
    ]
    done = subprocess.run([*again, "--report=false"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert [epoch for epoch, _ in record["curves"]["val/top1"]] == list(range(1, 31))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["bgn", "bn"])
def test_ranks_virtual_workers_and_accumulation_agree(norm, tmp_path):
    states, records = zip(*(run(tmp_path / way, norm, way) for way in WAYS))
    for way, state in zip(WAYS, states):
        assert state.keys() == states[0].keys()
        for name, value in state.items():
            difference = float((value - states[0][name]).abs().max())
            assert difference <= 1e-9 * (1 + float(value.abs().max())), (way, name)
    for record in records:
        assert record["metrics"]["test/top1_last"]["n"] == 70
        assert record["metrics"]["test/top1_last"]["value"] == pytest.approx(
            records[0]["metrics"]["test/top1_last"]["value"], abs=1e-9
        )
        assert record["metrics"]["train/loss"]["value"] == pytest.approx(
            records[0]["metrics"]["train/loss"]["value"], rel=1e-6
        )
