"""Opening miniImageNet: find the layout, check it, decode it once, map it into memory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from fewshot.miniimagenet.layouts import find_source
from fewshot.miniimagenet.protocol import BASE_TEST, CLASSES, ORIGINAL_SIZE, WHOLE_CLASS, check_listings
from fewshot.miniimagenet.stored import FORMAT, Stored, build_stored, find_damage, map_images, read_facts
from shared.data.cache import build_once, cache_directory
from shared.data.sets import ImageSet


@dataclass(frozen=True, eq=False)
class MiniImageNet:
    """The images of miniImageNet, mapped into memory, each split sorted by class, then by name.

    Args:
        base: The 64 classes to train on; labels 0 … 63.
        val: The 16 classes to choose a checkpoint with; labels 0 … 15.
        novel: The 20 classes to test on; labels 0 … 19.
        base_test: Other images of the base classes, labels as in ``base``. None: the layout has none.
        layout: Layout that was read: folders, pkl-cache, gidaris-pickle, csv-flat, csv-class-dirs or json.
        images_per_class: Images of every class; 600 is the whole set.
        checksum: SHA-256 over pixels, labels and class names of all splits.
    """

    base: ImageSet
    val: ImageSet
    novel: ImageSet
    base_test: ImageSet | None
    layout: str
    images_per_class: int
    checksum: str


def open_miniimagenet(
    data_dir: Path,
    *,
    image_size: int = ORIGINAL_SIZE,
    images_per_class: int = WHOLE_CLASS,
    cache_dir: Path | None = None,
) -> MiniImageNet:
    """Open miniImageNet in whichever of six layouts it lies, decoding it once and keeping the pixels.

    The layout is looked for in ``data_dir`` first, then in its subfolders that are called miniimagenet in some
    spelling; see `fewshot.miniimagenet.layouts` for the files of each and for the order. Decoded images are kept in a
    folder named after the files' names, sizes and times of change, and opened from there the next time.

    Args:
        data_dir: Folder with the images, or the one above. It is never written to.
        image_size: Side of the images in pixels: shorter side to this size (bilinear, anti-aliased), central square.
            Images that already have this size keep their pixels.
        images_per_class: Images that every class of base, val and novel must have; 600 is the whole set.
        cache_dir: Where decoded images are kept, 1.27 GB for the whole set at 84 pixels. None: ``NORM_SUITE_CACHE``,
            else the user's cache folder.

    Returns:
        The splits of Ravi and Larochelle, as uint8 sets.

    Raises:
        ValueError: No layout is complete there, the set is not 64/16/20 classes of that many images, a file is
            damaged, or the cache cannot be written; the message says what must hold, what came and what to do.

    Source: Vinyals et al. 2016, "Matching Networks for One Shot Learning" (the images); Ravi and Larochelle 2017,
    "Optimization as a Model for Few-Shot Learning" (the splits).
    """
    for name, value in {"image_size": image_size, "images_per_class": images_per_class}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    source = find_source(data_dir.expanduser())
    check_listings(source.listings, images_per_class=images_per_class, origin=source.root)
    key = hashlib.sha256(f"{FORMAT}|{image_size}|{source.fingerprint()}".encode()).hexdigest()
    folder = cache_directory(cache_dir) / "miniimagenet" / key
    build_once(
        folder,
        build=lambda empty: build_stored(
            empty, source=source, image_size=image_size, images_per_class=images_per_class
        ),
        damage=find_damage,
        num_bytes=sum(CLASSES.values()) * images_per_class * 3 * image_size**2,
    )
    stored = read_facts(folder)
    check_listings(stored.listings, images_per_class=images_per_class, origin=source.root)
    return MiniImageNet(
        base=_image_set(folder, stored, "base", images_per_class),
        val=_image_set(folder, stored, "val", images_per_class),
        novel=_image_set(folder, stored, "novel", images_per_class),
        base_test=_image_set(folder, stored, BASE_TEST, images_per_class) if BASE_TEST in stored.listings else None,
        layout=stored.layout,
        images_per_class=images_per_class,
        checksum=stored.checksum,
    )


def _image_set(folder: Path, stored: Stored, split: str, images_per_class: int) -> ImageSet:
    listing = stored.listings[split]
    labels = torch.repeat_interleave(torch.arange(len(listing.classes)), torch.tensor(listing.counts))
    whole = images_per_class == WHOLE_CLASS or split == BASE_TEST
    special = [] if whole else [f"{images_per_class} a class"]
    special += [] if stored.image_size == ORIGINAL_SIZE else [f"{stored.image_size} px"]
    name = f"miniimagenet/{split}" + (f"[{', '.join(special)}]" if special else "")
    return ImageSet(map_images(folder, split), labels, listing.classes, name)
