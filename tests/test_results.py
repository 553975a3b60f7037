"""What is committed under results/ follows from the records there."""

import json
import shutil

import pytest

from shared.catalog import ROOT
from shared.report.publish import generate
from shared.report.reading import read_records

RECORDS = [
    json.loads(line)
    for file in sorted((ROOT / "results/runs").glob("*.jsonl"))
    for line in file.read_text().splitlines()
]


def test_every_published_record_is_usable():
    found = read_records(runs=None, results=ROOT / "results/runs")
    assert not found.left_out
    assert len(found.records) == len(RECORDS) > 0


@pytest.mark.parametrize("record", RECORDS, ids=[record["run"] for record in RECORDS])
def test_a_published_record_says_where_it_comes_from(record):
    assert record["status"] in ("done", "diverged", "degenerate")
    assert not record["dirty"]
    assert len(record["commit"]) >= 7
    assert record["dataset"]["checksum"].startswith("sha256:")
    assert record["command"].startswith("make task=")
    assert "/" not in record["command"], "no path of the machine that measured"


def test_the_tables_are_those_of_the_records(tmp_path):
    shutil.copytree(ROOT / "results/runs", tmp_path / "runs")
    generate(tmp_path / "runs")
    committed = {path.name: path.read_text() for path in (ROOT / "results/tables").iterdir()}
    assert {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()} == committed
    assert (ROOT / "results/report.html").is_file()
