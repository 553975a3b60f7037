"""Label images after a few examples of each class, with a trained run: `make predict run=… support=… query=…`."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from fewshot.data import FewshotData
from fewshot.imprinting import imprint
from fewshot.module import FewshotModule
from shared.data.folder import SUFFIXES, decode_image, list_image_folder
from shared.data.folder_memory import square_pixels
from shared.errors import UserError, exit_with_usage_error, one_line
from shared.parser import SuiteCLI
from shared.runs import open_run

AT_ONCE = 64
SHOWN = 20
"""Lines shown on the terminal; out=FILE.csv gets them all."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What an image was taken for.

    Args:
        file: The image.
        label: The nearest class.
        similarity: Cosine of the angle to its weights.
        runner_up: The second class.
        margin: By how much its cosine is smaller.
    """

    file: Path
    label: str
    similarity: float
    runner_up: str
    margin: float


class Predictor:
    """A trained run that labels images after a few examples.

    Args:
        run_dir: The run's directory.

    Raises:
        UserError: If it is not the directory of a few-shot run with a best checkpoint.
    """

    def __init__(self, run_dir: Path) -> None:
        if not (run_dir / "run.json").is_file() or not (run_dir / "config.yaml").is_file():
            raise UserError(
                f"run must be the folder of a trained few-shot run (it holds run.json and config.yaml); got {run_dir}."
            )
        run = open_run(run_dir)
        checkpoint = run.checkpoints / "best.ckpt"
        if run.task != "fewshot" or not checkpoint.is_file():
            found = f"a run of {run.task}" if run.task != "fewshot" else "a run that has no best.ckpt yet"
            raise UserError(f"run must be the folder of a trained few-shot run; got {found}: {run_dir}.")
        cli = SuiteCLI(FewshotModule, FewshotData, [f"--config={run_dir / 'config.yaml'}"])
        assert isinstance(cli.model, FewshotModule)
        assert isinstance(cli.datamodule, FewshotData)
        try:
            weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        except (RuntimeError, EOFError, UnpicklingError, KeyError) as error:
            raise UserError(
                f"run must have a whole best.ckpt; {checkpoint} cannot be read ({one_line(error)})."
            ) from error
        cli.model.build_network(len(weights["network.classifier.weight"]))
        cli.model.load_state_dict(weights)
        self.module, self.data = cli.model.eval(), cli.datamodule

    @torch.no_grad()
    def embed(self, files: Sequence[Path]) -> Tensor:
        """Return the embeddings of image files, shape (N, d).

        Args:
            files: The images; their central squares are taken.
        """
        parts = []
        for start in range(0, len(files), AT_ONCE):
            chunk = files[start : start + AT_ONCE]
            pixels = np.stack([square_pixels(decode_image(file), self.data.image_size) for file in chunk])
            parts.append(self.module.network.embed(self.data.normalised(torch.from_numpy(pixels))))
        return torch.cat(parts)

    def predict(self, support: Path, query: Path) -> tuple[list[Prediction], tuple[str, ...]]:
        """Label the images of a folder; return the labels and the classes.

        Args:
            support: Folder with one folder of labelled images for each class.
            query: An image, or a folder of images, at any depth.

        Raises:
            ValueError: If there are fewer than two classes, an empty class, no image to label, or a damaged image.
        """
        if not support.is_dir():
            raise UserError(f"support must be a folder with one folder of images a class; got the file {support}.")
        examples = list_image_folder(support, name="support")
        if examples.num_classes < 2:
            raise UserError(f"support must hold at least two folders, one a class; got {examples.num_classes}.")
        files = find_images(query)
        embedded = self.embed([examples.root / file for file in examples.files])
        weights = torch.stack([imprint(embedded[examples.labels == c]) for c in range(examples.num_classes)])
        top = (self.embed(files) @ weights.T).topk(2, dim=1)
        predictions = [
            Prediction(
                file=file, label=examples.classes[first], similarity=best, runner_up=examples.classes[second],
                margin=best - other,
            )
            for file, (first, second), (best, other) in zip(files, top.indices.tolist(), top.values.tolist())
        ]  # fmt: skip
        return predictions, examples.classes


def find_images(path: Path) -> list[Path]:
    """Return an image, or all images below a folder, sorted.

    Raises:
        UserError: If there is none.
    """
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"query must be an image or a folder with images ({', '.join(SUFFIXES)}); got {path}.")
    return files


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a CSV file, whole or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "label", "similarity", "runner_up", "margin"])
            for p in predictions:
                writer.writerow([p.file, p.label, f"{p.similarity:.4f}", p.runner_up, f"{p.margin:.4f}"])
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"out must be a file that can be written; got {path} ({error.strerror}).") from error


def table(predictions: Sequence[Prediction], query: Path, classes: Sequence[str]) -> str:
    """Return the predictions as text; with the share of right ones where images lie in folders named like classes."""
    names = [str(p.file.relative_to(query)) if p.file != query else p.file.name for p in predictions]
    width = max(len("file"), *(len(name) for name in names[:SHOWN]))
    labels = max(len("label"), *(len(p.label) for p in predictions))
    lines = [f"{'file':<{width}}  {'label':<{labels}}  cosine  runner-up"]
    for name, p in list(zip(names, predictions))[:SHOWN]:
        lines.append(
            f"{name:<{width}}  {p.label:<{labels}}  {p.similarity:6.3f}  {p.runner_up} ({p.similarity - p.margin:.3f})"
        )
    if len(predictions) > SHOWN:
        lines.append(f"… and {len(predictions) - SHOWN} more (out=FILE.csv gets all)")
    known = [p for p in predictions if p.file.parent.name in classes and p.file != query]
    if known and len(known) == len(predictions):
        right = sum(p.file.parent.name == p.label for p in known)
        lines.append(f"{right} of {len(known)} lie in the folder of their label ({100 * right / len(known):.1f} %).")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Label images from the command line."""
    parser = argparse.ArgumentParser(prog="make predict", description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of a trained few-shot run")
    parser.add_argument("--support", type=Path, help="folder with one folder of a few labelled images a class")
    parser.add_argument("--query", type=Path, help="image, or folder of images, to label")
    parser.add_argument("--out", type=Path, default=None, help="CSV file for all predictions")
    options = parser.parse_args(arguments)
    try:
        for name in ("run", "support", "query"):
            value: Path | None = getattr(options, name)
            if value is None or not value.expanduser().exists():
                raise UserError(
                    f"{name} must be a path that exists; got {'nothing' if value is None else value}. "
                    "Try make predict run=RUN_DIR support=FOLDER query=FOLDER."
                )
        query = options.query.expanduser()
        predictions, classes = Predictor(options.run.expanduser()).predict(options.support.expanduser(), query)
        if options.out is not None:
            write_predictions(options.out.expanduser(), predictions)
    except ValueError as error:
        exit_with_usage_error(error)
    print(table(predictions, query, classes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
