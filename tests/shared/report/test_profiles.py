"""Profiles: what is checked, the mean over seeds at each x, and where tables and figures stand."""

import csv
import io
import json
import statistics
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict

import pytest

from shared import runs
from shared.report.experiments import split_into_experiments
from shared.report.figures import profile_figure
from shared.report.page import draw_section, render_page
from shared.report.profile_tables import profile_tables
from shared.report.profile_texts import profile_csv, profile_notes, profile_rows
from shared.report.publish import publish
from shared.report.reading import read_records
from shared.report.records import BadRecordError, parse_record
from shared.report.sections import make_sections
from shared.report.writing import figure_files, section_files, write_report


def section_of(records):
    (section,) = make_sections(split_into_experiments([parse_record(json.dumps(record)) for record in records]))
    return section


def table_of(records):
    (table,) = profile_tables(section_of(records))
    return table


def three_seeds(make_record, make_profile, norm, values, **changes):
    """Runs whose value at x = 0, 4 and 8 is that of the seed, minus x."""
    return [
        make_record(norm, seed=seed, profiles={"eps": make_profile([[x, y - x] for x in (0, 4, 8)])}, **changes)
        for seed, y in enumerate(values)
    ]


def test_a_profile_as_a_task_gives_it_is_read(make_record):
    given = runs.Profile(title="accuracy over eps", x="eps", unit="%", points=[(0, 71.2), (1.5, 66)])
    record = parse_record(json.dumps(make_record(profiles={"pgd": asdict(given)})))
    profile = record.profiles["pgd"]
    assert (profile.title, profile.x, profile.unit) == ("accuracy over eps", "eps", "%")
    assert profile.points == ((0.0, 71.2), (1.5, 66.0))


@pytest.mark.parametrize("profiles", [None, {}])
def test_a_record_without_profiles_is_as_good(make_record, profiles, parse_page):
    record = make_record(profiles=profiles, warnings=None)
    assert parse_record(json.dumps(record)).profiles == {}
    assert render_page([section_of([record])], ()) == render_page([section_of([make_record()])], ())
    assert profile_tables(section_of([record])) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([1], "profiles must be of type dict; got [1]"),
        ({"p": [1, 2]}, "the profile p must be an object; got [1, 2]"),
        ({"": {}}, "a profile must have a name; got ''"),
        ({"p": {"title": 3}}, "in the profile p, title must be of type str; got 3"),
        ({"p": {"title": ""}}, "in the profile p, title must not be empty"),
        ({"p": {"x": None}}, "in the profile p, x must be of type str; got None"),
        ({"p": {"unit": 1}}, "in the profile p, unit must be of type str; got 1"),
        ({"p": {"points": "0, 1"}}, "in the profile p, points must be of type list; got '0, 1'"),
        ({"p": {"points": [[0, 1]]}}, "in the profile p, points must be two or more; got 1"),
        ({"p": {"points": [[0, 1], [1]]}}, "in the profile p, a point must be two finite numbers; got [1]"),
        ({"p": {"points": [[0, 1], [1, None]]}}, "a point must be two finite numbers; got [1, None]"),
        ({"p": {"points": [[0, 1], [1, float("nan")]]}}, "a point must be two finite numbers; got [1, nan]"),
        ({"p": {"points": [[0, 1], [float("inf"), 2]]}}, "a point must be two finite numbers; got [inf, 2]"),
        ({"p": {"points": [[0, 1], [True, 2]]}}, "a point must be two finite numbers; got [True, 2]"),
        ({"p": {"points": [[0, 1], [0, 2]]}}, "x must increase from point to point; got 0 after 0"),
        ({"p": {"points": [[0, 1], [2, 2], [1, 2]]}}, "x must increase from point to point; got 1 after 2"),
    ],
)
def test_profiles_that_cannot_be_used_are_named(make_record, make_profile, changes, reason):
    if isinstance(changes, dict):
        whole = make_profile([[0, 1], [1, 2]])
        changes = {name: whole | entry if isinstance(entry, dict) else entry for name, entry in changes.items()}
    with pytest.raises(BadRecordError) as raised:
        parse_record(json.dumps(make_record(profiles=changes)))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["title", "x", "unit", "points"])
def test_a_field_that_is_missing_is_named(make_record, make_profile, name):
    profile = make_profile([[0, 1], [1, 2]])
    del profile[name]
    with pytest.raises(BadRecordError, match=f"in the profile p, the field {name} is missing"):
        parse_record(json.dumps(make_record(profiles={"p": profile})))


def test_the_table_is_mean_and_deviation_over_seeds(make_record, make_profile):
    values = {"bn": [70.0, 71.0, 73.0], "gn": [60.0, 60.5, 62.5]}
    records = [run for norm, ys in values.items() for run in three_seeds(make_record, make_profile, norm, ys)]
    expected = [["eps × 255", "0", "4", "8"]]
    for norm, ys in values.items():
        means = [f"{statistics.fmean(ys) - x:.2f} ± {statistics.stdev(ys):.2f} (3)" for x in (0, 4, 8)]
        expected.append([norm.upper(), *means])
    assert profile_rows(table_of(records)) == expected
    assert profile_notes(table_of(records)) == []


def test_reruns_of_a_seed_count_once(make_record, make_profile):
    once = three_seeds(make_record, make_profile, "bn", [70.0, 80.0])
    again = dict(once[0], run="again", profiles={"eps": make_profile([[x, 60.0 - x] for x in (0, 4, 8)])})
    (_, bn) = profile_rows(table_of([*once, again]))
    assert bn[1] == f"72.50 ± {statistics.stdev([65.0, 80.0]):.2f} (2)"


def test_runs_of_other_points_are_left_out_and_named(make_record, make_profile, parse_page):
    records = three_seeds(make_record, make_profile, "bn", [70.0, 71.0, 73.0])
    records += three_seeds(make_record, make_profile, "gn", [60.0, 61.0])
    records[1]["profiles"] = {"eps": make_profile([[0, 0.0], [4, 0.0]])}
    records[4]["profiles"] = {"eps": make_profile([[0, 0.0], [4, 0.0], [8, 0.0]], x="steps")}
    section = section_of(records)
    (table,) = profile_tables(section)
    assert profile_rows(table)[1][1] == f"71.50 ± {statistics.stdev([70.0, 73.0]):.2f} (2)"
    assert profile_rows(table)[2][1] == "60.00 (1)"
    note = f"Left out, because measured at other points than the rest: {records[1]['run']}, {records[4]['run']}."
    assert profile_notes(table) == [note]
    assert f"PGD-20 accuracy over eps: {note}" in parse_page(render_page([section], ())).texts
    assert note in section_files(section)[f"{section.slug}-eps.md"]


def test_diverged_and_missing_runs_are_told(make_record, make_profile):
    records = three_seeds(make_record, make_profile, "bn", [70.0, 71.0, 73.0])
    records[2] |= {"status": "diverged", "metrics": {}}
    records += [make_record("gn"), make_record("in", status="diverged", metrics={})]
    table = table_of(records)
    rows = {label: texts for label, *texts in profile_rows(table)}
    assert rows["IN"] == ["diverged"] * 3
    assert rows["GN"] == ["X"] * 3
    assert rows["BN"][0] == f"70.50 ± {statistics.stdev([70.0, 71.0]):.2f} (2)"
    assert profile_notes(table) == ["BN diverged in 1 of 3 runs.", "IN diverged in 1 of 1 run."]


def test_the_csv_reads_back(make_record, make_profile):
    records = three_seeds(make_record, make_profile, "bgn", [70.0, 71.0, 73.0])
    records += [make_record("in", status="diverged", metrics={})]
    lines = list(csv.DictReader(io.StringIO(profile_csv(profile_tables(section_of(records))))))
    assert [(line["norm"], line["column"], float(line["x"])) for line in lines] == [
        ("bgn", "64", x) for x in (0.0, 4.0, 8.0)
    ]
    assert float(lines[1]["mean"]) == pytest.approx(statistics.fmean([70.0, 71.0, 73.0]) - 4)
    assert float(lines[1]["sd"]) == pytest.approx(statistics.stdev([70.0, 71.0, 73.0]))
    assert (lines[0]["seeds"], lines[0]["runs"], lines[0]["diverged"], lines[0]["unit"]) == ("0 1 2", "3", "0", "%")


def test_the_figure_has_title_axes_and_norms_of_the_records(make_record, make_profile):
    records = [run for norm in ("bn", "gn") for run in three_seeds(make_record, make_profile, norm, [70.0, 71.0])]
    figure = profile_figure(table_of(records))
    texts = {"".join(node.itertext()) for node in ElementTree.fromstring(figure.svg).iter() if "text" in node.tag}
    assert {"PGD-20 accuracy over eps", "eps × 255", "%", "BN", "GN"} <= texts
    assert figure.title == "PGD-20 accuracy over eps"
    assert figure.svg == profile_figure(table_of(records[::-1])).svg


def test_a_long_title_takes_several_lines(make_record, make_profile):
    title = " ".join(["accuracy"] * 12)
    profile = make_profile([[0, 1.0], [1, 2.0]], title=title, unit="")
    svg = profile_figure(table_of([make_record(profiles={"p": profile})])).svg
    assert title not in svg
    assert "accuracy accuracy accuracy" in svg


def test_each_batch_size_has_a_table_and_at_most_three_have_a_figure(make_record, make_profile):
    sizes = (64, 32, 16, 8, 4)
    records = [
        run for size in sizes for run in three_seeds(make_record, make_profile, "bn", [70.0, 71.0], batch_size=size)
    ]
    section = section_of(records)
    assert [table.heading for table in profile_tables(section)] == [
        f"PGD-20 accuracy over eps, batch size {size}" for size in sizes
    ]
    assert list(draw_section(section).profiles) == [f"{section.slug}-eps-{size}" for size in (64, 16, 4)]
    assert section_files(section)[f"{section.slug}-eps.md"].count("\n| BN |") == 5


def test_a_profile_never_takes_the_files_of_a_table(make_record, make_profile):
    names = ("test/top1", "1", "a/b", "a_b")
    section = section_of([make_record(profiles={name: make_profile([[0, 1.0], [1, 2.0]]) for name in names})])
    tables = [name.removeprefix(section.slug) for name in section_files(section)]
    assert len(set(tables)) == len(tables) == 11
    assert "| BN | 60.00 (1)" in section_files(section)[f"{section.slug}-test_top1.md"]
    figures = [name.removeprefix(section.slug) for name in figure_files([section])]
    assert figures == ["-1.svg", "-test_top1_profile.svg", "-1_profile.svg", "-a_b.svg", "-a_b_profile.svg"]


def test_report_and_published_files_have_the_profile(make_adversarial, write_runs, tmp_path, parse_page):
    records = [make_adversarial(norm, seed=seed) for norm in ("bn", "bgn") for seed in range(2)]
    folder = write_runs(records)
    (section,) = write_report(read_records(runs=folder, results=None), tmp_path / "out")
    clean = [record["metrics"]["test/clean_top1"]["value"] for record in records[:2]]
    row = f"| BN | {statistics.fmean(clean):.2f} ± {statistics.stdev(clean):.2f} (2) |"
    for file in ("results.md", f"tables/{section.slug}-pgd20_eps.md"):
        text = (tmp_path / "out" / file).read_text(encoding="utf-8")
        assert "| eps × 255 | 0 | 4 | 8 |" in text
        assert row in text
    page = parse_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "Over a setting of the test" in page.texts
    assert ["eps × 255", "0", "4", "8"] in [table[0] for table in page.tables]
    publish([folder], tmp_path / "results" / "runs")
    assert (tmp_path / "results" / "tables" / f"{section.slug}-pgd20_eps.csv").is_file()
    svg = (tmp_path / "results" / "figures" / f"{section.slug}-pgd20_eps.svg").read_text(encoding="utf-8")
    assert "PGD-20 accuracy over eps" in svg


def test_texts_of_a_profile_are_escaped(make_record, make_profile):
    hostile = "<script>alert(1)</script> | x"
    record = make_record(
        profiles={hostile: make_profile([[0, 1.0], [1, 2.0]], title=hostile, x=hostile, unit=hostile)}
    )
    section = section_of([record])
    assert "<script" not in render_page([section], ())
    files = section_files(section)
    assert not [name for name in files if "/" in name or "<" in name]
    assert not [name for name, text in files.items() if name.endswith(".md") and "<script" in text]
