"""What becomes of a damaged file of batches: it is set aside, and what can be read of it is the beginning of another.

The other file is made under a name of its own first, so whenever the process ends, one of the two is there whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from . import _tables as tables
from ._files import aside, open_private, sync_directory

_SUFFIXES: Final = ("", "-wal", "-shm")

CHECKED: Final = 64 * 1024 * 1024
"""Bytes of a file that is looked through when it is opened; in a larger one damage is seen when it is come across."""

_CHUNK: Final = 64
"""Rows that are copied in one transaction."""

_FRAME: Final = 24
_WAL_HEAD: Final = 32
"""Bytes before a page in SQLite's log, and before the first of these."""


def is_damage(error: BaseException) -> bool:
    """Whether *error* says that a file is damaged, rather than that the disk is full or does not answer."""
    if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError):  # as SQLITE_CORRUPT and SQLITE_NOTADB come
        return True
    words = ("no such", "malformed", "unsupported file", "readonly", "decode")
    return isinstance(error, sqlite3.Error) and any(word in str(error) for word in words)


def check(connection: sqlite3.Connection, path: Path, *, whole: bool = False) -> None:
    """Raise ``sqlite3.DatabaseError`` if something in the file is where it should not be.

    Args:
        whole: look everything through, however large the file is.
    """
    # One with a damaged head may be read-only.
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA user_version = {tables.VERSION}")
    finally:
        connection.execute("ROLLBACK")
    if whole or path.stat().st_size <= CHECKED:
        [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def finish(path: Path) -> None:
    """Bring to its end what a process has begun that ended meanwhile; to be called before *path* is opened."""
    mended = _mended(path)
    if mended.exists():
        if path.exists():  # it is not known whether the other is complete
            _unlink(mended)
        else:
            _set_aside(path)
            mended.rename(path)
            sync_directory(path.parent)


def mend(path: Path, error: BaseException, say: Callable[[str], object]) -> int:
    """Set the file *path*, which nobody may have open, aside, and put what can be read of it in its place.

    Args:
        say: called with what was done, for the user.

    Returns:
        How many events are lost, rather too many than too few where that cannot be known.

    Raises:
        sqlite3.Error, OSError: the other file cannot be written.  All is as it was.
    """
    mended = _mended(path)
    _unlink(mended)
    try:
        os.close(open_private(mended, os.O_RDWR))
        into = tables.connect(mended, sync=False)
        try:
            found = _salvage(path, into)
        finally:
            into.close()  # which moves all from its log
        fd = os.open(mended, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            _unlink(mended)
        raise
    away = _set_aside(path)
    mended.rename(path)
    sync_directory(path.parent)
    say(
        f"the backlog {path} is damaged ({error}); it is set aside as {away.name}, and what can be read of it is kept:"
        f" {len(found.copied)} batches and {len(found.letters)} dead letters; {found.events_lost} events are lost"
    )
    return found.events_lost


def _mended(path: Path) -> Path:
    return path.with_name(f"{path.name}-mended")


def _unlink(path: Path) -> None:
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _set_aside(path: Path) -> Path:
    """The file itself first: until that has gone, its log is with it."""
    away = aside(path)
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(away.with_name(away.name + suffix))
    return away


@dataclass
class _Found:
    """What was read of a damaged file, and what was not."""

    copied: set[int] = field(default_factory=set)
    lost: dict[int, int] = field(default_factory=dict)
    """Of each batch that cannot be read how many events it had, or 1."""
    letters: set[int] = field(default_factory=set)
    aside: set[tuple[str, tuple[Any, ...]]] = field(default_factory=set)
    blind: bool = False
    """Whether it is not even known which batches there were."""

    @property
    def missing(self) -> bool:
        """Whether some batch is known of that was not read."""
        return bool(self.lost.keys() - self.copied)

    @property
    def events_lost(self) -> int:
        """Of all batches that were not read."""
        lost = sum(events for n, events in self.lost.items() if n not in self.copied)
        return max(lost, 1) if self.blind and not self.copied else lost


def _salvage(path: Path, into: sqlite3.Connection) -> _Found:
    """Copy what can be read of the file *path*.

    A row that is not what was put is set aside, what SQLite cannot find its way to is left behind.
    """
    found = _Found()
    _copy(path, into, found)
    if found.blind or found.missing:
        # Where the tables are is written on the first page alone, and it is the same in each backlog.
        copy = path.with_name(f"{path.name}-mended-copy")
        try:
            _copy_with_first_page(path, copy, into)
            _copy(copy, into, found)
        finally:
            _unlink(copy)
    return found


def _copy_with_first_page(path: Path, copy: Path, into: sqlite3.Connection) -> None:
    into.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    [name] = [row[2] for row in into.execute("PRAGMA database_list") if row[1] == "main"]
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.close(open_private(copy.with_name(copy.name + suffix), os.O_RDWR))
            shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    [page_size] = into.execute("PRAGMA page_size").fetchone()
    with Path(name).open("rb") as file:
        page = bytearray(file.read(page_size))
    page[28:32] = (copy.stat().st_size // page_size).to_bytes(4, "big")
    page[32:40] = bytes(8)  # the list of free pages, if it had any
    page[92:96] = page[24:28]
    with copy.open("r+b") as file:
        file.write(page)


def _copy(path: Path, into: sqlite3.Connection, found: _Found) -> None:
    try:
        damaged = tables.attach(path)
    except tables.ERRORS:
        found.blind = True
        return
    with contextlib.closing(damaged):
        rows = _rows(damaged, found)
        while chunk := list(islice(rows, _CHUNK)):
            with tables.transaction(into):
                for table, row in chunk:
                    _keep(into, table, row, found)


def _keep(into: sqlite3.Connection, table: str, row: tuple[Any, ...], found: _Found) -> None:
    if table == "batches":
        reason = tables.trouble_of_batch(row)
        if reason is None:
            found.copied.add(row[0])
        else:
            found.lost.setdefault(row[0], row[4] if row[6] == tables.checksum(row[:6]) else 1)
    elif table == "dead":
        reason = tables.trouble_of_letter(row[1:])
        if reason is None:
            found.letters.add(row[0])
    elif table == "marks":
        reason = None if row[-1] == tables.checksum(row[:-1]) else "it is not what was put"
    else:
        reason = None
        row = tuple(value.encode(errors="replace").decode() if isinstance(value, str) else value for value in row)
    if reason is None:
        try:
            into.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        except sqlite3.IntegrityError as error:  # a number that is none
            reason = str(error)
    if reason is not None and (table, row) not in found.aside:
        found.aside.add((table, row))
        tables.set_aside(into, [(table, reason, tables.row_bytes(row))])


def _rows(damaged: sqlite3.Connection, found: _Found) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each row of each table that can be read."""
    for table in ("batches", "dead", "damaged", "marks"):
        seen: set[Any] = set()
        for row in _from_both_ends(damaged, table, seen, found):
            yield table, row
        if table == "batches":
            for n in _numbers(damaged):
                if n not in seen:
                    single = _one(damaged, "*", n)
                    if single is not None:
                        yield table, single
                    else:
                        head = _one(damaged, "n, batch_id, stream, fingerprint, events, size, head", n)
                        if head is not None and head[6] == tables.checksum(head[:6]):
                            found.lost[n] = head[4]
                        else:
                            found.lost.setdefault(n, 1)


def _from_both_ends(
    damaged: sqlite3.Connection, table: str, seen: set[Any], found: _Found
) -> Iterator[tuple[Any, ...]]:
    """From the front up to the first damage, and from the back down to the last."""
    order = ("generation", "stream", "fingerprint") if table == "marks" else ("n",)
    for direction in ("ASC", "DESC"):
        ordered = ", ".join(f"{column} {direction}" for column in order)
        try:
            for row in damaged.execute(f"SELECT * FROM {table} ORDER BY {ordered}"):  # noqa: S608 - ours
                key = row[: len(order)] if len(order) > 1 else row[0]
                if key in seen:
                    break
                seen.add(key)
                yield row
        except tables.ERRORS:
            found.blind |= table == "batches" and not seen


def _numbers(damaged: sqlite3.Connection) -> list[int]:
    """The numbers of batches, as the index has them, which lies elsewhere."""
    numbers: list[int] = []
    for direction in ("ASC", "DESC"):
        with contextlib.suppress(*tables.ERRORS):
            for n, _ in damaged.execute(
                f"SELECT n, batch_id FROM batches INDEXED BY sqlite_autoindex_batches_1 ORDER BY batch_id {direction}"  # noqa: S608
            ):
                numbers.append(n)
    return list(dict.fromkeys(numbers))


def _one(damaged: sqlite3.Connection, columns: str, n: int) -> tuple[Any, ...] | None:
    with contextlib.suppress(*tables.ERRORS):
        row: tuple[Any, ...] | None = damaged.execute(f"SELECT {columns} FROM batches WHERE n = ?", (n,)).fetchone()  # noqa: S608
        return row
    return None


class Log:
    """SQLite's log of the file *path*, as it is before that is opened.

    SQLite takes a log to end where something in it is wrong, as a power loss may leave it, and says nothing.

    Another process may be reading the file, and be the last to close it just before it is opened here: then SQLite
    moves all from the log to the file, and begins another log.  That has another head, and nothing is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy: Path | None = None
        self._commits: list[int] = []
        self._log = path.with_name(f"{path.name}-wal")
        with contextlib.suppress(FileNotFoundError):
            self._head = self._read_head()
            self._commits = _commits(self._log, path)
            if self._commits:
                self._copy = path.with_name(f"{path.name}-wal-copy")
                os.close(open_private(self._copy, os.O_RDWR))
                shutil.copyfile(self._log, self._copy)

    def _read_head(self) -> bytes:
        with self._log.open("rb") as file:
            return file.read(_WAL_HEAD)

    def lost(self, connection: sqlite3.Connection, say: Callable[[str], object]) -> int:
        """How many transactions SQLite has not taken from it, less the one that may have been under way.

        Args:
            say: called with what was done, for the user.
        """
        if self._copy is None or not self._log.exists() or self._read_head() != self._head:
            return 0
        taken: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
        lost = sum(frame > taken for frame in self._commits) - 1
        if lost > 0:
            away = aside(self._path)
            self._copy.rename(away)
            say(
                f"the log of the backlog {self._path} is damaged, and {lost} transactions or more are lost;"
                f" it is set aside as {away.name}"
            )
        return max(lost, 0)

    def close(self) -> None:
        """Delete what was made to look at it."""
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)


def _commits(log: Path, path: Path) -> list[int]:
    """The numbers, from 1, of pages in *log*, that of the file *path*, that end a transaction."""
    with log.open("rb") as file:
        head = file.read(_WAL_HEAD)
        sound = _is_sound(head)
        size = int.from_bytes(head[8:12], "big") if sound else _page_size(path)
        if not sound and _is_sound(_before_restart(head)) and _is_in_file(file, size, head[16:24], path):
            return []  # it was about to be used anew
        file.seek(_WAL_HEAD)
        frames = []
        for _ in range((log.stat().st_size - _WAL_HEAD) // (size + _FRAME)):
            frames.append(file.read(_FRAME))
            file.seek(size, os.SEEK_CUR)
    # What is of earlier use of the log has other numbers here.
    salts = Counter(frame[8:16] for frame in frames)
    salt = head[16:24] if sound else salts.most_common(1)[0][0] if salts else b""
    return [n for n, frame in enumerate(frames, 1) if frame[8:16] == salt and frame[4:8] != bytes(4)]


def _is_in_file(log: BinaryIO, size: int, salt: bytes, path: Path) -> bool:
    """Whether all that was committed to *log*, of *size* bytes a page, is in the file *path* as well."""
    log.seek(_WAL_HEAD)
    begun: dict[int, int] = {}
    committed: dict[int, int] = {}
    pages = 0
    while (frame := log.read(_FRAME))[8:16] == salt:
        begun[int.from_bytes(frame[:4], "big")] = log.tell()
        log.seek(size, os.SEEK_CUR)
        if frame[4:8] != bytes(4):
            committed.update(begun)
            pages = int.from_bytes(frame[4:8], "big")
    with path.open("rb") as file:
        for number, at in committed.items():
            if number <= pages:
                file.seek((number - 1) * size)
                log.seek(at)
                if file.read(size) != log.read(size):
                    return False
    return True


def _page_size(path: Path) -> int:
    """As the head of the file says, if it can be that."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
    return size if size >= 512 and size & (size - 1) == 0 else 4096


def _is_sound(head: bytes) -> bool:
    return head[:3] == b"\x37\x7f\x06" and len(head) == _WAL_HEAD and _has_sound_sums(head)


def _before_restart(head: bytes) -> bytes:
    """What *head* was, if its writer came to the end of the number that it raises with each use of the log."""
    number = int.from_bytes(head[12:16], "big") - 1
    return head[:12] + (number & 0xFFFFFFFF).to_bytes(4, "big") + head[16:]


def _has_sound_sums(head: bytes) -> bool:
    """Whether the sums at the end of *head* are right; see "The WAL File Format" in SQLite's documentation."""
    order = "big" if head[3] & 1 else "little"
    a = b = 0
    for at in range(0, 24, 8):
        a = a + int.from_bytes(head[at : at + 4], order) + b & 0xFFFFFFFF  # type: ignore[arg-type]
        b = b + int.from_bytes(head[at + 4 : at + 8], order) + a & 0xFFFFFFFF  # type: ignore[arg-type]
    return (a, b) == (int.from_bytes(head[24:28], "big"), int.from_bytes(head[28:32], "big"))
