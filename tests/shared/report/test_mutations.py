"""One record that is not what it should be, deep down, is named and left out, or shown; it never stops the report."""

import copy
import json
import os
import random

import pytest

from shared.report.details import experiment_details
from shared.report.experiments import split_into_experiments
from shared.report.reading import RecordSet, read_records
from shared.report.records import BadRecordError, parse_record
from shared.report.sections import make_sections
from shared.report.tables import runs_csv
from shared.report.writing import results_markdown, table_files, write_report

VALUES = [
    None, True, 0, -1, 3.5, 10**30, 10**400, 1e308, float("nan"), "", "x", "\ud800", [], {}, [1], ["x", None],
    {"a": [1]}, [[1, 2], [3, 4]],
]  # fmt: skip
NUM_DRAWN = 80


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def changed(record, path, value):
    result = copy.deepcopy(record)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def paths(value, start=()):
    """Every place in a record; of a list, the first two entries."""
    if start:
        yield start
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from paths(entry, (*start, key))


@pytest.fixture
def runs(make_fewshot, make_profile):
    """Records of two methods over two transfers, with all optional fields."""

    def make(transfer, method, norm):
        paper = {"table": 7, "setting": {"transfer": transfer}, "metric": "accuracy", "comparable": False,
                 "record_metric": "test/accuracy_1shot", "why": "32 px"}  # fmt: skip
        data = {"name": "office31", "train": 5, "test": 7, "full": True, "checksum": transfer, "resolution": 32}
        return make_fewshot(
            norm, num_episodes=4, task="uda", axes={"method": method, "transfer": transfer}, paper=[paper],
            protocol={"method": method, "epochs": 5, "lr": 0.1}, suffix=f"{transfer}{method}", warnings=["at eps 8"],
            dataset=data | {"num_classes": 31, "note": "36 px"}, default_num_groups=None, norm_source="ab",
            profiles={"p": make_profile([[0, 1.0], [1, 2.0]])}, source_diff=None,
        )  # fmt: skip

    return [make(t, m, n) for t in ("aw", "dw") for m in ("can", "source_only") for n in ("bn", "bgn")]


def all_texts(records):
    """What a report is made of, but for its figures."""
    sections = make_sections(split_into_experiments(records))
    texts = [*table_files(sections).values(), results_markdown(sections, RecordSet(tuple(records), ()))]
    texts += [experiment_details(experiment) for section in sections for experiment in section.experiments]
    return "".join([*texts, runs_csv(records)])


def test_any_change_of_one_record_is_named_or_shown(runs):
    drawn = random.Random(0).sample([(path, value) for path in paths(runs[0]) for value in VALUES], NUM_DRAWN)
    others = [parse_record(json.dumps(record)) for record in runs[1:]]
    num_shown = 0
    for path, value in drawn:
        try:
            record = parse_record(json.dumps(changed(runs[0], path, value)))
        except BadRecordError:
            continue
        num_shown += 1
        try:
            assert all_texts([record, *others]).encode("utf-8")
        except Exception as error:
            raise AssertionError(f"{path} = {value!r:.60} stops the report") from error
    assert 0 < num_shown < NUM_DRAWN


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("dataset", "train"), [5], "dataset.train must be a number or a text; got [5]"),
        (("dataset", "name"), {"a": 1}, "dataset.name must be a number or a text; got {'a': 1}"),
        (("paper", 0, "setting", "transfer"), ["aw"], "setting.transfer must be a number or a text; got ['aw']"),
        (("axes", "method"), ["can"], "axes.method must be of type str; got ['can']"),
        (("protocol", "method"), 7, "protocol.method must be of type str; got 7"),
        (("protocol", "epochs"), 10**400, "protocol.epochs must have at most 64 bits; got 1329"),
        (("protocol", "lr"), [10**400], "protocol.lr must have at most 64 bits; got 1329"),
        (("metrics", "test/accuracy_1shot", "n"), 10**400,
         "metrics.test/accuracy_1shot.n must have at most 64 bits; got 1329"),
        (("batch_size",), 10**400, "batch_size must have at most 64 bits; got 1329"),
        (("norm_source",), 3, "norm_source must be of type str; got 3"),
        (("axes", "transfer"), deep(60), "axes.transfer must be nested at most 40 levels deep; it is deeper"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(runs, path, value, reason):
    with pytest.raises(BadRecordError) as raised:
        parse_record(json.dumps(changed(runs[0], path, value)))
    assert str(raised.value) == reason


def test_one_bad_record_leaves_a_report_of_the_others(runs, write_runs, tmp_path):
    bad = changed(runs[0], ("dataset", "train"), {})
    odd = changed(changed(runs[1], ("command",), "make \ud800"), ("paper", 0, "setting"), None)
    folder = write_runs([bad, odd, *runs[2:]])
    unreadable = os.fsencode(folder) + b"/not-\xff-text"
    os.mkdir(unreadable)
    with open(unreadable + b"/record.json", "w", encoding="utf-8") as stream:
        stream.write("{}")
    found = read_records(runs=folder, results=None)
    assert len(found.records) == len(runs) - 1
    write_report(found, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "dataset.train must be a number or a text; got {}" in page
    assert "not-?-text" in page
    assert "make ?" in page


@pytest.mark.parametrize("setting", [None, {}])
def test_settings_that_tell_no_columns_apart_stay_apart(runs, setting):
    """One transfer of two names its cell of the paper, the other does not."""
    odd = [changed(record, ("paper", 0, "setting"), setting) if "aw" in record["run"] else record for record in runs]
    assert all_texts([parse_record(json.dumps(record)) for record in odd])


def test_a_table_that_the_paper_has_not_stops_no_section_of_several_columns(runs):
    odd = [changed(record, ("paper", 0, "table"), 12) for record in runs]
    assert "table must be one of" in all_texts([parse_record(json.dumps(record)) for record in odd])


def test_numbers_that_no_calculation_could_take_are_not_used(make_record):
    far = {"test/top1": {"value": 60.0, "ci95": [70.0, 50.0], "n": -5, "unit": "%"}}
    metric = parse_record(json.dumps(make_record(metrics=far))).metrics["test/top1"]
    assert (metric.ci95, metric.n, metric.sampling_error) == (None, None, None)
    with pytest.raises(BadRecordError, match="must be a finite number"):
        parse_record(json.dumps(make_record(metrics={"test/top1": {"value": 1e200}})))
