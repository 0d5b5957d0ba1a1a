"""What is in the collector's file: its tables, and each thing that is done with them.

Nothing here begins or ends a transaction but :func:`open_database` and :func:`check`; that is for the store to decide.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import Final, Generic, TypeVar

from atom_sansio import Refused, Submission

MAX_REJECTED_BODY: Final = 64 * 1024
"""Bytes kept of a rejected request."""

MAX_REJECTED: Final = 10_000
"""Rejected requests kept; older ones are forgotten, but still counted."""

MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
"""A page ends with the row that takes it over this size, whatever its limit."""

MAX_FORGOTTEN: Final = 20_000
"""Events forgotten in one transaction, or one batch if that has more; so a store that is long overdue goes on
answering.  More than come in while one transaction is synced, so that it catches up."""

_VALUES_AT_ONCE: Final = 512
"""Values of one statement, before it is padded.  Python gives up the interpreter's lock once for each statement,
and has to get it back from the thread that reads requests; for each row, that would take half of the time.  Old
versions of SQLite take 999 parameters."""

_APPLICATION_ID: Final = 0x41746F6D  # "Atom"
_VERSION: Final = 1

# What the events of a request have in common is kept once, in "batches"; their ids are those from first_id to
# last_id.  With it in a row of each event, and an index to find them by stream, the file is twice as large and
# storing takes twice the time.  Who reads the file finds them put together in "events".
# AUTOINCREMENT: an id is never used twice, so what a reader has as its "after" stays right over a clear.
_SCHEMA: Final = (
    "CREATE TABLE texts (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL)",
    """CREATE TABLE batches (
        last_id INTEGER PRIMARY KEY, first_id INTEGER NOT NULL, stream TEXT NOT NULL, batch_id TEXT,
        received_at REAL NOT NULL, UNIQUE (stream, batch_id))""",
    "CREATE INDEX batches_by_stream ON batches (stream)",
    """CREATE VIEW events AS
        SELECT id, stream, text, batch_id, received_at
        FROM batches CROSS JOIN texts ON id BETWEEN first_id AND last_id""",
    """CREATE TABLE rejected (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, status INTEGER NOT NULL, reason TEXT NOT NULL,
        body BLOB NOT NULL, received_at REAL NOT NULL)""",
    "CREATE TABLE streams (name TEXT PRIMARY KEY, stored INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


class Outcome(Enum):
    """What became of a submission."""

    STORED = auto()
    """Its events are in the store; they were not before."""
    DUPLICATE = auto()
    """The same events are in the store under the same stream and batch id."""
    CONFLICT = auto()
    """Other events are in the store under its stream and batch id; so it is not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One event of the store."""

    id: int
    """Grows from event to event; never used again."""
    stream: str
    text: str = field(repr=False)
    batch_id: str | None
    received_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRequest:
    """A request that was refused."""

    id: int
    stream: str | None
    """None where it could not be read."""
    status: int
    reason: str
    body: bytes = field(repr=False)
    """Its first 64 KiB; of a GET, its query."""
    received_at: float
    """Unix seconds."""


Row = TypeVar("Row", StoredEvent, RejectedRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Row]):
    """Some rows, in the order of their ids."""

    rows: tuple[Row, ...]
    next: int | None
    """The ``after`` that gets the rows behind these; None if there are none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """What the store has seen since it was made or cleared, counted in events but for *requests*."""

    stored: int
    duplicates: int
    """Events of batches that were in the store already."""
    rejected: int
    requests: int
    """Submissions and refusals."""
    streams: Mapping[str, int]
    """Events stored, by stream."""


def open_database(path: str, *, busy_timeout: float) -> sqlite3.Connection:
    """A connection to the store at *path*, which is made if there is none; for use by any one thread.

    Raises:
        OSError: the file cannot be made.
        sqlite3.Error: it is no store, or cannot be read or written.
    """
    if path != ":memory:":
        # SQLite would go by the umask.  Its -wal and -shm files get the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        _use_wal(db, busy_timeout)
        db.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits with the power
        db.execute("BEGIN IMMEDIATE")
        _prepare(db)
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _use_wal(db: sqlite3.Connection, busy_timeout: float) -> None:
    """Turn the file to WAL; SQLite waits for no lock in this, so of two that make the file one would fail."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break


def _prepare(db: sqlite3.Connection) -> None:
    queries = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    application, version, tables = (db.execute(query).fetchone()[0] for query in queries)
    if application == version == tables == 0:
        for statement in _SCHEMA:
            db.execute(statement)
    elif application != _APPLICATION_ID:
        raise sqlite3.DatabaseError("it is another program's database")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"it has version {version}, and only version {_VERSION} is known here")


def add(db: sqlite3.Connection, submissions: Sequence[Submission], now: float) -> list[Outcome]:
    """Store the events of each submission, unless its batch id is known for its stream; tell what became of each."""
    known = _known(db, [(it.stream, it.batch_id) for it in submissions if it.batch_id is not None])
    compared: dict[tuple[str, str | None], tuple[str, ...]] = {}
    results: list[Outcome] = []
    batches: list[object] = []
    texts: list[str] = []
    stored: Counter[str] = Counter()
    duplicates = 0
    # Within a transaction that writes nobody else can add to them; and what was deleted keeps its id.
    last_id = db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'texts'").fetchone()[0] or 0
    for it in submissions:
        key = (it.stream, it.batch_id)
        if key in compared or key in known:
            if key not in compared:
                compared[key] = _texts(db, *known[key])
            if compared[key] == it.elements:
                results.append(Outcome.DUPLICATE)
                duplicates += len(it.elements)
            else:
                results.append(Outcome.CONFLICT)
            continue
        results.append(Outcome.STORED)
        if it.elements:
            if it.batch_id is not None:
                compared[key] = it.elements
            first_id = last_id + 1
            last_id += len(it.elements)
            batches += (last_id, first_id, it.stream, it.batch_id, now)
            texts += it.elements
            stored[it.stream] += len(it.elements)
    _insert(db, "texts (text)", 1, texts)
    _insert(db, "batches (last_id, first_id, stream, batch_id, received_at)", 5, batches)
    db.executemany(
        "INSERT INTO streams VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET stored = stored + excluded.stored",
        stored.items(),
    )
    # A conflict is counted when it is refused.
    _count(db, requests=len(results) - results.count(Outcome.CONFLICT), duplicates=duplicates)
    return results


def _known(db: sqlite3.Connection, batches: Sequence[tuple[str, str]]) -> dict[tuple[str, str | None], tuple[int, int]]:
    """Which of *batches*, each a stream and a batch id, are stored, and the first and last id of their events."""
    found: dict[tuple[str, str | None], tuple[int, int]] = {}
    for rows, count, values in _portions(2, [value for batch in batches for value in batch]):
        for stream, batch_id, first_id, last_id in db.execute(
            f"""SELECT stream, batch_id, first_id, last_id FROM (SELECT * FROM (VALUES {rows}) LIMIT ?)
                CROSS JOIN batches ON stream = column1 AND batch_id = column2""",  # noqa: S608 - no input
            (*values, count),
        ):
            found[stream, batch_id] = first_id, last_id
    return found


def _texts(db: sqlite3.Connection, first_id: int, last_id: int) -> tuple[str, ...]:
    rows = db.execute("SELECT text FROM texts WHERE id BETWEEN ? AND ? ORDER BY id", (first_id, last_id))
    return tuple(text for (text,) in rows)


def _insert(db: sqlite3.Connection, into: str, width: int, values: Sequence[object]) -> None:
    """Insert rows of *width* values each, which come one after another."""
    for rows, count, some in _portions(width, values):
        db.execute(f"INSERT INTO {into} SELECT * FROM (VALUES {rows}) LIMIT ?", (*some, count))  # noqa: S608 - no input


def _portions(width: int, values: Sequence[object]) -> Iterator[tuple[str, int, Sequence[object]]]:
    """Rows for VALUES, how many of them count, and their values, for as many statements as it takes.

    The number of rows is a power of two, with NULLs behind those that count: so there are few statements, and
    SQLite has each of them ready.
    """
    at_once = _VALUES_AT_ONCE // width * width
    for start in range(0, len(values), at_once):
        some = values[start : start + at_once]
        count = len(some) // width
        padded = 1 << (count - 1).bit_length()
        yield _rows(width, padded), count, (*some, *[None] * ((padded - count) * width))


@cache
def _rows(width: int, count: int) -> str:
    return ",".join(["(" + ",".join("?" * width) + ")"] * count)


def reject(db: sqlite3.Connection, refused: Refused, body: bytes, now: float) -> None:
    """Keep the beginning of a refused request, and forget the oldest one if there are too many."""
    row = db.execute(
        "INSERT INTO rejected (stream, status, reason, body, received_at) VALUES (?, ?, ?, ?, ?)",
        (refused.stream, refused.status, refused.reason, body[:MAX_REJECTED_BODY], now),
    )
    assert row.lastrowid is not None
    db.execute("DELETE FROM rejected WHERE id <= ?", (row.lastrowid - MAX_REJECTED,))
    _count(db, requests=1, rejected=refused.events)


def _count(db: sqlite3.Connection, **counts: int) -> None:
    db.executemany(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        counts.items(),
    )


def forget(db: sqlite3.Connection, before: float) -> None:
    """Forget what was received before the time *before*, batch ids included, but not the counts.

    From the oldest on until one is younger, so this costs two look-ups when there is nothing to forget.  What
    was received while the clock was ahead holds up what comes behind it, until it is old enough itself.
    """
    start = last = None
    for last_id, first_id, received_at in db.execute(
        "SELECT last_id, first_id, received_at FROM batches ORDER BY last_id"
    ):
        start = first_id if start is None else start
        if received_at >= before or (last is not None and last_id - start >= MAX_FORGOTTEN):
            break
        last = last_id
    if last is not None:
        db.execute("DELETE FROM texts WHERE id <= ?", (last,))
        db.execute("DELETE FROM batches WHERE last_id <= ?", (last,))
    oldest = db.execute("SELECT received_at FROM rejected ORDER BY id LIMIT 1").fetchone()
    if oldest is not None and oldest[0] < before:
        # Refused requests are few; but each may have a body.
        db.execute(
            "DELETE FROM rejected WHERE received_at < ? AND id < (SELECT min(id) + 100 FROM rejected)", (before,)
        )


def check(db: sqlite3.Connection, size: int) -> None:
    """Commit a change, and keep *size* bytes in the file for a moment, to see whether that is possible.

    To be called within a transaction of its own, which it ends and begins again.
    """
    db.execute(f"PRAGMA user_version = {_VERSION}")  # writes a page though it is the same
    if size:
        db.execute("DROP TABLE IF EXISTS room")  # from one who was killed in between
        db.execute("CREATE TABLE room AS SELECT zeroblob(?)", (size,))
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        db.execute("DROP TABLE room")


def clear(db: sqlite3.Connection) -> None:
    """Forget everything, batch ids and counts included."""
    for table in ("texts", "batches", "rejected", "streams", "counters"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names are ours


def events(db: sqlite3.Connection, stream: str | None, after: int, limit: int) -> Page[StoredEvent]:
    """Up to *limit* events behind the id *after*, of one stream or of all."""
    condition, values = ("", []) if stream is None else ("AND stream = ?", [stream])
    found = db.execute(
        f"""SELECT id, stream, text, batch_id, received_at
            FROM batches CROSS JOIN texts ON id BETWEEN first_id AND last_id
            WHERE last_id > ? AND id > ? {condition} ORDER BY last_id, id""",  # noqa: S608 - no input
        (after, after, *values),
    )
    rows = (
        StoredEvent(id=row, stream=name, text=text, batch_id=batch_id, received_at=received_at)
        for row, name, text, batch_id, received_at in found
    )
    return _page(rows, limit, lambda event: len(event.text))


def rejected(db: sqlite3.Connection, after: int, limit: int) -> Page[RejectedRequest]:
    """Up to *limit* rejected requests behind the id *after*."""
    found = db.execute(
        "SELECT id, stream, status, reason, body, received_at FROM rejected WHERE id > ? ORDER BY id", (after,)
    )
    rows = (
        RejectedRequest(id=row, stream=stream, status=status, reason=reason, body=body, received_at=received_at)
        for row, stream, status, reason, body, received_at in found
    )
    return _page(rows, limit, lambda request: len(request.body))


def _page(found: Iterable[Row], limit: int, size: Callable[[Row], int]) -> Page[Row]:
    rows: list[Row] = []
    room = MAX_PAGE_BYTES
    for row in found:
        if len(rows) == limit or room < 0:
            return Page(rows=tuple(rows), next=rows[-1].id)
        rows.append(row)
        room -= size(row)
    return Page(rows=tuple(rows), next=None)


def statistics(db: sqlite3.Connection) -> StoreStatistics:
    """The counts, in time proportional to the number of streams."""
    counters = dict(db.execute("SELECT name, value FROM counters"))
    streams = dict(db.execute("SELECT name, stored FROM streams ORDER BY name"))
    return StoreStatistics(
        stored=sum(streams.values()),
        duplicates=counters.get("duplicates", 0),
        rejected=counters.get("rejected", 0),
        requests=counters.get("requests", 0),
        streams=streams,
    )
