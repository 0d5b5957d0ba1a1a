"""The tracker for threads with a backlog: what it keeps, how it stops, and what may interrupt it."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest
from kept import Disk, Opened
from test_sync_tracker import CANARY, ENDPOINT, FrozenClock, make_tracker, posix, printed, run_child
from virtual import PATIENCE, Guarded, VirtualClock, interrupting

from atom_sansio import (
    AuthKey,
    BacklogError,
    BacklogFull,
    BatchUnreadable,
    ConnectionFailed,
    FlushResult,
    Level,
    LocalError,
    Loss,
    LossReason,
    Outcome,
    Records,
    Reply,
    Request,
    TrackerClosed,
)
from atom_sansio._messages import Origin
from atom_sansio._tracker import TrackerCore
from atom_sync import MemoryTransport, Tracker, _late_imports
from atom_sync._clock import Clock
from atom_sync._exit import begin_all_in_child
from atom_sync._keeping import Keeping
from atom_sync._transport import SocketTransport
from atom_sync.backlog import Backlog, OpenBacklog, open_backlog


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Whoever hangs is shown, and ends."""
    faulthandler.dump_traceback_later(6 * PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


LEVELS = [level.value for level in Level]


class Down(MemoryTransport):
    """Never answers anything but 503."""

    def send(self, request: Request, *, timeout: float) -> Reply:
        super().send(request, timeout=timeout)
        return Reply(status=503, headers=(), body=b"")


def down() -> MemoryTransport:
    return MemoryTransport(lambda request: 503)


def events_of(transport: MemoryTransport) -> list[Any]:
    return [event for _, event in transport.events]


def kept_in(path: Path) -> int:
    """How many events the backlog at *path* holds, once nobody has it."""
    opened = open_backlog(path)
    try:
        found = opened.recover()
    finally:
        opened.close()
    return sum(kept.events for kept in found.batches) + sum(each.lines.count(b"\n") for each in found.records)


class TestRecords:
    @pytest.mark.parametrize("level", ["process", "disk"])
    def test_written_before_track_returns(self, tmp_path: Path, level: str) -> None:
        """When track() returns, the event is in a file, with its stream, and without its key."""
        path = tmp_path / "events.db"
        backlog = Backlog(path, level=level)
        with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=backlog, auth_key=CANARY) as tracker:
            for event in ("first", "second"):
                tracker.track("stream", event)
                data = b"".join(file.read_bytes() for file in tmp_path.glob("events.db-tail-*"))
                assert b" stream " in data
                assert f'"{event}"\n'.encode() in data
        assert all(CANARY.encode() not in file.read_bytes() for file in tmp_path.iterdir())

    @pytest.mark.parametrize("level", LEVELS)
    def test_many_at_once(self, tmp_path: Path, level: str) -> None:
        """Threads that track at the same time lose nothing, each finds its own order again, and nothing is left."""
        transport = MemoryTransport()

        def work(me: int) -> None:
            for i in range(100):
                tracker.track(f"s{i % 3}", [me, i])

        path = tmp_path / "events.db"
        with Tracker(ENDPOINT, transport=transport, max_batch_events=7, backlog=Backlog(path, level=level)) as tracker:
            threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert tracker.stop(PATIENCE).delivered > 0
        assert tracker.statistics().delivered == 800 == len(transport.events)
        for me in range(8):
            for rest in range(3):
                seen = [event[1] for stream, event in transport.events if (stream, event[0]) == (f"s{rest}", me)]
                assert seen == [i for i in range(100) if i % 3 == rest]
        assert kept_in(path) == 0

    def test_shared(self) -> None:
        """Callers that come while the disk is busy share one append, and none waits for more than two."""
        with VirtualClock() as clock:
            disk = Disk("disk", takes=lambda method: 1.0 if method == "append" else 0.0, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            returned = []

            def work(n: int) -> None:
                tracker.track("a", n)
                tracker.track("a", n)
                returned.append(clock.now())

            for n in range(16):
                clock.start(partial(work, n), "caller")
            clock.sleep(20)
            # Each has two events, one after the other.
            assert max(returned) <= 4.0
            assert len(returned) == 16
            assert disk.calls.count("append") <= 4
            tracker.stop()
        assert disk.closed
        assert disk.events() == []

    def test_shared_again(self) -> None:
        """Callers that have shared a sync share the next ones too; one that comes alone then waits a millisecond."""
        with VirtualClock() as clock:
            disk = Disk("disk", takes=lambda method: 1.0 if method == "append" else 0.0, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)

            def work(n: int) -> None:
                for i in range(5):
                    tracker.track("a", [n, i])
                ended.append(clock.now())

            ended: list[float] = []
            for n in range(4):
                clock.start(partial(work, n), "caller")
            clock.sleep(10)
            # The first one alone, five times all that are left: at the end without the one that was first.
            assert disk.calls.count("append") == 6
            assert ended == pytest.approx([5.0, 6.001, 6.001, 6.001])
            took = []
            for n in range(3):
                began = clock.now()
                tracker.track("b", n)
                took.append(clock.now() - began)
            assert took == pytest.approx([1.001, 1.0, 1.0])
            tracker.stop()
        assert disk.events() == []

    def test_not_shared_without_syncs(self) -> None:
        """At level process, where a write takes as long as a wake-up, nobody waits for others."""
        with VirtualClock() as clock:
            disk = Disk("process", takes=lambda method: 1.0 if method == "append" else 0.0, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            for n in range(4):
                clock.start(partial(tracker.track, "a", n), "caller")
            clock.sleep(10)
            began = clock.now()
            tracker.track("a", 4)
            assert clock.now() - began == pytest.approx(1.0)
            tracker.stop()

    @pytest.mark.parametrize("level", LEVELS[1:])
    def test_threads_that_can_be_started_again(self, level: str) -> None:
        """After an event whose sender could not be started the next one is tried with."""
        transport = MemoryTransport()
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=transport, backlog=Disk(level), flush_interval=1.0)
            clock.no_more_threads = True
            for n in range(3):
                tracker.track("s", n)
            clock.no_more_threads = False
            clock.sleep(10)
            tracker.track("s", 3)
            clock.sleep(2)
            assert transport.events == [("s", n) for n in range(4)]
            tracker.stop()

    @pytest.mark.parametrize("level", LEVELS[1:])
    def test_a_signal_while_another_thread_writes(self, level: str) -> None:
        """A handler that would stop the tracker interrupts a call that waits, and that others may wait for."""
        with VirtualClock() as clock:
            disk = Disk(level, takes=lambda method: 1.0 if method == "append" else 0.0, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            clock.start(lambda: tracker.track("a", 1), "another")
            clock.sleep(0.5)
            assert not tracker._interrupted()
            interrupted = []
            wait_at = clock.wait_at

            def wait(gate: threading.Lock, until: float) -> None:
                interrupted.append(tracker._interrupted())
                wait_at(gate, until)

            clock.wait_at = wait  # type: ignore[method-assign]
            tracker.track("a", 2)
            assert interrupted[0]
            assert not tracker._interrupted()
            tracker.stop()

    def test_what_is_found_is_logged_without_the_lock(self, tmp_path: Path) -> None:
        """A logging handler of the user's may have a lock that somebody holds who waits for the tracker's."""
        (tmp_path / "events.db").write_text("no backlog")
        owned: list[bool] = []
        made: list[Tracker] = []

        class Watched(Tracker):
            def _begin(self) -> None:
                super()._begin()
                made.append(self)

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                owned.append(made[0]._lock._is_owned())  # type: ignore[attr-defined]

        handler = Handler()
        logging.getLogger("atom").addHandler(handler)
        try:
            Watched(ENDPOINT, transport=MemoryTransport(), backlog=tmp_path / "events.db").stop()
        finally:
            logging.getLogger("atom").removeHandler(handler)
        assert owned == [False]

    def test_nobody_else_waits(self) -> None:
        """While the disk is busy, what needs no disk goes on: the lock is not held, nor by who found no room first."""

        class Telling(MemoryTransport):
            def send(self, request: Request, *, timeout: float) -> Reply:
                sent.append(clock.now())
                return super().send(request, timeout=timeout)

        sent: list[float] = []
        with VirtualClock() as clock:
            disk = Disk(takes=lambda method: 10.0 if method == "append" else 0.0, sleep=clock.sleep)
            tracker = make_tracker(
                clock, transport=Telling(), backlog=disk, max_pending_events=1, max_batch_events=1, auth_key="k"
            )
            tracker.track("a", 1)
            clock.start(lambda: tracker.track("a", 2), "second")  # there is no room before the first is sent
            clock.sleep(5)
            assert tracker._keeping is not None
            assert tracker._keeping._writer is not None
            taken = []

            def take() -> None:
                with tracker._lock:
                    taken.append(True)

            probe = threading.Thread(target=take, daemon=True)
            probe.start()
            probe.join(PATIENCE)
            assert taken == [True]
            assert clock.now() == 15.0
            assert tracker.statistics().delivered == 1
            clock.sleep(10)
            tracker.stop()
        assert sent == [10.0, 20.0]

    def test_the_worker_is_not_woken_for_each_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What may wait to be dropped with others lets it sleep until then."""
        looks = []
        real = TrackerCore.next_backlog_command
        monkeypatch.setattr(
            TrackerCore, "next_backlog_command", lambda *args, **kwargs: looks.append(1) or real(*args, **kwargs)
        )
        with VirtualClock() as clock:

            class Slow(MemoryTransport):
                def send(self, request: Request, *, timeout: float) -> Reply:
                    clock.sleep(0.001)
                    return super().send(request, timeout=timeout)

            disk = Disk("memory", sleep=clock.sleep)
            tracker = make_tracker(clock, transport=Slow(), backlog=disk, max_batch_events=1)
            for n in range(50):
                tracker.track("a", n)
            clock.sleep(5)
            assert tracker.statistics().delivered == 50
            assert not disk.batches
            assert len(looks) <= 20
            assert disk.calls.count("update") <= 7
            tracker.stop()

    def test_no_busy_loop(self) -> None:
        """Who waits for a disk that takes long, and longer than block_timeout, does not spin."""
        with VirtualClock() as clock:
            slow = {"append": 1.0}
            disk = Disk(takes=lambda method: slow.get(method, 0.0), sleep=clock.sleep)
            disk.fails = lambda method: "no space left" if method == "append" and clock.now() < 2 else None
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk, block_timeout=1.5)
            clock.start(lambda: tracker.track("a", 1), "first")
            clock.sleep(1.5)
            slow["append"] = 100.0
            turns = clock.turns
            tracker.track("a", 2)
            assert clock.now() > 100
            assert clock.turns - turns < 500
            tracker.stop()
        assert disk.closed


class TestInterruptions:
    """``track`` may interrupt anything in its own thread, as signal handlers and finalisers do."""

    CALLS: ClassVar[dict[str, Callable[[Tracker], object]]] = {
        "track": lambda tracker: tracker.track("a", 2),
        "track-new": lambda tracker: tracker.track("new", 2),
        "track-full": lambda tracker: [tracker.track("a", i) for i in (2, 3)],
        "statistics": lambda tracker: tracker.statistics(),
        "flush": lambda tracker: tracker.flush(0),
        "set_auth_key": lambda tracker: tracker.set_auth_key("a", "key"),
        "stop": lambda tracker: tracker.stop(),
    }

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("call", CALLS)
    def test_at_every_point(self, call: str, level: str) -> None:
        """Wherever it interrupts, caller, sender or worker, its event is sent in time, once, and nothing hangs."""
        # There are some 1,000 points in all threads; together the calls and levels go through all of the keeping.
        # They begin elsewhere with each Python.
        n, step = 1 + (list(self.CALLS).index(call) + sys.version_info[1]) % 7, 7 if level == "process" else 23
        while True:
            transport = MemoryTransport()
            losses: list[Loss] = []
            accepted: list[str] = []
            with VirtualClock() as clock:
                disk = Disk(level)
                tracker = make_tracker(
                    clock, transport=transport, backlog=disk, max_batch_events=3, on_loss=losses.append
                )
                tracker.track("a", 1)

                def interrupt() -> None:
                    try:
                        tracker.track("b", "from within")  # noqa: B023 - called before the next round
                    except TrackerClosed:
                        return
                    accepted.append("from within")  # noqa: B023

                with interrupting(n, interrupt) as count:
                    self.CALLS[call](tracker)
                    clock.sleep(0.5)
                if call != "stop" and accepted and level != "memory":
                    assert sorted(map(str, disk.events() + events_of(transport))).count("from within") == 1
                clock.sleep(15)
                if call != "stop":
                    assert events_of(transport).count("from within") == len(accepted), f"interrupted at {n}"
                tracker.stop()
                clock.sleep(10)
                assert clock.others == []
            total = {"track": 2, "track-new": 2, "track-full": 3}.get(call, 1) + len(accepted)
            statistics = tracker.statistics()
            assert statistics.accepted == total
            left = disk.events()
            assert statistics.delivered == len(transport.events)
            assert len(transport.events) + len(losses) + len(left) == total
            assert len(losses) + len(left) <= (call == "stop")
            assert statistics.pending == len(left)
            assert disk.closed
            if count() < n:
                return
            n += step

    @pytest.mark.parametrize("company", [2, 3])
    def test_while_it_waits_for_others(self, company: int) -> None:
        """A handler that cuts into a call which waits for others, and tracks, writes for both: nobody else would."""
        with VirtualClock() as clock:
            disk = Disk("disk")
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            assert tracker._keeping is not None
            tracker._keeping._company, tracker._keeping._patience = company, 0.5
            wait_at = clock.wait_at

            def interrupted(gate: threading.Lock, until: float) -> None:
                clock.wait_at = wait_at  # type: ignore[method-assign]
                tracker.track("a", "handler's")
                assert disk.calls == ["append"]
                wait_at(gate, until)

            clock.wait_at = interrupted  # type: ignore[method-assign]
            tracker.track("a", "program's")
            assert clock.now() == (0.0 if company == 2 else 0.5)
            assert disk.calls == ["append"]
            assert disk.events() == ["program's", "handler's"]
            tracker.stop()

    def test_in_a_write(self) -> None:
        """A call that interrupts a write is written when that is done, by the same thread or another."""
        with VirtualClock() as clock:
            inner = []

            def takes(method: str) -> float:
                if method == "append" and not inner:
                    inner.append(threading.get_ident())
                    tracker.track("b", "inner")
                    assert tracker._interrupted()
                return 0.0

            disk = Disk(takes=takes)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            tracker.track("a", "outer")
            assert not tracker._interrupted()
            assert tracker.flush().delivered == 2
            tracker.stop()
        assert disk.closed

    @pytest.mark.parametrize("method", ["append", "update"])
    def test_in_the_worker(self, method: str) -> None:
        """A finaliser that tracks while the worker is at the disk does not make it wait for itself."""
        with VirtualClock() as clock:
            main = threading.get_ident()
            inner = []

            def takes(called: str) -> float:
                if called == method and not inner and threading.get_ident() != main:
                    inner.append(1)
                    tracker.track("b", "inner")
                return 0.0

            disk = Disk(takes=takes)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            with tracker._lock:  # so that this one is left to the worker
                tracker.track("a", "outer")
            clock.sleep(1)
            assert tracker.flush().delivered == (2 if method == "append" else 1)
            clock.sleep(1)
            assert tracker.stop().delivered == (0 if method == "append" else 1)
            assert inner == [1]
        assert disk.closed
        assert disk.events() == []

    def test_refused(self) -> None:
        """An event that interrupted a write, and that the disk refuses afterwards, is lost with a report."""
        with VirtualClock() as clock:
            losses: list[Loss] = []
            inner = []

            def fails(method: str) -> str | None:
                if method == "append" and not inner:
                    inner.append(1)
                    tracker.track("b", "inner")
                    return None
                return "no space left" if method == "append" else None

            disk = Disk(fails=fails)
            tracker = make_tracker(
                clock, transport=MemoryTransport(), backlog=disk, on_full="drop_newest", on_loss=losses.append
            )
            tracker.track("a", "outer")
            clock.sleep(1)
            assert [loss.events for loss in losses] == [("inner",)]
            assert tracker.stop().delivered == 1

    @pytest.mark.parametrize("level", LEVELS)
    def test_no_room_in_the_worker(self, level: str) -> None:
        """What tracks there while the budget is used up is told so, and does not wait for what only the worker does."""
        with VirtualClock() as clock:
            main = threading.get_ident()
            full: list[str] = []

            def takes(called: str) -> float:
                if called == "update" and threading.get_ident() != main and not full:
                    with pytest.raises(BacklogFull):
                        tracker.track("b", "inner")
                    full.append(called)
                return 0.0

            disk = Disk(level, takes=takes)
            tracker = make_tracker(clock, transport=down(), backlog=disk, max_pending_events=2, flush_interval=0.1)
            tracker.track("a", 1)
            tracker.track("a", 2)
            clock.sleep(1)
            tracker.stop()
        assert full
        assert disk.closed
        assert disk.events() == [1, 2]

    def test_no_room_in_a_write(self) -> None:
        """So is what interrupts the very write that has the room, or a call that waits for its turn."""
        with VirtualClock() as clock:
            inner: list[str] = []

            def takes(called: str) -> float:
                if called == "append" and not inner:
                    inner.append(called)
                    with pytest.raises(BacklogFull):
                        tracker.track("b", "inner")
                return 0.0

            transport = MemoryTransport()
            tracker = make_tracker(clock, transport=transport, backlog=Disk(takes=takes), max_pending_events=1)
            tracker.track("a", 1)
            assert tracker.stop().delivered == 1
        assert inner == ["append"]
        assert events_of(transport) == [1]

    @pytest.mark.parametrize("method", ["append", "update", "load"])
    def test_a_handler_that_tracks_what_is_logged(self, method: str) -> None:
        """What the disk says is logged where a handler that waits for room, or for somebody who does, is in no way."""

        class Ships(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                logged.append(record.getMessage())
                tracker.track("log", record.getMessage())

        logged: list[str] = []
        failing = [method]
        with VirtualClock() as clock:
            disk = Disk("memory" if method == "update" else "process")
            if method == "load":
                with make_tracker(clock, transport=down(), backlog=disk) as tracker:
                    tracker.track("a", 0)
            disk.fails = lambda called: failing.pop() if called in failing else None
            transport = MemoryTransport()
            tracker = make_tracker(clock, transport=transport, backlog=disk, max_pending_events=2)
            opened = disk.opened[-1]
            opened.said = lambda: ["it said so"] if not failing and not logged else []  # type: ignore[method-assign]
            handler = Ships()
            logging.getLogger("atom").addHandler(handler)
            try:
                for event in range(1, 5):
                    tracker.track("a", event)
                clock.sleep(10)
                tracker.stop()
            finally:
                logging.getLogger("atom").removeHandler(handler)
        assert set(events_of(transport)) == {*range(0 if method == "load" else 1, 5), *logged}
        assert ("it said so" in logged) == (method != "append"), "which is asked by who does the rest"
        assert (method == "append") == any("cannot be written, and are tried again: append" in each for each in logged)

    @pytest.mark.parametrize("waits", ["flush", "receipt"])
    def test_a_wake_up_that_passes(self, waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who lets the lock go between looking and waiting costs a waiter a second, not all of its time."""
        with VirtualClock() as clock:
            transport = MemoryTransport()
            tracker = make_tracker(clock, transport=transport, flush_interval=0.1)
            receipt = tracker.track("a", 1, receipt=True)
            assert receipt is not None
            real, interrupted = clock.wait, []

            def wait(condition: threading.Condition, until: float | None) -> None:
                if condition is tracker._done and not interrupted:
                    interrupted.append(1)
                    tracker.flush()  # as a signal handler may do just here
                real(condition, until)

            monkeypatch.setattr(clock, "wait", wait)
            if waits == "flush":
                assert tracker.flush(1000).delivered == 1
            else:
                assert receipt.wait(1000) is Outcome.DELIVERED
            assert interrupted
            assert clock.now() <= 2
            tracker.stop()

    @posix
    @pytest.mark.parametrize("level", [None, "process"])
    @pytest.mark.parametrize(("earlier", "call"), [(0, "track"), (3, "track"), (2, "flush"), (2, "stop")])
    def test_keyboard_interrupt_everywhere(self, level: str | None, earlier: int, call: str) -> None:
        """Ctrl-C anywhere in a call costs no other event, leaves no thread waiting, and the tracker goes on."""
        n = 0
        while True:
            n += 1
            transport = MemoryTransport()
            count = 0

            def profile(frame: FrameType, event: str, arg: object) -> None:
                nonlocal count
                ours = Path(frame.f_code.co_filename).parent.name in ("atom_sync", "atom_sansio")
                if ours and event in ("call", "c_return"):  # where the interpreter calls signal handlers
                    count += 1
                    if count == n:  # noqa: B023
                        raise KeyboardInterrupt

            with VirtualClock() as clock:
                disk = Disk(level or "memory")
                tracker = make_tracker(
                    clock,
                    transport=transport,
                    backlog=disk if level else None,
                    max_batch_events=4,
                    flush_interval=1.0,
                )
                expected = {f"earlier {i}" for i in range(earlier)}
                for event in sorted(expected):
                    tracker.track("a", event)
                raised = True
                sys.setprofile(profile)
                try:
                    tracker.track("a", "interrupted") if call == "track" else getattr(tracker, call)()
                    raised = False
                except KeyboardInterrupt:
                    pass
                finally:
                    sys.setprofile(None)
                if call != "stop":
                    returned = []
                    clock.start(lambda: returned.append(tracker.track("a", "other")), "other")  # noqa: B023
                    tracker.track("a", "next")
                    clock.sleep(2)
                    assert returned == [None]
                    expected |= {"other", "next"}
                    assert expected <= set(events_of(transport))
                tracker.stop()
                clock.sleep(1)
                assert clock.others == []
                statistics = tracker.statistics()
                assert (statistics.pending, statistics.pending_bytes, statistics.lanes) == (0, 0, 0)
            assert disk.closed
            assert disk.events() == []
            sent = events_of(transport)
            assert len(sent) == len(set(sent)) == statistics.accepted
            assert expected <= set(sent)
            if not raised:
                assert call != "track" or "interrupted" in sent
                return

    def test_keyboard_interrupt_in_a_write(self) -> None:
        """Ctrl-C in a slow write leaves no trace of that event, and who waits for the disk gets his written."""

        class Interrupted(VirtualClock):
            def interrupt(self, method: str) -> float:
                if method == "append" and not done:
                    done.append(1)
                    self.start(lambda: tracker.track("a", "other"), "other")
                    self.sleep(1)
                    raise KeyboardInterrupt
                return 0.0

        done: list[int] = []
        transport = MemoryTransport()
        with Interrupted() as clock:
            disk = Disk(takes=clock.interrupt)
            tracker = make_tracker(clock, transport=transport, backlog=disk)
            with pytest.raises(KeyboardInterrupt):
                tracker.track("a", "interrupted")
            clock.sleep(2)
            tracker.stop()
        assert events_of(transport) == ["other"]
        assert disk.closed

    def test_keyboard_interrupt_in_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What Ctrl-C left of a record in a file is taken off, so that the next is whole."""
        write = os.write
        done = []

        def torn(fd: int, data: bytes) -> int:
            if not done and data.endswith(b"1\n"):
                done.append(write(fd, data[:-3]))
                raise KeyboardInterrupt
            return write(fd, data)

        path = tmp_path / "events.db"
        tracker = Tracker(ENDPOINT, transport=down(), backlog=path)
        monkeypatch.setattr("atom_sync.backlog._tails.os.write", torn)
        with pytest.raises(KeyboardInterrupt):
            tracker.track("a", 1)
        tracker.track("a", 2)
        assert tracker.stop(0).pending == 1
        assert kept_in(path) == 1


class TestStop:
    def test_while_another_writes(self) -> None:
        """stop() waits for a write that is under way, and neither hangs nor closes the file under it."""
        for seconds in (1.0, 3.0, 100.0):
            transport = MemoryTransport()
            with VirtualClock() as clock:
                disk = Disk(takes=lambda method: seconds if method == "append" else 0.0, sleep=clock.sleep)  # noqa: B023
                tracker = make_tracker(clock, transport=transport, backlog=disk)
                outcome = []

                def work() -> None:
                    try:
                        tracker.track("a", 1)  # noqa: B023
                        outcome.append("accepted")  # noqa: B023
                    except BacklogFull:
                        outcome.append("refused")  # noqa: B023

                clock.start(work, "caller")
                clock.sleep(0.5)
                tracker.stop(4.0)
                assert clock.now() <= 4.5
                clock.sleep(200)
                assert outcome == ["accepted"]
                assert disk.events() + events_of(transport) == [1]
                assert tracker.statistics().accepted == 1
                assert disk.closed
                assert clock.others == []

    def test_disk_that_does_not_answer(self) -> None:
        """stop() returns in its time though an update takes for ever, which the worker ends, and then closes.

        What the disk is not known to have is lost, and on_loss is told of it, though the update may turn out well.
        """
        losses: list[Loss] = []
        with VirtualClock() as clock:
            disk = Disk("memory", takes=lambda method: 100.0, sleep=clock.sleep)
            tracker = make_tracker(
                clock, transport=MemoryTransport(), backlog=disk, max_in_flight=3, on_loss=losses.append
            )
            for stream in "abc":
                tracker.track(stream, 1)
            assert tracker.stop(3.0) == FlushResult(delivered=0, lost=3, pending=0)
            assert clock.now() <= 4.0
            assert tracker.statistics().lost == {LossReason.STOPPED: 3}
            tracker.stop(3.0)
            assert clock.now() <= 8.0
            assert not disk.opened[0].closed
            assert sorted(loss.stream for loss in losses) == ["a", "b", "c"]
            assert all("it does not answer, and may have some" in loss.message for loss in losses)
            clock.sleep(300)
            assert disk.closed
            assert disk.events() == [1, 1, 1]
            assert tracker.statistics().lost == {LossReason.STOPPED: 3}
            assert clock.others == []

    def test_disk_that_does_not_answer_a_load(self) -> None:
        """So is what is only to be kept while the disk takes for ever to give what it has."""
        with VirtualClock() as clock:
            slow = {"load": 100.0}
            disk = Disk("memory", takes=lambda method: slow.get(method, 0.0), sleep=clock.sleep)
            with make_tracker(clock, transport=down(), backlog=disk) as tracker:
                tracker.track("a", 1)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            tracker.track("b", 2)
            assert tracker.stop(1.0) == FlushResult(delivered=0, lost=1, pending=1)
            clock.sleep(300)
            assert disk.closed
            assert disk.events() == [1]
            assert clock.others == []

    @pytest.mark.parametrize("level", ["process", "disk"])
    def test_disk_that_does_not_answer_and_has_records(self, level: str) -> None:
        """What there are records of is not lost, however long the disk takes then."""
        with VirtualClock() as clock:
            slow: list[int] = []
            disk = Disk(level, takes=lambda method: 100.0 if slow else 0.0, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            tracker.track("a", 1)
            slow.append(1)
            assert tracker.stop(3.0) == FlushResult(delivered=0, lost=0, pending=1)
            clock.sleep(300)
            assert disk.closed
            assert disk.events() == [1]

    def test_disk_that_does_not_answer_an_unheard_call(self) -> None:
        """What a handler has tracked there, whose record nobody waits for, is lost, and reported; a flush counts it."""
        losses: list[Loss] = []
        given: list[Any] = []
        with VirtualClock() as clock:

            def takes(method: str) -> float:
                if method != "append":
                    return 0.0
                if not given:
                    given.append(tracker.track("a", "inner", receipt=True))
                    return 0.0
                return 100.0

            disk = Disk(takes=takes, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=down(), backlog=disk, on_loss=losses.append)
            tracker.track("a", "outer")
            assert tracker.flush(0.5).pending == 2
            assert tracker.stop(0.5) == FlushResult(delivered=0, lost=1, pending=1)
            assert tracker.statistics().lost == {LossReason.STOPPED: 1}
            assert given[0].wait(0) is Outcome.LOST
            clock.sleep(300)
            assert [loss.events for loss in losses] == [("inner",)]
            assert disk.closed
            assert clock.others == []

    def test_ctrl_c_at_exit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a disk that hangs has not taken then is reported though nobody waits for it until the end."""

        def interrupted(until: float) -> None:
            raise KeyboardInterrupt

        losses: list[Loss] = []
        with VirtualClock() as clock:
            disk = Disk("memory", takes=lambda method: 100.0, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk, on_loss=losses.append)
            tracker.track("a", 1)
            monkeypatch.setattr(tracker._keeping, "finish", interrupted)
            tracker._close()
            tracker._end(clock.now() + 1)
            with pytest.raises(KeyboardInterrupt):
                tracker._finish(clock.now() + 1, clock.now(), at_exit=True)
            assert tracker._reporter.wait(clock.now() + 1)
            assert [(loss.events, loss.reason) for loss in losses] == [((1,), LossReason.STOPPED)]
            clock.sleep(300)

    def test_disk_that_does_not_answer_and_refused_before(self) -> None:
        """So is what is in memory alone, since its call had returned when the disk did not take its record."""
        losses: list[Loss] = []
        with VirtualClock() as clock:
            appended: list[str] = []

            def takes(method: str) -> float:
                if method == "append":
                    appended.append(method)
                    if len(appended) == 1:
                        tracker.track("a", "inner")
                return 100.0 if len(appended) > 1 and method == "update" else 0.0

            disk = Disk(
                takes=takes,
                fails=lambda method: "full" if method == "append" and len(appended) == 2 else None,
                sleep=clock.sleep,
            )
            tracker = make_tracker(
                clock, transport=down(), backlog=disk, on_loss=losses.append, on_full="raise", flush_interval=3600.0
            )
            tracker.track("a", "outer")
            clock.sleep(1)
            assert tracker.statistics().pending == 2
            assert tracker.stop(0.5).pending == 0
            clock.sleep(300)
            assert [loss.events for loss in losses] == [("outer", "inner")], "together, since they are in one batch"
            assert disk.closed

    def test_disk_that_hangs_in_close(self) -> None:
        """stop() returns in its time though the backlog, which had nothing to do, takes for ever to close."""
        with VirtualClock() as clock:
            disk = Disk()
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            opened = disk.opened[0]
            close = opened.close
            opened.close = lambda: (clock.sleep(100.0), close())  # type: ignore[method-assign,assign]
            for ends in (1.0, 2.0):
                assert tracker.stop(0.5).pending == 0
                assert clock.now() == pytest.approx(ends)
            assert clock.started.count("atom-backlog") == 1
            clock.sleep(200)
            assert disk.closed
            assert clock.others == []

    def test_twice_at_once(self) -> None:
        """Threads that stop at the same time all wait for the backlog, which is closed once."""
        with VirtualClock() as clock:
            disk = Disk("memory", takes=lambda method: 0.3, sleep=clock.sleep)
            tracker = make_tracker(clock, transport=down(), backlog=disk, max_batch_events=1)
            for n in range(4):
                tracker.track("a", n)
            returned = []
            for _ in range(3):
                clock.start(lambda: returned.append((tracker.stop(2.0).pending, disk.closed)), "stopping")
            clock.sleep(10)
            assert returned == [(4, True)] * 3
            assert clock.others == []
        assert disk.closed
        assert disk.events() == [0, 1, 2, 3]

    def test_within_a_write(self) -> None:
        """A handler may stop the tracker in the middle of its own thread's write; the file is closed after that."""
        with VirtualClock() as clock:

            def takes(method: str) -> float:
                if method == "append":
                    tracker.stop(0)
                return 0.0

            disk = Disk(takes=takes)
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk)
            tracker.track("a", 1)
            clock.sleep(1)
            assert disk.closed
            assert disk.events() == [1]
            assert tracker.statistics().pending == 1
            assert clock.others == []

    def test_flush_hears_of_it(self) -> None:
        """Who waits in flush() when stop() leaves the rest in the backlog hears at once what is pending."""
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=down(), backlog=Disk())
            tracker.track("a", 1)
            returned = []
            clock.start(lambda: returned.append((tracker.flush(1000.0).pending, clock.now())), "flushing")
            clock.sleep(1)
            tracker.stop(1.0)
            clock.sleep(1)
            assert returned == [(1, pytest.approx(1.9))]

    def test_no_thread_can_be_started(self) -> None:
        """When the interpreter starts no more threads, stop() keeps, sends and drops by itself, without waiting."""
        for level in LEVELS:
            clock = FrozenClock()
            disk = Disk(level)
            transport = MemoryTransport([200, *[503] * 9])
            tracker = make_tracker(clock, transport=transport, backlog=disk, max_batch_events=2)
            for n in range(3):
                tracker.track("a", n)
            assert tracker.stop(2.0).pending == 1
            assert events_of(transport) == [0, 1]
            assert disk.events() == [2]
            assert disk.closed

    def test_no_thread_and_a_disk_that_fails(self) -> None:
        """Even then it is bounded, and what is in memory alone is reported."""
        clock = FrozenClock()
        losses: list[Loss] = []
        disk = Disk("memory", fails=lambda method: "no space left")
        tracker = make_tracker(clock, transport=down(), backlog=disk, on_loss=losses.append)
        tracker.track("a", 1)
        tracker.stop(2.0)
        assert clock.now() <= 3.0
        assert [(loss.events, loss.reason) for loss in losses] == [((1,), LossReason.STOPPED)]
        assert "no space left" in losses[0].message
        assert disk.closed

    def test_no_worker_and_a_disk_that_does_not_answer(self) -> None:
        """stop() does not close a backlog while a sender, for want of a worker, is at its disk."""

        class Scarce(VirtualClock):
            def start(self, target: Callable[[], None], name: str) -> None:
                if name == "atom-backlog":
                    raise RuntimeError("can't create new thread")
                super().start(target, name)

        for seconds in (1.0, 100.0):
            with Scarce() as clock:
                disk = Disk("memory", takes=lambda method: seconds, sleep=clock.sleep)  # noqa: B023
                losses: list[Loss] = []
                tracker = make_tracker(clock, transport=down(), backlog=disk, max_batch_events=1, on_loss=losses.append)
                tracker.track("a", 1)
                clock.sleep(0.5)
                assert disk.calls == ["update"]
                result = tracker.stop(0.1)
                assert clock.now() <= 2.0
                assert disk.closed == (seconds == 1.0)
                assert result.lost == (seconds == 100.0)
                clock.sleep(300)
                assert len(losses) == result.lost
                assert disk.events() == [1]

    def test_no_worker_for_a_while(self) -> None:
        """Where a worker cannot be started now and then, senders do its work, and it is started later."""

        class Scarce(VirtualClock):
            def start(self, target: Callable[[], None], name: str) -> None:
                if name == "atom-backlog" and self.now() < 5:
                    raise RuntimeError("can't start new thread")
                super().start(target, name)

        with Scarce() as clock:
            disk = Disk()
            disk.fails = lambda method: "no space left" if method == "update" and clock.now() < 2 else None
            tracker = make_tracker(clock, transport=MemoryTransport(), backlog=disk, max_batch_events=1)
            tracker.track("a", 1)
            clock.sleep(4)
            assert tracker.statistics().delivered == 1
            assert disk.events() == []
            clock.sleep(2)
            tracker.track("a", 2)
            clock.sleep(1)
            assert "atom-backlog" in clock.started
            tracker.stop()
        assert disk.closed

    @pytest.mark.parametrize("started", [False, True])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_interrupted_while_a_worker_is_started(self, error: type[BaseException], started: bool) -> None:
        """Ctrl-C just before or after the worker is started leaves one worker, not none for ever, nor two."""

        class Interrupted(VirtualClock):
            def start(self, target: Callable[[], None], name: str) -> None:
                interrupted = name == "atom-backlog" and name not in self.started and not raised
                if started or not interrupted:
                    super().start(target, name)
                if interrupted:
                    raised.append(1)
                    raise error

        raised: list[int] = []
        transport = MemoryTransport()
        with Interrupted() as clock:
            disk = Disk("memory")
            tracker = make_tracker(clock, transport=transport, backlog=disk)
            with suppress(KeyboardInterrupt), tracker._lock:
                tracker._keeping._ask()  # type: ignore[union-attr]
            for n in range(2):
                tracker.track("a", n)
                tracker.flush(1)
            assert raised == [1]
            assert clock.others.count("atom-backlog") == 1
            assert events_of(transport) == [0, 1]
            tracker.stop()
            clock.sleep(1)
            assert clock.others == []
        assert disk.closed


class TestFaults:
    @pytest.mark.parametrize(
        ("method", "error", "lost"),
        [
            ("update", KeyError, False),
            ("load", KeyError, False),
            ("load", OSError(5, "Input/output error"), False),
            ("load", BatchUnreadable("its checksum is wrong"), True),
        ],
    )
    def test_any_error(self, method: str, error: Exception, *, lost: bool) -> None:
        """Whatever is raised in a worker passes, and does not end the worker; but a batch may be gone for good."""
        disk = Disk()
        with VirtualClock() as clock:
            with make_tracker(clock, transport=down(), backlog=disk) as tracker:
                tracker.track("a", 1)
                tracker.flush(0)
                clock.sleep(1)  # it is kept as a batch

            def raises(called: str) -> str | None:
                if called == method and not raised:
                    raised.append(1)
                    raise error
                return None

            raised: list[int] = []
            disk.fails = raises
            losses: list[Loss] = []
            transport = MemoryTransport()
            with make_tracker(clock, transport=transport, backlog=disk, on_loss=losses.append) as tracker:
                tracker.track("a", 2)
                clock.sleep(30)
            assert raised == [1]
            assert [(loss.reason.value, loss.message) for loss in losses] == [("damaged", str(error))] * lost
            assert events_of(transport) == ([2] if lost else [1, 2])
        assert disk.closed
        assert disk.events() == []

    @pytest.mark.parametrize("error", [TimeoutError, ValueError, KeyboardInterrupt])
    def test_time_limit(self, error: type[BaseException]) -> None:
        """What a signal handler raises in a slow write is no failure of the disk: track() raises it, and goes on."""

        def limit(called: str) -> None:
            if called == "append" and not raised:
                raised.append(1)
                raise error

        raised: list[int] = []
        disk = Disk(fails=limit)
        transport = MemoryTransport()
        with VirtualClock() as clock:
            with make_tracker(clock, transport=transport, backlog=disk, on_full="drop_newest") as tracker:
                with pytest.raises(error):
                    tracker.track("a", 1)
                tracker.track("a", 2)
                assert clock.now() == 0
            assert tracker.statistics().accepted == 1
        assert events_of(transport) == [2]

    @pytest.mark.parametrize("who", ["caller", "worker"])
    @pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), ValueError(), KeyboardInterrupt()])
    def test_time_limit_at_the_end_of_a_write(
        self, monkeypatch: pytest.MonkeyPatch, error: BaseException, who: str
    ) -> None:
        """What is written is accepted, though a handler raises as append() returns, where CPython 3.10 lets it run."""
        if who == "worker" and not isinstance(error, Exception):
            return  # which no handler raises there
        real = Opened.append

        def append(opened: Opened, records: Records) -> None:
            real(opened, records)
            records.appended = True
            if not raised:
                raised.append(1)
                raise error

        raised: list[int] = []
        monkeypatch.setattr(Opened, "append", append)
        disk = Disk()
        transport = MemoryTransport()
        with VirtualClock() as clock:
            with make_tracker(clock, transport=transport, backlog=disk, on_full="drop_newest") as tracker:
                if who == "caller":
                    with pytest.raises(type(error)):
                        tracker.track("a", 1)
                else:
                    with tracker._lock:  # as if it interrupted another call, so that it does not write itself
                        tracker.track("a", 1)
                    clock.sleep(1)
                tracker.track("a", 2)
            assert (raised, disk.calls.count("append")) == ([1], 2)
            assert tracker.statistics().accepted == 2
        assert events_of(transport) == [1, 2]

    def test_core_is_locked(self) -> None:
        """No call reaches the core without the lock."""
        disk = Disk(fails=lambda method: "no space left" if disk.calls.count(method) == 2 else None)
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=MemoryTransport([503]), backlog=disk, max_batch_events=1)
            core: Any = Guarded(tracker._core, tracker._lock)
            assert tracker._keeping is not None
            tracker._core = tracker._keeping._core = core
            for n in range(4):
                tracker.track("a", n)
            tracker.flush(60)
            tracker.set_auth_key("a", "k")
            tracker.stop()
        assert core.calls >= {"admit", "next_records", "records_written", "records_refused", "backlog_failed"}
        assert disk.closed

    def test_full_real_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that is full for a while refuses what raise is told to raise, and takes the next by itself."""
        write = os.write
        full = [True]

        def failing(fd: int, data: bytes) -> int:
            if full and b" a " in data:
                raise OSError(28, "No space left on device")
            return write(fd, data)

        monkeypatch.setattr("atom_sync.backlog._tails.os.write", failing)
        transport = MemoryTransport()
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=transport, backlog=tmp_path / "events.db", on_full="raise")
            for _ in range(2):
                with pytest.raises(BacklogFull, match="No space left"):
                    tracker.track("a", 1)
            full.clear()
            clock.sleep(1)
            tracker.track("a", 2)
            tracker.stop()
        assert events_of(transport) == [2]


class TestRestart:
    @pytest.mark.parametrize("level", LEVELS)
    def test_restored(self, tmp_path: Path, level: str) -> None:
        """What was left is sent by the next tracker, in its order and under the ids it had, and counted."""
        path = tmp_path / "events.db"
        first = down()
        with Tracker(ENDPOINT, transport=first, backlog=Backlog(path, level=level), max_batch_events=2) as tracker:
            for n in range(5):
                tracker.track("a", n)
            tracker.track("b", 5)
            assert tracker.stop(0.5).pending == 6
        assert tracker.statistics().pending == 6
        second = MemoryTransport()
        with Tracker(ENDPOINT, transport=second, backlog=Backlog(path, level=level)) as tracker:
            assert tracker.statistics().restored == 6
            tracker.track("a", 6)
            assert tracker.flush(PATIENCE).delivered >= 1
            assert tracker.stop(PATIENCE).pending == 0
        assert [event for stream, event in second.events if stream == "a"] == [0, 1, 2, 3, 4, 6]
        assert ("b", 5) in second.events
        statistics = tracker.statistics()
        assert (statistics.accepted, statistics.delivered) == (7, 7)
        ids = lambda transport: {  # noqa: E731
            value: request.body
            for request in transport.requests
            for name, value in request.headers
            if name == "Idempotency-Key"
        }
        again = ids(second)
        assert all(again[batch_id] == body for batch_id, body in ids(first).items())
        assert kept_in(path) == 0

    def test_unknown_key(self, caplog: pytest.LogCaptureFixture) -> None:
        """What was signed with a key that is not given again waits, is reported, and goes on when the key is there."""
        disk = Disk()
        with VirtualClock() as clock:
            with make_tracker(clock, transport=down(), backlog=disk, auth_key=CANARY) as tracker:
                tracker.track("a", 1)
                tracker.track("b", 2)
                tracker.stop(0)
            assert CANARY not in repr(disk)
            transport = MemoryTransport()
            with make_tracker(clock, transport=transport, backlog=disk, auth_key="another") as tracker:
                tracker.track("a", 3)
                clock.sleep(20)
                assert events_of(transport) == [3]
                assert tracker.statistics().parked == 2
                tracker.set_auth_key("a", CANARY)
                clock.sleep(1)
                assert events_of(transport) == [3, 1]
                tracker.track("b", 4, auth_key=CANARY)
                clock.sleep(20)
                assert sorted(events_of(transport)) == [1, 2, 3, 4]
        assert "which was not given" in caplog.text
        assert CANARY not in caplog.text
        assert disk.closed
        assert disk.events() == []

    @pytest.mark.parametrize("streams", [1, 100])
    @pytest.mark.parametrize("level", LEVELS)
    def test_while_all_senders_wait_for_answers(
        self, monkeypatch: pytest.MonkeyPatch, level: str, streams: int
    ) -> None:
        """What memory is too small for goes to the disk then, too, and a call that finds no room waits for that."""
        for name, size in (("window", 3000), ("memory", 5000)):
            monkeypatch.setitem(TrackerCore.__init__.__kwdefaults__, name, size)
        with VirtualClock() as clock:

            class Hanging(MemoryTransport):
                def send(self, request: Request, *, timeout: float) -> Reply:
                    clock.sleep(timeout)
                    raise ConnectionFailed("no answer")

            disk = Disk(level, takes=lambda method: 0.1 if method == "update" else 0.0, sleep=clock.sleep)
            tracker = make_tracker(
                clock, transport=Hanging(), backlog=disk, max_batch_events=2, max_in_flight=1, request_timeout=60.0
            )
            for n in range(100):
                tracker.track(f"s{n % streams}", [n, "x" * 200])
                assert tracker._core._admission.resident <= 5000
            assert clock.now() < 10
            clock.sleep(1)
            if level == "memory":
                assert len(disk.events()) >= 100 - 5000 // 200
            tracker.stop(0)
            assert sorted(event[0] for event in disk.events()) == list(range(100))

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However much a backlog holds, only a window of it is in memory, while it fills and while it drains."""
        window, size, total = 50_000, 1000, 800
        monkeypatch.setitem(TrackerCore.__init__.__kwdefaults__, "window", window)
        disk = Disk()
        most = 0

        class Watching(MemoryTransport):
            def send(self, request: Request, *, timeout: float) -> Reply:
                nonlocal most
                most = max(most, tracker._core._admission.resident)
                return super().send(request, timeout=timeout)

        for transport in (Watching(lambda request: 503), Watching()):
            with VirtualClock() as clock:
                tracker = make_tracker(clock, transport=transport, backlog=disk, max_batch_events=1)
                if not disk.events():
                    for n in range(total):
                        tracker.track(f"s{n % 3}", [n, "x" * size])
                        clock.sleep(0.01)
                        most = max(most, tracker._core._admission.resident)
                    tracker.stop(0)
                    assert len(disk.events()) == total
                else:
                    assert tracker.statistics().restored == total
                    clock.sleep(100)
                    assert tracker.statistics().pending == 0
                    tracker.stop()
            assert most < 3 * window
            most = 0
        assert [event[0] for stream, event in transport.events if stream == "s0"] == list(range(0, total, 3))
        assert disk.events() == []


class TestOpening:
    @pytest.mark.parametrize("kind", ["str", "path", "object", "environment"])
    def test_how_it_is_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """The option is a path, an object or the environment's."""
        path = tmp_path / "events.db"
        given: dict[str, Any] = {
            "str": {"backlog": str(path)},
            "path": {"backlog": path},
            "object": {"backlog": Backlog(path)},
            "environment": {},
        }[kind]
        if kind == "environment":
            monkeypatch.setenv("ATOM_BACKLOG", str(path))
        with Tracker(ENDPOINT, transport=down(), **given) as tracker:
            tracker.track("a", 1)
            assert path.exists()
            tracker.stop(0)
        assert kept_in(path) == 1

    def test_that_fails(self, tmp_path: Path) -> None:
        """A backlog that cannot be opened is an error that says so; one that cannot be read is closed again."""
        with pytest.raises(BacklogError, match="nowhere"):
            Tracker(ENDPOINT, backlog=tmp_path / "nowhere" / "events.db")
        disk = Disk(files={1: b"damaged\n"})
        with pytest.raises(AssertionError):
            Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk)
        assert disk.closed

    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (OpenBacklog, "__init__"),
            (Tracker, "_new_core"),
            (TrackerCore, "restore"),
            (OpenBacklog, "recover"),
            (Keeping, "__init__"),
            (Tracker, "_work_came"),
            (Clock, "start"),
        ],
    )
    def test_that_is_interrupted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Ctrl-C while a tracker is made, wherever it comes, leaves the file to the next one."""
        path = tmp_path / "events.db"
        with Tracker(ENDPOINT, transport=down(), backlog=path) as tracker:
            tracker.track("a", 1)
            tracker.stop(0)

        real, raised = getattr(owner, name), []

        def interrupted(*args: Any, **options: Any) -> Any:
            if not raised:
                raised.append(1)
                raise KeyboardInterrupt
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                Tracker(ENDPOINT, transport=down(), backlog=path)
        opened = Backlog(path).open(numbered=False)
        opened.close()
        with Tracker(ENDPOINT, transport=down(), backlog=path) as tracker:
            assert tracker.statistics().restored == 1
            tracker.stop(0)

    def test_two_at_once(self, tmp_path: Path) -> None:
        """A second tracker has a file of its own, and the next one sends what both have left."""
        path = tmp_path / "events.db"
        with (
            Tracker(ENDPOINT, transport=down(), backlog=path) as one,
            Tracker(ENDPOINT, transport=down(), backlog=path) as two,
        ):
            one.track("a", 1)
            two.track("a", 2)
            one.stop(0)
            two.stop(0)
        transport = MemoryTransport()
        with Tracker(ENDPOINT, transport=transport, backlog=path) as tracker:
            assert tracker.statistics().restored == 2
        assert sorted(events_of(transport)) == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestFork:
    def test_what_the_child_does(self) -> None:
        """It leaves the backlog to its parent, and opens it when it first tracks; that event too is written at once."""
        with VirtualClock() as clock:
            disk = Disk()
            transport = MemoryTransport()
            tracker = make_tracker(clock, transport=transport, backlog=disk)
            tracker.track("a", "the parent's")
            tracker.set_auth_key("a", "a key that the child has too")
            keeping = tracker._keeping
            begin_all_in_child()
            with pytest.raises(AttributeError):
                _ = tracker.nothing
            assert disk.opened[0].left
            assert len(disk.opened) == 1
            begin_all_in_child()  # in a child of the child
            assert len(disk.opened) == 1
            appends = disk.calls.count("append")
            tracker.track("a", "the child's")
            assert len(disk.opened) == 2
            assert disk.calls.count("append") == appends + 1
            tracker.stop()
            assert keeping is not None
            assert keeping._next() is None  # of a greenlet that the child has too
            keeping._close()
            # This disk has no lock, so it found the parent's event too.
            signed = {b"child" in request.body: b'"auth"' in request.body for request in transport.requests}
            assert signed == {True: True, False: False}
        assert [each.closed for each in disk.opened] == [0, 1]

    @pytest.mark.parametrize("level", LEVELS)
    def test_interrupted_while_it_opens(self, level: str) -> None:
        """Wherever another track() interrupts the child's first one, the backlog is opened once, and both are sent."""
        n, step = 1 + sys.version_info[1] % 5, 5
        while True:
            transport = MemoryTransport()
            receipts: list[Any] = []
            with VirtualClock() as clock:
                disk = Disk(level)
                tracker = make_tracker(clock, transport=transport, backlog=disk)
                tracker._begin_in_child()

                def interrupt() -> None:
                    receipts.append(tracker.track("a", "from within", receipt=True))  # noqa: B023 - called at once

                with interrupting(n, interrupt) as count:
                    tracker.track("b", 1)
                clock.sleep(15)
                assert len(disk.opened) == 2
                assert sorted(map(str, events_of(transport))) == ["1", "from within"][: 1 + len(receipts)], n
                assert all(receipt.outcome is Outcome.DELIVERED for receipt in receipts)
                tracker.stop()
                assert tracker.statistics().accepted == 1 + len(receipts)
            if count() < n:
                return
            n += step

    @staticmethod
    def opening(
        clock: VirtualClock, transport: MemoryTransport, *actions: Callable[[Tracker], object], **options: Any
    ) -> Any:
        """A tracker in a child, where each opening of the backlog makes an action, and fails but for the last one."""
        left = list(actions)

        class Opening(Disk):
            def open(self) -> Opened:
                if self.opened:
                    left.pop(0)(tracker)
                    if left:
                        raise BacklogError("no space left")
                return super().open()

        tracker = make_tracker(clock, transport=transport, backlog=Opening(), **options)
        clock.sleep(1)  # its threads, which no child has, begin before
        tracker._begin_in_child()
        return tracker

    def test_interrupted_while_it_cannot_be_opened(self) -> None:
        """What interrupted in vain is taken up by the next call that opens the backlog, in its order, and first."""
        transport = MemoryTransport()
        receipts = []
        with VirtualClock() as clock:
            tracker = self.opening(
                clock,
                transport,
                lambda it: receipts.extend(it.track("a", n, receipt=True) for n in (1, 2)),
                lambda it: receipts.append(it.track("a", 3, receipt=True)),
            )
            with pytest.raises(BacklogError):
                tracker.track("a", "not accepted")
            assert [receipt.wait(1) for receipt in receipts] == [None, None]
            tracker.track("a", 4)
            assert tracker.flush() == FlushResult(delivered=4, lost=0, pending=0)
            assert events_of(transport) == [1, 2, 3, 4]
            assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED] * 3
            tracker.stop()

    @pytest.mark.parametrize("status", [200, 503])
    def test_stopped_before_it_can_be_opened(self, status: int) -> None:
        """stop() sends what has interrupted in vain, signed as it should be, or reports it lost."""
        transport = MemoryTransport(lambda request: status)
        losses: list[Loss] = []
        receipts = []
        with VirtualClock() as clock:
            tracker = self.opening(
                clock,
                transport,
                lambda it: receipts.append(it.track("a", 1, receipt=True)),
                Tracker.statistics,
                on_loss=losses.append,
            )
            tracker._new_keys["a"] = AuthKey("key")
            with pytest.raises(BacklogError):
                tracker.track("a", "not accepted")
            result = tracker.stop()
            assert sum((result.delivered, result.lost)) == 1
            assert b'"auth"' in transport.requests[0].body
            assert receipts[0].outcome is (Outcome.DELIVERED if status == 200 else Outcome.LOST)
            assert [(loss.events, loss.reason) for loss in losses] == [((1,), LossReason.STOPPED)][: result.lost]
            assert tracker.statistics().accepted == 1

    def test_only_track_may_interrupt_what_opens_it(self) -> None:
        """Any other call there is refused, makes no second core, and harms nothing; so is what there is no room for."""
        refused = []

        def interrupt(tracker: Tracker) -> None:
            receipt = tracker.track("a", 1, receipt=True)
            for call in (
                tracker.flush,
                tracker.stop,
                tracker.statistics,
                lambda: tracker.set_auth_key("a", "key"),
                receipt.wait,
            ):
                with pytest.raises(LocalError, match=r"^only track\(\) may interrupt what opens"):
                    call()
                refused.append(call)
            with pytest.raises(BacklogFull):
                tracker.track("a", 2)
            with pytest.raises(ValueError, match="stream"):
                tracker.track("", 2)
            assert tracker._interrupted()

        transport = MemoryTransport()
        with VirtualClock() as clock:
            tracker = self.opening(clock, transport, interrupt, max_pending_events=1)
            tracker.track("a", 3)
            tracker.stop()
            assert events_of(transport) == [1, 3]
        assert len(refused) == 5

    def test_end_of_a_child_that_could_not_open_it(self, tmp_path: Path) -> None:
        """What has interrupted an opening in vain, in a child that tracks nothing else, is sent at its end."""
        child = run_child(
            """
            from atom_sansio import BacklogError
            from atom_sync.backlog import Backlog
            tracker = Tracker("http://c.example", transport=Printing(), backlog=sys.argv[1])
            if not os.fork():
                signal.alarm(10)
                def cannot(self, log, *, numbered=True):
                    tracker.track("s", "finaliser's")
                    raise BacklogError("no space left")
                Backlog._open = cannot
                try:
                    tracker.track("s", "not accepted")
                except BacklogError:
                    sys.exit(0)
            sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
            """,
            str(tmp_path / "events.db"),
            forks=True,
        )
        assert (child.returncode, child.stderr, printed(child)) == (0, "", ["finaliser's"])

    def test_imports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No import is begun under a lock that a finaliser in another import may wait for; in a child neither."""
        imports = _late_imports._lock
        begun: list[bool] = []

        class Watched:
            def __enter__(self) -> None:
                imports.acquire()
                begun.append(tracker._lock._is_owned() or transport._lock._is_owned())  # type: ignore[attr-defined]

            def __exit__(self, *exc_info: object) -> None:
                imports.release()

        monkeypatch.setattr(_late_imports, "_lock", Watched())
        transport = SocketTransport()
        tracker = make_tracker()
        tracker = make_tracker(transport=MemoryTransport([503, 503]), backlog=Disk(), max_batch_events=1)
        transport._release(transport._acquire(Origin("http", "c.example", 80)))
        tracker.track("a", 1)
        tracker.flush(0.1)
        monkeypatch.setattr("multiprocessing.process.parent_process", object)
        monkeypatch.setattr("multiprocessing.util.Finalize", lambda *args, **options: None)
        monkeypatch.setattr("atom_sync._exit._registered_in", 0)  # as in a child
        begin_all_in_child()
        tracker.flush(0)
        tracker.track("a", 1)
        tracker.stop(0.1)
        assert set(begun) == {False}

    def test_processes(self, tmp_path: Path) -> None:
        """A child's file is opened when it first tracks, its parent's goes on, and each event is sent once."""
        child = run_child(
            """
            path = sys.argv[1]
            tracker = Tracker("http://c.example", transport=Printing(), backlog=path)
            tracker.track("s", "parent's")
            for _ in range(3):  # most children track nothing
                if not os.fork():
                    sys.exit(0)
                assert os.wait()[1] == 0
            assert not os.path.exists(path + ".2")
            if not os.fork():
                signal.alarm(10)
                if not os.fork():
                    signal.alarm(10)
                    tracker.track("s", "grandchild's")
                    assert os.path.exists(path + ".2")
                    os._exit(0)  # nothing is sent, nothing said
                assert os.wait()[1] == 0
                tracker.track("s", "child's")
                sys.exit(0)
            assert os.wait()[1] == 0
            tracker.track("s", "parent's too")
            """,
            str(tmp_path / "events.db"),
            forks=True,
        )
        assert (child.returncode, child.stderr) == (0, "")
        # The child found what its own child left.
        assert sorted(map(str, printed(child))) == ["child's", "grandchild's", "parent's", "parent's too"]

    def test_child_that_does_not_track(self, tmp_path: Path) -> None:
        """A child that shows its tracker, stops it, or ends by a signal that stops it, makes no file for that."""
        child = run_child(
            """
            from atom_sansio import TrackerClosed
            trackers = [Tracker("http://c.example", transport=Printing(), backlog=sys.argv[1]) for _ in range(2)]
            trackers[0].handle_signals()
            if os.fork() == 0:
                print(trackers[0], trackers[1].stop(), trackers[1].statistics().accepted, flush=True)
                try:
                    trackers[1].track("s", 1)
                except TrackerClosed:
                    print("closed", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
            print(os.waitstatus_to_exitcode(os.wait()[1]))
            print(*sorted(name for name in os.listdir(os.path.dirname(sys.argv[1])) if "-" not in name))
            """,
            str(tmp_path / "events.db"),
            forks=True,
        )
        shown = "<atom_sync._tracker.Tracker open http://c.example/>"
        assert child.stdout.splitlines() == [
            f"{shown} FlushResult(delivered=0, lost=0, pending=0) 0",
            "closed",
            "-15",
            "events.db events.db.2",
        ]

    def test_while_a_tracker_opens(self, tmp_path: Path) -> None:
        """A child that is forked while a backlog is opened does not keep it from others when that is closed."""
        child = run_child(
            """
            import atom_sync.backlog._mending as mending
            from atom_sync.backlog import Backlog
            reading, writing = os.pipe()
            children = []
            check = mending.check
            def forking(*arguments, **options):
                if not children:
                    children.append(os.fork())
                    if not children[0]:
                        os.close(writing)
                        os.read(reading, 1)
                        os._exit(0)
                check(*arguments, **options)
            mending.check = forking
            Backlog(sys.argv[1]).open().close()
            print(Backlog(sys.argv[1]).open().path.name)
            os.close(writing)
            os.wait()
            """,
            str(tmp_path / "events.db"),
            forks=True,
        )
        assert (child.stdout, child.stderr) == ("events.db\n", "")

    @pytest.mark.parametrize("receipt", [False, True])
    def test_a_handler_that_forks_in_a_write(self, tmp_path: Path, *, receipt: bool) -> None:
        """The event that is being written is the parent's, once; the call goes on in the child, which works then."""
        child = run_child(
            """
            import atom_sansio
            start = threading.Thread.start
            def no(thread):  # or another thread might have the lock with which the call goes on in the child
                raise RuntimeError("can't start new thread")
            threading.Thread.start = no
            tracker = Tracker("http://c.example", transport=Printing(), backlog=sys.argv[1], flush_interval=3600.0)
            tracker.track("s", "before")
            pid = None
            def fork(signum, frame):
                global pid
                pid = os.fork()
            signal.signal(signal.SIGUSR1, fork)
            write, armed = os.write, [True]
            def forking(fd, data):
                if b"written" in data and armed:
                    armed.clear()
                    os.kill(os.getpid(), signal.SIGUSR1)
                return write(fd, data)
            os.write = forking
            receipt = tracker.track("s", "being written", receipt=sys.argv[2] == "True")
            threading.Thread.start = start
            if not pid:
                signal.alarm(10)
                if receipt is not None:
                    try:
                        receipt.wait()
                    except atom_sansio.LocalError:
                        receipt = None
                assert receipt is None
                tracker.track("s", "child's")
                assert tracker.statistics().accepted == 1
                sys.exit(0)
            assert os.wait()[1] == 0
            assert tracker.statistics().accepted == 2
            """,
            str(tmp_path / "events.db"),
            str(receipt),
            forks=True,
        )
        assert (child.returncode, child.stderr) == (0, "")
        assert sorted(map(str, printed(child))) == ["before", "being written", "child's"]

    def test_while_a_lock_hangs(self, tmp_path: Path) -> None:
        """A disk that hangs where a lock is opened holds a fork up for a bounded time; parent and child work then."""
        child = run_child(
            """
            import atom_sync.backlog._files as files
            from atom_sync.backlog import Backlog
            files.LONGEST_WAIT = 0.05
            hangs, over = threading.Event(), threading.Event()
            open_private = files.open_private
            def hanging(path, flags):
                if threading.current_thread() is opening:
                    hangs.set()
                    over.wait()
                return open_private(path, flags)
            files.open_private = hanging
            opened = []
            opening = threading.Thread(target=lambda: opened.append(Backlog(sys.argv[1]).open()))
            opening.start()
            hangs.wait()
            if not os.fork():
                signal.alarm(10)
                backlog = Backlog(sys.argv[1]).open()
                print(backlog.path.name, flush=True)
                backlog.close()
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.wait()[1]))
            over.set()
            opening.join()
            if not os.fork():
                signal.alarm(10)
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.wait()[1]))
            opened[0].close()
            print(Backlog(sys.argv[1]).open().path.name)
            """,
            str(tmp_path / "events.db"),
            forks=True,
        )
        assert (child.stdout, child.stderr) == ("events.db\n0\n0\nevents.db\n", "")


class TestExit:
    def test_hanging_server(self, tmp_path: Path) -> None:
        """A process whose server hangs ends in its time, and the next one sends what it has left."""
        script = """
            atom_sync._exit.TIMEOUT = 0.3
            class Hangs:
                def send(self, request, *, timeout):
                    threading.Event().wait()
                def close(self):
                    pass
            transport = Hangs() if sys.argv[2] == "hangs" else Printing()
            tracker = Tracker("http://c.example", transport=transport, backlog=sys.argv[1])
            for i in range(int(sys.argv[3])):
                tracker.track("s", i)
        """
        path = str(tmp_path / "events.db")
        child = run_child(script, path, "hangs", "25")
        assert (child.returncode, child.stderr, printed(child)) == (0, "", [])
        child = run_child(script.replace("0.3", "20"), path, "prints", "0")
        assert (child.returncode, child.stderr, printed(child)) == (0, "", list(range(25)))

    @pytest.mark.parametrize("hangs", ["update", "close"])
    def test_hanging_disks(self, tmp_path: Path, hangs: str) -> None:
        """Disks that hang hold up the end for ``_exit.TIMEOUT`` in all, and no tracker whose disk is well."""
        child = run_child(
            """
            import atexit, time
            import atom_sync.backlog._backlog as module
            from atom_sync.backlog import Backlog
            atom_sync._exit.TIMEOUT = 0.4
            real = getattr(module.OpenBacklog, sys.argv[2])
            def hanging(backlog, *arguments):
                if backlog.path.name != "well.db":
                    threading.Event().wait()
                return real(backlog, *arguments)
            setattr(module.OpenBacklog, sys.argv[2], hanging)
            class Hangs(MemoryTransport):
                def send(self, request, *, timeout):
                    threading.Event().wait()
            atexit.register(lambda: print(time.monotonic()))
            trackers = []
            for name in ("a", "b", "well", "c"):
                backlog = Backlog(f"{sys.argv[1]}/{name}.db", level="memory")
                trackers.append(Tracker("http://c.example", transport=Hangs(), backlog=backlog))
                trackers[-1].track(name, 1)
                trackers[-1].flush(0.05)  # since 3.12 no thread begins at exit
            atexit.register(lambda: print(time.monotonic()))
            """,
            str(tmp_path),
            hangs,
        )
        assert child.returncode == 0
        before, after = map(float, child.stdout.split())
        assert after - before < 1.4  # it would be more if each had a second
        if hangs == "update":  # at this level nothing else has what was not written
            said = child.stderr.splitlines()
            assert {line.split(" is lost")[0] for line in said} == {f"1 event of stream '{name}'" for name in "abc"}
            assert all("the backlog cannot be written: it does not answer" in line for line in said)
        else:
            assert child.stderr == ""
        assert kept_in(tmp_path / "well.db") == 1

    def test_killed(self, tmp_path: Path) -> None:
        """What track() accepted outlives SIGKILL, however little of it was sent."""
        path = tmp_path / "events.db"
        child = run_child(
            """
            tracker = Tracker("http://c.example", transport=MemoryTransport(lambda request: 503), backlog=sys.argv[1])
            for i in range(100):
                tracker.track("s", i)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            str(path),
        )
        assert child.returncode != 0
        assert kept_in(path) == 100
