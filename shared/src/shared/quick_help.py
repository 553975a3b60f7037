"""A task's help from the last time that it was asked for: torch and Lightning take ten seconds to import.

A text is kept under the cache folder for one command line, one state of the sources, one set of versions and one width
of the terminal; anything else makes it anew. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from shared.catalog import ROOT
from shared.data.cache import cache_directory

NUM_KEPT = 32
"""Texts that are kept; the oldest make room."""
FLAGS = ("--help", "-h")
LIBRARIES = ("torch", "pytorch-lightning", "jsonargparse")


def show_kept_help() -> None:
    """End the process with the help that its command line asks for, where it is kept; else do nothing."""
    if not _is_asked_for():
        return
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = _file().read_text(encoding="utf-8")
        print(text, end="", flush=True)
        raise SystemExit(0)


def keep_help(text: str) -> None:
    """Keep the help that this process prints; where the cache cannot be written, it is made anew next time.

    Args:
        text: The whole help.
    """
    if not _is_asked_for():
        return
    file = _file()
    temporary = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
        for old in sorted(file.parent.glob("*.txt"), key=lambda kept: kept.stat().st_mtime)[:-NUM_KEPT]:
            old.unlink()


def _is_asked_for() -> bool:
    return any(word in FLAGS for word in sys.argv[1:])


def _file() -> Path:
    lines = [
        sys.version,
        *(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        str(shutil.get_terminal_size().columns),
        str(sys.stdout.isatty()),
        *sys.argv,
        *map(_state, _sources()),
    ]
    return cache_directory(None) / "help" / f"{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}.txt"


def _sources() -> Iterator[Path]:
    """Return what a help is made of: the suite's sources and configs, and files named on the command line."""
    for folder in ("packages", "shared", "tasks"):
        for place, names, files in os.walk(ROOT / folder):
            names[:] = sorted(name for name in names if name != "__pycache__")
            yield from (Path(place, name) for name in sorted(files) if name.endswith((".py", ".yaml", ".toml")))
    for word in sys.argv[1:]:
        path = Path(word.partition("=")[2] or word)
        if path.is_file():
            yield path


def _state(file: Path) -> str:
    found = file.stat()
    return f"{file} {found.st_size} {found.st_mtime_ns}"
