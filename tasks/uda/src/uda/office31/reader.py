"""Opening Office-31: find the layout, check it, decode each domain once, map it into memory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from shared.data.folder import ImageFolder
from shared.data.sets import ImageSet
from shared.errors import UserError, choose
from uda.office31.layouts import find_domains
from uda.office31.names import CLASSES, DOMAINS, NUM_IMAGES, check_classes, check_num_images, name_differences
from uda.office31.stored import check_image_size, open_images

PAPER_SIZE = 256
"""Side in pixels to which the protocol resizes all images before it crops 224 × 224."""


def open_office31(
    data_dir: Path,
    *,
    domains: Sequence[str] = DOMAINS,
    image_size: int,
    cache_dir: Path | None = None,
    check: bool,
) -> dict[str, ImageSet]:
    """Open domains of Office-31 in whichever of four layouts they lie, decoding each once and keeping the pixels.

    They are looked for in ``data_dir`` first, then in its subfolders called office31 in some spelling; see
    `uda.office31.layouts` for the layouts and `uda.office31.names.official_class` for the spellings of the classes.
    All domains are found and checked before the first image is read.

    Args:
        data_dir: Folder with the domains, or the one above. It is never written to.
        domains: Which of amazon, dslr and webcam to open; the others need not be there.
        image_size: Side S of the images in pixels, to which they are resized (bicubic, anti-aliased) without keeping
            their aspect; 256 in the protocol.
        cache_dir: Where decoded images are kept, 3·S² bytes each: 0.8 GB for all at 256 pixels. None:
            ``NORM_SUITE_CACHE``, else the user's cache folder.
        check: True: each domain must have the 31 classes and the published number of images. False: any classes, the
            same in all domains, with any number of images; the name of a set that is not whole says so.

    Returns:
        By domain, in the order of ``domains``: uint8 images of shape (N, 3, S, S), sorted by class, then by name.
        Labels number the classes in alphabetical order, which is the official one.

    Raises:
        ValueError: A domain is unknown, named twice or absent, a check fails, an image or a list is damaged, or the
            cache cannot be written to; the message says what must hold, what came and what to do.

    Source: Saenko et al. 2010, "Adapting Visual Category Models to New Domains".
    """
    check_image_size(image_size)
    _check_domains(domains)
    places = find_domains(data_dir.expanduser(), domains)
    folders = {domain: place.list_files(domain) for domain, place in places.items()}
    for domain, folder in folders.items():
        origin = str(places[domain].path)
        if check:
            check_classes(domain, folder.classes, origin=origin)
            check_num_images(domain, len(folder), origin=origin)
        else:
            _check_same_classes(domains[0], folders[domains[0]], domain, folder)
    return {
        domain: open_images(
            dataclasses.replace(folder, name=_set_name(domain, folder, image_size=image_size)),
            image_size=image_size,
            cache_dir=cache_dir,
        )
        for domain, folder in folders.items()
    }


def _check_domains(domains: Sequence[str]) -> None:
    if isinstance(domains, str) or not domains:
        raise UserError(f"domains must be a list of {', '.join(DOMAINS)}; got {domains!r}.")
    for position, domain in enumerate(domains):
        choose("domain", domain, DOMAINS)
        if domain in domains[:position]:
            raise UserError(f"domains must be different from each other; got {domain} twice.")


def _check_same_classes(first: str, expected: ImageFolder, domain: str, folder: ImageFolder) -> None:
    differences = name_differences(expected.classes, folder.classes, left_name=first, right_name=domain)
    if differences:
        raise UserError(
            f"{first} and {domain} must have the same classes; got {differences}. Copy the missing folders or remove "
            "the others."
        )


def _set_name(domain: str, folder: ImageFolder, *, image_size: int) -> str:
    whole = folder.classes == CLASSES and len(folder) == NUM_IMAGES[domain]
    special = [] if whole else [f"subset: {len(folder)} images of {folder.num_classes} classes"]
    special += [] if image_size == PAPER_SIZE else [f"{image_size} px"]
    return f"office31/{domain}" + (f"[{', '.join(special)}]" if special else "")
