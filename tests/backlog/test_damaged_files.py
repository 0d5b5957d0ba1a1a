"""A damaged file never keeps a program from starting: what can be read is delivered as it was, the rest is counted.

``ATOM_FAULTS_EVERY=1`` damages a file at every place; without it, at some.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from files import Content, batch, change, contents, held, letter, lines_of, mark, records

from atom_sync.backlog import Backlog, DeadLetters
from atom_sync.backlog import _tables as tables

pytestmark = pytest.mark.thorough

EVERY = int(os.environ.get("ATOM_FAULTS_EVERY", "0"))
"""How many times fewer places are damaged than there are; 0 for as few as do for a run of all tests."""

BATCHES: dict[str, Content] = {
    f"batch-{n}": (
        ("clicks", "Ünïcode ☃", "a\nb")[n % 3],
        (None, "0123456789abcdef")[n % 2],
        lines_of(*({"n": n, "event": i, "text": "x" * (n * 40 % 500)} for i in range(1 + n * 7 % 12))),
    )
    for n in range(14)
}
TRACKED = [lines_of({"tracked": n}) for n in range(6)]
SEALED = 2
"""Of these, those that count no more."""
LETTERS = {f"letter-{n}": lines_of({"refused": n, "text": "y" * 300}) for n in range(3)}
EVENTS = sum(lines.count(b"\n") for _, _, lines in BATCHES.values()) + len(TRACKED) - SEALED


def events(content: Content) -> int:
    return content[2].count(b"\n")


def fill(file: Path) -> None:
    """Put all of it in, in several transactions."""
    opened = Backlog(file).open()
    opened.append(records(1, *TRACKED))
    for place, (batch_id, (stream, fingerprint, lines)) in enumerate(BATCHES.items(), 1):
        opened.update(change(put=[batch(batch_id, lines, place=place, stream=stream, fingerprint=fingerprint)]))
    opened.update(change(dead=[letter(letter_id, lines) for letter_id, lines in LETTERS.items()]))
    opened.update(change(marks=[mark(SEALED)]))
    opened.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where files can be made by the thousand, and need not be on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def sound(folder: Path) -> dict[str, bytes]:
    """The files of a backlog that was closed in order."""
    (folder / "sound").mkdir()
    fill(folder / "sound" / "events.db")
    return {path.name: path.read_bytes() for path in (folder / "sound").iterdir()}


@pytest.fixture(scope="module")
def killed(folder: Path) -> dict[str, bytes]:
    """The files of a backlog whose process was killed, so that all is in SQLite's log."""
    (folder / "killed").mkdir()
    file = folder / "killed" / "events.db"
    Backlog(file).open().close()
    another = tables.connect(file, sync=False)  # so that no other is the last to close it
    try:
        fill(file)
        files = {path.name: path.read_bytes() for path in file.parent.iterdir() if not path.name.endswith("-shm")}
    finally:
        another.close()
    assert len(files["events.db-wal"]) > 20_000
    return files


def lay(folder: Path, files: dict[str, bytes], **changed: bytes) -> Path:
    """Put *files* in an empty folder."""
    shutil.rmtree(folder / "now", ignore_errors=True)
    (folder / "now").mkdir()
    for name, data in files.items():
        (folder / "now" / name).write_bytes(data)
    return folder / "now" / "events.db"


def check(file: Path, *, may_lose: int = 0) -> str:
    """Open a damaged file: nothing is altered, nothing is lost in silence but *may_lose* events, and it works on."""
    opened = Backlog(file).open()
    try:
        assert opened.path == file, "it is left where it is"
        batches, tracked, damaged = contents(opened)
        for batch_id, content in batches.items():
            assert BATCHES[batch_id] == content, "altered"
        assert not Counter(tracked) - Counter(TRACKED), "altered"
        lost = len(BATCHES.keys() - batches.keys()) + len(set(TRACKED[SEALED:]) - set(tracked))
        assert damaged >= lost - may_lose, f"of {lost} batches and records {damaged} are reported"
        with DeadLetters(file) as letters:
            for each in letters:
                assert LETTERS[each.letter_id] == each.lines, "altered"
        new = lines_of("new")
        opened.update(change(put=[batch("new", new, place=99)], drop=BATCHES, marks=[mark(len(TRACKED))]))
        opened.update(change(dead=[letter("dead", new)]))
    finally:
        opened.close()
    assert held(file)[:2] == ({"new": ("clicks", None, new)}, [])
    return "whole" if not lost else "all lost" if not batches else "some lost"


def places(total: int, some: int) -> list[int]:
    """All of *total* places, or *some* of them, which are the same each time."""
    if EVERY:
        return list(range(0, total, EVERY))
    return sorted(random.Random(0).sample(range(total), min(total, some)))


def flip(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_nothing_is_wrong(folder: Path, sound: dict[str, bytes], killed: dict[str, bytes]) -> None:
    """Files that are not damaged give all back."""
    for files in (sound, killed):
        batches, tracked, damaged = held(lay(folder, files))
        assert batches == BATCHES
        assert tracked == TRACKED[SEALED:]
        assert damaged == 0
        assert check(lay(folder, files)) == "whole"


def test_a_log_that_somebody_else_empties(
    folder: Path, killed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who looks at a killed tracker's file, and closes it just when another opens it, makes no event a lost one."""
    file = lay(folder, killed)
    letters = DeadLetters(file)
    connect = tables.connect

    def closed_before(path: Path, *, sync: bool) -> sqlite3.Connection:
        letters.close()
        assert not path.with_name(f"{path.name}-wal").exists()
        return connect(path, sync=sync)

    monkeypatch.setattr(tables, "connect", closed_before)
    batches, tracked, damaged = held(file)
    assert (batches, tracked, damaged) == (BATCHES, TRACKED[SEALED:], 0)
    assert not caplog.records
    assert not [path for path in file.parent.iterdir() if "damaged" in path.name or "copy" in path.name]


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def check_each(
    folder: Path, files: dict[str, bytes], changes: dict[str, dict[str, bytes]], **allowed: int
) -> Counter[str]:
    """:func:`check` files with each of some changes."""
    seen: Counter[str] = Counter()
    for name, damage in changes.items():
        try:
            seen[check(lay(folder, {**files, **damage}), **allowed)] += 1
        except BaseException:
            print(name)
            raise
    print(dict(seen))
    return seen


def flips(name: str, data: bytes, bits: list[int]) -> dict[str, dict[str, bytes]]:
    return {f"bit {bit % 8} of byte {bit // 8}": {name: flip(data, bit)} for bit in bits}


@pytest.mark.usefixtures("quiet")
def test_flipped_bits_of_the_head(folder: Path, sound: dict[str, bytes]) -> None:
    """Whichever bit of the head of the file is flipped, all of it is delivered."""
    bits = [bit for bit in range(100 * 8) if EVERY or bit % 7 == 0]
    seen = check_each(folder, sound, flips("events.db", sound["events.db"], bits))
    assert seen == {"whole": len(bits)}


@pytest.mark.usefixtures("quiet")
def test_flipped_bits(folder: Path, sound: dict[str, bytes]) -> None:
    """Whichever bit of the file is flipped, what is delivered is as it was, and what is not is counted."""
    data = sound["events.db"]
    first = [100 * 8 + at for at in places((4096 - 100) * 8, 50)]
    others = [4096 * 8 + at for at in places((len(data) - 4096) * 8, 150)]
    assert check_each(folder, sound, flips("events.db", data, first)) == {"whole": len(first)}
    seen = check_each(folder, sound, flips("events.db", data, others))
    assert seen["whole"] > len(others) / 2
    assert seen["some lost"]


@pytest.mark.usefixtures("quiet")
def test_flipped_bits_of_the_log(folder: Path, killed: dict[str, bytes]) -> None:
    """SQLite reads its log up to the damage; what is missing then is noticed, but for the last transaction."""
    data = killed["events.db-wal"]
    anew = 15 * 8  # which makes it look as if it was about to be used anew
    bits = [*range(0, 56 * 8, 1 if EVERY else 9), anew, *places(len(data) * 8, 80)]
    seen = check_each(folder, killed, flips("events.db-wal", data, bits), may_lose=1)
    assert seen["some lost"] or seen["all lost"]


def test_a_log_that_was_about_to_be_used_anew(tmp_path: Path, killed: dict[str, bytes]) -> None:
    """A crash in the middle of its new head loses nothing: what the log held is in the file by then."""
    for name, data in killed.items():
        (tmp_path / name).write_bytes(data)
    connection = sqlite3.connect(tmp_path / "events.db")
    assert connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0] == 0
    file, log = ((tmp_path / name).read_bytes() for name in ("events.db", "events.db-wal"))
    connection.close()
    number = int.from_bytes(log[12:16], "big") + 1
    for path, data in (("events.db", file), ("events.db-wal", log[:12] + number.to_bytes(4, "big") + log[16:])):
        (tmp_path / path).write_bytes(data)
    batches, _, damaged = held(tmp_path / "events.db")
    assert (batches, damaged) == (BATCHES, 0)
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.usefixtures("quiet")
def test_flipped_bits_of_records(folder: Path, sound: dict[str, bytes]) -> None:
    """Whichever bit of the file of records is flipped, what is missing is reported."""
    data = sound["events.db-tail-1.1"]
    check_each(folder, sound, flips("events.db-tail-1.1", data, places(len(data) * 8, 60)))


@pytest.mark.usefixtures("quiet")
def test_shorter_files(folder: Path, sound: dict[str, bytes], killed: dict[str, bytes]) -> None:
    """Wherever a file ends, what is before its end is delivered."""
    data = sound["events.db"]
    sizes = sorted({*range(0, len(data), 512 if EVERY else 4096), *places(len(data), 40)} - {0})
    changes = {f"{size} bytes of the file": {"events.db": data[:size]} for size in sizes}
    seen = check_each(folder, sound, changes, may_lose=len(BATCHES))
    assert seen["some lost"]
    log = killed["events.db-wal"]
    sizes = sorted({*range(0, len(log), 512 if EVERY else 4096), *places(len(log), 40), 1, 31, 32, 33, 55, 56})
    seen = check_each(
        folder,
        killed,
        {f"{size} bytes of the log": {"events.db-wal": log[:size]} for size in sizes},
        may_lose=len(BATCHES) + len(TRACKED),
    )
    assert seen["whole"]


@pytest.mark.usefixtures("quiet")
def test_zeroed_pages(folder: Path, sound: dict[str, bytes], killed: dict[str, bytes]) -> None:
    """Whichever page is zeros, whole or in part, what is missing is counted."""
    for files, name in ((sound, "events.db"), (killed, "events.db-wal")):
        data = files[name]
        changes = {
            f"{size} bytes at {at} of {name}": {name: data[:at] + bytes(size) + data[at + size :]}
            for size in (512, 4096)
            for at in range(0, len(data) - size, size if EVERY or size == 4096 else 4096 + 512)
        }
        check_each(folder, files, changes, may_lose=files is killed)
