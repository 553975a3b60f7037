"""Shape annotations are checked in these tests; sets and folders are made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from PIL import Image

install_import_hook(
    ["shared.data", "shared.backbones"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)


@pytest.fixture
def make_image_set() -> Callable:
    """A set of random images with cyclic labels; image n holds n in its first pixels."""
    from shared.data.sets import ImageSet

    def make(num_images: int, *, num_classes: int = 3, size: int = 8):
        generator = torch.Generator().manual_seed(num_images)
        images = torch.randint(0, 256, (num_images, 3, size, size), generator=generator, dtype=torch.uint8)
        labels = torch.arange(num_images) % num_classes
        return ImageSet(images, labels, tuple(f"class {number}" for number in range(num_classes)), "random")

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable:
    """A function that writes small JPEG images, so many per folder: ``{"train/cat": 3, "val/cat": 1}``."""

    def make(counts: dict[str, int], *, size: tuple[int, int] = (40, 30), name: str = "pictures") -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for number in range(count):
                generator = np.random.default_rng([len(folder), number, sum(folder.encode())])
                coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
                image.save(root / folder / f"{number:03d}.jpg", quality=95)
        return root

    return make
