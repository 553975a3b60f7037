"""`python -m shared.report` from the outside."""

import subprocess
import sys
import time

import pytest

from shared.report.__main__ import main
from shared.report.reading import read_records
from shared.report.writing import write_report


def run(*arguments, cwd):
    command = [sys.executable, "-m", "shared.report", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_report_is_written_where_it_is_asked_for(make_record, write_runs, tmp_path, capsys):
    runs = write_runs([make_record(), make_record("gn")])
    options = ["--runs", str(runs), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "none")]
    assert main(options) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'report.html'}: 2 runs in 1 experiment\n"
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8").startswith("# Which normalization layer")
    assert len((tmp_path / "out" / "results.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_without_runs_there_is_a_page_all_the_same(tmp_path):
    finished = run(cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == "runs/report/report.html: no usable records in runs or results/runs yet\n"
    page = tmp_path / "runs" / "report" / "report.html"
    assert "There are no finished runs yet" in page.read_text(encoding="utf-8")


def test_publishing_then_reporting_from_the_published_runs(make_record, write_runs, tmp_path, capsys):
    runs = write_runs([make_record(), make_record("gn")])
    results = tmp_path / "results" / "runs"
    assert main(["--publish", str(runs), "--results", str(results)]) == 0
    assert capsys.readouterr().out.startswith("2 runs added to ")
    assert main(["--runs", str(runs), "--results", str(results), "--out", str(tmp_path / "out")]) == 0
    assert "2 runs in 1 experiment" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nas"], "error: task must be one that has runs (classification); got 'nas'."),
        (["--publish", "nowhere"], "error: publish must be given runs; got nowhere, which holds no record.json."),
        (
            ["--publish", "--task", "nas"],
            "error: task must not be given with --publish; got 'nas'. Name the runs instead.",
        ),
        (["--allow-dirty"], "error: allow-dirty must be given with --publish only; a report shows every run."),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    make_record, write_runs, tmp_path, monkeypatch, capsys, arguments, message
):
    write_runs([make_record()])
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"{message}\n"
    assert not (tmp_path / "report").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["--out", "file"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help_is_quick_and_imports_nothing_heavy(tmp_path):
    start = time.perf_counter()
    assert run("--help", cwd=tmp_path).returncode == 0
    assert time.perf_counter() - start < 3
    code = "import sys, shared.report.page, shared.report.publish, shared.report.__main__; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "pandas", "numpy"} & set(finished.stdout.split())


@pytest.mark.slow
def test_ten_thousand_records_take_under_a_minute(make_record, write_runs, tmp_path):
    norms = ("bn", "in", "ln", "gn", "pn", "gbgn", "bgn")
    records = [
        make_record(norms[index % 7], 60.0 + index % 11, seed=index // 49, batch_size=2 ** (1 + index // 7 % 7))
        for index in range(10_000)
    ]
    for index, record in enumerate(records):
        record["run"] += str(index)
        record["config"] = f"config{index // 700}"
    found = read_records(runs=write_runs(records), results=None)
    start = time.perf_counter()
    write_report(found, tmp_path / "out")
    assert time.perf_counter() - start < 60
    assert len(found.records) == 10_000
