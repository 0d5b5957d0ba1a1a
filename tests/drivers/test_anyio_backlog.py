"""The tracker for tasks with a backlog: cancellation everywhere, a loop that never waits for a disk, and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from kept import Disk, Opened, without_threads
from test_anyio_tracker import (
    ENDPOINT,
    REAL,
    VIRTUAL,
    Main,
    Slow,
    _nothing_blocks,
    cancel_at,
    living_tasks,
    loop_is_running,
    run_on,
)
from test_sync_backlog import kept_in
from test_sync_tracker import CANARY
from virtual import PATIENCE, Guarded, interrupting

from atom_anyio import MemoryTransport, Tracker
from atom_anyio._keeping import Keeping
from atom_anyio._loop import interrupts
from atom_sansio import (
    BacklogError,
    BacklogFull,
    BatchUnreadable,
    Level,
    Loss,
    LossReason,
    Outcome,
    TrackerClosed,
    TrackerCore,
)
from atom_sync.backlog import Backlog

LEVELS = [level.value for level in Level]
LEVELS_OF_A_DISK = [*LEVELS[:-1], pytest.param("disk", marks=pytest.mark.thorough)]
"""Beside a ``Disk`` of ours the last two do the same: this driver and the core look at whether there are records."""

__all__ = ["_nothing_blocks"]  # a fixture


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Whoever hangs is shown, and ends."""
    faulthandler.dump_traceback_later(6 * PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=REAL)
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Runs a coroutine function on one of the backends."""
    return partial(run_on, request.param, REAL[request.param], patience=PATIENCE)


@pytest.fixture(params=VIRTUAL)
def run_virtually(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Main], Any]:
    """Runs a coroutine function on one of the backends, on virtual time, which passes at the disk too."""
    monkeypatch.setattr(anyio.to_thread, "run_sync", without_threads)
    return lambda main: run_on(request.param, VIRTUAL[request.param](), main, patience=1e6)


def down() -> MemoryTransport:
    return MemoryTransport(lambda request: 503)


def events_of(transport: MemoryTransport) -> list[Any]:
    return [event for _, event in transport.events]


def check(tracker: Tracker, disk: Disk, transport: MemoryTransport, accepted: int, *, lost: int = 0) -> None:
    """The tracker is stopped, each event that it accepted was sent, lost or left, and no task and no file is left."""
    statistics = tracker.statistics()
    left = disk.events()
    assert statistics.accepted == accepted
    assert statistics.pending == len(left)
    assert statistics.delivered == accepted - lost - len(left)
    assert sum(statistics.lost.values()) == lost
    assert disk.closed
    assert (tracker._senders, len(tracker._idle), tracker._scopes) == (0, 0, set())


class TestMemory:
    @pytest.mark.parametrize("nowait", [False, True])
    @pytest.mark.parametrize("streams", [1, 100])
    @pytest.mark.parametrize("level", LEVELS)
    def test_while_all_senders_wait_for_answers(
        self, run_virtually: Any, monkeypatch: pytest.MonkeyPatch, level: str, nowait: bool, streams: int
    ) -> None:
        """What memory is too small for goes to the disk then, too, and a call that finds no room waits for that."""
        for name, size in (("window", 3000), ("memory", 5000)):
            monkeypatch.setitem(TrackerCore.__init__.__kwdefaults__, name, size)
        disk = Disk(level)

        async def main() -> None:
            transport = Slow(60.0)
            options: dict[str, Any] = {"max_batch_events": 2, "max_in_flight": 1, "request_timeout": 60.0}
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, **options) as tracker:
                for n in range(100):
                    event = [n, "x" * 200]
                    accepted = False
                    while not accepted:
                        with contextlib.suppress(BacklogFull):
                            if nowait:
                                tracker.track_nowait(f"s{n % streams}", event)
                            else:
                                await tracker.track(f"s{n % streams}", event)
                            accepted = True
                        await anyio.sleep(0 if accepted else 0.1)
                    assert tracker._entered._admission.resident <= 5000
                assert anyio.current_time() < 50
                await anyio.sleep(1)
                if level == "memory":
                    assert len(disk.events()) >= 100 - 5000 // 200
                await tracker.stop(0)

        run_virtually(main)
        assert sorted(event[0] for event in disk.events()) == list(range(100))


class TestLoop:
    @pytest.mark.parametrize("level", LEVELS)
    def test_never_at_the_disk(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
        """Whatever is done to files and to the database is done in other threads than the loop's."""

        def forbid(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def guarded(*args: Any, **kwargs: Any) -> Any:
                assert not loop_is_running(), f"{name}() blocks the loop"
                done.add(name)
                return original(*args, **kwargs)

            monkeypatch.setattr(owner, name, guarded)

        done: set[str] = set()
        for name in ("open", "fdatasync", "ftruncate"):
            forbid(os, name)
        forbid(sqlite3, "connect")
        forbid(Path, "unlink")

        async def main(transport: MemoryTransport, events: int) -> Tracker:
            backlog = Backlog(path, level=level)
            async with Tracker(ENDPOINT, transport=transport, backlog=backlog, max_batch_events=4) as tracker:
                for n in range(events):
                    await tracker.track(f"s{n % 3}", n)
                    tracker.track_nowait("nowait", n)
                await tracker.stop(0.3)
            return tracker

        path = tmp_path / "events.db"
        tracker = run(partial(main, down(), 10))
        assert tracker.statistics().pending == 20
        transport = MemoryTransport()
        tracker = run(partial(main, transport, 1))
        assert tracker.statistics().restored == 20
        assert tracker.statistics().delivered == 22 == len(transport.events)
        assert {"open", "connect"} <= done
        assert ("fdatasync" in done) == (level == "disk")
        assert kept_in(path) == 0

    def test_goes_on(self, run_virtually: Any) -> None:
        """While the disk is busy other tasks run, and a track() waits for that and for one write of its own."""

        async def main() -> None:
            disk = Disk("disk", takes=lambda method: 1.0 if method == "append" else 0.0)
            transport = MemoryTransport()
            returned: list[float] = []

            async def work(n: int) -> None:
                await tracker.track("a", n)
                returned.append(anyio.current_time() - start)

            async with Tracker(ENDPOINT, transport=transport, backlog=disk) as tracker:
                start = anyio.current_time()
                async with anyio.create_task_group() as group:
                    group.start_soon(work, 0)
                    await anyio.sleep(0.5)
                    for n in range(1, 17):
                        group.start_soon(work, n)
                    await anyio.sleep(0.25)
                    assert tracker.statistics().accepted == 0
                assert returned == pytest.approx([1.0] + [2.0] * 16)
                assert disk.calls.count("append") == 2
            check(tracker, disk, transport, 17)

        run_virtually(main)

    def test_needs_no_thread_of_others(self, run: Any) -> None:
        """A tracker comes and goes while all threads that others share are taken."""

        async def main() -> None:
            release = threading.Event()
            disk = Disk()
            async with anyio.create_task_group() as group:
                for _ in range(int(anyio.to_thread.current_default_thread_limiter().total_tokens)):
                    group.start_soon(anyio.to_thread.run_sync, release.wait)
                try:
                    await anyio.lowlevel.checkpoint()
                    async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk) as tracker:
                        await tracker.track("a", 1)
                finally:
                    release.set()
            assert disk.closed

        run(main)

    def test_retry_beside_a_slow_update(self, run_virtually: Any) -> None:
        """A record is tried again after its pause, however long an update takes meanwhile."""

        async def main() -> None:
            disk = Disk(takes=lambda method: 50.0 if method == "update" else 0.0)
            disk.fails = lambda method: "full" if method == "append" and anyio.current_time() < until else None
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, max_batch_events=1) as tracker:
                until = 0.0
                await tracker.track("a", 1)
                start = anyio.current_time()
                until = start + 2.5
                await tracker.track("a", 2)
                assert anyio.current_time() - start == pytest.approx(3.0)
                await tracker.stop(200)
            check(tracker, disk, transport, 2)

        run_virtually(main)

    def test_tasks_are_not_woken_for_each_batch(self, run_virtually: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What may wait to be dropped with others lets them sleep until then."""
        looks = []
        real = TrackerCore.next_backlog_command
        monkeypatch.setattr(
            TrackerCore, "next_backlog_command", lambda *args, **kwargs: looks.append(1) or real(*args, **kwargs)
        )

        async def main() -> None:
            disk = Disk("memory")
            transport = Slow(0.001)
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, max_batch_events=1) as tracker:
                for n in range(50):
                    tracker.track_nowait("a", n)
                await anyio.sleep(5)
                assert tracker.statistics().delivered == 50
                assert not disk.batches
                assert len(looks) <= 20
                assert disk.calls.count("update") <= 7
            check(tracker, disk, transport, 50)

        run_virtually(main)

    def test_flush_waits_for_records(self, run_virtually: Any) -> None:
        """flush() and stop() count what track_nowait() has queued, and say what the disk does not take."""

        async def main(method: str, fails: bool) -> None:
            disk = Disk(takes=lambda called: 0.25 if called == "append" else 0.0)
            transport = MemoryTransport()
            losses: list[Loss] = []

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            async with Tracker(ENDPOINT, transport=transport, backlog=disk, on_loss=on_loss) as tracker:
                if fails:
                    disk.fails = lambda called: "no space left" if called == "append" else None
                    tracker.track_nowait("a", 0)
                    await anyio.sleep(1.5)
                tracker.track_nowait("a", 1)
                tracker.track_nowait("a", 2)
                result = await getattr(tracker, method)(2.0)
                if fails:
                    assert not result
                else:
                    assert result.delivered == 2
            check(tracker, disk, transport, 3 if fails else 2, lost=3 if fails else 0)
            assert [loss.reason for loss in losses] == [LossReason.STOPPED] * (3 if fails else 0)

        for method in ("flush", "stop"):
            for fails in (False, True):
                run_virtually(partial(main, method, fails))


class TestCancellation:
    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    @pytest.mark.parametrize("trouble", ["none", "slow", "full", "fails", "fails-at-last"])
    def test_track(self, run_virtually: Any, trouble: str, level: str) -> None:
        """A cancelled track() accepted nothing; one that came to its end did, cancelled or not."""

        async def main(n: int) -> bool:
            start = anyio.current_time()
            disk = Disk(level)
            if trouble != "none":
                disk.takes = lambda method: 0.75
            if trouble.startswith("fails"):
                disk.fails = lambda method: "full" if method == "append" and anyio.current_time() < until else None
            until = 0.0
            transport = Slow()
            options: dict[str, Any] = {"max_pending_events": 1, "max_batch_events": 1} if trouble == "full" else {}
            if trouble == "fails-at-last":
                options["block_timeout"] = 3.0
            ended = [False, False, False]
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, **options) as tracker:
                await tracker.track("a", 1)
                start = anyio.current_time()
                until = start + (3.5 if trouble == "fails" else 100 if trouble == "fails-at-last" else 0)
                try:
                    ended[1], often = await cancel_at(n, tracker.track("a", 2))
                except BacklogFull:
                    often = True
                until = 0.0
                await anyio.sleep(1)
                await tracker.track("a", 3)
                await tracker.stop(100)
            check(tracker, disk, transport, 2 + ended[1])
            assert events_of(transport) == [1, 2, 3][:: 1 if ended[1] else 2]
            return often and n < 60

        n = 1
        while run_virtually(lambda: main(n)):  # noqa: B023 - called at once
            n += 1
        assert n > 1

    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    @pytest.mark.parametrize("latency", [0.0, 1.0, 1e9])
    @pytest.mark.parametrize("method", ["flush", "stop"])
    def test_flush_and_stop(self, run_virtually: Any, method: str, latency: float, level: str) -> None:
        """A cancelled flush() or stop() loses nothing: leaving the context still does its work."""

        async def main(n: int) -> bool:
            before = living_tasks()
            disk = Disk(level, takes=lambda called: 0.25)
            transport = Slow(latency)
            async with Tracker(ENDPOINT, transport=transport, backlog=disk) as tracker:
                await tracker.track("a", 1)
                await tracker.track("b", 2)
                tracker.track_nowait("b", 3)
                _, often = await cancel_at(n, getattr(tracker, method)())
                if method == "flush":
                    await tracker.track("a", 4)
            assert living_tasks() == before
            check(tracker, disk, transport, 3 + (method == "flush"))
            return often

        n = 1
        while run_virtually(lambda: main(n)):  # noqa: B023
            n += 1
        assert n > 1

    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    @pytest.mark.parametrize("latency", [0.0, 1.0, 1e9])
    def test_whole_program(self, run_virtually: Any, latency: float, level: str) -> None:
        """Wherever a program is cancelled, what it tracked is confirmed or left, and the backlog is closed."""

        async def main(n: int) -> bool:
            disk = Disk(level, takes=lambda called: 0.25)
            transport = Slow(latency)
            tracked = []
            tracker = Tracker(ENDPOINT, transport=transport, max_batch_events=2, backlog=disk)

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
            check(tracker, disk, transport, len(tracked))
            return often

        n = 1
        while run_virtually(lambda: main(n)):  # noqa: B023
            n += 1
        assert n > 5

    @pytest.mark.parametrize("fails", [False, True])
    def test_task_cancel(self, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
        """asyncio's own task.cancel() comes once, so track() always raises it; what it did not accept is not sent."""

        async def main(delay: float) -> None:
            disk = Disk(takes=lambda called: 1.0 if called == "append" else 0.0)
            transport = Slow(1.0)
            async with Tracker(ENDPOINT, transport=transport, backlog=disk) as tracker:
                await tracker.track("a", 1)
                disk.fails = lambda called: "full" if fails and called == "append" else None
                first = asyncio.ensure_future(tracker.track("a", 2))  # is written first
                await asyncio.sleep(0.01)
                task = asyncio.ensure_future(tracker.track("a", 3))
                await asyncio.sleep(delay)
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=2.5)
                assert done
                assert task.cancelled() == (delay < 2 or fails)
                disk.fails = lambda called: None
                await first
                await tracker.track("a", 4)
            accepted = 3 + (delay > 1 and not fails)
            check(tracker, disk, transport, accepted)
            assert events_of(transport) == [1, 2, 3, 4] if accepted == 4 else [1, 2, 4]

        monkeypatch.setattr(anyio.to_thread, "run_sync", without_threads)
        for tenths in range(1, 30, 3):
            run_on("asyncio", VIRTUAL["asyncio"](), partial(main, tenths / 10 + 0.05), patience=1e6)

    @pytest.mark.parametrize("call", ["flush", "stop"])
    def test_task_cancel_of_others(self, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        """It loses nothing and leaves nothing waiting where it hits flush() or stop(), either."""

        async def main(delay: float) -> None:
            disk = Disk(takes=lambda called: 1.0)
            transport = Slow(1.0)
            async with Tracker(ENDPOINT, transport=transport, backlog=disk) as tracker:
                await tracker.track("a", 1)
                task = asyncio.ensure_future(getattr(tracker, call)())
                await asyncio.sleep(delay)
                cancelled = task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() == cancelled
                if call != "stop":
                    await tracker.track("a", 3)
            check(tracker, disk, transport, 1 + (call != "stop"))

        monkeypatch.setattr(anyio.to_thread, "run_sync", without_threads)
        for tenths in range(1, 50, 3):
            run_on("asyncio", VIRTUAL["asyncio"](), partial(main, tenths / 10), patience=1e6)

    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    @pytest.mark.parametrize("all_tasks", [False, True])
    def test_task_cancel_while_leaving(self, monkeypatch: pytest.MonkeyPatch, all_tasks: bool, level: str) -> None:
        """Leaving that is cut short by asyncio's own cancel(), of one task or of all, leaves in the backlog what is."""

        async def main(delay: float) -> None:
            async def program() -> None:
                async with tracker:
                    await tracker.track("a", 1)
                    tracker.track_nowait("a", 2)
                    await anyio.sleep_forever()

            before = asyncio.all_tasks()
            disk = Disk(level, takes=lambda called: 0.2)
            transport = Slow(1e9)
            tracker = Tracker(ENDPOINT, transport=transport, backlog=disk)
            task = asyncio.ensure_future(program())
            await asyncio.sleep(0.3)
            task.cancel()
            await asyncio.sleep(delay)
            for each in asyncio.all_tasks() - before if all_tasks else {task}:
                each.cancel()
            await asyncio.wait([task], timeout=3)
            assert task.cancelled()
            assert asyncio.all_tasks() == before
            assert disk.events() == [1, 2]
            check(tracker, disk, transport, 2)

        monkeypatch.setattr(anyio.to_thread, "run_sync", without_threads)
        for tenths in (0, 1, 2, 3, 5, 20, 45, 47, 48, 50):
            run_on("asyncio", VIRTUAL["asyncio"](), partial(main, tenths / 10 + 0.05), patience=1e6)

    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    def test_all_other_tasks(self, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
        """A program that cancels all tasks but its own goes on, and so does its tracker."""

        async def main(delay: float) -> None:
            disk = Disk(level, takes=lambda called: 0.2)
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, max_batch_events=2) as tracker:
                await tracker.track("a", 1)
                tracker.track_nowait("a", 2)
                await asyncio.sleep(delay)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await asyncio.sleep(0.01)
                tracker.track_nowait("a", 3)
                await tracker.track("a", 4)
                await tracker.flush(30)
                assert events_of(transport) == [1, 2, 3, 4]
            check(tracker, disk, transport, 4)

        monkeypatch.setattr(anyio.to_thread, "run_sync", without_threads)
        for tenths in range(1, 12):
            run_on("asyncio", VIRTUAL["asyncio"](), partial(main, tenths / 10 + 0.05), patience=1e6)

    @pytest.mark.parametrize("times", [1, 3])
    def test_task_cancel_while_a_thread_writes(self, times: int) -> None:
        """However often all other tasks are cancelled meanwhile, what a thread writes is written once."""

        async def main() -> None:
            begun, go_on = threading.Event(), threading.Event()

            def sleep(seconds: float) -> None:
                begun.set()
                assert go_on.wait(PATIENCE)

            disk = Disk(takes=lambda called: 1.0 if called == "append" else 0.0, sleep=sleep)
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport, backlog=disk) as tracker:
                tracker.track_nowait("a", 1)
                await anyio.to_thread.run_sync(begun.wait)
                for _ in range(times):
                    for task in asyncio.all_tasks() - {asyncio.current_task()}:
                        task.cancel()
                    await asyncio.sleep(0.001)
                go_on.set()
                await tracker.track("a", 2)
                assert await tracker.flush(PATIENCE)
            assert disk.calls.count("append") == 2
            assert events_of(transport) == [1, 2]
            check(tracker, disk, transport, 2)

        run_on("asyncio", REAL["asyncio"], main, patience=PATIENCE)

    @pytest.mark.parametrize("times", [1, 3])
    def test_task_cancel_while_opening(self, times: int) -> None:
        """A backlog that was being opened when asyncio's own cancel() came is closed, however often that comes."""

        async def main() -> None:
            opening, go_on = threading.Event(), threading.Event()

            class Sluggish(Disk):
                def open(self) -> Any:
                    opening.set()
                    assert go_on.wait(PATIENCE)
                    return super().open()

            async def program() -> None:
                async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk):
                    pass

            disk = Sluggish()
            task = asyncio.ensure_future(program())
            await anyio.to_thread.run_sync(opening.wait)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0.001)
            go_on.set()
            await asyncio.wait([task])
            assert task.cancelled()
            assert len(disk.opened) == 1
            assert disk.closed

        run_on("asyncio", REAL["asyncio"], main, patience=PATIENCE)

    def test_behind_a_disk_that_hangs(self, run_virtually: Any) -> None:
        """A track() whose record only waits behind one that is being written can be cancelled, and gives its room."""

        async def main() -> None:
            disk = Disk(takes=lambda called: 60.0 if called == "append" else 0.0)
            transport = MemoryTransport()
            options: Any = {"transport": transport, "backlog": disk, "max_pending_events": 2}
            async with Tracker(ENDPOINT, **options) as tracker, anyio.create_task_group() as group:
                group.start_soon(tracker.track, "a", 1)
                await anyio.sleep(1)
                start = anyio.current_time()
                with anyio.move_on_after(2) as scope:
                    await tracker.track("a", 2)
                assert scope.cancelled_caught
                assert anyio.current_time() - start == pytest.approx(2)
                tracker.track_nowait("a", 3)
                await anyio.sleep(200)
            check(tracker, disk, transport, 2)
            assert events_of(transport) == [1, 3]

        run_virtually(main)


# When Ctrl-C has left the loop, asyncio cancels tasks before they have begun, of whose coroutines anyio does not think.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
class TestInterrupts:
    @pytest.fixture(autouse=True)
    def _collected(self) -> Iterator[None]:
        yield
        gc.collect()

    @pytest.mark.parametrize("moment", ["before", "within", "after"])
    @pytest.mark.parametrize("method", ["append", "update", "load"])
    @pytest.mark.parametrize("backend", VIRTUAL)
    def test_what_ends_a_task(self, monkeypatch: pytest.MonkeyPatch, backend: str, method: str, moment: str) -> None:
        """What a signal's handler raises in one ends the program in time, and all that was tracked has its outcome."""

        def is_hit() -> bool:
            return bool(armed and armed.pop())

        async def work(keeping: Any, *args: Any) -> None:
            if moment == "before" and is_hit():
                raise KeyboardInterrupt
            await original(keeping, *args)
            if moment == "after" and is_hit():
                raise KeyboardInterrupt

        async def in_thread(call: Any, *args: Any, **options: Any) -> Any:
            name = getattr(getattr(call, "call", None), "__name__", "")
            if moment == "within" and name == method and is_hit():
                call()
                raise KeyboardInterrupt
            return await without_threads(call, *args, **options)

        async def main() -> None:
            async with Tracker(ENDPOINT, transport=down(), backlog=disk) as tracker:
                await tracker.track("a", 0)
                await tracker.flush(0)
                await anyio.sleep(1)
                await tracker.stop(0)
            tracker = Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk, max_batch_events=2)
            trackers.append(tracker)
            armed.append(True)
            try:
                async with tracker:
                    receipts.extend(tracker.track_nowait("b", n, receipt=True) for n in range(3))
                    await tracker.track("c", 4)
                    await anyio.sleep(1000)
            finally:
                ended.append(anyio.current_time())

        armed, ended = list[bool](), list[float]()
        trackers, receipts = list[Tracker](), list[Any]()
        disk = Disk()
        original = getattr(Keeping, f"_{method}")
        monkeypatch.setattr(Keeping, f"_{method}", work)
        monkeypatch.setattr(anyio.to_thread, "run_sync", in_thread)
        with pytest.raises(BaseException) as raised:  # noqa: PT011 - or a group with that in it
            run_on(backend, VIRTUAL[backend](), main, patience=1e6)
        assert interrupts(raised.value, None)
        assert not armed
        assert ended[-1] <= 10
        statistics = trackers[0].statistics()
        assert statistics.accepted == statistics.delivered + statistics.pending + sum(statistics.lost.values())
        assert statistics.accepted in (1 + len(receipts), 2 + len(receipts))
        assert sum(statistics.lost.values()) == 0
        assert all(receipt.outcome in (Outcome.DELIVERED, Outcome.KEPT) for receipt in receipts)
        assert statistics.pending <= len(disk.events())
        assert disk.closed

    @pytest.mark.parametrize("call", ["track", "track_nowait"])
    @pytest.mark.parametrize("backend", REAL)
    def test_signals(self, monkeypatch: pytest.MonkeyPatch, backend: str, call: str) -> None:
        """However often Ctrl-C comes while a record is written, the program ends and the event has its outcome."""

        async def append(keeping: Keeping, records: Any) -> None:
            if not hits:
                hits.append(1)
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            await original(keeping, records)

        async def main() -> None:
            async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk) as tracker:
                trackers.append(tracker)
                returned = getattr(tracker, call)("a", 1)
                if isinstance(returned, Coroutine):
                    await returned
                await anyio.sleep_forever()

        hits, trackers = list[int](), list[Tracker]()
        disk = Disk()
        original = Keeping._append
        monkeypatch.setattr(Keeping, "_append", append)
        with pytest.raises(KeyboardInterrupt):
            run_on(backend, REAL[backend], main, patience=PATIENCE)
        assert hits
        statistics = trackers[0].statistics()
        assert statistics.accepted == statistics.delivered + statistics.pending
        assert statistics.accepted == 1 or call == "track"
        assert disk.closed


class TestStop:
    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    @pytest.mark.parametrize("method", ["append", "update", "load", "close"])
    def test_disk_that_does_not_answer(self, run_virtually: Any, method: str, level: str) -> None:
        """stop() returns in its time though the disk hangs; what is not safe then is reported, and no task is left."""

        async def main() -> None:
            before = living_tasks()
            disk = Disk(level)
            async with Tracker(ENDPOINT, transport=down(), backlog=disk) as tracker:
                await tracker.track("a", 1)
                await tracker.stop(0)
            assert disk.events() == [1]
            losses: list[Loss] = []

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            outcome = []

            async def work() -> None:
                try:
                    await tracker.track("b", 2)
                    outcome.append("accepted")
                except BacklogFull as error:
                    outcome.append(str(error))

            disk.takes = lambda called: 1e5 if called == method else 0.0
            async with (
                Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk, on_loss=on_loss) as tracker,
                anyio.create_task_group() as group,
            ):
                group.start_soon(work)
                await anyio.sleep(1)
                group.start_soon(work)
                tracker.track_nowait("c", 3)
                await anyio.sleep(1)
                start = anyio.current_time()
                await tracker.stop(2.0)
                assert anyio.current_time() - start <= 3.0
            assert living_tasks() == before
            lost = [loss.events for loss in losses]
            if method == "append" and level != "memory":
                assert outcome == ["the backlog cannot be written: it does not answer"] * 2
                assert lost == [(3,)]
            else:
                assert outcome == ["accepted"] * 2
                assert len(lost) == 0 or (method in ("update", "load") and level == "memory")
            statistics = tracker.statistics()
            assert statistics.pending <= len(disk.events())  # what is not promised to be there may be all the same
            assert statistics.accepted == statistics.delivered + statistics.pending + sum(statistics.lost.values())
            assert sum(statistics.lost.values()) == sum(loss.count for loss in losses)

        run_virtually(main)

    @pytest.mark.parametrize("method", ["append", "close"])
    def test_disk_that_answers_later(self, run: Any, method: str) -> None:
        """A disk that was given up is closed, once, when it has come to its end, and not before."""

        async def main() -> None:
            begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

            class Closing(Opened):
                def close(self) -> None:
                    if method == "close":
                        hang()
                    super().close()
                    closed.set()

            class Hanging(Disk):
                def open(self) -> Opened:
                    self.opened.append(Closing(self))
                    return self.opened[-1]

            def hang(seconds: float = 0) -> None:
                begun.set()
                assert go_on.wait(PATIENCE)

            monkeypatch.setattr("atom_anyio._keeping.CLOSE_TIME", 0.05)
            disk = Hanging(takes=lambda called: float(called == method), sleep=hang)
            async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk) as tracker:
                tracker.track_nowait("a", 1)
                async with anyio.create_task_group() as group:
                    group.start_soon(tracker.stop, 0)
                    await anyio.to_thread.run_sync(begun.wait)
            assert not closed.is_set()
            go_on.set()
            assert await anyio.to_thread.run_sync(closed.wait, PATIENCE)
            assert disk.closed

        with pytest.MonkeyPatch.context() as monkeypatch:
            run(main)

    def test_receipts_behind_a_disk_that_does_not_answer(self, run_virtually: Any) -> None:
        """Who waits for what becomes of an event whose record was never begun goes on when the disk is given up."""

        async def main() -> None:
            disk = Disk(takes=lambda called: 1e5 if called == "append" else 0.0)
            outcomes: list[Any] = []

            async def work(n: int) -> None:
                outcomes.append(await tracker.track_nowait("a", n, receipt=True).wait())

            async with anyio.create_task_group() as group:
                async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk) as tracker:
                    for n in range(3):
                        group.start_soon(work, n)
                        await anyio.sleep(1)
                start = anyio.current_time()
            assert anyio.current_time() == start
            assert outcomes == [Outcome.LOST] * 3

        run_virtually(main)

    def test_in_many_tasks(self, run_virtually: Any) -> None:
        """Tasks that stop the tracker at once all wait for the backlog, which is closed once."""

        async def main() -> None:
            disk = Disk("memory", takes=lambda method: 0.3)
            transport = down()
            returned = []

            async def stop() -> None:
                returned.append(((await tracker.stop(2.0)).pending, disk.closed))

            async with Tracker(ENDPOINT, transport=transport, backlog=disk, max_batch_events=1) as tracker:
                for n in range(4):
                    await tracker.track("a", n)
                async with anyio.create_task_group() as group:
                    for _ in range(3):
                        group.start_soon(stop)
            assert returned == [(4, True)] * 3
            assert disk.events() == [0, 1, 2, 3]
            check(tracker, disk, transport, 4)

        run_virtually(main)

    def test_while_tracks_wait(self, run_virtually: Any) -> None:
        """Those that wait for a disk that takes nothing when the tracker stops are refused, and none hangs."""

        async def main() -> None:
            disk = Disk(fails=lambda method: "no space left" if method == "append" else None)
            transport = MemoryTransport()
            outcome = []

            async def work() -> None:
                with pytest.raises((BacklogFull, TrackerClosed)):
                    await tracker.track("a", 1)
                outcome.append(anyio.current_time() - start)

            async with (
                Tracker(ENDPOINT, transport=transport, backlog=disk) as tracker,
                anyio.create_task_group() as group,
            ):
                start = anyio.current_time()
                for _ in range(3):
                    group.start_soon(work)
                await anyio.sleep(2.5)
                await tracker.stop(1.0)
            assert len(outcome) == 3
            assert max(outcome) <= 3.5
            check(tracker, disk, transport, 0)

        run_virtually(main)


class TestFull:
    @pytest.mark.parametrize("on_full", ["block", "raise", "drop_newest", "drop_oldest"])
    def test_track_nowait(self, run_virtually: Any, on_full: str) -> None:
        """What track_nowait() accepted and the disk refuses then is kept in memory or lost, as on_full says."""

        async def main() -> None:
            disk = Disk()
            disk.fails = lambda method: "no space left" if method == "append" and anyio.current_time() < until else None
            transport = MemoryTransport()
            losses: list[Loss] = []

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            async with Tracker(
                ENDPOINT, transport=transport, backlog=disk, on_full=on_full, on_loss=on_loss
            ) as tracker:
                until = anyio.current_time() + 2
                tracker.track_nowait("a", 1)
                await anyio.sleep(0.5)
                if on_full == "raise":
                    with pytest.raises(BacklogFull):
                        tracker.track_nowait("a", 2)
                else:
                    tracker.track_nowait("a", 2)
                await anyio.sleep(2)
                tracker.track_nowait("a", 3)
                await tracker.stop(20)
            sent = {"block": [1, 2, 3], "raise": [1, 3]}.get(on_full, [3])
            assert events_of(transport) == sent
            assert [loss.events for loss in losses] == ([(1,), (2,)] if on_full.startswith("drop") else [])
            check(tracker, disk, transport, 3 - (on_full == "raise"), lost=len(losses))

        run_virtually(main)

    @pytest.mark.parametrize(
        ("method", "error"),
        [
            ("append", KeyError),
            ("update", KeyError),
            ("load", KeyError),
            ("load", OSError(5, "Input/output error")),
            ("load", BatchUnreadable("its checksum is wrong")),
        ],
    )
    def test_any_error(self, run_virtually: Any, method: str, error: Exception) -> None:
        """Whatever a backlog of the user's raises passes, and ends no task; but a batch may be gone for good."""
        lost = isinstance(error, BatchUnreadable)

        async def main() -> None:
            disk = Disk()
            async with Tracker(ENDPOINT, transport=down(), backlog=disk) as tracker:
                await tracker.track("a", 1)
                await tracker.flush(0)
                await anyio.sleep(1)
                await tracker.stop(0)

            def raises(called: str) -> str | None:
                if called == method and not raised:
                    raised.append(1)
                    raise error
                return None

            raised: list[int] = []
            disk.fails = raises
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, on_loss=lambda loss: None) as tracker:
                await tracker.track("a", 2)
                await anyio.sleep(30)
            assert raised == [1]
            assert events_of(transport) == ([2] if lost else [1, 2])
            check(tracker, disk, transport, 2, lost=lost)

        run_virtually(main)


class TestOthers:
    CALLS: ClassVar[dict[str, Callable[[Tracker], object]]] = {
        "track_nowait": lambda tracker: tracker.track_nowait("a", 2),
        "track": lambda tracker: tracker.track("a", 2),
        "statistics": lambda tracker: tracker.statistics(),
        "set_auth_key": lambda tracker: tracker.set_auth_key("a", "key"),
        "flush": lambda tracker: tracker.flush(0),
        "stop": lambda tracker: tracker.stop(),
    }

    @pytest.mark.parametrize("level", LEVELS_OF_A_DISK)
    @pytest.mark.parametrize("call", CALLS)
    def test_interrupting(self, run_virtually: Any, call: str, level: str) -> None:
        """A handler or finaliser may track wherever it interrupts: the event is sent in time, the ledger adds up."""

        async def main(n: int) -> bool:
            transport = MemoryTransport()
            disk = Disk(level)
            accepted = []
            losses: list[Loss] = []

            def interrupt() -> None:
                try:
                    for i in range(2):
                        tracker.track_nowait("b", i)
                        accepted.append(i)
                except TrackerClosed:
                    pass

            async def on_loss(loss: Loss) -> None:
                losses.append(loss)

            async with Tracker(
                ENDPOINT, transport=transport, max_batch_events=2, on_loss=on_loss, backlog=disk
            ) as tracker:
                tracker.track_nowait("a", 1)
                with interrupting(n, interrupt, package="atom_anyio") as count:
                    returned: Any = self.CALLS[call](tracker)
                    if isinstance(returned, Coroutine):
                        await returned
                    await anyio.sleep(0.5)
                if call != "stop" and accepted:
                    assert [event for stream, event in transport.events if stream == "b"] == accepted
            total = 1 + (call in ("track", "track_nowait")) + len(accepted)
            check(tracker, disk, transport, total, lost=len(losses))
            return count() >= n

        n = 1 + (list(self.CALLS).index(call) + 17 * sys.version_info[1]) % 61  # not the same with each Python
        while run_virtually(lambda: main(n)):  # noqa: B023
            n += 61  # there are thousands of points, each in several of these tests

    @pytest.mark.parametrize("level", LEVELS)
    def test_many_threads(self, run: Any, tmp_path: Path, level: str) -> None:
        """Other threads that track lose nothing, and each finds its own order again."""

        async def main() -> None:
            def work(me: int) -> None:
                for i in range(100):
                    tracker.track_nowait(f"s{i % 3}", [me, i])

            backlog = Backlog(path, level=level)
            tracker = Tracker(ENDPOINT, transport=transport, max_batch_events=7, backlog=backlog)
            async with tracker:
                threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    await anyio.to_thread.run_sync(thread.join)
                await tracker.stop(PATIENCE)
            assert tracker.statistics().delivered == 400 == len(transport.events)
            for me in range(4):
                mine = [event[1] for stream, event in transport.events if stream == "s0" and event[0] == me]
                assert mine == list(range(0, 100, 3))

        path = tmp_path / "events.db"
        transport: Any = MemoryTransport()
        run(main)
        assert kept_in(path) == 0

    def test_core_is_locked(self, run_virtually: Any) -> None:
        """No call reaches the core without the lock."""

        async def main() -> None:
            disk = Disk(fails=lambda method: "no space left" if disk.calls.count(method) == 2 else None)
            async with Tracker(ENDPOINT, transport=MemoryTransport([503]), backlog=disk, max_batch_events=1) as tracker:
                core: Any = Guarded(tracker._core, tracker._lock)
                assert tracker._keeping is not None
                tracker._core = tracker._keeping._core = core
                for n in range(3):
                    await tracker.track("a", n)
                tracker.track_nowait("a", 3)
                await tracker.flush(60)
                tracker.set_auth_key("a", "k")
            assert core.calls >= {"admit", "next_records", "records_written", "records_refused", "backlog_failed"}
            assert disk.closed

        run_virtually(main)


class TestRestart:
    def test_unknown_key(self, run_virtually: Any, caplog: pytest.LogCaptureFixture) -> None:
        """What was signed with a key that is not given again waits, is reported, and goes on when the key is there."""

        async def main() -> None:
            disk = Disk()
            async with Tracker(ENDPOINT, transport=down(), backlog=disk, auth_key=CANARY) as tracker:
                await tracker.track("a", 1)
                await tracker.track("b", 2)
                await tracker.stop(0)
            assert CANARY not in repr(disk)
            transport = MemoryTransport()
            async with Tracker(ENDPOINT, transport=transport, backlog=disk, auth_key="another") as tracker:
                await tracker.track("a", 3)
                await anyio.sleep(20)
                assert events_of(transport) == [3]
                assert (tracker.statistics().parked, tracker.statistics().restored) == (2, 2)
                tracker.set_auth_key("a", CANARY)
                await anyio.sleep(1)
                assert events_of(transport) == [3, 1]
                await tracker.track("b", 4, auth_key=CANARY)
                await anyio.sleep(20)
            assert sorted(events_of(transport)) == [1, 2, 3, 4]
            check(tracker, disk, transport, 4)

        run_virtually(main)
        assert "which was not given" in caplog.text
        assert CANARY not in caplog.text

    @pytest.mark.parametrize("kind", ["str", "path", "object", "environment"])
    def test_how_it_is_given(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """The option is a path, an object or the environment's."""
        path = tmp_path / "events.db"
        options: dict[str, Any] = {
            "str": {"backlog": str(path)},
            "path": {"backlog": path},
            "object": {"backlog": Backlog(path)},
            "environment": {},
        }[kind]
        if kind == "environment":
            monkeypatch.setenv("ATOM_BACKLOG", str(path))

        async def main() -> None:
            async with Tracker(ENDPOINT, transport=down(), **options) as tracker:
                await tracker.track("a", 1)
                await tracker.stop(0)

        run(main)
        assert kept_in(path) == 1

    def test_that_fails(self, run: Any, tmp_path: Path) -> None:
        """A backlog that cannot be opened is an error that says so; one that cannot be read is closed again."""

        async def main(backlog: Any) -> None:
            async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=backlog):
                pass

        with pytest.raises(BacklogError, match="nowhere"):
            run(partial(main, tmp_path / "nowhere" / "events.db"))
        disk = Disk(files={1: b"damaged\n"})
        with pytest.raises(AssertionError):
            run(partial(main, disk))
        assert disk.closed

    def test_what_cannot_be_restored(self, run: Any) -> None:
        """A backlog whose contents are not what they should be is closed, and its error passes as it is."""

        class Wrong(Opened):
            def recover(self) -> Any:
                assert not loop_is_running()
                return None

        class WrongDisk(Disk):
            def open(self) -> Opened:
                self.opened.append(Wrong(self))
                return self.opened[-1]

        async def main() -> None:
            before = living_tasks()
            disk = WrongDisk()
            tracker = Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk)
            with pytest.raises(AttributeError):
                await tracker.__aenter__()
            assert living_tasks() == before
            assert disk.closed

        run(main)

    def test_is_restored_beside_the_loop(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """However much there is to be restored, the loop does not stand still for it."""

        def guarded(core: TrackerCore, *args: Any, **options: Any) -> None:
            assert not loop_is_running()
            restore(core, *args, **options)

        async def main() -> None:
            disk = Disk()
            async with Tracker(ENDPOINT, transport=down(), backlog=disk) as tracker:
                await tracker.track("a", 1)
                await tracker.stop(0)
            async with Tracker(ENDPOINT, transport=MemoryTransport(), backlog=disk) as tracker:
                assert tracker.statistics().restored == 1

        restore = TrackerCore.restore
        monkeypatch.setattr(TrackerCore, "restore", guarded)
        run(main)
