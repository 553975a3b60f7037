"""Decoding the images of one folder once: an array in the cache that is mapped into memory."""

import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from shared.data.cache import build_once, cache_directory
from shared.data.folder import ImageFolder, decode_image
from shared.data.sets import ImageSet
from shared.errors import UserError

FORMAT = 1
"""Changes whenever what is stored, or how pixels come about, changes."""

_ARRAY = "images.npy"
_BLOCK_BYTES = 4 << 20
_SECONDS_BETWEEN_LINES = 5.0


def open_images(folder: ImageFolder, *, image_size: int, cache_dir: Path | None) -> ImageSet:
    """Decode a folder's images and keep them for the next run, or map those of an earlier run.

    They are kept under a name made of the files' paths, sizes and times of change and of ``image_size``, so that a
    changed file makes another array.

    Args:
        folder: The files; its name becomes the set's.
        image_size: Side S of the images in pixels.
        cache_dir: Where decoded images are kept, 3·S² bytes each. None: ``NORM_SUITE_CACHE``, else the user's cache
            folder.

    Returns:
        The images in the order of ``folder.files``: processes share the pages, and a write stays in the process.

    Raises:
        ValueError: ``image_size`` is below 1, a file is absent or not a complete image, or the cache cannot be written
            to.
    """
    check_image_size(image_size)
    shape = (len(folder), 3, image_size, image_size)
    stored = cache_directory(cache_dir) / "domains" / _fingerprint(folder, image_size)
    build_once(
        stored,
        build=lambda empty: _write_array(empty / _ARRAY, folder, image_size=image_size, shape=shape),
        damage=lambda whole: _find_damage(whole / _ARRAY, shape),
        num_bytes=len(folder) * 3 * image_size**2,
    )
    return ImageSet(torch.from_numpy(_map_array(stored / _ARRAY)), folder.labels, folder.classes, folder.name)


def check_image_size(image_size: int) -> None:
    """Check the side of the images.

    Args:
        image_size: Side S of the images in pixels.

    Raises:
        UserError: It is below 1.
    """
    if image_size < 1:
        raise UserError(f"image_size must be at least 1 pixel; got {image_size}.")


def stretched_pixels(image: Image.Image, image_size: int) -> UInt8[ndarray, "3 S S"]:
    """Resize an image to a square, bicubic and anti-aliased; its aspect is not kept.

    An image that already is a square of this size keeps its pixels.

    Args:
        image: An RGB image.
        image_size: Side S in pixels.

    Source: Kang et al. 2019, "Contrastive Adaptation Network for Unsupervised Domain Adaptation", whose code resizes
    Office-31 to 256 × 256 this way before it crops.
    """
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def _fingerprint(folder: ImageFolder, image_size: int) -> str:
    # the folder's place too: archives give all files one date, and bitmaps of one resolution are of one size
    digest = hashlib.sha256(f"{FORMAT}|{image_size}|{folder.root.resolve()}".encode())
    for file in folder.files:
        try:
            facts = (folder.root / file).stat()
        except OSError as error:
            raise UserError(f"{folder.root / file} must be a file that can be read; got: {error.strerror}.") from error
        digest.update(f"\0{file}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _find_damage(path: Path, shape: tuple[int, ...]) -> str | None:
    try:
        pixels = _map_array(path)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            return f"{path.name} is {pixels.dtype} {pixels.shape}, not uint8 {shape}"
        if path.stat().st_size != pixels.offset + pixels.nbytes:
            return f"{path.name} has {path.stat().st_size:,} bytes, not {pixels.offset + pixels.nbytes:,}"
    except (OSError, ValueError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _map_array(path: Path) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="c")


def _write_array(path: Path, folder: ImageFolder, *, image_size: int, shape: tuple[int, ...]) -> None:
    """Write a plain file, because a full disk then is an error that can be told; a memory map would be killed."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in _blocks(folder, image_size):
            file.write(block.data)


def _blocks(folder: ImageFolder, image_size: int) -> Iterator[UInt8[ndarray, "B 3 S S"]]:
    step = max(1, _BLOCK_BYTES // (3 * image_size**2))
    start_time = last_line = time.monotonic()
    for start in range(0, len(folder), step):
        files = folder.files[start : start + step]
        block = np.empty((len(files), 3, image_size, image_size), np.uint8)
        for position, file in enumerate(files):
            block[position] = stretched_pixels(decode_image(folder.root / file), image_size)
        yield block
        done, now = start + len(files), time.monotonic()
        if done < len(folder) and now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            left = (now - start_time) / done * (len(folder) - done)
            print(f"{folder.name}: {done:,} of {len(folder):,} images read, about {left:.0f} s left", file=sys.stderr)
