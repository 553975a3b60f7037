"""Methods of a task side by side, controls without the paper's numbers, and tables as LaTeX."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from shared.report.experiments import split_into_experiments
from shared.report.latex import escape, table_latex
from shared.report.page import render_page
from shared.report.records import parse_record
from shared.report.sections import make_sections
from shared.report.writing import section_files

GAINS = {"source_only": 0.0, "norm_branch": 15.0, "can": 30.0}


@pytest.fixture
def records(make_record):
    def make(transfer, method, norm, seed):
        axes = {"method": method, "transfer": transfer}
        paper = {"table": 7, "setting": {"transfer": transfer}, "metric": "accuracy", "record_metric": "test/accuracy",
                 "comparable": False, "why": "32 px"}  # fmt: skip
        value = 30.0 + GAINS[method] - (5.0 if norm == "bgn" else 0.0) + seed
        return make_record(
            norm, value, seed=seed, metric="test/accuracy", axes=axes, paper=[paper], task="uda", config="office31",
            suffix=f"{transfer}{method}", protocol={"method": method},
            dataset={"name": "office31", "checksum": transfer, "resolution": 32},
        )  # fmt: skip

    return [parse_record(json.dumps(make(t, m, n, s))) for t in ("dw", "aw") for m in GAINS for n in ("bn", "bgn")
            for s in range(2)]  # fmt: skip


def of_transfer(records, transfer):
    return [record for record in records if record.axes["transfer"] == transfer]


def test_the_methods_stand_side_by_side_in_the_first_one_s_section(records):
    sections = make_sections(split_into_experiments(of_transfer(records, "dw")))
    (host,) = [section for section in sections if section.methods]
    assert not host.is_control
    grid = host.methods
    assert grid.columns == ("source only", "discrepancy off", "CAN")
    means = {row.label: [grid.cells[row, column].summary.mean for column in grid.columns] for row in grid.rows}
    assert means == {"BN": [30.5, 45.5, 60.5], "BGN": [25.5, 40.5, 55.5]}


def test_several_transfers_are_named(records):
    sections = make_sections(split_into_experiments(records))
    (host,) = [section for section in sections if section.methods]
    assert host.methods.columns == tuple(
        f"{transfer} {method}" for transfer in ("aw", "dw") for method in ("source only", "discrepancy off", "CAN")
    )
    assert host.grids[0].columns == ("aw", "dw", "mean")


def test_the_paper_s_number_stands_beside_its_own_method_only(records):
    for section in make_sections(split_into_experiments(records)):
        assert any(cell.paper for cell in section.grids[0].cells.values()) is not section.is_control
        if section.is_control:
            assert section.heading.endswith((", source only", ", discrepancy off"))
            assert all("paper" not in text for name, text in section_files(section).items() if name.endswith(".md"))
        else:
            cells = section.methods.cells
            assert {column for (_, column), cell in cells.items() if cell.paper} == {"aw CAN", "dw CAN"}


def test_the_overview_leaves_out_controls_that_are_in_a_table(records):
    page = render_page(make_sections(split_into_experiments(records)), [])
    overview = page[page.index('class="answers"') : page.index("How to read this page")]
    assert overview.count("<li>") == 1
    assert page.count("<h2") >= 3
    alone = [record for record in records if record.axes["method"] == "source_only"]
    page = render_page(make_sections(split_into_experiments(alone)), [])
    assert "source only" in page[page.index('class="answers"') : page.index("How to read this page")]


def test_one_method_has_no_such_table(records):
    sections = make_sections(split_into_experiments([r for r in records if r.axes["method"] == "can"]))
    assert not any(section.methods for section in sections)


SEARCH = {"epochs": 10, "precision": "32-true"}


def searches(make_record, *runs):
    """Records of searches: method, then what differs from `SEARCH` and the usual data."""
    records = []
    for number, (method, protocol, dataset) in enumerate(runs):
        data = {"name": "cifar10", "train": 4000, "test": 2000, "full": False, "checksum": "sha256:aa"} | dataset
        records += [
            make_record(norm, 50.0 + number, task="nas", config="cifar10", axes={"method": method}, dataset=data,
                        protocol=SEARCH | protocol, suffix=f"{number}", paper=[])
            for norm in ("bn", "bgn")
        ]  # fmt: skip
    return make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))


def method_tables(sections):
    return [section.methods for section in sections if section.methods]


@pytest.mark.parametrize(
    ("protocol", "dataset"),
    [
        ({"epochs": 99}, {}),
        ({"trainer.limit_train_batches": 0.1}, {}),
        ({}, {"train": 500}),
        ({}, {"test": 100}),
        ({}, {"full": True, "train": 50_000}),
        ({}, {"resolution": 16}),
    ],
)
def test_methods_on_other_data_or_with_other_common_settings_share_no_table(make_record, protocol, dataset):
    assert method_tables(searches(make_record, ("darts", {}, {}), ("random", protocol, dataset))) == []
    first, second = method_tables(
        searches(make_record, ("darts", {}, {}), ("manas", {}, {}), ("darts", protocol, dataset),
                 ("random", protocol, dataset))
    )  # fmt: skip
    assert {first.columns, second.columns} == {("DARTS", "MANAS"), ("random search", "DARTS")}


def test_other_images_of_as_many_share_no_table_where_methods_share_some(make_record):
    other = {"checksum": "sha256:bb"}
    tables = method_tables(
        searches(make_record, ("darts", {}, {}), ("random", {}, {}), ("manas", {}, other), ("darts", {}, other))
    )
    assert {table.columns for table in tables} == {("random search", "DARTS"), ("DARTS", "MANAS")}


def test_methods_that_have_images_of_their_own_share_a_table_that_says_so(make_record):
    (table,) = method_tables(searches(make_record, ("darts", {}, {}), ("random", {}, {"checksum": "sha256:bb"})))
    assert table.remarks == (
        "Mind: the columns differ in more than their method: data bb (random search), aa (DARTS).",
    )  # fmt: skip


def test_one_method_under_two_protocols_is_told_apart_in_the_header(make_record):
    (table,) = method_tables(
        searches(make_record, ("darts", {"order": "first"}, {}), ("darts", {"order": "second"}, {}),
                 ("random", {"candidates": 16}, {}))
    )  # fmt: skip
    assert set(table.columns) == {
        "random search", "DARTS (order first, not second)", "DARTS (order second, not first)"
    }  # fmt: skip
    assert table.remarks == ()


def test_settings_in_which_two_methods_of_three_differ_are_said_below(make_record, parse_page):
    sections = searches(make_record, ("manas", {"agents": "own"}, {}), ("manas_ls", {"agents": "shared"}, {}),
                        ("random", {}, {}))  # fmt: skip
    remark = "Mind: the columns differ in more than their method: agents own (MANAS), shared (MANAS-LS)."
    assert remark in parse_page(render_page(sections, [])).texts
    assert any(remark in section_files(section)[name] for section in sections for name in section_files(section)
               if name.endswith("-methods.md"))  # fmt: skip


def test_networks_are_compared_without_the_method_s_name(make_record):
    def grids(*models):
        records = [
            make_record(model=model, axes={"method": method}, suffix=method, paper=[])
            for method, model in zip(("can", "norm_branch", "random"), models, strict=True)
        ]
        return method_tables(
            make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
        )

    (table,) = grids("can-resnet20", "norm-branch-resnet20", "random search resnet50")
    assert table.columns == ("discrepancy off", "CAN")


def test_runs_of_another_g_are_named_below(records):
    extra = replace(records[-1], num_groups=4, run="of-four-groups")
    (host,) = [each for each in make_sections(split_into_experiments([*records, extra])) if each.methods]
    assert host.methods.remarks == (
        "1 run is not shown, because a cell has runs of one G only: BGN with G = 4 (of-four-groups).",
    )


def test_latex_is_balanced_and_holds_the_numbers(records):
    (host,) = [each for each in make_sections(split_into_experiments(of_transfer(records, "dw"))) if each.methods]
    text = table_latex(host.methods, title="100 % of a_b & c")
    assert r"100 \% of a\_b \& c" in text
    assert r"BN & \textbf{30.50 $\pm$ 0.71 (2)} & " in text or r"BN & \textit{30.50 $\pm$ 0.71 (2)} & " in text
    assert r"{\footnotesize [paper 98.4]}" in text
    bare = re.sub(r"\\[{}%&$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {line.count(" & ") for line in rows} == {3}
    assert text.count(r"\begin") == text.count(r"\end")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_without_complaints(records, tmp_path):
    sections = make_sections(split_into_experiments(records))
    tables = [table_latex(each.methods, title="50 % of a_b & c") for each in sections if each.methods]
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "all.tex").write_text("\n".join([head, *tables, r"\end{document}"]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_latex_escapes_every_special_letter():
    assert escape("a\\b^c~d{e}") == r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d\{e\}"
    assert escape("x ± y − z") == r"x $\pm$ y $-$ z"
