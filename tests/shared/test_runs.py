"""Run directories and records."""

import json
import math
import os

import pytest

from shared.errors import UserError, choose
from shared.runs import Metric, create_run, finite_metrics, open_run, run_name, short_norm, write_json

CELL = {"task": "classification", "norm": "bgn", "config": "smoke", "batch_size": 8, "seed": 0, "command": "make"}


def test_a_run_s_name_is_its_cell_and_safe_for_wandb():
    name = run_name(task="fewshot", norm="mypackage.norms:MyNorm", batch_size=2, seed=3)
    assert name.startswith("fewshot-mynorm-bs2-s3-")
    assert len(name.rsplit("-", 1)[1]) == 8
    assert not set(name) & set(":;,#?/'")
    assert short_norm("bgn") == "bgn"


def test_a_norm_of_any_name_has_a_short_one():
    names = [short_norm(f"mynorms:{name}") for name in ("Норма", "归一化", "_", "A" * 300)]
    assert len(set(names)) == 4
    assert all(0 < len(name) <= 40 and name.isascii() and name.isalnum() for name in names)
    assert len(run_name(task="classification", norm="m:" + "A" * 300, batch_size=1024, seed=2**31)) < 128


def test_a_run_can_be_opened_again(tmp_path):
    run = create_run(runs=tmp_path, run_dir=None, **CELL)
    assert run.path.parent == tmp_path / "classification"
    assert open_run(run.path) == run
    assert not run.is_finished


def test_two_runs_never_share_a_directory(tmp_path):
    names = {create_run(runs=tmp_path, run_dir=None, **CELL).name for _ in range(20)}
    assert len(names) == 20


def test_json_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": math.nan})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_numbers_that_are_not_finite_become_null():
    metrics = finite_metrics({"a": Metric(value=math.inf), "b": Metric(value=1.5, n=3, ci95=(1.0, 2.0))})
    assert metrics["a"]["value"] is None
    assert metrics["b"] == {"value": 1.5, "n": 3, "ci95": (1.0, 2.0), "unit": "%"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        create_run(runs=tmp_path, run_dir=None, **CELL)


def test_choices_are_named_with_the_nearest():
    assert choose("norm", "bn", ["bn", "gn"]) == "bn"
    with pytest.raises(UserError, match=r"^norm must be one of bn, layer; got 'leyer'\. Did you mean 'layer'\?$"):
        choose("norm", "leyer", ["bn", "layer"])
