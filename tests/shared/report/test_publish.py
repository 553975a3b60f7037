"""Published runs: only ever more of them, all or none, each once, each from a commit."""

import json
import math
import os

import pytest

from shared.report import writing
from shared.report.publish import generate, publish
from shared.report.reading import read_records


def folders(runs):
    return sorted(path for task in runs.iterdir() for path in task.iterdir())


def test_runs_are_appended_byte_for_byte(make_record, write_runs, tmp_path):
    results = tmp_path / "results" / "runs"
    publish([write_runs([make_record(seed=0)], "first")], results)
    path = results / "classification.jsonl"
    before = path.read_bytes()
    second = write_runs([make_record(seed=1), make_record("gn"), make_record(task="nas", run="nas-bn")], "second")
    added = publish(folders(second), results)
    assert [record.run for record in added] == [
        "classification-bn-bs64-s1-00000000",
        "classification-gn-bs64-s0-00000000",
        "nas-bn",
    ]
    assert path.read_bytes().startswith(before)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [make_record(seed=0), make_record(seed=1), make_record("gn")]
    assert json.loads((results / "nas.jsonl").read_text(encoding="utf-8"))["run"] == "nas-bn"
    assert sorted(os.listdir(results)) == ["classification.jsonl", "nas.jsonl"]


def test_a_last_line_without_its_end_is_completed(make_record, write_runs, tmp_path):
    results = tmp_path / "runs-published"
    results.mkdir()
    path = results / "classification.jsonl"
    path.write_text(json.dumps(make_record(seed=5)), encoding="utf-8")
    before = path.read_bytes()
    publish([write_runs([make_record()])], results)
    assert path.read_bytes().startswith(before + b"\n")
    assert len(read_records(runs=None, results=results).records) == 2


def test_tables_and_figures_are_generated_from_all_published_runs(make_record, write_runs, tmp_path):
    results = tmp_path / "results" / "runs"
    publish([write_runs([make_record("bn", 60.0), make_record("bn", 55.0, batch_size=2)], "first")], results)
    publish([write_runs([make_record("gn", 61.0)], "second")], results)
    (table,) = (tmp_path / "results" / "tables").glob("*.md")
    text = table.read_text(encoding="utf-8")
    assert "| BN | 60.00 (1)" in text
    assert "| GN | *61.00 (1)*" in text
    figures = sorted((tmp_path / "results" / "figures").glob("*.svg"))
    assert [path.name[-6:] for path in figures] == ["-1.svg", "-2.svg"]
    files = {
        path: path.read_bytes()
        for folder in ("tables", "figures")
        for path in (tmp_path / "results" / folder).iterdir()
    }
    page = tmp_path / "results" / "report.html"
    files[page] = page.read_bytes()
    generate(results)
    assert all(path.read_bytes() == content for path, content in files.items())


def test_nothing_to_add_only_generates(make_record, write_runs, tmp_path):
    results = tmp_path / "results" / "runs"
    publish([write_runs([make_record()])], results)
    for path in (tmp_path / "results" / "tables").iterdir():
        path.unlink()
    assert publish([], results) == []
    assert list((tmp_path / "results" / "tables").glob("*.md"))


def test_numbers_json_does_not_know_become_null(make_record, write_runs, tmp_path):
    diverged = make_record(status="diverged", metrics={"test/top1": {"value": math.nan}})
    results = tmp_path / "published"
    publish([write_runs([diverged])], results)
    text = (results / "classification.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["metrics"]["test/top1"]["value"] is None


def refused(sources, results, match, **options):
    before = {path: path.read_bytes() for path in results.rglob("*")} if results.exists() else {}
    with pytest.raises(ValueError, match=match) as raised:
        publish(sources, results, **options)
    assert "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in results.rglob("*")} == before


def test_duplicates_are_refused_and_nothing_is_written(make_record, write_runs, tmp_path):
    results = tmp_path / "published"
    publish([write_runs([make_record()], "first")], results)
    again = write_runs([make_record("gn"), make_record()], "again")
    refused([again], results, "run must not be published twice; got classification-bn-bs64-s0-00000000")
    new = write_runs([make_record("ln")], "new")
    refused([new, new], results, "run must not be published twice")


@pytest.mark.parametrize("changes", [{"dirty": True}, {"dirty": None}, {"commit": None}])
def test_code_that_no_commit_holds_is_refused(make_record, write_runs, tmp_path, changes):
    runs = write_runs([make_record("gn"), make_record(**changes)])
    refused([runs], tmp_path / "published", "commit must hold the code of a published run; got .*--allow-dirty")
    assert len(publish([runs], tmp_path / "published", allow_dirty=True)) == 2


def test_unusable_records_are_refused(make_record, write_runs, tmp_path):
    runs = write_runs([make_record()])
    (runs / "half").mkdir()
    (runs / "half" / "record.json").write_text('{"schema": 1', encoding="utf-8")
    refused([runs], tmp_path / "published", "publish must be given usable records; got .*half-written")
    refused([tmp_path / "nowhere"], tmp_path / "published", "publish must be given runs; got .*no record.json")
    refused([write_runs([], "empty")], tmp_path / "published", "publish must be given runs")


def test_damaged_published_files_are_not_added_to(make_record, write_runs, tmp_path):
    results = tmp_path / "published"
    results.mkdir()
    (results / "nas.jsonl").write_text('{"schema": 1, "ru', encoding="utf-8")
    refused(
        [write_runs([make_record()])], results, "published records must be usable; got .*nas.jsonl:1.*Repair it first"
    )


@pytest.mark.parametrize("task", ["../evil", ".hidden", "a/b"])
def test_a_task_names_a_file_and_no_path(make_record, tmp_path, task):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(make_record(task=task)), encoding="utf-8")
    refused([path], tmp_path / "published", "task must be a plain name")


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    writing.replace_file(path, "old")

    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        writing.replace_file(path, "new")
    assert os.listdir(tmp_path) == ["file.txt"]
    assert path.read_text(encoding="utf-8") == "old"
