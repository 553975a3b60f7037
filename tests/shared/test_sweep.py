"""Grids: cells, overrides, shares, and running only what is not finished."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shared.catalog import ROOT, load_tasks
from shared.errors import UserError
from shared.finished import finished_records
from shared.grids import override, read_grid, take_share
from shared.source import norm_source
from shared.sweep import main, stop_all, visible_gpus

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


def test_a_norm_of_one_s_own_comes_beside_the_grid_s(grid):
    cells = override(read_grid(grid), norm="pkg.m:Mine", seed="7")
    assert [cell["norm"] for cell in cells] == ["bn", "pkg.m:Mine", "none"]


@pytest.mark.parametrize("num_shares", [1, 2, 3, 5])
def test_shares_are_all_cells_once(grid, num_shares):
    cells = read_grid(grid)
    shares = [take_share(cells, f"{index}/{num_shares}") for index in range(num_shares)]
    assert sorted(map(str, cells)) == sorted(str(cell) for share in shares for cell in share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("shard", ["2/2", "0/0", "1", "-1/2", "a/b", ""])
def test_a_share_that_is_none_is_refused(grid, shard):
    with pytest.raises(UserError, match="shard must be i/n with i from 0"):
        take_share(read_grid(grid), shard)


@pytest.mark.parametrize(("named", "gpus"), [("", []), ("3", ["3"]), ("0, 2,GPU-1a", ["0", "2", "GPU-1a"])])
def test_the_gpus_are_those_that_the_process_may_use(monkeypatch, named, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


NORM_THAT_TELLS_ITS_GPU = """
import os, pathlib, torch
class Telling(torch.nn.BatchNorm2d):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        with open("gpus.txt", "a") as file:
            file.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\\n")
"""


@pytest.mark.slow
def test_each_job_sees_a_gpu_of_its_own(grid, tmp_path, monkeypatch):
    (tmp_path / "telling.py").write_text(NORM_THAT_TELLS_ITS_GPU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    grid.write_text(GRID.replace("[bn, none]", "['telling:Telling']"))
    assert main([f"--grid={grid}", "--runs=runs", "--wandb=off", "--jobs=2"]) == 0
    assert set((tmp_path / "gpus.txt").read_text().split()) == {"4", "7"}


@pytest.mark.slow
def test_the_slurm_template_runs_the_share_of_its_array_task(grid, tmp_path, monkeypatch):
    template = ROOT / "grids" / "slurm.sbatch"
    runs = tmp_path / "runs"
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    done = subprocess.run(
        ["bash", template, f"grid={grid}", f"runs={runs}", "wandb=off"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = runs.rglob("record.json")
    assert json.loads(record.read_text())["command"] == "make task=classification norm=none config=smoke seed=1"
    assert "[1/1]" in done.stdout


@pytest.mark.parametrize(
    "text",
    ["[", "a: 1", "method: random\nparameters: {a: {value: 1}}", "method: grid\nparameters: {a: 3}",
     "method: grid\nparameters: {a: {values: 3}}", "method: grid\nparameters: {a: {values: bn}}",
     "method: grid\nparameters: {a: {values: []}}"],
)  # fmt: skip
def test_a_file_that_is_no_grid_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_grid(path)


def test_half_written_records_are_not_finished(tmp_path):
    whole = {
        "command": "make x=1", "finished": "2026-11-25T10:00:00+00:00", "seed": 0, "status": "done", "norm": "bn",
        "headline": "test/top1", "metrics": {},
    }  # fmt: skip
    later = whole | {"finished": "2026-11-25T11:00:00+00:00", "seed": 1}
    texts = {"a": json.dumps(whole), "b": '{"comm', "c": "{}", "d": json.dumps(later), "e": json.dumps(whole)}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    assert finished_records(tmp_path) == {"make x=1": later}


@pytest.mark.slow
def test_several_norms_in_one_command_are_run_one_after_the_other_and_compared(tmp_path):
    words = ["task=classification", "config=smoke", "norm=bn,none", f"runs={tmp_path}", "wandb=off"]
    done = subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    begun = [line for line in lines if line.startswith(("[1/2]", "[2/2]"))]
    assert [line.partition("norm=")[2][:4].strip() for line in begun] == ["bn c", "bn c", "none", "none"]
    assert sum(line.startswith("record ") for line in lines) == 2  # each run's own screen
    records = {r["norm"]: r for r in (json.loads(file.read_text()) for file in tmp_path.rglob("record.json"))}
    for norm, record in records.items():
        assert record["command"] == f"make task=classification norm={norm} config=smoke"
        (row,) = [line for line in lines if line.startswith(f"{norm:<4}  test/top1 ")]
        assert f"{record['metrics']['test/top1']['value']:.2f} %" in row
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.slow
def test_a_grid_runs_once_and_a_failed_cell_does_not_stop_the_rest(grid, tmp_path, capsys):
    runs = tmp_path / "runs"
    flags = [f"--grid={grid}", f"--runs={runs}", "--seed=0", "--wandb=off", "--jobs=2", f"--data_dir={tmp_path}"]
    grid.write_text(GRID.replace("[bn, none]", "[bn, 'no_such.module:Norm']"))
    assert main(flags) == 1
    out = capsys.readouterr().out
    assert "FAILED (code 2, see " in out
    assert ": norm must name a module that can be imported" in out
    (record,) = runs.rglob("record.json")
    assert json.loads(record.read_text())["command"] == "make task=classification norm=bn config=smoke seed=0"
    grid.write_text(GRID.replace("[bn, none]", "[bn]"))
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert "1 finished, 0 to run" in out
    assert "other data" not in out
    assert len(list(runs.rglob("record.json"))) == 1
    assert main([*flags, f"--data_dir={runs}"]) == 0
    assert f"Finished with other data than data_dir={runs}: {tmp_path}." in capsys.readouterr().out


NORM = """
import torch
class ScaleNorm(torch.nn.BatchNorm2d):
    def __init__(self, num_channels):
        super().__init__(num_channels, eps=1e-5)
"""


@pytest.mark.slow
def test_a_cell_runs_again_once_its_norm_or_its_config_was_edited(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(tmp_path)
    norm, config = tmp_path / "swept_norm.py", tmp_path / "mine.yaml"
    norm.write_text(NORM)
    config.write_text(load_tasks()["classification"].configs["smoke"].read_text())
    grid.write_text(GRID.replace("[bn, none]", "['swept_norm:ScaleNorm']").replace("smoke", "mine.yaml"))
    flags = [f"--grid={grid}", "--runs=runs", "--seed=0", "--wandb=off"]

    def sweep():
        norm_source.cache_clear()
        assert main(flags) == 0
        return capsys.readouterr().out

    first = sweep()
    assert "0 finished, 1 to run" in first
    norm.write_text(NORM.replace("1e-5", "1e-3"))
    again = sweep()
    assert "0 finished, 1 to run" in again
    assert "1 cell to run again: the norm or the config has been edited since." in again
    config.write_text(config.read_text().replace("learning_rate: 0.05", "learning_rate: 0.04"))
    assert "0 finished, 1 to run" in sweep()
    config.write_text("# a remark\n" + config.read_text())
    last = sweep()
    assert "1 finished, 0 to run" in last
    assert "another state" not in last
    norm.write_text(NORM)
    config.write_text(config.read_text().replace("learning_rate: 0.04", "learning_rate: 0.05"))
    assert "1 finished, 0 to run" in sweep()  # the first record is of just these
    records = list(tmp_path.rglob("record.json"))
    assert len(records) == 3
    for file in records:
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"commit": "0123456789", "dirty": False}))
    (line,) = [line for line in sweep().splitlines() if "another state" in line]
    assert line.startswith("1 of the finished ones are of another state of the code (0123456789) than this one (")
    assert "give another runs= for a fresh set" in line


@pytest.mark.parametrize(
    "flags",
    [
        ["--grid=none.yaml"],
        ["--grid=no"],
        ["--grid=classification_cifar10", "--jobs=0"],
        ["--grid=classification_cifar10", "--norm=bgm"],
        ["--grid=classification_cifar10", "--norm=no_such.module:Norm"],
        ["--grid=classification_cifar10", "--shard=4/4"],
        ["--grid=classification_cifar10", "--norm=bn,"],
        ["--grid=classification_cifar10", "--seed=x"],
        ["--grid=classification_cifar10", "--wandb=maybe"],
        ["--grid=classification_cifar10", '--args="--x'],
        ["--grid=classification_cifar10", f"--runs={ROOT / 'README.md'}"],
    ],
)
def test_mistakes(flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"--runs={tmp_path / 'runs'}", *flags])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


UNTIL_ASKED_TWICE = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3) if asked else asked.append(1))
print("ready", flush=True)
time.sleep(60)
"""


def test_ctrl_c_while_cells_save_stops_them_at_once():
    processes = [subprocess.Popen([sys.executable, "-c", UNTIL_ASKED_TWICE], stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    again = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    try:
        again.start()
        stop_all(processes)
        again.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.returncode for process in processes] == [3, 3]
    for process in processes:
        process.stdout.close()


@pytest.mark.slow
def test_ctrl_c_stops_the_cells_and_the_same_command_goes_on_with_them(grid, tmp_path):
    runs = tmp_path / "runs"
    grid.write_text(GRID.replace("[bn, none]", "[bn]"))
    flags = [f"--grid={grid}", f"--runs={runs}", "--seed=0", "--wandb=off", "--args=--trainer.max_epochs=60"]
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it
    command = [sys.executable, "-m", "shared.sweep", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=listening)
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
