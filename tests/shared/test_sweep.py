"""Grids: cells, overrides, and running only what is not finished."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.errors import UserError
from shared.sweep import finished_commands, main, override, read_grid

GRID = """
program: classification
command: ["make", "${args_no_hyphens}"]
method: grid
parameters:
  task: {value: classification}
  config: {value: smoke}
  norm: {values: [bn, none]}
  seed: {values: [0, 1]}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def test_cells_are_every_combination(grid):
    cells = read_grid(grid)
    assert len(cells) == 4
    assert cells[0] == {"task": "classification", "config": "smoke", "norm": "bn", "seed": "0"}
    assert [(cell["norm"], cell["seed"]) for cell in cells] == [("bn", "0"), ("bn", "1"), ("none", "0"), ("none", "1")]


def test_norms_and_seeds_can_be_replaced(grid):
    cells = override(read_grid(grid), norm="gn,pkg.m:Mine", seed="7")
    assert [(cell["norm"], cell["seed"]) for cell in cells] == [("gn", "7"), ("pkg.m:Mine", "7")]


@pytest.mark.parametrize(
    "text", ["[", "a: 1", "method: random\nparameters: {a: {value: 1}}", "method: grid\nparameters: {a: 3}"]
)
def test_a_file_that_is_no_grid_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_grid(path)


def test_half_written_records_are_not_finished(tmp_path):
    for name, text in {"a": '{"command": "make x=1"}', "b": '{"comm', "c": "{}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    assert finished_commands(tmp_path) == {"make x=1"}


@pytest.mark.slow
def test_a_grid_runs_once_and_a_failed_cell_does_not_stop_the_rest(grid, tmp_path, capsys):
    runs = tmp_path / "runs"
    flags = [f"--grid={grid}", f"--runs={runs}", "--seed=0", "--wandb=off", "--jobs=2"]
    grid.write_text(GRID.replace("[bn, none]", "[bn, 'no_such.module:Norm']"))
    assert main(flags) == 1
    assert "FAILED (code 2" in capsys.readouterr().out
    (record,) = runs.rglob("record.json")
    assert json.loads(record.read_text())["command"] == "make task=classification norm=bn config=smoke seed=0"
    grid.write_text(GRID.replace("[bn, none]", "[bn]"))
    assert main(flags) == 0
    assert "1 finished, 0 to run" in capsys.readouterr().out
    assert len(list(runs.rglob("record.json"))) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--grid=none.yaml"],
        ["--grid=no"],
        ["--grid=classification_cifar10", "--jobs=0"],
        ["--grid=classification_cifar10", "--norm=bgm"],
    ],
)
def test_mistakes(flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*flags, f"--runs={tmp_path / 'runs'}"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_stops_the_cells_and_the_same_command_goes_on_with_them(grid, tmp_path):
    runs = tmp_path / "runs"
    grid.write_text(GRID.replace("[bn, none]", "[bn]"))
    flags = [f"--grid={grid}", f"--runs={runs}", "--seed=0", "--wandb=off", "--args=--trainer.max_epochs=60"]
    process = subprocess.Popen([sys.executable, "-m", "shared.sweep", *flags], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(runs.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "goes on with the cells that are not finished" in out
    (log,) = (runs / "sweep-logs").iterdir()
    assert "Go on with: make resume=" in log.read_text()
    assert main(flags) == 0
    (record,) = runs.rglob("record.json")
    assert len(json.loads(record.read_text())["curves"]["val/top1"]) == 60
    assert len(list(runs.glob("*/*/run.json"))) == 1
