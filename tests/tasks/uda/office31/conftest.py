"""Office-31 with the real classes and counts, but 4 × 4 pixels an image, written in each of the four layouts."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

install_import_hook("uda.office31", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

COUNTS = {"amazon": 2817, "dslr": 498, "webcam": 795}
CLASSES = (
    "back_pack", "bike", "bike_helmet", "bookcase", "bottle", "calculator", "desk_chair", "desk_lamp",
    "desktop_computer", "file_cabinet", "headphones", "keyboard", "laptop_computer", "letter_tray",
    "mobile_phone", "monitor", "mouse", "mug", "paper_notebook", "pen", "phone", "printer", "projector",
    "punchers", "ring_binder", "ruler", "scissors", "speaker", "stapler", "tape_dispenser", "trash_can",
)  # fmt: skip
"""The official category.txt of CAN and CLASSES of tllib, which agree."""
SIZE = 4
Content = dict[str, dict[str, dict[str, np.ndarray]]]
Files = dict[str, dict[str, dict[str, Path]]]


@pytest.fixture(scope="session")
def official_classes() -> tuple[str, ...]:
    """The 31 names in the official order."""
    return CLASSES


@pytest.fixture(scope="session")
def content() -> Content:
    """Pixels by domain, class and file name, out of order: as many images as published, spread over 31 classes."""
    generator = np.random.default_rng(0)
    drawn: Content = {}
    for domain, total in COUNTS.items():
        drawn[domain] = {}
        for position in generator.permutation(31):
            count = total // 31 + (position < total % 31)
            drawn[domain][CLASSES[position]] = {
                f"frame_{number:04d}.jpg": generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                for number in generator.permutation(count) + 1
            }
    return drawn


@pytest.fixture(scope="session")
def files(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The images as files, which the layouts link to."""
    root = tmp_path_factory.mktemp("images")
    written: Files = {}
    for domain, classes in content.items():
        written[domain] = {}
        for name, images in classes.items():
            folder = root / domain / name
            folder.mkdir(parents=True)
            written[domain][name] = {}
            for file, pixels in images.items():
                # under a name that ends in .jpg: exact, and read all the same
                Image.fromarray(pixels).save(folder / file, format="PNG", compress_level=1)
                written[domain][name][file] = folder / file
    return written


def _write(
    root: Path,
    files: Files,
    *,
    above: str = "",
    images: str = "images",
    domain_names: dict[str, str] | None = None,
    class_name: Callable[[str], str] = str,
) -> None:
    for domain, classes in files.items():
        for name, some in classes.items():
            folder = root / above / (domain_names or {}).get(domain, domain) / images / class_name(name)
            folder.mkdir(parents=True)
            for file, source in some.items():
                os.link(source, folder / file)


def _write_can(root: Path, files: Files, **options) -> None:
    _write(root, files, images="", **options)
    (root / "category.txt").write_text("\n".join(reversed(CLASSES)))


def _write_tllib(root: Path, files: Files, *, listed: str = "{}.txt", **options) -> None:
    _write(root, files, **options)
    (root / "image_list").mkdir()
    folders = options.get("domain_names") or {}
    class_name = options.get("class_name", str)
    for domain, classes in files.items():
        lines = [
            f"{folders.get(domain, domain)}/images/{class_name(name)}/{file} {CLASSES.index(name)}"
            for name, some in classes.items()
            for file in some
        ]
        (root / "image_list" / listed.format(domain)).write_text("\n".join(lines) + "\n")


def _write_pytorch_adapt(root: Path, files: Files, **options) -> None:
    _write(root, files, above="office31", **options)
    for domain, classes in files.items():
        paths = [f"{domain}/images/{name}/{file} 0" for name, some in classes.items() for file in some]
        (root / "office31" / f"{domain}_train.txt").write_text("\n".join(paths[::5]))
        (root / "office31" / f"{domain}_test.txt").write_text("gone/images/mug/frame_0001.jpg 0\n")


WRITERS: dict[str, Callable[..., None]] = {
    "original": _write,
    "CAN": _write_can,
    "tllib": _write_tllib,
    "pytorch-adapt": _write_pytorch_adapt,
}


@pytest.fixture
def write(tmp_path: Path, files: Files) -> Callable[..., Path]:
    """A function that writes the whole set in a layout: ``write("tllib", class_name=str.upper)``."""

    def write_layout(layout: str, *, of: Files = files, name: str = "given", **options) -> Path:
        WRITERS[layout](tmp_path / name, of, **options)
        return tmp_path / name

    return write_layout


@pytest.fixture(scope="session")
def few(files: Files) -> Files:
    """Three classes of each domain, two images a class."""
    return {
        domain: {name: dict(sorted(classes[name].items())[:2]) for name in ("pen", "bike", "mug")}
        for domain, classes in files.items()
    }


@pytest.fixture
def open_small(tmp_path: Path) -> Callable:
    """`open_office31` for the small images, checked, with a cache of the test's own."""
    from uda.office31 import open_office31

    def open_it(
        data_dir: Path, *, image_size: int = SIZE, check: bool = True, cache_dir: Path | None = None, **options
    ):
        return open_office31(
            data_dir, image_size=image_size, check=check, cache_dir=cache_dir or tmp_path / "cache", **options
        )

    return open_it


@pytest.fixture
def message_of(open_small) -> Callable[..., str]:
    """The text of the ValueError that opening raises, which is one line."""

    def message(*arguments, opener=open_small, **options) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared by the caller
            opener(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message
