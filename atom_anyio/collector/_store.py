"""The collector's store: one SQLite file, and one thread that owns it.

Whatever is asked of the store is queued for that thread and answered through a future.  The thread takes all
submissions that wait and commits them in one transaction, so that the sync to disk is paid once for all that
came in during the last one.  A future has its result when the work would survive a loss of power.

A batch is told from its replay in the same transaction, hence also between two processes with one file.  Its id
is kept as long as its events, and forgotten with them.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, TypeVar

from atom_anyio._log import log
from atom_sansio import AtomError, Refused, Submission

from . import _tables
from ._tables import Outcome, Page, RejectedRequest, StoredEvent, StoreStatistics

MAX_ROOM: Final = 1024 * 1024
"""Bytes that there must be room for before a store that was full is said to work again, if more was asked for."""

T = TypeVar("T")

_log = logging.getLogger("atom_anyio.collector")


class StoreFailed(AtomError):
    """The store could not do it: nothing has changed, and the same may work later."""


class _Kind(Enum):
    READ = auto()
    WRITE = auto()
    """In one transaction with others."""
    CHECK = auto()
    """Writes, in transactions of its own."""


class Store:
    """Keeps events, and what was refused, until they are cleared or, with *keep*, until they are old.

    Its methods may be called from any thread.  Each returns a future at once; the future's result, or
    its :class:`StoreFailed`, comes when the work is done and committed.

    Args:
        path: The SQLite file, made with mode 0600 if there is none; ``":memory:"`` for none.
        keep: Seconds after which events, their batch ids and refused requests are forgotten, as other things
            are stored; None for never.  The file does not shrink, its pages are used again.
        clock: Gives Unix seconds.
        busy_timeout: Seconds to wait for another process that has locked the file.

    Raises:
        ValueError: *keep* is not greater than 0.
        OSError: the file cannot be made or opened.
        StoreFailed: it is no store, or one of another version, or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        keep: float | None = None,
        clock: Callable[[], float] = time.time,
        busy_timeout: float = 1.0,
    ) -> None:
        if keep is not None and not keep > 0:
            raise ValueError(f"keep must be greater than 0, not {keep}")
        self._keep = keep
        self._path = os.fspath(path)
        self._clock = clock
        try:
            self._db = _tables.open_database(self._path, busy_timeout=busy_timeout)
        except sqlite3.Error as error:
            raise StoreFailed(f"{self._path} cannot be used as a store: {error}") from error
        self._failing = False
        self._unstored = 0  # characters of the largest submission that failed, less what was stored since
        self._closed = False
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="atom-store", daemon=True)
        self._thread.start()

    def add(self, submission: Submission) -> Future[Outcome]:
        """Store the events of a verified submission, unless the store has a batch of its stream and id."""
        now = self._clock()
        return self._queue(lambda db: _tables.add(db, [submission], now)[0], _Kind.WRITE, [submission])

    def add_all(self, submissions: Sequence[Submission]) -> Future[list[Outcome]]:
        """As :meth:`add` for each of *submissions*, in order; when it fails, none of them is stored."""
        now = self._clock()
        return self._queue(lambda db: _tables.add(db, submissions, now), _Kind.WRITE, submissions)

    def reject(self, refused: Refused, body: bytes) -> Future[None]:
        """Keep what was refused, and why."""
        now = self._clock()
        return self._queue(lambda db: _tables.reject(db, refused, body, now), _Kind.WRITE)

    def clear(self) -> Future[None]:
        """Forget everything: events, batch ids, what was refused, counts."""
        return self._queue(_tables.clear, _Kind.WRITE)

    def events(self, *, stream: str | None = None, after: int = 0, limit: int = 1000) -> Future[Page[StoredEvent]]:
        """Up to *limit* events behind the id *after*, of one stream or of all."""
        return self._queue(lambda db: _tables.events(db, stream, after, limit))

    def rejected(self, *, after: int = 0, limit: int = 1000) -> Future[Page[RejectedRequest]]:
        """Up to *limit* refused requests behind the id *after*."""
        return self._queue(lambda db: _tables.rejected(db, after, limit))

    def statistics(self) -> Future[StoreStatistics]:
        """The counts, in time proportional to the number of streams."""
        return self._queue(_tables.statistics)

    def check(self) -> Future[None]:
        """Whether something can be stored: tried with a commit that changes nothing.

        After a failure there must be room for the largest submission that failed, or 1 MiB if that was more, since
        a full disk often has room for a little.  In this way a store that nobody writes to is found to work again.
        """
        return self._queue(lambda db: _tables.check(db, self._unstored), _Kind.CHECK)

    def close(self) -> None:
        """Do what was asked so far, then close the file.  Closing twice is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _queue(
        self,
        work: Callable[[sqlite3.Connection], T],
        kind: _Kind = _Kind.READ,
        submissions: Sequence[Submission] = (),
    ) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:  # nothing may be queued behind the None that ends the thread
            if self._closed:
                raise StoreFailed("the store is closed")
            self._jobs.put(_Job(future, work, kind, submissions))
        return future

    def _run(self) -> None:
        while True:
            waiting = [self._jobs.get()]
            with suppress(Empty):
                while waiting[-1] is not None:
                    waiting.append(self._jobs.get_nowait())
            jobs = [job for job in waiting if job is not None and job.future.set_running_or_notify_cancel()]
            self._transact([job for job in jobs if job.kind is _Kind.WRITE])
            for job in jobs:
                if job.kind is not _Kind.WRITE:  # on its own: reading goes on while writing fails
                    self._transact([job])
            if waiting[-1] is None:
                break
        self._db.close()

    def _transact(self, jobs: Sequence[_Job]) -> None:
        """Do all of *jobs* in one transaction, or none of them."""
        if not jobs:
            return
        kind = jobs[0].kind
        try:
            self._db.execute("BEGIN" if kind is _Kind.READ else "BEGIN IMMEDIATE")
            if kind is _Kind.WRITE and self._keep is not None:
                _tables.forget(self._db, self._clock() - self._keep)  # first, for the room that it makes
            results = [job.work(self._db) for job in jobs]
            self._db.execute("COMMIT")
        except Exception as error:  # whatever it is, those who wait get it, and the thread lives on
            with suppress(sqlite3.Error):  # SQLite has rolled back already after some errors
                self._db.execute("ROLLBACK")
            self._failed(error, jobs)
            for job in jobs:
                job.future.set_exception(StoreFailed(f"the store is failing: {error}"))
        else:
            if self._failing and kind is not _Kind.READ:
                self._worked(jobs, results)
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    def _failed(self, error: Exception, jobs: Sequence[_Job]) -> None:
        """Log that the store began to fail; not every request that has to do with it."""
        if not self._failing:
            log(_log, logging.WARNING, f"the store {self._path} is failing: {error}")
        self._failing = True
        self._unstored = max(self._unstored, min(max(_sizes(jobs), default=0), MAX_ROOM))

    def _worked(self, jobs: Sequence[_Job], results: Sequence[Any]) -> None:
        """Log that the store works again, when there was room for as much as failed: a full disk takes a little."""
        if jobs[0].kind is _Kind.CHECK:
            self._unstored = 0
        elif Outcome.STORED in results or any(isinstance(it, list) and Outcome.STORED in it for it in results):
            self._unstored -= sum(_sizes(jobs))
        if self._unstored <= 0:
            log(_log, logging.WARNING, f"the store {self._path} works again")
            self._failing = False
            self._unstored = 0


@dataclass(frozen=True, slots=True)
class _Job:
    future: Future[Any]
    work: Callable[[sqlite3.Connection], Any]
    kind: _Kind
    submissions: Sequence[Submission]
    """What it stores."""


def _sizes(jobs: Sequence[_Job]) -> list[int]:
    return [sum(map(len, submission.elements)) for job in jobs for submission in job.submissions]
