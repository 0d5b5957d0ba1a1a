"""Modules that threads of this package load when they are first needed, and that no fork finds half loaded.

An import holds a lock of its module.  In a child that was forked meanwhile by another thread nobody would ever
release it: the child would wait for ever where it needs that module, and deliver nothing.

An import also runs code of others: a finaliser may track in it, or a signal handler stop the tracker.  So none is begun
under a lock that these need, or two threads would wait for each other for ever.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import Final

LONGEST_WAIT: Final = 5.0
"""Seconds that a fork waits for an import at most, should that wait for something that the forking thread holds."""

_lock = threading.RLock()
_waited = False


def whole_imports() -> AbstractContextManager[object]:
    """The lock to be held around an import; a fork waits for it."""
    return _lock


def _before_fork() -> None:
    global _waited
    _waited = _lock.acquire(timeout=LONGEST_WAIT)


def _after_fork() -> None:
    if _waited:
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    if _waited:
        _lock.release()
    else:
        _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
