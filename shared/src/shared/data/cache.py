"""Folders that are built once and kept for the next run: all of a folder is there, or nothing of it."""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from shared.errors import UserError

_log = logging.getLogger(__name__)
_TEMPORARY = ".building-"
_LOCK = ".lock"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDY = "set data.cache_dir or NORM_SUITE_CACHE to another folder"


def cache_directory(cache_dir: Path | None) -> Path:
    """Return the folder under which built data is kept; it need not exist.

    Args:
        cache_dir: The folder that the user chose. None: ``$NORM_SUITE_CACHE``, else ``$XDG_CACHE_HOME/norm-suite``,
            else ``~/.cache/norm-suite``.
    """
    if cache_dir is not None:
        return cache_dir.expanduser()
    chosen = os.environ.get("NORM_SUITE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "norm-suite"


def build_once(
    folder: Path, *, build: Callable[[Path], None], damage: Callable[[Path], str | None], num_bytes: int
) -> None:
    """Make sure that ``folder`` is there and whole, building it if need be.

    It is built in a temporary folder beside it, written through to the disk and renamed into place, under a lock on
    the parent folder. A second process waits and then finds it; what a killed build left is removed by the next one.

    Args:
        folder: The folder, which nobody else writes to.
        build: Fills the empty folder that it is given.
        damage: Says in a few words what is wrong with a folder that is there. None: it is whole.
        num_bytes: Space that the folder takes, in bytes.

    Raises:
        UserError: The parent folder cannot be written to, or has not that much space.
    """
    if folder.exists() and damage(folder) is None:
        return
    parent = folder.parent
    with _locked(parent, num_bytes=num_bytes):
        if folder.exists():
            reason = damage(folder)  # again: another process may have built it in the meantime
            if reason is None:
                return
            _log.warning("%s is damaged (%s): building it again.", folder, reason)
            _remove(folder)
        for abandoned in parent.glob(f"{_TEMPORARY}*"):
            _remove(abandoned)
        _require_space(parent, num_bytes=num_bytes)
        temporary = parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            temporary.mkdir()
            build(temporary)
            for path in (*temporary.iterdir(), temporary):
                _sync(path)
            temporary.rename(folder)
            _sync(parent)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise UserError(_space_message(parent, num_bytes=num_bytes, got=_reason(error))) from error
            raise
        finally:
            _remove(temporary)


@contextlib.contextmanager
def _locked(parent: Path, *, num_bytes: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((parent / _LOCK).open("wb"))
            _wait_for(lock.fileno(), parent)
        except OSError as error:
            raise UserError(
                f"cache_dir must be a folder that can be written to ({num_bytes:,} bytes are needed); got {parent}: "
                f"{_reason(error)}. Make it writable, or {_REMEDY}."
            ) from error
        yield


def _wait_for(lock: int, parent: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that writes to {parent}", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _require_space(parent: Path, *, num_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise UserError(_space_message(parent, num_bytes=num_bytes, got=f"{free:,} bytes"))


def _space_message(parent: Path, *, num_bytes: int, got: str) -> str:
    return f"cache_dir must have {num_bytes:,} bytes free; got {got} in {parent}. Free some space, or {_REMEDY}."


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
