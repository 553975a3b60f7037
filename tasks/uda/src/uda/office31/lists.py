"""Lists of images as tllib brings them: ``image_list/amazon.txt``, with a path and a label on each line."""

from itertools import pairwise
from pathlib import Path

from shared.errors import UserError
from uda.office31.names import domain_spellings, official_class

_FOLDER = "image_list"


def find_list(root: Path, domain: str) -> Path | None:
    """Return the list of a domain, whose name is in any of the spellings of a domain's folder.

    Args:
        root: The folder that holds ``image_list``.
        domain: Name of the domain.

    Returns:
        The file. None: there is none.
    """
    folder = root / _FOLDER
    if not folder.is_dir():
        return None
    lists = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.is_file())
    for spelling in domain_spellings(domain):
        found = next((path for path in reversed(lists) if path.stem.lower() == spelling), None)
        if found is not None:
            return found
    return None


def read_list(path: Path, *, root: Path) -> list[tuple[str, str]]:
    """Read a list: ``amazon/images/back_pack/frame_0001.jpg 0``, where the last word is the label.

    The class is the name of the file's folder; the labels must number the classes in alphabetical order.

    Args:
        path: The list.
        root: The folder that its paths are relative to.

    Returns:
        Class in its official spelling and path of each image, in the order of the list.

    Raises:
        UserError: The list is damaged or empty, names a file twice or one that does not exist, or its labels do not
            follow the classes.
    """
    entries: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        file, label = _split(line, number=number, path=path)
        class_name = official_class(Path(file).parent.name)
        if labels.setdefault(class_name, label) != label:
            raise UserError(
                f"{path} must have one label per class; got {labels[class_name]} and {label} (line {number}) for "
                f"{class_name}. Use the published list."
            )
        if file in seen:
            raise UserError(f"{path} must list each image once; got {file} again in line {number}. Remove one line.")
        seen.add(file)
        if not (root / file).is_file():
            raise UserError(
                f"{path} must list files that exist; got {root / file} (line {number}), which does not. Copy the "
                "images, or remove the list."
            )
        entries.append((class_name, file))
    if not entries:
        raise UserError(f"{path} must list images; got none. Use the published list, or remove it.")
    _check_order(path, labels)
    return entries


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} must be a text file; got: {error}. Copy the list again.") from error


def _split(line: str, *, number: int, path: Path) -> tuple[str, int]:
    words = line.strip().rsplit(maxsplit=1)
    if len(words) != 2 or not words[1].isdecimal() or not Path(words[0]).parent.name:
        raise UserError(
            f"line {number} of {path} must be a path <class>/<image> and a label; got {line.strip()!r}. Copy the list "
            "again."
        )
    return words[0], int(words[1])


def _check_order(path: Path, labels: dict[str, int]) -> None:
    ordered = sorted(labels)
    for before, after in pairwise(ordered):
        if labels[before] >= labels[after]:
            raise UserError(
                f"{path} must number the classes in alphabetical order; got {labels[before]} for {before} and "
                f"{labels[after]} for {after}. Use the published list, or remove it."
            )
