"""`make runs` and `make clean-runs`: states, the way on, and deleting only what was asked for."""

import io
import json
import os
from pathlib import Path

import pytest

import shared.report.__main__ as report
from shared.finished import finished_records
from shared.listing import list_runs, main
from shared.runs import create_run, hold_run


def make_run(runs: Path, *, seed: int, norm: str = "bgn", record: dict | str | None = None, checkpoint: bool = False):
    run = create_run(
        runs=runs, run_dir=None, task="fewshot", norm=norm, config="smoke", batch_size=16, seed=seed, command="make x"
    )
    if checkpoint:
        (run.checkpoints / "last.ckpt").write_bytes(b"weights")
    if record is not None:
        run.record_file.write_text(record if isinstance(record, str) else json.dumps(record))
    return run


def record_of(status: str) -> dict:
    metrics = {"test/top1": {"value": 61.234, "unit": "%"}} if status == "done" else {}
    return {
        "status": status, "norm": "mynorms:ScaleNorm", "headline": "test/top1", "metrics": metrics,
        "command": "make x", "finished": "2026-11-25T10:00:00+00:00",
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed, status in enumerate(("done", "diverged", "degenerate")):
        make_run(folder, seed=seed, record=record_of(status), checkpoint=True)
    make_run(folder, seed=3, checkpoint=True)
    make_run(folder, seed=4)
    make_run(folder, seed=5, record='{"status": "do')
    (folder / "report").mkdir()
    (folder / "fewshot" / "no-run").mkdir()
    (folder / "fewshot" / "no-run" / "run.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "damage",
    ["[]", "null", "3", '"done"', "{}", {"metrics": [1]}, {"metrics": {"test/top1": {"value": "high"}}},
     {"metrics": {"test/top1": 61.2}}, {"status": 3}, {"command": {}}, {"headline": None}],
)  # fmt: skip
def test_whatever_stands_in_a_record_it_is_listed_as_damaged(tmp_path, damage, capsys):
    make_run(tmp_path, seed=0, record=damage if isinstance(damage, str) else record_of("done") | damage)
    assert [each.state for each in list_runs(tmp_path)] == ["damaged"]
    assert main([f"--runs={tmp_path}"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert finished_records(tmp_path) == {}


def test_runs_are_found_at_any_depth(tmp_path):
    make_run(tmp_path / "a" / "b", seed=0, record=record_of("done"))
    assert [each.state for each in list_runs(tmp_path)] == ["done"]


def states(runs: Path) -> list[str]:
    return [each.state for each in sorted(list_runs(runs), key=lambda each: each.run.name.split("-s")[1])]


def test_states(runs, capsys):
    assert states(runs) == ["done", "diverged", "degenerate", "stopped", "begun", "damaged"]
    assert main([f"--runs={runs}"]) == 0
    out = capsys.readouterr().out
    assert "test/top1 61.23 %" in out
    assert "6 runs, 2 not finished." in out
    (stopped,) = [each.run.path for each in list_runs(runs) if each.state == "stopped"]
    assert f"make resume={stopped}" in out
    assert out.count("make resume=") == 1


def test_a_run_in_training_is_told_and_never_deleted(runs):
    (stopped,) = [each.run for each in list_runs(runs) if each.state == "stopped"]
    with hold_run(stopped):
        assert states(runs).count("running") == 1
        assert main([f"--runs={runs}", "--clean", "--state=all", "--yes=1"]) == 0
        assert stopped.path.is_dir()
        assert states(runs) == ["running"]
    assert (runs / "fewshot" / "no-run").is_dir(), "what is no run is nobody's to delete"


@pytest.mark.parametrize(
    ("state", "left"),
    [
        ("unfinished", ["done", "diverged", "degenerate", "damaged"]),
        ("lost", ["done", "stopped", "begun", "damaged"]),
        ("all", []),
    ],
)
def test_only_the_state_that_was_named_is_deleted(runs, state, left):
    assert main([f"--runs={runs}", "--clean", f"--state={state}", "--yes=1"]) == 0
    assert states(runs) == left


@pytest.mark.parametrize(("answer", "code", "num_left"), [("y\n", 0, 4), ("\n", 1, 6), ("n\n", 1, 6)])
def test_it_asks_first(runs, answer, code, num_left, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main([f"--runs={runs}", "--clean"]) == code
    assert len(states(runs)) == num_left
    assert "Delete 2 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clean"], "clean-runs must be answered at a terminal or called with yes=1"),
        (["--clean", "--state=none"], "state must be one of unfinished, lost, all; got 'none'."),
        (["--clean", "--yes=y"], "yes must be one of 0, 1; got 'y'."),
        (["--task=vision"], "task must be one of"),
    ],
)
def test_mistakes(runs, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"--runs={runs}", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert len(states(runs)) == 6


@pytest.mark.parametrize("flags", [[], ["--clean", "--yes=1"]])
def test_a_folder_that_is_not_there_is_refused_as_by_the_report(tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"--runs={tmp_path / 'no'}", *flags])
    assert stop.value.code == 2
    listed = capsys.readouterr().err
    assert report.main([f"--runs={tmp_path / 'no'}"]) == 2
    assert listed == capsys.readouterr().err
    assert listed.startswith(f"error: runs must be a folder that exists; got {tmp_path / 'no'}.")


def test_the_default_folder_may_be_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert "No runs in runs yet." in capsys.readouterr().out


def test_a_norm_from_outside_is_listed_as_it_was_given(runs, capsys):
    assert main([f"--runs={runs}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done ")]
    assert line.split()[:3] == ["done", "fewshot", "mynorms:ScaleNorm"]


def test_an_empty_folder_says_how_to_begin(tmp_path, capsys):
    assert main([f"--runs={tmp_path}"]) == 0
    assert "make task=classification norm=bgn" in capsys.readouterr().out
    assert main([f"--runs={tmp_path}", "--clean"]) == 0
    assert os.listdir(tmp_path) == []
