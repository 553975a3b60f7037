"""Ranks over tasks: Demšar's numbers, ties, which norms and tasks take part, and what is written."""

import json
import math
from collections import Counter
from itertools import permutations

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


def sign_test(wins, losses):
    """Two-sided probability of a split at least as uneven, each task a toss of a coin."""
    total = wins + losses
    return sum(math.comb(total, i) for i in range(total + 1) if abs(total - 2 * i) >= abs(wins - losses)) / 2**total


@pytest.mark.parametrize("num_tasks", range(1, 25))
@pytest.mark.parametrize("num_ties", [0, 1])
def test_two_norms_are_compared_by_the_exact_sign_test(num_tasks, num_ties):
    critical = critical_difference(2, num_tasks, num_ties=num_ties)
    untied = num_tasks - num_ties
    for wins in range(untied + 1):
        decided = sign_test(wins, untied - wins) <= 0.05
        assert (abs(2 * wins - untied) / num_tasks >= critical - 1e-12) == decided
    assert math.isinf(critical) == (untied < 6)


@pytest.mark.parametrize(("num_norms", "num_tasks"), [(3, 2), (3, 3), (3, 4), (3, 5), (3, 6), (4, 2), (4, 3), (4, 4)])
def test_of_three_norms_and_more_the_test_keeps_its_level(num_norms, num_tasks):
    """All orders of the norms in each task, counted: the range of the rank sums rarely reaches the difference."""
    orders = list(permutations(range(1, num_norms + 1)))
    sums = Counter({(0,) * num_norms: 1})
    for _ in range(num_tasks):
        following = Counter()
        for ranks, count in sums.items():
            for order in orders:
                following[tuple(map(sum, zip(ranks, order, strict=True)))] += count
        sums = following
    least = critical_difference(num_norms, num_tasks) * num_tasks
    far = sum(count for ranks, count in sums.items() if max(ranks) - min(ranks) >= least)
    assert far / len(orders) ** num_tasks <= 0.05


def test_five_tasks_decide_nothing_between_two_norms_and_six_may(make_record):
    scores = {f"task{number}": {"bn": 50.0, "bgn": 60.0} for number in range(5)}
    (five,) = rank_summaries(sections_of(make_record, scores))
    assert verdict(five).replace("\u00a0", " ") == (
        "Over 5 tasks, BGN has the best mean rank (1.00), which decides nothing: over fewer than 6 tasks no ranks of "
        "two norms differ by more than chance (exact sign test, 95 %)."
    )
    assert [len(clique) for clique in five.cliques] == [2]
    assert ",inf" not in rank_files([five])["ranks.csv"]
    (six,) = rank_summaries(sections_of(make_record, scores | {"task5": {"bn": 50.0, "bgn": 60.0}}))
    assert verdict(six).replace("\u00a0", " ") == (
        "Over 6 tasks, BGN has the best mean rank (1.00); the critical difference is 1.00 (exact sign test, 95 %), so "
        "BN is behind by more than chance."
    )
    assert six.cliques == []


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


def parsed_sections(records):
    return make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))


def raw_records(make_record, scores, *, seeds=2, **changes):
    return [
        make_record(norm, value + seed / 10, seed=seed, suffix=f"{task}{norm}{seed}", task=task, paper=[], **changes)
        for task, by_norm in scores.items()
        for norm, value in by_norm.items()
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("how", ["diverged", "degenerate"])
def test_a_norm_that_is_lost_in_a_task_comes_last_there(make_record, how):
    """GN is the best in both tasks, but one of its three runs on the second one came to no number."""
    records = raw_records(make_record, {task: {"bn": 50.0, "gn": 70.0, "bgn": 60.0} for task in ("fewshot", "nas")})
    records.append(make_record("gn", suffix="lost", task="nas", seed=5, status=how, metrics={}, paper=[]))
    (summary,) = rank_summaries(parsed_sections(records))
    assert [task.ranks for task in summary.tasks] == [{"gn": 1, "bgn": 2, "bn": 3}, {"bgn": 1, "bn": 2, "gn": 3}]
    assert summary.mean_ranks == {"gn": 2.0, "bgn": 1.5, "bn": 2.5}
    words = f"3 ({how} in 1 of 3 runs)"
    assert words in ranks_markdown([summary])
    assert f"{how} in 1 of 3 runs" in ranks_html([summary])
    assert rank_files([summary])["ranks.csv"].count(f",{how} in 1 of 3 runs,") == 1


def test_lost_norms_share_the_last_places_and_a_task_needs_a_number(make_record):
    records = raw_records(make_record, {task: {"bn": 50.0, "bgn": 60.0} for task in ("fewshot", "nas", "uda")})
    records += [
        make_record(norm, suffix=f"{task}{norm}lost", task=task, status="diverged", metrics={}, paper=[])
        for task in ("fewshot", "nas", "uda")
        for norm in ("in", "gn")
    ]
    records = [record for record in records if record["task"] != "uda" or record["status"] == "diverged"]
    (summary,) = rank_summaries(parsed_sections(records))
    assert [task.section.experiments[0].first.task for task in summary.tasks] == ["fewshot", "nas"]
    assert summary.tasks[0].ranks == {"bgn": 1, "bn": 2, "in": 3.5, "gn": 3.5}
    assert "| 3.5 (diverged) | 3.5 (diverged) |" in ranks_markdown([summary])


def test_norms_that_were_not_run_everywhere_are_named(make_record):
    text = ranks_markdown(rank_summaries(sections_of(make_record, SCORES)))
    assert "Not in this table, because they have no complete runs in each of these tasks: IN and GN." in text
    assert "Not in this table, because it has no complete runs in each of these tasks: IN." in text
    assert "each of these tasks: IN and GN." in ranks_html(rank_summaries(sections_of(make_record, SCORES)))


def test_a_run_at_another_batch_size_takes_no_norm_out_of_the_ranks(make_record):
    scores = {"classification": SCORES["classification"], "fewshot": SCORES["fewshot"]}
    records = raw_records(make_record, scores)
    records.append(make_record("bn", 99.0, batch_size=2, seed=3, suffix="extra", paper=[]))
    (summary,) = rank_summaries(parsed_sections(records))
    assert {row.label for row in summary.rows} == {"BN", "GN", "BGN"}
    assert "| Image classification, cifar10, batch size 64 |" in ranks_markdown([summary])
    assert "99" not in ranks_markdown([summary])


def test_a_task_counts_once_by_its_experiment_with_most_runs(make_record):
    few = sections_of(make_record, {"fewshot": {"bn": 1.0, "bgn": 2.0}}, config="small", model="tiny")
    records = [record for section in few for record in section.records][:3]
    records += [record for section in sections_of(make_record, SCORES) for record in section.records]
    summary = rank_summaries(make_sections(split_into_experiments(records)))[0]
    (fewshot,) = [task for task in summary.tasks if task.section.experiments[0].first.task == "fewshot"]
    assert fewshot.section.experiments[0].first.config == "cifar10"


def test_a_task_is_represented_by_the_runs_behind_its_means_and_not_by_those_present(make_record):
    """At batch sizes 8 and 2 there are 8 runs, of which 4 enter the means, with BGN ahead; at 64 there are 6."""
    records = raw_records(make_record, {"nas": {"bn": 50.0, "bgn": 40.0}})
    records += raw_records(make_record, {"fewshot": {"bn": 70.0, "bgn": 60.0}}, seeds=3)
    sizes = {"bn": {8: [0], 2: [0, 1, 2]}, "bgn": {8: [0, 3, 4], 2: [0]}}
    records += [
        make_record(norm, 10.0 + (norm == "bgn"), seed=seed, batch_size=size, suffix="small", task="fewshot", paper=[],
                    protocol={"epochs": 5})
        for norm, seeds in sizes.items() for size in seeds for seed in seeds[size]
    ]  # fmt: skip
    (summary,) = rank_summaries(parsed_sections(records))
    (fewshot,) = [task for task in summary.tasks if task.section.experiments[0].first.task == "fewshot"]
    assert fewshot.ranks == {"bn": 1, "bgn": 2}
    text = ranks_markdown([summary]).replace("\u00a0", " ")
    assert "| Few-shot learning, cifar10, batch size 64 | 1 (70.10 %, 3 seeds) | 2 (60.10 %, 3 seeds) |" in text
    assert "| Architecture search, cifar10 | 1 (50.05 %, 2 seeds) | 2 (40.05 %, 2 seeds) |" in text
    assert ",fewshot,cifar10," in rank_files([summary])["ranks.csv"]
    assert ",64,test/top1,70.1" in rank_files([summary])["ranks.csv"]


def test_experiments_of_one_task_are_told_apart_by_method_columns_or_what_else_differs(make_record):
    pair = {"bn": 2.0, "bgn": 1.0}
    records = raw_records(make_record, {"uda": pair}) + raw_records(make_record, {"nas": pair}, seeds=3)
    records += raw_records(make_record, {"fewshot": pair}, axes={"method": "can"})
    for number, changes in enumerate(({"protocol": {"epochs": 99, "lr": 0.1}}, {"config": "small"})):
        extra = raw_records(make_record, {"nas": {"bn": 0.0}}, **changes)
        records += [record | {"run": f"{record['run']}-{number}"} for record in extra]
    control = raw_records(make_record, {"fewshot": pair}, axes={"method": "source_only"})
    records += [record | {"run": f"{record['run']}-control"} for record in control]
    text = ranks_markdown(rank_summaries(parsed_sections(records)))
    assert "| Architecture search, cifar10, batch size 64, epochs 10, not 99 |" in text
    assert "| Few-shot learning, cifar10, CAN, batch size 64 |" in text
    assert "| Unsupervised domain adaptation, cifar10 |" in text


def test_runs_of_other_norms_and_of_other_groups_do_not_count(make_record):
    """The table of many norms, and that of many G, have more runs, but fewer of BN and BGN."""
    pair = {"bn": 1.0, "bgn": 2.0}
    records = raw_records(make_record, {"nas": pair})
    records += raw_records(make_record, {"fewshot": pair}, seeds=3)
    records += raw_records(make_record, {"fewshot": pair | {"in": 0.0, "ln": 0.0, "gn": 0.0}}, config="many")
    records += raw_records(make_record, {"fewshot": pair}, config="groups")
    records += [
        make_record("bgn", 1.0, seed=seed, num_groups=groups, suffix=f"g{groups}{seed}", task="fewshot", paper=[],
                    config="groups", default_num_groups=256)
        for groups in (1, 2, 4)
        for seed in range(2)
    ]  # fmt: skip
    for number, record in enumerate(records):
        record["run"] += str(number)
    (summary,) = rank_summaries(parsed_sections(records))
    assert {task.section.experiments[0].first.config for task in summary.tasks} == {"cifar10"}


def test_the_reader_s_own_runs_stand_for_a_task_before_published_ones(make_record):
    pair = {"bn": 1.0, "bgn": 2.0}
    records = raw_records(make_record, {"nas": pair, "fewshot": pair}, seeds=3)
    theirs = frozenset(record["run"] for record in records)
    own = raw_records(make_record, {"fewshot": pair}, config="mine")
    for record in own:
        record["run"] += "mine"
    (summary,) = rank_summaries(parsed_sections(records + own), published=theirs)
    assert {task.section.experiments[0].first.config for task in summary.tasks} == {"cifar10", "mine"}
    text = ranks_markdown([summary])
    assert "| Architecture search, cifar10 (published) |" in text
    assert "| Few-shot learning, mine, batch size 64 |" in text
    assert "published" not in ranks_markdown(rank_summaries(parsed_sections(records))).partition("Rank 1")[0]
    elsewhere = raw_records(make_record, {"uda": {"bn": 1.0}}, config="mine")
    (summary,) = rank_summaries(parsed_sections(records + elsewhere), published=theirs)
    assert ranks_markdown([summary]).count("(published)") == 2
    assert not summary.own


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
    text = files["ranks.md"].replace("\u00a0", " ")
    assert "| Adversarial training, cifar10 | 1 (31.05 %, 2 seeds) | 2 (30.05 %, 2 seeds) |" in text
    assert "| mean rank | 1.38 | 1.62 |" in files["ranks.md"]
    assert len(files["ranks.csv"].splitlines()) == 1 + 4 * 2 + 3 * 3
    assert "no norm can be told apart" in ranks_html(summaries)
    svg = rank_figure(summaries[1]).svg
    assert svg == rank_figure(summaries[1]).svg
    assert all(label in svg for label in ("BGN 1.17", "BN 1.83", "GN 3.00"))
