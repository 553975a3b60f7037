"""Robust and clean accuracy side by side, as in the paper's Table 5, and their differences image by image."""

import json
import random
import statistics
import time

import pytest

from shared.report.answer import answers
from shared.report.crossed import crossed_estimate
from shared.report.experiments import split_into_experiments
from shared.report.page import draw_section, render_page
from shared.report.pair_texts import legend, pair_line
from shared.report.pairs import pair_tables
from shared.report.records import parse_record
from shared.report.sections import make_sections
from shared.report.tables import caption, table_markdown
from shared.report.wording import measure_name, setting_words
from shared.report.writing import section_files

MINUS = "\N{MINUS SIGN}"
NORMS = ("bn", "gn", "bgn")


def section_of(records):
    (section,) = make_sections(split_into_experiments([parse_record(json.dumps(record)) for record in records]))
    return section


@pytest.fixture
def runs(make_adversarial):
    done = [make_adversarial(norm, seed=seed) for norm in NORMS for seed in range(3)]
    return done + [make_adversarial("pn", seed=seed, status="diverged") for seed in range(3)]


def test_robust_and_clean_are_columns_with_the_papers_numbers(runs, parse_page):
    section = section_of(runs)
    (grid,) = section.grids
    assert grid.columns == ("robust top-1 (PGD-4)", "clean top-1")
    assert caption(grid) == "robust top-1 (PGD-4) and clean top-1 in %, batch size 128"
    bgn = [[record["metrics"][f"test/{name}_top1"]["value"] for record in runs[6:9]] for name in ("robust", "clean")]
    means = [statistics.fmean(values) for values in bgn]
    texts = [
        f"{mean:.2f} ± {statistics.stdev(values):.2f} (3) · G = 128 · paper {paper}"
        for mean, values, paper in zip(means, bgn, ("49.64", "72.94"), strict=True)
    ]
    row = next(line for line in table_markdown(grid).replace("*", "").splitlines() if line.startswith("| BGN |"))
    for text, cell, mean, paper in zip(texts, row.split("|")[2:4], means, (49.64, 72.94), strict=True):
        gap = mean - paper
        assert cell.strip() == f"{text} · Δ {MINUS if gap < 0 else '+'}{abs(gap):.2f}"
    table = parse_page(render_page([section], ())).tables[0]
    assert table[0] == ["metric", "robust top-1 (PGD-4)", "clean top-1"]
    names = [name.removeprefix(section.slug) for name in section_files(section)]
    assert names[:2] == ["-test_robust_top1_and_clean_top1.md", "-test_robust_top1_and_clean_top1.csv"]


def test_a_divergence_stands_beside_the_papers(runs, parse_page):
    section = section_of(runs)
    assert "| PN | diverged (3 of 3) · paper diverged | diverged (3 of 3) · paper diverged |" in table_markdown(
        section.grids[0]
    )
    text = answers(section)[0]
    assert text.count("PN diverged in 3 of 3 runs and is not ranked.") == 1
    assert text.count("PN diverged there.") == 2


def test_the_paper_order_holds_whatever_the_headline(runs):
    section = section_of([dict(record, headline="test/clean_top1", selection="x") for record in runs])
    assert section.grids[0].columns == ("robust top-1 (PGD-4)", "clean top-1")
    assert answers(section)[0].startswith("On CIFAR-10 with WRN-10-2, batch size 128, BGN came first: ")
    assert " By robust top-1 (PGD-4), BGN came first: " in answers(section)[0]


def test_the_papers_experiment_is_told_in_words(runs):
    text = answers(section_of(runs))[0]
    assert "In the paper's Table 5 (CIFAR-10, WRN-10-2, PGD-4), BGN came first of these norms, with 49.6" in text
    assert "In the paper's Table 5 (CIFAR-10, WRN-10-2, no attack), BGN came first of these norms, with 72.9" in text


def test_each_metric_has_a_figure_and_the_profile_one(runs):
    drawn = draw_section(section_of(runs))
    assert ["robust top-1 (PGD-4) in %" in figure.svg for figure in drawn.main] == [True, False]
    assert "clean top-1 in %" in drawn.main[1].svg
    assert [figure.title for figure in drawn.profiles.values()] == ["PGD-20 accuracy over eps"]


def test_several_batch_sizes_keep_a_table_for_each_metric(runs, make_adversarial):
    small = dict(make_adversarial("bn", suffix="small"), batch_size=64)
    names = [grid.name for grid in section_of([*runs, small]).grids]
    assert names == ["robust top-1 (PGD-4)", "clean top-1"]


def test_all_metrics_have_names_in_words(runs, parse_page):
    headers = [table[0] for table in parse_page(render_page([section_of(runs)], ())).tables]
    assert [
        "norm", "batch size", "G", "AutoAttack top-1", "clean top-1", "PGD-20 top-1", "robust top-1 (PGD-4)",
        "robust top-1 (PGD-4) last", "Square top-1",
    ] in headers  # fmt: skip


def test_differences_are_over_seeds_and_images(runs):
    tables = pair_tables(section_of(runs).grids[0])
    assert [table.grid.metric for table in tables] == ["test/robust_top1", "test/clean_top1"]
    for table in tables:
        hits = {
            norm: [
                [100 * hit for hit in run["items"][table.grid.metric]["hits"]] for run in runs if run["norm"] == norm
            ]
            for norm in NORMS
        }
        rows = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(hits["gn"], hits["bn"], strict=True)]
        expected = crossed_estimate(rows)
        line = next(pair_line(pair) for pair in table.pairs if pair.first.norm == "gn")
        verdict = "outside" if abs(expected.mean) > expected.margin else "inside"
        size = f"{MINUS if expected.mean < 0 else '+'}{abs(expected.mean):.2f} ± {expected.margin:.2f}"
        assert line == f"GN {MINUS} BN = {size}, {verdict} noise (3 seeds, 400 images)"
        assert f"PN {MINUS} BN: not compared, because PN diverged" in map(pair_line, table.pairs)
    assert legend(tables).startswith("Both norms of a pair were tested on the same images. ± is half of the 95")
    assert "over seeds and images; outside noise" in legend(tables)


def test_ten_thousand_images_of_three_seeds_are_compared_fast():
    """A pair takes about 20 ms; the bound leaves room for a busy machine, as the best of three attempts."""
    chance = random.Random(0)
    table = [[chance.choice((-100.0, 0.0, 0.0, 100.0)) for _ in range(10_000)] for _ in range(3)]
    took = []
    for _ in range(3):
        start = time.perf_counter()
        crossed_estimate(table)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.5


def test_words():
    assert measure_name("test/robust_top1", {"attack": "pgd4"}) == "robust top-1 (PGD-4)"
    assert measure_name("test/robust_top1_best", {"attack": "pgd4"}) == "robust top-1 (PGD-4) best"
    assert measure_name("val/robust_top1", {"attack": "\\1"}) == "val robust top-1 (\\1)"
    assert measure_name("test/clean_top1", {"attack": "none"}) == "clean top-1"
    assert (setting_words("attack", "pgd4"), setting_words("attack", "none")) == ("PGD-4", "no attack")
