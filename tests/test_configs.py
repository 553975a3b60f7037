"""Every config of every task parses, and holds no value that Lightning misreads."""

import importlib

import pytest
import yaml

from shared.catalog import load_grids, load_tasks
from shared.commands import run_arguments
from shared.grids import override, read_grid
from shared.parser import SuiteCLI

TASKS = load_tasks()
CONFIGS = [(task, name) for task in TASKS.values() for name in task.configs]


def task_classes(name: str):
    entry = importlib.import_module(f"{name}.__main__")
    return entry.MODULE, entry.DATA


@pytest.mark.parametrize(("task", "config"), CONFIGS, ids=[f"{task.name}-{config}" for task, config in CONFIGS])
def test_config_parses(task, config, tmp_path):
    module, data = task_classes(task.name)
    cli = SuiteCLI(
        module, data, [f"--config={task.configs[config]}", f"--data.data_dir={tmp_path}", "--model.norm=bn"]
    )
    assert cli.config.data.batch_size >= 1
    assert cli.trainer_settings()["max_epochs"] >= 1


@pytest.mark.parametrize(("task", "config"), CONFIGS, ids=[f"{task.name}-{config}" for task, config in CONFIGS])
def test_config_has_a_header_and_no_ambiguous_limit(task, config):
    text = task.configs[config].read_text()
    assert text.startswith("# "), "a config begins with what it is for, its command and its cost"
    assert "make " in text.split("\ndata:")[0]
    trainer = yaml.safe_load(text).get("trainer", {})
    for name, value in trainer.items():
        assert not (name.startswith("limit_") and value == 1), f"{name}: 1 means 100 % to Lightning"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_the_configs_of_the_contract(task):
    assert {"default", "paper", "smoke"} <= set(task.configs)


@pytest.mark.parametrize("grid", load_grids().values(), ids=load_grids())
def test_grid_is_a_sweep_file_whose_cells_are_runs(grid):
    loaded = yaml.safe_load(grid.read_text())
    assert loaded["program"] in (*TASKS, "norm_bench")
    assert loaded["command"][0] == "make"
    cells = read_grid(grid)
    assert len(cells) >= 2
    for cell in cells:
        arguments = run_arguments(cell, TASKS)
        assert arguments[:2] == ["-m", cell["task"]]


def test_the_paper_s_grids_have_the_paper_s_cells():
    grids = load_grids()
    assert len(read_grid(grids["classification_num_groups"])) == 20
    assert len(read_grid(grids["classification_batch_size"])) == 49


def test_the_norm_bench_is_every_task():
    cells = override(read_grid(load_grids()["norm_bench"]), norm="mynorms:ScaleNorm", seed=None)
    pairs = {(cell["task"], cell["norm"]) for cell in cells}
    assert len(cells) == len(pairs) == len(TASKS) * 4
    assert {(task, "mynorms:ScaleNorm") for task in TASKS} <= pairs
