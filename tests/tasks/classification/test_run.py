"""Whole runs from the command line: record, resume, signals, and every mistake a user can make."""

import csv
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from task_runs import TaskRuns, read_weights

from classification.data import ClassificationData
from classification.module import ClassificationModule
from shared.cli import main
from shared.report.records import parse_record
from shared.runs import hold_run, open_run

RUNS = TaskRuns("classification", always=())
run, resume, only_run = RUNS.run, RUNS.resume, RUNS.only_run
SMOKE = RUNS.config


def rows(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "metrics.csv").open() as file:
        return sorted(tuple(row.values()) for row in csv.DictReader(file))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    assert run(runs, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1") == 0
    return only_run(runs)


def test_record_holds_what_the_report_needs(whole_run):
    record = json.loads((whole_run / "record.json").read_text())
    assert record["status"] == "done"
    assert (record["task"], record["norm"], record["num_groups"], record["batch_size"], record["seed"]) == (
        "classification",
        "bgn",
        16,
        8,
        0,
    )
    assert record["metrics"]["test/top1"]["n"] == 80
    assert record["selection"] == "median of the last 3 epochs"
    assert [epoch for epoch, _ in record["curves"]["val/top1"]] == [1, 2, 3]
    values = [value for _, value in record["curves"]["val/top1"]]
    assert record["metrics"]["test/top1"]["value"] == pytest.approx(sorted(values)[1])
    assert record["metrics"]["test/top1_last"]["value"] == pytest.approx(values[-1])
    assert record["metrics"]["test/top1_shard"]["n"] == 27
    assert record["norm_audit"]["num_layers"] == 19
    assert record["paper"][0]["table"] == 2
    assert not record["paper"][0]["comparable"]
    assert record["images_per_second"] > 0


def test_a_trainer_flag_that_changes_results_is_in_the_protocol(whole_run, tmp_path):
    assert run(tmp_path, "--trainer.gradient_clip_val=1", "--trainer.limit_train_batches=15") == 0
    protocol = json.loads((only_run(tmp_path) / "record.json").read_text())["protocol"]
    assert protocol["trainer.gradient_clip_val"] == "1"
    assert protocol["trainer.limit_train_batches"] == "15"
    assert run(tmp_path / "synchronised", "--trainer.sync_batchnorm=true", "--trainer.max_epochs=1") == 0
    cell = json.loads((only_run(tmp_path / "synchronised") / "record.json").read_text())["paper"][0]
    assert "norm statistics over all processes, not within each" in cell["why"]
    plain = json.loads((whole_run / "record.json").read_text())["protocol"]
    assert not any(name.startswith("trainer.") for name in plain)


def test_no_step_is_logged_twice(whole_run):
    keys = [(row[1], row[2]) for row in rows(whole_run)]
    assert len(keys) == len(set(keys))
    assert sum(name == "train/loss_step" for _, name in keys) == 60


def test_a_finished_run_is_not_run_again(whole_run, capsys):
    before = (whole_run / "record.json").read_bytes()
    assert (
        main(
            "classification",
            ClassificationModule,
            ClassificationData,
            [f"--config={whole_run / 'config.yaml'}", f"--resume={whole_run}"],
        )
        == 0
    )
    assert (whole_run / "record.json").read_bytes() == before
    assert "nothing to do" in capsys.readouterr().out


def stop_after(runs: Path, step: int, number: int) -> threading.Thread:
    def watch() -> None:
        while True:
            files = list(runs.glob("classification/*/metrics.csv"))
            if files and f",{step},train/loss_step" in files[0].read_text():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize(("step", "number"), [(3, signal.SIGTERM), (19, signal.SIGINT), (27, signal.SIGTERM)])
def test_a_stopped_run_resumes_bit_for_bit(whole_run, tmp_path, step, number, capsys):
    watcher = stop_after(tmp_path, step, number)
    code = run(tmp_path, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1")
    watcher.join()
    assert code == 128 + number
    folder = only_run(tmp_path)
    assert not (folder / "record.json").exists()
    assert f"make resume={folder}" in capsys.readouterr().out
    assert resume(folder) == 0
    assert_same(folder, whole_run)


def assert_same(folder: Path, whole: Path) -> None:
    expected = read_weights(whole)
    for name, value in read_weights(folder).items():
        assert torch.equal(value, expected[name]), name
    assert rows(folder) == rows(whole)
    ours, theirs = (json.loads((path / "record.json").read_text()) for path in (folder, whole))
    for key in ("metrics", "curves", "norm_audit", "dataset", "protocol"):
        assert ours[key] == theirs[key]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_over(whole_run, tmp_path):
    class DyingModule(ClassificationModule):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 5:
                raise KeyError("killed")
            return super().training_step(batch, batch_idx)

    flags = [f"--config={SMOKE}", f"--runs={tmp_path}", "--wandb=off", "--report=false", "--trainer.max_epochs=3"]
    with pytest.raises(KeyError):
        main("classification", DyingModule, ClassificationData, [*flags, "--trainer.log_every_n_steps=1"])
    folder = only_run(tmp_path)
    assert resume(folder) == 0
    assert_same(folder, whole_run)


def test_the_shard_is_every_nth_image(whole_run):
    """Against a loop over the images, with the last weights."""
    data = ClassificationData(train_images=160, test_images=80, batch_size=8)
    data.open()
    module = ClassificationModule(
        norm="bgn", batch_size=8, backbone="resnet20", width=8, stem="conv3_stride2", total_workers=1
    )
    module.build(data)
    module.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in read_weights(whole_run).items() if k.startswith("network.")}
    )
    module.eval()
    hits = []
    for index in range(80):
        pixels = (data.test.images[index].double() / 255 - 0.5) / 0.25
        with torch.no_grad():
            hits.append(int(module(pixels[None].float()).argmax()) == int(data.test.labels[index]))
    metrics = json.loads((whole_run / "record.json").read_text())["metrics"]
    assert metrics["test/top1_last"]["value"] == pytest.approx(100 * sum(hits) / 80, abs=1e-4)
    assert metrics["test/top1_shard_last"]["value"] == pytest.approx(100 * sum(hits[::3]) / 27, abs=1e-4)
    assert sum(hits[::5]) / 16 != sum(hits) / 80, "the test must be able to tell them apart"


def test_the_logged_learning_rate_is_the_one_in_use(whole_run):
    rates = {int(row[1]): float(row[3]) for row in rows(whole_run) if row[2] == "train/learning_rate"}
    assert rates == pytest.approx({step: 0.05 if step < 20 else 0.005 for step in range(60)})


@pytest.mark.slow
def test_a_resumed_run_keeps_its_settings(whole_run, tmp_path, capsys):
    copy = tmp_path / whole_run.name
    shutil.copytree(whole_run, copy)
    (copy / "record.json").unlink()
    flags = [f"--config={copy / 'config.yaml'}", f"--resume={copy}", "--model.learning_rate=9"]
    with pytest.raises(SystemExit) as stop:
        main("classification", ClassificationModule, ClassificationData, flags)
    assert stop.value.code == 2
    assert "model.learning_rate must be the resumed run's (0.05); got 9.0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_trained_by_one_process_at_a_time(whole_run, tmp_path, capsys):
    copy = tmp_path / whole_run.name
    shutil.copytree(whole_run, copy)
    (copy / "record.json").unlink()
    with hold_run(open_run(copy)), pytest.raises(SystemExit):
        main(
            "classification",
            ClassificationModule,
            ClassificationData,
            [f"--config={copy / 'config.yaml'}", f"--resume={copy}"],
        )
    assert "is being trained" in capsys.readouterr().err
    assert (copy / "checkpoints/last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("crash_at", [13, 14, 15, 16])
def test_a_run_that_accumulates_resumes_bit_for_bit(tmp_path, crash_at):
    """Between the micro-batches of a step there is no checkpoint, since gradients are in none."""

    class CrashingModule(ClassificationModule):
        def training_step(self, batch, batch_idx):
            if self.trainer.fit_loop.total_batch_idx == crash_at:
                raise KeyError("crash")
            return super().training_step(batch, batch_idx)

    flags = ["--checkpoint_minutes=0", "--model.total_workers=4", "--model.norm=bn", "--trainer.log_every_n_steps=1"]
    assert run(tmp_path / "whole", *flags) == 0
    arguments = [f"--config={SMOKE}", f"--runs={tmp_path / 'crashed'}", "--wandb=off", "--report=false", *flags]
    with pytest.raises(KeyError):
        main("classification", CrashingModule, ClassificationData, arguments)
    folder = only_run(tmp_path / "crashed")
    assert resume(folder) == 0
    assert_same(folder, only_run(tmp_path / "whole"))


@pytest.mark.slow
def test_a_run_resumes_from_any_checkpoint_within_an_epoch(whole_run, tmp_path):
    """A crash (no signal, no goodbye) after a checkpoint at every step."""

    class CrashError(Exception):
        pass

    class CrashingModule(ClassificationModule):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 33:
                raise CrashError
            return super().training_step(batch, batch_idx)

    flags = [
        f"--config={SMOKE}",
        f"--runs={tmp_path}",
        "--wandb=off",
        "--report=false",
        "--checkpoint_minutes=0",
        "--trainer.max_epochs=3",
        "--trainer.log_every_n_steps=1",
    ]
    with pytest.raises(CrashError):
        main("classification", CrashingModule, ClassificationData, flags)
    folder = only_run(tmp_path)
    assert resume(folder) == 0
    assert_same(folder, whole_run)


def test_a_diverging_run_ends_and_says_so(tmp_path, capsys):
    assert run(tmp_path, "--model.norm=none", "--model.learning_rate=1e12") == 0
    record = json.loads((only_run(tmp_path) / "record.json").read_text())
    assert record["status"] == "diverged"
    assert "epochs 2, not 120" in record["paper"][0]["why"]
    assert record["selection"] == "median of the last 2 epochs", (
        "as of runs that did not diverge, in whose table it is"
    )
    assert record["metrics"] == {}
    assert parse_record(json.dumps(record)).status == "diverged"
    out = capsys.readouterr().out
    assert "diverged: the training loss is not finite at step" in out
    assert "test/top1  diverged" in out


MISTAKES = {
    "unknown norm": (["--model.norm=bgm"], "norm must be one of", "Did you mean 'bgn'"),
    "groups for a norm without": (["--model.norm=bn", "--model.num_groups=4"], "num_groups must be left out", "got 4"),
    "more groups than values": (["--model.num_groups=100000"], "num_groups", "100000"),
    "no groups": (["--model.num_groups=0"], "num_groups", "0"),
    "norm module that is not there": (["--model.norm=no_such_module:Norm"], "can be imported", "no_such_module"),
    "outside norm that needs more": (["--model.norm=torch.nn:GroupNorm"], "norm", "torch.nn:GroupNorm"),
    "outside norm of other shapes": (["--model.norm=torch.nn:LayerNorm"], "norm must work in the network", "got:"),
    "misspelt flag": (["--model.nrom=bn"], "model.nrom", "Did you mean 'model.norm'"),
    "initials of a flag": (["--model.lr=abc"], "got 'model.lr'", "Did you mean 'model.learning_rate'"),
    "wrong type": (["--data.batch_size=two"], "batch_size", "two"),
    "unknown backbone": (["--model.backbone=resnet51"], "backbone must be one of", "resnet51"),
    "no data_dir": (["--data.dataset=cifar10"], "data_dir", "DATA_DIR"),
    "data_dir that is absent": (["--data.dataset=cifar10", "--data.data_dir=/nowhere"], "data_dir", "/nowhere"),
    "batch of zero": (["--data.batch_size=0"], "batch_size must be at least 1", "got 0"),
    "one value per statistic": (["--data.batch_size=1", "--model.num_groups=512"], "at least 2 values", "got 1"),
    "batch larger than the set": (["--data.batch_size=500"], "batch_size", "500"),
    "unknown W&B mode": (["--wandb=on"], "wandb", "on"),
    "workers that do not divide": (
        ["--model.total_workers=8", "--model.virtual_workers=3"],
        "total_workers must be a multiple",
        "got 8",
    ),
    "logger of one's own": (["--trainer.logger=true"], "trainer.logger must be left out", ""),
    "no smoke by Lightning": (
        ["--trainer.fast_dev_run=true"],
        "trainer.fast_dev_run must be left out",
        "config=smoke",
    ),
    "a part of the test images": (["--trainer.limit_val_batches=0.5"], "every test image counts", "0.5"),
    "steps instead of epochs": (["--trainer.max_steps=5"], "give trainer.max_epochs", "5"),
    "no epochs": (["--trainer.max_epochs=0"], "trainer.max_epochs must be at least 1", "got 0"),
    "never validated": (["--trainer.check_val_every_n_epoch=3"], "from 1 to the 2 epochs", "got 3"),
    "not every epoch validated": (["--trainer.check_val_every_n_epoch=2"], "must be 1", "median of the last five"),
    "no batch": (["--trainer.limit_train_batches=0"], "limit_train_batches must leave a batch", "got 0"),
    "less than a batch": (["--trainer.limit_train_batches=0.01"], "limit_train_batches must leave a batch", "0.01"),
    "a share of minus one": (["--model.shard_workers=-1"], "shard_workers must be at least 1", "got -1"),
    "a share without half of the classes": (["--model.shard_workers=4"], "no factor in common", "10 classes", "got 4"),
    "a rate below 0": (["--model.learning_rate=-1"], "learning_rate must be above 0", "got -1.0"),
    "momentum below 0": (["--model.momentum=-1"], "momentum must be in [0, 1)", "got -1.0"),
    "decay below 0": (["--model.weight_decay=-1"], "weight_decay must be in [0, 1)", "got -1.0"),
    "labels smoothed away": (["--model.label_smoothing=2"], "label_smoothing must be in [0, 1)", "got 2.0"),
    "warm-up below 0": (["--model.warmup_epochs=-1"], "warmup_epochs must be at least 0", "got -1"),
    "padding below 0": (["--data.crop_padding=-1"], "crop_padding must be at least 0 and below", "got -1"),
    "padding as wide as the image": (["--data.crop_padding=32"], "below the image's 32 pixels", "got 32"),
    "loaders below 0": (["--data.num_workers=-1"], "num_workers must be at least 0", "got -1"),
    "images without pixels": (["--data.image_size=0"], "image_size must be at least 2", "got 0"),
    "one class": (["--data.num_classes=1"], "num_classes must be at least 2", "got 1"),
    "drawn images downloaded": (["--data.download=true"], "download must be false for embedded", "got true"),
    "drawn images decoded": (["--data.in_memory=true"], "in_memory must be left out for embedded", "got true"),
    "CIFAR-10 of another size": (
        ["--data.dataset=cifar10", "--data.data_dir=/nowhere", "--data.image_size=64"],
        "image_size must be left out for cifar10",
        "got 64",
    ),
    "CIFAR-10 of a hundred classes": (
        ["--data.dataset=cifar10", "--data.data_dir=/nowhere", "--data.num_classes=100"],
        "num_classes must be left out for cifar10",
        "got 100",
    ),
    "accumulation by hand": (["--trainer.accumulate_grad_batches=2"], "follows from model.total_workers", "got 2"),
    "processes that do not fit": (["--trainer.devices=3", "--trainer.accelerator=cpu"], "total_workers", "got 1"),
    "a GPU that is not there": (
        ["--trainer.accelerator=tpu"],
        "trainer must be one that this machine can run",
        "got:",
    ),
    "runs where nothing can be": (
        ["--runs=/proc/nowhere"],
        "runs must be a folder that can be written",
        "/proc/nowhere",
    ),
    "resume of nothing": (["--resume=/nowhere"], "resume must be the folder of a run", "/nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_leaves_nothing(mistake, tmp_path, capsys):
    flags, *expected = MISTAKES[mistake]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    for text in expected:
        assert text in error
    assert not list(tmp_path.iterdir())


def test_a_misspelt_key_in_yaml_is_named(tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text(SMOKE.read_text().replace("batch_size", "batchsize", 1))
    with pytest.raises(SystemExit) as stop:
        main(
            "classification",
            ClassificationModule,
            ClassificationData,
            [f"--config={config}", f"--runs={tmp_path / 'runs'}"],
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "batchsize" in error
    assert "batch_size" in error
    assert not (tmp_path / "runs").exists()


def test_a_run_dir_that_holds_something_is_refused(tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "runs", f"--run_dir={tmp_path}")
    assert stop.value.code == 2
    assert "run_dir must be new or empty" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt"]


def test_a_checkpoint_of_another_norm_is_refused(whole_run, tmp_path, capsys):
    copy = tmp_path / whole_run.name
    shutil.copytree(whole_run, copy)
    (copy / "record.json").unlink()
    with pytest.raises(SystemExit) as stop:
        main(
            "classification",
            ClassificationModule,
            ClassificationData,
            [f"--config={copy / 'config.yaml'}", f"--resume={copy}", "--model.norm=bn"],
        )
    assert stop.value.code == 2
    assert "model.norm must be the resumed run's (bgn); got bn" in capsys.readouterr().err
