"""Which code a run was made with: the commit, the difference to it, the norm from outside, the config."""

import hashlib
import json
import subprocess

import pytest
from task_runs import TaskRuns, read_record

from shared import source
from shared.report.records import parse_record
from shared.runs import create_run, open_run
from shared.source import config_source, norm_source

NORM = """
import torch
class ScaleNorm(torch.nn.BatchNorm2d):
    def __init__(self, num_channels):
        super().__init__(num_channels, eps=1e-5)
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A git tree with one commit; gives the function that asks it anew: commit, whether it is dirty, difference."""

    def git(*arguments):
        options = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr("shared.source.ROOT", tmp_path)

    def state():
        source.source_version.cache_clear()
        source.source_diff.cache_clear()
        return *source.source_version(), source.source_diff()

    yield state
    monkeypatch.undo()
    state()


def test_a_tree_is_that_of_its_commit_whatever_benchmarks_wrote(tree, tmp_path):
    commit, dirty, diff = tree()
    assert (len(commit), dirty, diff) == (10, False, None)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "new.py").write_text("{}")
    assert tree() == (commit, False, None)
    (tmp_path / "benchmarks" / "new.py").write_text("2\n")
    assert tree()[:2] == (commit, True)


def test_every_state_of_a_dirty_tree_has_its_own_checksum(tree, tmp_path):
    states = [tree()]
    for name, text in (("code.py", "2\n"), ("code.py", "3\n"), ("new.py", "1\n"), ("new.py", "2\n")):
        (tmp_path / name).write_text(text)
        states.append(tree())
    diffs = [diff for _, _, diff in states]
    assert len(set(diffs)) == len(states)
    assert all(len(diff) == 12 for diff in diffs[1:])
    (tmp_path / "new.py").unlink()
    (tmp_path / "runs-of-mine").mkdir()
    (tmp_path / "runs-of-mine" / "metrics.csv").write_text("no source\n")
    assert tree() == states[2]


def test_outside_git_nothing_is_known(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("shared.source.ROOT", tmp_path / "nowhere")
    assert tree() == ("unknown", True, None)


def test_a_norm_from_outside_has_the_checksum_of_its_file(tmp_path, monkeypatch):
    (tmp_path / "norm_of_mine.py").write_text(
        NORM + "\nclass Maker:\n    def __call__(self, c): ...\nmaker = Maker()\n"
    )
    (tmp_path / "norm_elsewhere.py").write_text("from norm_of_mine import ScaleNorm")
    monkeypatch.syspath_prepend(tmp_path)
    expected = hashlib.sha256((tmp_path / "norm_of_mine.py").read_bytes()).hexdigest()[:12]
    assert norm_source("norm_of_mine:ScaleNorm") == expected
    assert norm_source("norm_elsewhere:ScaleNorm") == expected
    assert norm_source("norm_of_mine:maker") == expected
    assert norm_source("bgn") is None


def test_a_config_is_what_it_sets(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {norm: bn}\n")
    before = config_source([file])
    file.write_text("# a remark\nmodel:\n  norm: bn\n")
    assert config_source([file]) == before
    file.write_text("model: {norm: gn}\n")
    assert config_source([file]) != before
    assert config_source([]) is None


@pytest.mark.slow
def test_a_record_tells_an_edited_norm(tmp_path, monkeypatch):
    tasks = TaskRuns("classification")
    (tmp_path / "edited_norm.py").write_text(NORM)
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.run(tmp_path / "runs", "--model.norm=edited_norm:ScaleNorm") == 0
    folder = tasks.only_run(tmp_path / "runs")
    record = read_record(folder)
    assert record["norm_source"] == hashlib.sha256(NORM.encode()).hexdigest()[:12]
    assert record["source_diff"] == source.source_diff()
    assert record["config_source"] == config_source([tasks.config])
    assert open_run(folder).norm_source == record["norm_source"]
    (folder / "record.json").unlink()
    (tmp_path / "edited_norm.py").write_text(NORM.replace("1e-5", "1e-3"))
    norm_source.cache_clear()
    assert tasks.resume(folder) == 0
    edited = hashlib.sha256((tmp_path / "edited_norm.py").read_bytes()).hexdigest()[:12]
    assert read_record(folder)["norm_source"] == f"{record['norm_source']}, {edited}"
    text = (folder / "record.json").read_text()
    assert parse_record(text).norm_source == f"{record['norm_source']}, {edited}"
    older = {name: value for name, value in json.loads(text).items() if not name.endswith(("_source", "_diff"))}
    assert parse_record(json.dumps(older)).norm_source is None


def test_a_run_from_before_sources_were_noted_can_be_opened(tmp_path):
    run = create_run(
        runs=tmp_path, run_dir=None, task="fewshot", norm="bn", config="smoke", batch_size=2, seed=0, command="make"
    )
    identity = json.loads((run.path / "run.json").read_text())
    older = {name: value for name, value in identity.items() if not name.endswith(("_source", "_diff"))}
    (run.path / "run.json").write_text(json.dumps(older))
    assert open_run(run.path).source_diff == "unknown"
