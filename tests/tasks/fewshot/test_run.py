"""Whole few-shot runs: what is tested, what the record says, resuming, two ranks, and mistakes."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from task_runs import TRANSDUCTIVE_NORM, TaskRuns, best_in_the_second_epoch, read_record, read_weights

from fewshot.data import FewshotData
from fewshot.imprinting import episode_hits
from fewshot.module import FewshotModule
from fewshot.outcome import differences_from_the_paper
from shared.catalog import load_tasks
from shared.cli import main
from shared.report.records import parse_record

RUNS = TaskRuns("fewshot")
run, resume, only_run = RUNS.run, RUNS.resume, RUNS.only_run
SMOKE = RUNS.config
FLAGS = ("--trainer.max_epochs=4", "--trainer.log_every_n_steps=1", "--model.milestones=[1]", "--seed=2")
BestInTheSecondEpoch = best_in_the_second_epoch(FewshotModule)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    assert run(runs, *FLAGS, module=BestInTheSecondEpoch) == 0
    return only_run(runs)


def smoke_data() -> FewshotData:
    data = FewshotData(
        batch_size=16, embedded_classes=[6, 5, 6], embedded_images=[20, 12, 12], queries=5, episodes=20,
        val_episodes=20, joint_images=10,
    )  # fmt: skip
    data.open()
    return data


def module_with(folder: Path, checkpoint: str, data: FewshotData) -> FewshotModule:
    module = FewshotModule(norm="bgn", widths=[8, 8, 16, 16], batch_size=16)
    module.build(data)
    module.load_state_dict(read_weights(folder, checkpoint))
    return module.eval()


@torch.no_grad()
def hits_one_by_one(module: FewshotModule, data: FewshotData, images, indices, shots: int) -> list[int]:
    """Embed each image alone, normalised by hand."""
    pixels = (images.images.double() / 255 - 0.5) / 0.25
    embeddings = torch.cat([module.network.embed(image[None].float()) for image in pixels])
    return episode_hits(embeddings, indices, shots=shots).tolist()


def test_the_tested_weights_are_those_of_the_best_epoch(whole_run):
    record, data = read_record(whole_run), smoke_data()
    curve = dict(map(tuple, record["curves"]["val/accuracy"]))
    best = int(record["metrics"]["val/best_epoch"]["value"])
    assert curve[best] == max(curve.values())
    assert best == 2, "or best and last would be the same weights, and the test would show nothing"
    for shots in (1, 5):
        for checkpoint, suffix in (("best.ckpt", ""), ("last.ckpt", "_last")):
            module = module_with(whole_run, checkpoint, data)
            expected = hits_one_by_one(module, data, data.splits.novel, data.test_episodes[shots].indices, shots)
            items = record["items"][f"test/accuracy_{shots}shot{suffix}"]
            assert items["hits"] == expected
            metric = record["metrics"][f"test/accuracy_{shots}shot{suffix}"]
            values = np.array(expected) / 25 * 100
            assert metric["value"] == pytest.approx(values.mean())
            half = 1.96 * values.std(ddof=1) / 20**0.5
            assert metric["ci95"] == pytest.approx([values.mean() - half, values.mean() + half])
            assert metric["n"] == 20


def test_validation_is_that_of_its_checkpoint(whole_run):
    record, data = read_record(whole_run), smoke_data()
    module = module_with(whole_run, "best.ckpt", data)
    hits = hits_one_by_one(module, data, data.splits.val, data.val_episodes.indices, 1)
    assert record["metrics"]["val/accuracy"]["value"] == pytest.approx(100 * sum(hits) / (20 * 25), abs=1e-4)


def test_untrained_features_are_those_of_the_initial_weights(whole_run, tmp_path):
    """Another run with the same seed has the same untrained score, one with another seed has not."""
    assert run(tmp_path / "same", "--trainer.max_epochs=1", "--model.milestones=[1]", "--seed=2") == 0
    assert run(tmp_path / "other", "--trainer.max_epochs=1", "--model.milestones=[1]", "--seed=1") == 0
    name = "test/accuracy_5shot_untrained"
    first, same, other = (
        read_record(folder)["items"][name]
        for folder in (whole_run, only_run(tmp_path / "same"), only_run(tmp_path / "other"))
    )
    assert first["hits"] == same["hits"] != other["hits"]
    assert first["key"] == other["key"], "all runs see the same episodes"


def test_scoring_the_untrained_network_leaves_no_trace(tmp_path):
    class Plain(FewshotModule):
        def _untrained_hits(self):
            return {name: torch.ones(20, dtype=torch.long) for name in ("1shot", "5shot")}

    flags = ("--trainer.max_epochs=1", "--model.milestones=[1]")
    assert run(tmp_path / "plain", *flags, module=Plain) == 0
    assert run(tmp_path / "scored", *flags) == 0
    plain, scored = (read_weights(only_run(tmp_path / name), "last.ckpt") for name in ("plain", "scored"))
    assert all(torch.equal(value, plain[name]) for name, value in scored.items())


def test_record_says_what_was_measured(whole_run):
    record = read_record(whole_run)
    parse_record((whole_run / "record.json").read_text())
    assert record["headline"] == "test/accuracy_1shot"
    assert "20 5-way 1-shot episodes of the validation classes" in record["selection"]
    assert record["norm_audit"]["num_layers"] == 16
    assert record["dataset"]["episode_sampler"] in ("learn2learn", "builtin")
    assert record["dataset"]["classes"] == [6, 5, 6]
    assert {cell["table"] for cell in record["paper"]} <= {6}
    assert record["protocol"]["widths"] == "8-8-16-16"
    joint = {name: record["metrics"][f"test/joint_5shot{name}"]["value"] for name in ("", "_novel", "_base")}
    assert joint[""] == pytest.approx((joint["_novel"] + joint["_base"]) / 2)
    assert joint["_novel"] <= record["metrics"]["test/accuracy_5shot"]["value"] + 1e-9, "more classes to mistake"
    episodes = np.load(whole_run / "episodes.npz")
    assert episodes["images_5shot"].shape == (20, 5, 10)
    assert episodes["hits_5shot_best"].tolist() == record["items"]["test/accuracy_5shot"]["hits"]


def test_the_paper_s_cells_are_named_with_the_paper_s_request(tmp_path):
    flags = (
        "--trainer.max_epochs=1",
        "--data.queries=15",
        "--data.embedded_images=[20,32,32]",
        "--data.joint_images=0",
    )
    assert run(tmp_path, *flags) == 0
    cells = read_record(only_run(tmp_path))["paper"]
    assert [cell["setting"] for cell in cells] == [{"ways": 5, "shots": 1}, {"ways": 5, "shots": 5}]
    assert not any(cell["comparable"] for cell in cells)
    assert "widths 8-8-16-16, not 64-128-256-512" in cells[0]["why"]


def test_the_learning_rate_follows_the_table(whole_run):
    rows = [line.split(",") for line in (whole_run / "metrics.csv").read_text().splitlines()]
    rates = [float(row[3]) for row in rows if row[2] == "train/learning_rate"]
    assert len(rates) == 28
    assert rates == pytest.approx([0.05] * 7 + [0.005] * 21)


class Dying(BestInTheSecondEpoch):
    """Crashes in the third epoch."""

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 17:
            raise KeyError("killed")
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(whole_run, tmp_path):
    with pytest.raises(KeyError):
        run(tmp_path, *FLAGS, module=Dying)
    folder = only_run(tmp_path)
    assert not (folder / "record.json").exists()
    assert resume(folder, BestInTheSecondEpoch) == 0
    for name in ("last.ckpt", "best.ckpt"):
        expected = read_weights(whole_run, name)
        assert all(torch.equal(value, expected[key]) for key, value in read_weights(folder, name).items())
    ours, theirs = read_record(folder), read_record(whole_run)
    for key in ("metrics", "items", "curves", "dataset", "protocol"):
        assert ours[key] == theirs[key], key


@pytest.mark.slow
def test_two_ranks_are_one_process(tmp_path):
    """Norms without batch statistics, in float64: weights and every hit are the same."""
    flags = [f"--config={SMOKE}", "--wandb=off", "--report=false", "--model.norm=gn", "--trainer.precision=64-true"]
    flags += ["--data.eval_batch_size=7", "--trainer.accelerator=cpu"]
    ways = {
        "one": ["--data.batch_size=16"],
        "two": ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp"],
    }
    for name, extra in ways.items():
        command = [sys.executable, "-m", "fewshot", *flags, *extra, f"--run_dir={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_weights(tmp_path / name, "last.ckpt") for name in ways)
    for key, value in one.items():
        if key.startswith("network."):
            torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-11)
    first, second = (read_record(tmp_path / name) for name in ways)
    assert {name: item["hits"] for name, item in first["items"].items()} == {
        name: item["hits"] for name, item in second["items"].items()
    }
    assert first["metrics"]["train/accuracy"]["value"] == pytest.approx(second["metrics"]["train/accuracy"]["value"])


@pytest.mark.slow
def test_the_code_s_epoch_runs_and_resumes(tmp_path):
    flags = (*FLAGS, "--data.iterations_per_epoch=7")
    assert run(tmp_path / "whole", *flags, module=BestInTheSecondEpoch) == 0
    with pytest.raises(KeyError):
        run(tmp_path / "killed", *flags, module=Dying)
    folder = only_run(tmp_path / "killed")
    assert resume(folder, BestInTheSecondEpoch) == 0
    assert read_record(folder)["items"] == read_record(only_run(tmp_path / "whole"))["items"]
    assert read_record(folder)["protocol"]["epoch"] == "7 iterations"


def test_a_norm_that_sees_the_other_queries_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "transductive.py").write_text(TRANSDUCTIVE_NORM)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "runs", "--model.norm=transductive:Transductive")
    assert stop.value.code == 2
    assert "norm must give an image the same embedding" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("fewshot/*"))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--data.shots=0", "shots must be at least 1; got 0."),
        ("--data.shots=[]", "shots must be one number or several; got none."),
        ("--data.shots=8", "shots + queries must be at most the 12 images of a novel class"),
        ("--data.ways=7", "ways must be at most the 6 novel classes; got 7."),
        ("--data.dataset=miniimagenet", "data_dir must name the folder with miniImageNet"),
        ("--data.download=true", "download must be false"),
        ("--data.image_size=0", "image_size must be at least 16 pixels"),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches must leave a batch"),
        ("--data.image_size=8", "image_size must be at least 16 pixels"),
        ("--data.batch_size=500", "batch_size × processes must be at most the 120 base images; got 500 × 1."),
        ("--model.widths=[1,2]", "widths must be one of tadam, metaoptnet or four numbers"),
        ("--model.milestones=[3,2]", "learning_rates must be positive and one more than milestones"),
        ("--data.joint_images=1", "joint_images must give at least ways × queries = 25 images"),
        ("--data.padding_mode=mirror", "padding_mode"),
        ("--trainer.check_val_every_n_epoch=3", "check_val_every_n_epoch must be from 1 to the 2 epochs"),
        ("--trainer.check_val_every_n_epoch=null", "check_val_every_n_epoch must be from 1 to the 2 epochs"),
        ("--trainer.val_check_interval=0.5", "trainer.val_check_interval must be left out"),
        ("--data.crop_padding=-1", "crop_padding must be at least 0 and below the image's 32 pixels; got -1."),
        ("--data.val_episodes=1", "val_episodes must be at least 2, for an interval; got 1."),
        ("--model.momentum=-1", "momentum must be in [0, 1); got -1.0."),
        ("--model.scale=0", "scale must be above 0; got 0.0."),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flag, message):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, flag)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_batch_of_one_image_trains_a_norm_without_batch_statistics(tmp_path):
    flags = ("--data.batch_size=1", "--model.norm=gn", "--trainer.max_epochs=1", "--trainer.limit_train_batches=3")
    assert run(tmp_path, *flags) == 0


@pytest.mark.parametrize(("world_size", "batch_size", "same"), [(1, 256, True), (2, 128, True), (4, 256, False)])
def test_a_step_has_the_paper_s_images_over_all_workers(world_size, batch_size, same):
    module, data = FewshotModule(batch_size=batch_size), FewshotData(batch_size=batch_size)
    data.open()
    trainer = {"max_epochs": 60, "precision": "32-true", "gradient_clip_val": None, "limit_train_batches": 1.0}
    module._trainer = SimpleNamespace(world_size=world_size, accumulate_grad_batches=1, **trainer)
    reasons = differences_from_the_paper(module, data)
    assert any(reason.startswith("images a step") for reason in reasons) is not same
    module._trainer.limit_train_batches = 1
    assert "share of the training batches 1 batch, not 1.0" in differences_from_the_paper(module, data)


def test_milestones_hold_where_steps_are_over_several_batches(tmp_path):
    """Seven batches, three a step: Lightning makes three steps an epoch, the last of them of one batch."""
    flags = ("--trainer.accumulate_grad_batches=3", "--trainer.max_epochs=4", "--model.milestones=[3]")
    assert run(tmp_path, *flags, "--model.learning_rates=[0.1,0.01]", "--trainer.log_every_n_steps=1") == 0
    rows = [line.split(",") for line in (only_run(tmp_path) / "metrics.csv").read_text().splitlines()]
    rates = [float(row[3]) for row in rows if row[2] == "train/learning_rate"]
    assert rates == pytest.approx([0.1] * 9 + [0.01] * 3)


@pytest.mark.slow
def test_bfloat16_weights(tmp_path):
    assert run(tmp_path, "--trainer.precision=bf16-true", "--trainer.max_epochs=1") == 0


def test_any_ways_and_shots(tmp_path):
    assert run(tmp_path, "--data.ways=3", "--data.shots=4", "--trainer.max_epochs=1") == 0
    record = read_record(only_run(tmp_path))
    assert record["headline"] == "test/accuracy_4shot"
    assert record["paper"] == []
    assert record["items"]["test/accuracy_4shot"]["each"] == 15


@pytest.mark.real_data
@pytest.mark.slow
def test_a_real_epoch(miniimagenet_dir, tmp_path):
    config = load_tasks()["fewshot"].configs["miniimagenet65"]
    flags = [f"--config={config}", f"--data.data_dir={miniimagenet_dir}", f"--runs={tmp_path}", "--wandb=off"]
    flags += ["--trainer.max_epochs=2", "--model.widths=[8,8,8,8]", "--report=false"]
    assert main("fewshot", FewshotModule, FewshotData, flags) == 0
    record = read_record(only_run(tmp_path))
    assert (record["dataset"]["train"], record["dataset"]["val"], record["dataset"]["test"]) == (4160, 1040, 1300)
    assert record["metrics"]["test/accuracy_5shot"]["n"] == 600
    assert record["metrics"]["test/accuracy_5shot"]["value"] > 24, "chance is 20"
    shutil.rmtree(tmp_path)
