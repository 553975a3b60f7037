"""1-shot and 5-shot accuracy side by side, as in the paper's Table 6."""

import json
import statistics

import pytest

from shared.report.answer import answers
from shared.report.experiments import split_into_experiments
from shared.report.page import draw_section, render_page
from shared.report.records import parse_record
from shared.report.sections import make_sections
from shared.report.tables import caption, table_markdown
from shared.report.wording import measure_name, metric_name, setting_words
from shared.report.writing import section_files


def section_of(records):
    (section,) = make_sections(split_into_experiments([parse_record(json.dumps(record)) for record in records]))
    return section


def test_both_shots_are_columns_with_the_papers_numbers(fewshot_runs, parse_page):
    section = section_of(fewshot_runs)
    (grid,) = section.grids
    assert (grid.column_name, grid.columns) == ("shots", ("1-shot", "5-shot"))
    assert caption(grid) == "5-way accuracy in %, by shots, batch size 256"
    bn = {shots: [record["metrics"][f"test/accuracy_{shots}shot"]["value"] for record in fewshot_runs[:3]]
          for shots in (1, 5)}  # fmt: skip
    texts = [f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (3)" for values in bn.values()]
    text = table_markdown(grid).replace("*", "")
    assert f"| BN | {texts[0]} · [paper 59.30] | {texts[1]} · [paper 76.22] |" in text
    table = parse_page(render_page([section], ())).tables[0]
    assert table[0] == ["shots", "1-shot", "5-shot"]
    assert table[1] == ["BN", f"{texts[0]} paper 59.30", f"{texts[1]} paper 76.22"]
    names = [name.removeprefix(section.slug) for name in section_files(section)]
    assert names[:2] == ["-test_accuracy_by_shots.md", "-test_accuracy_by_shots.csv"]


@pytest.mark.parametrize("headline", ["test/accuracy_1shot", "test/accuracy_5shot"])
def test_the_headline_leads_and_both_are_answered(fewshot_runs, headline):
    section = section_of([dict(record, headline=headline) for record in fewshot_runs])
    assert section.grids[0].columns == ("1-shot", "5-shot")
    (text,) = answers(section)
    text = text.replace("\u00a0", " ")
    first, second = ("1", "5") if headline.endswith("_1shot") else ("5", "1")
    assert text.startswith("On miniImageNet with ResNet-12, batch size 256, B")
    lead, _, rest = text.partition(f" By 5-way {second}-shot accuracy, ")
    assert f"% 5-way {first}-shot accuracy (3 seeds); then " in lead
    assert f"In the paper's Table 6 (miniImageNet, ResNet-12, 5-way, {first}-shot), BGN came first" in lead
    assert "came first: " in rest
    assert "averaged" not in text


def test_a_divergence_is_told_once(fewshot_runs, make_fewshot):
    (text,) = answers(section_of([*fewshot_runs, make_fewshot("gn", seed=3, status="diverged", metrics={}, items={})]))
    assert text.count("GN diverged in 1 of 4 runs and is not ranked.") == 1


def test_each_metric_has_a_figure(fewshot_runs):
    drawn = draw_section(section_of(fewshot_runs))
    assert [figure.svg.count("5-way 1-shot accuracy in %") > 0 for figure in drawn.main] == [True, False]
    assert "5-way 5-shot accuracy in %" in drawn.main[1].svg
    assert len(drawn.curves) == 1


def test_several_batch_sizes_keep_a_table_for_each_metric(fewshot_runs, make_fewshot):
    small = [dict(make_fewshot("bn", seed=seed, suffix="small"), batch_size=64) for seed in range(2)]
    section = section_of(fewshot_runs + small)
    assert [grid.metric for grid in section.grids] == ["test/accuracy_1shot", "test/accuracy_5shot"]
    assert [grid.name for grid in section.grids] == ["5-way 1-shot accuracy", "5-way 5-shot accuracy"]
    assert section.grids[0].columns == (256, 64)


def test_metrics_of_two_tables_stay_apart(make_record):
    references = [
        {"table": table, "setting": setting, "metric": metric, "record_metric": f"test/{metric}"}
        for table, setting, metric in (
            (5, {"attack": "none"}, "clean_top1"),
            (6, {"ways": 5, "shots": 1}, "accuracy"),
        )
    ]
    metrics = {f"test/{name}": {"value": 50.0, "unit": "%"} for name in ("clean_top1", "accuracy")}
    section = section_of([make_record(headline="test/clean_top1", metrics=metrics, paper=references)])
    assert [grid.metric for grid in section.grids] == ["test/clean_top1", "test/accuracy"]


def test_metrics_of_one_name_in_words_stay_apart(make_record):
    """Two columns of one name could not be told apart."""
    references = [
        {"table": 5, "setting": {"attack": "none"}, "metric": metric, "record_metric": name}
        for metric, name in (("robust_top1", "test/a_b"), ("clean_top1", "test/a/b"))
    ]
    metrics = {name: {"value": 50.0, "unit": "%"} for name in ("test/a_b", "test/a/b")}
    section = section_of([make_record(headline="test/a_b", metrics=metrics, paper=references)])
    assert [grid.metric for grid in section.grids] == ["test/a_b", "test/a/b"]


def test_two_numbers_of_one_cell_stay_apart(fewshot_runs):
    for record in fewshot_runs:
        record["paper"] = [dict(entry, setting={"ways": 5, "shots": 1}) for entry in record["paper"]]
    assert len(section_of(fewshot_runs).grids) == 2


def test_a_table_that_is_not_the_papers_does_not_stop_the_report(fewshot_runs):
    for record in fewshot_runs:
        record["paper"] = [dict(entry, table=66) for entry in record["paper"]]
    assert "table must be one of" in render_page([section_of(fewshot_runs)], ())


def test_words():
    setting = {"ways": 5, "shots": 1}
    assert measure_name("test/accuracy_1shot", setting) == "5-way 1-shot accuracy"
    assert measure_name("test/accuracy_5shot_last", {"ways": 10}) == "10-way 5-shot accuracy last"
    assert measure_name("test/accuracy_1shot", {}) == metric_name("test/accuracy_1shot") == "test 1-shot accuracy"
    assert setting_words("shots", 5) == "5-shot"
    assert setting_words("batch_size", 64) == "batch size 64"
