"""`python -m shared.report` from the outside."""

import os
import subprocess
import sys
import time
from pathlib import Path

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
    first, answer = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'out' / 'report.html'}: 2 runs in 1 experiment"
    assert answer.startswith(
        "Image classification, config cifar10: On 10,000 CIFAR-10 images with ResNet-20, batch size"
    )
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


def test_a_closed_pipe_is_no_mistake(make_record, write_runs, tmp_path):
    runs = write_runs([make_record()])
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "shared.report", "--runs", str(runs)]
    finished = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert (runs / "report" / "report.html").is_file()


@pytest.fixture
def published(make_record, write_runs, tmp_path, capsys):
    """A folder of published runs: three norms, with items."""
    records = [make_record(norm, config="published", suffix="p") for norm in ("bn", "gn", "bgn")]
    results = tmp_path / "results" / "runs"
    assert main(["--publish", str(write_runs(records, "theirs")), "--results", str(results)]) == 0
    capsys.readouterr()
    return results


@pytest.mark.parametrize("make_folder", [True, False])
def test_without_runs_of_one_s_own_it_is_said_that_these_are_the_published_ones(
    published, tmp_path, monkeypatch, capsys, make_folder
):
    monkeypatch.chdir(tmp_path)
    if make_folder:
        Path("runs").mkdir()
    assert main([]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "runs/report/report.html: 3 runs in 1 experiment. These are the published runs, because runs holds no others "
        "yet."
    )


def test_after_a_run_of_one_s_own_the_text_is_about_it(make_record, write_runs, published, capsys):
    runs = write_runs([make_record("gn", config="mine")])
    assert main(["--runs", str(runs), "--results", str(published)]) == 0
    first, answer, last = capsys.readouterr().out.splitlines()
    assert first.endswith("report.html: 1 run in 1 experiment")
    assert answer.startswith("Image classification, config mine: On 10,000 CIFAR-10 images with ResNet-20, batch size")
    assert "only GN 60.00 % (1 seed) has been run: there is nothing to compare it with yet." in answer
    assert last == "and 1 published experiment in the report"
    text = (runs / "report" / "results.md").read_text(encoding="utf-8")
    assert text.index("config mine") < text.index("config published")
    lines = (runs / "report" / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith("classification,mine,")


def test_ranks_of_published_runs_alone_come_after_one_s_own(make_record, write_runs, tmp_path, capsys):
    theirs = [make_record(norm, task=task, config="theirs", paper=[], suffix=task) for norm in ("bn", "gn")
              for task in ("nas", "fewshot")]  # fmt: skip
    results = tmp_path / "results" / "runs"
    assert main(["--publish", str(write_runs(theirs, "theirs")), "--results", str(results)]) == 0
    runs = write_runs([make_record("gn", config="mine")])
    order = ("config mine", "Over all tasks", "config theirs")

    def places():
        assert main(["--runs", str(runs), "--results", str(results)]) == 0
        text = (runs / "report" / "results.md").read_text(encoding="utf-8")
        page = (runs / "report" / "report.html").read_text(encoding="utf-8")
        page = page[page.index("How to read this page") :]
        return [sorted(order, key=each.index) for each in (text, page)]

    assert places() == [list(order)] * 2
    write_runs([make_record(norm, task="uda", config="mine", paper=[], suffix="uda") for norm in ("bn", "gn")])
    assert places() == [["Over all tasks", "config mine", "config theirs"]] * 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--runs", "nowhere"],
            "error: runs must be a folder that exists; got nowhere. Without runs= it is the folder runs.",
        ),
        (["--runs", "file"], "error: runs must be a folder; got file, which is a file."),
        (["--out", "file"], "error: out must be a folder; got file, which is a file."),
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
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"{message}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "runs"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["--out", "file/report"]) == 2
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
