"""The classification data: subsets, real images, and folders that are not what they should be."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from classification.data import ClassificationData
from classification.module import ClassificationModule
from shared.catalog import load_tasks
from shared.cli import main

SMOKE = load_tasks()["classification"].configs["smoke"]


def make_folder(root: Path, *, size: int = 24, classes: tuple[str, ...] = ("ant", "bee"), images: int = 8) -> Path:
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                pixels = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def flags(folder: Path, runs: Path, *more: str) -> list[str]:
    mine = [f"--data.data_dir={folder}", "--data.dataset=imagefolder", "--data.image_size=16", "--data.num_workers=0"]
    sizes = [
        "--data.train_images=null",
        "--data.test_images=null",
        "--data.batch_size=4",
        "--trainer.log_every_n_steps=1",
    ]
    return [f"--config={SMOKE}", f"--runs={runs}", "--wandb=off", "--report=false", *mine, *sizes, *more]


def error_of(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main("classification", ClassificationModule, ClassificationData, arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_a_folder_of_images_trains(tmp_path, in_memory):
    arguments = flags(make_folder(tmp_path / "images"), tmp_path / "runs", f"--data.in_memory={in_memory}")
    assert main("classification", ClassificationModule, ClassificationData, arguments) == 0


def test_worker_processes_change_nothing(tmp_path):
    folder = make_folder(tmp_path / "images")
    states = []
    for workers in (0, 2):
        runs = tmp_path / f"runs{workers}"
        command = [sys.executable, "-m", "classification", *flags(folder, runs, f"--data.num_workers={workers}")]
        subprocess.run(command, check=True, capture_output=True)
        states.append(torch.load(next(runs.rglob("last.ckpt")), weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def damage_nothing(root: Path) -> None:
    """Leave the folder as it is."""


def empty(root: Path) -> None:
    for file in root.rglob("*.jpg"):
        file.unlink()


def empty_class(root: Path) -> None:
    for file in (root / "train" / "bee").glob("*.jpg"):
        file.unlink()


def extra_class(root: Path) -> None:
    (root / "val" / "cat").mkdir()
    Image.new("RGB", (24, 24)).save(root / "val" / "cat" / "0.jpg")


def no_split(root: Path) -> None:
    (root / "val").rename(root / "validation")


def truncate(root: Path) -> None:
    file = root / "train" / "ant" / "3.jpg"
    file.write_bytes(file.read_bytes()[:200])


DAMAGE = {
    "empty": (empty, ["train/ant", "must hold images"]),
    "empty class": (empty_class, ["train/bee", "must hold images"]),
    "classes that differ": (extra_class, ["cat only in val"]),
    "no val": (no_split, ["data_dir must hold train/<class>", "validation"]),
    "wrong number of classes": (damage_nothing, ["must hold 5 classes; got 2"]),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_a_folder_that_is_not_as_it_should_be(case, in_memory, tmp_path, capsys):
    damage, expected = DAMAGE[case]
    folder = make_folder(tmp_path / "images")
    damage(folder)
    more = [f"--data.in_memory={in_memory}"] + (["--data.num_classes=5"] if "number" in case else [])
    error = error_of(capsys, flags(folder, tmp_path / "runs", *more))
    for text in expected:
        assert text in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("in_memory", "workers"), [("true", 0), ("false", 0), ("false", 1)])
def test_a_truncated_image_is_named_and_leaves_no_run(in_memory, workers, tmp_path, capsys):
    folder = make_folder(tmp_path / "images")
    truncate(folder)
    more = [f"--data.in_memory={in_memory}", f"--data.num_workers={workers}"]
    error = error_of(capsys, flags(folder, tmp_path / "runs", *more))
    assert "train/ant/3.jpg must be a complete image" in error
    assert not list(tmp_path.glob("runs/classification/*"))


def test_an_empty_folder_and_another_data_set_are_named(tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    error = error_of(capsys, flags(tmp_path / "nothing", tmp_path / "runs"))
    assert "data_dir must hold train/<class>" in error
    (tmp_path / "cifar" / "cifar-10-batches-py").mkdir(parents=True)
    error = error_of(capsys, flags(tmp_path / "cifar", tmp_path / "runs"))
    assert "cifar-10-batches-py" in error


def test_a_subset_of_a_streamed_folder_is_refused(tmp_path, capsys):
    folder = make_folder(tmp_path / "images")
    error = error_of(capsys, flags(folder, tmp_path / "runs", "--data.train_images=8"))
    assert "in_memory=true" in error


def test_seeds_share_the_embedded_images_and_the_checksum_tells():
    sets = [ClassificationData(train_images=40, test_images=20, seed=seed) for seed in (0, 1)]
    other = ClassificationData(train_images=50, test_images=20)
    for data in [*sets, other]:
        data.open()
    assert sets[0].checksum() == sets[1].checksum() != other.checksum()
    assert sets[0].describe()["train"] == 40
    assert torch.bincount(sets[0].train.labels).tolist() == [4] * 10


@pytest.mark.real_data
def test_cifar10_subset_is_balanced_and_says_so(cifar10_dir):
    data = ClassificationData(dataset="cifar10", data_dir=cifar10_dir, train_images=1000)
    data.open()
    assert torch.bincount(data.train.labels).tolist() == [100] * 10
    assert len(data.test) == 10_000
    assert data.describe()["note"] == "1,000 of 50,000 train images"
    assert not data.describe()["full"]


@pytest.mark.real_data
@pytest.mark.slow
def test_a_step_on_real_imagenet_images(imagenet20_dir, tmp_path):
    config = load_tasks()["classification"].configs["imagenet20"]
    arguments = [f"--config={config}", f"--runs={tmp_path}", f"--data.data_dir={imagenet20_dir}", "--wandb=off"]
    few = [
        "--data.train_images=256",
        "--data.test_images=100",
        "--trainer.max_epochs=1",
        "--model.norm=bgn",
        "--trainer.log_every_n_steps=1",
    ]
    assert main("classification", ClassificationModule, ClassificationData, [*arguments, *few]) == 0
