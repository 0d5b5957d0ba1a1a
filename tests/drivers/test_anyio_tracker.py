"""What only tasks can do to a tracker: cancellation everywhere, nesting, other threads, signals, a blocked loop."""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import json
import pickle
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing
from test_sync_tracker import CANARY
from virtual import CORE_CALLS, PATIENCE, Guarded, VirtualTimeLoop, interrupting

from atom_anyio import MemoryTransport, Tracker
from atom_anyio._loop import interrupts
from atom_sansio import (
    AuthKey,
    BacklogFull,
    ConnectionFailed,
    EventError,
    FlushResult,
    LocalError,
    Loss,
    LossReason,
    Reply,
    Request,
    RetryPolicy,
    TrackerClosed,
)

ENDPOINT = "http://collector.example/"
Main = Callable[[], Coroutine[Any, Any, Any]]


def loop_is_running() -> bool:
    return asyncio._get_running_loop() is not None or trio.lowlevel.in_trio_run()


@pytest.fixture(autouse=True)
def _nothing_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would block the loop's thread fails instead."""

    def forbid(owner: Any, name: str, blocks: Callable[..., bool] = lambda *args: True) -> None:
        original = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            assert not (loop_is_running() and blocks(*args)), f"{name}() blocks the loop"
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    forbid(time, "sleep")
    forbid(threading.Condition, "wait", lambda *args: sys._getframe(3).f_code is not threading.Thread.start.__code__)
    forbid(threading.Thread, "join")
    forbid(builtins, "open")
    forbid(socket, "getaddrinfo")
    for name in ("connect", "accept", "recv", "send", "sendall"):
        forbid(socket.socket, name, lambda sock, *args: sock.gettimeout() != 0)


VIRTUAL: dict[str, Callable[[], dict[str, Any]]] = {
    "asyncio": lambda: {"loop_factory": VirtualTimeLoop},
    "trio": lambda: {"clock": trio.testing.MockClock(autojump_threshold=0)},
}
REAL: dict[str, dict[str, Any]] = {"asyncio": {"use_uvloop": False}, "trio": {}}
if importlib.util.find_spec("uvloop") is not None:
    REAL["uvloop"] = {"use_uvloop": True}


@pytest.fixture(params=REAL)
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Runs a coroutine function on one of the backends."""
    return partial(run_on, request.param, REAL[request.param], patience=PATIENCE)


@pytest.fixture(params=VIRTUAL)
def run_virtually(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Runs a coroutine function on one of the backends, on virtual time that begins anew each time."""
    return lambda main: run_on(request.param, VIRTUAL[request.param](), main, patience=1e6)


def run_on(backend: str, options: dict[str, Any], main: Main, *, patience: float) -> Any:
    async def guarded() -> Any:
        with anyio.fail_after(patience):
            return await main()

    return anyio.run(guarded, backend="trio" if backend == "trio" else "asyncio", backend_options=options)


class Slow(MemoryTransport):
    """Answers after *latency* seconds, or not in time."""

    def __init__(self, latency: float = 1.0, answer: Any = None) -> None:
        super().__init__(answer)
        self.latency = latency

    async def send(self, request: Request, *, timeout: float) -> Reply:
        await anyio.sleep(self.latency)
        return await super().send(request, timeout=timeout)


class Nursery:
    """A transport with tasks of its own, in which *inner* sends."""

    def __init__(self, inner: MemoryTransport) -> None:
        self._inner = inner

    async def send(self, request: Request, *, timeout: float) -> Reply:
        replies = []

        async def send() -> None:
            replies.append(await self._inner.send(request, timeout=timeout))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
        return replies[0]

    async def aclose(self) -> None:
        await self._inner.aclose()


def check(tracker: Tracker, transport: MemoryTransport, accepted: int, *, lost: int = 0) -> None:
    """The tracker is stopped, each event that it accepted has its outcome, and no task is left."""
    statistics = tracker.statistics()
    assert statistics.accepted == accepted
    assert statistics.delivered == accepted - lost
    assert sum(statistics.lost.values()) == lost
    assert statistics.pending == statistics.pending_bytes == statistics.lanes == 0
    assert len(transport.events) >= statistics.delivered
    assert (tracker._senders, len(tracker._idle), tracker._scopes) == (0, 0, set())


@types.coroutine
def cancelling(n: int, scope: anyio.CancelScope, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, int]:
    """Run *work*, but cancel *scope* when it waits for the n-th time; returns how often it did."""
    waits = 0
    error: BaseException | None = None
    value = None
    while True:
        try:
            trap = work.send(value) if error is None else work.throw(error)
        except StopIteration:
            return waits
        waits += 1
        if waits == n:
            scope.cancel()
        value = error = None
        try:
            value = yield trap
        except BaseException as caught:
            error = caught


async def cancel_at(n: int, work: Coroutine[Any, Any, Any]) -> tuple[bool, bool]:
    """Whether *work*, cancelled at its n-th wait, came to its end, and whether it waits so often at all."""
    waits = n
    with anyio.CancelScope() as scope:
        waits = await cancelling(n, scope, work)
    return not scope.cancelled_caught, waits >= n


class TestCancellation:
    @pytest.mark.parametrize("full", [False, True])
    def test_track(self, run_virtually: Any, full: bool) -> None:
        """A cancelled track() accepted nothing; one that came to its end did, cancelled or not."""

        async def main(n: int) -> bool:
            transport = Slow()
            options = {"max_pending_events": 1, "max_batch_events": 1} if full else {}
            async with Tracker(ENDPOINT, transport=transport, **options) as tracker:
                await tracker.track("a", 1)
                ended, often = await cancel_at(n, tracker.track("a", 2))
                await tracker.track("a", 3)
            check(tracker, transport, 2 + ended)
            assert [event for _, event in transport.events] == [1, 2, 3][:: 1 if ended else 2]
            return often

        n = 1
        while run_virtually(lambda: main(n)):  # noqa: B023 - called at once
            n += 1
        assert n > 1

    @pytest.mark.parametrize("full", [False, True])
    def test_task_cancel(self, full: bool) -> None:
        """asyncio's own task.cancel() of a track() is raised, and then nothing was accepted, or comes too late."""

        async def main(turns: int) -> bool:
            transport = Slow(0.0)
            options = {"max_pending_events": 1, "max_batch_events": 1} if full else {}
            async with Tracker(ENDPOINT, transport=transport, **options) as tracker:
                await tracker.track("a", 1)
                task = asyncio.ensure_future(tracker.track("a", 2))
                for _ in range(turns):
                    await asyncio.sleep(0)
                cancelled = task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() == cancelled
            check(tracker, transport, 2 - cancelled)
            return cancelled

        turns = 0
        while run_on("asyncio", VIRTUAL["asyncio"](), partial(main, turns), patience=1e6):
            turns += 1
        assert turns > 1

    def test_already_cancelled(self, run: Any) -> None:
        """In a scope that was cancelled before, track() accepts nothing."""

        async def main() -> None:
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport) as tracker:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await tracker.track("a", 1)
                assert scope.cancelled_caught
            check(tracker, transport, 0)

        run(main)

    @pytest.mark.parametrize("latency", [0.0, 1.0, 1e9])
    @pytest.mark.parametrize("method", ["flush", "stop"])
    def test_flush_and_stop(self, run_virtually: Any, method: str, latency: float) -> None:
        """A cancelled flush() or stop() loses nothing: leaving the context still does its work."""

        async def main(n: int) -> bool:
            transport = Slow(latency)
            losses: list[Loss] = []

            async def on_loss(loss: Loss) -> None:
                await anyio.lowlevel.checkpoint()
                losses.append(loss)

            async with Tracker(ENDPOINT, transport=transport, on_loss=on_loss) as tracker:
                await tracker.track("a", 1)
                await tracker.track("b", 2)
                _, often = await cancel_at(n, getattr(tracker, method)())
                if method == "flush":
                    await tracker.track("a", 3)
            lost = 0 if latency < 5 else 2 + (method == "flush")
            check(tracker, transport, 2 + (method == "flush"), lost=lost)
            assert sum(loss.count for loss in losses) == lost
            return often

        n = 1
        while run_virtually(lambda: main(n)):  # noqa: B023
            n += 1
        assert n > 1

    @pytest.mark.parametrize("latency", [0.0, 1.0, 1e9])
    def test_whole_program(self, run_virtually: Any, latency: float) -> None:
        """Wherever a program is cancelled, what it tracked is confirmed, or reported if that takes too long."""

        async def main(n: int) -> bool:
            transport = Slow(latency)
            losses: list[Loss] = []
            tracked = []

            async def on_loss(loss: Loss) -> None:
                await anyio.sleep(0.01)
                losses.append(loss)

            tracker = Tracker(ENDPOINT, transport=transport, on_loss=on_loss, max_batch_events=2)

            async def program() -> None:
                async with tracker:
                    for i in range(5):
                        await tracker.track("ab"[i % 2], i)
                        tracked.append(i)
                    await anyio.sleep(0.5)
                    await tracker.flush(1)
                    await tracker.stop(7)

            before = living_tasks()
            _, often = await cancel_at(n, program())
            assert living_tasks() == before
            lost = 0 if latency < 5 else len(tracked)
            assert sum(loss.count for loss in losses) == lost
            check(tracker, transport, len(tracked), lost=lost)
            return often

        n = 1
        while run_virtually(lambda: main(n)):  # noqa: B023
            n += 1
        assert n > 5

    def test_stop_is_bounded(self, run_virtually: Any) -> None:
        """A cancelled program leaves within five seconds, though a request hangs and a callback blocks."""

        async def main() -> None:
            async def on_loss(loss: Loss) -> None:
                losses.append(loss)
                await anyio.sleep_forever()

            losses: list[Loss] = []
            transport = Slow(1e9)
            with anyio.CancelScope() as scope:
                async with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
                    await tracker.track("a", 1)
                    await tracker.track("b", 2)
                    await anyio.sleep(1)
                    scope.cancel()
                    await anyio.sleep_forever()
            assert anyio.current_time() - start == pytest.approx(6.0)
            check(tracker, transport, 2, lost=2)
            assert [loss.message for loss in losses] == ["sent, but not confirmed when the tracker stopped"]

        async def timed() -> None:
            nonlocal start
            start = anyio.current_time()
            await main()

        start = 0.0
        run_virtually(timed)


class TestCutShort:
    """What becomes of a tracker whose leaving is itself interrupted."""

    @pytest.mark.parametrize("all_tasks", [False, True])
    @pytest.mark.parametrize("times", [2, 3, 4])
    def test_task_cancel(self, times: int, all_tasks: bool) -> None:
        """However often asyncio's own cancel() comes, of one task or of all, losses are told and no task is left."""

        async def main(pause: float) -> None:
            closed = []
            losses: list[Loss] = []

            class Closing(Slow):
                async def aclose(self) -> None:
                    await anyio.sleep(0.1)
                    closed.append(True)

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            async def program() -> None:
                async with tracker:
                    await tracker.track("a", 1)
                    await anyio.sleep_forever()

            before = asyncio.all_tasks()
            transport = Closing(1e9)
            tracker = Tracker(ENDPOINT, transport=transport, on_loss=on_loss, max_batch_events=1)
            task = asyncio.ensure_future(program())
            await asyncio.sleep(0.5)
            for _ in range(times):
                for each in asyncio.all_tasks() - before if all_tasks else {task}:
                    each.cancel()
                await asyncio.sleep(pause)
            await asyncio.wait([task], timeout=3)
            assert task.cancelled()
            assert asyncio.all_tasks() == before
            check(tracker, transport, 1, lost=1)
            assert [loss.reason for loss in losses] == [LossReason.STOPPED]
            assert closed

        for pause in (0.001, 0.05):
            run_on("asyncio", VIRTUAL["asyncio"](), partial(main, pause), patience=1e6)

    def test_exception(self, run_virtually: Any) -> None:
        """A second Ctrl-C, say, passes as it is; before that losses are told, and no task is left."""

        class Interrupt(BaseException):
            pass

        class Interrupted(Tracker):
            async def stop(self, timeout: float = 5.0) -> FlushResult:
                with anyio.move_on_after(0.5):
                    await super().stop(timeout)
                raise Interrupt

        async def main() -> None:
            losses: list[Loss] = []

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            async def program() -> None:
                async with tracker:
                    await tracker.track("a", 1)

            before = living_tasks()
            transport = Slow(1e9)
            tracker = Interrupted(ENDPOINT, transport=transport, on_loss=on_loss)
            with pytest.raises(Interrupt):
                await program()
            assert living_tasks() == before
            check(tracker, transport, 1, lost=1)
            assert [loss.reason for loss in losses] == [LossReason.STOPPED]

        run_virtually(main)

    def test_ctrl_c_in_a_sender(self) -> None:
        """Ctrl-C, which trio has raised in whatever task runs just then, ends the program; its batch goes again."""

        class Interrupted(MemoryTransport):
            async def send(self, request: Request, *, timeout: float) -> Reply:
                if not sent:
                    sent.append(request)
                    raise KeyboardInterrupt
                return await super().send(request, timeout=timeout)

        async def main() -> None:
            async with tracker:
                await tracker.track("a", 1)
                await anyio.sleep_forever()

        for nursery in (False, True):
            sent: list[Request] = []
            transport = Interrupted()
            options: Any = {"max_batch_events": 1, "retry": RetryPolicy(base=0.1, cap=0.1)}
            tracker = Tracker(ENDPOINT, transport=Nursery(transport) if nursery else transport, **options)
            with pytest.raises(BaseException, match="nursery") as raised:
                run_on("trio", VIRTUAL["trio"](), main, patience=1e6)
            assert interrupts(raised.value, None)
            check(tracker, transport, 1)

    @pytest.mark.parametrize("stops", [False, True])
    def test_transport_that_does_not_close(
        self, run_virtually: Any, caplog: pytest.LogCaptureFixture, stops: bool
    ) -> None:
        """What a transport raises when it is closed is logged: stop() still says what became of the events."""

        class Faulty(MemoryTransport):
            async def aclose(self) -> None:
                raise OSError("a bug in a user's transport")

        async def main() -> None:
            async def program() -> None:
                async with tracker:
                    await tracker.track("a", 1)
                    if stops:
                        assert await tracker.stop() == FlushResult(delivered=1, lost=0, pending=0)

            before = living_tasks()
            transport = Faulty()
            tracker = Tracker(ENDPOINT, transport=transport)
            await program()
            assert living_tasks() == before
            check(tracker, transport, 1)

        run_virtually(main)
        words = [record.getMessage() for record in caplog.records]
        assert words == ["the transport raised OSError when it was closed"] * (1 + stops)

    @pytest.mark.parametrize("timeout", [0, 0.2, 5])
    def test_transport_that_hangs_when_it_is_closed(self, run_virtually: Any, timeout: float) -> None:
        """It has the time that is left, and a second at least."""

        class Hanging(MemoryTransport):
            async def aclose(self) -> None:
                await anyio.sleep_forever()

        async def main() -> None:
            async with Tracker(ENDPOINT, transport=Hanging()) as tracker:
                start = anyio.current_time()
                await tracker.track("a", 1)
                await tracker.flush()
                await tracker.stop(timeout)
                assert anyio.current_time() - start == pytest.approx(max(1, timeout))
            assert anyio.current_time() - start == pytest.approx(max(1, timeout) + 5)
            assert tracker.statistics().delivered == 1

        run_virtually(main)

    def test_all_other_tasks(self) -> None:
        """A program that cancels all tasks but its own goes on, and so does its tracker."""

        async def main(delay: float) -> None:
            transport = Slow(1.0)
            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1) as tracker:
                await tracker.track("a", 1)
                await asyncio.sleep(delay)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await asyncio.sleep(0.1)
                await tracker.track("a", 2)
                await asyncio.sleep(60)
                assert [event for _, event in transport.events] == [1, 2]
            check(tracker, transport, 2)

        for delay in (0.01, 0.5, 2):
            run_on("asyncio", VIRTUAL["asyncio"](), partial(main, delay), patience=1e6)

    def test_all_other_tasks_at_once(self) -> None:
        """So does one that does it as soon as it has entered the tracker."""

        async def main() -> None:
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport) as tracker:
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await tracker.track("a", 1)
                assert (await tracker.flush()).delivered == 1
            check(tracker, transport, 1)

        run_on("asyncio", VIRTUAL["asyncio"](), main, patience=1e6)

    def test_task_cancel_while_entering(self) -> None:
        """Whenever asyncio's own cancel() comes while a tracker is entered, it leaves no task."""

        async def main(waits: int) -> bool:
            async def program() -> None:
                async with tracker:
                    entered.append(True)
                    await anyio.sleep_forever()

            entered: list[bool] = []
            closed: list[bool] = []
            before = asyncio.all_tasks()

            class Closing(MemoryTransport):
                async def aclose(self) -> None:
                    closed.append(True)

            tracker = Tracker(ENDPOINT, transport=Closing())
            task = asyncio.ensure_future(program())
            for _ in range(waits):
                await asyncio.sleep(0)
            begun = tracker._core is not None
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert asyncio.all_tasks() == before
            assert bool(closed) == begun
            return bool(entered)

        waits = 0
        while not run_on("asyncio", VIRTUAL["asyncio"](), partial(main, waits), patience=1e6):
            waits += 1
        assert waits > 1


def living_tasks() -> int:
    """How many tasks there are."""
    if trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


class TestLife:
    def test_exception(self, run: Any) -> None:
        """An exception that leaves the context stops the tracker and passes as it is."""

        async def main() -> None:
            transport = MemoryTransport()
            tracker = Tracker(ENDPOINT, transport=transport)

            async def program() -> None:
                async with tracker:
                    await tracker.track("a", 1)
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await program()
            check(tracker, transport, 1)

        run(main)

    def test_timeout_around(self, run_virtually: Any) -> None:
        """A timeout around the tracker is a timeout still."""

        async def main() -> None:
            transport = Slow()
            tracker = Tracker(ENDPOINT, transport=transport)

            async def program() -> None:
                with anyio.fail_after(10):
                    async with tracker:
                        await tracker.track("a", 1)
                        await anyio.sleep_forever()

            with pytest.raises(TimeoutError):
                await program()
            check(tracker, transport, 1)

        run_virtually(main)

    def test_nested(self, run: Any) -> None:
        """Trackers nest, in one task or in several."""

        async def main() -> None:
            transports = [MemoryTransport() for _ in range(3)]

            async def work() -> None:
                async with Tracker(ENDPOINT, transport=transports[2]) as inmost:
                    await inmost.track("c", 3)
                    await outer.track("a", 4)

            async with Tracker(ENDPOINT, transport=transports[0]) as outer:
                async with Tracker(ENDPOINT, transport=transports[1]) as inner, anyio.create_task_group() as group:
                    group.start_soon(work)
                    await inner.track("b", 2)
                    await outer.track("a", 1)
                await outer.track("a", 5)
            assert sorted(event for _, event in transports[0].events) == [1, 4, 5]
            assert [transport.events for transport in transports[1:]] == [[("b", 2)], [("c", 3)]]

        run(main)

    def test_once(self, run: Any) -> None:
        """A tracker is entered before it is used, and once."""

        async def main() -> None:
            tracker = Tracker(ENDPOINT, transport=MemoryTransport())
            assert repr(tracker) == "<atom_anyio._tracker.Tracker new http://collector.example/>"
            with pytest.raises(LocalError, match="async with"):
                tracker.track_nowait("a", 1)
            with pytest.raises(LocalError, match="async with"):
                tracker.statistics()
            with pytest.raises(LocalError, match="async with"):
                tracker.set_auth_key("a", "k")
            for call in (lambda: tracker.track("a", 1), tracker.flush, tracker.stop):
                with pytest.raises(LocalError, match="async with"):
                    await call()
            async with tracker:
                with pytest.raises(LocalError, match="once"):
                    await tracker.__aenter__()
                await tracker.track("a", 1)
                assert await tracker.flush() == FlushResult(delivered=1, lost=0, pending=0)
                assert "open" in repr(tracker)
            with pytest.raises(LocalError, match="once"):
                await tracker.__aenter__()

        run(main)

    def test_no_loop(self) -> None:
        """Outside of any event loop it cannot be entered."""
        with pytest.raises(RuntimeError):
            Tracker(ENDPOINT).__aenter__().send(None)

    def test_after_stop(self, run: Any) -> None:
        """A stopped tracker takes nothing, and its other methods are harmless."""

        async def main() -> None:
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport) as tracker:
                await tracker.track("a", 1)
                assert await tracker.stop()
                with pytest.raises(TrackerClosed):
                    await tracker.track("a", 2)
                await tracker.stop()
            with pytest.raises(TrackerClosed):
                tracker.track_nowait("a", 3)
            nothing = FlushResult(delivered=0, lost=0, pending=0)
            assert await tracker.flush() == await tracker.stop(0) == nothing
            tracker.set_auth_key("a", "k")
            assert "closed" in repr(tracker)
            check(tracker, transport, 1)

        run(main)

    @pytest.mark.parametrize("call", ["track", "track_nowait"])
    def test_most_events_need_no_decision(self, run: Any, call: str) -> None:
        """They are appended where they are."""

        class Deciding(Tracker):
            decisions = 0

            def _decide(self, *args: Any, **kwargs: Any) -> Any:
                self.decisions += 1
                return super()._decide(*args, **kwargs)

        async def main() -> None:
            async with Deciding(ENDPOINT, transport=MemoryTransport()) as tracker:
                for _ in range(100):
                    if call == "track":
                        await tracker.track("s", 1)
                    else:
                        tracker.track_nowait("s", 1)
                assert 1 <= tracker.decisions <= 3

        run(main)

    def test_tasks_are_few(self, run_virtually: Any) -> None:
        """However much there is to send and to wait for, there are max_in_flight tasks at most."""

        class Counting(Slow):
            async def send(self, request: Request, *, timeout: float) -> Reply:
                await anyio.lowlevel.checkpoint()
                counts.append((living_tasks() - before, tracker.statistics().in_flight))
                return await super().send(request, timeout=timeout)

        async def main() -> None:
            nonlocal before, tracker
            before = living_tasks()
            transport = Counting()
            async with Tracker(ENDPOINT, transport=transport, max_in_flight=3, max_batch_events=2) as tracker:
                await tracker.track("later", 1)  # there is a timer too, after which somebody must look
                for stream in "abcdefgh":
                    await tracker.track(stream, 1)
                    await tracker.track(stream, 2)
                await anyio.sleep(20)
            check(tracker, transport, 17)
            assert max(counts) == (3, 3)

        before = 0
        tracker: Tracker
        counts: list[tuple[int, int]] = []
        run_virtually(main)

    def test_stop_in_many_tasks(self, run_virtually: Any) -> None:
        """Tasks that stop the tracker at once all hear what became of the events."""

        async def main() -> None:
            results = []
            transport = Slow(1.0, [200, 400])

            async def stop() -> None:
                results.append(await tracker.stop())

            async with Tracker(ENDPOINT, transport=transport) as tracker:
                await tracker.track("a", 1)
                await tracker.track("b", 2)
                async with anyio.create_task_group() as group:
                    for _ in range(3):
                        group.start_soon(stop)
            assert results == [FlushResult(delivered=1, lost=1, pending=0)] * 3
            check(tracker, transport, 2, lost=1)

        run_virtually(main)

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
    def test_bad_timeout(self, run: Any, method: str, timeout: Any, error: type[Exception]) -> None:
        """A timeout that is none is refused, and nothing has been done."""

        async def main() -> None:
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport) as tracker:
                with pytest.raises(error, match=r"^timeout must be "):
                    await getattr(tracker, method)(timeout)
                await tracker.track("a", 1)
            check(tracker, transport, 1)

        run(main)

    def test_bad_arguments(self, run: Any) -> None:
        """What track() refuses changes nothing and harms no other event."""

        async def main() -> None:
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport) as tracker:
                await tracker.track("a", 1)
                for stream, event, key, error in [
                    ("a", float("nan"), None, EventError),
                    ("a", object(), None, EventError),
                    ("", 1, None, ValueError),
                    (1, 1, None, TypeError),
                    ("a", 1, 1, TypeError),
                    ("a", 1, "", ValueError),
                ]:
                    arguments: Any = (stream, event)
                    with pytest.raises(error):
                        tracker.track_nowait(*arguments, auth_key=key)  # type: ignore[arg-type]  # the point
                    with pytest.raises(error):
                        await tracker.track(*arguments, auth_key=key)  # type: ignore[arg-type]  # the point
            check(tracker, transport, 1)

        run(main)

    def test_no_room(self, run_virtually: Any) -> None:
        """track_nowait() raises where track() waits, and so does track() when told to."""

        async def main() -> None:
            for on_full in ("block", "raise"):
                transport = Slow()
                async with Tracker(ENDPOINT, transport=transport, max_pending_events=1, on_full=on_full) as tracker:
                    await tracker.track("a", 1)
                    with pytest.raises(BacklogFull):
                        tracker.track_nowait("a", 2)
                    if on_full == "raise":
                        await expect_backlog_full(tracker)
                check(tracker, transport, 1)

        async def expect_backlog_full(tracker: Tracker) -> None:
            with pytest.raises(BacklogFull):
                await tracker.track("a", 2)

        run_virtually(main)

    def test_environment(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Options are taken from the environment, and arguments win."""
        monkeypatch.setenv("ATOM_ENDPOINT", ENDPOINT)
        monkeypatch.setenv("ATOM_AUTH_KEY", CANARY)
        monkeypatch.setenv("ATOM_MAX_BATCH_EVENTS", "2")
        monkeypatch.setenv("ATOM_TRANSPORT", "atom_anyio:MemoryTransport")

        async def main() -> None:
            async with Tracker(max_batch_events=1) as tracker:
                await tracker.track("a", 1)
                assert await tracker.flush()
                transport = tracker._transport
            assert isinstance(transport, MemoryTransport)
            assert json.loads(transport.requests[0].body)["auth"] == AuthKey(CANARY).sign(b"[1]")

        run(main)

    def test_keys_do_not_show(self, run_virtually: Any, caplog: pytest.LogCaptureFixture) -> None:
        """No key is in a repr or a log, and a tracker cannot be pickled."""

        async def main() -> str:
            async with Tracker(
                ENDPOINT, auth_key=CANARY, auth_keys={"b": CANARY}, transport=transport, max_batch_events=1
            ) as tracker:
                await tracker.track("a", 1)
                await tracker.track("b", 1, auth_key=CANARY)
                await tracker.flush(1)
                with pytest.raises(TypeError):
                    pickle.dumps(tracker)
                tracker.set_auth_key("a", "another")
                assert await tracker.flush()
                return repr(tracker) + repr(tracker.statistics()) + repr(tracker._options)

        transport = MemoryTransport([401, 400])
        assert CANARY not in run_virtually(main) + caplog.text + repr(caplog.records)
        assert "refuses the key" in caplog.text
        assert CANARY.encode() not in b"".join(request.body for request in transport.requests)

    def test_transport_may_be_made(self, run_virtually: Any) -> None:
        """The option ``transport`` is an instance or a class, and an error of its own is a failed request."""

        class Faulty(MemoryTransport):
            raised = 0

            async def send(self, request: Request, *, timeout: float) -> Reply:
                if not self.raised:
                    self.raised += 1
                    raise KeyError("a bug in a user's transport")
                return await super().send(request, timeout=timeout)

        async def main() -> None:
            async with Tracker(ENDPOINT, transport=Faulty, retry=RetryPolicy(base=1, cap=1)) as tracker:
                await tracker.track("a", 1)
                assert await tracker.flush()
                assert tracker.statistics().failures == 1

        run_virtually(main)


class TestOtherThreads:
    def test_many(self, run: Any) -> None:
        """Threads that track at the same time lose nothing, and each finds its own order again."""

        async def main() -> None:
            def work(me: int) -> None:
                for i in range(200):
                    tracker.track_nowait(f"s{i % 3}", [me, i])

            tracker = Tracker(ENDPOINT, transport=transport, max_batch_events=7)
            async with tracker, anyio.create_task_group() as group:
                for me in range(4):
                    group.start_soon(anyio.to_thread.run_sync, work, me)
            check(tracker, transport, 800)
            for me in range(4):
                for rest in range(3):
                    mine = [event[1] for stream, event in transport.events if (stream, event[0]) == (f"s{rest}", me)]
                    assert mine == [i for i in range(200) if i % 3 == rest]

        transport: Any = MemoryTransport()
        run(main)

    def test_core_is_locked(self, run_virtually: Any) -> None:
        """No call reaches the core without the lock: it is not thread-safe by itself."""

        class Hanging(MemoryTransport):
            async def send(self, request: Request, *, timeout: float) -> Reply:
                if b'"hang"' in request.body:
                    await anyio.sleep(timeout)
                return await super().send(request, timeout=timeout)

        async def main() -> None:
            transport = Hanging([ConnectionFailed("gone"), 500, 401, 400])
            tracker = Tracker(ENDPOINT, transport=transport, max_batch_events=1)
            async with tracker:
                core: Any = Guarded(tracker._core, tracker._lock)
                tracker._core = core
                for event in range(3):
                    await tracker.track("a", event)
                await tracker.flush(60)
                tracker.set_auth_key("a", "k")
                assert (await tracker.flush()).lost == 1
                tracker.track_nowait("hang", 1)
                assert (await tracker.stop()).lost == 1
                assert tracker.statistics().delivered == 2
            assert core.calls == CORE_CALLS

        run_virtually(main)

    def test_wakes_the_loop(self, run: Any) -> None:
        """An event from another thread is sent though the loop was asleep."""

        class Telling(MemoryTransport):
            async def send(self, request: Request, *, timeout: float) -> Reply:
                sent.set()
                return await super().send(request, timeout=timeout)

        async def main() -> None:
            nonlocal sent
            sent = anyio.Event()
            async with Tracker(ENDPOINT, transport=Telling(), max_batch_events=1) as tracker:
                await anyio.lowlevel.checkpoint()
                thread = threading.Thread(target=tracker.track_nowait, args=("a", 1))
                thread.start()
                await sent.wait()
            await anyio.to_thread.run_sync(thread.join)

        sent: anyio.Event
        run(main)

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
    def test_signal_handler_wakes_the_loop(self, run: Any) -> None:
        """An event from a signal handler, too."""

        class Telling(MemoryTransport):
            async def send(self, request: Request, *, timeout: float) -> Reply:
                sent.set()
                return await super().send(request, timeout=timeout)

        async def main() -> None:
            nonlocal sent
            sent = anyio.Event()
            async with Tracker(ENDPOINT, transport=Telling(), max_batch_events=1) as tracker:
                previous = signal.signal(signal.SIGALRM, lambda signum, frame: tracker.track_nowait("a", signum))
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.01)
                    await sent.wait()
                finally:
                    signal.signal(signal.SIGALRM, previous)

        sent: anyio.Event
        run(main)

    CALLS: ClassVar[dict[str, Callable[[Tracker], object]]] = {
        "track_nowait": lambda tracker: tracker.track_nowait("a", 2),
        "track": lambda tracker: tracker.track("a", 2),
        "statistics": lambda tracker: tracker.statistics(),
        "set_auth_key": lambda tracker: tracker.set_auth_key("a", "key"),
        "flush": lambda tracker: tracker.flush(0),
        "stop": lambda tracker: tracker.stop(),
    }

    @pytest.mark.parametrize("call", CALLS)
    def test_interrupting(self, run_virtually: Any, call: str) -> None:
        """A handler or finaliser may track wherever it interrupts: the event is sent in time, the ledger adds up."""

        async def main(n: int) -> bool:
            transport = MemoryTransport()
            accepted = []

            def interrupt() -> None:
                try:
                    for i in range(2):
                        tracker.track_nowait("b", i)
                        accepted.append(i)
                except TrackerClosed:
                    pass

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            async with Tracker(ENDPOINT, transport=transport, max_batch_events=2, on_loss=on_loss) as tracker:
                tracker.track_nowait("a", 1)
                with interrupting(n, interrupt, package="atom_anyio") as count:
                    returned: Any = self.CALLS[call](tracker)
                    if isinstance(returned, Coroutine):
                        await returned
                    await anyio.sleep(0.5)
                if call == "statistics":
                    assert returned.accepted == returned.pending + returned.delivered + sum(returned.lost.values())
                if call != "stop" and accepted:
                    assert [event for stream, event in transport.events if stream == "b"] == accepted
            check(tracker, transport, 1 + (call in ("track", "track_nowait")) + len(accepted), lost=len(losses))
            return count() >= n

        n = 1 + (list(self.CALLS).index(call) + sys.version_info[1]) % 5  # not the same with each Python
        losses: list[Loss] = []
        while run_virtually(lambda: main(n)):  # noqa: B023
            n += 5  # there are some 600 points, each in many of these tests
            losses.clear()


class TestReports:
    def test_plain_callback_may_block(self, run: Any) -> None:
        """A plain function is called in a thread: one that blocks delays later reports and nothing else."""

        async def main() -> None:
            release = threading.Event()
            called = anyio.Event()
            told = []

            def on_loss(loss: Loss) -> None:
                told.append((loss.events, threading.current_thread() is threading.main_thread()))
                anyio.from_thread.run_sync(called.set)
                assert release.wait(PATIENCE)

            transport = MemoryTransport([400, 400])
            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
                for i in range(3):
                    await tracker.track("a", i)
                await called.wait()
                assert (await tracker.flush()).pending == 0
                assert told == [((0,), False)]
                release.set()
            assert told == [((0,), False), ((1,), False)]
            check(tracker, transport, 3, lost=2)

        run(main)

    def test_plain_callback_needs_no_thread_of_others(self, run: Any) -> None:
        """It is called though all threads that others share are taken."""

        async def main() -> None:
            called = anyio.Event()
            limiter = anyio.to_thread.current_default_thread_limiter()
            for _ in range(int(limiter.total_tokens)):
                limiter.acquire_on_behalf_of_nowait(object())

            def on_loss(loss: Loss) -> None:
                anyio.from_thread.run_sync(called.set)

            transport = MemoryTransport([400])
            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
                await tracker.track("a", 1)
                with anyio.move_on_after(PATIENCE / 10):
                    await called.wait()
                assert called.is_set()

        run(main)

    def test_stop_does_not_wait_for_it(self, run: Any) -> None:
        """Stopping leaves a callback behind that does not come to its end in time."""

        async def main() -> None:
            release = threading.Event()
            transport = MemoryTransport([400])
            called = anyio.Event()

            def on_loss(loss: Loss) -> None:
                anyio.from_thread.run_sync(called.set)
                assert release.wait(PATIENCE)

            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
                await tracker.track("a", 1)
                await called.wait()
                await tracker.stop(0.01)
            check(tracker, transport, 1, lost=1)
            release.set()

        run(main)

    def test_callback_that_raises(self, run: Any, caplog: pytest.LogCaptureFixture) -> None:
        """What a callback raises is logged, once for each type, and later losses are still told."""
        told = []

        async def on_loss(loss: Loss) -> None:
            told.append(loss.events)
            raise next(errors)

        def plain(loss: Loss) -> None:
            told.append(loss.events)
            raise next(errors)

        async def main(callback: Any) -> None:
            transport = MemoryTransport([400] * 3)
            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=callback) as tracker:
                for i in range(3):
                    await tracker.track("a", i)
            check(tracker, transport, 3, lost=3)

        for callback in (on_loss, plain):
            errors = iter([ValueError("first"), ValueError("second"), KeyError("third")])
            caplog.clear()
            told.clear()
            run(partial(main, callback))
            assert told == [(0,), (1,), (2,)]
            messages = [record.message for record in caplog.records]
            assert messages == ["on_loss raised ValueError", "on_loss raised KeyError"]

    def test_logged_once_per_cause(self, run: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Without on_loss the first loss of each cause is logged."""

        async def main() -> None:
            transport = MemoryTransport([400, 400, 404])
            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1) as tracker:
                for i in range(4):
                    await tracker.track("a", i)
            check(tracker, transport, 4, lost=3)

        run(main)
        assert [(record.name, record.message.split(";")[0]) for record in caplog.records] == [
            ("atom", "1 event of stream 'a' is lost (rejected, status 400): status 400"),
            ("atom", "1 event of stream 'a' is lost (rejected, status 404): status 404"),
        ]

    def test_callback_that_stops(self, run_virtually: Any) -> None:
        """A callback may stop the tracker it is called by, and which does not wait for it then."""

        async def main() -> None:
            async def on_loss(loss: Loss) -> None:
                if not told:
                    start = anyio.current_time()
                    results.append(await tracker.stop())
                    assert anyio.current_time() == start
                    assert transport.closed
                told.append(loss.reason)

            class Closing(MemoryTransport):
                closed = False

                async def aclose(self) -> None:
                    await anyio.lowlevel.checkpoint()
                    self.closed = True

            results: list[FlushResult] = []
            told: list[LossReason] = []
            transport = Closing([400])
            async with Tracker(ENDPOINT, transport=transport, max_batch_events=1, on_loss=on_loss) as tracker:
                await tracker.track("a", 1)
                await anyio.sleep(10)
                assert results == [FlushResult(delivered=0, lost=0, pending=0)]
            check(tracker, transport, 1, lost=1)
            assert told == [LossReason.REJECTED]
            assert tracker.statistics().lost == {LossReason.REJECTED: 1}

        run_virtually(main)

    def test_callback_that_there_is_no_time_for(self, run_virtually: Any, caplog: pytest.LogCaptureFixture) -> None:
        """What on_loss had no time to hear of is logged, since nothing is lost in silence."""

        async def main() -> None:
            async def on_loss(loss: Loss) -> None:
                told.append(loss.stream)
                await anyio.sleep(60)

            transport = MemoryTransport([400, 422, 400])
            async with Tracker(ENDPOINT, transport=transport, on_loss=on_loss) as tracker:
                for stream in "stu":
                    await tracker.track(stream, 1)
                    await tracker.flush()

        told: list[str] = []
        run_virtually(main)
        assert told == ["s"]
        assert [message for _, _, message in caplog.record_tuples] == [
            "2 events of stream 's' and 1 other are lost (rejected, status 400): status 400;"
            " on_loss has not returned from these 2 losses",
            "1 event of stream 't' is lost (rejected, status 422): status 422; on_loss has not returned from this loss",
        ]

    def test_number_that_there_is_no_time_for(
        self, run_virtually: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """How many losses were too much for a slow on_loss is logged, also when it is cut off in the end."""
        monkeypatch.setattr("atom_anyio._reporter.MAX_HELD", 5)

        async def main() -> None:
            async def on_loss(loss: Loss) -> None:
                await anyio.sleep(60)

            transport = MemoryTransport([400] * 4)
            async with Tracker(ENDPOINT, transport=transport, on_loss=on_loss, max_batch_events=1) as tracker:
                for n in range(4):
                    await tracker.track("s", n)
                await tracker.flush()

        run_virtually(main)
        assert caplog.messages[-1].startswith("on_loss is slower than losses come: it was not told of 2")


def test_blocking_is_noticed(run: Any) -> None:
    """These tests notice what blocks the loop."""

    async def main() -> None:
        for blocks in (
            lambda: time.sleep(0),
            lambda: threading.Event().wait(0),
            lambda: socket.getaddrinfo("127.0.0.1", 80),
        ):
            with pytest.raises(AssertionError, match="blocks the loop"):
                blocks()

    run(main)
