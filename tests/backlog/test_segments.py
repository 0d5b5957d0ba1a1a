"""The files of a backlog: who may read them, who has them, how long, and what their owner is told when they fail."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from files import batch, change, contents, held, letter, lines_of, mark, records

from atom_sansio import BacklogError, BatchUnreadable, Level
from atom_sync import MemoryTransport, Tracker
from atom_sync.backlog import Backlog, DeadLetters, OpenBacklog
from atom_sync.backlog import _backlog as backlog_module
from atom_sync.backlog import _files as files_module
from atom_sync.backlog import _mending as mending
from atom_sync.backlog import _tables as tables

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
unprivileged = pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may do anything")


@contextlib.contextmanager
def opened(path: Path, level: Level | str = Level.PROCESS) -> Iterator[OpenBacklog]:
    it = Backlog(path, level=level).open()
    try:
        yield it
    finally:
        it.close()


def lay(path: Path, *batch_ids: str, tracked: int = 0) -> None:
    """Leave batches, and records, in the file *path* as if a tracker had died."""
    with opened(path) as it:
        it.update(change(put=[batch(name, lines_of(name), place=n) for n, name in enumerate(batch_ids, 1)]))
        if tracked:
            it.append(records(1, *(lines_of([path.name, n]) for n in range(tracked))))


# -- who may read them ------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("umask", [0, 0o077, 0o022])
def test_only_their_owner_may_read_them(tmp_path: Path, umask: int) -> None:
    """Every file has mode 0600, whatever the umask, what is set aside too."""
    before = os.umask(umask)
    try:
        file = tmp_path / "events.db"
        lay(file, "a", tracked=2)
        with opened(file) as it, opened(file) as another:
            for each in (it, another):
                each.recover()
                each.append(records(1, lines_of(1), generation=5))
                each.update(change(put=[batch("b", lines_of(1), place=7)], dead=[letter("c", lines_of(2))]))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes.keys() >= {"events.db-wal", "events.db-shm", "events.db-tail-5.1", "events.db.2", "events.db-lock"}
        file.write_bytes(file.read_bytes()[:5000])
        held(file)
        modes |= {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert [name for name in modes if ".damaged-" in name]
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes


@posix
def test_files_that_others_could_read(tmp_path: Path) -> None:
    """Files that were made readable by others are made private when they are opened; one that is no backlog is not."""
    path, other = tmp_path / "events.db", tmp_path / "other.db"
    lay(path, "one")
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (n)")
    reading = tables.connect(path, sync=False)  # so that there is a log
    files = [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]
    for file in (*files, other):
        file.chmod(0o644)
    for file in (path, other):
        with opened(file):
            pass
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
    reading.close()


# -- who has them -----------------------------------------------------------------------------------------


def test_two_in_one_process(tmp_path: Path) -> None:
    """Each has a file of its own; what one leaves is taken over by who opens the backlog next."""
    file = tmp_path / "events.db"
    with opened(file) as first, opened(file) as second:
        assert [first.path.name, second.path.name] == ["events.db", "events.db.2"]
        first.append(records(1, lines_of("first")))
        second.append(records(1, lines_of("second")))
        second.update(change(put=[batch("b", lines_of("batch"))]))
    with opened(file) as it:
        assert it.files == [file, tmp_path / "events.db.2"]
        batches, tracked, damaged = contents(it)
        assert batches == {"b": ("clicks", None, lines_of("batch"))}
        assert sorted(tracked) == sorted([lines_of("first"), lines_of("second")])
        assert damaged == 0
        it.update(change(drop=["b"]))
        assert it.files == [file]
    assert not (tmp_path / "events.db.2").exists()


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all files of a backlog are in use, that is an error which says so."""
    monkeypatch.setattr(backlog_module, "MAX_SEGMENTS", 2)
    file = tmp_path / "events.db"
    with opened(file), opened(file), pytest.raises(BacklogError, match="all 2 others of that name are in use"):
        Backlog(file).open()


def test_records_of_a_file_that_is_taken_over(tmp_path: Path) -> None:
    """They are delivered once, and no record that is written later counts less for their marks."""
    file = tmp_path / "events.db"
    lay(file.with_name("events.db.2"), tracked=5)
    with opened(file.with_name("events.db.2")) as it:
        it.update(change(marks=[mark(2)]))
    with opened(file) as it:
        found = it.recover()
        [kept] = found.records
        assert kept.lines == b"".join(lines_of(["events.db.2", n]) for n in range(2, 5))
        # A tracker puts them in a batch, and begins a generation after those that were found.
        it.update(change(put=[batch("b", kept.lines)], marks=kept.marks, forget_before=found.generation + 1))
        it.append(records(1, *map(lines_of, range(5)), generation=found.generation + 1))
    batches, tracked, damaged = held(file)
    assert batches == {"b": ("clicks", None, kept.lines)}
    assert (tracked, damaged) == ([*map(lines_of, range(5))], 0)


def test_a_file_with_records_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is taken over stays as long as anything is beside it, though all its batches are delivered."""
    file = tmp_path / "events.db"
    lay(file.with_name("events.db.2"), "b")
    with opened(file) as it:
        it.recover()
        (tmp_path / "events.db.2-tail-1.1").write_bytes(records(1, lines_of(1)).data)
        it.update(change(drop=["b"]))
        assert len(it.files) == 2


def test_what_cannot_be_handed_over_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose records cannot be renamed is left to the next tracker, and that is no reason not to start."""
    file = tmp_path / "events.db"
    lay(file, "own")
    lay(file.with_name("events.db.2"), "other", tracked=1)
    with monkeypatch.context() as patch:

        def rename(*args: Any) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(Path, "rename", rename)
        assert held(file) == ({"own": ("clicks", None, lines_of("own"))}, [], 0)
    batches, tracked, _ = held(file)
    assert (batches.keys(), tracked) == ({"own", "other"}, [lines_of(["events.db.2", 0])])


def test_a_file_that_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left where it is, empty, and others may have it."""
    file = tmp_path / "events.db"
    lay(file.with_name("events.db.2"), "b")
    with opened(file) as it:
        it.recover()
        with monkeypatch.context() as patch:

            def unlink(*args: Any, **options: Any) -> None:
                raise OSError(5, "Input/output error")

            patch.setattr(Path, "unlink", unlink)
            it.update(change(drop=["b"]))
        assert it.files == [file]
        with opened(file) as another:
            assert another.path.name == "events.db.2"
            assert contents(another) == ({}, [], 0)


HOLD = """
import os, sys, time
from atom_sync.backlog import Backlog
sys.path.insert(0, sys.argv[2])
from files import batch, change, lines_of, records
it = Backlog(sys.argv[1]).open()
it.append(records(1, lines_of("tracked")))
it.update(change(put=[batch("b", lines_of("batch"))]))
"""


@contextlib.contextmanager
def holder(file: Path, more: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that has the backlog, and has said so."""
    script = HOLD + textwrap.dedent(more) + "os.write(1, it.path.name.encode() + b'\\n')\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(file), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@posix
def test_two_processes(tmp_path: Path) -> None:
    """Each has a file of its own; the lock dies with its owner, killed or not, and all that it had is found."""
    file = tmp_path / "events.db"
    with holder(file) as first, holder(file) as second:
        assert {said(first), said(second)} == {"events.db", "events.db.2"}
        with pytest.raises(BacklogError, match=r"in use by process \d+"):
            Backlog(file).open(numbered=False)
        with opened(file) as third:
            assert third.path.name == "events.db.3"
            assert third.files == [third.path]
        second.send_signal(signal.SIGKILL)
        second.wait()
        first.send_signal(signal.SIGKILL)
        first.wait()
    with opened(file) as it:
        assert it.files == [file.with_name(name) for name in ("events.db", "events.db.2", "events.db.3")]
        batches, tracked, damaged = contents(it)
        assert batches.keys() == {"b"}
        assert tracked == [lines_of("tracked")] * 2
        assert damaged == 0


@posix
@pytest.mark.parametrize("how", ["a backlog", "a tracker"])
def test_a_child_that_lives_longer(tmp_path: Path, how: str) -> None:
    """A child that is forked and stays alive does not keep the lock of its parent, which is killed."""
    file = tmp_path / "events.db"
    tracker = """
        from atom_sync import MemoryTransport, Tracker
        it.close()
        tracker = Tracker("http://x/", backlog=sys.argv[1], transport=MemoryTransport([503] * 9))
        tracker.track("clicks", "by the parent")
    """
    fork = """
        if os.fork() == 0:
            os.write(1, b"%d\\n" % os.getpid())
            sys.stdin.read()
            os._exit(0)
    """
    with holder(file, (textwrap.dedent(tracker) if how == "a tracker" else "") + textwrap.dedent(fork)) as parent:
        words = [said(parent), said(parent)]
        assert any(word.isdecimal() for word in words), words
        child = int(next(word for word in words if word.isdecimal()))
        with pytest.raises(BacklogError, match="in use"):
            Backlog(file).open(numbered=False)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        os.kill(child, 0)  # it is there
        it = Backlog(file).open(numbered=False)
        batches, tracked, damaged = contents(it)
        it.close()
        os.kill(child, signal.SIGKILL)
    events = [*tracked, *(line for _, _, lines in batches.values() for line in lines.splitlines(keepends=True))]
    wanted = ["tracked", "batch", *(["by the parent"] if how == "a tracker" else [])]
    assert (sorted(events), damaged) == (sorted(map(lines_of, wanted)), 0)


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("patience", [0.2, PATIENCE])
def test_a_fork_while_another_thread_works_with_sqlite(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    """It waits for that thread, which may have a mutex of SQLite's, but not for ever; and for itself not at all."""
    monkeypatch.setattr(files_module, "LONGEST_WAIT", patience)
    begun, over, forked = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with files_module.Working(), files_module.Working():
            begun.set()
            over.wait(PATIENCE)

    def fork() -> None:
        with files_module.Working():  # as a signal handler may have interrupted it
            pid = os.fork()
        if pid == 0:  # pragma: no cover - its coverage is not collected
            with files_module.Working():
                os._exit(len(files_module._at_work))
        forked.set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

    fork()
    forked.clear()
    threads = [threading.Thread(target=work), threading.Thread(target=fork)]
    threads[0].start()
    begun.wait(PATIENCE)
    threads[1].start()
    assert forked.wait(PATIENCE if patience < 1 else 0.5) == (patience < 1)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert forked.is_set()
    assert not files_module._at_work


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_beside_threads_that_take_turns() -> None:
    """It needs no moment in which none of them is at work by chance, and none waits for it that is."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            with files_module.Working():
                over.wait(0.005)
                with files_module.Working():
                    pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = time.monotonic()
    try:
        for _ in range(3):
            pid = os.fork()
            if pid == 0:  # pragma: no cover - its coverage is not collected
                os._exit(len(files_module._at_work))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert time.monotonic() - before < files_module.LONGEST_WAIT


def test_work_that_ends_while_a_fork_looks_for_it() -> None:
    """Other threads may end theirs at any moment of that."""
    looks = False

    class Ending(files_module.Working):
        def __getattribute__(self, name: str) -> Any:
            if name == "thread" and looks:
                for each in all_:
                    each.__exit__()
            return super().__getattribute__(name)

    all_ = [Ending() for _ in range(3)]
    for each in all_:
        each.__enter__()
    looks = True
    assert files_module._threads_at_work() == {threading.get_ident()}
    assert files_module._threads_at_work() == set()


def test_work_that_an_exception_leaves() -> None:
    """What a signal handler raises just before or after it does not leave the thread at work for ever."""
    for _ in range(3):
        working = files_module.Working()
        working.__enter__()
        assert len(files_module._at_work) == 1
        del working  # with the frame that it was in
        gc.collect()
        assert not files_module._at_work


@posix
def test_another_name(tmp_path: Path) -> None:
    """A symbolic link to a file is the same backlog, in use where that is, and the same records."""
    file, link = tmp_path / "events.db", tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(file)
    tracker = Tracker("http://127.0.0.1:9/", backlog=link, transport=MemoryTransport(lambda request: 503))
    tracker.track("clicks", 1)
    assert not [path for path in link.parent.iterdir() if path != link]
    assert Backlog(link).path == file
    with pytest.raises(BacklogError, match="in use"):
        Backlog(file).open(numbered=False)
    with DeadLetters(link) as letters:
        assert [each.events for each in letters.waiting()] == [1]
    tracker.stop(0)


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("moment", ["opened", "closed"])
def test_a_fork_while_a_lock_is_opened_or_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """A child that another thread forks just then has the file closed, too, though it is not or no more registered."""
    codes: list[int] = []
    found: list[tuple[int, os.stat_result]] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:  # pragma: no cover - its coverage is not collected
            code = 0
            try:
                [(fd, file)] = found
                code = os.path.samestat(os.fstat(fd), file)  # not one that somebody else has opened in the child
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    forking = threading.Thread(target=fork)

    def fork_meanwhile(fd: int) -> None:
        found.append((fd, os.fstat(fd)))
        forking.start()
        forking.join(0.2)  # it comes to its end here if nothing holds it up

    real_open, real_close = files_module.open_private, os.close

    def open_private(path: Path, flags: int) -> int:
        fd = real_open(path, flags)
        fork_meanwhile(fd)
        return fd

    def close(fd: int) -> None:
        if fd == own:  # and not a file of a thread that another test has left
            fork_meanwhile(fd)
        real_close(fd)

    with monkeypatch.context() as patch:
        if moment == "opened":
            patch.setattr(files_module, "open_private", open_private)
        taken = files_module.Lock(tmp_path / "a-lock")
        if moment == "opened":
            forking.join()  # while it is open
        assert taken.take()
        own = taken._fd
        if moment == "closed":
            patch.setattr(os, "close", close)
        taken.close()
    forking.join()
    assert codes == [0]


@posix
def test_a_child_that_has_not_closed_it_yet(tmp_path: Path) -> None:
    """Who closes a lock gives it up, also while a child that was forked just before has the same open file."""
    taken = files_module.lock(tmp_path / "a-lock")
    assert taken is not None
    assert taken._fd is not None
    as_in_a_child = os.dup(taken._fd)
    taken.close()
    again = files_module.lock(tmp_path / "a-lock")
    os.close(as_in_a_child)
    assert again is not None
    again.close()


@posix
def test_in_a_forked_child(tmp_path: Path) -> None:
    """There it is closed: it takes nothing, says so, and what the parent does is not harmed when the child ends."""
    with opened(tmp_path / "events.db") as it:
        it.append(records(1, lines_of(1)))
        pid = os.fork()
        if pid == 0:  # pragma: no cover - its coverage is not collected
            code = 1
            with contextlib.suppress(BaseException):
                failures = 0
                for call in (lambda: it.append(records(2, lines_of(2))), lambda: it.update(change())):
                    try:
                        call()
                    except OSError as error:
                        failures += "closed" in str(error)
                it.leave_to_parent()
                it.close()
                code = 0 if failures == 2 else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        it.append(records(2, lines_of(2)))
        it.update(change(put=[batch("b", lines_of(3))]))
        with pytest.raises(BacklogError, match="in use"):
            Backlog(tmp_path / "events.db").open(numbered=False)
    assert held(tmp_path / "events.db")[:2] == ({"b": ("clicks", None, lines_of(3))}, [lines_of(1), lines_of(2)])


def test_closed_twice(tmp_path: Path) -> None:
    """Closing twice closes no descriptor that is somebody else's by then; what comes after it is refused."""
    it = Backlog(tmp_path / "events.db").open()
    segment = it._own
    it.close()
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    try:
        it.close()
        segment.close()
        segment.delete()
        os.fstat(other)
    finally:
        os.close(other)
    for call in (lambda: it.append(records(1, b"1\n")), lambda: it.update(change()), lambda: it.load("b")):
        with pytest.raises(OSError, match="closed"):
            call()


# -- what is no backlog -----------------------------------------------------------------------------------


def foreign_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum = FULL")
        connection.execute("CREATE TABLE batches (mine TEXT)")
        connection.execute("INSERT INTO batches VALUES ('mine')")
        connection.commit()


def later_version(path: Path) -> None:
    lay(path, "a")
    path.with_name(f"{path.name}-lock").unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE batches ADD COLUMN more TEXT")
        connection.execute(f"PRAGMA user_version = {tables.VERSION + 1}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@pytest.mark.parametrize("locked", [False, True], ids=["never opened", "opened before"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("dear diary"), "is no backlog"),
        (foreign_database, "it is no backlog"),
        (later_version, "it is a backlog of version 2; this program reads version 1"),
        (Path.mkdir, "is no backlog"),
    ],
    ids=["text", "database", "later version", "folder"],
)
def test_another_kind_of_file(
    tmp_path: Path, make: Callable[[Path], object], words: str, locked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of another kind, or of a version to come, is left as it is, and the next file is used."""
    file = tmp_path / "events.db"
    make(file)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    if locked:
        if not before or before[file].startswith(b"dear"):
            return  # then it is taken for what is left of a backlog
        file.with_name("events.db-lock").write_bytes(b"")
    with opened(file) as it:
        assert it.path.name == "events.db.2"
        assert contents(it) == ({}, [], 0)
        it.append(records(1, lines_of(1)))
    assert words in caplog.text
    assert {path: path.read_bytes() for path in before} == before
    assert file.with_name("events.db-lock").exists() is locked
    assert held(file)[1] == [lines_of(1)]


def test_a_text_where_a_backlog_was(tmp_path: Path) -> None:
    """What is in the place of a backlog, and none, is set aside as it is."""
    file = tmp_path / "events.db"
    lay(file, "a")
    file.write_text("dear diary")
    with opened(file) as it:
        assert it.path == file
        assert contents(it) == ({}, [], 1)
    [away] = tmp_path.glob("events.db.damaged-*")
    assert away.read_text() == "dear diary"


def test_an_empty_file(tmp_path: Path) -> None:
    """An empty file becomes a backlog: somebody made it to have its owner and mode right."""
    file = tmp_path / "events.db"
    file.touch(mode=0o600)
    lay(file, "a")
    assert held(file)[0].keys() == {"a"}


@pytest.mark.parametrize("what", ["no folder", "a lock that is a folder", "a file for a folder"])
def test_where_none_can_be_made(tmp_path: Path, what: str) -> None:
    """Where no file can be made there is a BacklogError that names the file and the reason."""
    file = tmp_path / "folder" / "events.db"
    if what == "a lock that is a folder":
        file.with_name("events.db-lock").mkdir(parents=True)
    elif what == "a file for a folder":
        (tmp_path / "folder").write_text("")
    with pytest.raises(
        BacklogError, match=r"events\.db cannot be opened: .*(No such file|Is a directory|Not a directory)"
    ):
        Backlog(file).open()


@posix
@pytest.mark.parametrize("what", ["file", "folder"])
def test_read_only(tmp_path: Path, what: str) -> None:
    """What may not be written is a BacklogError that says so, and is left as it is."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lay(folder / "events.db", "a")
    before = (folder / "events.db").read_bytes()
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    pid = os.fork()
    if pid == 0:  # pragma: no cover - its coverage is not collected
        code = 1
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                for path in (folder, *folder.iterdir()):
                    os.chown(path, 65534, 65534)
                parent = tmp_path
                while parent != parent.parent:
                    with contextlib.suppress(OSError):
                        os.chmod(parent, parent.stat().st_mode | 0o711)  # noqa: PTH101
                    parent = parent.parent
                os.setuid(65534)
            if what == "file":
                (folder / "events.db").chmod(0o400)
            else:
                (folder / "events.db-lock").unlink()
                folder.chmod(0o500)
            try:
                Backlog(folder / "events.db").open()
            except BacklogError as error:
                code = 0 if "Permission denied" in str(error) else 3
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    folder.chmod(0o700)
    assert code == 0
    assert (folder / "events.db").read_bytes() == before


# -- what fails while it is open ----------------------------------------------------------------------------


def test_a_batch_that_is_altered(tmp_path: Path) -> None:
    """Events that are not what was put are not given, and are set aside with the reason; so is a head, at the start."""
    file = tmp_path / "events.db"
    lay(file, "a", "b", "c")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE batches SET lines = ? WHERE batch_id = 'a'", (lines_of("x"),))
        connection.execute("UPDATE batches SET stream = 'others' WHERE batch_id = 'b'")
        connection.execute("INSERT INTO marks VALUES (1, 'clicks', '', 99, 0)")
        connection.commit()
    with opened(file) as it:
        assert contents(it) == ({"c": ("clicks", None, lines_of("c"))}, [], 2)
        with pytest.raises(BatchUnreadable, match="not there any more"):
            it.load("a")
        with DeadLetters(file) as letters:
            pieces = letters.damaged
    assert [(source, reason) for source, reason, _ in pieces] == [
        ("batches", "it is not what was put"),
        ("marks", "it is not what was put"),
        ("batches", "its checksum is wrong"),
    ]
    assert pieces[2][2].endswith(lines_of("x"))
    assert held(file)[2] == 0


def test_an_altered_batch_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up only when it is set aside: until then it cannot be read."""
    file = tmp_path / "events.db"
    lay(file, "a")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE batches SET lines = ?", (lines_of("x"),))
        connection.commit()

    def set_aside(*args: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with opened(file) as it:
        with monkeypatch.context() as patch:
            patch.setattr(tables, "set_aside", set_aside)
            with pytest.raises(OSError, match="disk is full"):
                it.load("a")
        with pytest.raises(BatchUnreadable, match="its checksum is wrong"):
            it.load("a")
        with DeadLetters(file) as letters:
            assert len(letters.damaged) == 1


def zero_index(file: Path) -> None:
    """Let the disk forget the index of batches by their ids."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_batches_1'"
        [root] = connection.execute(query).fetchone()
    data = bytearray(file.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = bytes(4096)
    file.write_bytes(data)


@pytest.mark.parametrize("call", ["load", "update"])
def test_damage_while_it_is_open(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When SQLite comes across damage, the file is mended at once; what was done just then is told to be undone."""
    monkeypatch.setattr(mending, "CHECKED", 0)  # as if it were too large to be looked through
    file = tmp_path / "events.db"
    with opened(file) as it:
        big = [batch(f"b{n}", lines_of("x" * 3000, n), place=n) for n in range(40)]
        it.update(change(put=big))
    zero_index(file)
    with opened(file) as it:
        assert len(it.recover().batches) == 40
        if call == "update":
            with pytest.raises(OSError, match="malformed"):
                it.update(change(drop=["b1"]))
            it.update(change(drop=["b1"]))
        else:
            assert it.load("b0") == big[0][1]
    assert len(list(tmp_path.glob("events.db.damaged-*"))) >= 1
    assert len(held(file)[0]) == (39 if call == "update" else 40)


def test_errors_that_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What SQLite cannot do is an OSError; the file is opened again for the next try, and each cause is said once."""
    with opened(tmp_path / "events.db", Level.DISK) as it:
        segment = it._own
        segment._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(OSError, match=r"events.db: database or disk is full"):
            it.update(change(put=[batch("b", lines_of("x" * 100_000))]))
        it.update(change(put=[batch("b", lines_of("x" * 100_000))]))
        with pytest.raises(OSError, match="too large"):
            it.update(change(put=[batch("c", b"1\n", place=2**62)]))
        with monkeypatch.context() as patch:

            def connect(*args: Any, **options: Any) -> Any:
                raise sqlite3.OperationalError("unable to open database file")

            patch.setattr(tables, "connect", connect)
            segment._connection.execute("PRAGMA max_page_count = 1")
            with pytest.raises(OSError, match="full"):
                it.update(change(put=[batch("d", lines_of("x" * 900_000))]))
            with pytest.raises(OSError, match="cannot be opened again: unable to open"):
                it.update(change(put=[batch("d", b"1\n")]))
            with pytest.raises(OSError, match="cannot be opened again: unable to open"):
                it.load("b")
        assert it.load("b") == lines_of("x" * 100_000)
        assert [words.rpartition(": ")[2] for words in it.said()] == [
            "database or disk is full",
            "Python int too large to convert to SQLite INTEGER",
            "unable to open database file",
        ]
        assert not list(it.said())
    assert not caplog.records


def test_damage_on_a_disk_that_is_full_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file is mended once there is room for that, and not before anything else is asked of it."""
    monkeypatch.setattr(mending, "CHECKED", 0)
    file = tmp_path / "events.db"
    big = [batch(f"b{n}", lines_of("x" * 3000, n), place=n) for n in range(40)]
    with opened(file) as it:
        it.update(change(put=big))
    zero_index(file)
    with opened(file) as it:
        with monkeypatch.context() as patch:

            def set_aside(*args: Any) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            patch.setattr(mending, "_keep", set_aside)
            for _ in range(2):
                with pytest.raises(OSError, match="full"):
                    it.load("b0")
        it.update(change(drop=["b1"]))
        assert it.load("b0") == big[0][1]
    assert len(held(file)[0]) == 39


def test_what_cannot_be_read_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk does not let a tracker list is a BacklogError, and others may have the file then."""
    file = tmp_path / "events.db"
    lay(file, "a", tracked=1)
    it = Backlog(file).open()
    with monkeypatch.context() as patch:

        def list_marks(*args: Any) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

        patch.setattr(tables, "list_marks", list_marks)
        with pytest.raises(BacklogError, match=r"events.db cannot be read: disk I/O error"):
            it.recover()
        patch.setattr(tables, "list_damaged", list_marks)
        with pytest.raises(BacklogError, match=r"events.db cannot be opened: disk I/O error"):
            Backlog(file).open()
        patch.setattr(tables, "list_damaged", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Backlog(file).open()
    it = Backlog(file).open(numbered=False)
    with monkeypatch.context() as patch:
        patch.setattr(tables, "list_marks", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            it.recover()
    assert held(file)[0].keys() == {"a"}


def test_records_that_the_disk_does_not_give_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their file is set aside and counted as one that is lost at least, and all else is delivered."""
    file = tmp_path / "events.db"
    lay(file, "a", tracked=2)
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name.endswith("-tail-1.1"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert held(file) == ({"a": ("clicks", None, lines_of("a"))}, [], 1)


@pytest.mark.parametrize("left", ["not complete", "complete"])
def test_a_process_that_ends_while_it_mends(tmp_path: Path, left: str) -> None:
    """What is left under the other name is thrown away while the damaged file is there, and used once it is not."""
    file = tmp_path / "events.db"
    lay(file, "a", "b")
    mended = file.with_name("events.db-mended")
    if left == "complete":
        file.rename(mended)
        file.with_name("events.db-wal").write_bytes(b"of the damaged one")
    else:
        mended.write_bytes(b"SQLite")
    assert held(file)[0].keys() == {"a", "b"}
    assert not mended.exists()
    assert len(list(tmp_path.glob("events.db.damaged-*-wal"))) == (left == "complete")


def test_a_full_disk_while_it_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stays as it was, and is mended when there is room."""
    file = tmp_path / "events.db"
    lay(file, "a", "b", "c")
    zero_index(file)
    before = file.read_bytes()
    with monkeypatch.context() as patch:

        def set_aside(*args: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(mending, "_keep", set_aside)
        with pytest.raises(BacklogError, match=r"cannot be opened: database or disk is full"):
            Backlog(file).open()
    assert file.read_bytes() == before
    assert not list(tmp_path.glob("*mended*"))
    assert held(file)[0].keys() == {"a", "b", "c"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.thorough
def test_a_large_backlog(tmp_path: Path) -> None:
    """100,000 batches are opened without their events in memory, in the order of their places."""
    file = tmp_path / "events.db"
    line = lines_of({"text": "x" * 300})
    with opened(file) as it:
        for start in range(0, 100_000, 5000):
            it.update(change(put=[batch(f"b{n}", line, place=n) for n in range(start, start + 5000)]))
    script = """
        import re, sys, time
        from atom_sync.backlog import Backlog
        def most():
            return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
        before = most()
        began = time.process_time()
        it = Backlog(sys.argv[1]).open()
        found = it.recover()
        assert [kept.place for kept in found.batches] == list(range(100_000))
        print(time.process_time() - began, (most() - before) / 1024)
        it.close()
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(file)], capture_output=True, text=True, check=True
    )
    seconds, mib = map(float, ran.stdout.split())
    print(f"{file.stat().st_size / 1e6:.0f} MB: {seconds:.2f} s, {mib:.0f} MiB")
    assert seconds < 20
    assert mib < 200
