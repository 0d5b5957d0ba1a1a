"""Where a tracker keeps what is not delivered, beyond the end of its process."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from atom_sansio import BacklogError, BatchUnreadable, KeptBatch, Level, Records, Recovered, UpdateBacklog
from atom_sansio._records import read_records

from . import _mending as mending
from . import _tables as tables
from ._files import Lock, Working, itself, lock, lock_of, make_private, open_private, user
from ._tails import Tails

logger = logging.getLogger("atom")

Log = Callable[[int, str], object]
"""Takes the level of a message, as :mod:`logging` has them, and its words."""


def log_at_once(level: int, words: str) -> None:
    """Log it; not for who holds a lock: a handler of the user's may need that, or wait for who does."""
    logger.log(level, "%s", words)


MAX_SEGMENTS: Final = 256
"""Trackers that may have the same backlog at once."""

_live: weakref.WeakSet[OpenBacklog] = weakref.WeakSet()
"""Those that are open, so that a forked child can leave them to its parent, whatever driver has them."""

_inherited: list[object] = []
"""In a forked child, connections of its parent: to close one would say to SQLite that nobody has the file."""


class Backlog:
    """What a ``Tracker`` is given as its ``backlog``, if a path does not say enough.

    Beside *path* there are files that begin with its name: SQLite's own, the records of events that are in no
    batch yet (``-tail-``), and a lock (``-lock``).  Only their owner may read them.  No key is in any.

    Where another tracker has the file already, as with several workers of a server, or in a forked child, a
    tracker uses a file of its own, with a number after its name (``events.db.2``).  Whoever opens a backlog
    also delivers what is left in such files by trackers that are gone.

    Args:
        path: of the file, in a directory that is there.
        level: what an accepted event survives; ``"memory"``, ``"process"`` or ``"disk"``.

    Raises:
        TypeError, ValueError: *path* or *level* cannot be one.
    """

    def __init__(self, path: str | os.PathLike[str], *, level: Level | str = Level.PROCESS) -> None:
        if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
            raise TypeError(f"backlog must be a path, a str or os.PathLike[str], not {type(path).__name__}")
        if not os.fspath(path):
            raise ValueError("backlog must not be an empty path")
        try:
            self._level = Level(level)
        except ValueError:
            choices = ", ".join(choice.value for choice in Level)
            raise ValueError(f"level must be one of {choices}, not {level!r}") from None
        self._path = itself(path)

    @property
    def path(self) -> Path:
        """Absolute."""
        return self._path

    @property
    def level(self) -> Level:
        """What an accepted event survives."""
        return self._level

    def __repr__(self) -> str:
        return f"Backlog({str(self._path)!r}, level={self._level.value!r})"

    @property
    def files(self) -> list[Path]:
        """Those of its files that are there: the one of its name, and numbered ones."""
        return [path for path in map(self._file, range(1, MAX_SEGMENTS + 1)) if path.exists()]

    def _file(self, number: int) -> Path:
        return self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number}")

    def open(self, *, numbered: bool = True) -> OpenBacklog:
        """Open the first of its files that nobody has.

        One that cannot be opened, since it is another user's, say, is left for later, as long as there is another.

        Args:
            numbered: whether one with a number after its name will do as the one that is written to.

        Raises:
            BacklogError: there is none that can be opened; the message says why.
        """
        return self._open(log_at_once, numbered=numbered)

    def _open(self, log: Log, *, numbered: bool = True) -> OpenBacklog:
        own: Segment | None = None
        others = []
        left: list[tuple[Path, Exception]] = []
        try:
            for number in range(1, MAX_SEGMENTS + 1):
                path = self._file(number)
                there = path.exists()
                if own is not None and not there:
                    continue  # not the end: what was before another one may have been emptied and deleted
                there = there or lock_of(path).exists()
                try:
                    segment = Segment.open(path, self._level, log)
                except (OSError, *tables.ERRORS) as error:
                    if number == 1 or not (own or there):  # where no new file can be made no other number will do
                        raise
                    left.append((path, error))
                    continue
                if segment is None:
                    if not numbered and own is None:
                        raise BacklogError(f"{path} is in use by {user(path)}")
                    continue
                if own is None:
                    own = segment
                else:
                    others.append(segment)
            if own is None:
                if left:
                    raise left[0][1]
                raise BacklogError(f"the backlog {self._path} and all {MAX_SEGMENTS} others of that name are in use")
            for path, why in left:
                log(logging.WARNING, f"{path} is left for later: {why}")
            return OpenBacklog(own, others, log)
        except BaseException as error:
            for segment in (own, *others):
                if segment is not None:
                    segment.close()
            if isinstance(error, (OSError, *tables.ERRORS)):
                raise BacklogError(f"the backlog {self._path} cannot be opened: {error}") from error
            raise


def open_backlog(backlog: Backlog | str | os.PathLike[str], log: Log = log_at_once) -> OpenBacklog:
    """Open what the option ``backlog`` of a tracker was given.

    Args:
        log: called with what the user is to be told, unless the backlog is another's, or opened in another way.
    """
    if isinstance(backlog, (str, os.PathLike)):
        backlog = Backlog(backlog)
    return backlog._open(log) if type(backlog) is Backlog else backlog.open()


class OpenBacklog:
    """A backlog that this process has, until it is closed.  Each method may be called by any thread.

    Args:
        own: what is written to.
        others: what trackers that are gone have left; these are only emptied.
        log: called with what the user is to be told, until :meth:`recover` is over.
    """

    def __init__(self, own: Segment, others: list[Segment], log: Log) -> None:
        self._own = own
        self._others = others
        self._log = log
        self._open = True
        self.append: Callable[[Records], None] = own.append
        """Write records, as the level says, and mark them as appended at the very end.  OSError: they are not written;
        none of them counts."""
        self.level = own.level
        """What an accepted event survives."""
        self._where: dict[str, Segment] = {}  # batches in the others
        self._dropped: set[str] = set()  # of these, those that need not be kept any more
        _live.add(self)

    @property
    def path(self) -> Path:
        """Of the file that is written to."""
        return self._own.path

    @property
    def files(self) -> list[Path]:
        """All that it has: the one that is written to, and those that are emptied."""
        return [segment.path for segment in (self._own, *self._others)]

    def recover(self) -> Recovered:
        """What there is to be sent; to be called once.

        Raises:
            BacklogError: that cannot be read; the backlog is closed.
        """
        try:
            return self._recover()
        except (OSError, *tables.ERRORS) as error:
            self.close()
            raise BacklogError(f"the backlog {self.path} cannot be read: {error}") from error
        except BaseException:
            self.close()
            raise

    def _recover(self) -> Recovered:
        for segment in list(self._others):
            try:
                segment.hand_records_over(self._own)
            except (OSError, *tables.ERRORS) as error:
                self._log(logging.WARNING, f"{segment.path} is left for later: {error}")
                self._others.remove(segment)
                segment.close()
        found = self._own.recover(self._log)
        # What others have left is older than what was made of their records, so it comes first.  A place is free
        # for each in the table of this one, too, where it goes if it must be split.
        theirs: list[KeptBatch] = []
        damaged = found.damaged
        for segment in reversed(self._others):
            left = segment.recover(self._log)
            batches = left.batches
            damaged += left.damaged
            self._where.update((kept.batch_id, segment) for kept in batches)
            theirs += batches
        first = min((kept.place for kept in found.batches), default=0) - len(theirs)
        theirs = [replace(kept, place=first + i, part=0) for i, kept in enumerate(theirs)]
        return replace(found, batches=(*theirs, *found.batches), damaged=damaged)

    def update(self, update: UpdateBacklog) -> None:
        """Make *update*, all or nothing, in the file that is written to.

        Batches in other files are dropped there after that.  A file that does not take it now is tried again with the
        next update, and at the end; what is still there then is sent again by the next tracker, under its id.

        Raises:
            OSError: it was not made, or nobody knows.
        """
        self._own.update(update)
        self._dropped.update(batch_id for batch_id in update.drop if batch_id in self._where)
        if self._dropped or update.drop or update.forget_before:
            self._empty_others()

    def _empty_others(self) -> None:
        for segment in list(self._others):
            dropped = tuple(batch_id for batch_id in self._dropped if self._where[batch_id] is segment)
            try:
                if dropped:
                    segment.drop(dropped)
                    self._dropped.difference_update(dropped)
                    for batch_id in dropped:
                        del self._where[batch_id]
                if segment not in self._where.values() and segment.empty():
                    self._others.remove(segment)
                    segment.delete()
            except OSError:  # which is said, and no reason to take what is in the own file for not made
                continue

    def said(self) -> Iterator[str]:
        """What the user is to be told since this was last asked: what the disk said, each cause once, and what is
        damaged."""
        for segment in (self._own, *self._others):
            while segment.said:
                yield segment.said.popleft()

    def load(self, batch_id: str) -> bytes:
        """The events of a batch, a line each.

        Raises:
            BatchUnreadable: they never can be again.  They are set aside, and the tracker gives them up as lost.
            OSError: they cannot be read now.  The tracker asks again, as it does whatever else is raised.
        """
        return self._where.get(batch_id, self._own).load(batch_id)

    def close(self) -> None:
        """Let others have it.  Closing twice is harmless."""
        if self._open:
            self._open = False
            if self._dropped:
                self._empty_others()
            self.append = _closed
            for segment in (self._own, *self._others):
                segment.close()

    def leave_to_parent(self) -> None:
        """In a forked child: it is the parent's, which goes on with it.  To say so twice is harmless."""
        self._open = False
        self.append = _closed
        for segment in (self._own, *self._others):
            segment.leave_to_parent()


def _closed(records: Records) -> None:
    raise OSError(errno.EBADF, "the backlog is closed")


class Segment:
    """One file of batches with its files of records, locked."""

    def __init__(self, path: Path, taken: Lock, connection: sqlite3.Connection, level: Level, lost: int) -> None:
        self.path = path
        self._taken: Lock | None = taken
        self._connection = connection
        self.level = level
        self._lost = lost
        self._tails = Tails(path, sync=level is Level.DISK)
        self.append = self._tails.append
        self._lock = threading.Lock()
        self._damaged: list[tuple[str, str, bytes]] = []  # not set aside yet
        self._trouble: Exception | None = None  # after which the file could not be opened again yet
        self._troubles: set[str] = set()  # of which was said already that they are there
        self.said: deque[str] = deque()
        """What the user is to be told, once it is open.  It is not logged here: a handler of the user's may wait for
        an event to be taken in, which may wait for this."""

    @classmethod
    def open(cls, path: Path, level: Level, log: Log) -> Segment | None:
        """The segment at *path*, which is made if it is not there; None if another has it, or it is no backlog.

        Raises:
            OSError, sqlite3.Error: it cannot be made or read.
        """
        lock_path = lock_of(path)
        ours = lock_path.exists()
        if path.is_dir() or (path.exists() and not ours and not _may_be_one(path)):
            log(logging.ERROR, f"{path} is no backlog; it is left as it is, and another file is used")
            return None
        taken = lock(lock_path)
        if taken is None:
            return None
        try:
            mending.finish(path)
            os.close(open_private(path, os.O_RDWR))
            with Working():
                connection, lost = _connect(path, level, partial(log, logging.ERROR))
            for suffix in ("", "-wal", "-shm"):  # now that it is known to be a backlog
                make_private(path.with_name(path.name + suffix))
            return cls(path, taken, connection, level, lost)
        except tables.NoBacklog as error:
            log(logging.ERROR, f"{path} cannot be used: {error}; it is left as it is, and another file is used")
            if not ours:
                lock_path.unlink()
            taken.close()
            return None
        except BaseException:
            taken.close()
            raise

    def recover(self, log: Log) -> Recovered:
        """What is in it.

        Raises:
            OSError, sqlite3.Error: that cannot be read.
        """
        with self._lock:
            with Working():
                batches = tuple(tables.list_batches(self._connection))
                marks = tables.list_marks(self._connection)
            for reason in self._tails.set_unreadable_aside():
                log(logging.ERROR, f"records cannot be read and are set aside: {reason}")
                self._lost += 1
            files = self._tails.read()
            records, damaged = read_records(files, marks)
            self._damaged = [(f"{self.path.name}-tail", piece.reason, piece.data) for piece in damaged]
            if damaged:
                reasons = ", ".join(sorted({piece.reason for piece in damaged}))
                pieces = len(damaged)
                log(logging.ERROR, f"damaged records of {self.path} are set aside (pieces: {pieces}): {reasons}")
            lost, self._lost = self._lost, 0
            return Recovered(
                batches=batches,
                records=tuple(records),
                generation=self._last_generation(),
                damaged=lost + sum(piece.events for piece in damaged),
            )

    def update(self, update: UpdateBacklog) -> None:
        """Make *update*; to make it again does no harm.

        Raises:
            OSError: it is not known to be made.
        """
        with self._working() as connection:
            with tables.transaction(connection):
                tables.make(connection, update)
                if self._damaged:
                    tables.set_aside(connection, self._damaged)
            self._damaged = []
            if update.forget_before:
                # First the files: without their marks they would count again.
                self._tails.forget_before(update.forget_before)
                tables.forget_marks(connection, update.forget_before)
            if update.drop and not update.put:
                tables.give_back_space(connection, 256)

    def drop(self, batch_ids: tuple[str, ...]) -> None:
        """Keep these batches no longer.

        Raises:
            OSError: they may still be kept.
        """
        with self._working() as connection, tables.transaction(connection):
            tables.drop(connection, batch_ids)

    def hand_records_over(self, to: Segment) -> None:
        """Let the records in it be those of the segment *to*.

        They are handed over by renaming their files, one after another: whenever this ends, each is in one segment.
        """
        with Working():
            marks = tables.list_marks(self._connection)
        generation = to._last_generation()
        for old in self._tails.generations():
            generation += 1
            moved = [replace(mark, generation=generation) for mark in marks if mark.generation == old]
            if moved:  # before their files come, or these would count again
                with to._lock, Working(), tables.transaction(to._connection):
                    tables.set_marks(to._connection, moved)
            self._tails.hand_over(old, to.path, generation)
        if marks:
            with self._lock, Working(), tables.transaction(self._connection):
                tables.forget_marks(self._connection, 1 << 62)

    def _last_generation(self) -> int:
        """The highest that there are records or marks of; 0 if there are none."""
        with Working():
            marks = [mark.generation for mark in tables.list_marks(self._connection)]
        return max((0, *self._tails.generations(), *marks))

    def load(self, batch_id: str) -> bytes:
        """The events of a batch, a line each.

        Raises:
            BatchUnreadable: they are not what was put; what is left is set aside.
            OSError: they cannot be read, now.
        """
        try:
            with self._working() as connection:
                lines = tables.load_batch(connection, batch_id)
                if lines is None:
                    mending.check(connection, self.path, whole=True)
        except OSError as error:
            if error.__cause__ is None or not mending.is_damage(error.__cause__):
                raise
            with self._working() as connection:  # which is a better one, if one could be made
                lines = tables.load_batch(connection, batch_id)
        except BatchUnreadable as error:
            with self._working() as connection, tables.transaction(connection):  # or it is not given up yet
                tables.set_batch_aside(connection, batch_id, str(error))
            raise
        if lines is None:
            raise BatchUnreadable("it is not there any more")
        return lines

    def empty(self) -> bool:
        """Whether nothing at all is in it that anybody may want.

        Raises:
            OSError: nobody knows.
        """
        with self._working() as connection:
            return tables.is_empty(connection) and not self._damaged and not self._tails.generations()

    def delete(self) -> None:
        """Delete its files but for the lock, and let others have the name."""
        with self._lock:
            if self._taken is None:
                return
            taken, self._taken = self._taken, None
            try:
                with contextlib.suppress(sqlite3.Error), Working():
                    self._connection.close()
                with contextlib.suppress(OSError):  # then somebody else will find it empty
                    for suffix in ("", "-wal", "-shm"):
                        self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            finally:
                taken.close()

    def close(self) -> None:
        """Let others have it.  Closing twice is harmless."""
        with self._lock:
            if self._taken is None:
                return
            taken, self._taken = self._taken, None
            try:
                with contextlib.suppress(OSError):
                    self._tails.close()
                with contextlib.suppress(sqlite3.Error), Working():
                    self._connection.close()
            finally:
                taken.close()

    def leave_to_parent(self) -> None:
        """In a forked child: close what keeps the lock, and nothing else.  Its threads, and their locks, are gone."""
        if self._taken is not None:
            _inherited.append(self._connection)
            taken, self._taken = self._taken, None
            taken.close()
            self._tails.close()

    @contextlib.contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        """The connection.  What the disk could not read or write is not trusted to be as SQLite remembers it."""
        with self._lock, Working():
            if self._taken is None:
                raise OSError("the backlog is closed")
            if self._trouble is not None:
                self._connect_again(self._trouble)
            try:
                yield self._connection
            except OSError as error:
                self._say(error)
                raise
            except (sqlite3.Error, ValueError, OverflowError) as error:
                self._say(error)
                with contextlib.suppress(OSError):  # then whoever works with it next tries that first
                    self._connect_again(error)
                raise OSError(f"{self.path.name}: {error}") from error

    def _connect_again(self, error: Exception) -> None:
        """Open the file again, since *error* came of it.

        Raises:
            OSError: that is not possible now.
        """
        self._trouble = error
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        try:
            if mending.is_damage(error):
                # The core will come across what is lost.
                self._connection, _ = _connect(self.path, self.level, self.said.append, whole=True)
            else:
                self._connection = tables.connect(self.path, sync=self.level is Level.DISK)
        except (*tables.ERRORS, OSError, tables.NoBacklog) as again:
            self._say(again)
            if not mending.is_damage(error):
                self._trouble = again  # which may say that it is damaged
            raise OSError(f"{self.path.name} cannot be opened again: {again}") from again
        self._trouble = None

    def _say(self, error: Exception) -> None:
        words = str(error)
        if words not in self._troubles:  # or it would be said with each try, as long as a disk is full
            self._troubles.add(words)
            self.said.append(f"{self.path} cannot be used, and is tried again: {words}")


def _may_be_one(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) in (b"", b"SQLite format 3\0")


def _connect(
    path: Path, level: Level, say: Callable[[str], object], *, whole: bool = False
) -> tuple[sqlite3.Connection, int]:
    """Open the file of a segment that is ours, whatever has happened to it; return how many events are lost of it.

    Args:
        say: called with what was found, for the user.
        whole: look all of it through, however large it is.

    Raises:
        NoBacklog: it is none, or of a later version.
        OSError, sqlite3.Error: the disk is full, or does not answer.
    """
    sync = level is Level.DISK
    lost = 0
    log = mending.Log(path)
    try:
        try:
            connection, batches, marks = _connect_checked(path, sync, whole)
        except tables.ERRORS as error:
            if not mending.is_damage(error):
                raise
            lost = mending.mend(path, error, say)
            connection, batches, marks = _connect_checked(path, sync, whole)
        else:
            lost += log.lost(connection, say)
    finally:
        log.close()
    if batches or marks:
        say(f"{len(batches)} batches and {len(marks)} marks of the backlog {path} are damaged")
        with contextlib.suppress(sqlite3.Error), tables.transaction(connection):  # the disk may be full
            tables.set_damaged_aside(connection, batches, marks)
    return connection, lost + len(batches)


def _connect_checked(
    path: Path, sync: bool, whole: bool
) -> tuple[sqlite3.Connection, list[int], list[tuple[Any, ...]]]:
    """Open the file, and give what :func:`_tables.list_damaged` does."""
    connection = tables.connect(path, sync=sync)
    try:
        mending.check(connection, path, whole=whole)
        return connection, *tables.list_damaged(connection)
    except BaseException:
        connection.close()
        raise


def _leave_all_to_parent() -> None:
    for backlog in list(_live):
        backlog.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
