"""The file of batches and dead letters: its tables, and each thing that is done with them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from zlib import crc32

from atom_sansio import BatchUnreadable, DeadLetter, KeptBatch, Mark, UpdateBacklog

APPLICATION_ID: Final = 0x41746F42  # "AtoB"
VERSION: Final = 1

_PARTS: Final = 2048
"""More than a batch has events; a batch's row number is its place times this, plus its part."""

_SCHEMA: Final = (
    """CREATE TABLE batches (
        n INTEGER PRIMARY KEY, batch_id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL, fingerprint TEXT,
        events INTEGER NOT NULL, size INTEGER NOT NULL, head INTEGER NOT NULL, crc INTEGER NOT NULL,
        lines BLOB NOT NULL)""",
    """CREATE TABLE marks (
        generation INTEGER NOT NULL, stream TEXT NOT NULL, fingerprint TEXT NOT NULL, last INTEGER NOT NULL,
        crc INTEGER NOT NULL, PRIMARY KEY (generation, stream, fingerprint)) WITHOUT ROWID""",
    """CREATE TABLE dead (
        n INTEGER PRIMARY KEY, letter_id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL, fingerprint TEXT,
        events INTEGER NOT NULL, reason TEXT NOT NULL, status INTEGER, message TEXT NOT NULL,
        attempts INTEGER NOT NULL, time REAL NOT NULL, crc INTEGER NOT NULL, lines BLOB NOT NULL)""",
    """CREATE TABLE damaged (
        n INTEGER PRIMARY KEY, source TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL, data BLOB NOT NULL)""",
)
"""Each row that matters has a checksum of its own: SQLite has none, and disks give back what they were never given."""

T = TypeVar("T")

_text: Final = partial(str, encoding="utf-8", errors="surrogateescape")
"""Read text that may be damaged."""


ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the latter where its own message quotes what is damaged."""


class NoBacklog(Exception):
    """The file is of another kind, or of a version to come."""


def connect(path: Path, *, sync: bool) -> sqlite3.Connection:
    """Open the file, which must be there, and make its tables if it is empty.

    Raises:
        NoBacklog: it is none, or of a later version.
        sqlite3.Error, OSError: it cannot be opened or read.
    """
    connection = attach(path)
    try:
        mark = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        schema = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
        ours = [sql for (sql,) in schema] == list(_SCHEMA)  # whatever has become of the numbers
        if schema and not ours:
            if mark != APPLICATION_ID:
                raise NoBacklog("it is no backlog")
            if version > VERSION:
                raise NoBacklog(f"it is a backlog of version {version}; this program reads version {VERSION}")
            raise sqlite3.DatabaseError("its tables are malformed")
        if not schema:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # which would write to a file that has tables
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
        # Some builds write zeros over all that is deleted, which is as much as it was.
        connection.execute("PRAGMA secure_delete = FAST").fetchall()
        if not schema or (mark, version) != (APPLICATION_ID, VERSION):
            with transaction(connection):
                for statement in () if schema else _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            # The tables themselves are not to depend on a log, of which damage may take all that comes after it.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def attach(path: Path) -> sqlite3.Connection:
    """Open the SQLite file *path*, which must be there."""
    uri = Path(os.path.abspath(path)).as_uri()  # noqa: PTH100 - as the path says, without resolving symlinks
    connection = sqlite3.connect(
        f"{uri}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=10.0
    )
    connection.text_factory = _text
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is done within, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


_HEAD: Final = "n, batch_id, stream, fingerprint, events, size"


def list_batches(connection: sqlite3.Connection) -> Iterator[KeptBatch]:
    """All batches in their order, without their events; those that are damaged are left out."""
    for *row, head in connection.execute(f"SELECT {_HEAD}, head FROM batches ORDER BY n"):  # noqa: S608 - ours
        if head != checksum(row):
            continue
        n, batch_id, stream, fingerprint, events, size = row
        place, part = divmod(n, _PARTS)
        yield KeptBatch(
            batch_id=batch_id,
            place=place,
            part=part,
            stream=stream,
            fingerprint=fingerprint,
            events=events,
            size=size,
        )


def list_marks(connection: sqlite3.Connection) -> list[Mark]:
    """All marks; without those that are damaged, so that what they were of comes again rather than not at all."""
    rows = connection.execute("SELECT generation, stream, fingerprint, last, crc FROM marks")
    return [
        Mark(generation=row[0], stream=row[1], fingerprint=row[2] or None, index=row[3])
        for *row, crc in rows
        if crc == checksum(row)
    ]


def load_batch(connection: sqlite3.Connection, batch_id: str) -> bytes | None:
    """The events of a batch, a line each; None if there is no such batch.

    Raises:
        BatchUnreadable: they are not what was put.
    """
    found = connection.execute(
        f"SELECT {_HEAD}, head, crc, lines FROM batches WHERE batch_id = ?",  # noqa: S608 - ours
        (batch_id,),
    ).fetchone()
    if found is None:
        return None
    if reason := trouble_of_batch(found):
        raise BatchUnreadable(reason)
    lines: bytes = found[-1]
    return lines


def put(connection: sqlite3.Connection, batches: Iterable[tuple[KeptBatch, bytes]]) -> None:
    """Keep *batches*; those that are kept already are replaced, and no others."""
    rows = [
        (*row, head := checksum(row), crc32(lines, head), lines)
        for kept, lines in batches
        for row in [
            (kept.place * _PARTS + kept.part, kept.batch_id, kept.stream, kept.fingerprint, kept.events, kept.size)
        ]
    ]
    insert = "INSERT INTO batches VALUES"
    try:
        _insert(connection, insert, rows)
    except sqlite3.IntegrityError:  # most likely this was made before, and that was not known
        for new in rows:
            connection.execute("DELETE FROM batches WHERE batch_id = ?", (new[1],))
            _make_room(connection, new[0])
            _insert(connection, insert, [new])


_VALUES: Final = 900
"""Of one statement; 999 is what SQLite took before version 3.32."""


def _insert(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many *rows* with each statement.

    In each the interpreter's lock is let go, and where a program is busy it takes 5 ms to get it back.
    """
    if rows:
        width = len(rows[0])
        for some in _chunks(rows, _VALUES // width):
            values = ", ".join([f"({', '.join('?' * width)})"] * len(some))
            connection.execute(f"{insert} {values}", [value for row in some for value in row])


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


_AWAY: Final = _PARTS << 20
"""Well before those of a tracker, which may be at work just before and after what there is."""


def _make_room(connection: sqlite3.Connection, n: int) -> None:
    """Move the batch of number *n* elsewhere, if there is one: a tracker that has the file does not know of it."""
    found = connection.execute(f"SELECT {_HEAD}, head, crc, lines FROM batches WHERE n = ?", (n,)).fetchone()  # noqa: S608
    if found is None:
        return
    if reason := trouble_of_batch(found):
        set_batch_aside(connection, n, reason)
        return
    _, *rest = found[:6]
    [first] = connection.execute("SELECT min(n) FROM batches").fetchone()
    row = (first - first % _PARTS - _AWAY, *rest)
    head = checksum(row)
    values = (row[0], head, crc32(found[-1], head), n)
    connection.execute("UPDATE batches SET n = ?, head = ?, crc = ? WHERE n = ?", values)


def drop(connection: sqlite3.Connection, batch_ids: Sequence[str]) -> None:
    """Keep these batches no longer."""
    for some in _chunks(batch_ids, _VALUES):
        marks = ", ".join("?" * len(some))
        connection.execute(f"DELETE FROM batches WHERE batch_id IN ({marks})", some)  # noqa: S608 - no input


LETTER: Final = "letter_id, stream, fingerprint, events, reason, status, message, attempts, time"


def bury(connection: sqlite3.Connection, letters: Iterable[DeadLetter]) -> None:
    """Keep *letters*."""
    connection.executemany(
        f"INSERT OR REPLACE INTO dead ({LETTER}, crc, lines) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            (*row, crc32(letter.loss.lines, checksum(row)), letter.loss.lines)
            for letter in letters
            for row in [
                (
                    letter.letter_id,
                    letter.loss.stream,
                    letter.fingerprint,
                    letter.loss.count,
                    letter.loss.reason.value,
                    letter.loss.status,
                    letter.loss.message,
                    letter.loss.attempts,
                    float(letter.loss.time),
                )
            ]
        ),
    )


def set_marks(connection: sqlite3.Connection, marks: Iterable[Mark]) -> None:
    """Keep *marks*."""
    rows = [
        (*row, checksum(row))
        for mark in marks
        for row in [(mark.generation, mark.stream, mark.fingerprint or "", mark.index)]
    ]
    _insert(connection, "INSERT OR REPLACE INTO marks VALUES", rows)


def set_aside(connection: sqlite3.Connection, pieces: Iterable[tuple[str, str, bytes]]) -> None:
    """Keep damaged *pieces*, each with where it was found and what is wrong with it."""
    connection.executemany(
        "INSERT INTO damaged (source, reason, time, data) VALUES (?, ?, ?, ?)",
        ((source, reason, time.time(), data) for source, reason, data in pieces),
    )


def make(connection: sqlite3.Connection, update: UpdateBacklog) -> None:
    """Make *update*, within a transaction."""
    put(connection, update.put)
    drop(connection, update.drop)
    bury(connection, update.dead)
    set_marks(connection, update.marks)


def forget_marks(connection: sqlite3.Connection, generation: int) -> None:
    """Keep marks of earlier generations no longer."""
    connection.execute("DELETE FROM marks WHERE generation < ?", (generation,))


def give_back_space(connection: sqlite3.Connection, pages: int) -> None:
    """Make the file shorter by up to so many free pages."""
    if connection.execute("PRAGMA freelist_count").fetchone()[0]:
        connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()


def checksum(values: Iterable[object]) -> int:
    """Of some values of a row, the same in any version of Python."""
    return crc32(ascii(tuple(values)).encode())


def trouble_of_batch(row: Sequence[Any]) -> str | None:
    """What is wrong with a whole row of the table of batches, if anything is."""
    *values, head, crc, lines = row
    if head != checksum(values):
        return "it is not what was put"
    return None if _is_whole(lines, head, crc) and len(lines) == values[-1] else "its checksum is wrong"


def trouble_of_letter(row: Sequence[Any]) -> str | None:
    """What is wrong with a row of the table of dead letters, less its number, if anything is."""
    *values, crc, lines = row
    return None if _is_whole(lines, checksum(values), crc) else "its checksum is wrong"


def _is_whole(lines: object, before: int, crc: object) -> bool:
    return isinstance(lines, bytes) and crc == crc32(lines, before)


def list_damaged(connection: sqlite3.Connection) -> tuple[list[int], list[tuple[Any, ...]]]:
    """The numbers of batches, and the marks, that are not what was put.

    A batch whose events alone are damaged is not among them; that is found when it is loaded.
    """
    rows = connection.execute(f"SELECT {_HEAD}, head FROM batches ORDER BY n")  # noqa: S608 - ours
    batches = [row[0] for *row, head in rows if head != checksum(row)]
    rows = connection.execute("SELECT generation, stream, fingerprint, last, crc FROM marks")
    return batches, [(*row, crc) for *row, crc in rows if crc != checksum(row)]


def set_damaged_aside(connection: sqlite3.Connection, batches: list[int], marks: list[tuple[Any, ...]]) -> None:
    """Set what :meth:`list_damaged` found aside, within a transaction."""
    for n in batches:
        set_batch_aside(connection, n, "it is not what was put")
    for mark in marks:
        set_aside(connection, [("marks", "it is not what was put", ascii(mark).encode())])
        connection.execute("DELETE FROM marks WHERE generation = ? AND last = ? AND crc = ?", (mark[0], *mark[3:]))


def set_batch_aside(connection: sqlite3.Connection, batch: int | str, reason: str) -> None:
    """Set the batch of that number or id aside, within a transaction."""
    column = "n" if isinstance(batch, int) else "batch_id"
    for row in connection.execute(f"SELECT * FROM batches WHERE {column} = ?", (batch,)).fetchall():  # noqa: S608
        set_aside(connection, [("batches", reason, row_bytes(row))])
    connection.execute(f"DELETE FROM batches WHERE {column} = ?", (batch,))  # noqa: S608 - ours


def row_bytes(row: Sequence[Any]) -> bytes:
    """What is left of a row: its values, and in a line of its own what it holds of events."""
    lines = row[-1] if isinstance(row[-1], bytes) else ascii(row[-1]).encode()
    return ascii(tuple(row[:-1])).encode() + b"\n" + lines


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether there is neither a batch nor a dead letter nor a damaged piece."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM batches) + EXISTS (SELECT 1 FROM dead) + EXISTS (SELECT 1 FROM damaged)"
    ).fetchone()
    return not row[0]


def erase(connection: sqlite3.Connection, letters: Iterable[tuple[int, str]]) -> None:
    """Keep no longer the dead letters of these numbers and ids; a number may be another letter's by now."""
    connection.executemany("DELETE FROM dead WHERE n = ? AND letter_id = ?", letters)


def revive(connection: sqlite3.Connection, number: int, letter_id: str) -> None:
    """Make a dead letter a batch again, the last of all, under its old id.

    Raises:
        BatchUnreadable: it is not what was buried.
    """
    row = connection.execute(
        f"SELECT {LETTER}, crc, lines FROM dead WHERE n = ? AND letter_id = ?",  # noqa: S608 - ours
        (number, letter_id),
    ).fetchone()
    if row is None:
        return
    if reason := trouble_of_letter(row):
        raise BatchUnreadable(reason)
    batch_id, stream, fingerprint, events, *_, lines = row
    last = connection.execute("SELECT max(n) FROM batches").fetchone()[0] or 0
    kept = KeptBatch(
        batch_id=batch_id,
        place=last // _PARTS + 1,
        part=0,
        stream=stream,
        fingerprint=fingerprint,
        events=events,
        size=len(lines),
    )
    put(connection, [(kept, lines)])
    connection.execute("DELETE FROM dead WHERE n = ?", (number,))
