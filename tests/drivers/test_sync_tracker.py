"""What only threads can do to a tracker: races, signals, finalisers, forks and the interpreter's end."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from virtual import CORE_CALLS, PATIENCE, Guarded, VirtualClock, interrupting

from atom_sansio import (
    AuthKey,
    BacklogFull,
    ConnectionFailed,
    EventError,
    FlushResult,
    Loss,
    LossReason,
    Options,
    Reply,
    ReportLoss,
    Request,
    TrackerClosed,
)
from atom_sync import MemoryTransport, Tracker
from atom_sync._clock import Clock
from atom_sync._exit import begin_all_in_child
from atom_sync._signals import stop_on_signals

ENDPOINT = "http://collector.example/"
CANARY = "canary-key-4f1c"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX has it")


def make_tracker(clock: Clock | None = None, **options: Any) -> Tracker:
    """A tracker on *clock*."""
    tracker = object.__new__(Tracker)
    tracker._set_up(Options.read({"endpoint": ENDPOINT, **options}, {}, str), clock)
    return tracker


def check(tracker: Tracker, transport: MemoryTransport, accepted: int, *, lost: int = 0) -> None:
    """The tracker is stopped, and each event that it accepted has its outcome."""
    statistics = tracker.statistics()
    assert statistics.accepted == accepted
    assert statistics.delivered == accepted - lost == len(transport.events)
    assert sum(statistics.lost.values()) == lost
    assert statistics.pending == statistics.pending_bytes == statistics.lanes == 0


class FrozenClock(Clock):
    """Time passes only by waiting, and no thread can be started."""

    time = 0.0

    def now(self) -> float:
        return self.time

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        assert until is not None, "nobody would ever notify"
        self.time = max(self.time, until)

    def start(self, target: Callable[[], None], name: str) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")


@pytest.fixture
def restored_signals() -> Iterator[None]:
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in previous.items():
        signal.signal(signum, handler)


class TestThreads:
    def test_no_memory_for_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """That is no other trouble than that there may be none: what it was to tell is told by who would start it."""
        start = threading.Thread.start

        def fail(thread: threading.Thread) -> None:
            if thread.name == "atom-reporter":
                raise MemoryError
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", fail)
        told: list[int] = []
        with Tracker(
            ENDPOINT, transport=MemoryTransport([422]), on_loss=lambda loss: told.append(loss.count)
        ) as tracker:
            tracker.track("s", 1)
            assert tracker.flush(PATIENCE).lost == 1
            before = time.monotonic()
            assert tracker.stop(PATIENCE).pending == 0
        assert told == [1]
        assert time.monotonic() - before < PATIENCE / 2

    def test_many_at_once(self) -> None:
        """Threads that track at the same time lose nothing, and each finds its own order again."""
        transport = MemoryTransport()

        def work(me: int) -> None:
            for i in range(300):
                tracker.track(f"s{i % 3}", [me, i])

        with Tracker(ENDPOINT, transport=transport, max_batch_events=7) as tracker:
            threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        check(tracker, transport, 2400)
        for me in range(8):
            for rest in range(3):
                seen = [event[1] for stream, event in transport.events if stream == f"s{rest}" and event[0] == me]
                assert seen == [i for i in range(300) if i % 3 == rest]

    def test_while_batches_are_closed(self) -> None:
        """Threads that append while others flush lose nothing, double nothing, and keep their own order."""
        transport = MemoryTransport()
        threads, events = 4, 3000
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with Tracker(ENDPOINT, transport=transport, max_batch_events=50) as tracker:

                def track(number: int) -> None:
                    for n in range(events):
                        tracker.track("a", [number, n])
                        if n % 100 == number:
                            tracker.flush(0)

                workers = [threading.Thread(target=track, args=(number,)) for number in range(threads)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join(PATIENCE)
        finally:
            sys.setswitchinterval(before)
        check(tracker, transport, threads * events)
        for number in range(threads):
            mine = [event for _, event in transport.events if event[0] == number]
            assert mine == [[number, n] for n in range(events)]

    def test_while_multiprocessing_is_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tracker's first event is taken while another thread loads multiprocessing, of which half is there."""
        transport = MemoryTransport()
        monkeypatch.setitem(sys.modules, "multiprocessing.process", ModuleType("multiprocessing.process"))
        monkeypatch.setattr("atom_sync._exit._registered_in", 0)  # as in a child
        with Tracker(ENDPOINT, transport=transport) as tracker:
            tracker.track("a", 1)
        check(tracker, transport, 1)

    def test_started_when_needed(self) -> None:
        """A tracker without work has no thread; one with work has a few, never more than max_in_flight."""

        class Slow(MemoryTransport):
            def send(self, request: Request, *, timeout: float) -> Reply:
                clock.sleep(1)
                return super().send(request, timeout=timeout)

        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=Slow(), max_in_flight=3, max_batch_events=2)
            clock.sleep(100)
            assert clock.started == []
            tracker.track("a", 1)
            clock.sleep(100)
            assert clock.started == ["atom-sender"]
            tracker.track("later", 1)  # there is a timer too, after which somebody must look
            for stream in "abcdefgh":
                tracker.track(stream, 1)
                tracker.track(stream, 2)
            clock.sleep(4)
            assert tracker.statistics().delivered == 17
            assert clock.started == ["atom-sender"] * 3
            assert tracker.stop() == FlushResult(delivered=1, lost=0, pending=0)
            clock.sleep(1)
            assert clock.others == []

    def test_core_is_locked(self) -> None:
        """No call reaches the core without the lock: it is not thread-safe by itself."""

        class Hanging(MemoryTransport):
            def send(self, request: Request, *, timeout: float) -> Reply:
                if b'"hang"' in request.body:
                    clock.sleep(timeout)
                return super().send(request, timeout=timeout)

        transport = Hanging([ConnectionFailed("gone"), 500, 401, 400])
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=transport, max_batch_events=1, on_loss=lambda loss: None)
            core: Any = Guarded(tracker._core, tracker._lock)
            tracker._core = core
            for event in range(3):
                tracker.track("a", event)
            tracker.flush(60)
            tracker.set_auth_key("a", "k")
            assert tracker.flush().lost == 1
            tracker.track("hang", 1)
            assert tracker.stop().lost == 1
            assert tracker.statistics().delivered == 2
        assert core.calls == CORE_CALLS

    def test_threads_end(self) -> None:
        """After stop() there is none of the tracker's threads."""
        before = set(threading.enumerate())
        transport = MemoryTransport([400])
        with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=lambda loss: None) as tracker:
            for stream in "abcde":
                tracker.track(stream, 1)
        for thread in set(threading.enumerate()) - before:  # and not for one that another test has left
            if thread.name.startswith("atom-"):
                thread.join(PATIENCE)
        assert set(threading.enumerate()) <= before

    def test_a_thread_that_is_slow_to_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for it under the lock, which a finaliser in it may need before it runs."""
        real = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

        def bootstrap(thread: threading.Thread) -> None:
            if thread.name.startswith("atom-"):
                assert tracker._lock.acquire(timeout=PATIENCE)  # what is collected here tracks
                tracker._lock.release()
            real(thread)

        monkeypatch.setattr(threading.Thread, "_bootstrap_inner", bootstrap)
        began = time.monotonic()
        with Tracker(ENDPOINT, transport=MemoryTransport([400]), on_loss=lambda loss: None) as tracker:
            tracker.track("s", 1)
            assert tracker.flush(PATIENCE).lost == 1
        assert time.monotonic() - began < PATIENCE

    @pytest.mark.skipif(not (3, 11) <= sys.version_info < (3, 13), reason="that makes no difference")
    def test_attributes_are_found_quickly(self) -> None:
        """Nothing makes CPython put a tracker's attributes into a dictionary, where track() finds them later."""
        tracker = make_tracker(FrozenClock(), transport=MemoryTransport())
        tracker.track("s", 1)
        tracker.statistics()
        repr(tracker)
        tracker.stop()
        assert not [each for each in gc.get_referents(tracker) if type(each) is dict and "_core" in each]
        assert "_core" in tracker.__dict__
        assert [each for each in gc.get_referents(tracker) if type(each) is dict and "_core" in each]

    def test_a_transport_that_cannot_be_closed(self, caplog: pytest.LogCaptureFixture) -> None:
        """What it raises is logged, and stop() returns what became of the events."""

        class Broken(MemoryTransport):
            def close(self) -> None:
                raise RuntimeError("mine")

        tracker = make_tracker(FrozenClock(), transport=Broken())
        tracker.track("s", 1)
        assert tracker.stop().delivered == 1
        [record] = caplog.records
        assert record.getMessage() == "the transport raised RuntimeError when it was closed"

    def test_no_thread_can_be_started(self) -> None:
        """When the interpreter starts no more threads, stop() sends and reports by itself."""
        losses: list[Loss] = []
        transport = MemoryTransport([400])
        tracker = make_tracker(FrozenClock(), transport=transport, on_loss=losses.append)
        tracker.track("a", 1)
        tracker.track("b", 2)
        assert tracker.stop() == FlushResult(delivered=1, lost=1, pending=0)
        assert [loss.events for loss in losses] == [(1,)]
        check(tracker, transport, 2, lost=1)

    def test_threads_that_can_be_started_again(self) -> None:
        """After an event whose sender could not be started the next one is tried with, however quick it is taken in."""
        transport = MemoryTransport()
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=transport, flush_interval=1.0)
            clock.no_more_threads = True
            for n in range(3):
                tracker.track("s", n)
            clock.no_more_threads = False
            clock.sleep(10)
            assert transport.events == []
            tracker.track("s", 3)
            clock.sleep(1)
            assert transport.events == [("s", n) for n in range(4)]
            tracker.stop()

    def test_no_thread_and_no_answer(self) -> None:
        """Even then stop() is bounded, and its requests are."""
        timeouts = []

        class Dead(MemoryTransport):
            def send(self, request: Request, *, timeout: float) -> Reply:
                timeouts.append(timeout)
                clock.time += timeout
                return Reply(status=503, headers=(), body=b"")

        clock = FrozenClock()
        losses: list[Loss] = []
        tracker = make_tracker(clock, transport=Dead(), on_loss=losses.append)
        tracker.track("a", 1)
        assert tracker.stop(4.0) == FlushResult(delivered=0, lost=1, pending=0)
        assert timeouts == [3.75]
        assert clock.time == 3.75
        assert [loss.reason for loss in losses] == [LossReason.STOPPED]


class TestInterruptions:
    """``track`` may interrupt anything in its own thread, as signal handlers and finalisers do."""

    CALLS: ClassVar[dict[str, Callable[[Tracker], object]]] = {
        "track": lambda tracker: tracker.track("a", 2),
        "track-new": lambda tracker: tracker.track("new", 2),
        "track-full": lambda tracker: [tracker.track("a", i) for i in (2, 3)],
        "statistics": lambda tracker: tracker.statistics(),
        "flush": lambda tracker: tracker.flush(0),
        "set_auth_key": lambda tracker: tracker.set_auth_key("a", "key"),
        "repr": repr,
        "stop": lambda tracker: tracker.stop(),
    }

    @pytest.mark.parametrize("stream", ["a", "b"])
    @pytest.mark.parametrize("call", CALLS)
    def test_at_every_point(self, call: str, stream: str) -> None:
        """Wherever it interrupts, nothing is lost or counted twice, and the ledger adds up."""
        n = 0
        while True:
            n += 1
            transport = MemoryTransport()
            losses: list[Loss] = []
            tracker = make_tracker(FrozenClock(), transport=transport, max_batch_events=3, on_loss=losses.append)
            tracker.track("a", 1)
            accepted = []

            def interrupt() -> None:
                try:
                    tracker.track(stream, "from within")  # noqa: B023 - called before the next round
                except TrackerClosed:
                    return
                accepted.append(1)  # noqa: B023

            with interrupting(n, interrupt) as count:
                returned = self.CALLS[call](tracker)
            if call == "statistics":
                assert returned.accepted == returned.pending + returned.delivered + sum(returned.lost.values())
            before = tracker.statistics()
            assert before.accepted == before.pending + before.delivered + sum(before.lost.values())
            tracker.stop()
            total = {"track": 2, "track-new": 2, "track-full": 3}.get(call, 1) + len(accepted)
            check(tracker, transport, total, lost=len(losses))
            assert len(losses) <= (call == "stop")
            if count() < n:
                return

    @pytest.mark.parametrize("call", ["track", "statistics", "flush", "set_auth_key"])
    def test_is_sent_in_time(self, call: str) -> None:
        """An event that interrupts a call is sent as soon as any other, with no help from later calls."""
        n = 0
        while True:
            n += 1
            transport = MemoryTransport()
            with VirtualClock() as clock:
                tracker = make_tracker(clock, transport=transport, max_batch_events=2)
                if call == "track":
                    tracker.track("a", 1)
                clock.sleep(1)  # a sender waits, if there is anything to wait for
                interrupt: Any = lambda: [tracker.track("b", i) for i in range(2)]  # noqa: B023, E731
                with interrupting(n, interrupt) as count:
                    self.CALLS[call](tracker)
                    clock.sleep(0.5)
                sent = [event for stream, event in transport.events if stream == "b"]
                tracker.stop()
            if count() < n:
                return
            assert sent == [0, 1], f"interrupted at {n}"

    def test_in_a_sender(self) -> None:
        """A finaliser that tracks while a sender is at work delays its event by no more than any other."""
        n = 0
        while True:
            n += 1
            transport = MemoryTransport()
            with VirtualClock() as clock:
                tracker = make_tracker(clock, transport=transport, max_batch_events=1, max_in_flight=1)
                main = threading.get_ident()
                hit = []

                def finalise() -> None:
                    hit.append(threading.get_ident() != main)  # noqa: B023
                    if hit[0]:  # noqa: B023
                        tracker.track("b", 2)  # noqa: B023

                with interrupting(n, finalise) as count:
                    tracker.track("a", 1)
                    clock.sleep(1)
                sent = len(transport.events)
                tracker.stop()
            if count() < n:
                return
            assert sent == 1 + sum(hit), f"interrupted at {n}"

    def test_finalisers(self) -> None:
        """``__del__`` and weak reference callbacks may track in the midst of track() itself."""
        transport = MemoryTransport()
        tracker = make_tracker(FrozenClock(), transport=transport)

        class Farewell:
            def __init__(self) -> None:
                self.cycle = self

            def __del__(self) -> None:
                tracker.track("farewells", "del")

        kept = []

        def drop() -> None:
            victim = Farewell()
            kept.append(weakref.ref(victim, lambda _: tracker.track("farewells", "callback")))
            del victim
            gc.collect()

        for n in range(1, 11):
            with interrupting(n, drop):
                tracker.track("a", n)
        tracker.stop()
        check(tracker, transport, 10 * 3)
        streams = [stream for stream, _ in transport.events]
        assert streams.count("farewells") == 20

    @posix
    def test_signal_handler(self) -> None:
        """A signal handler that tracks finds no lock that would block it, wherever it comes."""

        class Interrupting(FrozenClock):
            armed = False

            def now(self) -> float:
                if self.armed:
                    self.armed = False
                    signal.raise_signal(signal.SIGALRM)
                return super().now()

        clock = Interrupting()
        transport = MemoryTransport()
        tracker = make_tracker(clock, transport=transport)
        previous = signal.signal(signal.SIGALRM, lambda signum, frame: tracker.track("signals", signum))
        calls: list[Callable[[], object]] = [
            lambda: tracker.track("a", 1),
            lambda: tracker.flush(0),
            lambda: tracker.set_auth_key("a", "key"),
            tracker.stop,
        ]
        try:
            for call in calls:
                clock.armed = True
                call()
        finally:
            signal.signal(signal.SIGALRM, previous)
        check(tracker, transport, 5)

    @posix
    @pytest.mark.usefixtures("restored_signals")
    def test_stopped_by_a_signal(self) -> None:
        """Wherever a signal stops the tracker in a track() that waits for room, that call comes to its end."""
        n = 0
        while True:
            n += 1
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            transport = MemoryTransport()
            with VirtualClock() as clock:
                tracker = make_tracker(clock, transport=transport, max_pending_events=1)
                tracker.handle_signals()
                tracker.track("a", 1)
                accepted = 1
                with interrupting(n, lambda: signal.raise_signal(signal.SIGTERM)) as count:
                    try:
                        tracker.track("a", 2)
                        accepted += 1
                    except TrackerClosed:
                        pass
                tracker.stop()
                clock.sleep(1)
            check(tracker, transport, accepted)
            if count() < n:
                return

    @pytest.mark.parametrize("call", ["track", "flush", "stop"])
    def test_keyboard_interrupt(self, call: str) -> None:
        """Ctrl-C gets out of a call that waits, which leaves no trace: the tracker goes on."""

        class Interrupted(VirtualClock):
            def wait(self, condition: threading.Condition, until: float | None) -> None:
                if self._running is self._main and self.interrupt:
                    self.interrupt = False
                    raise KeyboardInterrupt
                super().wait(condition, until)

            interrupt = False

        transport = MemoryTransport()
        with Interrupted() as clock:
            tracker = make_tracker(clock, transport=transport, max_pending_events=1)
            tracker.track("a", 1)
            clock.interrupt = True
            with pytest.raises(KeyboardInterrupt):
                {"track": lambda: tracker.track("a", 2), "flush": tracker.flush, "stop": tracker.stop}[call]()
            if call != "stop":
                tracker.track("a", 3)
            tracker.stop()
        check(tracker, transport, 1 if call == "stop" else 2)

    def test_keyboard_interrupt_of_who_sends(self) -> None:
        """Where no sender can be started stop() sends itself, and Ctrl-C gets out of that, too; the core knows."""
        transport = MemoryTransport(lambda request: 503)
        tracker = make_tracker(FrozenClock(), transport=transport)
        tracker.track("a", 1)

        def interrupted(request: Request, *, timeout: float) -> Reply:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transport, "send", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tracker.stop()
        statistics = tracker.statistics()
        assert (statistics.pending, statistics.in_flight, statistics.failures) == (1, 0, 1)
        assert tracker.stop() == FlushResult(delivered=0, lost=1, pending=0)


class TestLife:
    def test_exception(self) -> None:
        """An exception that leaves the context stops the tracker and passes."""
        transport = MemoryTransport()
        tracker = Tracker(ENDPOINT, transport=transport)

        def program() -> None:
            with tracker:
                tracker.track("a", 1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            program()
        check(tracker, transport, 1)

    def test_after_stop(self) -> None:
        """A stopped tracker takes nothing, and its other methods are harmless."""
        transport = MemoryTransport()
        tracker = Tracker(ENDPOINT, transport=transport)
        tracker.track("a", 1)
        assert tracker.stop()
        for _ in range(2):
            with pytest.raises(TrackerClosed):
                tracker.track("a", 2)
        nothing = FlushResult(delivered=0, lost=0, pending=0)
        assert tracker.stop() == tracker.stop(0) == tracker.flush() == nothing
        tracker.set_auth_key("a", "k")
        assert repr(tracker) == "<atom_sync._tracker.Tracker closed http://collector.example/>"
        check(tracker, transport, 1)

    @pytest.mark.parametrize("method", ["flush", "stop"])
    @pytest.mark.parametrize(
        ("timeout", "error"),
        [
            (-1, ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            pytest.param(10**400, ValueError, id="too large for a float"),
            pytest.param(10**5000, ValueError, id="too long to write"),
            ("1", TypeError),
            (None, TypeError),
            (True, TypeError),
        ],
    )
    def test_bad_timeout(self, method: str, timeout: Any, error: type[Exception]) -> None:
        """A timeout that is none is refused, and nothing has been done."""
        tracker = make_tracker(FrozenClock(), transport=MemoryTransport())
        tracker.track("a", 1)
        with pytest.raises(error, match=r"^timeout must be "):
            getattr(tracker, method)(timeout)
        tracker.track("a", 2)
        assert tracker.stop().delivered == 2

    def test_bad_arguments(self) -> None:
        """What track() refuses changes nothing and harms no other event."""
        transport = MemoryTransport()
        with Tracker(ENDPOINT, transport=transport) as tracker:
            tracker.track("a", 1)
            for stream, event, key, error in [
                ("a", float("nan"), None, EventError),
                ("a", object(), None, EventError),
                ("", 1, None, ValueError),
                (1, 1, None, TypeError),
                ("a", 1, 1, TypeError),
                ("a", 1, "", ValueError),
            ]:
                with pytest.raises(error):
                    tracker.track(stream, event, auth_key=key)  # type: ignore[arg-type]  # the point
        check(tracker, transport, 1)

    def test_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Options are taken from the environment, and arguments win."""
        monkeypatch.setenv("ATOM_ENDPOINT", ENDPOINT)
        monkeypatch.setenv("ATOM_AUTH_KEY", CANARY)
        monkeypatch.setenv("ATOM_MAX_BATCH_EVENTS", "2")
        monkeypatch.setenv("ATOM_TRANSPORT", "atom_sync:MemoryTransport")
        with Tracker(max_batch_events=1) as tracker:
            tracker.track("a", 1)
            assert tracker.flush()
            transport = tracker._transport
        assert isinstance(transport, MemoryTransport)
        body = json.loads(transport.requests[0].body)
        assert body["auth"] == AuthKey(CANARY).sign(b"[1]")
        monkeypatch.delenv("ATOM_ENDPOINT")
        with pytest.raises(ValueError, match="ATOM_ENDPOINT"):
            Tracker()

    def test_keys_do_not_show(self, caplog: pytest.LogCaptureFixture) -> None:
        """No key is in a repr or a log, and a tracker cannot be pickled."""
        transport = MemoryTransport([401, 400])
        options = {"auth_key": CANARY, "auth_keys": {"b": CANARY}, "transport": transport, "max_batch_events": 1}
        with VirtualClock() as clock, make_tracker(clock, **options) as tracker:
            tracker.track("a", 1)
            tracker.track("b", 1, auth_key=CANARY)
            tracker.flush(1)
            shown = repr(tracker) + repr(tracker.statistics()) + repr(tracker._options)
            with pytest.raises(TypeError):
                pickle.dumps(tracker)
            tracker.set_auth_key("a", "another")
        assert CANARY not in shown + caplog.text + repr(caplog.records)
        assert "refuses the key" in caplog.text
        assert CANARY.encode() not in b"".join(request.body for request in transport.requests)

    def test_transport_may_be_made(self) -> None:
        """The option ``transport`` is an instance or a class, and an error of its own is a failed request."""
        raised = []

        class Faulty(MemoryTransport):
            def send(self, request: Request, *, timeout: float) -> Reply:
                if not raised:
                    raised.append(1)
                    raise KeyError("a bug in a user's transport")
                return super().send(request, timeout=timeout)

        with VirtualClock([0.0]) as clock:
            tracker = make_tracker(clock, transport=Faulty)
            tracker.track("a", 1)
            assert tracker.flush().delivered == 1
            assert tracker.statistics().failures == 1
            tracker.stop()

    def test_blocked_without_end(self) -> None:
        """A track() that waits for room waits as long as it takes, and goes on when there is some."""
        answers: list[Any] = [503] * 12
        transport = MemoryTransport(answers)
        with VirtualClock() as clock:
            tracker = make_tracker(clock, transport=transport, max_pending_events=1, max_batch_events=1)
            tracker.track("a", 1)
            tracker.track("a", 2)
            assert clock.now() > 3600
            tracker.stop()
        check(tracker, transport, 2)

    def test_raise(self) -> None:
        """``on_full="raise"`` never waits."""
        tracker = make_tracker(FrozenClock(), transport=MemoryTransport(), max_pending_events=1, on_full="raise")
        tracker.track("a", 1)
        with pytest.raises(BacklogFull, match="1 events, 2 bytes"):
            tracker.track("a", 2)
        assert tracker.stop().delivered == 1


class TestReports:
    def test_logged_once_per_cause(self, caplog: pytest.LogCaptureFixture) -> None:
        """Without on_loss the first loss of each cause is logged."""
        transport = MemoryTransport([400, 400, 404, 302, 400])
        with Tracker(ENDPOINT, transport=transport, max_batch_events=1) as tracker:
            for i in range(6):
                tracker.track("a", i)
        told = [(record.name, record.message.split(";")[0]) for record in caplog.records]
        assert told == [
            ("atom", "1 event of stream 'a' is lost (rejected, status 400): status 400"),
            ("atom", "1 event of stream 'a' is lost (rejected, status 404): status 404"),
            ("atom", "1 event of stream 'a' is lost (redirected, status 302): status 302"),
        ]
        check(tracker, transport, 6, lost=5)

    def test_callback_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever a callback raises is logged, once for each type, and later losses are still told."""
        errors = iter([ValueError("first"), ValueError("second"), SystemExit(3), KeyboardInterrupt()])
        told = []

        def on_loss(loss: Loss) -> None:
            told.append(loss.events)
            raise next(errors)

        transport = MemoryTransport([400] * 4)
        with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
            for i in range(4):
                tracker.track("a", i)
        assert told == [(i,) for i in range(4)]
        assert [record.message for record in caplog.records] == [
            "on_loss raised ValueError",
            "on_loss raised SystemExit",
            "on_loss raised KeyboardInterrupt",
        ]

    def test_callback_that_stops(self) -> None:
        """A callback may stop the tracker it is called by."""
        results = []
        transport = MemoryTransport([400])
        with VirtualClock() as clock:
            tracker = make_tracker(
                clock, transport=transport, max_batch_events=2, on_loss=lambda loss: results.append(tracker.stop())
            )
            tracker.track("a", 1)
            tracker.track("b", 2)
            tracker.flush()
            clock.sleep(10)
            assert results == [FlushResult(delivered=0, lost=0, pending=0)]
            assert clock.others == []
        check(tracker, transport, 2, lost=1)

    def test_no_lock_is_held(self) -> None:
        """While a callback runs, other threads use the tracker."""
        transport = MemoryTransport([400])
        seen = []

        def on_loss(loss: Loss) -> None:
            other = threading.Thread(target=lambda: seen.append(tracker.statistics()))
            other.start()
            other.join(PATIENCE)

        with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
            tracker.track("a", 1)
        assert [statistics.lost for statistics in seen] == [{LossReason.REJECTED: 1}]

    def test_finaliser_that_tracks(self) -> None:
        """One that runs while reports are looked at finds no sender with the core's lock, who would wait for it."""
        report = ReportLoss(
            loss=Loss(
                stream="b", lines=b"", count=1, reason=LossReason.REJECTED, status=400, message="", attempts=1, time=0
            )
        )
        stuck: list[bool] = []

        class Collecting(Clock):
            def notify_all(self, condition: threading.Condition) -> None:
                if condition is tracker._reporter._changed and not stuck:
                    tried = threading.Event()

                    def put_as_a_sender() -> None:
                        has_lock = tracker._lock.acquire(blocking=False)
                        tried.set()
                        if has_lock:
                            tracker._reporter.put(report)
                            tracker._lock.release()

                    sender = threading.Thread(target=put_as_a_sender, daemon=True)
                    sender.start()
                    assert tried.wait(PATIENCE)
                    sender.join(PATIENCE)
                    stuck.append(sender.is_alive())
                    if not stuck[0]:
                        tracker.track("a", "finaliser's")
                super().notify_all(condition)

        transport = MemoryTransport([400])
        tracker = make_tracker(Collecting(), transport=transport, max_batch_events=1, on_loss=lambda loss: None)
        tracker.track("a", 1)
        tracker.flush(PATIENCE)
        assert tracker._reporter.wait(tracker._now() + PATIENCE)
        assert stuck == [False]
        tracker.stop(PATIENCE)
        check(tracker, transport, 2, lost=1)


# -- signals ------------------------------------------------------------------------------------------------


@posix
@pytest.mark.usefixtures("restored_signals")
class TestSignals:
    def test_undo(self) -> None:
        """The handlers can be taken away again, but for one that somebody has put another before."""
        seen: list[str] = []
        signal.signal(signal.SIGTERM, lambda signum, frame: seen.append("previous"))
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
        undo = stop_on_signals(lambda: seen.append("stop"), lambda: False, Clock())
        ours = signal.getsignal(signal.SIGINT)
        undo()
        assert before == {signum: signal.getsignal(signum) for signum in before}
        undo = stop_on_signals(lambda: seen.append("stop"), lambda: False, Clock())
        later = lambda signum, frame: None  # noqa: E731
        signal.signal(signal.SIGINT, later)
        undo()
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is later is not ours
        assert seen == []

    def test_chain(self) -> None:
        """A signal stops the tracker and is handed on to the handler that was there, which is back then."""
        seen: list[object] = []
        signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
        before = signal.getsignal(signal.SIGTERM)
        transport = MemoryTransport()
        tracker = make_tracker(FrozenClock(), transport=transport)
        tracker.handle_signals()
        tracker.track("a", 1)
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is before
        check(tracker, transport, 1)

    def test_ignored(self) -> None:
        """A signal that was ignored stops the tracker and is ignored."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        transport = MemoryTransport()
        tracker = make_tracker(FrozenClock(), transport=transport)
        tracker.handle_signals()
        tracker.track("a", 1)
        signal.raise_signal(signal.SIGTERM)
        check(tracker, transport, 1)

    def test_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A signal that nobody handled is sent again, to what the system does with it."""
        sent = []
        monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        tracker = make_tracker(FrozenClock(), transport=MemoryTransport())
        tracker.handle_signals()
        signal.raise_signal(signal.SIGTERM)
        assert sent == [(os.getpid(), signal.SIGTERM)]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(TrackerClosed):
            tracker.track("a", 1)

    def test_in_the_midst_of_a_call(self) -> None:
        """A signal that comes while the core is at work leaves the rest to a thread that can wait for it."""
        order: list[object] = []
        targets: list[Callable[[], None]] = []

        class InTheEnd(Clock):
            def start(self, target: Callable[[], None], name: str) -> None:
                targets.append(target)

        signal.signal(signal.SIGTERM, lambda signum, frame: order.append("previous"))
        stop_on_signals(lambda: order.append("stop"), lambda: True, InTheEnd())
        signal.raise_signal(signal.SIGTERM)
        assert order == []
        targets.pop()()
        assert order == ["stop", "previous"]
        assert targets == []

    @pytest.mark.parametrize("in_a_thread", [False, True])
    def test_stop_that_raises(self, in_a_thread: bool) -> None:
        """The signal is handed on even if stop() raises, as what cuts into it may."""
        targets: list[Callable[[], None]] = []

        class InTheEnd(Clock):
            def start(self, target: Callable[[], None], name: str) -> None:
                targets.append(target)

        def stop() -> None:
            raise OSError("closed badly")

        seen: list[int] = []
        signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
        stop_on_signals(stop, lambda: in_a_thread, InTheEnd())
        with pytest.raises(OSError, match="closed badly"):  # noqa: PT012 - the thread is what the second one is for
            signal.raise_signal(signal.SIGTERM)
            targets.pop()()
        assert seen == [signal.SIGTERM]

    @pytest.mark.parametrize("shuts_down", [False, True])
    def test_no_thread_to_wait_in(self, monkeypatch: pytest.MonkeyPatch, *, shuts_down: bool) -> None:
        """If no thread can be started then, the signal is handed on, unless the interpreter is about to end anyway."""
        seen: list[int] = []
        signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
        stop_on_signals(pytest.fail, lambda: True, FrozenClock())
        monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: not shuts_down)
        signal.raise_signal(signal.SIGTERM)
        assert seen == ([] if shuts_down else [signal.SIGTERM])

    def test_interrupted_or_not(self) -> None:
        """The tracker knows whether a handler cuts into a call of its thread, and takes another thread for none."""
        answers = []

        class Asking(FrozenClock):
            def now(self) -> float:
                answers.append(tracker._interrupted())
                return super().now()

        tracker = make_tracker(Asking(), transport=MemoryTransport())
        assert not tracker._interrupted()
        tracker.track("a", 1)
        assert answers == [True]
        with tracker._lock:
            other = threading.Thread(target=lambda: answers.append(tracker._interrupted()))
            other.start()
            other.join(PATIENCE)
        assert answers == [True, False]
        tracker.stop()

    def test_not_in_the_main_thread(self) -> None:
        """In another thread handle_signals() is refused, and nothing has changed."""
        before = signal.getsignal(signal.SIGTERM)
        errors = []

        def work() -> None:
            try:
                tracker.handle_signals()
            except ValueError as error:
                errors.append(str(error))

        with Tracker(ENDPOINT, transport=MemoryTransport()) as tracker:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(PATIENCE)
        assert len(errors) == 1
        assert signal.getsignal(signal.SIGTERM) is before


# -- whole processes ----------------------------------------------------------------------------------------

PRELUDE = f"""
import json, os, signal, sys, threading
if hasattr(signal, "alarm"):
    signal.alarm({PATIENCE:.0f})  # a hang is a failure
import atom_sync, atom_sync._tracker
from atom_sansio import Reply
from atom_sync import MemoryTransport, Tracker

class Printing(MemoryTransport):
    def send(self, request, *, timeout):
        os.write(1, request.body + b"\\n")
        return super().send(request, timeout=timeout)

"""


def run_child(script: str, *arguments: str, forks: bool = False) -> subprocess.CompletedProcess[str]:
    """Run *script* in an interpreter of its own; if it *forks*, without coverage, whose locks that may hold."""
    hidden = "COVERAGE_" if forks else "none"
    return subprocess.run(
        # Since 3.12 a fork beside threads warns, rightly.
        [sys.executable, "-W", "ignore:This process", "-c", PRELUDE + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        cwd=Path(__file__).parent,
        env={name: value for name, value in os.environ.items() if not name.startswith(hidden)},
    )


def printed(child: subprocess.CompletedProcess[str]) -> list[object]:
    """The events of all the requests that a child has printed."""
    envelopes = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    return [event for envelope in envelopes for event in json.loads(envelope["data"])]


def bodies(requests: list[bytes]) -> list[object]:
    """The events of all the requests that a server has read."""
    data = [json.loads(request.partition(b"\r\n\r\n")[2])["data"] for request in requests if request]
    return [event for text in data for event in json.loads(text)]


@posix
class TestSignalledProcess:
    SCRIPT = """
        def previous(signum, frame):
            print("previous", signum, flush=True)
            sys.exit(5)

        signum = getattr(signal, sys.argv[2])
        own = signal.default_int_handler  # which is not there in a process that was started in the background
        handlers = {"default": signal.SIG_DFL, "ignore": signal.SIG_IGN, "python": previous, "own": own}
        signal.signal(signum, handlers[sys.argv[1]])
        tracker = Tracker("http://c.example", transport=Printing())
        tracker.handle_signals()
        tracker.track("s", 1)
        os.kill(os.getpid(), signum)
        print("survived", flush=True)
    """

    @pytest.mark.parametrize(
        ("handler", "signum", "code", "output", "error"),
        [
            ("default", "SIGTERM", -signal.SIGTERM, "", ""),
            ("ignore", "SIGTERM", 0, "survived", ""),
            ("python", "SIGTERM", 5, f"previous {signal.SIGTERM.value}", ""),
            ("own", "SIGINT", -signal.SIGINT, "", "KeyboardInterrupt"),
        ],
    )
    def test_handlers(self, handler: str, signum: str, code: int, output: str, error: str) -> None:
        """What is pending is sent, and then happens what would have happened."""
        child = run_child(self.SCRIPT, handler, signum)
        assert printed(child) == [1]
        assert child.returncode == code
        assert [line for line in child.stdout.splitlines() if not line.startswith("{")] == output.splitlines()
        assert child.stderr.strip().rpartition("\n")[2] == error

    def test_in_the_core(self) -> None:
        """A signal that cuts into the core of track() is handled when that has gone on; nothing is lost."""
        child = run_child(
            """
            tracker = Tracker("http://c.example", transport=Printing())
            tracker.handle_signals()
            def profile(frame, event, arg):
                if tracker._core.busy:
                    sys.setprofile(None)
                    os.kill(os.getpid(), signal.SIGTERM)
            sys.setprofile(profile)
            tracker.track("s", 1)
            threading.Event().wait()
            """
        )
        assert (child.returncode, child.stderr, printed(child)) == (-signal.SIGTERM, "", [1])

    def test_in_the_core_without_a_thread(self) -> None:
        """Nor does it go unheard where the process may start no thread that would wait for that: it ends at once."""
        child = run_child(
            """
            tracker = Tracker("http://c.example", transport=Printing())
            tracker.handle_signals()
            def start(thread):
                raise RuntimeError("can't start new thread")
            threading.Thread.start = start
            def profile(frame, event, arg):
                if tracker._core.busy:
                    sys.setprofile(None)
                    os.kill(os.getpid(), signal.SIGTERM)
            sys.setprofile(profile)
            tracker.track("s", 1)
            print("alive")
            """
        )
        assert (child.returncode, child.stderr, child.stdout) == (-signal.SIGTERM, "", "")


class TestExit:
    SCRIPT = """
        atom_sync._exit.TIMEOUT = float(sys.argv[2])
        trackers = [Tracker(sys.argv[1]) for _ in range(2)]
        for i, tracker in enumerate(trackers):
            tracker.track("s", i)
    """

    def test_delivered(self, serve: Any) -> None:
        """At the interpreter's end what is pending is delivered, by every tracker."""
        seen = []

        def script(peer: Any, _: int) -> None:
            while request := peer.read_request():
                seen.append(request)
                peer.write(peer.OK)

        child = run_child(self.SCRIPT, f"http://127.0.0.1:{serve(script).origin().port}/", "2")
        assert (child.returncode, child.stderr, child.stdout) == (0, "", "")
        assert sorted(bodies(seen)) == [0, 1]

    def test_hanging_server(self, serve: Any) -> None:
        """A server that hangs holds up the end for no longer than ``_exit.TIMEOUT``; what is lost is said."""

        def script(peer: Any, _: int) -> None:
            peer.read_request()
            peer.left()

        child = run_child(self.SCRIPT, f"http://127.0.0.1:{serve(script).origin().port}/", "0.2")
        assert child.returncode == 0
        # Of both trackers; more than once, perhaps, where the end comes while one is telling.
        assert child.stderr.count("1 event of stream 's' is lost (stopped, status None)") >= 2
        assert "Traceback" not in child.stderr

    def test_dead_server(self) -> None:
        """Nor does one that is not there."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        child = run_child(self.SCRIPT, f"http://127.0.0.1:{port}/", "0.2")
        assert child.returncode == 0
        assert child.stderr.count("is lost (stopped, status None)") >= 2
        assert "Traceback" not in child.stderr

    def test_logging_is_ready_in_time(self) -> None:
        """What a stop may have to log with is imported while it waits, not when its time is nearly up."""
        child = run_child(
            """
            seen = []
            class Hangs:
                def send(self, request, *, timeout):
                    threading.Event().wait()
                def close(self):
                    pass
            tracker = Tracker("http://c.example", transport=Hangs, max_batch_events=1)
            sys.modules.pop("logging", None)  # what measures coverage may have it
            tracker.track("s", 1)
            follow = tracker._follow
            tracker._follow = lambda flush, until: (seen.append("logging" in sys.modules), follow(flush, until))
            tracker.stop(0.1)
            print(*seen)
            """
        )
        assert child.stdout == "True\n"

    def test_callback_at_exit(self) -> None:
        """on_loss hears of losses at the end, or if there is no time left for that the log does, and may block."""
        child = run_child(
            """
            atom_sync._exit.TIMEOUT = 0.2
            def on_loss(loss):
                print(loss.reason.value, flush=True)
                threading.Event().wait()
            tracker = Tracker("http://c.example", transport=MemoryTransport([503] * 99), on_loss=on_loss)
            tracker.track("s", 1)
            """
        )
        # It is called, unless no thread is started at exit any more (3.12) or is too late.  That it has not returned,
        # the log says.
        assert child.returncode == 0
        assert child.stdout.strip() in ("stopped", "")
        assert "1 event of stream 's' is lost (stopped" in child.stderr

    def test_callback_that_there_is_no_time_for(self) -> None:
        """What on_loss had no time to hear of is logged, since nothing is lost in silence."""
        child = run_child(
            """
            atom_sync._exit.TIMEOUT = 0.2
            def on_loss(loss):
                print(loss.stream, flush=True)
                threading.Event().wait()
            tracker = Tracker("http://c.example", transport=MemoryTransport([400, 422]), on_loss=on_loss)
            tracker.track("s", 1)
            tracker.flush()
            tracker.track("t", 1)
            tracker.flush()
            """
        )
        assert (child.returncode, child.stdout) == (0, "s\n")
        assert "1 event of stream 's' is lost (rejected" in child.stderr  # it has not returned
        assert "1 event of stream 't' is lost (rejected" in child.stderr

    def test_callback_that_is_too_slow(self) -> None:
        """Losses that on_loss has not returned from are logged as numbers, by cause, those too many to be held too."""
        child = run_child(
            """
            atom_sync._exit.TIMEOUT = 0.2
            atom_sync._reporter.MAX_HELD = 12
            transport = MemoryTransport([422] * 5)
            on_loss = lambda loss: threading.Event().wait()
            tracker = Tracker("http://c.example", transport=transport, on_loss=on_loss)
            for stream in "aabcd":
                tracker.track(stream, 123)
                tracker.flush()
            """
        )
        assert child.stderr.splitlines() == [
            "3 events of stream 'a' and 1 other are lost (rejected, status 422): status 422;"
            " on_loss has not returned from these 3 losses",
            "on_loss is slower than losses come: it was not told of 2, which statistics() counts",
        ]

    def test_callback_that_outlives_a_stop(self) -> None:
        """Nor is it in silence that a program ends after ``stop()`` left on_loss behind."""
        child = run_child(
            """
            atom_sync._exit.TIMEOUT = 0.2
            def on_loss(loss):
                threading.Event().wait()
            tracker = Tracker("http://c.example", transport=MemoryTransport([400]), on_loss=on_loss)
            tracker.track("s", 1)
            tracker.stop(0.2)
            """
        )
        assert child.returncode == 0
        assert "1 event of stream 's' is lost (rejected" in child.stderr

    def test_one_that_cannot_be_stopped(self) -> None:
        """What raises while one tracker is stopped is logged, and the losses of the others are said all the same."""
        child = run_child(
            """
            atom_sync._exit.TIMEOUT = 0.2
            class Raising(MemoryTransport):
                def close(self):
                    raise OSError("it is closed")
            raising = [Tracker("http://c.example", transport=Raising()) for _ in range(3)]
            others = [Tracker("http://c.example", transport=MemoryTransport([503] * 9)) for _ in range(3)]
            for tracker in raising + others:
                tracker.track("s", 1)
            """
        )
        assert child.returncode == 0
        assert child.stderr.count("1 event of stream 's' is lost (stopped") == 3
        assert child.stderr.count("to stop a tracker raised OSError") == 3
        assert child.stderr.count("OSError: it is closed") == 3

    def test_interrupted(self) -> None:
        """Ctrl-C while one tracker is stopped keeps no loss of any from being said; it is seen at the end."""
        child = run_child(
            """
            atom_sync._exit.TIMEOUT = 0.2
            trackers = [Tracker("http://c.example", transport=MemoryTransport([503] * 9)) for _ in range(3)]
            for tracker in trackers:
                tracker.track("s", 1)
            def interrupted(*args):
                raise KeyboardInterrupt
            trackers[1]._follow = interrupted
            """
        )
        assert child.stderr.count("1 event of stream 's' is lost (stopped") == 3
        assert child.stderr.count("KeyboardInterrupt") == 1

    def test_exit_in_a_thread(self) -> None:
        """Events of threads that go on after the main thread are delivered too."""
        child = run_child(
            """
            tracker = Tracker("http://c.example", transport=Printing())
            main = threading.current_thread()
            def work():
                main.join()
                tracker.track("s", 1)
            threading.Thread(target=work).start()
            """
        )
        assert (child.returncode, child.stderr, printed(child)) == (0, "", [1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestFork:
    def test_while_the_first_draw_ends(self) -> None:
        """A fork just after the import for the first draw finds nothing locked that a child's first draw needs."""
        child = run_child(
            """
            from contextlib import contextmanager
            from atom_sync import _clock

            begun, codes = [], []

            def fork():
                if (pid := os.fork()) == 0:
                    signal.alarm(10)
                    _clock.Clock().unit()
                    os._exit(0)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

            @contextmanager
            def whole_imports():
                yield
                if not begun:
                    begun.append(True)
                    forking = threading.Thread(target=fork)
                    forking.start()
                    forking.join()

            _clock.whole_imports = whole_imports
            _clock.Clock().unit()
            print(codes)
            """,
            forks=True,
        )
        assert child.stdout == "[0]\n"

    def test_each_sends_its_own(self, serve: Any) -> None:
        """The child begins empty and works on a connection of its own; the parent keeps its events and its."""
        seen: dict[int, list[bytes]] = {}

        def script(peer: Any, number: int) -> None:
            while request := peer.read_request():
                seen.setdefault(number, []).append(request)
                peer.write(peer.OK)

        child = run_child(
            """
            tracker = Tracker(sys.argv[1], max_batch_events=2)
            tracker.track("s", "sent before")
            assert tracker.flush()
            tracker.track("s", "parent's")
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)  # is not inherited
                assert tracker.statistics().accepted == 0
                tracker.track("s", "child's")
                assert tracker.flush(), tracker.statistics()
                tracker.track("s", "child's at exit")
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert tracker.statistics().accepted == 2
            tracker.track("s", "parent's too")
            assert tracker.stop(), tracker.statistics()
            """,
            f"http://127.0.0.1:{serve(script).origin().port}/",
            forks=True,
        )
        assert (child.returncode, child.stderr) == (0, "")
        events = [event for requests in seen.values() for event in bodies(requests)]
        assert sorted(events) == ["child's", "child's at exit", "parent's", "parent's too", "sent before"]
        assert sorted(len(requests) for requests in seen.values()) == [2, 2]
        assert "child's" in bodies(seen[1])

    def test_while_others_hold_locks(self) -> None:
        """A fork in the midst of other threads' calls leaves no lock behind in the child."""
        child = run_child(
            """
            import warnings
            warnings.simplefilter("ignore")  # of threads, from 3.12 on
            tracker = Tracker("http://c.example", transport=MemoryTransport(), max_pending_events=9)
            done = False
            def work():
                while not done:
                    tracker.track("s", 0)
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(20):
                if not os.fork():
                    signal.alarm(10)
                    tracker.track("s", 1)
                    os._exit(0 if tracker.stop().delivered == 1 else 1)
                assert os.wait()[1] == 0
            done = True
            for thread in threads:
                thread.join()
            tracker.stop()
            statistics = tracker.statistics()
            assert statistics.accepted == statistics.delivered == len(tracker._transport.events)
            """,
            forks=True,
        )
        assert (child.returncode, child.stderr) == (0, "")

    def test_what_the_child_does(self) -> None:
        """All trackers begin anew, with locks of their own, and so do transports that know how to."""

        class Resetting(MemoryTransport):
            resets = 0

            def reset_after_fork(self) -> None:
                self.resets += 1

        transports = [Resetting(), MemoryTransport()]
        trackers = [make_tracker(FrozenClock(), transport=transport) for transport in transports]
        for tracker in trackers:
            tracker.track("a", "the parent's")
        with trackers[0]._lock:  # as a thread that is not there in a child may hold it
            begin_all_in_child()
            other = threading.Thread(target=trackers[0].track, args=("a", "the child's"))
            other.start()
            other.join(PATIENCE)
        assert transports[0].resets == 1
        assert [tracker.statistics().accepted for tracker in trackers] == [1, 0]
        assert [tracker.stop().delivered for tracker in trackers] == [1, 0]
        assert transports[0].events == [("a", "the child's")]
