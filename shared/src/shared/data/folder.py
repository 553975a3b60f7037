"""Folders of images, one folder per class: ``train/<class>/*.jpg`` beside ``val/…`` or ``test/…``."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from shared.data.directory import describe_directory
from shared.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")
# of ImageNet's training images, on the scale [0, 1], as in torchvision's references
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_EVALUATION_SPLITS = ("val", "test")
_MAX_NAMED = 3


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The files of one split, listed but not read.

    Args:
        root: The split's folder.
        files: Paths relative to ``root``, sorted by class, then by name.
        labels: int64 class number of each file, shape (N,).
        classes: Class names, which are the names of the class folders, sorted.
        name: Name that the run's record states, for instance ``"imagenet/train"``.
    """

    root: Path
    files: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def checksum(self) -> str:
        """Return the SHA-256 over the paths, sizes in bytes and labels; computed once. The pixels are not read."""
        return self._checksum

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels.tolist()):
            digest.update(f"{file}|{(self.root / file).stat().st_size}|{label}\n".encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a record states about the split, as JSON-able values.

        Returns:
            ``name``, ``num_images``, ``num_classes``, ``resolution`` (None: the files' own) and ``checksum``.
        """
        return {
            "name": self.name,
            "num_images": len(self),
            "num_classes": self.num_classes,
            "resolution": None,
            "checksum": f"listing:{self.checksum()}",
        }


def open_image_folder(
    data_dir: str | Path, *, num_classes: int | None = None, image_size: int | None = None
) -> tuple[ImageFolder, ImageFolder]:
    """List and check the training and the evaluation split.

    Args:
        data_dir: The folder that holds ``train`` and ``val`` (or ``test``).
        num_classes: Number of classes that the protocol asks for, such as 1000 for ImageNet. None: any.
        image_size: Side in pixels at which the images will be used; one image per class is looked at, and all
            being smaller is an error. None: not checked.

    Returns:
        The training split and the evaluation split.

    Raises:
        ValueError: A split is missing or empty, a class has no image, the splits differ in their classes, the number
            of classes is not ``num_classes``, or the images are smaller than ``image_size``.
    """
    directory = Path(data_dir).expanduser()
    evaluation = next((name for name in _EVALUATION_SPLITS if (directory / name).is_dir()), None)
    if evaluation is None or not (directory / "train").is_dir():
        raise ValueError(
            f"data_dir must hold train/<class>/*.jpg and val/<class>/*.jpg (or test/…); got {directory}, which "
            f"{describe_directory(directory)}. Give the folder above the splits."
        )
    name = directory.resolve().name
    train = list_image_folder(directory / "train", name=f"{name}/train")
    held_out = list_image_folder(directory / evaluation, name=f"{name}/{evaluation}")
    if train.classes != held_out.classes:
        raise ValueError(
            f"{evaluation} must have the class folders of train; got {_difference(train, held_out, evaluation)} "
            f"in {directory}. Copy the missing folders or remove the others."
        )
    if num_classes is not None and train.num_classes != num_classes:
        raise ValueError(
            f"data_dir must hold {num_classes} classes; got {train.num_classes} in {directory}. "
            "Give the complete set, or leave num_classes out for a subset."
        )
    if image_size is not None:
        _check_sizes(train, image_size)
    return train, held_out


def list_image_folder(root: Path, *, name: str) -> ImageFolder:
    """List one split: a folder that holds one folder per class.

    Args:
        root: The split's folder.
        name: Name that the run's record states.

    Raises:
        ValueError: There is no class folder, or one without an image.
    """
    with os.scandir(root) as entries:
        classes = tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))
    if not classes:
        raise ValueError(f"{root} must hold one folder per class; got a folder that {describe_directory(root)}.")
    files: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        found = sorted(file for file in os.listdir(root / class_name) if file.lower().endswith(SUFFIXES))
        if not found:
            raise ValueError(
                f"{root / class_name} must hold images ({', '.join(SUFFIXES)}); got a folder that "
                f"{describe_directory(root / class_name)}. Add the images or remove the folder."
            )
        files += [f"{class_name}/{file}" for file in found]
        labels += [label] * len(found)
    return ImageFolder(root, tuple(files), torch.tensor(labels), classes, name)


def decode_image(path: Path) -> Image.Image:
    """Read a whole image file as RGB.

    Args:
        path: The file.

    Raises:
        UserError: The file is not an image, or ends early; found in the middle of a run too.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} must be a complete image; got: {error}. Copy the file again.") from error


def _difference(train: ImageFolder, held_out: ImageFolder, evaluation: str) -> str:
    def some(names: set[str]) -> str:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        return ", ".join(sorted(names)[:_MAX_NAMED]) + more

    only_train, only_held_out = set(train.classes) - set(held_out.classes), set(held_out.classes) - set(train.classes)
    parts = [f"{some(only_train)} only in train"] if only_train else []
    parts += [f"{some(only_held_out)} only in {evaluation}"] if only_held_out else []
    return "; ".join(parts)


def _check_sizes(folder: ImageFolder, image_size: int) -> None:
    starts = torch.searchsorted(folder.labels, torch.arange(folder.num_classes)).tolist()
    short_sides = [min(decode_image(folder.root / folder.files[start]).size) for start in starts]
    if max(short_sides) < image_size:
        raise ValueError(
            f"image_size must be at most the images' shorter side, {max(short_sides)} pixels in {folder.root}; "
            f"got {image_size}. Set image_size={max(short_sides)}, or give larger images."
        )
