"""Cells, the choice of the best, sections over the paper's columns, and tables as text."""

import csv
import io
import json
import statistics

import pytest

from shared.report.aggregate import (
    batch_size_grid,
    compared_metrics,
    group_number_grid,
    norm_labels,
    reference_problems,
    sign,
)
from shared.report.experiments import split_into_experiments
from shared.report.page import render_page
from shared.report.ranking import leader
from shared.report.records import parse_record
from shared.report.sections import make_sections
from shared.report.tables import cell_text, incomparable_reasons, runs_csv, table_csv, table_markdown
from shared.report.wording import metric_name
from shared.report.writing import section_files

COMPARABLE = [
    {"table": 2, "setting": {"batch_size": 64}, "metric": "top1", "record_metric": "test/top1", "comparable": True}
]


def sections_of(records):
    return make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))


def grid_of(records, metric="test/top1"):
    (experiment,) = split_into_experiments(parse_record(json.dumps(record)) for record in records)
    return batch_size_grid(experiment, metric)


def texts(grid):
    return {
        (row.label, column): cell_text(grid, row, column, leader=leader(grid, column))
        for row in grid.rows
        for column in grid.columns
    }


def test_rows_follow_the_registry_and_columns_fall(make_record):
    norms = ["zeta.norms:Zeta", "bgn", "none", "gn", "bn", "alpha.norms:Alpha"]
    grid = grid_of([make_record(norm, batch_size=size) for norm in norms for size in (2, 64)])
    assert [row.label for row in grid.rows] == ["BN", "GN", "BGN", "none", "Alpha", "Zeta"]
    assert grid.columns == (64, 2)


def test_labels_of_norms_from_outside_stay_apart():
    labels = norm_labels({"a.b:Norm", "c.d:Norm", "e.f:BN", "bn", "e.f:Own"})
    assert labels == {"bn": "BN", "a.b:Norm": "a.b:Norm", "c.d:Norm": "c.d:Norm", "e.f:BN": "e.f:BN", "e.f:Own": "Own"}


def test_cell_is_mean_and_deviation_over_seeds(make_record):
    values = [60.1, 61.7, 59.9]
    grid = grid_of([make_record("gn", value, seed=seed) for seed, value in enumerate(values)])
    cell = texts(grid)["GN", 64]
    assert cell.value == f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (3)"
    assert cell.hint == "seed 0: 60.10 [59.10, 61.10]; seed 1: 61.70 [60.70, 62.70]; seed 2: 59.90 [58.90, 60.90]"
    assert cell.groups == "G = 32"


def test_reruns_of_a_seed_count_once(make_record):
    records = [make_record(value=60.0), make_record(value=62.0, suffix="again"), make_record(value=64.0, seed=1)]
    assert texts(grid_of(records))["BN", 64].value == f"62.50 ± {statistics.stdev([61.0, 64.0]):.2f} (2)"


def test_one_seed_has_no_deviation(make_record):
    assert texts(grid_of([make_record()]))["BN", 64].value == "60.00 (1)"


def test_missing_cells_are_crossed_and_show_the_papers_number(make_record):
    cells = texts(grid_of([make_record("bn", batch_size=64), make_record("gn", batch_size=2)]))
    assert (cells["BN", 2].value, cells["BN", 2].paper) == ("X", "paper 66.512")
    assert (cells["GN", 64].value, cells["GN", 64].paper) == ("X", "paper 76.544")
    cells = texts(grid_of([make_record("bn", paper=[]), make_record("gn", batch_size=2, paper=[])]))
    assert (cells["BN", 2].value, cells["BN", 2].paper) == ("X", "")


def test_diverged_runs_are_counted_and_never_best(make_record):
    records = [make_record("bn", 50.0, seed=seed) for seed in range(2)]
    records += [make_record("gn", 70.0, seed=0), make_record("gn", seed=1, status="diverged", metrics={})]
    records += [make_record("in", seed=0, status="diverged", metrics={}), make_record("ln", 40.0)]
    cells = texts(grid_of(records))
    assert (cells["GN", 64].value, cells["GN", 64].diverged) == ("70.00 (1)", "diverged (1 of 2)")
    assert (cells["IN", 64].value, cells["IN", 64].diverged) == ("", "diverged (1 of 1)")
    assert [label for (label, _), cell in cells.items() if cell.mark] == ["BN"]


def test_best_needs_two_and_no_tie(make_record):
    assert leader(grid_of([make_record()]), 64) is None
    assert leader(grid_of([make_record("bn"), make_record("gn")]), 64) is None
    assert leader(grid_of([make_record("bn"), make_record("gn", 61.0)]), 64).row.norm == "gn"


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        ({"bn": [60.0, 61.0, 62.0], "gn": [70.0, 71.1, 72.0]}, "best"),
        ({"bn": [60.0, 61.0, 62.0], "gn": [60.1, 61.3, 62.0]}, "highest"),
        ({"bn": [60.0], "gn": [70.0]}, "highest"),
        ({"bn": [55.0, 55.1], "gn": [50.0, 50.0, 80.0]}, "highest"),
    ],
    ids=["decided", "inside the noise", "one seed", "contradicted by the shared seeds"],
)
def test_only_a_decided_lead_is_marked_as_best(make_record, values, mark):
    records = [make_record(norm, v, seed=seed) for norm, each in values.items() for seed, v in enumerate(each)]
    marks = {label: cell.mark for (label, _), cell in texts(grid_of(records)).items()}
    assert marks == {"BN": "", "GN": mark}


def test_a_decided_lead_is_bold_in_markdown(make_record):
    values = {"bn": (60.0, 61.0), "gn": (70.0, 71.1)}
    records = [make_record(norm, v, seed=seed) for norm, pair in values.items() for seed, v in enumerate(pair)]
    text = table_markdown(grid_of(records))
    assert "| GN | **70.55 ± 0.78 (2)**" in text
    assert "**Bold**: best mean, ahead of the second by more than the noise." in text
    assert "*Slanted*" not in text


def test_smaller_is_better_for_losses(make_record):
    records = [make_record(norm, value, metric="test/loss", paper=[]) for norm, value in (("bn", 1.0), ("gn", 2.0))]
    grid = grid_of(records, "test/loss")
    assert leader(grid, 64).row.norm == "bn"
    assert "*Slanted*: lowest mean, not decided: the noise could turn the order round." in table_markdown(grid)
    assert [sign(name) for name in ("test/top1", "test/top1_error", "val/loss", "test/closs")] == [1, -1, -1, 1]


def test_difference_to_the_paper_only_where_comparable(make_record):
    far = texts(grid_of([make_record()]))["BN", 64]
    assert (far.paper, far.comparable, far.difference) == ("paper 76.832", False, "")
    near = texts(grid_of([make_record(value=76.0, paper=COMPARABLE)]))["BN", 64]
    assert (near.paper, near.comparable, near.difference) == ("paper 76.832", True, "\N{MINUS SIGN}0.83")
    fraction = make_record(paper=COMPARABLE, metrics={"test/top1": {"value": 0.76, "unit": ""}})
    assert texts(grid_of([fraction]))["BN", 64].difference == ""


def test_a_norm_the_paper_does_not_have_has_no_number(make_record):
    cells = texts(grid_of([make_record("my.norms:Own", paper=COMPARABLE), make_record("none", paper=COMPARABLE)]))
    assert {cell.paper for cell in cells.values()} == {""}


def test_the_papers_divergence_is_told(make_record):
    reference = [{"table": 4, "metric": "top1", "record_metric": "test/top1", "comparable": True}]
    cell = texts(grid_of([make_record("pn", paper=reference)]))["PN", 64]
    assert (cell.paper, cell.difference) == ("paper diverged", "")


def test_the_default_g_stands_in_the_main_table_whatever_its_score(make_record):
    records = [
        make_record("bgn", value, seed=seed, batch_size=2, num_groups=groups, suffix=f"g{groups}")
        for groups, value, num_seeds in ((1, 50.0, 1), (4, 70.0, 3), (16, 60.0, 2))
        for seed in range(num_seeds)
    ]
    (experiment,) = split_into_experiments(parse_record(json.dumps(record)) for record in records)
    assert texts(batch_size_grid(experiment, "test/top1"))["BGN", 2].groups == "G = 1"
    sweep = group_number_grid(experiment, "test/top1")
    assert sweep.columns == (16, 4, 1)
    assert [cell.value for cell in texts(sweep).values()] == ["60.00 ± 0.00 (2)", "70.00 ± 0.00 (3)", "50.00 (1)"]
    without = [record for record in records if record["num_groups"] != 1]
    (experiment,) = split_into_experiments(parse_record(json.dumps(record)) for record in without)
    assert texts(batch_size_grid(experiment, "test/top1"))["BGN", 2].groups == "G = 4"


def test_the_task_s_own_default_g_stands_in_the_main_table(make_record):
    """Few-shot's default at batch size 64 is not that of Table 2."""
    records = [
        make_record("bgn", value, batch_size=64, num_groups=groups, suffix=f"g{groups}") | {"default_num_groups": 64}
        for groups, value in ((256, 70.0), (64, 50.0))
    ]
    (experiment,) = split_into_experiments(parse_record(json.dumps(record)) for record in records)
    assert texts(batch_size_grid(experiment, "test/top1"))["BGN", 64].groups == "G = 64"


def test_no_sweep_without_several_g(make_record):
    (experiment,) = split_into_experiments(
        parse_record(json.dumps(make_record("bgn", batch_size=size, num_groups=size))) for size in (2, 4)
    )
    assert group_number_grid(experiment, "test/top1") is None


def test_metrics_beside_the_paper_get_a_table_each(make_record):
    references = [
        {"table": 5, "setting": {"attack": attack}, "metric": f"{name}_top1", "record_metric": f"test/{name}_top1"}
        for name, attack in (("robust", "pgd4"), ("clean", "none"), ("other", "none"))
    ]
    metrics = {f"test/{name}_top1": {"value": 50.0, "unit": "%"} for name in ("clean", "robust", "auto")}
    record = make_record(headline="test/robust_top1", metrics=metrics, paper=references)
    (experiment,) = split_into_experiments([parse_record(json.dumps(record))])
    assert compared_metrics(experiment) == ["test/robust_top1", "test/clean_top1"]


def test_wrong_references_are_reported(make_record):
    wrong = [{"table": 2, "setting": {"bs": 64}, "metric": "top1", "record_metric": "test/top1"}]
    record = parse_record(json.dumps(make_record(paper=wrong)))
    (problem,) = reference_problems([record, record])
    assert problem.endswith("setting must use the keys batch_size, num_groups of table 2; got 'bs'.")
    assert reference_problems([parse_record(json.dumps(make_record()))]) == []
    assert texts(grid_of([make_record(paper=wrong)]))["BN", 64].paper == ""


def transfers(make_record, names, norms=("bn", "bgn"), seeds=(0, 1)):
    return [
        make_record(
            norm,
            70.0 + 5 * column + 2 * seed + (norm == "bgn"),
            seed=seed,
            batch_size=30,
            task="uda",
            metric="test/accuracy",
            axes={"transfer": name},
            suffix=name,
            dataset={"name": "office31", "full": True, "checksum": name},
            paper=[
                {
                    "table": 7,
                    "setting": {"transfer": name},
                    "metric": "accuracy",
                    "record_metric": "test/accuracy",
                    "comparable": True,
                }
            ],
        )
        for column, name in enumerate(names)
        for norm in norms
        for seed in seeds
    ]


def test_transfers_become_the_columns_of_table_7(make_record):
    names = ["wd", "ad", "da", "wa", "aw", "dw"]
    (section,) = sections_of(transfers(make_record, names))
    (grid,) = section.grids
    assert grid.columns == ("ad", "da", "wa", "aw", "dw", "wd", "mean")
    cells = texts(grid)
    by_seed = [statistics.fmean(70.0 + 5 * column + 2 * seed for column in range(6)) for seed in (0, 1)]
    assert cells["BN", "mean"].value == f"{statistics.fmean(by_seed):.2f} ± {statistics.stdev(by_seed):.2f} (2)"
    assert cells["BN", "mean"].paper == "paper 90.1"
    assert len(section.experiments) == 6


def test_runs_of_another_g_are_shown_or_named_in_sections_of_several_columns(make_record, parse_page):
    records = transfers(make_record, ["aw", "dw"])
    more = [record | {"num_groups": 4, "run": f"{record['run']}-g4"} for record in records if record["norm"] == "bgn"]
    unknown = records[-1] | {"num_groups": None, "run": "without"}
    (section,) = sections_of([*records, *more[:3], unknown])
    (sweep,) = section.sweeps
    assert [row.label for row in sweep.rows] == [f"BGN, batch size 30, transfer {name}" for name in ("aw", "dw")]
    assert sweep.columns == (256, 4)
    values = {place: cell.value for place, cell in texts(sweep).items()}
    assert values[sweep.rows[0].label, 4] == values[sweep.rows[0].label, 256] != values[sweep.rows[1].label, 4]
    remark = "1 run is not shown, because a cell has runs of one G only: BGN with no G recorded (without)."
    files = section_files(section)
    assert remark in files[f"{section.slug}-test_accuracy.md"]
    assert remark in files[f"{section.slug}-test_accuracy.tex"].replace("\\", "")
    assert f"{section.slug}-test_accuracy-groups.md" in files
    assert remark in parse_page(render_page([section], ())).texts


def test_a_part_of_the_transfers_has_no_mean_of_the_paper(make_record):
    (section,) = sections_of(transfers(make_record, ["ad", "wa"]))
    cells = texts(section.grids[0])
    assert (cells["BN", "ad"].paper, cells["BN", "mean"].paper) == ("paper 94.8", "")
    records = transfers(make_record, ["ad", "wa"])
    records = [record for record in records if (record["norm"], record["axes"]["transfer"]) != ("bgn", "wa")]
    cells = texts(sections_of(records)[0].grids[0])
    assert (cells["BGN", "wa"].value, cells["BGN", "mean"].value) == ("X", "X")


def test_axes_that_are_no_columns_of_the_paper_stay_apart(make_record):
    records = [make_record(axes={"ghost_size": size}, suffix=str(size)) for size in (2, 4)]
    assert [len(section.experiments) for section in sections_of(records)] == [1, 1]


def test_markdown_table(make_record):
    records = [make_record("bn", 60.0), make_record("gn", 61.0), make_record("ln", status="diverged", metrics={})]
    lines = table_markdown(grid_of(records)).splitlines()
    assert lines[:5] == [
        "| batch size | 64 |",
        "| --- | --- |",
        "| BN | 60.00 (1) · [paper 76.832] |",
        "| LN | diverged (1 of 1) · [paper 75.760] |",
        "| GN | *61.00 (1)* · G = 32 · [paper 76.544] |",
    ]
    assert lines[-3:] == [
        "*Slanted*: highest mean, not decided: the noise could turn the order round.",
        "",
        "[paper …] is not comparable: CIFAR-10, not ImageNet.",
    ]
    assert incomparable_reasons(grid_of(records)) == ["CIFAR-10, not ImageNet"]


def test_markdown_escapes_what_would_break_a_table(make_record):
    hostile = [dict(make_record()["paper"][0], why="a | b\n<script>")]
    lines = table_markdown(grid_of([make_record("m:A|B", 60.0), make_record("bn", paper=hostile)])).splitlines()
    assert "| A\\|B | 60.00 (1) |" in lines
    assert lines[-1] == "[paper …] is not comparable: a \\| b &lt;script>."


def test_csv_of_a_table_reads_back(make_record):
    records = [make_record("bn", value, seed=seed, paper=COMPARABLE) for seed, value in enumerate((76.0, 77.0))]
    (line,) = csv.DictReader(io.StringIO(table_csv(grid_of(records))))
    assert (float(line["mean"]), line["seeds"], line["runs"], line["diverged"]) == (76.5, "0 1", "2", "0")
    assert float(line["sd"]) == pytest.approx(statistics.stdev((76.0, 77.0)))
    assert (line["paper"], line["paper_table"], line["paper_comparable"]) == ("76.832", "2", "True")
    assert float(line["difference"]) == pytest.approx(76.5 - 76.832)


def test_csv_of_the_runs_has_each_metric(make_record):
    good = make_record(metrics={"test/top1": {"value": 61.0, "unit": "%"}, "test/top5": {"value": 90.0, "unit": "%"}})
    lost = make_record("in", status="diverged", metrics={})
    records = [parse_record(json.dumps(record)) for record in (good, lost)]
    lines = list(csv.DictReader(io.StringIO(runs_csv(records))))
    assert [(line["norm"], line["metric"], line["value"], line["headline"], line["status"]) for line in lines] == [
        ("bn", "test/top1", "61.0", "True", "done"),
        ("bn", "test/top5", "90.0", "False", "done"),
        ("in", "test/top1", "", "True", "diverged"),
    ]
    assert lines[0]["command"] == good["command"]


def test_each_table_has_three_files(make_record):
    records = [make_record("bgn", num_groups=groups, suffix=f"g{groups}") for groups in (1, 2)]
    (section,) = sections_of(records)
    names = [name.removeprefix(section.slug) for name in section_files(section)]
    kinds = ("md", "csv", "tex")
    assert names == [f"-test_top1{table}.{kind}" for table in ("", "-groups") for kind in kinds]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("test/top1", "test top-1 accuracy"),
        ("test/top5_last", "test top-5 accuracy last"),
        ("test/top1_error", "test top-1 error"),
        ("robust_top1_accuracy", "robust top-1 accuracy"),
        ("train/loss", "train loss"),
        ("test/robust_top1", "robust top-1"),
        ("test/clean_top1", "clean top-1"),
        ("test/pgd20_top1", "PGD-20 top-1"),
        ("test/autoattack_top1", "AutoAttack top-1"),
        ("test/square_top1_best", "Square top-1 best"),
        ("val/robust_top1", "val robust top-1"),
    ],
)
def test_metrics_are_named_as_people_do(name, written):
    assert metric_name(name) == written


def test_a_hint_names_the_first_seeds_and_counts_the_rest(make_record):
    grid = sections_of([make_record(seed=seed, suffix=str(seed)) for seed in range(13)])[0].grids[0]
    hint = cell_text(grid, grid.rows[0], grid.columns[0], leader=None).hint
    assert hint.count("seed ") == 10
    assert hint.endswith("and 3 more seeds")


def test_a_mean_of_reruns_is_called_one_and_has_no_interval(make_record):
    records = [make_record("bn", value, suffix=str(value)) for value in (60.0, 70.0)] + [make_record("bn", seed=1)]
    grid = sections_of(records)[0].grids[0]
    hint = cell_text(grid, grid.rows[0], grid.columns[0], leader=None).hint
    assert hint == "seed 0: 65.00 (mean of 2 runs); seed 1: 60.00 [59.00, 61.00]"
