"""Files that only their owner may read, and a lock that dies with the process that has it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from atom_sync._late_imports import LONGEST_WAIT

if sys.platform != "win32":
    import fcntl


def itself(path: str | os.PathLike[str]) -> Path:
    """The absolute *path*; of a symbolic link to a file, that file's.

    Beside it are the files that go with it, whatever it is called, and one lock for all its names.  Links to
    directories are followed when it is opened.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - the program may go elsewhere, and a child may be forked there
    return Path(os.path.realpath(absolute) if os.path.islink(absolute) else absolute)  # noqa: PTH114


def open_private(path: Path, flags: int) -> int:
    """Open *path*, which is made readable by its owner alone if it is not there."""
    return os.open(path, flags | os.O_CREAT, 0o600)


def make_private(path: Path) -> None:
    """Have *path* readable by its owner alone, if it is there and this process's user is that."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            found = path.stat()
            if found.st_uid == os.geteuid() and found.st_mode & 0o077:
                path.chmod(0o600)


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


class Lock:
    """A file that this process has locked, until it is closed.

    The lock belongs to that open file, so a second tracker of the same process does not get it either.  A forked
    child has the open file too, and would keep the lock beyond its parent's end; so all are closed there, also those of
    threads that were just about to open something, and that nobody in the child knows of.  Until the child comes to
    that, or where it is suspended before, its parent may close the file and so must give up the lock by itself.
    """

    def __init__(self, path: Path) -> None:
        self._process = os.getpid()
        with _no_fork:
            self._fd: int | None = open_private(path, os.O_RDWR)
            _locks.add(self)

    def take(self) -> bool:
        """Whether this got it.

        Raises:
            OSError: the disk does not answer.
        """
        assert self._fd is not None
        try:
            if sys.platform != "win32":
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with contextlib.suppress(OSError):  # for who wonders; nothing here reads it, and the disk may be full
            os.ftruncate(self._fd, 0)
            os.write(self._fd, b"%d\n" % os.getpid())
        return True

    def close(self) -> None:
        """Let others have it.  Closing twice is harmless."""
        with _no_fork:
            _locks.discard(self)
            fd, self._fd = self._fd, None
            if fd is not None:
                if sys.platform != "win32" and not self.inherited:
                    with contextlib.suppress(OSError):
                        fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)

    @property
    def inherited(self) -> bool:
        """Whether it is the parent's, of which this process was forked."""
        return self._process != os.getpid()


_locks: set[Lock] = set()

_no_fork = threading.RLock()
"""Who opens or closes a file of these holds it, and who forks, so that a child knows of each that it has open.

Re-entrant, since a signal handler may fork.  Who forks waits no longer than ``LONGEST_WAIT`` for this and for those at
work, should a disk hang: a file that is still being opened is none that a child has.
"""


class Working:
    """Within this a thread works with SQLite, and no other thread forks.

    SQLite has mutexes of its own, of the whole process: one that another thread has at a fork is locked in the child
    for ever, whatever file the child works with.  A call that a signal handler interrupts has none at that moment, so
    what forks there is not in its own way.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def __enter__(self) -> None:
        # Who forks waits for a thread that is at work already, so that must not wait for who forks.
        with contextlib.nullcontext() if self.thread in _threads_at_work() else _entry:
            _at_work[id(self)] = self

    def __exit__(self, *error: object) -> None:
        _at_work.pop(id(self), None)


_at_work: weakref.WeakValueDictionary[int, Working] = weakref.WeakValueDictionary()
"""Those within; what a signal handler has raised in just before or after that is gone with its frame."""

_entry = threading.RLock()
"""Who joins them holds it for a moment, and who forks all the time."""

_CLOSED: Final = 0.1
"""Seconds that nobody can join them while a fork waits for those within; most need less."""


def lock(path: Path) -> Lock | None:
    """Lock the file *path* for this process, or give None if somebody has it locked.

    Raises:
        OSError: the file cannot be made.
    """
    taken = Lock(path)
    try:
        if taken.take():
            return taken
    except BaseException:
        taken.close()
        raise
    taken.close()
    return None


def lock_of(path: Path) -> Path:
    """The file that is locked by who has the backlog *path*."""
    return path.with_name(f"{path.name}-lock")


def user(path: Path) -> str:
    """Who has the backlog *path*, as its lock tells."""
    try:
        return f"process {int(lock_of(path).read_bytes())}"
    except (OSError, ValueError):
        return "another tracker"


def _before_fork() -> None:
    until = time.monotonic() + LONGEST_WAIT
    _no_fork.acquire(timeout=LONGEST_WAIT)
    while _entry.acquire(timeout=max(0.0, until - time.monotonic())):
        closed_until = min(time.monotonic() + _CLOSED, until)
        while others := _threads_at_work() - {threading.get_ident()}:
            if time.monotonic() >= closed_until:
                break
            time.sleep(0.001)
        if not others or time.monotonic() >= until:
            return
        _entry.release()  # for one that has to join them before they can end
        time.sleep(0.001)


def _threads_at_work() -> set[int]:
    found = [reference() for reference in _at_work.valuerefs()]  # copied in one step, since who leaves has no lock
    return {working.thread for working in found if working is not None}


def _after_fork() -> None:
    for held in (_no_fork, _entry):
        with contextlib.suppress(RuntimeError):  # it was waited for in vain
            held.release()


def _leave_all_to_parent() -> None:
    global _no_fork, _entry
    # A thread that is not there in the child may have the other ones, for ever.
    _no_fork, _entry = threading.RLock(), threading.RLock()
    _at_work.clear()
    for taken in list(_locks):
        if taken.inherited:  # another hook may have locked something already
            taken.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_leave_all_to_parent)
