"""Which runs may stand in one table."""

import json
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.report.experiments import count, split_into_experiments
from shared.report.records import parse_record


def parse(records):
    return [parse_record(json.dumps(record)) for record in records]


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "adversarial"},
        {"config": "paper"},
        {"model": "resnet56"},
        {"dataset": {"name": "cifar10", "train": 10000, "test": 10000, "full": False, "checksum": "sha256:bb"}},
        {"dataset": {"name": "cifar10", "train": 5000, "test": 10000, "full": False, "checksum": "sha256:aa"}},
        {"protocol": {"epochs": 11, "lr": 0.1}},
        {"protocol": {"epochs": 10, "lr": 0.2}},
        {"protocol": {"epochs": 10, "lr": 0.1, "nesterov": True}},
        {"axes": {"virtual_workers": 2}},
        {"axes": {"virtual_workers": 1, "transfer": "ad"}},
        {"selection": "last epoch"},
        {"metric": "test/top5"},
    ],
)
def test_another_setting_is_another_experiment(make_record, changes):
    experiments = split_into_experiments(parse([make_record(), make_record(suffix="other", **changes)]))
    assert [len(experiment.records) for experiment in experiments] == [1, 1]
    assert len({experiment.slug for experiment in experiments}) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"seed": 1, "commit": "fff"},
        {"device": "cuda"},
        {"num_groups": 4},
        {"readings": ["another"]},
        {"status": "diverged"},
    ],
)
def test_cell_axes_and_circumstances_are_not(make_record, changes):
    records = parse([make_record("bgn"), make_record("bgn", suffix="other", **changes)])
    assert [len(experiment.records) for experiment in split_into_experiments(records)] == [2]


def test_commits_are_counted(make_record):
    records = [make_record(seed=seed, commit="abc" if seed else "def") for seed in range(3)]
    (experiment,) = split_into_experiments(parse(records))
    assert experiment.commits == {"abc": 2, "def": 1}
    assert list(count(["b", "a", "b", "c"])) == ["b", "a", "c"]


@pytest.mark.parametrize(
    "rate",
    [lambda _: 0.1, lambda size: 0.1 * size / 64, lambda size: 0.1 * (size / 64) ** 0.5, lambda size: 6.4 / size],
    ids=["constant", "proportional", "square root", "inverse"],
)
def test_learning_rate_may_follow_the_batch_size(make_record, rate):
    records = [
        make_record(norm, batch_size=size, protocol={"epochs": 10, "lr": rate(size)})
        for norm in ("bn", "gn")
        for size in (64, 32, 2)
    ]
    (experiment,) = split_into_experiments(parse(records))
    assert len(experiment.records) == 6
    assert experiment.following.get("lr", {}) == ({} if rate(2) == 0.1 else {size: rate(size) for size in (64, 32, 2)})


REAL_PROTOCOL = {
    "epochs": 12, "milestones": "8, 11", "learning rate": 0.1, "warm-up epochs": 0, "weight decay": 1e-4,
    "momentum": 0.9, "label smoothing": 0.0, "workers": 1, "width": None, "stem": "conv3_stride2",
    "zero-init residual": False, "precision": "32-true", "augmentation": "random crop with padding 4, flip",
    "image size": 32,
}  # fmt: skip


def test_the_names_of_real_protocols_are_understood(make_record):
    """Keys as the runs write them, with spaces and dashes."""
    records = [
        make_record(batch_size=size, protocol=REAL_PROTOCOL | {"learning rate": 0.1 * size / 64})
        for size in (64, 32, 2)
    ]
    (experiment,) = split_into_experiments(parse(records))
    assert experiment.following == {"learning rate": {64: 0.1, 32: 0.05, 2: 0.003125}}
    assert "learning rate" not in experiment.protocol


@pytest.mark.parametrize("name", ["Learning Rate", "learning_rate", "learning-rate", "LR", "steps per  epoch".upper()])
def test_case_spaces_and_dashes_in_names_do_not_matter(make_record, name):
    records = [make_record(batch_size=size, protocol={name: 6.4 / size}) for size in (64, 2)]
    assert len(split_into_experiments(parse(records))) == (2 if "STEPS" in name else 1)


@pytest.mark.parametrize("name", [name for name in REAL_PROTOCOL if name != "learning rate"])
def test_other_keys_of_real_protocols_part_runs(make_record, name):
    other = REAL_PROTOCOL | {name: "another"}
    records = [make_record(protocol=REAL_PROTOCOL), make_record(batch_size=2, protocol=other)]
    assert len(split_into_experiments(parse(records))) == 2


@pytest.mark.parametrize("flag", ["trainer.gradient_clip_val", "trainer.limit_train_batches"])
def test_trainer_flags_part_runs(make_record, flag):
    records = [make_record(protocol=REAL_PROTOCOL), make_record("gn", protocol=REAL_PROTOCOL | {flag: "1"})]
    assert len(split_into_experiments(parse(records))) == 2


def test_a_second_learning_rate_stands_apart_and_the_sweep_stays_whole(make_record):
    sweep = [make_record(batch_size=size, protocol={"lr": 0.1 * size / 64}) for size in (64, 32, 16)]
    extra = make_record(batch_size=32, protocol={"lr": 0.1}, suffix="extra")
    whole, single = split_into_experiments(parse([*sweep, extra]))
    assert [record.batch_size for record in whole.records] == [16, 32, 64]
    assert single.records[0].run == extra["run"]


def test_two_layouts_of_workers_are_not_mixed(make_record):
    """Eight workers throughout, and 128 images in all however many workers: they meet at batch size 16."""
    eight = [
        make_record(batch_size=size, axes={"virtual_workers": 8}, protocol={"lr": size / 320}) for size in (32, 16, 2)
    ]
    fixed = [
        make_record(batch_size=size, axes={"virtual_workers": 128 // size}, protocol={"lr": 0.1}, suffix="fixed")
        for size in (32, 2)
    ]
    parts = split_into_experiments(parse([*eight, *fixed]))
    layouts = [{record.batch_size: record.axes["virtual_workers"] for record in part.records} for part in parts]
    assert layouts == [{16: 8, 2: 8, 32: 8}, {2: 64, 32: 4}]


setting = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(["bn", "gn", "bgn", "mine:Norm"]),
        "batch_size": st.sampled_from([2, 8, 64]),
        "seed": st.integers(0, 2),
        "epochs": st.sampled_from([1, 2]),
        "lr": st.sampled_from([0.1, 0.2, 0.0125, 0.00625]),
        "workers": st.sampled_from([1, 8]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(setting, max_size=30), st.randoms(use_true_random=False))
def test_every_run_is_in_one_experiment_and_no_column_mixes(settings_drawn, shuffler: random.Random):
    base = {"schema": 1, "status": "done", "task": "t", "headline": "m", "metrics": {"m": {"value": 1.0}}}
    records = parse(
        base
        | {key: drawn[key] for key in ("norm", "batch_size", "seed")}
        | {"run": f"run{index}", "protocol": {"epochs": drawn["epochs"], "lr": drawn["lr"]}}
        | {"axes": {"virtual_workers": drawn["workers"]}}
        for index, drawn in enumerate(settings_drawn)
    )
    experiments = split_into_experiments(records)
    assert Counter(record.run for part in experiments for record in part.records) == Counter(r.run for r in records)
    for experiment in experiments:
        by_column = defaultdict(set)
        for record in experiment.records:
            by_column[record.batch_size].add(json.dumps([record.protocol, record.axes], sort_keys=True))
        assert all(len(protocols) == 1 for protocols in by_column.values())
        assert len({record.protocol["epochs"] for record in experiment.records}) == 1
    shuffler.shuffle(records)
    assert split_into_experiments(records) == experiments


def test_experiments_come_in_the_order_of_the_papers_tables(make_record):
    later = make_record(
        task="adversarial", run="later", paper=[{"table": 5, "metric": "robust_top1", "record_metric": "m"}]
    )
    none = make_record(task="aaa", run="none", paper=[])
    tasks = [part.first.task for part in split_into_experiments(parse([none, later, make_record()]))]
    assert tasks == ["classification", "adversarial", "aaa"]


def test_slugs_are_fit_for_files(make_record):
    (experiment,) = split_into_experiments(parse([make_record(config="../é x", model="a/b")]))
    assert set(experiment.slug) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_a_seed_that_ran_under_two_commits_counts_once_by_the_newest(make_record):
    times = {"old": "2026-11-22T18:00:00+00:00", "new": "2026-11-23T01:00:00+08:00", "newest": "2026-11-22T18:00:01Z"}
    records = [
        make_record("bgn", seed=seed, commit=commit, finished=times[commit], suffix=commit)
        for seed in range(2)
        for commit in ("newest", "new", "old")
    ]
    records.append(make_record("bgn", seed=2, commit="old", finished=times["old"]))
    records.append(make_record("bgn", seed=0, commit="newest", finished=times["old"], suffix="again"))
    records.append(make_record("bgn", seed=0, commit="new", num_groups=4, finished=times["new"], suffix="groups"))
    (experiment,) = split_into_experiments(parse(records))
    kept = {(record.seed, record.num_groups): record.commit for record in experiment.records}
    assert kept == {(0, 256): "newest", (1, 256): "newest", (2, 256): "old", (0, 4): "new"}
    assert len(experiment.records) == 5
    assert sorted(record.commit for record in experiment.superseded) == ["new", "new", "old", "old"]


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"norm_source": "bbbb"}, "with another version of the norm's own file"),
        ({"source_diff": "dddd"}, "with other uncommitted changes"),
        ({"norm_source": "bbbb", "source_diff": None},
         "with another version of the norm's own file and other uncommitted changes"),
        ({"norm_source": None}, "with another version of the norm's own file"),
        ({"commit": "def", "norm_source": "bbbb"}, "under another commit"),
    ],
)  # fmt: skip
def test_reruns_with_another_file_of_the_norm_or_other_changes_are_never_averaged(make_record, changes, how):
    code = {"norm_source": "aaaa", "source_diff": "cccc", "dirty": True}
    old = make_record("x:Own", suffix="old", **code)
    again = make_record("x:Own", suffix="again", **code)
    new = make_record("x:Own", suffix="new", finished="2026-11-22T18:00:01+00:00", **(code | changes))
    (experiment,) = split_into_experiments(parse([old, again, new]))
    assert [record.run for record in experiment.records] == [new["run"]]
    assert {(record.run, record.replaced) for record in experiment.superseded} == {
        (old["run"], how), (again["run"], how)
    }  # fmt: skip
    (same,) = split_into_experiments(parse([old, again]))
    assert len(same.records) == 2


def test_a_lost_run_of_a_newer_commit_supersedes_a_number(make_record):
    old = make_record(suffix="old", commit="old", finished="2026-11-22T18:00:00+00:00")
    new = make_record(suffix="new", commit="new", finished="2026-11-23T18:00:00+00:00", status="diverged", metrics={})
    (experiment,) = split_into_experiments(parse([old, new]))
    assert [record.commit for record in experiment.records] == ["new"]


@pytest.mark.parametrize("finished", [None, "yesterday", 7, "2026-11-22T18:00:00"])
def test_runs_without_a_time_are_older_than_those_with_one(make_record, finished):
    unknown = make_record(suffix="a", commit="zzz", finished=finished)
    known = make_record(suffix="b", commit="aaa", finished="2026-11-22T18:00:00+00:01" if finished is None else
                        "2027-01-01T00:00:00+00:00")  # fmt: skip
    (experiment,) = split_into_experiments(parse([unknown, known]))
    assert [record.commit for record in experiment.records] == ["aaa"]
    (experiment,) = split_into_experiments(parse([unknown | {"run": "c", "commit": "yyy"}, unknown]))
    assert len(experiment.records) == 1
