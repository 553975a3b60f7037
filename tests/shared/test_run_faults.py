"""Runs over full disks, folders that cannot be written, and files that a crash left damaged."""

import json
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from task_runs import TaskRuns, read_record

from shared.errors import UserError
from shared.runs import create_run, open_run, write_text

RUNS = TaskRuns("classification")


@contextmanager
def full_after(num_bytes: int):
    """No file grows beyond so many bytes, which to a program is what a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    synced, before = set(), os.fsync
    os.fsync = lambda handle: (synced.add(os.fstat(handle).st_ino), before(handle))[1]
    try:
        assert RUNS.run(runs) == 0
    finally:
        os.fsync = before
    folder = RUNS.only_run(runs)
    for name in ("config.yaml", "record.json", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_ino in synced, f"{name} must be on the disk before it has its name"
    return folder


@pytest.fixture
def unfinished(whole_run, tmp_path) -> Path:
    """A copy of the run without its record."""
    folder = tmp_path / "runs" / "classification" / whole_run.name
    shutil.copytree(whole_run, folder)
    (folder / "record.json").unlink()
    return folder


def refused(capsys, call, *arguments) -> str:
    """Call what must end with code 2, and return its one line of error."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


def test_a_file_is_whole_or_not_there(tmp_path):
    write_text(tmp_path / "config.yaml", "old\n")
    with full_after(100), pytest.raises(OSError, match="too large"):
        write_text(tmp_path / "config.yaml", "new\n" * 100)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("config.yaml", "old\n")]


@pytest.mark.parametrize("num_bytes", [100, 2000])  # too few for run.json, and for config.yaml
def test_a_disk_that_is_full_at_the_start_leaves_no_run(tmp_path, num_bytes):
    cell = {"task": "fewshot", "norm": "bn", "config": "smoke", "batch_size": 2, "seed": 0, "command": "make x"}
    with full_after(num_bytes), pytest.raises(OSError, match="too large"):
        create_run(runs=tmp_path, run_dir=None, settings="a: 1\n" * 1000, **cell)
    assert not list((tmp_path / "fewshot").iterdir())


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line(tmp_path, capsys):
    with full_after(900):
        error = refused(capsys, RUNS.run, tmp_path)
    assert error.startswith(f"error: runs must be a folder that can be written; got {tmp_path} (")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_metrics_file_that_cannot_be_written_is_one_line(unfinished, capsys):
    (unfinished / "metrics.partial").mkdir()
    before = sorted(unfinished.rglob("*"))
    error = refused(capsys, RUNS.resume, unfinished)
    assert f"got {unfinished} (" in error
    assert sorted(unfinished.rglob("*")) == before


@pytest.mark.slow
def test_a_report_that_cannot_be_written_costs_no_screen(tmp_path, capsys):
    (tmp_path / "report").write_text("a file where the report's folder would be")
    always = TaskRuns("classification", always=())
    assert always.run(tmp_path) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "The report could not be written" in line]
    assert f"make report runs={tmp_path} out=DIR" in line
    assert "test/top1" in out
    assert f"compare    make report runs={tmp_path}" in out
    assert read_record(RUNS.only_run(tmp_path))["status"] == "done"


@pytest.mark.slow
def test_a_record_that_cannot_be_written_costs_no_training(unfinished, capsys):
    (unfinished / f".record.json.{os.getpid()}").mkdir()
    error = refused(capsys, RUNS.resume, unfinished)
    assert "the record must be written to" in error
    assert f"make resume={unfinished}" in error
    (unfinished / f".record.json.{os.getpid()}").rmdir()
    assert RUNS.resume(unfinished) == 0
    assert read_record(unfinished)["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [0, 1000, -1000])
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(unfinished, num_bytes, capsys):
    file = unfinished / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:num_bytes])
    metrics = (unfinished / "metrics.csv").read_text()
    error = refused(capsys, RUNS.resume, unfinished)
    assert error.startswith(f"error: a checkpoint must be whole; got {file}, which is damaged (")
    assert f"Delete it, and the run starts over with: make resume={unfinished}" in error
    assert (unfinished / "metrics.csv").read_text() == metrics


@pytest.mark.slow
def test_without_its_damaged_checkpoint_a_run_starts_over(whole_run, unfinished):
    (unfinished / "checkpoints" / "last.ckpt").unlink()
    assert RUNS.resume(unfinished) == 0
    assert read_record(unfinished)["metrics"] == read_record(whole_run)["metrics"]


@pytest.mark.slow
def test_a_truncated_record_is_named_and_the_run_can_go_on_without(whole_run, unfinished, capsys):
    file = unfinished / "record.json"
    file.write_text((whole_run / "record.json").read_text()[:200])
    error = refused(capsys, RUNS.resume, unfinished)
    assert str(file) in error
    assert f"Delete it, and the run goes on with: make resume={unfinished}" in error
    file.unlink()
    assert RUNS.resume(unfinished) == 0
    assert read_record(unfinished)["metrics"] == read_record(whole_run)["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "# nothing\n", "a: [1"])
def test_a_run_without_its_settings_does_not_go_on_with_others(unfinished, text, capsys):
    (unfinished / "config.yaml").write_text(text)
    error = refused(capsys, RUNS.resume, unfinished)
    assert error.startswith(f"error: config.yaml of a run must hold its settings; got {unfinished / 'config.yaml'} (")
    assert "Make the run anew: python -m classification" in error
    assert not (unfinished / "record.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"name": "x"', json.dumps({"no": "run"})])
def test_a_damaged_identity_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"^run\.json must say whose it is; got .*run\.json, which is damaged"):
        open_run(tmp_path)
