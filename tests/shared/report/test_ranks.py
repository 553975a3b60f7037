"""Ranks over tasks: Demšar's numbers, ties, which norms and tasks take part, and what is written."""

import json
import math

import pytest

from shared.report.experiments import split_into_experiments
from shared.report.rank_texts import rank_figure, rank_files, ranks_html, ranks_markdown, verdict
from shared.report.ranks import critical_difference, range_quantile, rank_summaries, ranks_of
from shared.report.records import parse_record
from shared.report.sections import make_sections

NEMENYI = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
"""Demšar 2006, Table 5(a), alpha = 0.05."""
SCORES = {
    "classification": {"bn": 60.0, "gn": 50.0, "bgn": 61.0, "in": 40.0},
    "adversarial": {"bn": 30.0, "gn": 20.0, "bgn": 31.0},
    "fewshot": {"bn": 40.0, "gn": 30.0, "bgn": 40.0},
    "nas": {"bn": 90.0, "bgn": 89.0},
}


def sections_of(make_record, scores, **changes):
    records = [
        make_record(norm, value + seed / 10, seed=seed, suffix=f"{task}{norm}{seed}", task=task, paper=[], **changes)
        for task, by_norm in scores.items()
        for norm, value in by_norm.items()
        for seed in range(2)
    ]
    return make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))


@pytest.mark.parametrize("k", NEMENYI)
def test_the_quantile_is_the_published_one(k):
    assert range_quantile(k) / math.sqrt(2) == pytest.approx(NEMENYI[k], abs=1.1e-3)


def test_the_critical_difference_is_demsar_s_example():
    """Demšar 2006, section 3.2.2: four classifiers on 14 data sets, CD = 1.25."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_equal_values_share_their_ranks():
    assert ranks_of({"a": 3.0, "b": 5.0, "c": 3.0, "d": 1.0}, direction=1.0) == {"b": 1, "a": 2.5, "c": 2.5, "d": 4}
    assert ranks_of({"a": 3.0, "b": 5.0}, direction=-1.0) == {"a": 1, "b": 2}


def test_each_number_of_tasks_has_its_largest_set_of_norms(make_record):
    summaries = rank_summaries(sections_of(make_record, SCORES))
    assert [(len(each.tasks), {row.label for row in each.rows}) for each in summaries] == [
        (4, {"BN", "BGN"}),
        (3, {"BN", "GN", "BGN"}),
    ]
    first, second = summaries
    assert first.mean_ranks == {"bn": (2 + 2 + 1.5 + 1) / 4, "bgn": (1 + 1 + 1.5 + 2) / 4}
    assert [row.norm for row in second.rows] == ["bgn", "bn", "gn"]
    assert second.mean_ranks["gn"] == 3


def test_one_task_is_no_summary(make_record):
    assert rank_summaries(sections_of(make_record, {"fewshot": SCORES["fewshot"]})) == []
    assert ranks_html([]) == ranks_markdown([]) == ""
    assert rank_files([]) == {}


def test_a_norm_that_diverged_somewhere_has_no_rank_there(make_record):
    sections = sections_of(make_record, {"fewshot": SCORES["fewshot"], "nas": SCORES["nas"]})
    lost = make_record("bn", suffix="lost", task="nas", seed=5, status="diverged", metrics={}, paper=[])
    records = [record for section in sections for record in section.records] + [parse_record(json.dumps(lost))]
    assert rank_summaries(make_sections(split_into_experiments(records))) == []


def test_a_task_counts_once_by_its_experiment_with_most_runs(make_record):
    few = sections_of(make_record, {"fewshot": {"bn": 1.0, "bgn": 2.0}}, config="small", model="tiny")
    records = [record for section in few for record in section.records][:3]
    records += [record for section in sections_of(make_record, SCORES) for record in section.records]
    summary = rank_summaries(make_sections(split_into_experiments(records)))[0]
    (fewshot,) = [task for task in summary.tasks if task.section.experiments[0].first.task == "fewshot"]
    assert fewshot.section.experiments[0].first.config == "cifar10"


def test_controls_take_no_part(make_record):
    scores = {"classification": SCORES["classification"], "uda": {"bn": 60.0, "bgn": 50.0}}
    assert len(rank_summaries(sections_of(make_record, scores, axes={"method": "can"}))) == 1
    assert rank_summaries(sections_of(make_record, scores, axes={"method": "source_only"})) == []


def test_norms_within_the_critical_difference_are_joined(make_record):
    tasks = {f"task{number:02d}": {"bn": 60.0, "gn": 20.0, "bgn": 60.0 + (-1) ** number} for number in range(12)}
    (summary,) = rank_summaries(sections_of(make_record, tasks))
    assert summary.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 12)), abs=1e-3)
    assert [[row.label for row in clique] for clique in summary.cliques] == [["BGN", "BN"]]
    assert "GN is behind by more than chance" in verdict(summary)
    assert "BGN and BN share the best mean rank (1.50)" in verdict(summary)


def test_what_is_written_has_the_numbers(make_record):
    summaries = rank_summaries(sections_of(make_record, SCORES))
    files = rank_files(summaries)
    assert "| Adversarial training, cifar10 | 1 (31.05 %) | 2 (30.05 %) |" in files["ranks.md"].replace("\u00a0", " ")
    assert "| mean rank | 1.38 | 1.62 |" in files["ranks.md"]
    assert len(files["ranks.csv"].splitlines()) == 1 + 4 * 2 + 3 * 3
    assert "no norm can be told apart" in ranks_html(summaries)
    svg = rank_figure(summaries[1]).svg
    assert svg == rank_figure(summaries[1]).svg
    assert all(label in svg for label in ("BGN 1.17", "BN 1.83", "GN 3.00"))
