"""Any two folders with one folder per class, as the source and the target of an adaptation."""

import dataclasses
from pathlib import Path

from shared.data.directory import describe_directory
from shared.data.folder import ImageFolder
from shared.data.sets import ImageSet
from shared.errors import UserError
from uda.office31.layouts import list_class_folders
from uda.office31.names import name_differences
from uda.office31.stored import check_image_size, open_images


def open_folder_pair(
    source_dir: Path, target_dir: Path, *, image_size: int, cache_dir: Path | None = None
) -> tuple[ImageSet, ImageSet]:
    """Open two folders that hold the same classes, decoding each once and keeping the pixels.

    Args:
        source_dir: Folder of the labelled domain: ``<class>/*.jpg``. It is never written to.
        target_dir: Folder of the other domain, with the same names of classes; its labels serve evaluation only.
        image_size: Side S of the images in pixels, to which they are resized (bicubic, anti-aliased) without keeping
            their aspect.
        cache_dir: Where decoded images are kept, 3·S² bytes each. None: ``NORM_SUITE_CACHE``, else the user's cache
            folder.

    Returns:
        Source and target, named after their folders: uint8 images of shape (N, 3, S, S), sorted by class, then by
        name. Labels number the classes in alphabetical order.

    Raises:
        ValueError: A folder is absent or has no class folders, both are the same, a class is empty or in one of them
            only, an image is damaged, or the cache cannot be written to; the message says what to do.
    """
    check_image_size(image_size)
    source_dir, target_dir = source_dir.expanduser(), target_dir.expanduser()
    source = _list(source_dir, "source_dir")
    target = _list(target_dir, "target_dir")
    if source_dir.samefile(target_dir):
        raise UserError(
            f"source_dir and target_dir must be different folders; got {source_dir} for both. Give two domains."
        )
    differences = name_differences(
        source.classes, target.classes, left_name=f"source_dir {source_dir}", right_name=f"target_dir {target_dir}"
    )
    if differences:
        raise UserError(
            f"source_dir and target_dir must have class folders of the same names; got {differences}. Copy the "
            "missing folders, or rename or remove the others."
        )
    return (
        open_images(_named(source, image_size), image_size=image_size, cache_dir=cache_dir),
        open_images(_named(target, image_size), image_size=image_size, cache_dir=cache_dir),
    )


def _list(folder: Path, name: str) -> ImageFolder:
    if not folder.is_dir():
        raise UserError(
            f"{name} must be a folder that holds one folder per class; got {folder}, which "
            f"{describe_directory(folder)}. Give the folder above the class folders."
        )
    return list_class_folders(folder, name=folder.resolve().name, spelling=str)


def _named(folder: ImageFolder, image_size: int) -> ImageFolder:
    return dataclasses.replace(folder, name=f"{folder.name}[{image_size} px]")
