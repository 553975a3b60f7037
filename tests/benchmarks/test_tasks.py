"""The benchmarks of the tasks: the tables that they write, and that every one of them runs at its smallest size."""

import importlib
import json
import sys

import pytest
import torch

from shared.catalog import ROOT


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The benchmarks are no package that is installed: they run from the root of the tree."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def rows_module():
    return importlib.import_module("benchmarks.rows")


def test_a_target_is_met_missed_or_open():
    row = rows_module().Row
    common = {"task": "nas", "what": "a step", "ours": 2.0, "unit": "s"}
    assert [row(**common, at_least=1.5, ratio=ratio).met for ratio in (1.5, 1.49, None)] == [True, False, None]
    assert [row(**common, at_most=limit).met for limit in (2.1, 2.0)] == [True, False]
    assert (row(**common).met, row(**common).target) == (None, "")
    assert row(**common, at_least=1.5, ratio=1.0).target == "≥ 1.5 ×"
    assert row(**common, at_most=3).target == "< 3 s"


def test_the_table_names_what_is_missed_and_why(tmp_path):
    rows = rows_module()
    missed = rows.Row(
        task="nas", what="a step", ours=2.0, unit="ms", reference="plain 1.0", theirs=1.0, ratio=0.5, at_least=1.0,
        why="sum 80%", note="one seed",
    )  # fmt: skip
    rows.write([missed, rows.Row(task="uda", what="a share", ours=3.0, unit="%", at_most=20)], tmp_path, name="found")
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["rows"][0]["met"] is False
    assert set(record) == {"date", "commit", "device", "threads", "versions", "rows"}
    text = (tmp_path / "found.md").read_text()
    assert "| nas | a step | 2 ms | plain 1.0 | 1 ms | 0.50 | ≥ 1 × | **no** |" in text
    assert "| uda | a share | 3 % | – | – | – | < 20 % | yes |" in text
    assert "* nas, a step: sum 80%" in text
    assert "* nas, a step: one seed" in text


def test_turns_are_taken_in_pairs_and_a_slow_side_is_profiled():
    beside = importlib.import_module("benchmarks.beside")
    x, calls = torch.ones(10), []

    def side(name):
        return lambda: (calls.append(name), x.sum())

    turns = beside.compare(side("ours"), side("theirs"), pairs=3, seconds=0.0, wanted=float("inf"))
    assert (len(turns.ours), len(turns.theirs)) == (3, 3)
    assert calls[4:10] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert "%" in turns.profile
    turns = beside.Turns(ours=[1.0, 2.0, 4.0], theirs=[2.0, 2.0, 2.0])
    assert turns.ratio == 1.0


def test_the_plain_discrepancy_is_ours_in_float64():
    cdd = importlib.import_module("uda.cdd").cdd
    plain = importlib.import_module("benchmarks.plain_cdd").plain_cdd
    torch.manual_seed(0)
    source, target = ([torch.randn(6, width, dtype=torch.float64) for width in (5, 3)] for _ in range(2))
    labels = torch.arange(3).repeat_interleave(2)
    ours = cdd(source, target, source_labels=labels, target_labels=labels, num_classes=7)
    torch.testing.assert_close(plain(source, target, sizes=[2, 2, 2], num_classes=7), ours.value)


def test_a_wrong_step_is_told(monkeypatch):
    nas = importlib.import_module("benchmarks.nas")
    monkeypatch.setattr(nas.PlainSearch, "weight_decay", 0.5)
    with pytest.raises(AssertionError):
        nas.check_same_step(order="first", config="smoke")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification", "nas", "adversarial", "fewshot", "uda", "startup"])
def test_every_benchmark_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "easyfsl", None)  # which is no dependency
    arguments = ["--tiny", "--pairs=1", f"--out={tmp_path}"]
    assert rows_module().main([f"benchmarks.{name}"], name=name, arguments=arguments) == 0
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["rows"]
    assert all(row["ours"] > 0 for row in record["rows"])
    printed = capsys.readouterr().out
    assert (tmp_path / f"{name}.md").read_text() in printed
    assert "epoch 1/" not in printed, "a benchmark ends long before the epochs that it asks for"


def test_all_of_them_are_in_one_table():
    tasks = importlib.import_module("benchmarks.tasks")
    for module in tasks.MODULES:
        assert callable(importlib.import_module(module).measure)
