"""Several trackers on one backlog: files with numbers, who has which, and what is taken over."""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest
from files import batch, change

import atom_anyio
from atom_sansio import BacklogError, DeadLetter, KeptBatch, Loss, LossReason, Request, UpdateBacklog
from atom_sync import MemoryTransport, Tracker
from atom_sync.backlog import Backlog, DeadLetters
from atom_sync.backlog import _tables as tables
from atom_sync.backlog._files import lock


def tracker(path: Path, answer: Any = None, **options: Any) -> Tracker:
    return Tracker("http://x/", backlog=path, transport=MemoryTransport(answer), on_loss=str, **options)


def put(path: Path, *batches: tuple[str, str, list[Any]]) -> None:
    """Leave batches of (id, stream, events) in a file, at places 1, 2, ..."""
    opened = Backlog(path).open(numbered=False)
    kept = []
    for place, (batch_id, stream, events) in enumerate(batches, 1):
        lines = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        batch = KeptBatch(
            batch_id=batch_id, place=place, part=0, stream=stream, fingerprint=None, events=len(events), size=len(lines)
        )
        kept.append((batch, lines))
    opened.update(UpdateBacklog(put=tuple(kept), drop=(), dead=(), marks=(), forget_before=0))
    opened.close()


def test_halves_replace_nobody(tmp_path: Path) -> None:
    """What is split off a batch of another file replaces no batch of the first one, though both are its first."""
    file = tmp_path / "events.db"
    put(file, ("own", "slow", [1]))
    put(file.with_name("events.db.2"), ("other", "bad", [1, 2, 3, 4]))
    asked: list[str] = []

    def answer(request: Request) -> int:
        stream = json.loads(request.body)["table"]
        asked.append(stream)
        if stream == "slow":
            return 503
        return 400 if len(json.loads(json.loads(request.body)["data"])) > 1 else 200

    with tracker(file, answer) as it:
        while it.statistics().delivered < 4:
            pass
        it.stop(0)
    transport = MemoryTransport()
    with Tracker("http://x/", backlog=file, transport=transport) as it:
        it.flush(30)
        assert sum(it.statistics().lost.values()) == 0
        assert it.statistics().delivered == 1
    assert transport.events == [("slow", 1)]
    assert "slow" in asked


@pytest.mark.parametrize("then", ["another update", "the end"])
def test_another_file_that_cannot_be_written_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, then: str
) -> None:
    """What is to be put in one's own file is put, and what is to be dropped there is dropped when it can be."""
    file = tmp_path / "events.db"
    put(file, ("own", "clicks", [1]))
    put(file.with_name("events.db.2"), ("other", "clicks", [2]), ("another", "clicks", [3]))
    real, failed = tables.drop, []

    def drop(connection: sqlite3.Connection, batch_ids: Iterable[str]) -> None:
        name = connection.execute("PRAGMA database_list").fetchone()[2]
        if name.endswith(".2"):
            failed.append(1)
            raise sqlite3.OperationalError("disk I/O error")
        real(connection, batch_ids)

    opened = Backlog(file).open()
    assert len(opened.recover().batches) == 3
    with monkeypatch.context() as patch:
        patch.setattr(tables, "drop", drop)
        opened.update(change(put=[batch("new", b"4\n", place=2)], drop=["own", "other"]))
        opened.update(change(drop=["another"]))
    assert len(failed) == 2
    assert [words.rpartition(": ")[2] for words in opened.said()] == ["disk I/O error"]
    assert not caplog.records
    if then == "another update":
        opened.update(change(put=[batch("newer", b"5\n", place=3)]))
        assert opened.files == [file]
    opened.close()
    assert Backlog(file).files == [file]
    opened = Backlog(file).open()
    assert {kept.batch_id for kept in opened.recover().batches} <= {"new", "newer"}
    opened.close()


def test_a_missing_number_is_not_the_end(tmp_path: Path) -> None:
    """A file is taken over though the one before it has been emptied and deleted."""
    file = tmp_path / "events.db"
    put(file)
    put(file.with_name("events.db.4"), ("left", "clicks", [1, 2]))
    assert Backlog(file).files == [file, file.with_name("events.db.4")]
    with tracker(file) as it:
        it.flush(30)
        assert it.statistics().delivered == 2
    assert Backlog(file).files == [file]


@pytest.mark.parametrize("busy", [False, True])
def test_one_that_cannot_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture, *, busy: bool) -> None:
    """A numbered file that is another user's, say, keeps no tracker from the others; the log says once that it is left.

    Nor does it if the first one is in use, so that it would be the one to write to.
    """
    file = tmp_path / "events.db"
    for number, suffix in enumerate(("", ".2", ".3"), 1):
        put(file.with_name(file.name + suffix), (f"batch {number}", "clicks", [number]))
    locked = tmp_path / "events.db.2-lock"
    locked.unlink()
    locked.mkdir()  # which even root cannot open
    transport = MemoryTransport()
    user = lock(tmp_path / "events.db-lock") if busy else None
    with Tracker("http://x/", backlog=file, transport=transport) as it:
        it.flush(30)
    if user is not None:
        user.close()
    assert sorted(event for _, event in transport.events) == ([3] if busy else [1, 3])
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"{tmp_path}/events.db.2 is left for later"
    ]
    locked.rmdir()
    with Tracker("http://x/", backlog=file, transport=transport) as it:
        it.flush(30)
    assert sorted(event for _, event in transport.events) == [1, 2, 3]


def test_none_that_can_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no new file can be made either, that is what is raised, at once and unlogged."""
    file = tmp_path / "events.db"
    user = lock(tmp_path / "events.db-lock")
    assert user is not None
    file.with_name("events.db.2-lock").mkdir()
    tried: list[Path] = []

    def no_more(path: Path) -> None:
        tried.append(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "atom_sync.backlog._backlog.lock", lambda path: no_more(path) if ".3" in path.name else lock(path)
        )
        with pytest.raises(BacklogError, match=r"cannot be opened: .*No space left on device"):
            Backlog(file).open()
        patch.setattr("atom_sync.backlog._backlog.MAX_SEGMENTS", 2)
        with pytest.raises(BacklogError, match=r"cannot be opened: .*events\.db\.2-lock'"):
            Backlog(file).open()
    user.close()
    assert tried == [tmp_path / "events.db.3-lock"]
    assert caplog.records == []


def test_the_first_file_or_none(tmp_path: Path) -> None:
    """Who wants the file itself is told which process has it, and no other is made."""
    file = tmp_path / "events.db"
    opened = Backlog(file).open(numbered=False)
    assert opened.files == [file]
    try:
        with pytest.raises(BacklogError, match=rf"events.db is in use by process {os.getpid()}$"):
            Backlog(file).open(numbered=False)
        file.with_name("events.db-lock").write_bytes(b"")
        with pytest.raises(BacklogError, match=r"is in use by another tracker$"):
            Backlog(file).open(numbered=False)
    finally:
        opened.close()
    assert Backlog(file).files == [file]


def test_stopping_again_does_not_wait(tmp_path: Path) -> None:
    """What is left in the backlog is not waited for by another stop or flush, and is pending in their results."""
    began = time.monotonic()
    with tracker(tmp_path / "events.db", [503] * 99) as it:
        it.track("clicks", 1)
        assert it.stop(0).pending == 1
        assert it.flush(60).pending == 1
        assert it.stop(60).pending == 1
    assert time.monotonic() - began < 30


def test_a_flush_ends_with_its_tracker(tmp_path: Path) -> None:
    """A flush that waits in another thread ends when the tracker is stopped."""

    async def main() -> None:
        transport = atom_anyio.MemoryTransport([503] * 99)
        async with atom_anyio.Tracker("http://x/", backlog=tmp_path / "b", transport=transport, on_loss=str) as it:
            await it.track("clicks", 1)
            async with anyio.create_task_group() as group:

                async def stop() -> None:
                    await anyio.sleep(0.01)
                    await it.stop(0)

                group.start_soon(stop)
                with anyio.fail_after(30):
                    result = await it.flush(60)
        assert result.pending == 1

    anyio.run(main)


def test_a_damaged_file_with_a_strange_name(tmp_path: Path) -> None:
    """A file is set aside and read there, whatever characters are in its path."""
    folder = tmp_path / "a?b#c%41 d"
    folder.mkdir()
    file = folder / "events.db"
    put(file, ("kept", "clicks", [1]))
    with DeadLetters(file) as letters:
        letters._connection.execute("DROP TABLE marks")
    transport = MemoryTransport()
    with Tracker("http://x/", backlog=file, transport=transport) as it:
        it.flush(30)
        assert it.statistics().delivered == 1
    assert transport.events == [("clicks", 1)]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("driver", ["threads", "asyncio", "trio"])
def test_a_key_that_is_not_given_is_named_so(tmp_path: Path, driver: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that events wait for a key, and does not say that the collector has refused one."""
    with Tracker(
        "http://x/", backlog=tmp_path / "b", transport=MemoryTransport([503] * 99), auth_key="a", on_loss=str
    ) as it:
        it.track("clicks", 1)
        it.stop(0)
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        transport = atom_anyio.MemoryTransport()
        async with atom_anyio.Tracker("http://x/", backlog=tmp_path / "b", transport=transport) as it:
            await it.stop(0.1)

    if driver == "threads":
        with tracker(tmp_path / "b") as it:
            it.stop(0.1)
    else:
        anyio.run(main, backend=driver)
    [message] = [record.getMessage() for record in caplog.records if record.name == "atom"]
    assert "events of stream 'clicks' wait for set_auth_key(): " in message
    assert "which was not given" in message
    assert "refuses the key of" not in message


def test_dead_letters_are_erased_and_revived_by_number_and_id(tmp_path: Path) -> None:
    """A letter that is gone, and whose number another one has by now, is left alone."""
    file = tmp_path / "events.db"
    with tracker(file, [400], max_batch_events=1) as it:
        it.track("clicks", 1)
        it.flush(30)
        assert sum(it.statistics().lost.values()) == 1
    with DeadLetters(file) as letters:
        [letter] = letters
        assert letter.reason is LossReason.REJECTED
        letters.erase(letter)
        loss = Loss(
            stream=letter.stream,
            lines=letter.lines,
            count=1,
            reason=letter.reason,
            status=400,
            message="",
            attempts=1,
            time=0.0,
        )
        tables.bury(letters._connection, [DeadLetter(letter_id="another", fingerprint=None, loss=loss)])
        letters.erase(letter)
        letters.revive(letter)
        assert [each.letter_id for each in letters] == ["another"]
        assert letters.pending == (0, 0)
