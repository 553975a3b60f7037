"""The decoded images on disk: one array per split that is mapped into memory, and a small file of facts."""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.miniimagenet.images import SplitImages
from fewshot.miniimagenet.protocol import Listing, check_listings
from fewshot.miniimagenet.source import Source

FORMAT = 1
"""Changes whenever what is stored, or how pixels come about, changes."""

_FACTS = "meta.json"
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Stored:
    """What a folder of decoded images says about itself.

    Args:
        layout: Layout that the images were read from.
        image_size: Side of the images in pixels.
        listings: Classes and counts by split.
        checksum: SHA-256 over pixels, labels and class names of all splits.
    """

    layout: str
    image_size: int
    listings: Mapping[str, Listing]
    checksum: str


def build_stored(folder: Path, *, source: Source, image_size: int, images_per_class: int) -> None:
    """Read all splits of a source, check them, and write them into an empty folder.

    Only one split is in memory at a time, and of its decoded images only a block. The arrays are written as plain
    files, because a full disk then is an error that can be told; under a memory map it would kill the process.

    Args:
        folder: The empty folder.
        source: Where the images come from.
        image_size: Side of the images in pixels.
        images_per_class: Images that every class must have.

    Raises:
        UserError: The source is damaged or not miniImageNet.
        OSError: The folder cannot be written to.
    """
    digest = hashlib.sha256()
    listings: dict[str, Listing] = {}

    def store(split: str) -> None:
        images = source.read(split)
        listings[split] = images.listing
        check_listings(listings, images_per_class=images_per_class, origin=source.root)
        _write_array(_array_path(folder, split), images, image_size=image_size, split=split, digest=digest)

    for split in source.splits:
        store(split)  # a function of its own, so that a split is let go before the next one is read
    facts = {
        "format": FORMAT,
        "layout": source.layout,
        "image_size": image_size,
        "checksum": digest.hexdigest(),
        "splits": {name: {"classes": item.classes, "counts": item.counts} for name, item in listings.items()},
    }
    (folder / _FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def find_damage(folder: Path) -> str | None:
    """Say what is wrong with a folder of decoded images: facts, shapes and file sizes are looked at, not pixels.

    Args:
        folder: The folder.

    Returns:
        A few words. None: nothing.
    """
    try:
        stored = read_facts(folder)
        for split, listing in stored.listings.items():
            pixels = _map_array(folder, split)
            expected = _shape(listing, stored.image_size)
            if pixels.shape != expected or pixels.dtype != np.uint8:
                return f"{split} is {pixels.dtype} {pixels.shape}, not uint8 {expected}"
            path = _array_path(folder, split)
            if path.stat().st_size != pixels.offset + pixels.nbytes:
                return f"{path.name} has {path.stat().st_size:,} bytes, not {pixels.offset + pixels.nbytes:,}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def read_facts(folder: Path) -> Stored:
    """Return what a whole folder of decoded images says about itself.

    Args:
        folder: The folder.

    Raises:
        ValueError: The facts are of another format, or are none.
    """
    facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())
    if facts["format"] != FORMAT:
        raise ValueError(f"format must be {FORMAT}; got {facts['format']}.")
    listings = {
        split: Listing(tuple(item["classes"]), tuple(item["counts"])) for split, item in facts["splits"].items()
    }
    return Stored(facts["layout"], facts["image_size"], listings, facts["checksum"])


def map_images(folder: Path, split: str) -> Tensor:
    """Map the images of one split into memory: processes share the pages, and a write stays in the process.

    Args:
        folder: A whole folder of decoded images.
        split: Name of the split.

    Returns:
        uint8, shape (N, 3, S, S).
    """
    return torch.from_numpy(_map_array(folder, split))


def _map_array(folder: Path, split: str) -> np.memmap:
    return np.lib.format.open_memmap(_array_path(folder, split), mode="c")


def _array_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.npy"


def _shape(listing: Listing, image_size: int) -> tuple[int, int, int, int]:
    return listing.num_images, 3, image_size, image_size


def _write_array(path: Path, images: SplitImages, *, image_size: int, split: str, digest: "hashlib._Hash") -> None:
    shape = _shape(images.listing, image_size)
    digest.update(f"{split}|{shape}|{'|'.join(images.listing.classes)}|".encode())
    progress = _Progress(f"miniImageNet {split}", total=shape[0])
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in images.blocks(image_size):
            file.write(block.data)
            digest.update(block.data)
            progress.advance(len(block))
    digest.update(np.repeat(np.arange(len(images.listing.counts), dtype="<i8"), images.listing.counts).data)


class _Progress:
    """One line on stderr every few seconds, and none where it is quick."""

    def __init__(self, name: str, *, total: int) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.start = self.last = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= _SECONDS_BETWEEN_LINES and self.done < self.total:
            self.last = now
            left = (now - self.start) / self.done * (self.total - self.done)
            print(
                f"{self.name}: {self.done:,} of {self.total:,} images read, about {left:.0f} s left", file=sys.stderr
            )
