"""Saying what a directory holds, for the messages of the readers."""

from pathlib import Path

_MAX_NAMES = 5


def describe_directory(directory: Path) -> str:
    """Say in a few words what is at a path, for instance ``"holds cifar-10-batches-py, train"``.

    Args:
        directory: The path that a reader was given.

    Returns:
        Words that follow the path in a sentence.
    """
    if not directory.exists():
        return "does not exist"
    if not directory.is_dir():
        return "is a file"
    names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    if not names:
        return "is empty"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"holds {', '.join(names[:_MAX_NAMES])}{more}"
