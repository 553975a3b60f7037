"""The HTML page: what is in it, in which order, and that it needs nothing but itself."""

import json
import statistics

import pytest

from shared.report.experiments import split_into_experiments
from shared.report.markup import STYLE
from shared.report.page import render_page
from shared.report.reading import LeftOut, read_records
from shared.report.records import parse_record
from shared.report.sections import make_sections
from shared.report.writing import write_folder, write_report


def render(records, left_out=()):
    parsed = [parse_record(json.dumps(record)) for record in records]
    return render_page(make_sections(split_into_experiments(parsed)), left_out)


def many(make_record, *, norms=("bn", "gn", "bgn", "ln"), sizes=(64, 16, 2), seeds=3, **changes):
    return [
        make_record(norm, 60.0 + index + 0.3 * seed - 8 / size, seed=seed, batch_size=size, **changes)
        for index, norm in enumerate(norms)
        for size in sizes
        for seed in range(seeds)
    ]


def test_the_table_holds_the_numbers(make_record, parse_page):
    records = many(make_record)
    page = parse_page(render(records))
    table = page.tables[0]
    assert table[0] == ["batch size", "64", "16", "2"]
    assert [row[0] for row in table[1:]] == ["BN", "LN", "GN", "BGN"]
    values = [
        record["metrics"]["test/top1"]["value"]
        for record in records
        if record["norm"] == "gn" and record["batch_size"] == 16
    ]
    expected = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (3)"
    assert table[3][2] == f"{expected} G = 32 paper 76.496"
    assert any(title.startswith("seed 0: 60.50 [59.50, 61.50]; seed 1: ") for title in page.titles)


def test_the_parts_come_in_order(make_record, parse_page):
    page = parse_page(render(many(make_record), [LeftOut("runs/x/record.json", "it is half-written")]))
    text = "\n".join(page.texts)
    headings = (
        "Which normalization layer should I train with?",
        "How to read this page",
        "Column by column",
        "test top-1 accuracy in %, by batch size",
        "Learning curves",
        "Cost",
        "Details",
        "Norm audit: what the layers computed with",
        "The command of each run (36)",
        "Left out",
        "runs/x/record.json",
        "Appendix: the paper's tables",
    )
    places = [len(page.texts) - 1 - page.texts[::-1].index(heading) for heading in headings]
    assert places == sorted(places)
    assert "make task=classification norm=bgn batch_size=16 seed=2" in text
    assert "Grey paper numbers are not comparable: CIFAR-10, not ImageNet." in text
    assert "Readings of the paper in force: running variance unbiased." in text


def test_the_appendix_has_the_seven_tables_as_printed(parse_page):
    tables = parse_page(render([])).tables
    assert len(tables) == 7
    assert tables[0][0] == ["", *(f"G = {2**power}" for power in range(9, -1, -1))]
    assert tables[1][5][5] == "74.48"
    assert tables[2][2:4] == [["IN", "–"], ["LN", "–"]]
    assert tables[4][0] == ["", "robust top1", "clean top1"]
    assert tables[5][0] == ["", "shots 1", "shots 5"]
    assert tables[6][1] == ["BN", "94.8", "77.2", "76.1", "94.2", "98.4", "99.7", "90.1"]


def test_cost_names_the_device(make_record, parse_page):
    fast = many(make_record, norms=("bn",), device="cuda (one)", images_per_second=4000.0, sizes=(64, 2))
    slow = many(make_record, norms=("gn",), device="cpu (two)", wall_time_seconds=None, sizes=(64,))
    tables = parse_page(render(fast + slow)).tables
    assert ["BN", "4,000 img/s 80 s 256 MiB", "4,000 img/s 80 s 256 MiB"] in tables[2]
    assert ["GN", "800 img/s 256 MiB"] in tables[1]


def test_several_commits_and_changes_are_warned_of(make_record, parse_page):
    records = [make_record(seed=0), make_record(seed=1), make_record(seed=2, commit="def", dirty=True)]
    text = "\n".join(parse_page(render(records)).texts)
    assert "Mind: the runs come from 2 commits: abc1234 (2 runs: BN), def+changes (1 run: BN)." in text
    assert "marks runs of a working tree with changes" in text
    assert "Mind:" not in "\n".join(parse_page(render([make_record()])).texts)


def test_a_rerun_under_another_commit_is_never_averaged_and_is_said(make_record, parse_page, write_runs, tmp_path):
    records = [make_record("bn", 50.0), make_record("bgn", 52.0, finished="2026-11-22T17:00:00+00:00")]
    records.append(make_record("bgn", 92.0, commit="bbb", suffix="new"))
    write_report(read_records(runs=write_runs(records), results=None), tmp_path / "out")
    page = parse_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert page.tables[0][2][1].startswith("92.00 (1) G = 256")
    older = f"{records[1]['run']} (commit abc1234)"
    assert f"seed 0: 92.00 [91.00, 93.00]; left out, because its seed ran again under another commit: {older}" in (
        page.titles
    )
    line = (
        "Mind: 1 run is left out, because its seed was run again under another commit, and values of different "
        f"commits are never averaged into one; the newest counts: {older}."
    )
    assert line in page.texts
    assert f"* {line}" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8").splitlines()
    assert "72.00" not in "\n".join(page.texts)
    assert "3 training runs" in "\n".join(page.texts)


def test_other_files_of_a_norm_and_other_changes_are_named(make_record, parse_page):
    own = [make_record("x:Own", seed=seed, norm_source=f"file{seed}") for seed in range(2)]
    own += [make_record("x:Own", 90.0, suffix="new", norm_source="file9", finished="2026-11-23T18:00:00+00:00")]
    dirty = [make_record("bn", seed=seed, dirty=True, source_diff=f"diff{seed}") for seed in range(2)]
    page = parse_page(render(own + dirty))
    older = f"{own[0]['run']} (commit abc1234)"
    assert {
        "Mind: 1 run is left out, because its seed was run again with another version of the norm's own file, and "
        f"values of different code are never averaged into one; the newest counts: {older}.",
        "Mind: the runs come from 2 versions of the norm's own file: file1 (1 run: Own), file9 (1 run: Own).",
        "Mind: the runs of commit abc1234+changes come from 2 states of uncommitted changes: diff0 (1 run: BN), "
        "diff1 (1 run: BN).",
    } <= set(page.texts)
    left_out = f"left out, because its seed ran again with another version of the norm's own file: {older}"
    assert any(title.endswith(left_out) for title in page.titles)
    assert "versions of the norm's own file" not in "\n".join(parse_page(render(own[:1] + dirty[:1])).texts)


def test_how_to_read_tells_what_becomes_of_several_commits(make_record, parse_page):
    text = "\n".join(parse_page(render([make_record()])).texts)
    assert (
        "Runs that differ in data, network, protocol or the rule that selects the number never share a table. Runs of "
        "different commits of the code do, also as the seeds of one mean, and a line that begins with “Mind” names "
        "the commits; but a seed of a norm that was run again under another commit counts once, by its newest commit, "
        "and the older runs are left out and named." in text
    )


def test_commits_name_their_norms(make_record, parse_page):
    records = [make_record("bn"), make_record("gn", commit="def"), make_record("bgn", commit="def")]
    text = "\n".join(parse_page(render(records)).texts)
    assert "Mind: the runs come from 2 commits: def (2 runs: GN, BGN), abc1234 (1 run: BN)." in text


def test_several_kinds_of_device_are_warned_of(make_record, parse_page):
    cuda = "cuda (NVIDIA H200)"
    records = [make_record("bn", device="cpu (A, 1 threads)"), make_record("bn", seed=1, device="cpu (B, 2 threads)")]
    assert "Mind:" not in "\n".join(parse_page(render(records)).texts)
    records += [make_record("gn", device=cuda), make_record("bn", seed=2, device=cuda)]
    text = "\n".join(parse_page(render(records)).texts)
    assert f"Mind: the runs come from 2 kinds of device: cpu (2 runs: BN), {cuda} (2 runs: BN, GN)." in text


def test_several_versions_of_torch_are_warned_of(make_record, parse_page):
    new, old = {"python": "3.12", "torch": "2.15.0"}, {"python": "3.11", "torch": "2.11.0"}
    records = [make_record("bn", versions=new), make_record("gn", versions=old), make_record("bgn", versions=old)]
    text = "\n".join(parse_page(render(records)).texts)
    assert "Mind: the runs come from 2 versions of torch: 2.11.0 (2 runs: GN, BGN), 2.15.0 (1 run: BN)." in text
    same = [make_record("bn", versions=new), make_record("gn", versions=new | {"python": "3.13"})]
    assert "Mind:" not in "\n".join(parse_page(render(same)).texts)


def test_warnings_are_in_the_markdown_too(make_record, write_runs, tmp_path):
    runs = write_runs([make_record("bn"), make_record("gn", commit="def")])
    write_report(read_records(runs=runs, results=None), tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "* Mind: the runs come from 2 commits: abc1234 (1 run: BN), def (1 run: GN)." in text


def test_the_introduction_promises_no_more_than_the_records_tell(make_record):
    text = render([make_record()])
    assert "nothing else" not in text
    assert "as far as the records tell" in text
    assert "  numbers" not in text


def test_readings_stand_once_with_the_norms_they_concern(make_record, parse_page):
    common, special = "SGD without Nesterov", "S = D/G"
    records = [make_record(norm, readings=[common]) for norm in ("bn", "in")]
    records += [make_record(norm, readings=[common, special]) for norm in ("bgn", "gbgn")]
    told = [text for text in parse_page(render(records)).texts if special in text]
    expected = f"{common}; {special} (GBGN and BGN only)"
    assert told == [f"Readings of the paper in force: {expected}.", expected]


def test_the_answer_stands_once_where_there_is_one_experiment(make_record):
    one = [make_record("bn", 60.0), make_record("gn", 61.0)]
    other = [make_record(norm, 60.0, config="paper", suffix="paper") for norm in ("bn", "gn")]
    assert [render(records).count("GN came first: 61.0") for records in (one, one + other)] == [1, 2]


def test_the_mark_of_the_highest_mean_is_explained(make_record, parse_page):
    text = render([make_record("bn", 60.0), make_record("gn", 61.0)])
    assert 'class="highest"' in text
    assert 'class="best"' not in text
    assert "Dashed frame: highest mean, not decided: the noise could turn the order round." in parse_page(text).texts


def test_data_are_written_as_people_do(make_record, parse_page):
    dataset = make_record()["dataset"] | {"note": "10,000 of 50,000 train images", "resolution": 32, "num_classes": 10}
    why = "cifar10 (10,000 of 50,000 train images), not ImageNet; resnet20, not ResNet-50"
    record = make_record(dataset=dataset, paper=[dict(make_record()["paper"][0], why=why)])
    texts = parse_page(render([record])).texts
    assert (
        "CIFAR-10: 10,000 of the 50,000 training images, 10,000 test images, 10 classes, 32 × 32 pixels, sha256:aa"
        in texts
    )
    assert (
        "Grey paper numbers are not comparable: CIFAR-10 (10,000 of the 50,000 training images), not ImageNet; "
        "ResNet-20, not ResNet-50." in texts
    )


def test_wrong_references_are_told(make_record, parse_page):
    wrong = [{"table": 12, "setting": {}, "metric": "top1", "record_metric": "test/top1"}]
    text = "\n".join(parse_page(render([make_record(paper=wrong)])).texts)
    assert "cannot be looked up: table must be one of 1, 2, 3, 4, 5, 6, 7; got 12." in text


def test_records_with_required_fields_only_make_a_page(make_record, parse_page):
    required = ("schema", "run", "status", "task", "norm", "seed", "headline", "metrics")
    small = {name: value for name, value in make_record().items() if name in required}
    table = parse_page(render([small])).tables[0]
    assert table == [["batch size", "?"], ["BN", "60.00 (1)"]]


def test_odd_optional_fields_make_a_page(make_record):
    odd = make_record(
        norm_audit={"layers": ["x", {"num_groups": None, "count": "many"}]},
        wandb="offline",
        versions=[1],
        command=None,
    )
    assert (
        "norm audit" in render([odd, make_record("gn", norm_audit=[], dataset={"name": 3, "train": "many"})]).lower()
    )


def test_no_records_say_how_to_make_one(parse_page):
    text = "\n".join(parse_page(render([])).texts)
    assert "There are no finished runs yet" in text
    assert "make task=classification norm=bgn" in text


def test_only_diverged_runs_make_a_page(make_record, parse_page):
    lost = [make_record(norm, status="diverged", metrics={}, curves={}) for norm in ("bn", "gn")]
    assert parse_page(render(lost)).tables[0][1] == ["BN", "diverged (1 of 1) paper 76.832"]


HOSTILE = "\"><script>alert(1)</script><img src=x onerror=y>&'https://evil.example/"


@pytest.mark.parametrize(
    "field", ["norm", "config", "model", "selection", "device", "commit", "command", "task", "run", "headline"]
)
def test_values_are_escaped(make_record, parse_page, field):
    record = make_record()
    record[field] = HOSTILE
    if field == "headline":
        record["metrics"] = {HOSTILE: record["metrics"]["test/top1"]}
    text = render([record, make_record("gn", **({} if field in ("norm", "run") else {field: HOSTILE}))]) if (
        field != "headline"
    ) else render([record])  # fmt: skip
    check_self_contained(text, parse_page)


def test_nested_values_are_escaped(make_record, parse_page):
    record = make_record(
        axes={HOSTILE: HOSTILE},
        protocol={HOSTILE: HOSTILE},
        readings=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        dataset={"name": HOSTILE, "note": HOSTILE, "checksum": HOSTILE, "resolution": HOSTILE},
        wandb={"mode": HOSTILE},
        curves={HOSTILE: [[1, 2]]},
        metrics={"test/top1": {"value": 1.0, "unit": HOSTILE}, HOSTILE: {"value": 2.0, "unit": HOSTILE}},
        paper=[dict(make_record()["paper"][0], why=HOSTILE)],
        norm_audit={"layers": [{"num_groups": 1, "fallback": HOSTILE}]},
    )
    text = render([record], [LeftOut(HOSTILE, HOSTILE)])
    check_self_contained(text, parse_page)
    assert "alert(1)" in text


def check_self_contained(text, parse_page):
    page = parse_page(text)
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    for forbidden in ("http://", "https://", "<script", "@import", "src="):
        assert forbidden not in text.replace("src=x onerror", "")


def test_the_page_is_self_contained_small_and_has_unique_ids(make_record, parse_page):
    records = many(
        make_record, norms=("bn", "in", "ln", "gn", "pn", "gbgn", "bgn"), sizes=(128, 64, 32, 16, 8, 4, 2), seeds=4
    )
    long = [[epoch, 50.0 + epoch / 7] for epoch in range(1, 91)]
    for index, record in enumerate(records[:200]):
        record["curves"] = {"test/top1": long, "train/loss": long}
        record["config"] = f"config{index % 12}"
    text = render(records[:200])
    assert len(text.encode()) < 1_000_000
    check_self_contained(text, parse_page)
    page = parse_page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_print_opens_what_is_folded_and_a_phone_wraps_the_first_column():
    start = STYLE.index("@media print")
    printed = " ".join(STYLE[start:].split())
    assert "details::details-content { content-visibility: visible; height: auto; }" in printed
    assert "details > :not(summary) { display: block; }" in printed
    phone = " ".join(STYLE[STYLE.index("@media (max-width: 40rem)") : start].split())
    assert "th:first-child { white-space: normal; max-width: 9rem; }" in phone


def test_equal_records_give_equal_bytes_whatever_their_order(make_record, write_runs, tmp_path):
    records = many(make_record, sizes=(64, 2))
    outputs = []
    for name, ordered in (("a", records), ("b", records[::-1])):
        found = read_records(runs=write_runs(ordered, name), results=None)
        write_report(found, tmp_path / f"out-{name}")
        files = sorted(path for path in (tmp_path / f"out-{name}").rglob("*") if path.is_file())
        outputs.append({path.relative_to(tmp_path / f"out-{name}"): path.read_bytes() for path in files})
    assert outputs[0] == outputs[1]
    assert {str(name) for name in outputs[0] if len(name.parts) == 1} == {"report.html", "results.csv", "results.md"}


def test_tables_that_are_gone_are_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "tables"
    write_folder(folder, {"old.md": "1", "kept.md": "1"})
    (folder / "own.md").write_text("mine", encoding="utf-8")
    (tmp_path / "outside.md").write_text("mine", encoding="utf-8")
    with (folder / "generated.txt").open("a", encoding="utf-8") as stream:
        stream.write("../outside.md\n")
    write_folder(folder, {"kept.md": "2", "new.md": "2"})
    assert sorted(path.name for path in folder.iterdir()) == ["generated.txt", "kept.md", "new.md", "own.md"]
    assert (folder / "kept.md").read_text(encoding="utf-8") == "2"
    assert (tmp_path / "outside.md").exists()


def test_the_reader_s_own_runs_come_first_and_are_told_from_the_published_ones(make_record):
    records = [make_record("bn", 60.0, config="a"), make_record("bn", 61.0, config="b", seed=1)]
    sections = make_sections(split_into_experiments([parse_record(json.dumps(record)) for record in records]))
    theirs = frozenset({records[0]["run"]})
    page = render_page(sections, (), published=theirs)
    assert "2 training runs (1 of yours, 1 published with the suite)" in page
    headings = [section.heading for section in sections]
    assert page.index(f">{headings[1]}<") < page.index(f">{headings[0]}<")
    for nobodys in (frozenset(), frozenset(record["run"] for record in records)):
        assert "of yours" not in render_page(sections, (), published=nobodys)
