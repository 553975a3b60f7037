"""CIFAR-10 as its authors packed it: six pickles, checked by MD5 and read without running what is in them."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive

from shared.data.directory import describe_directory
from shared.data.sets import ImageSet
from shared.data.unpickle import OLD_ARRAYS, RestrictedUnpickler

FOLDER = CIFAR10.base_folder
# mean and standard deviation of the 50,000 training images per channel, on the scale [0, 1]
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def load_cifar10(data_dir: str | Path, *, download: bool = False) -> tuple[ImageSet, ImageSet]:
    """Read the 50,000 training and the 10,000 test images, in their published order.

    Args:
        data_dir: The folder that holds ``cifar-10-batches-py``, or that folder itself.
        download: Whether torchvision fetches the archive into ``data_dir`` where the folder is absent.

    Returns:
        The training set and the test set, 32 × 32 pixels, 10 classes.

    Raises:
        ValueError: The folder is absent, a file is missing, or a file is not the published one; the message says
            what was expected, what was found and what to do.
    """
    directory = Path(data_dir).expanduser()
    folder = directory if directory.name == FOLDER else directory / FOLDER
    if download and not folder.is_dir():
        _download(folder.parent)
    if not folder.is_dir():
        packed = (folder.parent / CIFAR10.filename).is_file()
        remedy = f"Unpack {CIFAR10.filename} there" if packed else "Give the right folder"
        raise ValueError(
            f"data_dir must hold {FOLDER} (CIFAR-10 for Python); got {directory}, which "
            f"{describe_directory(directory)}. {remedy}, or set download=true."
        )
    train = [_read_checked(folder, name, md5) for name, md5 in CIFAR10.train_list]
    test = [_read_checked(folder, name, md5) for name, md5 in CIFAR10.test_list]
    meta = _read_checked(folder, CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    classes = tuple(meta[CIFAR10.meta["key"]])
    return _image_set(train, classes, "cifar10/train"), _image_set(test, classes, "cifar10/test")


def _image_set(parts: list[dict[str, Any]], classes: tuple[str, ...], name: str) -> ImageSet:
    images = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([part["labels"] for part in parts]).astype(np.int64)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), classes, name)


def _read_checked(folder: Path, name: str, md5: str) -> dict[str, Any]:
    path = folder / name
    repair = f"Remove {folder} and set download=true, or copy the published files there."
    if not path.is_file():
        raise ValueError(f"{folder} must hold {name}; got a folder that {describe_directory(folder)}. {repair}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            raise ValueError(
                f"{path} must be the published file, MD5 {md5}; got {path.stat().st_size} bytes with MD5 {found}. "
                f"{repair}"
            )
        file.seek(0)
        return _RestrictedUnpickler(file).load()


def _download(directory: Path) -> None:
    try:
        download_and_extract_archive(CIFAR10.url, str(directory), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"download must be able to fetch {CIFAR10.filename} into {directory}; got: {error}. "
            "Without a network, copy the file there by hand."
        ) from error


class _RestrictedUnpickler(RestrictedUnpickler):
    """Reads lists, strings, numbers and NumPy arrays; refuses every other global name."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, permitted=OLD_ARRAYS, subject="a CIFAR-10 file", encoding="latin1")
