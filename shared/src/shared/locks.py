"""Locks by which processes keep off each other's files, also where the file system emulates them, or has none."""

from __future__ import annotations

import errno
import fcntl
from io import IOBase

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""Answers of file systems without locks; of NFS, EBADF where a handle is not open for what the lock is for."""


def take_lock(file: IOBase | int, kind: int) -> bool:
    """Take a lock on an open file, until it is closed.

    Args:
        file: The file; open for writing where the lock is exclusive, which NFS asks for.
        kind: What `fcntl.flock` takes.

    Returns:
        Whether nobody else holds it; true, too, where the file system knows no locks.
    """
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
