"""Finding Office-31 on disk, in one of four layouts. Nothing is ever downloaded.

=============  ======================================================================================================
original       ``<domain>/images/<class>/*.jpg``, as the archive unpacks
CAN            ``<domain>/<class>/*.jpg``, with or without a ``category.txt``
tllib          ``image_list/<domain>.txt`` beside the images of any layout: lines of a path, which may hold spaces,
               and a label
pytorch-adapt  ``office31/<domain>/images/<class>/*.jpg`` with ``<domain>_train.txt`` and ``<domain>_test.txt``
=============  ======================================================================================================

A domain's folder is called by its name in any case, or by its first letter. Where a list is there it says which images
there are. A ``category.txt`` is not read, as its order is the alphabetical one; nor are the lists of pytorch-adapt's
own 80/20 split, as the protocol takes the whole set.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.data.directory import describe_directory
from shared.data.folder import ImageFolder, list_image_folder
from shared.errors import UserError
from uda.office31.lists import find_list, read_list
from uda.office31.names import domain_spellings, official_class, plain_spelling

_SET_NAMES = ("office31", "domainadaptationimages")


@dataclass(frozen=True)
class DomainPlace:
    """Where one domain lies.

    Args:
        root: The folder that holds all domains.
        path: The domain's folder, or its list.
    """

    root: Path
    path: Path

    def list_files(self, domain: str) -> ImageFolder:
        """List the domain's images, sorted by class in its official spelling, then by name.

        Args:
            domain: Its name, which becomes the listing's.

        Raises:
            ValueError: The list is damaged or names an absent file, a class has no image, or two folders hold one
                class.
        """
        if self.path.is_file():
            return sort_files(self.root, read_list(self.path, root=self.root), name=domain)
        return list_class_folders(self.path, name=domain, spelling=official_class)


def find_domains(data_dir: Path, domains: Sequence[str]) -> dict[str, DomainPlace]:
    """Return where each domain lies: in a folder, or in its subfolders called office31 in some spelling.

    Args:
        data_dir: Where to look.
        domains: Names of the domains; a folder that lacks one of them is not taken.

    Raises:
        UserError: Nowhere are all of them.
    """
    incomplete: list[tuple[Path, dict[str, DomainPlace]]] = []
    for root in (data_dir, *_subfolders(data_dir, _is_called_office31)):
        places = {domain: place for domain in domains if (place := _find_domain(root, domain)) is not None}
        if len(places) == len(domains):
            return places
        if places:
            incomplete.append((root, places))
    if incomplete:
        root, places = incomplete[0]
        missing = ", ".join(domain for domain in domains if domain not in places)
        raise UserError(
            f"data_dir must hold a folder of each domain ({', '.join(domains)}); got {', '.join(places)} in {root}, "
            f"without {missing}. Copy the folder there; nothing is downloaded."
        )
    raise UserError(
        "data_dir must hold Office-31 as <domain>/images/<class>/*.jpg or <domain>/<class>/*.jpg (domains "
        f"{', '.join(domains)}); got {data_dir}, which {_describe(data_dir)}. Unpack the set there, as nothing is "
        "downloaded, or give its folder."
    )


def list_class_folders(folder: Path, *, name: str, spelling: Callable[[str], str]) -> ImageFolder:
    """List the images of a folder that holds one folder per class, but those whose name starts with a dot.

    Args:
        folder: The folder.
        name: Name of the listing.
        spelling: Gives the class of a folder's name.

    Raises:
        ValueError: There is no class folder, one has no image, or two are of one class.
    """
    listed = list_image_folder(folder, name=name)
    first: dict[str, str] = {}
    for class_folder in listed.classes:
        other = first.setdefault(spelling(class_folder), class_folder)
        if other != class_folder:
            raise UserError(
                f"{name} must have one folder per class; got {other} and {class_folder}, which are both "
                f"{spelling(class_folder)}, in {folder}. Remove one of the two."
            )
    paths = [Path(file) for file in listed.files]
    visible = [path for path in paths if not path.name.startswith(".")]  # macOS adds a ._frame_0001.jpg to each file
    return sort_files(folder, [(spelling(path.parent.name), str(path)) for path in visible], name=name)


def sort_files(root: Path, entries: Iterable[tuple[str, str]], *, name: str) -> ImageFolder:
    """Put files in order and number their classes in alphabetical order.

    Args:
        root: The folder that the files are relative to.
        entries: Class and path of each file, in any order.
        name: Name of the listing.
    """
    ordered = sorted(entries, key=lambda entry: (entry[0], Path(entry[1]).name, entry[1]))
    classes = tuple(sorted({class_name for class_name, _ in ordered}))
    numbers = {class_name: number for number, class_name in enumerate(classes)}
    labels = torch.tensor([numbers[class_name] for class_name, _ in ordered], dtype=torch.int64)
    return ImageFolder(root, tuple(file for _, file in ordered), labels, classes, name)


def _find_domain(root: Path, domain: str) -> DomainPlace | None:
    listed = find_list(root, domain)
    if listed is not None:
        return DomainPlace(root, listed)
    for spelling in domain_spellings(domain):
        folder = _subfolder(root, spelling)
        if folder is not None:
            return DomainPlace(root, _subfolder(folder, "images") or folder)
    return None


def _subfolder(folder: Path, name: str) -> Path | None:
    """Return the subfolder of that name, in lower case if there are several cases of it."""
    found = _subfolders(folder, lambda candidate: candidate.lower() == name)
    return found[-1] if found else None


def _subfolders(folder: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_wanted(path.name) and path.is_dir())


def _is_called_office31(name: str) -> bool:
    return any(known in plain_spelling(name) for known in _SET_NAMES)


def _describe(data_dir: Path) -> str:
    below = [f"{path.name} {describe_directory(path)}" for path in _subfolders(data_dir, _is_called_office31)]
    return describe_directory(data_dir) + (f" ({'; '.join(below)})" if below else "")
