"""Whole adversarial runs: what is tested, what the record says, divergence, resuming, two ranks, and mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from task_runs import TaskRuns, best_in_the_second_epoch, read_record, read_weights

from adversarial.attacks import is_right, pgd_survivors
from adversarial.data import AdversarialData
from adversarial.module import AdversarialModule
from adversarial.protocol import attack_key
from shared.report.records import parse_record

RUNS = TaskRuns("adversarial")
run, resume, only_run = RUNS.run, RUNS.resume, RUNS.only_run
SMOKE = RUNS.config
FLAGS = ("--trainer.max_epochs=4", "--model.ema_decay=0.8", "--model.schedule=cosine", "--seed=1")
BestInTheSecondEpoch = best_in_the_second_epoch(AdversarialModule)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    assert run(runs, *FLAGS, module=BestInTheSecondEpoch) == 0
    return only_run(runs)


def module_with(folder: Path, checkpoint: str) -> tuple[AdversarialModule, AdversarialData]:
    data = AdversarialData(train_images=100, val_images=20, test_images=40, batch_size=16, eval_batch_size=20)
    data.open()
    module = AdversarialModule(norm="bgn", batch_size=16, width=1, steps=2, ema_decay=0.8)
    module.build(data)
    module.load_state_dict(read_weights(folder, checkpoint))
    return module.eval(), data


def test_the_tested_weights_are_the_named_ones(whole_run):
    """The averaged weights of the last and of the best epoch, attacked again by hand."""
    record = read_record(whole_run)
    curve = dict(map(tuple, record["curves"]["val/robust_top1"]))
    best = int(record["metrics"]["val/best_epoch"]["value"])
    assert curve[best] == max(curve.values())
    assert best == 2, "or best and last would be the same weights, and the test would show nothing"
    for checkpoint, suffix in (("last.ckpt", ""), ("best.ckpt", "_best")):
        module, data = module_with(whole_run, checkpoint)
        network, clean, robust = module.evaluated, [], []
        assert network is not module.network
        for start in (0, 20):
            images = data.test.images[start : start + 20].float() / 255
            labels = data.test.labels[start : start + 20]
            clean += is_right(network, images, labels).tolist()
            key = attack_key("test", "robust_top1", start)
            robust += pgd_survivors(network, images, labels, attack=module.attack, seed=key).tolist()
        for name, right in (("clean_top1", clean), ("robust_top1", robust)):
            assert record["metrics"][f"test/{name}{suffix}"]["value"] == pytest.approx(100 * sum(right) / 40)
            if not suffix:
                assert record["items"][f"test/{name}"]["hits"] == [int(each) for each in right]


def test_record_says_what_was_measured(whole_run):
    record = read_record(whole_run)
    parse_record((whole_run / "record.json").read_text())
    assert record["headline"] == "test/robust_top1"
    assert record["selection"] == "last epoch"
    assert (record["model"], record["num_groups"], record["norm_audit"]["num_layers"]) == ("wrn-10-1", 64, 7)
    assert (record["dataset"]["train"], record["dataset"]["val"], record["dataset"]["test"]) == (80, 20, 40)
    assert record["metrics"]["test/pgd3_top1"]["n"] == 20
    assert record["metrics"]["test/square_top1"]["n"] == 20
    assert "test/autoattack_top1" not in record["metrics"]
    assert "test/pgd3_top1_best" not in record["metrics"], "the strong attacks are made on the reported weights only"
    assert [cell["setting"] for cell in record["paper"]] == [{"attack": "pgd4"}, {"attack": "none"}]
    points = record["profiles"]["robust_over_eps"]["points"]
    assert [x for x, _ in points] == pytest.approx([0, 255 * 0.004, 255 * 0.25])
    hits = record["items"]["test/clean_top1"]["hits"][:20]
    assert points[0][1] == pytest.approx(100 * sum(hits) / 20)


def test_held_out_images_are_training_images_that_are_not_trained_on(tmp_path):
    data = AdversarialData(train_images=100, val_images=20, test_images=40)
    data.open()
    as_rows = [
        {bytes(image.flatten().tolist()) for image in part.images} for part in (data.train, data.val, data.test)
    ]
    assert [len(rows) for rows in as_rows] == [80, 20, 40]
    assert not as_rows[0] & as_rows[1]
    assert not (as_rows[0] | as_rows[1]) & as_rows[2]
    assert torch.bincount(data.val.labels).tolist() == [2] * 10


class Dying(BestInTheSecondEpoch):
    """Crashes in the third epoch."""

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 12:
            raise KeyError("killed")
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(whole_run, tmp_path):
    """Random starts of the attacks, the weights' average and the held-out choice included."""
    with pytest.raises(KeyError):
        run(tmp_path, *FLAGS, "--checkpoint_minutes=0", module=Dying)
    folder = only_run(tmp_path)
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 12, "in mid-epoch"
    assert resume(folder, BestInTheSecondEpoch) == 0
    for name in ("last.ckpt", "best.ckpt"):
        expected = read_weights(whole_run, name)
        assert all(torch.equal(value, expected[key]) for key, value in read_weights(folder, name).items())
    ours, theirs = read_record(folder), read_record(whole_run)
    for key in ("metrics", "items", "curves", "profiles", "protocol"):
        assert ours[key] == theirs[key], key


def test_the_average_of_the_weights_is_that_of_a_loop(tmp_path):
    class Keeping(AdversarialModule):
        steps_seen: list = []  # noqa: RUF012

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            self.steps_seen.append({name: value.clone() for name, value in self.network.state_dict().items()})

    assert run(tmp_path, "--model.ema_decay=0.8", "--trainer.max_epochs=1", module=Keeping) == 0
    saved = read_weights(only_run(tmp_path), "last.ckpt")
    expected = Keeping.steps_seen[0]
    for step in Keeping.steps_seen[1:]:
        expected = {
            name: 0.8 * expected[name] + 0.2 * value if value.is_floating_point() else value
            for name, value in step.items()
        }
    expected = {name: value for name, value in expected.items() if not name.endswith("_extra_state")}
    for name, value in expected.items():
        torch.testing.assert_close(saved[f"averaged.module.{name}"], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["not finite", "no better than guessing"])
def test_a_run_that_does_not_learn_is_diverged(tmp_path, reason):
    flags = ["--trainer.max_epochs=30"]
    flags += ["--model.learning_rate=1e30", "--model.optimizer=sgd"] if reason == "not finite" else []
    flags += [] if reason == "not finite" else ["--model.learning_rate=1e-12", "--model.patience=3"]
    assert run(tmp_path, *flags) == 0
    record = read_record(only_run(tmp_path))
    assert record["status"] == "diverged"
    assert record["metrics"] == {}
    assert len(record["curves"].get("train/loss", [])) < 5, "it was stopped"


@pytest.mark.slow
def test_a_run_that_stops_learning_at_the_end_is_diverged(tmp_path):
    class Collapsing(AdversarialModule):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 2 and batch_idx == 0:
                with torch.no_grad():
                    self.network.classifier.weight.zero_()
            loss = super().training_step(batch, batch_idx)
            return loss if self.current_epoch < 2 else loss * 0 + loss.detach()

    flags = ("--trainer.max_epochs=5", "--model.patience=10", "--data.num_classes=2", "--model.eps=0.001")
    assert run(tmp_path, *flags, module=Collapsing) == 0
    record = read_record(only_run(tmp_path))
    assert record["status"] == "diverged"
    assert len(record["curves"]["train/loss"]) == 4, "found when the last epoch ends"


@pytest.mark.slow
def test_auto_attack_stands_beside_pgd(tmp_path):
    flags = ("--model.autoattack_images=2", "--data.num_classes=4", "--data.image_size=16", "--trainer.max_epochs=1")
    assert run(tmp_path, *flags, "--model.eps=0.1") == 0
    record = read_record(only_run(tmp_path))
    assert record["metrics"]["test/autoattack_top1"]["n"] == 2
    assert record["protocol"]["AutoAttack"] == "2 images"


def test_auto_attack_needs_four_classes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--model.autoattack_images=2", "--data.num_classes=2")
    assert "autoattack_images must be 0 with fewer than 4 classes" in capsys.readouterr().err


def test_readings_and_comparability_follow_the_settings(whole_run):
    record = read_record(whole_run)
    assert record["readings"][0].startswith("batches of 16, random crop with padding 4 and flip, learning rate cosine")
    why = record["paper"][0]["why"]
    for words in (
        "images a step 16, not 128",
        "embedded images",
        "network WRN-10-1, not WRN-10-2",
        "epochs 4, not 200",
    ):
        assert words in why
    assert not record["paper"][0]["comparable"]


@pytest.mark.slow
def test_two_ranks_keep_one_network(tmp_path):
    """BGN with an average of its weights, crafted with batch statistics, at a real learning rate."""
    flags = [f"--config={SMOKE}", "--wandb=off", "--report=false", "--model.norm=bgn", "--model.ema_decay=0.8"]
    flags += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8"]
    command = [sys.executable, "-m", "adversarial", *flags, "--model.attack_bn_mode=train_frozen"]
    done = subprocess.run(
        [*command, f"--run_dir={tmp_path / 'run'}"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = read_weights(tmp_path / "run", "last.ckpt")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    assert means
    assert all(bool(value.any()) for value in means), "running statistics moved, by the training step"
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 10


@pytest.mark.slow
def test_two_ranks_train_and_test(tmp_path):
    """GN in float64: the test of given weights is the same on one process and on two."""
    flags = [f"--config={SMOKE}", "--wandb=off", "--report=false", "--model.norm=gn", "--trainer.precision=64-true"]
    flags += ["--trainer.accelerator=cpu", "--model.learning_rate=1e-9", "--data.eval_batch_size=10"]
    ways = {
        "one": ["--data.batch_size=16", "--data.eval_batch_size=20"],
        "two": ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp"],
    }
    for name, extra in ways.items():
        command = [sys.executable, "-m", "adversarial", *flags, *extra, f"--run_dir={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_record(tmp_path / name) for name in ways)
    assert one["items"]["test/clean_top1"]["hits"] == two["items"]["test/clean_top1"]["hits"]
    assert one["metrics"]["test/pgd3_top1"]["n"] == two["metrics"]["test/pgd3_top1"]["n"] == 20
    assert two["metrics"]["test/robust_top1"]["n"] == 40


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "train_frozen"])
def test_other_ways_to_craft_and_bfloat16(tmp_path, mode):
    flags = (f"--model.attack_bn_mode={mode}", "--trainer.precision=bf16-mixed", "--model.reported=best")
    assert run(tmp_path, *flags) == 0
    record = read_record(only_run(tmp_path))
    assert record["protocol"]["norms while crafting"] == mode
    assert record["selection"].startswith("epoch with the best robust accuracy on 20 held-out training images")
    assert "test/robust_top1_last" in record["metrics"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--model.eps=4",
            "eps must be in (0, 1], the scale of pixels between 0 and 1; got 4. For 4/255 give 0.015686.",
        ),
        ("--model.step=2", "step must be in (0, 1]"),
        ("--data.crop_padding=40", "crop_padding must be at least 0 and below the image's 32 pixels; got 40."),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches must leave a batch"),
        ("--model.steps=0", "steps must be at least 1; got 0."),
        ("--model.strong_steps=2", "strong_steps must be above the training's 2 steps; got 2."),
        ("--model.weight_decay=-1", "weight_decay must be in [0, 1); got -1.0."),
        ("--model.patience=0", "patience must be at least 1 epoch; got 0."),
        ("--data.crop_padding=-1", "crop_padding must be at least 0 and below the image's 32 pixels; got -1."),
        ("--data.num_classes=1", "num_classes must be at least 2; got 1."),
        ("--data.num_classes=0", "num_classes must be at least 2; got 0."),
        ("--data.image_size=0", "image_size"),
        ("--trainer.precision=16-true", "trainer.precision must be 32-true, 64-true or bf16-mixed"),
        ("--trainer.precision=bf16-true", "trainer.precision must be 32-true, 64-true or bf16-mixed"),
        ("--model.curve_eps=[0.1,0.05]", "curve_eps must be increasing"),
        ("--model.strong_images=0", "strong_images must be at least 1"),
        ("--model.ema_decay=1", "ema_decay must be in [0, 1)"),
        ("--model.depth=12", "depth must be 6n + 4"),
        ("--model.attack_bn_mode=test", "attack_bn_mode"),
        ("--model.learning_rate=0", "learning_rate must be above 0"),
        ("--data.val_images=100", "val_images must be below the 100 training images; got 100."),
        ("--data.batch_size=81", "batch_size × processes must be at most the 80 training images; got 81 × 1."),
        ("--data.dataset=cifar10", "data_dir must name the folder with cifar10"),
        ("--data.train_images=105", "train_images must be a multiple of num_classes = 10; got 105."),
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


@pytest.mark.real_data
@pytest.mark.slow
def test_real_images(cifar10_dir, tmp_path):
    flags = ("--data.dataset=cifar10", f"--data.data_dir={cifar10_dir}", "--data.train_images=320")
    assert run(tmp_path, *flags) == 0
    record = read_record(only_run(tmp_path))
    assert "320 of 50,000 train images" in record["dataset"]["note"]
    assert record["status"] == "done"
