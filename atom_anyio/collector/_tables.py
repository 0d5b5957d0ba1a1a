"""What is in the collector's file: its tables, and each thing that is done with them.

Nothing here begins or ends a transaction but :func:`open_database`; that is for the store to decide.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from atom_sansio import Refused, Submission

MAX_REJECTED_BODY: Final = 64 * 1024
"""Bytes kept of a rejected request."""

MAX_REJECTED: Final = 10_000
"""Rejected requests kept; older ones are forgotten, but still counted."""

MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
"""A page ends with the row that takes it over this size, whatever its limit."""

_ROWS_AT_ONCE: Final = 500
"""Rows of one INSERT.  Python gives up the interpreter's lock once for each, and has to get it back from the
thread that reads requests; for each row, that would take half of the time.  SQLite takes 999 parameters."""

_APPLICATION_ID: Final = 0x41746F6D  # "Atom"
_VERSION: Final = 1

# AUTOINCREMENT: an id is never used twice, so what a reader has as its "after" stays right over a clear.
_SCHEMA: Final = (
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, text TEXT NOT NULL, batch_id TEXT,
        received_at REAL NOT NULL)""",
    "CREATE INDEX events_by_stream ON events (stream, id)",
    """CREATE TABLE batches (
        stream TEXT NOT NULL, batch_id TEXT NOT NULL, PRIMARY KEY (stream, batch_id)) WITHOUT ROWID""",
    """CREATE TABLE rejected (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, status INTEGER NOT NULL, reason TEXT NOT NULL,
        body BLOB NOT NULL, received_at REAL NOT NULL)""",
    "CREATE TABLE streams (name TEXT PRIMARY KEY, stored INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


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
    db = sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, cached_statements=600
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits with the power
        db.execute("BEGIN IMMEDIATE")
        _prepare(db)
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


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


def add(db: sqlite3.Connection, submission: Submission, now: float) -> bool:
    """Store the events of a submission, unless its batch id is known for its stream: then False."""
    stream, batch_id, elements = submission.stream, submission.batch_id, submission.elements
    if batch_id is not None:
        known = db.execute("INSERT OR IGNORE INTO batches VALUES (?, ?)", (stream, batch_id)).rowcount == 0
        if known:
            _count(db, requests=1, duplicates=len(elements))
            return False
    for start in range(0, len(elements), _ROWS_AT_ONCE):
        texts = elements[start : start + _ROWS_AT_ONCE]
        db.execute(
            f"""INSERT INTO events (stream, text, batch_id, received_at)
                SELECT ?, column1, ?, ? FROM (VALUES {",".join(["(?)"] * len(texts))})""",  # noqa: S608 - no input
            (stream, batch_id, now, *texts),
        )
    db.execute(
        "INSERT INTO streams VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET stored = stored + excluded.stored",
        (stream, len(elements)),
    )
    _count(db, requests=1)
    return True


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


def clear(db: sqlite3.Connection) -> None:
    """Forget everything, batch ids and counts included."""
    for table in ("events", "batches", "rejected", "streams", "counters"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names are ours


def events(db: sqlite3.Connection, stream: str | None, after: int, limit: int) -> Page[StoredEvent]:
    """Up to *limit* events behind the id *after*, of one stream or of all."""
    columns = "SELECT id, stream, text, batch_id, received_at FROM events"
    if stream is None:
        found = db.execute(f"{columns} WHERE id > ? ORDER BY id", (after,))
    else:
        found = db.execute(f"{columns} WHERE stream = ? AND id > ? ORDER BY id", (stream, after))
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
