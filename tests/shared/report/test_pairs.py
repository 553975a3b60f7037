"""Paired differences: which pairs, what is said of each, and where it stands."""

import csv
import io
import json

import numpy as np
import pytest

from shared.report.__main__ import main
from shared.report.aggregate import Row
from shared.report.crossed import crossed_estimate
from shared.report.experiments import split_into_experiments
from shared.report.page import render_page
from shared.report.pair_texts import MAX_TERMINAL_LINES, pair_line, pairs_csv, pairs_markdown, terminal_lines
from shared.report.pairs import chosen_pairs, gains, pair_tables
from shared.report.publish import publish
from shared.report.ranking import leader
from shared.report.records import parse_record
from shared.report.sections import make_sections
from shared.report.writing import section_files

MINUS = "\N{MINUS SIGN}"


def sections_of(records):
    return make_sections(split_into_experiments([parse_record(json.dumps(record)) for record in records]))


def lines(records, metric=0):
    (section,) = sections_of(records)
    return [pair_line(pair) for pair in pair_tables(section.grids[0])[metric].pairs]


def percentages(records, norm, metric="test/accuracy_1shot"):
    rows = [record["items"][metric]["hits"] for record in records if record["norm"] == norm]
    return np.asarray(rows, dtype=np.float64) / 75 * 100


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ("bn gn bgn", "bgn-bn gn-bn bgn-gn"),
        ("bn gn ln", "gn-bn ln-bn"),
        ("in gn bgn", "bgn-in bgn-gn"),
        ("in gn ln", "gn-in ln-in"),
        ("bn bgn", "bgn-bn"),
    ],
)
def test_each_minus_bn_and_bgn_minus_each(norms, expected):
    rows = [Row(norm, norm.upper()) for norm in norms.split()]
    assert " ".join(f"{first.norm}-{second.norm}" for first, second in chosen_pairs(rows)) == expected


def test_lines_are_the_difference_over_seeds_and_episodes(fewshot_runs):
    found = lines(fewshot_runs)
    for line, (first, second) in zip(found, (("bgn", "bn"), ("gn", "bn"), ("bgn", "gn")), strict=True):
        table = percentages(fewshot_runs, first) - percentages(fewshot_runs, second)
        estimate = crossed_estimate(table.tolist())
        sign = MINUS if table.mean() < 0 else "+"
        where = "outside" if abs(table.mean()) > estimate.margin else "inside"
        name = f"{first.upper()} {MINUS} {second.upper()}"
        number = f"{sign}{abs(table.mean()):.2f} ± {estimate.margin:.2f}"
        assert line == f"{name} = {number}, {where} noise (3 seeds, 600 episodes)"


def test_one_seed_is_over_the_episodes_only(make_fewshot):
    records = [make_fewshot("bn"), make_fewshot("bgn"), make_fewshot("gn", level=(49.0, 60.0))]
    difference = percentages(records, "gn") - percentages(records, "bn")
    margin = crossed_estimate(difference.tolist()).margin
    found = lines(records)
    assert all(line.endswith("(1 seed: ± is over the episodes only)") for line in found)
    assert found[1].startswith(f"GN {MINUS} BN = {MINUS}{-difference.mean():.2f} ± {margin:.2f}, outside the noise of")
    (section,) = sections_of(records)
    assert not leader(section.grids[0], "1-shot").decided


def test_other_episodes_are_never_paired(make_fewshot):
    records = [make_fewshot("bn", seed=seed) for seed in range(2)]
    records += [make_fewshot("gn", seed=seed, key="sha256:other") for seed in range(2)]
    records += [make_fewshot("bgn", seed=seed, key=f"sha256:{seed}") for seed in range(2)]
    assert lines(records) == [
        f"BGN {MINUS} BN: episodes not recorded, or not the same in all runs, so not compared in pairs",
        f"GN {MINUS} BN: not the same episodes, so not compared in pairs",
        f"BGN {MINUS} GN: episodes not recorded, or not the same in all runs, so not compared in pairs",
    ]
    page = render_page(sections_of(records), ())
    assert "Both norms of a pair" not in page
    assert f"GN {MINUS} BN: not the same episodes, so not compared in pairs" in page


def test_a_diverged_norm_is_not_compared(make_fewshot, fewshot_runs):
    lost = make_fewshot("gn", seed=3, status="diverged", metrics={}, items={})
    first, second, third = lines([*fewshot_runs, lost])
    assert second == f"GN {MINUS} BN: not compared, because GN diverged"
    assert third == f"BGN {MINUS} GN: not compared, because GN diverged"
    assert "(3 seeds, 600 episodes)" in first


def test_only_shared_seeds_are_compared_and_others_are_counted(make_fewshot):
    bn = [make_fewshot("bn", seed=seed, num_episodes=50) for seed in (0, 1, 2)]
    assert lines([*bn, *(make_fewshot("gn", seed=seed, num_episodes=50) for seed in (1, 2, 5))])[0].endswith(
        "(2 seeds, 50 episodes)"
    )
    assert lines([*bn, *(make_fewshot("gn", seed=seed, num_episodes=50) for seed in (7, 8))])[0].endswith(
        "(2 and 3 seeds of their own, 50 episodes)"
    )
    assert lines([*bn, make_fewshot("gn", seed=2, num_episodes=50)])[0].endswith(
        "(1 seed: ± is over the episodes only)"
    )


def test_norms_that_are_equal_on_every_episode(make_fewshot):
    twin = [make_fewshot("bn"), dict(make_fewshot("bn"), norm="gn", run="twin")]
    assert lines(twin) == [f"GN {MINUS} BN = 0.00, the same every time (1 seed, 600 episodes)"]


def test_the_verdict_of_the_page_is_the_paired_one(make_fewshot):
    """Independent errors of 600 hard episodes, ± 8 · 1.96 / √600 each, would hide a difference of 0.6."""
    records = [make_fewshot("bn", seed=seed, level=(59.0, 70.0)) for seed in range(6)]
    records += [make_fewshot("bgn", seed=seed, level=(59.8, 70.0)) for seed in range(6)]
    (section,) = sections_of(records)
    assert leader(section.grids[0], "1-shot").decided
    for record in records:
        record["items"] = {}
    (section,) = sections_of(records)
    assert not leader(section.grids[0], "1-shot").decided


def test_the_papers_difference_stands_beside_ours(fewshot_runs):
    (section,) = sections_of(fewshot_runs)
    text = pairs_markdown(section, section.grids[0])
    row = next(line for line in text.splitlines() if line.startswith(f"| BGN {MINUS} BN = "))
    assert row.endswith(" | [paper +0.20] |")
    assert f"| [paper {MINUS}2.75] |" in text
    assert "[paper …] is not comparable: ResNet-12 on 65 images a class, not 600." in text
    near = [dict(record, paper=[dict(entry, comparable=True) for entry in record["paper"]]) for record in fewshot_runs]
    (section,) = sections_of(near)
    assert " | paper +0.20 |" in pairs_markdown(section, section.grids[0])
    (section,) = sections_of([dict(record, paper=[]) for record in fewshot_runs])
    assert "paper" not in pairs_markdown(section, section.grids[0])


def test_csv_reads_back(fewshot_runs):
    (section,) = sections_of(fewshot_runs)
    found = list(csv.DictReader(io.StringIO(pairs_csv(section.grids[0]))))
    assert [(row["metric"], row["norm"], row["minus"]) for row in found] == [
        (f"test/accuracy_{shots}shot", first, second)
        for shots in (1, 5)
        for first, second in (("bgn", "bn"), ("gn", "bn"), ("bgn", "gn"))
    ]
    table = percentages(fewshot_runs, "gn") - percentages(fewshot_runs, "bn")
    assert float(found[1]["difference"]) == pytest.approx(table.mean(), abs=1e-4)
    assert float(found[1]["margin95"]) == pytest.approx(crossed_estimate(table.tolist()).margin, abs=1e-4)
    assert (found[1]["seeds"], found[1]["items"], found[1]["paper_difference"]) == ("3", "600", "-2.75")


def test_what_training_gained(fewshot_runs, make_fewshot):
    (section,) = sections_of(fewshot_runs)
    text = pairs_markdown(section, section.grids[0])
    before = [percentages(fewshot_runs, "bn", f"test/accuracy_{shots}shot_untrained") for shots in (1, 5)]
    after = [percentages(fewshot_runs, "bn", f"test/accuracy_{shots}shot") for shots in (1, 5)]
    sizes = [
        f"+{(one - other).mean():.2f} ± {crossed_estimate((one - other).tolist()).margin:.2f}"
        for one, other in zip(after, before, strict=True)
    ]
    means = " / ".join(f"{each.mean():.2f}" for each in before)
    expected = f"* BN. Untrained features: {means}; training gained {' / '.join(sizes)} (3 seeds, 600 episodes)"
    assert expected in text.splitlines()
    assert "Before and after training (1-shot / 5-shot):" in text
    (section,) = sections_of([make_fewshot("bn", untrained=False), make_fewshot("gn", untrained=False)])
    assert gains(section, section.grids[0]) == []
    assert "Untrained" not in pairs_markdown(section, section.grids[0])


def test_everything_is_on_the_page_and_in_the_files(fewshot_runs, write_runs, parse_page, tmp_path, capsys):
    expected = lines(fewshot_runs) + lines(fewshot_runs, metric=1)
    runs, results = write_runs(fewshot_runs), tmp_path / "results" / "runs"
    assert main(["--runs", str(runs), "--results", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("report.html: 9 runs in 1 experiment")
    assert printed[1].startswith(
        "Few-shot learning, config paper: On miniImageNet with ResNet-12, batch size 256, BGN"
    )
    assert printed[2] == "  Paired differences in 5-way 1-shot accuracy, in percentage points:"
    assert printed[3] == f"  {expected[0]}; [paper +0.20]"
    page = parse_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    on_page = [row[0] for table in page.tables for row in table]
    markdown = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    publish([runs], results)
    (path,) = (tmp_path / "results" / "tables").glob("*-paired.md")
    assert path.with_name(path.name.replace("-paired.md", ".md")).is_file()
    assert path.with_suffix(".csv").is_file()
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Few-shot learning, config paper: paired differences in 5-way accuracy\n\n")
    for line in expected:
        assert line in on_page
        assert f"| {line} |" in markdown
        assert f"| {line} |" in text
    assert "the interval is over seeds and episodes together" in "\n".join(page.texts)


def test_published_pairs_are_printed_only_without_runs_of_one_s_own(make_fewshot, write_runs, tmp_path, capsys):
    results = tmp_path / "results" / "runs"
    published = [make_fewshot(norm, config="a", num_episodes=20, suffix="a") for norm in ("bn", "gn")]
    publish([write_runs(published, "published")], results)
    own = write_runs([make_fewshot(norm, config="b", num_episodes=20) for norm in ("bn", "gn")], "own")

    def headings(runs):
        assert main(["--runs", str(runs), "--results", str(results)]) == 0
        return [line[:28] for line in capsys.readouterr().out.splitlines()[1:] if not line.startswith(" ")]

    assert headings(own) == ["Few-shot learning, config b:", "and 1 published experiment i"]
    assert headings(write_runs([], "empty")) == ["Few-shot learning, config a."] * 2


def test_without_items_nothing_changes(make_record, fewshot_runs):
    for records in ([make_record("bn"), make_record("bgn")], [dict(record, items={}) for record in fewshot_runs]):
        (section,) = sections_of(records)
        assert not any("-paired" in name for name in section_files(section))
        page = render_page([section], ())
        assert "Paired differences" not in page
        assert "is not made use of, so the interval is rather too wide. It is not corrected" in page
        assert terminal_lines([section]) == []


def test_items_work_over_batch_sizes_too(make_record, make_items):
    records = []
    for norm in ("bn", "gn"):
        for size in (64, 2):
            for seed in (0, 1):
                hits = [(3 * item + 5 * seed + size + len(norm) * (norm == "gn") + item * item % 7) % 11 for item in
                        range(30)]  # fmt: skip
                metrics, items = make_items("test/top1", hits, each=10 + 1, kind="images")
                records.append(make_record(norm, seed=seed, batch_size=size, metrics=metrics, items=items))
    (section,) = sections_of(records)
    text = pairs_markdown(section, section.grids[0])
    for size in (64, 2):
        assert f"| Paired differences in test top-1 accuracy, batch size {size}, in percentage points |" in text
    assert text.count("(2 seeds, 30 images)") == 2
    assert section_files(section)[f"{section.slug}-test_top1-paired.md"].endswith(text)


def test_a_long_list_is_cut_on_the_terminal(make_fewshot):
    norms = ("bn", "in", "ln", "gn", "pn", "gbgn", "bgn")
    records = [make_fewshot(norm, level=(50.0, 60.0), num_episodes=20) for norm in norms]
    found = terminal_lines(sections_of(records))
    assert len(found) == MAX_TERMINAL_LINES + 1
    assert found[-1] == "… and 1 more line in the report"
