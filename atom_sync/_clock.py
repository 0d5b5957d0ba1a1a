"""Time, waiting and threads: what the driver takes from the system, as one object that a test can replace."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from ._late_imports import whole_imports

LOOK_AGAIN: Final = 1.0
"""Seconds after which who waits looks again: what interrupts it between looking and waiting, a signal handler or a
finaliser, may let the lock go, and the wake-up pass."""


class Clock:
    """The system's own."""

    now = staticmethod(time.monotonic)
    """Monotonic seconds."""

    def unix_offset(self) -> float:
        """What to add to :meth:`now` to get Unix seconds."""
        return time.time() - time.monotonic()

    def unit(self) -> float:
        """A draw from [0, 1)."""
        with whole_imports():
            from random import random  # not before the first answer: a program starts sooner

        # From now on it is this.  (A cached_property has a lock before 3.12, which a fork could find taken for ever.)
        self.unit = random  # type: ignore[method-assign]
        return self.unit()

    def unique(self) -> str:
        """128 random bits in hex."""
        return os.urandom(16).hex()

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait for a :meth:`notify` of *condition*, whose lock is held, but not past *until*."""
        if until is None:
            condition.wait()
        else:
            condition.wait(min(max(until - self.now(), 0.0), threading.TIMEOUT_MAX))

    def notify(self, condition: threading.Condition) -> None:
        """Let one thread go on that waits for *condition*, whose lock is held.

        If one interrupts another, both may choose the same: whoever goes on is to wake the next if there is more to do.
        """
        try:  # noqa: SIM105 - suppress() takes twice as long as all the rest, and this is for each batch
            condition.notify()
        except IndexError:  # see notify_all()
            pass

    def notify_all(self, condition: threading.Condition) -> None:
        """Let all threads go on that wait for *condition*, whose lock is held."""
        # A handler or a finaliser that interrupts this, and notifies too, may have woken the last one just before
        # Condition takes it from the front of its queue: then there is nobody left to be woken.
        try:  # noqa: SIM105 - as in notify()
            condition.notify_all()
        except IndexError:
            pass

    def gate(self) -> threading.Lock:
        """A closed gate, at which one thread may wait.  That takes less than a condition, and no lock to go on."""
        gate = threading.Lock()
        gate.acquire()
        return gate

    def wait_at(self, gate: threading.Lock, until: float) -> None:
        """Wait until *gate* is open, but not past *until*."""
        gate.acquire(timeout=min(max(until - self.now(), 0.0), threading.TIMEOUT_MAX))

    def open(self, gate: threading.Lock) -> None:
        """Let the thread go on that waits at *gate*, or will; to open it twice is harmless."""
        try:  # noqa: SIM105 - as in notify(), and this is for each event at level disk
            gate.release()
        except RuntimeError:
            pass

    def start(self, target: Callable[[], None], name: str) -> None:
        """Run *target* in a thread that does not keep the process alive.

        Raises:
            RuntimeError: the interpreter shuts down and starts no more threads, or there are too many.
        """
        try:
            _Thread(target=target, name=name, daemon=True).start()
        except MemoryError as error:
            raise RuntimeError("there is no memory for another thread") from error


class _Thread(threading.Thread):
    """One that nobody waits for until it runs.

    It may be started under a lock, and what the collector of garbage finds in it before it runs may be a finaliser that
    tracks, and needs that lock: it and who waits for it would wait for each other for ever.
    """

    def __init__(self, *, target: Callable[[], None], name: str, daemon: bool) -> None:
        super().__init__(target=target, name=name, daemon=daemon)
        self._started = _Unawaited()  # what start() waits for, in all versions of CPython so far

    def join(self, timeout: float | None = None) -> None:
        threading.Event.wait(self._started, timeout)  # or a program that waits for all threads would find it too new
        super().join(timeout)


class _Unawaited(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return True
