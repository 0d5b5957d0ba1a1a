"""Transports, callbacks and processes that do what they should not, or what nobody expects."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any
from weakref import WeakSet

import anyio
import pytest

import atom_anyio
import atom_sync
from atom_sansio import BacklogFull, LocalError, Loss, LossReason, Reply, Request, RetryPolicy
from atom_sync import _exit

URL = "http://collector.test/"
OK = Reply(status=200, headers=(), body=b"")
ONCE = RetryPolicy(max_attempts=1)


class Transport:
    """Does *act* with each request."""

    def __init__(self, act: Any) -> None:
        self._act = act

    def send(self, request: Request, *, timeout: float) -> Any:
        return self._act(request)

    def close(self) -> None: ...


class AsyncTransport(Transport):
    async def send(self, request: Request, *, timeout: float) -> Any:
        return self._act(request)

    async def aclose(self) -> None: ...


def leave(request: Request) -> Any:
    raise SystemExit("leaving")


@pytest.mark.parametrize(
    ("act", "words"),
    [(lambda request: None, "gave a NoneType for a Reply"), (leave, "raised SystemExit: leaving")],
)
def test_a_wrong_transport_of_threads(act: Any, words: str) -> None:
    """Whatever a transport gives or raises is a failed request, and its sender lives on."""
    losses: list[Loss] = []
    with atom_sync.Tracker(URL, transport=Transport(act), retry=ONCE, on_loss=losses.append) as tracker:
        for n in range(2):
            tracker.track("s", n)
            assert tracker.flush(10).lost == 1
            tracker.set_auth_key("s", f"key {n}")  # and nothing is left in a state where this would fail
    assert [(loss.reason, words in loss.message) for loss in losses] == [(LossReason.EXPIRED, True)] * 2


@pytest.mark.anyio
async def test_a_wrong_transport_of_tasks() -> None:
    """What is no reply is a failed request, and neither the sender nor the program's own block ends by it."""
    losses: list[Loss] = []

    async def on_loss(loss: Loss) -> None:
        losses.append(loss)

    transport = AsyncTransport(lambda request: None)
    async with atom_anyio.Tracker(URL, transport=transport, retry=ONCE, on_loss=on_loss) as tracker:
        tracker.track_nowait("s", 1)
        assert (await tracker.flush(10)).lost == 1
    assert [loss.message for loss in losses] == ["the transport gave a NoneType for a Reply"]


WRONG: dict[str, Any] = {
    "status": Reply(status="200", headers=(), body=b""),  # type: ignore[arg-type]
    "headers": Reply(status=503, headers={"retry-after": 1}, body=b""),  # type: ignore[arg-type]
    "body": Reply(status=503, headers=(), body=None),  # type: ignore[arg-type]
}


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def badly(what: str, sent: list[Request]) -> Any:
    """An answer for the first request that nobody can read, and 200 for all others."""

    def act(request: Request) -> Any:
        sent.append(request)
        if len(sent) > 1:
            return OK
        if what == "words":
            raise Wordless
        return WRONG[what]

    return act


@pytest.mark.parametrize("what", [*WRONG, "words"])
def test_an_answer_that_nobody_can_read(what: str) -> None:
    """The request is made again, and what comes later is sent, too."""
    sent: list[Request] = []
    retry = RetryPolicy(base=0.01)
    with atom_sync.Tracker(URL, transport=Transport(badly(what, sent)), retry=retry, max_in_flight=1) as tracker:
        tracker.track("s", 1)
        assert tracker.flush(10).delivered == 1
        tracker.track("t", 2)
        assert tracker.flush(10).delivered == 1
    assert len(sent) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("what", [*WRONG, "words"])
async def test_an_answer_that_nobody_can_read_for_tasks(what: str) -> None:
    """The same, and the program's block goes on."""
    sent: list[Request] = []
    retry = RetryPolicy(base=0.01)
    transport = AsyncTransport(badly(what, sent))
    async with atom_anyio.Tracker(URL, transport=transport, retry=retry, max_in_flight=1) as tracker:
        tracker.track_nowait("s", 1)
        assert (await tracker.flush(10)).delivered == 1
        tracker.track_nowait("t", 2)
        assert (await tracker.flush(10)).delivered == 1
    assert len(sent) == 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot tell who has cancelled a task")
def test_a_transport_that_lets_its_own_cancellation_out(caplog: pytest.LogCaptureFixture) -> None:
    """It is closed once, and the block is left as if it had not."""
    closed = []

    class Cancelling(AsyncTransport):
        async def aclose(self) -> None:
            closed.append(1)
            task = asyncio.ensure_future(asyncio.sleep(1000))
            await asyncio.sleep(0)
            task.cancel()
            await task

    async def main() -> None:
        async with atom_anyio.Tracker(URL, transport=Cancelling(lambda request: OK)) as tracker:
            await tracker.track("s", 1)
        assert tracker.statistics().delivered == 1

    asyncio.run(asyncio.wait_for(main(), 10))
    assert closed == [1]
    assert "raised CancelledError when it was closed" in caplog.text


def test_a_transport_that_cannot_be_closed() -> None:
    """One that is interrupted each time it is closed holds the end of the program up for some times, not for ever."""
    closed = []

    class Interrupted(AsyncTransport):
        async def aclose(self) -> None:
            closed.append(1)
            raise KeyboardInterrupt

    async def main() -> None:
        async with atom_anyio.Tracker(URL, transport=Interrupted(lambda request: OK)) as tracker:
            await tracker.track("s", 1)

    with pytest.raises(KeyboardInterrupt):
        anyio.run(main)
    assert 1 < len(closed) < 20


@pytest.mark.anyio
async def test_two_tasks_that_enter_one_tracker(tmp_path: Path) -> None:
    """The second is told, and the first has it."""
    tracker = atom_anyio.Tracker(URL, transport=AsyncTransport(lambda request: OK), backlog=tmp_path / "events.db")
    refused: list[LocalError] = []

    async def enter() -> None:
        try:
            async with tracker:
                await tracker.track("s", 1)
        except LocalError as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        group.start_soon(enter)
    assert [str(error) for error in refused] == ["a tracker is entered once"]
    assert tracker.statistics().delivered == 1


def test_trackers_that_come_and_go_at_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads may make or stop some while all are being stopped; those that were there are."""
    done: list[str] = []

    class Stub:
        def __init__(self) -> None:
            self._core = self._reporter = self._transport = self

        @property
        def _aside(self) -> bool:
            return False

        def __getattribute__(self, name: str) -> Any:  # another one comes whenever one is looked at
            if name == "_core":
                more.append(Stub())
                live.add(more[-1])
            return object.__getattribute__(self, name)

        def _time_after_sending(self) -> float:
            return 0.0

        def _end(self, cut: float) -> None:
            done.append("end")

        def _finish(self, until: float, cut: float, *, at_exit: bool) -> None: ...
        def _close(self) -> None: ...
        def exit(self) -> None: ...
        def wait(self, until: float) -> None: ...
        def give_up(self) -> None: ...
        def close(self) -> None: ...

    live: WeakSet[Any] = WeakSet()
    more: list[Stub] = []
    first = [Stub(), Stub()]
    live.update(first)
    monkeypatch.setattr(_exit, "live", live)
    _exit._stop_all()
    assert done == ["end", "end"]


def test_a_child_of_trackers_one_of_which_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It begins anew with the others all the same."""
    begun = []

    class Stub:
        def __init__(self, error: Exception | None) -> None:
            self.error = error

        def _begin_in_child(self) -> None:
            begun.append(self)
            if self.error is not None:
                raise self.error

    stubs = [Stub(ValueError("mine")), Stub(None), Stub(None)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_exit, "live", stubs)
        _exit.begin_all_in_child()
    assert begun == stubs
    assert "raised ValueError" in caplog.text


def test_a_sender_that_tracks() -> None:
    """A sender for whose event there is no room is told so: waiting for itself it would wait for ever."""
    refused: list[BacklogFull] = []

    def act(request: Request) -> Reply:
        try:
            tracker.track("log", "sending")
        except BacklogFull as error:
            refused.append(error)
        return OK

    with atom_sync.Tracker(URL, transport=Transport(act), max_pending_events=1, max_in_flight=1) as tracker:
        tracker.track("s", 1)
        assert tracker.flush(10).delivered == 1
    assert len(refused) == 1


def test_a_full_budget_is_sent() -> None:
    """Where there is no room though no batch is full, what waits is sent instead of waiting for its time."""
    transport = atom_sync.MemoryTransport()
    with atom_sync.Tracker(URL, transport=transport, max_pending_events=2, flush_interval=3600) as tracker:
        for n in range(7):
            tracker.track("s", n)
    assert transport.events == [("s", n) for n in range(7)]


@pytest.mark.anyio
async def test_a_full_budget_is_sent_by_tasks() -> None:
    """The same, where track is awaited, and where it raises and the program tries again."""
    transport = atom_anyio.MemoryTransport()
    async with atom_anyio.Tracker(URL, transport=transport, max_pending_events=2, flush_interval=3600) as tracker:
        for n in range(5):
            await tracker.track("s", n)
        for n in range(5, 9):
            while True:
                try:
                    tracker.track_nowait("s", n)
                except BacklogFull:
                    await anyio.lowlevel.checkpoint()
                else:
                    break
    assert transport.events == [("s", n) for n in range(9)]


def test_a_refused_key_of_many_streams(caplog: pytest.LogCaptureFixture) -> None:
    """One line says that a key is refused, however many streams it is for."""
    with atom_sync.Tracker(URL, auth_key="canary", transport=atom_sync.MemoryTransport([401] * 50)) as tracker:
        for n in range(50):
            tracker.track(f"s{n}", n)
        tracker.flush(0.1)
        assert tracker.statistics().parked == 50
        with caplog.at_level(logging.CRITICAL):
            tracker.stop(0)
    assert len([record for record in caplog.records if "refuses the key" in record.getMessage()]) == 1
    assert "canary" not in caplog.text


@pytest.mark.parametrize("module", [atom_sync, atom_anyio])
def test_a_tracker_that_fails_to_be_built(module: Any) -> None:
    """A traceback with local variables, for which each needs a repr, shows it and none of the keys."""
    with pytest.raises(TypeError, match="transport") as caught:
        module.Tracker(URL, auth_key="canary", auth_keys={"s": "canary"}, transport=object)
    ours = list(traceback.walk_tb(caught.value.__traceback__))[1:]  # without the test's own frame
    shown = "".join(traceback.StackSummary.extract(iter(ours), capture_locals=True).format())
    assert "Tracker unfinished>" in shown
    assert "canary" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork there")
def test_a_child_of_multiprocessing() -> None:
    """A child that multiprocessing forked, and ends without atexit, delivers what it tracked."""
    program = """
import json, multiprocessing, urllib.request
import atom_sync
from atom_anyio.collector import Collector

with Collector() as url:
    with atom_sync.Tracker(url) as tracker:
        tracker.track("parent", 1)
        child = multiprocessing.get_context("fork").Process(target=tracker.track, args=("child", 2))
        child.start()
        child.join()
    print(child.exitcode, json.load(urllib.request.urlopen(url + "_atom/stats"))["streams"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("0 {'child': 1, 'parent': 1}", "")


def test_a_callback_that_is_too_slow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What waits for a slow callback is bounded; what is over is counted, and said when the callback has caught up."""
    monkeypatch.setattr("atom_sync._reporter.MAX_HELD", 10)
    told: list[Loss] = []
    going, go = threading.Event(), threading.Event()

    def on_loss(loss: Loss) -> None:
        going.set()
        go.wait(30)
        told.append(loss)

    transport = atom_sync.MemoryTransport([400] * 9)
    with atom_sync.Tracker(URL, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
        for _ in range(9):
            tracker.track("s", "12345")
            tracker.flush(10)
            going.wait(30)
        go.set()
    assert tracker.statistics().lost == {LossReason.REJECTED: 9}
    assert len(told) == 1
    assert "it was not told of 8" in caplog.text


@pytest.mark.anyio
async def test_a_callback_of_tasks_that_is_too_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for a coroutine function."""
    monkeypatch.setattr("atom_anyio._reporter.MAX_HELD", 10)
    told: list[Loss] = []
    go = anyio.Event()

    async def on_loss(loss: Loss) -> None:
        await go.wait()
        told.append(loss)

    transport = atom_anyio.MemoryTransport([400] * 9)
    async with atom_anyio.Tracker(URL, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
        for _ in range(9):
            tracker.track_nowait("s", "12345")
            await tracker.flush(10)
        go.set()
    assert len(told) == 1
    assert "it was not told of 8" in caplog.text


def test_a_stop_that_loses_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a stop loses on_loss is told however much it is: no more than that was pending."""
    monkeypatch.setattr("atom_sync._reporter.MAX_HELD", 10)
    told: list[Loss] = []
    transport = atom_sync.MemoryTransport(lambda request: 503)
    with atom_sync.Tracker(URL, transport=transport, on_loss=told.append) as tracker:
        for stream in "ab":
            tracker.track(stream, "more than ten bytes")
        tracker.stop(0.2)
    assert sorted(loss.stream for loss in told) == ["a", "b"]


@pytest.mark.anyio
async def test_a_stop_of_tasks_that_loses_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in tasks."""
    monkeypatch.setattr("atom_anyio._reporter.MAX_HELD", 10)
    told: list[str] = []

    async def on_loss(loss: Loss) -> None:
        told.append(loss.stream)

    transport = atom_anyio.MemoryTransport(lambda request: 503)
    async with atom_anyio.Tracker(URL, transport=transport, on_loss=on_loss) as tracker:
        for stream in "ab":
            tracker.track_nowait(stream, "more than ten bytes")
        await tracker.stop(0.2)
    assert sorted(told) == ["a", "b"]
