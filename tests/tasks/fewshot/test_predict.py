"""Labelling a folder of images with a trained run, as a user does."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot import predict
from fewshot.data import FewshotData
from fewshot.module import FewshotModule
from shared.catalog import load_tasks
from shared.cli import main
from shared.data.embedded import embedded_images
from shared.make import target_commands

SMOKE = load_tasks()["fewshot"].configs["smoke"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = [f"--config={SMOKE}", f"--run_dir={folder}", "--wandb=off", "--report=false", "--trainer.max_epochs=1"]
    assert main("fewshot", FewshotModule, FewshotData, flags) == 0
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three classes: labelled images, 3, 1 and 2 of them, and four more of each to label."""
    root = tmp_path_factory.mktemp("images")
    images = embedded_images(num_classes=3, images_per_class=7, image_size=32, seed=0, split="train", first_class=100)
    for index in range(len(images)):
        name, number = f"class{int(images.labels[index])}", index // 3
        part = "query" if number >= 3 else "support"
        if part == "support" and number >= (3, 1, 2)[int(images.labels[index])]:
            continue
        (root / part / name).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(images.images[index].permute(1, 2, 0).numpy())
        picture.save(root / part / name / f"{number}.png")
    return root / "support", root / "query"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_labels_are_those_of_the_nearest_mean(trained, folders, tmp_path, capsys):
    """Against a calculation by hand from the checkpoint."""
    support, query = folders
    out = tmp_path / "labels.csv"
    assert predict.main([f"--run={trained}", f"--support={support}", f"--query={query}", f"--out={out}"]) == 0
    rows = read(out)
    assert len(rows) == 12

    module = FewshotModule(norm="bgn", widths=[8, 8, 16, 16], batch_size=16)
    module.build_network(6)
    module.load_state_dict(torch.load(trained / "checkpoints/best.ckpt", weights_only=True)["state_dict"])
    module.eval()

    @torch.no_grad()
    def embed(file):
        pixels = np.asarray(Image.open(file)).astype(np.float64) / 255
        values = module.network.features(torch.from_numpy((pixels - 0.5) / 0.25).permute(2, 0, 1)[None].float())[0]
        return (values / values.norm()).double()

    weights = {}
    for folder in sorted(support.iterdir()):
        mean = torch.stack([embed(file) for file in sorted(folder.iterdir())]).mean(0)
        weights[folder.name] = mean / mean.norm()
    for row in rows:
        cosines = {name: float(embed(Path(row["file"])) @ weight) for name, weight in weights.items()}
        first, second = sorted(cosines, key=lambda name: -cosines[name])[:2]
        assert (row["label"], row["runner_up"]) == (first, second)
        assert float(row["similarity"]) == pytest.approx(cosines[first], abs=2e-4)
        assert float(row["margin"]) == pytest.approx(cosines[first] - cosines[second], abs=3e-4)
    right = sum(Path(row["file"]).parent.name == row["label"] for row in rows)
    assert f"{right} of 12 lie in the folder of their label" in capsys.readouterr().out


def test_the_share_of_right_ones_counts_classes_that_are_never_predicted(tmp_path):
    def prediction(folder, label, runner_up):
        file = tmp_path / folder / "1.png"
        return predict.Prediction(file=file, label=label, similarity=0.9, runner_up=runner_up, margin=0.1)

    predictions = [prediction("cat", "cat", "dog"), prediction("bird", "cat", "dog")]
    assert "1 of 2 lie in the folder of their label (50.0 %)" in predict.table(
        predictions, tmp_path, ("bird", "cat", "dog")
    )


def test_one_image_is_enough_to_label(trained, folders, capsys):
    support, query = folders
    image = next(query.rglob("*.png"))
    assert predict.main([f"--run={trained}", f"--support={support}", f"--query={image}"]) == 0
    assert "lie in the folder" not in capsys.readouterr().out


def test_the_make_target_calls_it():
    tasks = load_tasks()
    assert target_commands("predict", {"run": "r", "support": "s", "query": "q"}, tasks) == [
        ["-m", "fewshot.predict", "--run=r", "--support=s", "--query=q"]
    ]


def test_mistakes_are_one_line(trained, folders, tmp_path, capsys):
    support, query = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "one/cat").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "one/cat/1.png")
    (tmp_path / "bad/cat").mkdir(parents=True)
    (tmp_path / "bad/dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "bad" / name / "1.png").write_bytes(b"no image")
    damaged, bare = tmp_path / "damaged", tmp_path / "bare"
    for copy in (damaged, bare):
        shutil.copytree(trained, copy)
    whole = (damaged / "checkpoints/best.ckpt").read_bytes()
    (damaged / "checkpoints/best.ckpt").write_bytes(whole[: len(whole) // 2])
    (bare / "config.yaml").unlink()
    flags = {"run": trained, "support": support, "query": query}
    wrong = [
        ({"run": tmp_path / "nowhere"}, "run must be a path that exists"),
        ({"run": None}, "run must be a path that exists; got nothing"),
        ({"run": tmp_path}, "run must be the folder of a trained few-shot run"),
        ({"run": damaged}, "run must have a whole best.ckpt"),
        ({"run": bare}, "run must be the folder of a trained few-shot run (it holds run.json and config.yaml)"),
        ({"support": tmp_path / "empty"}, "must hold one folder per class"),
        ({"support": tmp_path / "one"}, "support must hold at least two folders"),
        ({"support": tmp_path / "one/cat/1.png"}, "support must be a folder"),
        ({"support": tmp_path / "bad"}, "must be a complete image"),
        ({"query": tmp_path / "empty"}, "query must be an image or a folder with images"),
        ({"out": tmp_path / "nowhere/labels.csv"}, "out must be a file that can be written"),
    ]
    for change, message in wrong:
        arguments = [f"--{name}={value}" for name, value in (flags | change).items() if value is not None]
        with pytest.raises(SystemExit) as stop:
            predict.main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error
