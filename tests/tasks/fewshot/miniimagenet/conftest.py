"""miniImageNet in small: 64/16/20 classes of three 8 × 8 images, written in each of the six layouts."""

import csv
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import ClassVar

import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

install_import_hook(
    ["fewshot.miniimagenet", "shared.data"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

FOLDERS = {"base": "train", "val": "val", "novel": "test"}
PHASES = {"base": "train_phase_train", "val": "val", "novel": "test", "base_test": "train_phase_test"}
Content = dict[str, dict[str, dict[str, np.ndarray]]]


def _content(*, size: int, images_per_class: int, seed: int = 0, classes: dict[str, int] | None = None) -> Content:
    """Pixels by split, class and file name, with names out of order."""
    generator = np.random.default_rng(seed)
    counts = classes or {"base": 64, "val": 16, "novel": 20}
    names = [f"n{number:08d}" for number in generator.permutation(10 * sum(counts.values()))[: sum(counts.values())]]
    content: Content = {}
    for split, count in counts.items():
        content[split] = {
            name: {
                f"{name}{number:08d}.jpg": generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                for number in sorted(generator.choice(1300, images_per_class, replace=False))
            }
            for name in (names.pop() for _ in range(count))
        }
    return content


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")  # under a name that ends in .jpg: exact, and read all the same


def _entries(classes: dict[str, dict[str, np.ndarray]]) -> list[tuple[str, str, np.ndarray]]:
    return [(name, file, pixels) for name, images in classes.items() for file, pixels in images.items()]


def _write_folders(root: Path, content: Content) -> None:
    for split, classes in content.items():
        for name, file, pixels in _entries(classes):
            _save(root / FOLDERS[split] / name / file, pixels)


def _write_csv(root: Path, content: Content, *, header: tuple[str, str], folder: str, class_dirs: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, classes in content.items():
        with (root / f"{FOLDERS[split]}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for name, image, pixels in reversed(_entries(classes)):
                writer.writerow((image, name) if header[0] == "filename" else (name, image))
                _save(root / folder / name / image if class_dirs else root / folder / image, pixels)


def _write_json(root: Path, content: Content, *, absolute: bool = False) -> None:
    label_names = [name for classes in content.values() for name in classes]  # all in each file, as its script does
    for split, classes in content.items():
        entries = _entries(classes)
        for name, file, pixels in entries:
            _save(root / "ILSVRC" / name / file, pixels)
        folder = f"{root}/ILSVRC" if absolute else "ILSVRC"
        listed = {
            "label_names": label_names,
            "image_names": [f"{folder}/{name}/{file}" for name, file, _ in entries],
            "image_labels": [label_names.index(name) for name, _, _ in entries],
        }
        (root / f"{split}.json").write_text(json.dumps(listed))


def _pickle_content(classes: dict[str, dict[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, list[int]]]:
    entries = _entries(classes)
    positions: dict[str, list[int]] = {name: [] for name in reversed(classes)}
    for position, (name, _, _) in enumerate(entries):
        positions[name].append(position)
    return np.stack([pixels for _, _, pixels in entries]), positions


class OldPickler(pickle._Pickler):
    """Writes as NumPy 1 did, and with protocol 2 as Python 2 did: strings of bytes, whatever they hold."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_global(self, obj, name=None):  # noqa: ARG002 - the signature is the parent's
        module = pickle.whichmodule(obj, obj.__qualname__).replace("numpy._core", "numpy.core")
        if self.proto >= 4:
            self.save(module)
            self.save(obj.__qualname__)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch[FunctionType] = save_global

    def save_bytes(self, obj):
        if self.proto > 2:
            super().save_bytes(obj)
        else:
            short = len(obj) < 256
            self.write(pickle.SHORT_BINSTRING + bytes([len(obj)]) if short else pickle.BINSTRING)
            self.write(obj if short else struct.pack("<i", len(obj)) + obj)

    dispatch[bytes] = save_bytes

    def save_str(self, obj):
        if self.proto > 2:
            super().save_str(obj)
        else:
            self.save_bytes(obj.encode("latin1"))

    dispatch[str] = save_str


def _dumps(content, *, protocol: int = 2, old: bool = True) -> bytes:
    if not old:
        return pickle.dumps(content, protocol=protocol)
    file = io.BytesIO()
    OldPickler(file, protocol=protocol).dump(content)
    return file.getvalue()


def _write_pkl_cache(root: Path, content: Content, *, val: str = "val", **how) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, classes in content.items():
        pixels, positions = _pickle_content(classes)
        name = {**FOLDERS, "val": val}[split]
        (root / f"mini-imagenet-cache-{name}.pkl").write_bytes(
            _dumps({"image_data": pixels, "class_dict": positions}, **how)
        )


def _write_gidaris(root: Path, content: Content, *, named: bool = True, from_zero: bool = False, **how) -> None:
    root.mkdir(parents=True, exist_ok=True)
    first = {"base": 0, "val": 64, "novel": 80, "base_test": 0}
    for split, classes in content.items():
        start = 0 if from_zero else first[split]
        numbers = {name: start + number for number, name in enumerate(sorted(classes))}
        pixels, positions = _pickle_content(classes)
        labels = [numbers[name] for name, some in sorted(positions.items(), key=lambda item: item[1]) for _ in some]
        held = {"data": pixels, "labels": labels, **({"catname2label": numbers} if named else {})}
        (root / f"miniImageNet_category_split_{PHASES[split]}.pickle").write_bytes(_dumps(held, **how))


WRITERS: dict[str, Callable[..., None]] = {
    "folders": _write_folders,
    "pkl-cache": _write_pkl_cache,
    "gidaris-pickle": _write_gidaris,
    "csv-flat": lambda root, content, folder="images": _write_csv(
        root, content, header=("filename", "label"), folder=folder, class_dirs=False
    ),
    "csv-class-dirs": lambda root, content, folder="": _write_csv(
        root, content, header=("class_name", "image_name"), folder=folder, class_dirs=True
    ),
    "json": _write_json,
}


@pytest.fixture(scope="session")
def layouts() -> tuple[str, ...]:
    """The six names."""
    return tuple(WRITERS)


@pytest.fixture(scope="session")
def make_content() -> Callable[..., Content]:
    """A function that draws other images."""
    return _content


@pytest.fixture(scope="session")
def content() -> Content:
    """Three 8 × 8 images in each of 64/16/20 classes."""
    return _content(size=8, images_per_class=3)


@pytest.fixture
def write(tmp_path: Path, content: Content) -> Callable[..., Path]:
    """A function that writes images in a layout: ``write("json", absolute=True)``."""

    def write_layout(layout: str, *, images: Content = content, name: str = "given", **options) -> Path:
        WRITERS[layout](tmp_path / name, images, **options)
        return tmp_path / name

    return write_layout


@pytest.fixture
def open_small(tmp_path: Path) -> Callable:
    """`open_miniimagenet` for the small images, with a cache of the test's own."""
    from fewshot.miniimagenet import open_miniimagenet

    def open_it(data_dir: Path, *, image_size: int = 8, images_per_class: int = 3, cache_dir: Path | None = None):
        return open_miniimagenet(
            data_dir,
            image_size=image_size,
            images_per_class=images_per_class,
            cache_dir=cache_dir or tmp_path / "cache",
        )

    return open_it


@pytest.fixture
def message_of(open_small) -> Callable[..., str]:
    """The text of the ValueError that opening a folder raises, which is one line."""

    def message(data_dir: Path, **options) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared by the caller
            open_small(data_dir, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


@pytest.fixture(scope="session")
def dumps() -> Callable[..., bytes]:
    """A pickle as Python 2 (protocol 2) or NumPy 1 wrote it; ``old=False``: as they write now."""
    return _dumps
