"""One model over several processes that torchrun started, as on the nodes of a cluster."""

import json
import os
import subprocess
import sys

import pytest

from shared.catalog import load_tasks


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path):
    runs, config = tmp_path / "runs", load_tasks()["classification"].configs["smoke"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    task = ["-m", "classification", f"--config={config}", "--model.norm=bn", "--model.total_workers=2"]
    done = subprocess.run(
        [*torchrun, *task, *trainer, "--trainer.num_nodes=1", f"--runs={runs}", "--wandb=offline", "--report=false"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = runs.glob("classification/*")
    record = json.loads((run / "record.json").read_text())
    assert record["status"] == "done"
    assert record["protocol"]["workers"] == 2
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert done.stdout.count("test/top1") == 1, "one screen, not one a process"
