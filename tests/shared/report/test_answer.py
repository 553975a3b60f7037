"""The sentence a newcomer reads first."""

import json

import pytest

from shared.report.answer import answers
from shared.report.experiments import split_into_experiments
from shared.report.records import parse_record
from shared.report.sections import make_sections


def answer(records):
    (section,) = make_sections(split_into_experiments(parse_record(json.dumps(record)) for record in records))
    return [text.replace("\u00a0", " ") for text in answers(section)]


def runs(make_record, values, **changes):
    return [
        make_record(norm, value, seed=seed, **changes)
        for norm, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def test_inside_seed_noise(make_record):
    """Differences 0, 1, −0.4: mean 0.2, sd 0.721, t margin 4.303 · 0.416 = 1.791.

    The records' intervals of ±1 for each number give the margin √2 of the test images; together 2.282.
    """
    (text,) = answer(
        runs(make_record, {"gn": [61.0, 61.6, 61.2], "bgn": [61.0, 60.6, 61.6], "bn": [50.0, 50.1, 50.2]})
    )
    assert text == (
        "On 10,000 CIFAR-10 images with ResNet-20, batch size 64, GN came first: 61.27 ± 0.31 % test top-1 accuracy "
        "(3 seeds); then BGN 61.07 ± 0.50 % (3 seeds); the difference of 0.20 is inside the noise "
        "(95 % interval \N{MINUS SIGN}2.08 to +2.48). Behind GN by more than the noise: BN. "
        "In the paper's Table 2 (ImageNet, ResNet-50, batch size 64), BGN came first of these norms, with 77.104 %; "
        "that is another experiment, not comparable with this one."
    )


def test_outside_seed_noise(make_record):
    """Differences 2, 1.9, 2: mean 1.967, t margin 4.303 · 0.0333 = 0.143, margin of the test images √2."""
    (text,) = answer(runs(make_record, {"gn": [62.0, 63.0, 64.0], "bn": [60.0, 61.1, 62.0]}))
    assert "the difference of 1.97 is outside the noise (95 % interval +0.55 to +3.39)." in text


def test_equal_differences_of_unknown_noise_decide_nothing(make_record):
    records = runs(make_record, {"gn": [72.50, 73.75], "bn": [71.25, 72.50]}, paper=[])
    for record in records:
        record["metrics"]["test/top1"] |= {"n": None, "ci95": None}
    (text,) = answer(records)
    assert text.endswith(
        "the difference of 1.25 is the same on every seed, which tells nothing of its noise, so this decides nothing "
        "yet: run more seeds."
    )


def test_equal_differences_on_eighty_images_are_inside_the_noise(make_record):
    records = runs(make_record, {"gn": [72.50, 73.75], "bn": [71.25, 72.50]})
    for record in records:
        record["metrics"]["test/top1"] |= {"n": 80, "ci95": None}
    (text,) = answer(records)
    assert "the difference of 1.25 is inside the noise" in text


def test_others_inside_the_noise_are_named(make_record):
    (text,) = answer(runs(make_record, {"gn": [60.0, 64.0], "bn": [63.0, 60.0], "ln": [62.0, 60.0], "in": [1.0, 1.1]}))
    assert "Also inside the noise of GN: LN." in text


def test_a_network_without_norms_is_named_in_words(make_record):
    (text,) = answer(runs(make_record, {"none": [53.55], "gn": [53.54], "bn": [50.0]}, warnings=["odd"]))
    named = "“no norm layer”"
    assert f"{named} came first: 53.55 % test top-1 accuracy (1 seed); then GN 53.54 % (1 seed)" in text
    assert f"Not decided either: {named} against BN." in text
    assert f"Runs of BN, GN and {named} give reasons to doubt" in text
    assert "none" not in text


def test_one_seed_decides_nothing(make_record):
    (text,) = answer(runs(make_record, {"gn": [61.0], "bn": [50.0]}))
    assert "one seed decides nothing, so run more seeds before you choose." in text
    assert "±" not in text


def test_shared_seeds_that_contradict_the_order_decide_nothing(make_record):
    """GN leads by the one seed that BN did not run; on the other two BN is ahead each time."""
    (text,) = answer(runs(make_record, {"gn": [50.0, 50.0, 80.0], "bn": [55.0, 55.1]}))
    assert "GN came first" in text
    assert "on the seeds that both ran the order is the other way round, so this decides nothing." in text
    assert "outside" not in text


def test_smaller_losses_come_first(make_record):
    values = {"bn": [1.0, 1.1], "gn": [2.0, 2.11]}
    records = runs(make_record, values, metric="test/loss", paper=[])
    for record in records:
        record["metrics"]["test/loss"] |= {"ci95": None, "unit": ""}
    (text,) = answer(records)
    assert "BN came first" in text
    assert "is outside the noise" in text


def test_one_norm_has_nothing_to_compare_with(make_record):
    (text,) = answer(runs(make_record, {"gn": [61.0]}))
    assert text == (
        "On 10,000 CIFAR-10 images with ResNet-20, batch size 64, only GN 61.00 % (1 seed) has been run: there is "
        "nothing to compare it with yet."
    )


def test_diverged_norms_are_named_and_not_ranked(make_record):
    records = runs(make_record, {"gn": [61.0], "bn": [50.0]})
    records += [make_record("ln", 99.0), make_record("ln", seed=1, status="diverged", metrics={})]
    (text,) = answer(records)
    assert "GN came first" in text
    assert "LN diverged in 1 of 2 runs and is not ranked." in text


def test_nothing_finished(make_record):
    (text,) = answer([make_record("ln", status="diverged", metrics={})])
    assert "no norm has a finished run yet. LN diverged in 1 of 1 run and is not ranked." in text


def test_several_columns_are_averaged_and_then_told_one_by_one(make_record):
    records = runs(make_record, {"bn": [62.0, 63.0], "gn": [60.0, 61.0]}, batch_size=64)
    records += runs(make_record, {"bn": [50.0, 51.0], "gn": [60.0, 61.5]}, batch_size=2)
    whole, large, small = answer(records)
    assert whole.startswith(
        "On 10,000 CIFAR-10 images with ResNet-20, averaged over batch sizes 64 to 2, GN came first: 60.6"
    )
    assert (
        "In the paper's Table 2 (ImageNet, ResNet-50, averaged over the same batch sizes), GN came first of these "
        "norms, with 76.21 %" in whole
    )
    assert large.startswith("At batch size 64, BN came first: 62.5")
    assert small.startswith("At batch size 2, GN came first: 60.75")


def paper_of(table, setting, metric, **more):
    return [{"table": table, "setting": setting, "metric": metric, "record_metric": "test/top1", **more}]


def test_the_papers_ties_and_divergences_are_told(make_record):
    """Table 7, aw: BN and BGN 94.2 both. Table 3: IN and LN diverged."""
    paper = paper_of(7, {"transfer": "aw"}, "accuracy", comparable=True)
    (text,) = answer([make_record(norm, 60.0, paper=paper) for norm in ("bn", "gn", "bgn")])
    assert text.endswith(
        "In the paper's Table 7 (Office-31, ResNet-50 by CAN, transfer aw), BN and BGN came first of these norms "
        "together, with 94.2 %."
    )
    paper = paper_of(3, {}, "top1", comparable=True)
    (text,) = answer([make_record(norm, 60.0, paper=paper) for norm in ("bn", "in", "ln", "gn")])
    assert text.endswith(
        "In the paper's Table 3 (CIFAR-10, DARTS), BN came first of these norms, with 97.33 %; IN and LN diverged "
        "there."
    )


def test_incomplete_norms_are_not_ranked_over_columns(make_record):
    records = runs(make_record, {"bn": [62.0], "gn": [60.0], "ln": [90.0]}, batch_size=64)
    records += runs(make_record, {"bn": [50.0], "gn": [60.0]}, batch_size=2)
    whole, *_ = answer(records)
    assert "GN came first" in whole
    assert "Not ranked, because a run is missing: LN." in whole


def test_a_run_at_another_batch_size_leaves_the_answer_as_it_is(make_record):
    values = {"bn": [62.0, 63.0], "gn": [60.0, 61.0], "ln": [50.0, 50.5]}
    records = runs(make_record, values, paper=[])
    (before,) = answer(records)
    whole, *by_column = answer([*records, make_record("bn", 30.0, batch_size=2, seed=3, paper=[])])
    assert whole == f"{before} Batch size 2 is left out of this, because only BN ran there."
    assert [text.partition(",")[0] for text in by_column] == ["At batch size 64", "At batch size 2"]


def test_columns_without_shared_seeds_are_left_out_and_said(make_record):
    records = runs(make_record, {"bn": [62.0, 63.0, 64.0], "gn": [60.0, 61.0, 62.5]}, paper=[])
    (before,) = answer(records)
    records += [make_record(norm, 30.0, batch_size=size, seed=3, paper=[]) for norm in ("bn", "gn") for size in (4, 2)]
    whole, *_ = answer(records)
    reason = "because too few norms ran there with the same seeds"
    assert whole == f"{before} Batch sizes 4 and 2 are left out of this, {reason}."


def test_one_norm_with_other_seeds_at_another_batch_size(make_record):
    whole, *_ = answer([make_record(seed=0), make_record(seed=1), make_record(batch_size=2, seed=3)])
    assert "batch size 64, only BN 60.00 ± 0.00 % (2 seeds) has been run" in whole


def test_columns_that_more_than_half_of_the_norms_have_are_kept(make_record):
    """Three of four norms ran at 64 and 16, and two of four at 2."""
    records = runs(make_record, {"bn": [62.0], "gn": [60.0], "ln": [50.0], "in": [49.0]}, paper=[])
    records += runs(make_record, {"bn": [62.0], "gn": [60.0], "ln": [50.0]}, batch_size=16, paper=[])
    records += runs(make_record, {"bn": [62.0], "gn": [60.0]}, batch_size=2, paper=[])
    whole, *_ = answer(records)
    assert "averaged over batch sizes 64 and 16, BN came first" in whole
    assert "Not ranked, because a run is missing: IN." in whole
    assert "Batch size 2 is left out of this, because only BN and GN ran there." in whole


@pytest.mark.parametrize(
    ("dataset", "start"),
    [
        ({"name": "cifar10", "train": 50000, "full": True}, "On CIFAR-10 with"),
        ({"name": "cifar10", "train": 5000, "full": False}, "On 5,000 CIFAR-10 images with"),
        ({"name": "cifar10"}, "On a part of CIFAR-10 with"),
        ({"name": "embedded", "train": 4000, "full": True}, "On 4,000 embedded images with"),
        ({}, "On a part of unknown data with"),
    ],
)
def test_the_data_are_named(make_record, dataset, start):
    (text,) = answer([make_record(dataset=dataset)])
    assert text.startswith(start)


def test_degenerate_norms_are_called_so(make_record):
    records = [make_record("bn", seed=seed) for seed in range(2)]
    records += [make_record("in", seed=seed, status="degenerate", metrics={}) for seed in range(2)]
    (text,) = answer(records)
    assert "IN was degenerate in 2 of 2 runs and is not ranked." in text
    records.append(make_record("in", seed=2, status="diverged", metrics={}))
    (text,) = answer(records)
    assert "IN diverged or was degenerate in 3 of 3 runs and is not ranked." in text


def test_equal_means_share_the_first_place(make_record):
    records = runs(make_record, {"bn": [12.5], "mine:ScaleNorm": [12.5], "gn": [10.0]}, paper=[])
    (text,) = answer(records)
    assert text == (
        "On 10,000 CIFAR-10 images with ResNet-20, batch size 64, BN and ScaleNorm share the first place: 12.50 % "
        "test top-1 accuracy (1 seed each); then GN 10.00 % (1 seed); one seed decides nothing, so run more seeds "
        "before you choose."
    )


def test_equal_means_of_several_seeds_share_the_first_place(make_record):
    records = runs(make_record, {"bn": [12.0, 13.0], "gn": [13.0, 12.0], "ln": [1.0, 1.1]}, paper=[])
    (text,) = answer(records)
    assert (
        "BN and GN share the first place: 12.50 % test top-1 accuracy (2 seeds each); then LN 1.05 ± 0.07 % (2" in text
    )
    assert "came first" not in text
    (text,) = answer(runs(make_record, {"bn": [12.5, 12.5], "gn": [12.5, 12.5]}, paper=[]))
    assert text.endswith("BN and GN share the first place: 12.50 % test top-1 accuracy (2 seeds each).")
    (text,) = answer(runs(make_record, {"bn": [12.5, 12.5], "gn": [12.5], "ln": [12.5]}, paper=[]))
    assert text.endswith(
        "BN, LN and GN share the first place: 12.50 % test top-1 accuracy (2, 1 and 1 seeds); one seed decides "
        "nothing, so run more seeds before you choose."
    )


def test_a_norm_that_cannot_be_compared_is_named(make_record):
    records = runs(make_record, {"bn": [62.0, 63.0], "gn": [60.0, 61.2], "ln": [59.0], "in": [58.0]}, paper=[])
    (text,) = answer(records)
    assert text.endswith("Not decided, for want of seeds: BN against LN and IN.")
    (text,) = answer(runs(make_record, {"bn": [62.0], "gn": [60.0], "ln": [59.0]}, paper=[]))
    assert text.endswith(
        "one seed decides nothing, so run more seeds before you choose. Not decided either: BN against LN."
    )
