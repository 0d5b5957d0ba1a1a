"""The dead letters of a backlog: what was lost for a reason that does not pass, to be read, and to be sent again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from atom_sansio import JSON, BacklogError, BatchUnreadable, LossReason
from atom_sansio._records import read_records

from . import _tables as tables
from ._backlog import OpenBacklog
from ._files import Working, itself, lock, lock_of, user
from ._tails import Tails

_TRIES: Final = 100
"""A tracker that has the file deletes records every now and then, but not so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Some events of one stream that were lost together."""

    number: int
    """Its own, in this file."""
    letter_id: str
    """The id of their batch."""
    stream: str
    fingerprint: str | None
    """Of the key that signed them."""
    events: int
    reason: LossReason
    status: int | None
    """Of the last answer, if there was one."""
    message: str
    """The server's words."""
    attempts: int
    time: float
    """When they were given up, in Unix seconds."""
    lines: bytes = field(repr=False)
    """The events, a line of JSON each."""

    def values(self) -> list[JSON]:
        """The events as JSON values."""
        import json

        return [json.loads(line) for line in self.lines.splitlines()]


@dataclass(slots=True, kw_only=True)
class Waiting:
    """What waits to be sent of one stream and key."""

    stream: str
    fingerprint: str | None
    """Of the key; None for unsigned."""
    batches: int = 0
    records: int = 0
    """Events that are in no batch yet."""
    events: int = 0
    """All of them, in batches and records."""
    size: int = 0
    """Their bytes."""


class DeadLetters:
    """The dead letters in the file *path*.  A tracker may have it meanwhile, but for :meth:`revive`.

    All its methods raise ``BacklogError`` when the file cannot be read or written.

    Raises:
        BacklogError: the file is not there, or no backlog.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = itself(path)
        if not self._path.is_file():
            raise BacklogError(f"{self._path} is not there")
        if not self._path.stat().st_size and not self._path.with_name(f"{self._path.name}-lock").exists():
            raise BacklogError(f"{self._path} is an empty file, and no backlog")
        try:
            with Working():
                self._connection = tables.connect(self._path, sync=True)
                self._connection.execute("PRAGMA secure_delete = ON").fetchall()  # what is erased is to be gone
        except (tables.NoBacklog, *tables.ERRORS, OSError) as error:
            raise BacklogError(f"{self._path} cannot be read: {error}") from error

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with Working():
            self._connection.close()

    def __iter__(self) -> Iterator[Letter]:
        """All of them, the oldest first.  They may be erased meanwhile.

        One that is damaged is left out, and set aside.
        """
        after = 0
        while (letter := self._next(after)) is not None:
            yield letter
            after = letter.number

    def _next(self, after: int) -> Letter | None:
        with self._reading():
            while True:
                found = self._connection.execute(
                    f"SELECT n, {tables.LETTER}, crc, lines FROM dead WHERE n > ? ORDER BY n LIMIT 1",  # noqa: S608
                    (after,),
                ).fetchone()
                if found is None:
                    return None
                after, *row = found
                reason = tables.trouble_of_letter(row)
                if reason is None:
                    break
                with tables.transaction(self._connection):
                    tables.set_aside(self._connection, [("dead", reason, tables.row_bytes(found))])
                    self._connection.execute("DELETE FROM dead WHERE n = ?", (after,))
            return Letter(
                number=after,
                letter_id=row[0],
                stream=row[1],
                fingerprint=row[2],
                events=row[3],
                reason=LossReason(row[4]),
                status=row[5],
                message=row[6],
                attempts=row[7],
                time=row[8],
                lines=row[10],
            )

    def erase(self, *letters: Letter) -> None:
        """Keep *letters* no longer, all or none."""
        with self._reading(), tables.transaction(self._connection):
            tables.erase(self._connection, ((letter.number, letter.letter_id) for letter in letters))
        with self._reading():
            tables.give_back_space(self._connection, 4096)

    def revive(self, *letters: Letter, opened: OpenBacklog | None = None) -> None:
        """Let the next tracker that has this file send *letters* again, under their old ids; all of them or none.

        No tracker may have the file meanwhile: the places of its next batches are known to it alone.

        Args:
            opened: the caller's own, if that has the file, and what is in it was not recovered yet.

        Raises:
            BacklogError: a tracker has the file; the letters are as they were.
        """
        # The lock first: who forks waits for this to be done with SQLite, and has no lock opened or closed meanwhile.
        with self._lock(opened), self._reading(), tables.transaction(self._connection):
            for letter in letters:
                tables.revive(self._connection, letter.number, letter.letter_id)

    @contextlib.contextmanager
    def _lock(self, opened: OpenBacklog | None) -> Iterator[None]:
        if opened is not None and self._path.absolute() in opened.files:
            yield
            return
        try:
            taken = lock(lock_of(self._path))
        except OSError as error:
            raise BacklogError(f"{self._path} cannot be locked: {error}") from error
        if taken is None:
            raise BacklogError(f"{self._path} is in use by {user(self._path)}; revive letters when that has ended")
        try:
            yield
        finally:
            taken.close()

    @property
    def pending(self) -> tuple[int, int]:
        """Batches that wait to be sent, and their events."""
        with self._reading():
            row = self._connection.execute("SELECT count(*), total(events) FROM batches").fetchone()
            return row[0], int(row[1])

    def waiting(self) -> list[Waiting]:
        """What waits to be sent, in batches and in records, by stream and key."""
        with self._reading():
            # First the records: what becomes a batch meanwhile is told apart by its mark.
            files = self._read_tails()
            self._connection.execute("BEGIN")
            try:
                batches = list(tables.list_batches(self._connection))
                marks = tables.list_marks(self._connection)
            finally:
                self._connection.execute("COMMIT")
            found: dict[tuple[str, str | None], Waiting] = {}
            for kept in batches:
                address = kept.stream, kept.fingerprint
                waiting = found.setdefault(address, Waiting(stream=kept.stream, fingerprint=kept.fingerprint))
                waiting.batches += 1
                waiting.events += kept.events
                waiting.size += kept.size
            for records in read_records(files, marks)[0]:
                address = records.stream, records.fingerprint
                waiting = found.setdefault(address, Waiting(stream=records.stream, fingerprint=records.fingerprint))
                events = records.lines.count(b"\n")
                waiting.records += events
                waiting.events += events
                waiting.size += len(records.lines)
            return [found[address] for address in sorted(found, key=lambda at: (at[0], at[1] or ""))]

    @property
    def damaged(self) -> list[tuple[str, str, bytes]]:
        """What was set aside since it cannot be read: where it was found, what is wrong with it, and what is left."""
        with self._reading():
            return self._connection.execute("SELECT source, reason, data FROM damaged ORDER BY n").fetchall()

    def _read_tails(self) -> list[tuple[int, bytes]]:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return Tails(self._path, sync=False).read()
        raise BacklogError(f"{self._path} cannot be read: its records are deleted all the time")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with Working():
                yield
        except (sqlite3.Error, OSError, ValueError, TypeError, BatchUnreadable) as error:
            raise BacklogError(f"{self._path} cannot be used: {error}") from error
