"""The two layouts of one pickle per split: "pkl-cache" (Ren et al.) and "gidaris-pickle" (Gidaris and Komodakis)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from fewshot.miniimagenet.images import ImageArray
from fewshot.miniimagenet.protocol import BASE_TEST, CLASSES, Listing
from fewshot.miniimagenet.source import Source
from shared.data.unpickle import load_arrays
from shared.errors import UserError

PKL_CACHE = "pkl-cache"
GIDARIS = "gidaris-pickle"
FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    PKL_CACHE: {
        "base": ("mini-imagenet-cache-train.pkl",),
        "val": ("mini-imagenet-cache-val.pkl", "mini-imagenet-cache-validation.pkl"),
        "novel": ("mini-imagenet-cache-test.pkl",),
    },
    GIDARIS: {
        "base": ("miniImageNet_category_split_train_phase_train.pickle",),
        "val": ("miniImageNet_category_split_val.pickle",),
        "novel": ("miniImageNet_category_split_test.pickle",),
    },
}
"""File of each split that a layout must have; the first that exists is read."""

_BASE_TEST_FILE = "miniImageNet_category_split_train_phase_test.pickle"
_FIRST_LABEL = {"base": 0, BASE_TEST: 0, "val": 64, "novel": 80}


@dataclass(frozen=True)
class PickleSource(Source):
    """One pickle per split, read one at a time.

    Args:
        layout: pkl-cache or gidaris-pickle.
        root: Folder that holds the files.
        paths: File of each split.
    """

    paths: Mapping[str, Path]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(self.paths)

    @property
    def listings(self) -> Mapping[str, Listing]:
        """Nothing is known before a pickle is read."""
        return {}

    def files(self) -> Iterable[Path]:
        """Return the pickles."""
        return self.paths.values()

    def read(self, split: str) -> ImageArray:
        """Load one pickle and check what is in it.

        Args:
            split: One of `splits`.

        Raises:
            UserError: The file is no pickle of arrays, or does not hold what it must.
        """
        path = self.paths[split]
        content = _text_keys(load_arrays(path))
        if self.layout == PKL_CACHE:
            pixels = _pixels(content, "image_data", path)
            names, positions = _by_class_dict(content.get("class_dict"), len(pixels), path)
        else:
            pixels = _pixels(content, "data", path)
            names, positions = _by_labels(content, split, len(pixels), path)
        return ImageArray(Listing.of(names), pixels, positions)


def open_pickles(root: Path, paths: Mapping[str, Path], *, layout: str) -> PickleSource:
    """Return the pickles of a layout, with the held-out images of the base classes where they lie beside.

    Args:
        root: Folder that holds the files.
        paths: File of each split.
        layout: pkl-cache or gidaris-pickle.
    """
    held_out = root / _BASE_TEST_FILE
    more = {BASE_TEST: held_out} if layout == GIDARIS and held_out.is_file() else {}
    return PickleSource(layout, root, {**paths, **more})


def _pixels(content: Any, key: str, path: Path) -> UInt8[ndarray, "M H W 3"]:
    pixels = content.get(key) if isinstance(content, dict) else None
    if not isinstance(pixels, ndarray):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} must hold a dict with an array {key}; got {found}. Copy the published file.")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise UserError(
            f"{key} in {path} must be uint8 of shape (N, H, W, 3), values 0 to 255; got {pixels.dtype} of shape "
            f"{pixels.shape}. Copy the published file, or store the pixels in this form."
        )
    return pixels


def _by_class_dict(class_dict: Any, num_images: int, path: Path) -> tuple[list[str], Int64[ndarray, " N"]]:
    """Return the class name of each image and its position, from ``{class: positions}``."""
    if not isinstance(class_dict, dict):
        raise UserError(
            f"class_dict in {path} must be a dict of class names and positions; got {type(class_dict).__name__}. Copy "
            "the published file."
        )
    owner: dict[int, str] = {}
    names: list[str] = []
    for name, positions in sorted((str(_text(key)), value) for key, value in class_dict.items()):
        for position in _integers(positions, f"class_dict[{name!r}]", path):
            if not 0 <= position < num_images:
                raise UserError(
                    f"class_dict[{name!r}] in {path} must hold positions in [0, {num_images}), the number of images; "
                    f"got {position}. Copy the published file."
                )
            if position in owner:
                raise UserError(
                    f"class_dict in {path} must name each image once; got image {position} in {owner[position]} and "
                    f"{name}. Copy the published file."
                )
            owner[position] = name
            names.append(name)
    if len(owner) != num_images:
        raise UserError(
            f"class_dict in {path} must name each of the {num_images} images; got {len(owner)}. Copy the published "
            "file."
        )
    return names, _in_order(names, list(owner))


def _by_labels(
    content: dict[Any, Any], split: str, num_images: int, path: Path
) -> tuple[list[str], Int64[ndarray, " N"]]:
    """Return the class name of each image and its position, from one number per image."""
    labels = _integers(content.get("labels"), "labels", path)
    if len(labels) != num_images:
        raise UserError(
            f"labels in {path} must be one per image ({num_images}); got {len(labels)}. Copy the published file."
        )
    numbers = sorted(set(labels))
    first, count = _FIRST_LABEL[split], CLASSES["base" if split == BASE_TEST else split]
    start = 0 if numbers and numbers[0] == 0 else first
    if any(not start <= number < start + count for number in numbers):
        allowed = f"[{first}, {first + count})" + (f" or [0, {count})" if first else "")
        raise UserError(
            f"labels in {path} must be in {allowed}; got {numbers[0]} to {numbers[-1]}. Copy the published file."
        )
    shift = first - start  # without names, a number says the same class whichever way the file counts
    named = _class_names(content.get("catname2label"), path) or {n: f"class {n + shift:02d}" for n in numbers}
    if not set(numbers) <= set(named):
        unnamed = min(set(numbers) - set(named))
        raise UserError(
            f"catname2label in {path} must name every label; got no name of {unnamed}. Copy the published file."
        )
    names = [named[label] for label in labels]
    return names, _in_order(names, list(range(num_images)))


def _class_names(catname2label: Any, path: Path) -> dict[int, str]:
    if not isinstance(catname2label, dict):
        return {}
    numbers = _integers(list(catname2label.values()), "catname2label", path)
    named: dict[int, str] = {}
    for number, name in zip(numbers, map(_text, catname2label)):
        if number in named:
            raise UserError(
                f"catname2label in {path} must name every label once; got {named[number]} and {name} for {number}. "
                "Copy the published file."
            )
        named[number] = str(name)
    return named


def _in_order(names: list[str], positions: list[int]) -> Int64[ndarray, " N"]:
    return np.array([position for _, position in sorted(zip(names, positions))], np.int64)


def _integers(values: Any, name: str, path: Path) -> list[int]:
    array = np.asarray(values if isinstance(values, list | tuple | ndarray) else None)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise UserError(
            f"{name} in {path} must be a list of whole numbers; got {type(values).__name__} of {array.dtype}. Copy "
            "the published file."
        )
    return [int(value) for value in array]


def _text_keys(content: Any) -> Any:
    return {_text(key): value for key, value in content.items()} if isinstance(content, dict) else content


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key
