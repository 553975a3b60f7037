"""Sections of one task and config are told apart by what differs."""

import json

import pytest

from shared.report.experiments import split_into_experiments
from shared.report.page import render_page
from shared.report.records import parse_record
from shared.report.sections import make_sections

CONFIG = "Image classification, config cifar10"


def sections_of(records):
    for number, record in enumerate(records):
        record["run"] += f"-{number}"
    return make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))


def headings(records):
    return sorted(section.heading for section in sections_of(records))


def data(make_record, **changes):
    return make_record()["dataset"] | changes


def test_one_section_and_other_configs_say_nothing_more(make_record):
    assert headings([make_record(), make_record(config="paper")]) == [CONFIG, "Image classification, config paper"]


@pytest.mark.parametrize(
    ("changes", "usual", "other"),
    [
        ({"protocol": {"epochs": 99, "lr": 0.1}}, "epochs 10, not 99", "epochs 99, not 10"),
        ({"protocol": {"epochs": 10, "lr": 0.1, "mixup": 0.2}}, "no mixup", "mixup 0.2"),
        ({"protocol": {"epochs": 10, "lr": 0.1, "nesterov": True}}, "no nesterov", "nesterov yes"),
        ({"protocol": {"epochs": 10, "lr": 0.3}}, "lr 0.1, not 0.3", "lr 0.3, not 0.1"),
        ({"model": "resnet56"}, "ResNet-20, not ResNet-56", "ResNet-56, not ResNet-20"),
        ({"axes": {"virtual_workers": 8}}, "virtual workers 1, not 8", "virtual workers 8, not 1"),
        ({"selection": "last epoch"}, "number: median of the last five epochs, not last epoch",
         "number: last epoch, not median of the last five epochs"),
    ],
)  # fmt: skip
def test_what_differs_is_added(make_record, changes, usual, other):
    records = [make_record(seed=seed) for seed in range(2)] + [make_record(**changes)]
    assert headings(records) == sorted([f"{CONFIG} ({usual})", f"{CONFIG} ({other})"])


def test_data_sets_are_told_apart_by_size_or_checksum(make_record):
    sums = [f"sha256:{digit * 64}" for digit in "ab"]
    records = [make_record(dataset=data(make_record, checksum=checksum)) for checksum in sums]
    assert headings(records) == [f"{CONFIG} (data aaaaaaaa, not bbbbbbbb)", f"{CONFIG} (data bbbbbbbb, not aaaaaaaa)"]
    records = [make_record(dataset=data(make_record, checksum=sum_, train=n)) for sum_, n in zip(sums, (5, 10_000))]
    assert headings(records) == [
        f"{CONFIG} (10000 training images, not 5)", f"{CONFIG} (5 training images, not 10000)"
    ]  # fmt: skip


def test_of_three_each_says_what_parts_it_from_the_largest(make_record):
    records = [make_record(seed=seed) for seed in range(3)]
    records += [make_record(protocol={"epochs": epochs, "lr": 0.1}) for epochs in (20, 99)]
    assert headings(records) == [
        f"{CONFIG} (epochs 10)", f"{CONFIG} (epochs 20, not 10)", f"{CONFIG} (epochs 99, not 10)"
    ]  # fmt: skip
    records[-1]["dataset"]["checksum"] = "sha256:bbbbbbbbbbbb"
    records[-1]["protocol"] = make_record()["protocol"]
    assert headings(records) == [
        f"{CONFIG} (data aa, not bbbbbbbb; epochs 10, not 20)", f"{CONFIG} (data bbbbbbbb, not aa)",
        f"{CONFIG} (epochs 20, not 10)",
    ]  # fmt: skip


def test_headings_that_agree_in_all_that_is_shown_are_numbered(make_record):
    records = [make_record(dataset=data(make_record, num_classes=n, checksum=f"sha256:aaaaaaaa{n}")) for n in (1, 1)]
    records[1]["dataset"]["checksum"] = "sha256:aaaaaaaa2"
    assert headings(records) == [f"{CONFIG} (1)", f"{CONFIG} (2)"]


def test_many_differences_are_cut_short_and_stay_apart(make_record):
    many = {name: 1 for name in "abcdefgh"}
    first = headings([make_record(protocol=many), make_record(protocol={name: 2 for name in many})])
    assert first == [f"{CONFIG} (a 1, not 2; b 1, not 2; c 1, not 2 and more)",
                     f"{CONFIG} (a 2, not 1; b 2, not 1; c 2, not 1 and more)"]  # fmt: skip
    same_start = [make_record(protocol=many), make_record(protocol=dict.fromkeys(many, 2))]
    same_start += [make_record(protocol=dict.fromkeys(many, 2) | {"h": 3}), make_record(protocol=many, seed=1)]
    found = headings(same_start)
    assert len(set(found)) == 3


def test_the_page_links_them_by_their_whole_names(make_record):
    page = render_page(sections_of([make_record(), make_record(protocol={"epochs": 99, "lr": 0.1})]), [])
    assert page.count("(epochs 99, not 10)") == 2
