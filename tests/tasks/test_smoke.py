"""Every task runs its smoke config, with every norm and with one from outside, to a record."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from norm_layers.registry import NORMS
from shared.catalog import ROOT, load_tasks
from shared.cli import main
from shared.report.records import parse_record

TASKS = load_tasks()


def smoke(task: str, runs: Path, *flags: str) -> dict:
    entry = importlib.import_module(f"{task}.__main__")
    config = TASKS[task].configs["smoke"]
    assert (
        main(
            task,
            entry.MODULE,
            entry.DATA,
            [f"--config={config}", f"--runs={runs}", "--wandb=off", "--report=false", *flags],
        )
        == 0
    )
    (file,) = runs.rglob("record.json")
    parse_record(file.read_text())
    return json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_runs_in_every_task(task, norm, tmp_path):
    record = smoke(task, tmp_path, f"--model.norm={norm}")
    assert record["norm"] == norm
    assert record["status"] in ("done", "diverged", "degenerate")
    assert (record["num_groups"] is not None) == NORMS[norm].has_groups
    if norm != "none":
        assert {layer["norm"] for layer in record["norm_audit"]["layers"]} == {norm}


def readme_norm() -> str:
    return re.search(
        r"```python\n(import torch.*?class ScaleNorm.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_readme_s_own_norm_runs_in_every_task(task, tmp_path, monkeypatch):
    (tmp_path / "mynorms.py").write_text(readme_norm())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynorms", raising=False)
    record = smoke(task, tmp_path / "runs", "--model.norm=mynorms:ScaleNorm")
    assert record["norm"] == "mynorms:ScaleNorm"
    assert record["run"].startswith(f"{task}-scalenorm-")
    assert {layer["norm"] for layer in record["norm_audit"]["layers"]} == {"mynorms:ScaleNorm"}
    assert len(readme_norm().splitlines()) <= 20
