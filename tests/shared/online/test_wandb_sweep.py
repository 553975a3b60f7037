"""A grid of the suite as a W&B sweep, shared by two agents."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb_runs import record

from shared.catalog import ROOT, load_grids

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="GNU make is not installed"),
]


def start_wandb_command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start `wandb …` in the repository, as a user does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.Popen(
        [sys.executable, "-m", "wandb", *arguments],
        cwd=ROOT,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tiny(grid: Path, *, runs: Path) -> Path:
    """Write a grid file of the suite with two cells of the smoke config."""
    content = yaml.safe_load(grid.read_text())
    content["parameters"] |= {
        "config": {"value": "smoke"},
        "norm": {"values": ["bn", "none"]},
        "batch_size": {"value": 8},
        "runs": {"value": str(runs)},
    }
    path = runs.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_two_agents_share_the_cells_of_a_grid(server, tmp_path):
    environment = server.environment() | {"WANDB_DIR": str(tmp_path)}
    grid = tiny(load_grids()["classification_embedded"], runs=tmp_path / "runs")
    creation = start_wandb_command("sweep", "--project", "norm-suite", str(grid), **environment)
    out, _ = creation.communicate(timeout=120)
    assert creation.returncode == 0, out
    assert "wandb agent someone/norm-suite/sweep1" in out

    agents = [start_wandb_command("agent", "someone/norm-suite/sweep1", **environment) for _ in range(2)]
    said = [agent.communicate(timeout=400)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert len(server.sweeps["sweep1"]["agents"]) == 2
    assert server.sweeps["sweep1"]["state"] == "FINISHED"

    records = {record(file.parent)["norm"]: file.parent for file in tmp_path.rglob("record.json")}
    assert set(records) == {"bn", "none"}
    assert set(server.runs) == {"sweep1cell0", "sweep1cell1"}
    for served in server.runs.values():
        settings = served.settings()
        folder = records[settings["norm"]]
        assert record(folder)["wandb"]["id"] == served.name
        assert (settings["task"], settings["config_name"], settings["batch_size"]) == ("classification", "smoke", 8)
        assert served.summary["final/test/top1"] == record(folder)["metrics"]["test/top1"]["value"]
        assert (served.sweep, served.exit_code, served.project) == ("sweep1", 0, "norm-suite")
        assert served.group.startswith(f"classification/smoke/{settings['norm']}/bs8/")
        assert list(folder.glob("wandb/run-*/run-*.wandb"))
    assert server.unknown == []
