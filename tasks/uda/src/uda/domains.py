"""Which data two names of domains mean: Office-31's own, or folders of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from shared.errors import UserError, choose
from uda import protocol

Dataset = Literal["embedded", "office31", "folders"]


def dataset_of(dataset: Dataset, *, source: str, target: str, base: Path) -> Dataset:
    """Return the data set that is meant: folders where both domains are paths of folders, else the one given.

    Args:
        dataset: What was given.
        source: Labelled domain.
        target: The other.
        base: What relative paths start from.
    """
    names = (source, target)
    if not any(name in protocol.LETTERS for name in names) and all(domain_folder(base, n).is_dir() for n in names):
        return "folders"
    return dataset


def domain_folder(base: Path, name: str) -> Path:
    """Return where a domain of the user lies.

    Args:
        base: What a relative path starts from.
        name: The path as given.
    """
    return base / Path(name).expanduser()


def check_domain(name: str, value: str, *, base: Path) -> None:
    """Check that a domain is one of Office-31's.

    Args:
        name: "source" or "target".
        value: What was given.
        base: What relative paths start from.

    Raises:
        UserError: If it is none; for a path it says when folders are taken.
    """
    is_path = "/" in value or domain_folder(base, value).is_dir()
    if is_path and value not in protocol.LETTERS:
        other = "target" if name == "source" else "source"
        raise UserError(
            f"{name} must be one of {', '.join(protocol.LETTERS)}, or a folder where {other} is one, too; got "
            f'{value!r}. Give two folders that exist, or args="--data.dataset=folders".'
        )
    choose(name, value, protocol.LETTERS)
