"""Files that only their owner may read, and a lock that dies with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def open_private(path: Path, flags: int) -> int:
    """Open *path*, which is made readable by its owner alone if it is not there."""
    return os.open(path, flags | os.O_CREAT, 0o600)


def sync_directory(path: Path) -> None:
    """Have the names of the files in the directory *path* on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def aside(path: Path) -> Path:
    """A name that no file has yet, for a damaged one of the backlog *path*."""
    while True:
        name = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        if not name.exists():
            return name


def lock(path: Path) -> int | None:
    """Lock the file *path* for this process, or give None if somebody has it locked.

    The lock lasts until the file that is returned is closed.  It belongs to that open file, so a second
    tracker of the same process does not get it either; a forked child has the open file too and must close
    it, or the lock would outlive the parent.

    Raises:
        OSError: the file cannot be made.
    """
    fd = open_private(path, os.O_RDWR)
    try:
        if sys.platform != "win32":
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    with contextlib.suppress(OSError):  # for who wonders; nothing here reads it, and the disk may be full
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    return fd
