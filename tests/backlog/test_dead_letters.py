"""Dead letters: listed as they were lost, erased, or sent again under their old ids; never altered."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from files import batch, change, held, letter, lines_of

from atom_sansio import BacklogError, LossReason, Request
from atom_sync import MemoryTransport, Tracker
from atom_sync._late_imports import LONGEST_WAIT
from atom_sync.backlog import Backlog, DeadLetters
from atom_sync.backlog import _tables as tables


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A backlog with four dead letters."""
    opened = Backlog(tmp_path / "events.db").open()
    letters = [letter(f"batch-{n}", lines_of({"n": n}, n), fingerprint="0" * 16 if n % 2 else None) for n in range(4)]
    opened.update(change(dead=letters))
    opened.update(change(dead=letters[:1]))  # again, as after a failure
    opened.close()
    return tmp_path / "events.db"


def ids(letters: DeadLetters) -> list[str]:
    return [each.letter_id for each in letters]


def test_listing(file: Path) -> None:
    """All that was known of a loss is there, once."""
    with DeadLetters(file) as letters:
        listed = {each.letter_id: each for each in letters}
        assert len(list(letters)) == 4
        assert letters.pending == (0, 0)
        assert letters.damaged == []
        assert letters.waiting() == []
    one = listed["batch-1"]
    assert (one.stream, one.fingerprint, one.events, one.reason) == ("clicks", "0" * 16, 2, LossReason.REJECTED)
    assert (one.status, one.message, one.attempts, one.time) == (400, "no, ünd never", 3, 1.5)
    assert one.lines == lines_of({"n": 1}, 1)
    assert one.values() == [{"n": 1}, 1]


def test_erasing(file: Path) -> None:
    """What is erased is gone, also while the rest is being listed, and twice is as good as once."""
    with DeadLetters(file) as letters:
        for each in letters:
            if each.letter_id in ("batch-1", "batch-3"):
                letters.erase(each)
                letters.erase(each)
        assert sorted(ids(letters)) == ["batch-0", "batch-2"]
        letters.erase(*letters)
        assert ids(letters) == []


def test_reviving(file: Path) -> None:
    """What is revived is sent again by the next tracker, under its old id, and is a letter no longer."""
    with DeadLetters(file) as letters:
        [one] = [each for each in letters if each.letter_id == "batch-2"]
        letters.revive(one)
        letters.revive(one)
        assert sorted(ids(letters)) == ["batch-0", "batch-1", "batch-3"]
        assert letters.pending == (1, 2)
        [waiting] = letters.waiting()
        assert (waiting.batches, waiting.events, waiting.size) == (1, 2, len(one.lines))
    assert held(file)[0] == {"batch-2": ("clicks", None, one.lines)}
    seen: list[tuple[object, object]] = []

    def answer(request: Request) -> int:
        headers = {name.lower(): value for name, value in request.headers}
        seen.append((next(v for n, v in headers.items() if "id" in n), json.loads(json.loads(request.body)["data"])))
        return 200

    with Tracker("http://x/", backlog=file, transport=MemoryTransport(answer)) as tracker:
        assert tracker.flush(30).delivered == 2
    assert seen == [("batch-2", [{"n": 2}, 2])]


def test_reviving_beside_a_tracker(file: Path) -> None:
    """While a tracker has the file that is refused, in words that say who has it, and changes nothing."""
    with DeadLetters(file) as letters:
        before = list(letters)
        with Tracker("http://x/", backlog=file, transport=MemoryTransport()):
            with pytest.raises(
                BacklogError, match=rf"events\.db is in use by process {os.getpid()}; revive letters when"
            ):
                letters.revive(*before)
            assert list(letters) == before
            assert letters.pending == (0, 0)
        letters.revive(*before)
        assert list(letters) == []


def test_erased_for_good(tmp_path: Path) -> None:
    """Nothing is left of what was erased, in pages that nothing uses any more either."""
    opened = Backlog(tmp_path / "events.db").open()
    opened.update(change(dead=[letter(f"batch-{n}", lines_of(f"secret-{n}" * 3000)) for n in range(8)]))
    opened.close()
    with DeadLetters(tmp_path / "events.db") as letters:
        for each in letters:
            if each.letter_id != "batch-7":
                tables.erase(letters._connection, [(each.number, each.letter_id)])  # and no space is given back
    content = (tmp_path / "events.db").read_bytes()
    assert [n for n in range(8) if b"secret-%d" % n in content] == [7]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_reviving_beside_a_fork(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither waits for the other for longer than that is at work."""
    begun, took = threading.Event(), []
    revive = tables.revive

    def slowly(*args: Any) -> None:
        begun.set()
        time.sleep(0.05)
        revive(*args)

    def work() -> None:
        with DeadLetters(file) as letters:
            before = time.monotonic()
            letters.revive(*letters)
            took.append(time.monotonic() - before)
            assert ids(letters) == []

    monkeypatch.setattr(tables, "revive", slowly)
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(20)
    before = time.monotonic()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - its coverage is not collected
        os._exit(0)
    took.append(time.monotonic() - before)
    os.waitpid(pid, 0)
    thread.join(20)
    assert len(took) == 2
    assert max(took) < LONGEST_WAIT / 2


def test_no_lock(file: Path) -> None:
    """Where there can be no lock letters stay what they are."""
    lock = file.with_name("events.db-lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with DeadLetters(file) as letters:
        with pytest.raises(BacklogError, match=r"events\.db cannot be locked: .*Is a directory"):
            letters.revive(*letters)
        assert len(ids(letters)) == 4


def test_a_place_that_is_taken(file: Path) -> None:
    """A batch that is put where another one is, of which its tracker does not know, replaces only itself."""
    opened = Backlog(file).open()
    one, two, three = (batch(name, lines_of(name), place=5) for name in ("one", "two", "three"))
    for put in ([one], [two], [three, one], [three, one]):
        opened.update(change(put=put))
    opened.close()
    assert held(file)[0] == {kept.batch_id: (kept.stream, None, lines) for kept, lines in (one, two, three)}


def test_altered(file: Path) -> None:
    """A letter that is not what was buried is set aside, and neither listed nor revived."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE dead SET stream = 'others' WHERE letter_id = 'batch-0'")
        connection.execute("UPDATE dead SET lines = 'text' WHERE letter_id = 'batch-1'")
        connection.execute("UPDATE dead SET stream = CAST(X'FF' AS TEXT) WHERE letter_id = 'batch-3'")
        connection.commit()
    with DeadLetters(file) as letters:
        one = next(iter(letters))
        assert one.letter_id == "batch-2"
        letters._connection.execute("UPDATE dead SET lines = X'31'")
        with pytest.raises(BacklogError, match="cannot be used: its checksum is wrong"):
            letters.revive(one)
        assert ids(letters) == []
        assert letters.pending == (0, 0)
        assert {(source, reason) for source, reason, _ in letters.damaged} == {("dead", "its checksum is wrong")}
        assert len(letters.damaged) == 4


def test_no_backlog(tmp_path: Path) -> None:
    """A file that is not there, is a folder, or is of another kind is a BacklogError, and is left as it is."""
    (tmp_path / "text").write_text("dear diary " * 99)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE mine (text)")
    (tmp_path / "empty").touch()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name, words in (
        ("none", "is not there"),
        (".", "is not there"),
        ("text", "cannot be read: file is not a database"),
        ("other", "cannot be read: it is no backlog"),
        ("empty", "is an empty file"),
    ):
        with pytest.raises(BacklogError, match=words):
            DeadLetters(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_beside_a_tracker(tmp_path: Path) -> None:
    """Letters are listed and erased while a tracker has the file."""
    with Tracker(
        "http://x/", backlog=tmp_path / "b", transport=MemoryTransport([400]), on_loss=str, max_batch_events=1
    ) as tracker:
        tracker.track("clicks", 1)
        assert tracker.flush(30).lost == 1
        with DeadLetters(tmp_path / "b") as letters:
            while not (found := list(letters)):
                pass
            [one] = found
            assert one.values() == [1]
            letters.erase(one)
        tracker.track("clicks", 2)
        assert tracker.flush(30).delivered == 1
    with DeadLetters(tmp_path / "b") as letters:
        assert ids(letters) == []
