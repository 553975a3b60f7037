"""Layout "folders": ``train/<class>/*.jpg``, ``val/…``, ``test/…``."""

from collections.abc import Mapping
from pathlib import Path

from fewshot.miniimagenet.images import ImageFiles
from fewshot.miniimagenet.source import FileSource
from shared.data.folder import list_image_folder

LAYOUT = "folders"
_FOLDERS = {"base": ("train",), "val": ("val", "validation"), "novel": ("test",)}


def find_folders(root: Path) -> dict[str, Path | None]:
    """Return the folder of each split.

    Args:
        root: Where to look.

    Returns:
        By split; None where it is absent.
    """
    return {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in _FOLDERS.items()
    }


def open_folders(root: Path, paths: Mapping[str, Path]) -> FileSource:
    """List the three folders of splits.

    Args:
        root: The folder that holds all three.
        paths: Folder of each split.

    Raises:
        ValueError: A split has no class folder, or one without an image.
    """
    images = {}
    for split, folder in paths.items():
        listed = list_image_folder(folder, name=split)
        class_names = [listed.classes[label] for label in listed.labels.tolist()]
        images[split] = ImageFiles.sorted(class_names, [folder / file for file in listed.files])
    return FileSource(LAYOUT, root, images)
