"""The paper's tables: everything in them that can be recomputed, and the lookup."""

import csv
import math
from pathlib import Path

import pytest

from shared.report import paper
from shared.report.paper import load_paper_tables, paper_entry, paper_value

TEXT_AVERAGES = {"ln": 75.191, "gn": 76.073, "pn": 74.167, "bgn": 76.594}


def row(table, norm, metric=None):
    return [
        entry.value
        for entry in load_paper_tables()[table].entries
        if entry.norm == norm and (metric is None or entry.metric == metric)
    ]


@pytest.mark.parametrize(("norm", "average"), TEXT_AVERAGES.items())
def test_row_means_of_table_2_are_those_in_the_text(norm, average):
    values = row(2, norm)
    assert len(values) == 7
    assert round(math.fsum(values) / 7, 3) == average


@pytest.mark.parametrize("norm", ["bn", "bgn", "gn", "in", "ln", "pn"])
def test_means_of_table_7_recompute(norm):
    *transfers, mean = row(7, norm)
    assert len(transfers) == 6
    assert f"{math.fsum(transfers) / 6:.1f}" == f"{mean:.1f}"


def test_gap_of_gbgn_at_batch_size_2_is_that_in_the_text():
    settings = {"table": 2, "setting": {"batch_size": 2}, "metric": "top1"}
    assert round(paper_value(norm="bgn", **settings) - paper_value(norm="gbgn", **settings), 3) == 4.24


@pytest.mark.parametrize("batch_size", [128, 2])
def test_gbgn_is_bgn_with_32_groups(batch_size):
    sweep = paper_value(table=1, norm="bgn", setting={"batch_size": batch_size, "num_groups": 32}, metric="top1")
    assert paper_value(table=2, norm="gbgn", setting={"batch_size": batch_size}, metric="top1") == sweep


@pytest.mark.parametrize(("batch_size", "num_groups"), [(128, 512), (2, 1)])
def test_ends_of_table_1_are_the_ends_of_table_2(batch_size, num_groups):
    setting = {"batch_size": batch_size, "num_groups": num_groups}
    values = {paper_value(table=table, norm="bgn", setting=setting, metric="top1") for table in (1, 2)}
    assert len(values) == 1
    assert max(row(1, "bgn")[:10] if batch_size == 128 else row(1, "bgn")[10:]) in values


def test_each_number_of_tables_1_and_2_is_a_multiple_of_one_in_6250():
    entries = [entry for table in (1, 2) for entry in load_paper_tables()[table].entries]
    assert len(entries) == 69
    assert all(round(entry.value * 1000) % 16 == 0 for entry in entries)
    assert sum(round(entry.value * 1000) % 32 == 0 for entry in entries) < 69


def test_counts_and_diverged_cells():
    tables = load_paper_tables()
    assert [len(tables[number].entries) for number in range(1, 8)] == [20, 49, 6, 6, 12, 12, 42]
    diverged = {(number, entry.norm) for number in tables for entry in tables[number].entries if entry.printed == "-"}
    assert diverged == {(3, "in"), (3, "ln"), (4, "in"), (4, "ln"), (4, "pn"), (5, "pn")}


def test_cells_are_unique():
    for table in load_paper_tables().values():
        cells = [(entry.norm, entry.metric, tuple(entry.setting.items())) for entry in table.entries]
        assert len(set(cells)) == len(cells)


def test_numbers_are_kept_as_printed():
    entry = paper_entry(table=2, norm="pn", setting={"batch_size": 8}, metric="top1")
    assert (entry.printed, entry.value) == ("74.48", 74.48)
    assert paper_entry(table=7, norm="gn", setting={"transfer": "ad"}, metric="accuracy").printed == "90.0"


def test_every_norm_is_in_the_registry():
    from norm_layers.registry import NORMS

    assert {entry.norm for table in load_paper_tables().values() for entry in table.entries} <= set(NORMS)


def test_files_have_no_empty_number():
    for path in sorted(paper.paper_directory().glob("table*.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            assert all(line["printed"] and line["norm"] for line in csv.DictReader(stream)), path.name


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"table": 2, "norm": "bgn", "setting": {"batch_size": 64}, "metric": "top1"}, 77.104),
        ({"table": 2, "norm": "bgn", "setting": {"batch_size": "64", "num_groups": 256}, "metric": "top1"}, 77.104),
        ({"table": 2, "norm": "bgn", "setting": {"batch_size": 64, "num_groups": 1}, "metric": "top1"}, None),
        ({"table": 2, "norm": "bn", "setting": {"batch_size": 3}, "metric": "top1"}, None),
        ({"table": 3, "norm": "bgn", "setting": {}, "metric": "top1"}, 97.4),
        ({"table": 4, "norm": "pn", "setting": {"search": "manas"}, "metric": "top1"}, "diverged"),
        ({"table": 5, "norm": "bgn", "setting": {"attack": "pgd4"}, "metric": "robust_top1"}, 49.64),
        ({"table": 5, "norm": "bgn", "setting": {}, "metric": "clean_top1"}, 72.94),
        ({"table": 6, "norm": "in", "setting": {"shots": 5}, "metric": "accuracy"}, 70.49),
        ({"table": 7, "norm": "bgn", "setting": {"transfer": "wa"}, "metric": "accuracy"}, 78.5),
        ({"table": 7, "norm": "my.norms:Fancy", "setting": {"transfer": "wa"}, "metric": "accuracy"}, None),
    ],
)
def test_lookup(query, expected):
    assert paper_value(**query) == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"table": 8, "setting": {}, "metric": "top1"}, "table must be one of 1, 2, 3, 4, 5, 6, 7; got 8."),
        ({"table": 2, "setting": {}, "metric": "top2"}, "metric must be one of top1 in table 2; got 'top2'."),
        (
            {"table": 2, "setting": {"batchsize": 2}, "metric": "top1"},
            "setting must use the keys batch_size, num_groups of table 2; got 'batchsize'.",
        ),
        (
            {"table": 2, "setting": {}, "metric": "top1"},
            "setting must single out one cell of table 2; got {}, which matches 7. "
            "Give more of batch_size, num_groups.",
        ),
    ],
)
def test_wrong_lookups_say_what_is_allowed(query, message):
    with pytest.raises(ValueError, match="must") as raised:
        paper_value(norm="bgn", **query)
    assert str(raised.value) == message


def test_missing_tables_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(paper, "__file__", str(Path(tmp_path) / "a" / "b" / "c" / "d" / "e.py"))
    with pytest.raises(FileNotFoundError, match=r"results/paper must be in the repository; .*editable"):
        paper.paper_directory()
