"""Decoding a folder of images into memory once, with a cache file that knows its own content."""

import hashlib
import logging
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from shared.data.folder import ImageFolder, decode_image
from shared.data.sets import ImageSet

_log = logging.getLogger(__name__)
_FORMAT = "1"


def memory_bytes(folder: ImageFolder, *, size: int) -> int:
    """Return the bytes that `load_into_memory` would take.

    Args:
        folder: The split.
        size: Side of the square images in pixels.
    """
    return len(folder) * 3 * size * size


def load_into_memory(folder: ImageFolder, size: int, *, cache_dir: str | Path | None = None) -> ImageSet:
    """Decode every image of a split to uint8: shorter side to ``size`` (bilinear, anti-aliased), central square.

    An image that is already a square of ``size`` keeps its decoded pixels.

    Args:
        folder: The split.
        size: Side of the square images in pixels.
        cache_dir: Where decoded images are kept for the next run, in a file named after the SHA-256 of the image
            files' bytes and of ``size``. None: nothing is kept.

    Returns:
        The images in the order of ``folder.files``.

    Raises:
        ValueError: ``size`` is below 1, or a file is not a complete image; the message names it.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}.")
    path = None if cache_dir is None else Path(cache_dir).expanduser() / f"{_content_key(folder, size)}.npz"
    images = None if path is None else _read_cache(path, shape=(len(folder), 3, size, size))
    if images is None:
        images = np.empty((len(folder), 3, size, size), np.uint8)
        for position, file in enumerate(folder.files):
            images[position] = square_pixels(decode_image(folder.root / file), size)
        if path is not None:
            _write_cache(path, images)
    return ImageSet(torch.from_numpy(images), folder.labels, folder.classes, f"{folder.name}[{size} px]")


def square_pixels(image: Image.Image, size: int, *, short_side: int | None = None) -> ndarray:
    """Return the central square of an image: uint8, shape (3, size, size).

    Args:
        image: An RGB image.
        size: Side of the square in pixels.
        short_side: Length to which the shorter side is resized first. None: ``size``.
    """
    short_side = size if short_side is None else short_side
    width, height = image.size
    if min(width, height) != short_side:
        shrink = short_side / min(width, height)
        width, height = max(short_side, int(width * shrink)), max(short_side, int(height * shrink))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def _content_key(folder: ImageFolder, size: int) -> str:
    digest = hashlib.sha256(f"{_FORMAT}|{size}".encode())
    for file in folder.files:
        content = (folder.root / file).read_bytes()
        digest.update(f"|{file}|{len(content)}|".encode())
        digest.update(content)
    return digest.hexdigest()


def _read_cache(path: Path, *, shape: tuple[int, ...]) -> ndarray | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:  # every member carries a CRC
            images = stored["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s is damaged (%s): decoding the images again.", path, error)
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write_cache(path: Path, images: ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:12]}-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, images=images)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
