"""Items of a record: what is checked, and what a cell makes of them."""

import json
from dataclasses import asdict

import pytest

from shared import runs
from shared.report.items import Items, item_table, mean_table, same_items
from shared.report.records import BadRecordError, parse_record


def test_items_are_read(make_fewshot):
    record = parse_record(json.dumps(make_fewshot(num_episodes=40)))
    items = record.items["test/accuracy_1shot"]
    assert (items.kind, items.key, items.each, len(items.hits)) == ("episodes", "sha256:e1", 75, 40)
    assert items.percent == pytest.approx(record.metrics["test/accuracy_1shot"].value, abs=1e-4)


def test_items_as_a_task_gives_them_are_read(make_record):
    given = runs.Items(kind="episodes", key="sha256:a", each=2, hits=[2, 1])
    record = make_record(value=75.0, items={"test/top1": asdict(given)})
    (items,) = parse_record(json.dumps(record)).items.values()
    assert items == Items("episodes", "sha256:a", 2, (2, 1))


@pytest.mark.parametrize("items", [None, {}])
def test_a_record_without_items_is_as_good(make_record, items):
    assert parse_record(json.dumps(make_record(items=items))).items == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([1], "items must be of type dict"),
        ({"m": [1, 2]}, "the items of m must be an object; got"),
        ({"test/top1": {"kind": 3}}, "in the items of test/top1, kind must be of type str; got 3"),
        ({"test/top1": {"key": ""}}, "in the items of test/top1, key must not be empty"),
        ({"test/top1": {"each": 0}}, "in the items of test/top1, each must be at least 1; got 0"),
        ({"test/top1": {"each": 2.0}}, "each must be of type int; got 2.0"),
        ({"test/top1": {"hits": [1]}}, "hits must be two or more; got 1"),
        ({"test/top1": {"hits": [1, 3]}}, "a hit must be a whole number from 0 to 2; got 3"),
        ({"test/top1": {"hits": [1, -1]}}, "a hit must be a whole number from 0 to 2; got -1"),
        ({"test/top1": {"hits": [1, True]}}, "a hit must be a whole number from 0 to 2; got True"),
        ({"test/top1": {"hits": [1, 0.5]}}, "a hit must be a whole number from 0 to 2; got 0.5"),
        ({"test/top1": {"hits": [1, 1]}}, "the metric test/top1 must be the mean of its items, 50.0000; got 75.0"),
        ({"test/top5": {}}, "items must belong to a metric of the record; got test/top5"),
    ],
)
def test_items_that_cannot_be_used_are_named(make_record, make_items, changes, reason):
    metrics, items = make_items("test/top1", [1, 2], each=2)
    whole = items["test/top1"]
    if isinstance(changes, dict):
        changes = {name: whole | entry if isinstance(entry, dict) else entry for name, entry in changes.items()}
    with pytest.raises(BadRecordError) as raised:
        parse_record(json.dumps(make_record(metrics=metrics, items=changes)))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_metric_may_be_rounded(make_record, make_items):
    metrics, items = make_items("test/top1", [1, 0, 0], each=1)
    for value, usable in ((33.3333, True), (33.3343, True), (33.3350, False)):
        metrics["test/top1"]["value"] = value
        text = json.dumps(make_record(metrics=metrics, items=items))
        if usable:
            assert parse_record(text).items
        else:
            with pytest.raises(BadRecordError, match=r"must be the mean of its items, 33\.3333; got 33\.335"):
                parse_record(text)


def test_a_diverged_run_has_items_only_with_a_metric(make_record, make_items):
    metrics, items = make_items("test/top1", [1, 2], each=2)
    metrics["test/top1"]["value"] = None
    assert parse_record(json.dumps(make_record(status="diverged", metrics=metrics, items=items))).items == {}


def of(hits, key="k", each=4, kind="episodes"):
    return Items(kind, key, each, tuple(hits))


def test_reruns_of_a_seed_are_averaged_item_by_item():
    table = item_table([(1, of([0, 4])), (0, of([1, 2])), (1, of([2, 4]))])
    assert table.by_seed == {0: (25.0, 50.0), 1: (25.0, 100.0)}
    assert (table.kind, table.num_items) == ("episodes", 2)


@pytest.mark.parametrize(
    "runs_of_a_cell",
    [
        [],
        [(0, of([1, 2])), (1, None)],
        [(0, of([1, 2])), (1, of([1, 2], key="other"))],
        [(0, of([1, 2])), (1, of([1, 2, 3]))],
        [(0, of([1, 2])), (1, of([1, 2], each=5))],
        [(0, of([1, 2])), (1, of([1, 2], kind="images"))],
    ],
    ids=["no runs", "unknown", "another key", "another number", "other trials", "another kind"],
)
def test_runs_of_different_items_make_no_table(runs_of_a_cell):
    assert item_table(runs_of_a_cell) is None


def test_columns_of_the_same_items_are_averaged():
    one, other = item_table([(0, of([0, 4])), (1, of([4, 4]))]), item_table([(0, of([2, 4]))])
    assert mean_table([one, other], [0]).by_seed == {0: (25.0, 100.0)}
    assert mean_table([one, None], [0]) is None
    assert mean_table([one, item_table([(0, of([2, 4], key="other"))])], [0]) is None
    assert same_items(one, other)
    assert not same_items(one, None)
