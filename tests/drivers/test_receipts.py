"""Receipts, as threads and tasks wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from test_anyio_tracker import cancelling

import atom_anyio
import atom_sync
import atom_sync.backlog
from atom_sansio import AuthKey, LocalError, LossReason, Outcome
from atom_sync._exit import begin_all_in_child

ENDPOINT = "http://collector.example"


def test_wait() -> None:
    """A thread waits until its event is delivered, or lost; other events have no receipt."""
    transport = atom_sync.MemoryTransport([200, 400])
    with atom_sync.Tracker(ENDPOINT, transport=transport, max_batch_events=1) as tracker:
        assert tracker.track("s", 0) is None
        assert tracker.flush()
        lost = tracker.track("s", 1, receipt=True)
        assert lost.wait() is Outcome.LOST
        assert lost.loss is not None
        assert lost.loss.reason is LossReason.REJECTED
        delivered = tracker.track("s", 2, AuthKey("k"), receipt=True)
        assert delivered.wait(60) is Outcome.DELIVERED
        assert delivered.wait() is Outcome.DELIVERED


def test_wait_in_vain() -> None:
    """Nobody waits for longer than they said; stop() settles what is left, and lets go on who waits."""
    release = threading.Event()

    def answer(request: object) -> int:
        release.wait(60)
        return 200

    tracker = atom_sync.Tracker(ENDPOINT, transport=atom_sync.MemoryTransport(answer), max_batch_events=1)
    receipt = tracker.track("s", 1, receipt=True)
    assert receipt.wait(0) is None
    assert receipt.wait(0.01) is None
    outcomes: list[Any] = []
    waiting = threading.Thread(target=lambda: outcomes.append(receipt.wait()))
    waiting.start()
    tracker.stop(0)
    waiting.join(60)
    release.set()
    assert outcomes == [Outcome.LOST]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of threads that no child has
@pytest.mark.parametrize("kept", [False, True])
def test_in_a_forked_child(tmp_path: Any, *, kept: bool) -> None:
    """A child learns nothing more of its parent's events, and says so at once; what it tracks itself it does."""
    transport = atom_sync.MemoryTransport()
    backlog = tmp_path / "events.db" if kept else None
    with atom_sync.Tracker(ENDPOINT, transport=transport, backlog=backlog, flush_interval=3600.0) as tracker:
        settled = tracker.track("s", 1, receipt=True)
        tracker.flush(60)
        receipt = tracker.track("s", 2, receipt=True)
        begin_all_in_child()
        with pytest.raises(LocalError, match="before a fork"):
            receipt.wait(5)
        assert receipt.outcome is None
        assert settled.wait() is Outcome.DELIVERED
        own = tracker.track("s", 3, receipt=True)
        tracker.flush(60)
        assert own.wait(60) is Outcome.DELIVERED


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_bad_timeout(timeout: Any) -> None:
    """What is no time-out is refused."""
    with atom_sync.Tracker(ENDPOINT, transport=atom_sync.MemoryTransport()) as tracker:
        receipt = tracker.track("s", 1, receipt=True)
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            receipt.wait(timeout)


@pytest.mark.parametrize("level", ["memory", "process", "disk"])
def test_kept(tmp_path: Any, level: str) -> None:
    """What stays in the backlog is said to."""
    backlog = atom_sync.backlog.Backlog(tmp_path / "events.db", level=level)
    transport = atom_sync.MemoryTransport(lambda request: 503)
    with atom_sync.Tracker(ENDPOINT, transport=transport, backlog=backlog) as tracker:
        receipt = tracker.track("s", 1, receipt=True)
        tracker.stop(0)
        assert receipt.wait(60) is Outcome.KEPT
        assert receipt.loss is None


@pytest.mark.anyio
@pytest.mark.parametrize("nowait", [True, False])
@pytest.mark.parametrize("level", [None, "process"])
async def test_await(tmp_path: Any, nowait: bool, level: str | None) -> None:
    """A task waits until its event is delivered, or lost."""
    backlog = None if level is None else atom_sync.backlog.Backlog(tmp_path / "events.db", level=level)
    transport = atom_anyio.MemoryTransport([400])
    async with atom_anyio.Tracker(ENDPOINT, transport=transport, max_batch_events=1, backlog=backlog) as tracker:

        async def track(event: int) -> atom_anyio.Receipt:
            if nowait:
                return tracker.track_nowait("s", event, receipt=True)
            return await tracker.track("s", event, receipt=True)

        first = await track(1)
        assert await first.wait() is Outcome.LOST
        second = await track(2)
        assert await second.wait() is Outcome.DELIVERED
        assert tracker.track_nowait("s", 3) is None
        assert await tracker.track("s", 4) is None
        third = await track(5)
        with anyio.move_on_after(0):
            await third.wait()
        assert await third.wait() is Outcome.DELIVERED


@pytest.mark.anyio
async def test_only_who_can_go_on_is_woken() -> None:
    """Of many that wait, those wait in peace whose event has no outcome yet; several may wait for one."""
    counts: list[int] = []

    async def wait(receipt: atom_anyio.Receipt) -> None:
        counts.append(await cancelling(0, anyio.CancelScope(), receipt.wait()))

    async with (
        atom_anyio.Tracker(ENDPOINT, transport=atom_anyio.MemoryTransport(), max_batch_events=1) as tracker,
        anyio.create_task_group() as group,
    ):
        for n in range(20):
            receipt = tracker.track_nowait("s", n, receipt=True)
            group.start_soon(wait, receipt)
            group.start_soon(wait, receipt)
    assert len(counts) == 40
    assert max(counts) == 1


@pytest.mark.anyio
async def test_dropped_by_another_thread() -> None:
    """Who waits for an event goes on when a thread's event has taken its room."""
    options: Any = {"max_pending_events": 1, "on_full": "drop_oldest", "on_loss": lambda loss: None}
    async with atom_anyio.Tracker(ENDPOINT, transport=atom_anyio.MemoryTransport(), **options) as tracker:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                receipt = tracker.track_nowait("s", 1, receipt=True)
                group.start_soon(receipt.wait)
                await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(tracker.track_nowait, "s", 2)
        assert receipt.outcome is Outcome.LOST


def test_nothing_is_made_without() -> None:
    """A call without a receipt makes none."""
    made: list[object] = []

    class Counted(atom_sync.Receipt):
        def __init__(self, wait: Callable[..., None]) -> None:
            made.append(self)
            super().__init__(wait)

    with (
        pytest.MonkeyPatch.context() as patch,
        atom_sync.Tracker(ENDPOINT, transport=atom_sync.MemoryTransport()) as tracker,
    ):
        patch.setattr("atom_sync._tracker.Receipt", Counted)
        for n in range(3000):
            tracker.track("s", n)
        assert made == []
        tracker.track("s", 1, receipt=True)
        assert len(made) == 1
