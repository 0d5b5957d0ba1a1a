"""The 37 defects that were seen in runs of the old SDK, each with a test that fails if it comes back.

The sentence of each test says what is true now.  Where time plays a part it is virtual: a tracker that polls,
spins or is late shows in how often its threads wake up and when requests go out.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benches import KEY, Bench, ModelCollector, VirtualClock

from atom_sansio import ConnectionFailed, EventTooLarge, Reply, Request, RequestTimeout
from atom_sync._clock import Clock
from ironsource.atom.event import Event
from ironsource.atom.ironsource_atom import IronSourceAtom
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker
from ironsource.atom.queue_event_storage import QueueEventStorage

MakeBench = Callable[..., Bench]
MakeLow = Callable[..., Any]
PATIENCE = 30
"""Real seconds after which a process that hangs fails its test."""


def envelope(request: Request) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(request.body)
    return value


def texts(request: Request) -> list[Any]:
    value: list[Any] = json.loads(envelope(request)["data"])
    return value


def signature(request: Request, key: str) -> str:
    return hmac.new(key.encode(), envelope(request)["data"].encode(), hashlib.sha256).hexdigest()


def run(script: str, *arguments: str) -> str:
    """What *script* prints in a process of its own, which must end by itself."""
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


# -- stopping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(50, 100), (1000, 10)])
def test_defect_01_stop_loses_the_backlog(bench: MakeBench, count: int, batch_size: int) -> None:
    """stop() sends what was just tracked, all of it, in order."""
    b = bench(batch_size=batch_size)
    for i in range(count):
        b.tracker.track("s", {"id": i})
    b.tracker.stop()
    assert b.seen() == [{"id": i} for i in range(count)]
    assert b.calls == []


def test_defect_02_stop_loses_the_buffer(bench: MakeBench) -> None:
    """stop() sends what has been waiting for a full batch for some time."""
    b = bench(batch_size=100)
    for i in range(50):
        b.tracker.track("s", {"id": i})
    b.clock.sleep(3)
    assert b.seen() == []
    b.tracker.stop()
    assert b.seen() == [{"id": i} for i in range(50)]


def test_defect_03_sigterm_loses_events(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM sends what waits before anything else happens."""
    seen_by_handler = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: seen_by_handler.append(len(b.seen())))
    try:
        b = bench()
        for i in range(50):
            b.tracker.track("s", {"id": i})
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen_by_handler == [50]
        b.tracker.stop()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_defect_04_stop_spins(bench: MakeBench) -> None:
    """While stop() waits for a slow server, threads wake up a handful of times, and then once a second."""
    turns = []
    for delay in (0.1, 4.5):
        b = bench(delay=delay)
        b.tracker.track("s", {})
        before = b.clock.turns
        b.tracker.stop()
        turns.append(b.clock.turns - before)
    assert turns[0] <= 5
    assert turns[1] <= turns[0] + 4


def test_defect_05_stop_waits_for_a_pause(bench: MakeBench) -> None:
    """A pause after a failure does not hold stop() up, and every event that is lost by it is reported."""
    b = bench(answer=lambda request: 500, batch_size=1)
    for i in range(6):
        b.tracker.track("s", {"id": i})
    b.clock.sleep(60)
    before = b.clock.now()
    b.tracker.stop()
    assert b.clock.now() - before <= 5
    assert [json.loads(text) for call in b.calls for text in call[3]] == [{"id": i} for i in range(6)]
    assert {call[1] for call in b.calls} == {500}


@pytest.mark.parametrize(("delay", "arrives"), [(3, True), (6, False)])
def test_defect_06_stop_leaves_a_request_in_flight(bench: MakeBench, delay: float, arrives: bool) -> None:
    """stop() waits for the answer to what is in flight, up to five seconds, and then reports it."""
    b = bench(delay=delay, batch_size=1)
    b.tracker.track("s", {"id": 1})
    b.clock.sleep(0)
    assert len(b.server.requests) == 1
    b.tracker.stop()
    assert 3 <= b.clock.now() <= 5
    assert b.seen() == ([{"id": 1}] if arrives else [])
    assert [call[1:4:2] for call in b.calls] == ([] if arrives else [(500, ['{"id": 1}'])])


EXIT = """
import sys
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker
tracker = IronSourceAtomTracker(batch_worker_count=int(sys.argv[2]), endpoint=sys.argv[1], auth_key=sys.argv[3])
for i in range(3):
    tracker.track("s", {"id": i})
if sys.argv[4] == "stop":
    tracker.stop()
"""


def test_defect_07_process_never_exits(collector: ModelCollector) -> None:
    """A program that ends without stop() ends, and its events arrive."""
    run(EXIT, collector.url, "1", KEY, "")
    assert collector.rows == [("s", {"id": i}) for i in range(3)]


def test_defect_08_process_never_exits_after_stop(collector: ModelCollector) -> None:
    """A program with several workers ends after stop(), and its events have arrived."""
    run(EXIT, collector.url, "2", KEY, "stop")
    assert collector.rows == [("s", {"id": i}) for i in range(3)]


# -- answers ----------------------------------------------------------------------------------------------


def test_defect_09_timeout_drops_the_batch(bench: MakeBench, low: MakeLow) -> None:
    """A request that times out is sent again as it was; the low-level call says 500, so that callers do so, too."""
    delays = iter([3, 0])
    b = bench(delay=lambda request: next(delays), request_timeout=1)
    b.tracker.track("s", {"id": 1})
    b.tracker.flush()
    b.clock.sleep(60)
    assert b.seen() == [{"id": 1}]
    first, second = b.server.requests
    assert first == second
    assert b.calls == []

    atom, _ = low([RequestTimeout("too late")])
    response = atom.put_event("s", {"id": 1})
    assert (response.status, response.error, response.data) == (500, "too late", None)
    assert isinstance(response.raw_response, RequestTimeout)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 425, 429])
def test_defect_10_4xx_discards_the_batch(bench: MakeBench, status: int) -> None:
    """408, 425 and 429 are retried; any other 4xx is final, and the callback gets code and all of the batch."""
    b = bench(answer=[status])
    b.tracker.track("s", {"id": 1})
    b.tracker.track("s", "two" * 100)
    b.tracker.flush()
    b.clock.sleep(60)
    if status in (408, 425, 429):
        assert b.seen() == [{"id": 1}, "two" * 100]
        assert len(b.server.requests) == 2
        assert b.calls == []
    else:
        assert b.seen() == []
        assert len(b.server.requests) == 1
        assert [call[1:] for call in b.calls] == [(status, f"status {status}", ['{"id": 1}', "two" * 100], "s")]


def test_defect_11_redirect_is_silent_loss(bench: MakeBench, low: MakeLow) -> None:
    """A redirect is not followed; it is a failure that names its target."""
    moved = Reply(status=302, headers=(("location", "/moved"),), body=b"")
    b = bench(answer=lambda request: moved)
    b.tracker.track("s", {"id": 1})
    b.tracker.stop()
    assert [request.target for request in b.server.requests] == ["/bulk"]
    assert [call[1:] for call in b.calls] == [(302, "redirected to /moved", ['{"id": 1}'], "s")]

    atom, transport = low([moved])
    response = atom.put_event("s", {"id": 1})
    assert (response.status, response.error, response.data) == (302, "redirected to /moved", None)
    assert len(transport.requests) == 1


@pytest.mark.parametrize("storage", [None, 10])
@pytest.mark.parametrize("keys", [["key1", "key2-second"], ["", "the-key"]])
def test_defect_12_first_key_of_a_stream_wins(bench: MakeBench, keys: list[str], storage: int | None) -> None:
    """Each event is signed with the key it was tracked with, also on its way through a custom storage."""
    b = bench(event_backlog=storage and QueueEventStorage(storage))
    for key in keys:
        b.tracker.track("s", {"key": key}, key)
    b.tracker.stop()
    assert len(b.server.requests) == 2
    for request in b.server.requests:
        (text,) = texts(request)
        key = json.loads(text)["key"]
        assert envelope(request).get("auth") == (signature(request, key) if key else None)


# -- time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [None, 10])
def test_defect_13_idle_sleep(bench: MakeBench, storage: int | None) -> None:
    """A full batch goes out at the moment it is full, and between batches no thread wakes up."""
    b = bench(batch_size=1, event_backlog=storage and QueueEventStorage(storage))
    for i in range(5):
        b.tracker.track("s", {"id": i})
        b.clock.sleep(2.3)
    assert b.server.times == pytest.approx([0, 2.3, 4.6, 6.9, 9.2])
    before = b.clock.turns
    b.clock.sleep(1_000_000)
    assert b.clock.turns - before == 1  # the test's own


@pytest.mark.parametrize("storage", [None, 10])
def test_defect_14_flush_misses_what_was_just_tracked(bench: MakeBench, storage: int | None) -> None:
    """flush() returns at once and sends what was tracked just before, at that moment."""
    b = bench(delay=1, event_backlog=storage and QueueEventStorage(storage))
    for i in range(5):
        b.tracker.track("s", {"id": i})
    assert b.tracker.flush() is None
    assert b.clock.now() == 0
    b.clock.sleep(1.5)
    assert b.server.times == [0]
    assert b.seen() == [{"id": i} for i in range(5)]


@pytest.mark.parametrize("storage", [None, 10])
def test_defect_15_one_bad_stream_stops_all(bench: MakeBench, storage: int | None) -> None:
    """With one worker, a stream that gets nothing but 500 does not hold up another."""
    b = bench(
        answer=lambda request: 500 if envelope(request)["table"] == "bad" else 200,
        event_backlog=storage and QueueEventStorage(storage),
    )
    b.tracker.track("bad", {})
    b.tracker.flush()
    b.clock.sleep(5)
    b.tracker.track("good", {"id": 1})
    b.tracker.flush()
    b.clock.sleep(0.001)
    assert b.server.events == [("good", {"id": 1})]


def test_defect_16_byte_limit_is_no_limit(bench: MakeBench) -> None:
    """No body is longer than batch_bytes_size, escapes and all; an event that never fits goes to the callback."""
    b = bench(batch_bytes_size=1024, batch_size=2000)
    for _ in range(10):
        b.tracker.track("s", "x" * 900)
        b.tracker.track("s", '"' * 120)
    b.tracker.track("s", "y" * 200_000)
    b.tracker.stop()
    assert len(b.seen()) == 20
    assert max(len(request.body) for request in b.server.requests) <= 1024
    assert [(code, data) for _, code, _, data, _ in b.calls] == [(400, "y" * 200_000)]


# -- the backlog ------------------------------------------------------------------------------------------


def test_defect_17_full_backlog_blocks_every_stream(bench: MakeBench) -> None:
    """While one stream's backlog is full, another stream's track() returns at once."""
    b = bench(delay=lambda request: 50 if envelope(request)["table"] == "busy" else 0, backlog_size=1)
    returned = []

    def track_busy() -> None:
        for i in range(3):
            b.tracker.track("busy", {"id": i})
            returned.append(b.clock.now())

    b.clock.start(track_busy, "busy")
    b.clock.sleep(12)
    b.tracker.track("other", {})
    assert b.clock.now() == 12
    assert returned == [0]
    b.clock.sleep(1000)
    assert returned == [0, 50, 100]


def test_defect_17_full_queue_storage_blocks_every_stream() -> None:
    """A queue storage that waits for room in one stream takes events of another meanwhile."""
    storage = QueueEventStorage(1)
    storage.add_event(Event("busy", "1"))
    thread = threading.Thread(target=storage.add_event, args=(Event("busy", "2"),))
    thread.start()
    storage.add_event(Event("other", "3"))
    assert storage.get_event("busy").data == "1"  # type: ignore[union-attr]
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not storage.is_empty()


def test_defect_18_blocked_track_cannot_be_interrupted() -> None:
    """A signal reaches a track() that waits for room: the tracker stops, and the earlier handler is called."""
    answered = threading.Event()
    story: list[object] = []

    class Server:
        def send(self, request: Request, *, timeout: float) -> Reply:
            assert answered.wait(PATIENCE)
            return Reply(status=200, headers=(), body=b"")

        def close(self) -> None:
            story.append("stopped")

    class TellTale(Clock):
        """Knows when somebody waits: first track(), then stop()."""

        waits = 0

        def wait(self, condition: threading.Condition, until: float | None) -> None:
            if threading.current_thread().name != "atom-sender":
                self.waits += 1
                if self.waits == 1:
                    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
                else:
                    answered.set()
            super().wait(condition, until)

    class Tracker(IronSourceAtomTracker):
        _clock = TellTale()
        _new_transport = Server

    def mine(signum: int, frame: object) -> None:
        story.append("handled")
        handled.set()

    handled = threading.Event()
    before = signal.signal(signal.SIGTERM, mine)
    try:
        tracker = Tracker(backlog_size=1, callback=lambda *args: story.append(args[1]))
        tracker.track("s", {"id": 1})
        tracker.track("s", {"id": 2})
        until = time.monotonic() + PATIENCE
        while not handled.wait(0.05):  # Python heeds a signal that comes just before a wait after that
            assert time.monotonic() < until
        tracker.stop()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert story.index("stopped") < story.index("handled")
    assert 400 in story  # what had no room when the tracker stopped


# -- signals, threads, processes ----------------------------------------------------------------------------


def test_defect_19_signal_handlers_are_replaced(bench: MakeBench) -> None:
    """Handlers that were there are called after every tracker has stopped, and are back after stop()."""
    story: list[str] = []

    def mine(signum: int, frame: object) -> None:
        story.append(f"mine {len(first.seen())} {len(second.seen())}")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        first, second = bench(), bench()
        first.tracker.track("s", {})
        second.tracker.track("s", {})
        os.kill(os.getpid(), signal.SIGTERM)
        assert story == ["mine 1 1"]
        second.tracker.stop()
        first.tracker.stop()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)

    third = bench()
    third.tracker.track("s", {})
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert len(third.seen()) == 1


def test_defect_19_sigterm_ends_the_process(collector: ModelCollector) -> None:
    """A program without handlers of its own sends its events on SIGTERM and then ends by it."""
    script = (
        "import os, signal, sys, time\n"
        "from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker as Tracker\n"
        "tracker = Tracker(endpoint=sys.argv[1], auth_key=sys.argv[2])\n"
        "tracker.track('s', {'id': 1})\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "while True: time.sleep(0.05)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, collector.url, KEY], timeout=PATIENCE, check=False)
    assert process.returncode == -signal.SIGTERM
    assert collector.rows == [("s", {"id": 1})]


def test_defect_20_no_tracker_outside_the_main_thread(bench: MakeBench, clock: VirtualClock) -> None:
    """A tracker made in any thread works; there it leaves the handlers as they are."""
    before = signal.getsignal(signal.SIGTERM)
    made: list[Bench] = []
    clock.start(lambda: made.append(bench()), "maker")
    clock.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is before
    made[0].tracker.track("s", {})
    made[0].tracker.stop()
    assert made[0].seen() == [{}]


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # the tracker has threads, and copes
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker
from ironsource.atom.queue_event_storage import QueueEventStorage
storage = QueueEventStorage(100) if sys.argv[3] else None
tracker = IronSourceAtomTracker(endpoint=sys.argv[1], auth_key=sys.argv[2], event_backlog=storage)
for i in range(2):
    tracker.track("s", {"parent": i})
child = os.fork()
if not child:
    for i in range(3):
        tracker.track("s", {"child": i})
    tracker.stop()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
tracker.stop()
"""


@pytest.mark.parametrize("storage", ["", "storage"])
def test_defect_21_not_fork_safe(collector: ModelCollector, storage: str) -> None:
    """After a fork the child sends what it tracks, the parent what it tracked, and none is sent twice."""
    run(FORK, collector.url, KEY, storage)
    assert collector.rows == [("s", {"child": i}) for i in range(3)] + [("s", {"parent": i}) for i in range(2)]


# -- texts ------------------------------------------------------------------------------------------------


def test_defect_22_non_ascii_bytes_kill_the_tracker(bench: MakeBench, low: MakeLow) -> None:
    """UTF-8 bytes are the text they spell, bytes that are none go to the callback, and other events go on."""
    b = bench()
    b.tracker.track("s", '{"t": "ção"}'.encode())
    b.tracker.track("s", b"\xff\xfe")
    b.tracker.track("s", {"id": 3})
    b.tracker.stop()
    assert b.seen() == [{"t": "ção"}, {"id": 3}]
    assert [call[1:4:2] for call in b.calls] == [(400, b"\xff\xfe")]

    atom, transport = low(auth_key=KEY)
    assert atom.put_event("s", '{"t": "ção"}'.encode()).status == 200
    assert envelope(transport.requests[0])["data"] == '{"t": "ção"}'
    assert envelope(transport.requests[0])["auth"] == signature(transport.requests[0], KEY)


def test_defect_23_json_text_is_encoded_twice(bench: MakeBench, low: MakeLow) -> None:
    """A text is sent as it is, whatever it says."""
    b = bench()
    b.tracker.track("s", '{"id": 6}')
    b.tracker.stop()
    assert texts(b.server.requests[0]) == ['{"id": 6}']
    atom, transport = low()
    atom.put_event("s", '{"id": 6}')
    assert envelope(transport.requests[0])["data"] == '{"id": 6}'


# -- the callback -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, TypeError, SystemExit])
def test_defect_24_raising_callback_kills_the_worker(bench: MakeBench, error: type[BaseException]) -> None:
    """A callback that raises is called again for the next loss, and delivery goes on."""
    calls = []

    def callback(*args: object) -> None:
        calls.append(args)
        raise error("mine")

    b = bench(answer=[400, 400], callback=callback, batch_size=1)
    for i in range(5):
        b.tracker.track("s", {"id": i})
    b.tracker.stop()
    assert len(calls) == 2
    assert b.seen() == [{"id": 2}, {"id": 3}, {"id": 4}]


def test_defect_25_callback_runs_under_the_lock(bench: MakeBench) -> None:
    """A callback may track, flush and stop."""

    def callback(unix_time: float, code: int, message: str, data: object, stream: str) -> None:
        calls.append(data)
        if len(calls) == 1:
            b.tracker.track("s", data)
            b.tracker.flush()
        else:
            b.tracker.stop()

    calls: list[object] = []
    b = bench(is_blocking=False, backlog_timeout=1, backlog_size=1, delay=lambda request: 30, callback=callback)
    b.tracker.track("s", "one")
    b.tracker.track("s", "two")
    b.clock.sleep(100)
    assert calls[:2] == ["two", "two"]


def test_defect_26_backlog_timeout_is_never_used(bench: MakeBench) -> None:
    """Without blocking, track() waits for backlog_timeout; if there is room in time, the event is accepted."""
    b = bench(is_blocking=False, backlog_timeout=5, backlog_size=2, delay=12)
    returned = []
    for i in range(6):
        b.tracker.track("s", str(i))
        returned.append(b.clock.now())
    assert returned == [0, 0, 5, 10, 12, 12]
    b.clock.sleep(0)
    assert [call[1:4:2] for call in b.calls] == [(400, "2"), (400, "3")]


def test_defect_26_backlog_timeout_of_a_queue_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue storage that does not block waits as long as it was told to."""
    waits: list[float | None] = []
    monkeypatch.setattr(queue.Queue, "put", lambda self, item, block=True, timeout=None: waits.append(timeout))
    for block, timeout in ((True, None), (True, 5), (False, None), (False, 5)):
        QueueEventStorage(1, block, timeout).add_event(Event("s", "1"))
    assert waits == [None, None, 0, 5]


def test_defect_27_non_ascii_stream_and_500_kill_the_worker(bench: MakeBench) -> None:
    """A stream with any name is retried, and other streams go on."""
    b = bench(answer=[500])
    b.tracker.track("поток", {"id": 1})
    b.tracker.flush()
    b.clock.sleep(60)
    b.tracker.track("later", {"id": 2})
    b.tracker.stop()
    assert b.server.events == [("поток", {"id": 1}), ("later", {"id": 2})]


@pytest.mark.parametrize("storage", [None, 10])
def test_defect_28_interval_is_cut_to_whole_seconds(bench: MakeBench, storage: int | None) -> None:
    """flush_interval counts milliseconds."""
    b = bench(flush_interval=1900, event_backlog=storage and QueueEventStorage(storage))
    b.tracker.track("s", {})
    b.clock.sleep(10)
    b.tracker.track("s", {})
    b.clock.sleep(10)
    assert b.server.times == pytest.approx([1.9, 11.9])


@pytest.mark.parametrize("storage", [None, 10])
def test_defect_29_track_after_stop_hangs(bench: MakeBench, storage: int | None) -> None:
    """After stop() every track() returns at once, and the callback is told."""
    b = bench(backlog_size=3, event_backlog=storage and QueueEventStorage(storage))
    b.tracker.stop()
    for i in range(6):
        b.tracker.track("s", str(i))
    assert b.clock.now() == 0
    b.clock.sleep(0)
    assert [call[1:4:2] for call in b.calls] == [(400, str(i)) for i in range(6)]


# -- bad input ----------------------------------------------------------------------------------------------


def bad_calls() -> list[tuple[Any, Any, Any]]:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return [
        ("s", {"v": object()}, ""),
        ("s", {"v": float("nan")}, ""),
        ("s", b"\xff", ""),
        ("s", "\ud800", ""),
        ("s", {"v": "\ud800"}, ""),
        ("s", circle, ""),
        ("s", deep, ""),
        ("", {}, ""),
        ("x" * 513, {}, ""),
        (None, {}, ""),
        ("s", {}, 5),
        ("s", {}, b""),
    ]


def test_defect_30_bad_input_is_handled_three_ways(bench: MakeBench, low: MakeLow) -> None:
    """Bad input goes to the tracker's callback, always, and out of low-level calls as an error, always."""
    b = bench()
    atom, transport = low()
    for stream, data, key in bad_calls():
        b.tracker.track(stream, data, key)
        with pytest.raises((TypeError, ValueError)):
            atom.put_event(stream, data, auth_key=key)
        with pytest.raises((TypeError, ValueError)):
            atom.put_events(stream, [data, data], auth_key=key)
    b.tracker.track("s", {"good": 1}, None)
    b.tracker.stop()
    assert [(call[1], call[4]) for call in b.calls] == [(400, stream) for stream, _, _ in bad_calls()]
    assert all(call[2] for call in b.calls)
    assert b.seen() == [{"good": 1}]
    assert transport.requests == []


@pytest.mark.parametrize(
    ("data", "text"), [({}, "{}"), (0, "0"), ("", ""), ([], "[]"), (False, "false"), (None, "null")]
)
def test_defect_31_falsy_data_is_refused(low: MakeLow, data: object, text: str) -> None:
    """Whatever has a JSON form is an event; a batch may be any list of events."""
    atom, transport = low()
    assert atom.put_event("s", data).status == 200
    assert envelope(transport.requests[0])["data"] == text
    assert atom.put_events("s", (data, data)).status == 200
    assert texts(transport.requests[1]) == [data, data]


def test_defect_31_what_cannot_be_sent_is_refused_alike(low: MakeLow) -> None:
    """NaN and other values without a JSON form are refused by both calls, with the same type of error."""
    atom, transport = low()
    for value in (float("nan"), float("inf"), object(), {1, 2}):
        with pytest.raises(ValueError, match="JSON") as one:
            atom.put_event("s", {"v": value})
        with pytest.raises(ValueError, match=r"data\[1\]") as many:
            atom.put_events("s", [{}, {"v": value}])
        assert one.type is many.type
    with pytest.raises(ValueError, match="stream"):
        atom.put_event("", {})
    for empty in ([], ()):
        with pytest.raises(ValueError, match="at least one"):
            atom.put_events("s", empty)
    for no_list in ({"a": 1}, "text", b"text", 5):
        with pytest.raises(TypeError, match="list"):
            atom.put_events("s", no_list)
    assert transport.requests == []


# -- requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "/base", "/base/"])
def test_defect_32_endpoint_must_end_in_a_slash(bench: MakeBench, low: MakeLow, path: str) -> None:
    """An endpoint means the same with and without a trailing slash."""
    endpoint = f"http://127.0.0.1:3000{path}"
    atom, transport = low(endpoint=endpoint)
    atom.put_event("s", {})
    atom.put_events("s", [{}])
    base = path.rstrip("/")
    assert [request.target for request in transport.requests] == [f"{base}/", f"{base}/bulk"]
    b = bench(endpoint=endpoint)
    b.tracker.track("s", {})
    b.tracker.stop()
    assert b.server.requests[0].target == f"{base}/bulk"


def test_defect_33_connections_are_not_used_again(collector: ModelCollector) -> None:
    """Five batches, and five low-level calls, take one connection each."""
    tracker = IronSourceAtomTracker(endpoint=collector.url, auth_key=KEY, batch_size=1, backlog_size=1)
    for i in range(5):
        tracker.track("s", {"id": i})
    tracker.stop()
    assert len(collector.ports) == 5
    assert len(set(collector.ports)) == 1
    collector.ports.clear()
    atom = IronSourceAtom(endpoint=collector.url, auth_key=KEY)
    assert [atom.put_event("s", {"id": i}).status for i in range(5)] == [200] * 5
    assert len(set(collector.ports)) == 1


def test_defect_34_get_has_no_size_check(low: MakeLow) -> None:
    """A GET whose URL would be longer than servers take is refused at the call."""
    atom, transport = low()
    with pytest.raises(EventTooLarge, match="use POST"):
        atom.put_event("s", "x" * 100_000, method="get")
    assert transport.requests == []
    assert atom.put_event("s", "x" * 4000, method="get").status == 200


@pytest.mark.parametrize("method", ["post", "get"])
def test_defect_35_debug_file_leaks_and_raises(low: MakeLow, bench: MakeBench, tmp_path: Path, method: str) -> None:
    """The file is its owner's alone, is valid JSON, and holds neither key nor signature, whatever happens."""
    said = [b'{"Status": "OK", "quote": "\\""}', b'not "json"', b"\xff", b"[NaN]", b"[" * 50_000]
    replies = [Reply(status=200, headers=(("server", "x"),), body=body) for body in said]
    script = [*replies, RequestTimeout("late"), ConnectionFailed("broken")]
    atom, _ = low(script, auth_key=KEY, debug_to_file=True, debug_file_path=str(tmp_path))
    statuses = [atom.put_event("s", {"id": 1}, method=method).status for _ in script]
    assert statuses == [200] * len(replies) + [500, 500]
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("atom-raw.")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    auth = hmac.new(KEY.encode(), b'{"id": 1}', hashlib.sha256).hexdigest()
    assert KEY not in text
    assert auth not in text
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [list(line) for line in lines] == [["request"], ["response"]] * len(script)
    for asked, answered in zip(lines[::2], lines[1::2], strict=True):
        assert asked["request"]["id"] == answered["response"]["id"]
        assert asked["request"]["data"] == {"table": "s", "data": '{"id": 1}'}
    answers = [line["response"] for line in lines[1::2]]
    assert [each["code"] for each in answers] == [200] * len(replies) + [None, None]
    assert answers[0]["body"] == {"Status": "OK", "quote": '"'}
    assert answers[1]["body"] == 'not "json"'
    assert [each["body"] for each in answers[-2:]] == ["late", "broken"]


def test_defect_36_python_3() -> None:
    """Every module of the old package can be imported."""
    for name in (
        "atom_logger", "batch_event_pool", "config", "event", "event_storage", "ironsource_atom",
        "ironsource_atom_tracker", "queue_event_storage", "request", "response",
    ):  # fmt: skip
        importlib.import_module(f"ironsource.atom.{name}")
    assert importlib.import_module("ironsource").__version__


def test_defect_37_thread_count(bench: MakeBench, clock: VirtualClock) -> None:
    """An idle tracker has no threads; a busy one has no more senders than there is work."""
    benches = [bench(batch_worker_count=4) for _ in range(3)]
    assert clock.started == []
    for b in benches:
        b.tracker.track("s", {})
    b.clock.sleep(20)
    assert [len(b.seen()) for b in benches] == [1, 1, 1]
    assert clock.started == ["atom-sender"] * 3
