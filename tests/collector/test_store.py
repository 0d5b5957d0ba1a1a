"""The store: durable, each batch once, and back by itself after a failure."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from atom_anyio.collector import Outcome, Store, StoreFailed, _tables
from atom_sansio._receive import Refused, Submission

STORED, DUPLICATE, CONFLICT = Outcome


def submission(*texts: str, stream: str = "s", batch_id: str | None = None) -> Submission:
    return Submission(stream=stream, data="", auth="", bulk=True, batch_id=batch_id, elements=texts)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(":memory:", clock=lambda: 1.5) as store:
        yield store


def do(store: Store, work: Callable[[sqlite3.Connection], Any]) -> Any:
    """Do something on the store's own connection."""
    return store._queue(work).result()


class Stuck:
    """Keeps the store's thread busy until the block ends, so that what is asked meanwhile waits together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._go_on = threading.Event()

    def __enter__(self) -> None:
        reached = threading.Event()

        def wait(db: sqlite3.Connection) -> None:
            reached.set()
            self._go_on.wait()

        self._future = self._store._queue(wait)
        reached.wait()

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._future.result()


def test_events_come_back(store: Store) -> None:
    """What was stored is read in order, exactly, with where it came from and when."""
    texts = ("\x00", "поток 😀", '{"n":1.10}', "")
    assert store.add(submission(*texts, batch_id="b")).result() is STORED
    page = store.events().result()
    assert [(e.id, e.stream, e.text, e.batch_id, e.received_at) for e in page.rows] == [
        (i, "s", text, "b", 1.5) for i, text in enumerate(texts, 1)
    ]
    assert page.next is None


def test_several_at_once(store: Store) -> None:
    """Submissions are stored together in order, each with what is its own; replays among them too are told."""
    store.add(submission("0", batch_id="a"))
    several = [
        submission("1", "2", batch_id="b"),
        submission("0", batch_id="a"),
        submission(stream="t", batch_id="c"),
        submission("3", stream="t"),
        submission("1", "2", batch_id="b"),
        submission("4", "5", "6", stream="t", batch_id="b"),
        submission("3", stream="t"),
    ]
    assert store.add_all(several).result() == [STORED, DUPLICATE, STORED, STORED, DUPLICATE, STORED, STORED]
    assert [(e.id, e.stream, e.text, e.batch_id) for e in store.events().result().rows] == [
        (1, "s", "0", "a"),
        (2, "s", "1", "b"),
        (3, "s", "2", "b"),
        (4, "t", "3", None),
        (5, "t", "4", "b"),
        (6, "t", "5", "b"),
        (7, "t", "6", "b"),
        (8, "t", "3", None),
    ]
    statistics = store.statistics().result()
    assert (statistics.stored, statistics.duplicates, statistics.requests) == (8, 3, 8)
    assert statistics.streams == {"s": 3, "t": 5}
    assert store.add_all([]).result() == []


@pytest.mark.parametrize("count", [1, 101, 102, 103, 255, 256, 257, 600])
def test_many_at_once(store: Store, count: int) -> None:
    """Any number of submissions is stored at once, and all of them are known afterwards."""
    many = [submission(f"{i}", f"{i}b", stream=f"s{i % 3}", batch_id=f"{i}") for i in range(count)]
    assert store.add_all(many).result() == [STORED] * count
    assert store.add_all([submission("x"), *many]).result() == [STORED] + [DUPLICATE] * count
    rows = store.events(limit=10_000).result().rows
    assert [(e.stream, e.text, e.batch_id) for e in rows[:-1]] == [
        (it.stream, text, it.batch_id) for it in many for text in it.elements
    ]
    assert store.statistics().result().duplicates == 2 * count


def test_the_file_is_read_with_sql(tmp_path: Path) -> None:
    """Who opens the file finds a row for each event."""
    with Store(tmp_path / "events.db", clock=lambda: 1.5) as store:
        store.add_all([submission("1", "2", batch_id="b"), submission("3", stream="t")]).result()
        with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as reader:
            rows = reader.execute("SELECT id, stream, text, batch_id, received_at FROM events ORDER BY id").fetchall()
    assert rows == [(1, "s", "1", "b", 1.5), (2, "s", "2", "b", 1.5), (3, "t", "3", None, 1.5)]


def test_large_batches(store: Store) -> None:
    """A batch of any size keeps its order."""
    for count in (1, 2, 3, 511, 512, 513, 2000):
        store.clear()
        store.add(submission(*map(str, range(count))))
        assert [event.text for event in store.events(limit=10_000).result().rows] == [str(i) for i in range(count)]


def test_pages(store: Store) -> None:
    """Pages have at most the limit, and lead from each to the next, in all or in one stream."""
    for i in range(7):
        store.add(submission(f"{i}", stream="even" if i % 2 == 0 else "odd"))

    def walk(stream: str | None, limit: int) -> list[list[str]]:
        pages = []
        after: int | None = 0
        while after is not None:
            page = store.events(stream=stream, after=after, limit=limit).result()
            pages.append([event.text for event in page.rows])
            after = page.next
        return pages

    assert walk(None, 3) == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert walk("even", 2) == [["0", "2"], ["4", "6"]]
    assert walk("odd", 3) == [["1", "3", "5"]]
    assert walk("none", 3) == [[]]
    assert store.events(after=2**63 - 1).result().rows == ()


def test_pages_are_bounded_in_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends with the row that takes it over the bound, so it always has one."""
    monkeypatch.setattr(_tables, "MAX_PAGE_BYTES", 100)
    store.add(submission("a" * 60, "b" * 60, "c" * 500, "d"))
    first = store.events().result()
    assert [event.text[0] for event in first.rows] == ["a", "b"]
    assert first.next is not None
    second = store.events(after=first.next).result()
    assert [event.text[0] for event in second.rows] == ["c"]
    assert second.next is not None
    assert [event.text for event in store.events(after=second.next).result().rows] == ["d"]


def test_a_batch_is_stored_once(store: Store) -> None:
    """A batch id counts once per stream; without one everything is new."""
    assert store.add(submission("1", "2", batch_id="b")).result() is STORED
    assert store.add(submission("1", "2", batch_id="b")).result() is DUPLICATE
    assert store.add(submission("3", batch_id="b", stream="other")).result() is STORED
    assert store.add(submission("4")).result() is STORED
    assert store.add(submission("4")).result() is STORED
    assert [event.text for event in store.events().result().rows] == ["1", "2", "3", "4", "4"]
    statistics = store.statistics().result()
    assert (statistics.stored, statistics.duplicates, statistics.requests) == (5, 2, 5)
    assert statistics.streams == {"other": 1, "s": 4}


def test_other_events_under_a_known_id(store: Store) -> None:
    """A batch id with other events is a conflict, stored before or just now; it counts once it is refused."""
    several = [submission("1", "2", batch_id="b"), submission("1", batch_id="b"), submission("1", "2", batch_id="b")]
    assert store.add_all(several).result() == [STORED, CONFLICT, DUPLICATE]
    for texts in (("1",), ("2", "1"), ("1", "2", "3"), ()):
        assert store.add(submission(*texts, batch_id="b")).result() is CONFLICT
    assert store.add(submission("1", "2", batch_id="b")).result() is DUPLICATE
    assert [event.text for event in store.events().result().rows] == ["1", "2"]
    statistics = store.statistics().result()
    assert (statistics.stored, statistics.duplicates, statistics.requests) == (2, 4, 3)


def test_concurrent_replays(tmp_path: Path) -> None:
    """Of 100 replays from many threads and two connections, one is stored."""
    with Store(tmp_path / "events.db") as one, Store(tmp_path / "events.db") as two:
        barrier = threading.Barrier(10)
        outcomes: list[Outcome] = []

        def replay(store: Store) -> None:
            barrier.wait()
            outcomes.extend([store.add(submission("1", "2", batch_id="b")).result() for _ in range(10)])

        threads = [threading.Thread(target=replay, args=(store,)) for store in (one, two) * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outcomes.count(STORED), outcomes.count(DUPLICATE)) == (1, 99)
        assert [event.text for event in two.events().result().rows] == ["1", "2"]
        assert one.statistics().result().duplicates == 198


def test_opened_at_once(tmp_path: Path) -> None:
    """Of a file that several make at the same time each gets a store."""

    def use(path: Path) -> None:
        barrier.wait()
        with Store(path) as store:
            store.add(submission("1", batch_id="b")).result()

    for number in range(20):
        barrier = threading.Barrier(4)
        path = tmp_path / f"{number}.db"
        threads = [threading.Thread(target=use, args=(path,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with Store(path) as store:
            statistics = store.statistics().result()
            assert (statistics.stored, statistics.duplicates) == (1, 3)


def test_group_commit(store: Store) -> None:
    """What waits together is committed together."""
    statements: list[str] = []
    do(store, lambda db: db.set_trace_callback(statements.append))
    with Stuck(store):
        statements.clear()
        futures = [store.add(submission(str(i))) for i in range(50)]
    assert all(future.result() is STORED for future in futures)
    assert sum(statement.startswith("BEGIN IMMEDIATE") for statement in statements) == 1
    assert store.statistics().result().stored == 50


def test_given_up_before_it_began(store: Store) -> None:
    """What its caller has cancelled while it waited is not stored."""
    with Stuck(store):
        given_up, kept = store.add(submission("1")), store.add(submission("2"))
        assert given_up.cancel()
    assert kept.result() is STORED
    with pytest.raises(CancelledError):
        given_up.result()
    assert [event.text for event in store.events().result().rows] == ["2"]


def test_rejected_requests(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused requests are kept up to a size each and a number; all are counted, by their events."""
    monkeypatch.setattr(_tables, "MAX_REJECTED", 3)
    store.reject(Refused(401, "why", stream="s", events=5), b"\xff" * 70_000)
    [request] = store.rejected().result().rows
    assert (request.id, request.stream, request.status, request.reason) == (1, "s", 401, "why")
    assert (request.body, request.received_at) == (b"\xff" * 65_536, 1.5)
    for i in range(4):
        store.reject(Refused(400, f"{i}"), b"")
    first = store.rejected(limit=2).result()
    assert [(row.reason, row.stream) for row in first.rows] == [("1", None), ("2", None)]
    assert first.next == 4
    rest = store.rejected(after=4).result()
    assert [row.reason for row in rest.rows] == ["3"]
    assert rest.next is None
    statistics = store.statistics().result()
    assert (statistics.rejected, statistics.requests, statistics.stored) == (9, 5, 0)


def test_clear(store: Store) -> None:
    """Everything is forgotten, batch ids too, but ids are not used again."""
    store.add(submission("1", "2", batch_id="b"))
    store.reject(Refused(400, "x"), b"")
    store.clear().result()
    assert store.events().result().rows == ()
    assert store.rejected().result().rows == ()
    statistics = store.statistics().result()
    assert (statistics.stored, statistics.rejected, statistics.requests, statistics.streams) == (0, 0, 0, {})
    assert store.add(submission("1", batch_id="b")).result() is STORED
    assert store.events().result().rows[0].id == 3


def test_it_lasts(tmp_path: Path) -> None:
    """Events, batch ids, refusals and counts are there after a restart."""
    path = tmp_path / "events.db"
    with Store(path) as store:
        store.add(submission("1", batch_id="b"))
        store.reject(Refused(400, "x", events=2), b"body")
        before = store.statistics().result()
    with Store(str(path)) as store:
        assert store.statistics().result() == before
        assert [event.text for event in store.events().result().rows] == ["1"]
        assert [request.body for request in store.rejected().result().rows] == [b"body"]
        assert store.add(submission("1", batch_id="b")).result() is DUPLICATE


def test_it_is_durable(tmp_path: Path) -> None:
    """The file is in WAL mode, and every commit is synced."""
    with Store(tmp_path / "events.db") as store:
        assert do(store, lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
        assert do(store, lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The file and those beside it are made with mode 0600."""
    with Store(tmp_path / "events.db") as store:
        store.add(submission("1")).result()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"events.db": 0o600, "events.db-wal": 0o600, "events.db-shm": 0o600}


# Forgetting what is old


def test_keep() -> None:
    """What is older than that is forgotten as other things come in, batch ids and refused requests too."""
    now = 0.0
    with Store(keep=10.0, clock=lambda: now) as store:
        for now in (1.0, 2.0, 3.0):
            store.add(submission(f"{now}", "x", batch_id=f"{now}")).result()
            store.reject(Refused(400, f"{now}"), b"").result()
        now = 12.0  # 2.0 is just not older
        assert store.add(submission("1.0", "x", batch_id="1.0")).result() is STORED
        assert store.add(submission("2.0", "x", batch_id="2.0")).result() is DUPLICATE
        assert [event.text for event in store.events().result().rows] == ["2.0", "x", "3.0", "x", "1.0", "x"]
        assert [request.reason for request in store.rejected().result().rows] == ["2.0", "3.0"]
        statistics = store.statistics().result()
        assert (statistics.stored, statistics.requests, statistics.rejected) == (8, 8, 3)
        now = 100.0
        store.add(submission("y")).result()
        assert [(event.id, event.text) for event in store.events().result().rows] == [(9, "y")]
        assert store.rejected().result().rows == ()


def test_a_long_time_of_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is long overdue is forgotten in portions of whole batches, one of them at least."""
    monkeypatch.setattr(_tables, "MAX_FORGOTTEN", 10)
    now = 0.0
    with Store(keep=10.0, clock=lambda: now) as store:
        for count in (4, 4, 4, 30, 5):
            store.add(submission(*map(str, range(count)))).result()
        now = 100.0
        left = []
        for _ in range(4):
            store.add(submission("x")).result()
            left.append(len([event for event in store.events().result().rows if event.text != "x"]))
    assert left == [39, 35, 5, 0]


@pytest.mark.parametrize("keep", [0.0, -1.0, float("nan")])
def test_a_wrong_keep(keep: float) -> None:
    """A time that is none is refused."""
    with pytest.raises(ValueError, match="keep must be greater than 0"):
        Store(keep=keep)


# Failing


def test_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While there is no room for what failed, checking fails, though there is some for less; then it works again."""
    with Store(tmp_path / "events.db") as store:
        before = do(store, lambda db: list(db.iterdump()))
        store.check().result()
        do(store, lambda db: db.execute(f"PRAGMA max_page_count = {pages(db) + 10}").fetchone())
        with pytest.raises(StoreFailed, match="full"):
            store.add(submission("x" * 100_000)).result()
        assert store.add(submission("small", batch_id="b")).result() is STORED
        assert store.add(submission("small", batch_id="b")).result() is DUPLICATE
        with pytest.raises(StoreFailed, match="full"):
            store.check().result()
        assert len(caplog.records) == 1
        do(store, lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        store.check().result()
        store.clear().result()
        do(store, lambda db: db.execute("DELETE FROM sqlite_sequence"))
        assert [line for line in do(store, lambda db: list(db.iterdump())) if line not in before] == []
    assert [record.getMessage().rpartition("events.db ")[2] for record in caplog.records] == [
        "is failing: database or disk is full",
        "works again",
    ]


def pages(db: sqlite3.Connection) -> int:
    count: int = db.execute("PRAGMA page_count").fetchone()[0]
    return count


def test_disk_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk nothing is stored by halves, reading goes on, and it works again when there is room."""
    with Store(tmp_path / "events.db") as store:
        store.add(submission("before", batch_id="a")).result()
        do(store, lambda db: db.execute(f"PRAGMA max_page_count = {pages(db)}").fetchone())
        big = submission(*("x" * 1000 for _ in range(100)), batch_id="b")
        with Stuck(store):
            futures = [store.add(big), store.add(submission("with it", batch_id="c")), store.statistics()]
        for future in futures[:2]:
            with pytest.raises(StoreFailed, match="full"):
                future.result()
        assert futures[2].result() == store.statistics().result()
        with pytest.raises(StoreFailed, match="full"):
            store.add(big).result()
        assert store.add(submission("small")).result() is STORED
        assert [event.text for event in store.events().result().rows] == ["before", "small"]
        do(store, lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        assert store.add(big).result() is STORED  # its batch id was rolled back too
        assert store.statistics().result().stored == 102
    beginning, end = (record.getMessage() for record in caplog.records)
    assert beginning.endswith("events.db is failing: database or disk is full")
    assert end.endswith("events.db works again")


def test_locked(tmp_path: Path) -> None:
    """While another process holds the lock it fails, and afterwards it works."""
    path = tmp_path / "events.db"
    with Store(path, busy_timeout=0) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            store.add(submission("1")).result()
        assert store.events().result().rows == ()
        other.execute("ROLLBACK")
        other.close()
        assert store.add(submission("1")).result() is STORED


def test_read_only(tmp_path: Path) -> None:
    """While it cannot be written it fails, and afterwards it works."""
    with Store(tmp_path / "events.db") as store:
        do(store, lambda db: db.execute("PRAGMA query_only = 1").fetchone())
        with pytest.raises(StoreFailed, match="readonly"):
            store.add(submission("1")).result()
        do(store, lambda db: db.execute("PRAGMA query_only = 0").fetchone())
        assert store.add(submission("1")).result() is STORED


def test_a_bug_does_not_end_the_thread(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong in the store's thread reaches the one who waits, and the next one is served."""
    with pytest.raises(StoreFailed, match="surrogates"):
        store.add(submission("\ud800")).result()
    assert store.add(submission("1")).result() is STORED
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]


class Stop(BaseException):
    """Not one of those that are caught with ``except Exception``."""


@pytest.mark.parametrize("error", [ValueError, Stop])
def test_a_log_handler_that_raises(store: Store, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    """A handler with a bug takes no answer from those who wait, and the thread lives on."""

    class Faulty(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise error("a bug in a user's handler")

    monkeypatch.setattr(logging.getLogger("atom_anyio.collector"), "handlers", [Faulty()])
    monkeypatch.setattr("sys.stderr", stderr := StringIO())
    with pytest.raises(StoreFailed, match="surrogates"):
        store.add(submission("\ud800")).result(60)
    assert store.add(submission("1")).result(60) is STORED
    for words in ("a bug in a user's handler", "is failing", "works again"):
        assert words in stderr.getvalue()


# Opening and closing


def test_not_a_store(tmp_path: Path) -> None:
    """What is no store is refused when it is opened, and left as it was."""
    path = tmp_path / "file"
    path.write_text("hello, this is no database" * 100)
    with pytest.raises(StoreFailed, match="file cannot be used as a store: file is not a database"):
        Store(path)
    assert path.read_text() == "hello, this is no database" * 100


def test_another_programs_database(tmp_path: Path) -> None:
    """A database of something else is not written to."""
    path = tmp_path / "file"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(StoreFailed, match="another program's"):
        Store(path)


def test_a_later_version(tmp_path: Path) -> None:
    """A store of a version that is not known is refused."""
    path = tmp_path / "file"
    Store(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(StoreFailed, match="version 2, and only version 1"):
        Store(path)


def test_no_such_folder(tmp_path: Path) -> None:
    """A path that cannot be made is an OSError that names it."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Store(tmp_path / "nowhere" / "events.db")


def test_close(tmp_path: Path) -> None:
    """Closing does what was asked, ends the thread, removes the log, and may be repeated; then nothing is taken."""
    store = Store(tmp_path / "events.db")
    with Stuck(store):
        future = store.add(submission("1"))
        closer = threading.Thread(target=store.close)
        closer.start()
    closer.join()
    assert future.result() is STORED
    store.close()
    assert "atom-store" not in {thread.name for thread in threading.enumerate()}
    assert [path.name for path in tmp_path.iterdir()] == ["events.db"]
    with pytest.raises(StoreFailed, match="closed"):
        store.add(submission("2"))
