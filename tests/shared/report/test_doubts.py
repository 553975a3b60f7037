"""Reasons that runs give to doubt a number: read, grouped over seeds, and shown beside the number."""

import json

import pytest

from shared.report.answer import answers
from shared.report.cautions import doubts
from shared.report.experiments import split_into_experiments
from shared.report.page import render_page
from shared.report.reading import read_records
from shared.report.records import BadRecordError, parse_record
from shared.report.sections import make_sections
from shared.report.writing import write_report

DASH = "\N{EN DASH}"
MASKED = "PGD-20 leaves {} % and the weaker PGD-4 {} %: gradients may be masked"


def parsed(records):
    return [parse_record(json.dumps(record)) for record in records]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("masked", "warnings must be of type list; got 'masked'"),
        ([1], "a warning must be a text that is not empty; got 1"),
        (["good", " "], "a warning must be a text that is not empty; got ' '"),
        ([None], "a warning must be a text that is not empty; got None"),
    ],
)
def test_warnings_that_cannot_be_used_are_named(make_record, value, reason):
    with pytest.raises(BadRecordError) as raised:
        parse_record(json.dumps(make_record(warnings=value)))
    assert str(raised.value) == reason


def test_a_warning_is_one_line(make_record):
    assert parse_record(json.dumps(make_record(warnings=["two\n  lines"]))).warnings == ("two lines",)


def test_one_run_is_named(make_record):
    record = make_record("bgn", warnings=[MASKED.format(41.2, "39.0")])
    assert doubts(parsed([record, make_record("bn")])) == [
        f"run {record['run']}: PGD-20 leaves 41.2 % and the weaker PGD-4 39.0 %: gradients may be masked"
    ]


def test_seeds_of_a_norm_are_one_line_with_ranges(make_record):
    numbers = [("41.2", "39.0"), ("9.5", "39.0"), ("100.25", "39.0")]
    records = [
        make_record("bgn", seed=seed, warnings=[MASKED.format(*pair)])
        for seed, pair in zip((2, 0, 1), numbers, strict=True)
    ]
    records += [make_record("gn", warnings=[MASKED.format(1, 2)])]
    assert sorted(doubts(parsed(records))) == [
        f"BGN (seeds 0, 1 and 2): {MASKED.format(f'9.5{DASH}100.25', '39.0')}",
        f"run {records[-1]['run']}: PGD-20 leaves 1 % and the weaker PGD-4 2 %: gradients may be masked",
    ]


def test_other_words_and_other_cells_are_lines_of_their_own(make_record):
    attacks = [make_record("bn", seed=seed, warnings=[f"PGD-{20 + seed} leaves 40 %"]) for seed in range(2)]
    assert len(doubts(parsed(attacks))) == 2
    sizes = [
        make_record("bgn", seed=seed, batch_size=size, num_groups=groups, warnings=[f"off by {seed} %"])
        for size, groups in ((64, 4), (64, 2), (2, 2))
        for seed in range(2)
    ]
    assert doubts(parsed(sizes)) == [
        f"BGN at batch size 64 with G = 4 (seeds 0 and 1): off by 0{DASH}1 %",
        f"BGN at batch size 64 with G = 2 (seeds 0 and 1): off by 0{DASH}1 %",
        f"BGN at batch size 2 with G = 2 (seeds 0 and 1): off by 0{DASH}1 %",
    ]


def test_two_warnings_of_one_run_stay_two_and_equal_ones_are_one(make_record):
    record = make_record(warnings=["at eps 4: 1 %", "at eps 8: 2 %", "at eps 8: 2 %"])
    assert doubts(parsed([record])) == [f"run {record['run']}: at eps {eps} %" for eps in ("4: 1", "8: 2")]
    other = make_record(seed=1, warnings=["at eps 4: 3 %", "at eps 8: 1 %"])
    assert doubts(parsed([record, other])) == [
        f"BN (seeds 0 and 1): at eps 4: 1{DASH}3 %",
        f"BN (seeds 0 and 1): at eps 8: 1{DASH}2 %",
    ]


def test_reruns_signs_and_thousands(make_record):
    minus = "\N{MINUS SIGN}"
    records = [
        make_record(suffix=suffix, warnings=[f"moved by {by} after {steps} steps of layer2.1x"])
        for suffix, by, steps in (("a", f"{minus}1.5", "900"), ("b", "-3", "1,200"), ("c", "+2", "10"))
    ]
    assert doubts(parsed(records)) == [
        f"BN (3 runs, seed 0): moved by -3{DASH}+2 after 10{DASH}1,200 steps of layer2.1x"
    ]


def test_doubts_stand_beside_numbers_that_are_shown_all_the_same(make_adversarial, write_runs, tmp_path, parse_page):
    records = [make_adversarial(norm, seed=seed) for norm in ("bn", "bgn") for seed in range(2)]
    for record, leaves in zip(records[2:], ("41.2", "42.0"), strict=True):
        record["warnings"] = [MASKED.format(leaves, 39)]
    (section,) = write_report(read_records(runs=write_runs(records), results=None), tmp_path)
    line = f"Mind: BGN (seeds 0 and 1): {MASKED.format(f'41.2{DASH}42.0', 39)}"
    assert f"* {line}" in (tmp_path / "results.md").read_text(encoding="utf-8").splitlines()
    page = parse_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert line in page.texts
    value = f"{sum(record['metrics']['test/robust_top1']['value'] for record in records[2:]) / 2:.2f} ± "
    assert value in page.tables[0][2][1]
    assert answers(section)[0].endswith(
        "Runs of BGN give reasons to doubt a number: see the lines that begin with “Mind”."
    )


def test_no_warnings_no_words(make_record):
    (section,) = make_sections(split_into_experiments(parsed([make_record(warnings=[])])))
    assert doubts(section.records) == []
    assert "doubt" not in answers(section)[0]


def test_a_warning_is_escaped(make_record):
    (section,) = make_sections(split_into_experiments(parsed([make_record(warnings=["<script>1</script>"])])))
    page = render_page([section], ())
    assert "<script" not in page
    assert "&lt;script&gt;1&lt;/script&gt;" in page
