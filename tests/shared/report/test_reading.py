"""Which records are used, and what is said of the others."""

import json
import math

import pytest

from shared.report.reading import find_record_files, read_records
from shared.report.records import BadRecordError, canonical_json, parse_record


def test_a_whole_record_is_read(make_record):
    record = parse_record(json.dumps(make_record("bgn", 61.5, seed=3)))
    assert (record.norm, record.seed, record.num_groups, record.batch_size) == ("bgn", 3, 256, 64)
    metric = record.metrics["test/top1"]
    assert (metric.value, metric.ci95, metric.n, metric.unit) == (61.5, (60.5, 62.5), 10000, "%")
    assert record.curves["test/top1"] == ((1.0, 30.75), (2.0, 61.5))
    assert record.paper[0].setting == {"batch_size": 64}
    assert record.number("wall_time_seconds") == 80.0


def test_a_record_with_required_fields_only_is_read(make_record):
    required = ("schema", "run", "status", "task", "norm", "seed", "headline", "metrics")
    small = {name: value for name, value in make_record().items() if name in required}
    record = parse_record(json.dumps(small))
    assert (record.model, record.commit, record.dataset, record.batch_size) == ("?", "?", {}, None)
    assert record.number("wall_time_seconds") is None


def test_uncommitted_changes_are_part_of_the_commit(make_record):
    assert parse_record(json.dumps(make_record(dirty=True))).commit == "abc1234+changes"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"schema": 1, "run": "a', "half-written"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema": 1} {"schema": 1}', "not valid JSON"),
        ("[1, 2]", "must be a JSON object; got list"),
        ("{}", "schema must be 1; got None"),
        ('{"schema": 2}', "schema must be 1; got 2"),
        ('{"schema": true}', "schema must be 1; got True"),
        ('{"schema": "1"}', "schema must be 1; got '1'"),
        ('{"schema": 1, "status": "done"}', "the field headline is missing, so the record is half-written"),
    ],
)
def test_damaged_texts_are_named(text, reason):
    with pytest.raises(BadRecordError) as raised:
        parse_record(text)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "running"}, "status must be one of done, diverged, degenerate; got 'running'"),
        ({"run": ""}, "run must not be empty"),
        ({"seed": "0"}, "seed must be of type int; got '0'"),
        ({"seed": True}, "seed must be of type int; got True"),
        ({"norm": 3}, "norm must be of type str; got 3"),
        ({"batch_size": "64"}, "batch_size must be of type int"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"batch_size": -8}, "batch_size must be at least 1; got -8"),
        ({"metrics": []}, "metrics must be of type dict"),
        ({"metrics": {"test/top1": 61.0}}, "the metric test/top1 must be an object with a value; got 61.0"),
        ({"metrics": {"test/top1": {"value": math.nan}}}, "the metric test/top1 must be a finite number"),
        ({"metrics": {"test/top1": {"value": math.inf}}}, "the metric test/top1 must be a finite number"),
        ({"metrics": {"test/top1": {"value": 10**400}}}, "the metric test/top1 must be a finite number"),
        ({"metrics": {"test/top1": {"value": None}}}, "the metric test/top1 must be a finite number"),
        ({"metrics": {"test/top1": {"value": "61"}}}, "the metric test/top1 must be a finite number"),
        ({"metrics": {"test/top5": {"value": 61}}}, "metrics must hold the headline test/top1; got test/top5"),
        ({"paper": ["table 2"]}, "an entry of paper must be an object"),
        ({"paper": [{"table": 2}]}, "the field metric is missing"),
        ({"axes": [1]}, "axes must be of type dict"),
    ],
)
def test_unusable_fields_are_named(make_record, changes, reason):
    with pytest.raises(BadRecordError) as raised:
        parse_record(json.dumps(make_record(**changes)))
    assert reason in str(raised.value)


def test_a_diverged_run_may_have_numbers_that_are_none(make_record):
    diverged = make_record(status="diverged", metrics={"test/top1": {"value": math.nan}, "epoch": {"value": 3}})
    record = parse_record(json.dumps(diverged))
    assert not record.done
    assert list(record.metrics) == ["epoch"]


def test_points_of_curves_that_are_none_are_dropped(make_record):
    record = parse_record(json.dumps(make_record(curves={"a": [[1, 2], [2, math.nan], [3], "x", [4, None]], "b": 3})))
    assert record.curves == {"a": ((1.0, 2.0),)}


def test_folders_are_searched_and_runs_not_looked_into(make_record, write_runs):
    runs = write_runs([make_record(seed=seed) for seed in (1, 0)])
    first = next(find_record_files(runs)).parent
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "record.json").write_text("{}", encoding="utf-8")
    assert [path.parent.name[-11:-9] for path in find_record_files(runs)] == ["s0", "s1"]
    assert list(find_record_files(first)) == [first / "record.json"]


def test_bad_records_are_left_out_by_name_and_reason(make_record, write_runs):
    runs = write_runs([make_record()])
    for name, content in {"half": b'{"schema": 1, ', "latin": b"\xff\xfe", "other": b'{"schema": 9}'}.items():
        (runs / name).mkdir()
        (runs / name / "record.json").write_bytes(content)
    found = read_records(runs=runs, results=None)
    assert len(found.records) == 1
    assert [(entry.source.split("/")[-2], entry.reason.split(",")[0]) for entry in found.left_out] == [
        ("half", "this is not valid JSON"),
        ("latin", "the file cannot be read as UTF-8 text"),
        ("other", "schema must be 1; got 9"),
    ]


def test_a_run_in_both_places_counts_once_and_the_published_one_wins(make_record, write_runs, tmp_path):
    same, changed = make_record(seed=0), make_record(seed=1, value=60.0)
    results = tmp_path / "results"
    results.mkdir()
    lines = [canonical_json(same), canonical_json(make_record(seed=1, value=61.0)), '{"schema": 1, "ru']
    (results / "classification.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = read_records(runs=write_runs([same, changed]), results=results)
    assert [record.metrics["test/top1"].value for record in found.records] == [60.0, 61.0]
    half, different = found.left_out
    assert half.source.endswith("classification.jsonl:3")
    assert "a different record of the run" in different.reason


def test_a_diverged_run_in_both_places_counts_once(make_record, write_runs, tmp_path):
    diverged = make_record(status="diverged", metrics={"test/top1": {"value": math.nan}})
    results = tmp_path / "results"
    results.mkdir()
    (results / "classification.jsonl").write_text(canonical_json(diverged), encoding="utf-8")
    found = read_records(runs=write_runs([diverged]), results=results)
    assert (len(found.records), found.left_out) == (1, ())


def test_missing_folders_hold_no_records(tmp_path):
    found = read_records(runs=tmp_path / "none", results=tmp_path / "none")
    assert (found.records, found.left_out) == ((), ())


def test_one_task_is_kept_or_refused(make_record, write_runs):
    found = read_records(runs=write_runs([make_record(), make_record(task="nas", run="nas-bn")]), results=None)
    assert [record.task for record in found.of_task("nas").records] == ["nas"]
    assert found.of_task(None) is found
    with pytest.raises(ValueError, match=r"task must be one that has runs \(classification, nas\); got 'fewshot'"):
        found.of_task("fewshot")
