"""The collector's store: one SQLite file, and one thread that owns it.

Whatever is asked of the store is queued for that thread and answered through a future.  The thread takes all
submissions that wait and commits them in one transaction, so that the sync to disk is paid once for all that
came in during the last one.  A future has its result when the work would survive a loss of power.

A batch is told from its replay in the same transaction, hence also between two processes with one file.
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
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from atom_sansio import AtomError, Refused, Submission

from . import _tables
from ._tables import Page, RejectedRequest, StoredEvent, StoreStatistics

T = TypeVar("T")

_log = logging.getLogger("atom_anyio.collector")


class StoreFailed(AtomError):
    """The store could not do it: nothing has changed, and the same may work later."""


class Store:
    """Keeps events, and what was refused, until they are cleared.

    Its methods may be called from any thread.  Each returns a future at once; the future's result, or
    its :class:`StoreFailed`, comes when the work is done and committed.

    Args:
        path: The SQLite file, made with mode 0600 if there is none; ``":memory:"`` for none.
        clock: Gives Unix seconds.
        busy_timeout: Seconds to wait for another process that has locked the file.

    Raises:
        OSError: the file cannot be made or opened.
        StoreFailed: it is no store, or one of another version, or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        clock: Callable[[], float] = time.time,
        busy_timeout: float = 1.0,
    ) -> None:
        self._path = os.fspath(path)
        self._clock = clock
        try:
            self._db = _tables.open_database(self._path, busy_timeout=busy_timeout)
        except sqlite3.Error as error:
            raise StoreFailed(f"{self._path} cannot be used as a store: {error}") from error
        self._failing = False
        self._closed = False
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="atom-store", daemon=True)
        self._thread.start()

    def add(self, submission: Submission) -> Future[bool]:
        """Store the events of a verified submission: True, or False if the store has its batch already."""
        now = self._clock()
        return self._queue(lambda db: _tables.add(db, [submission], now)[0], writes=True)

    def add_all(self, submissions: Sequence[Submission]) -> Future[list[bool]]:
        """As :meth:`add` for each of *submissions*, in order; when it fails, none of them is stored."""
        now = self._clock()
        return self._queue(lambda db: _tables.add(db, submissions, now), writes=True)

    def reject(self, refused: Refused, body: bytes) -> Future[None]:
        """Keep what was refused, and why."""
        now = self._clock()
        return self._queue(lambda db: _tables.reject(db, refused, body, now), writes=True)

    def clear(self) -> Future[None]:
        """Forget everything: events, batch ids, what was refused, counts."""
        return self._queue(_tables.clear, writes=True)

    def events(self, *, stream: str | None = None, after: int = 0, limit: int = 1000) -> Future[Page[StoredEvent]]:
        """Up to *limit* events behind the id *after*, of one stream or of all."""
        return self._queue(lambda db: _tables.events(db, stream, after, limit), writes=False)

    def rejected(self, *, after: int = 0, limit: int = 1000) -> Future[Page[RejectedRequest]]:
        """Up to *limit* refused requests behind the id *after*."""
        return self._queue(lambda db: _tables.rejected(db, after, limit), writes=False)

    def statistics(self) -> Future[StoreStatistics]:
        """The counts, in time proportional to the number of streams."""
        return self._queue(_tables.statistics, writes=False)

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

    def _queue(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:  # nothing may be queued behind the None that ends the thread
            if self._closed:
                raise StoreFailed("the store is closed")
            self._jobs.put(_Job(future, work, writes))
        return future

    def _run(self) -> None:
        while True:
            waiting = [self._jobs.get()]
            with suppress(Empty):
                while waiting[-1] is not None:
                    waiting.append(self._jobs.get_nowait())
            jobs = [job for job in waiting if job is not None and job.future.set_running_or_notify_cancel()]
            self._transact([job for job in jobs if job.writes])
            for job in jobs:
                if not job.writes:  # on its own: reading goes on while writing fails
                    self._transact([job])
            if waiting[-1] is None:
                break
        self._db.close()

    def _transact(self, jobs: Sequence[_Job]) -> None:
        """Do all of *jobs* in one transaction, or none of them."""
        if not jobs:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE" if jobs[0].writes else "BEGIN")
            results = [job.work(self._db) for job in jobs]
            self._db.execute("COMMIT")
        except Exception as error:  # whatever it is, those who wait get it, and the thread lives on
            with suppress(sqlite3.Error):  # SQLite has rolled back already after some errors
                self._db.execute("ROLLBACK")
            self._report(error)
            for job in jobs:
                job.future.set_exception(StoreFailed(f"the store is failing: {error}"))
        else:
            if jobs[0].writes:
                self._report(None)
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    def _report(self, error: Exception | None) -> None:
        """Log that the store began to fail, or works again; not every request that has to do with it."""
        if error is not None and not self._failing:
            _log.warning("the store %s is failing: %s", self._path, error)
        elif error is None and self._failing:
            _log.warning("the store %s works again", self._path)
        self._failing = error is not None


@dataclass(frozen=True, slots=True)
class _Job:
    future: Future[Any]
    work: Callable[[sqlite3.Connection], Any]
    writes: bool
