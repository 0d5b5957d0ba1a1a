"""Callbacks and transports that raise what ends tasks and programs, or that give back something to be awaited."""

from __future__ import annotations

import asyncio
import logging
import threading
from io import StringIO
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import atom_anyio
import atom_sync
from atom_sansio import Loss, Reply, Request, RetryPolicy

ENDPOINT = "http://collector.example"


async def _deliver(**options: Any) -> atom_anyio.Tracker:
    async with atom_anyio.Tracker(ENDPOINT, max_batch_events=1, **options) as tracker:
        for stream in "ab":
            await tracker.track(stream, 1)
        await tracker.flush()
    return tracker


class Stop(BaseException):
    """Not one of those that are caught with ``except Exception``."""


@pytest.mark.anyio
@pytest.mark.parametrize("error", [SystemExit, Stop, asyncio.CancelledError, GeneratorExit])
async def test_what_ends_programs_from_on_loss(caplog: pytest.LogCaptureFixture, error: type[BaseException]) -> None:
    """What a callback raises, plain or of a task, is logged, and no program ends by it."""

    async def of_a_task(loss: Loss) -> None:
        raise error

    def plain(loss: Loss) -> None:
        raise error

    for on_loss in (of_a_task, plain):
        caplog.clear()
        transport = atom_anyio.MemoryTransport([400, 400])
        tracker = await _deliver(transport=transport, on_loss=on_loss)
        assert [record.getMessage() for record in caplog.records] == [f"on_loss raised {error.__name__}"]
        assert sum(tracker.statistics().lost.values()) == 2


def test_a_cancelled_task_in_on_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that awaits a task that was cancelled raises what cancels tasks; the program is not ended by that."""

    async def on_loss(loss: Loss) -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    async def main() -> str:
        transport = atom_anyio.MemoryTransport([400, 400])
        await _deliver(transport=transport, on_loss=on_loss)
        return "went on"

    assert anyio.run(main) == "went on"
    assert [record.getMessage() for record in caplog.records] == ["on_loss raised CancelledError"]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, Stop, GeneratorExit])
async def test_a_transport_that_cancels(error: type[BaseException]) -> None:
    """A transport that raises it has failed, and its batch goes again."""
    inner = atom_anyio.MemoryTransport()
    failed = []

    class Cancelling:
        async def send(self, request: Request, *, timeout: float) -> Reply:
            if not failed:
                failed.append(request)
                raise error
            return await inner.send(request, timeout=timeout)

        async def aclose(self) -> None:
            pass

    tracker = await _deliver(transport=Cancelling(), retry=RetryPolicy(base=0.001, cap=0.001))
    statistics = tracker.statistics()
    assert (statistics.delivered, statistics.failures) == (2, 1)


@pytest.mark.anyio
async def test_a_callback_that_changes_what_cancels_it(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that is cut off in the end, and raises its own exception for that, ends no program by it."""

    async def on_loss(loss: Loss) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise RuntimeError("could not tell") from error

    transport = atom_anyio.MemoryTransport([400, 422])
    async with atom_anyio.Tracker(ENDPOINT, max_batch_events=1, transport=transport, on_loss=on_loss) as tracker:
        for stream in "ab":
            await tracker.track(stream, 1)
        await tracker.flush()
        await tracker.stop(0.01)
    assert [message[:30] for message in sorted(caplog.messages)] == [
        "1 event of stream 'a' is lost ",
        "1 event of stream 'b' is lost ",
    ]


@pytest.mark.anyio
async def test_a_transport_that_changes_what_cancels_it() -> None:
    """So does a transport, whose events are lost."""

    class Hanging:
        async def send(self, request: Request, *, timeout: float) -> Reply:
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                raise RuntimeError("cut off") from error

        async def aclose(self) -> None:
            pass

    told = []

    async def on_loss(loss: Loss) -> None:
        told.append(loss.count)

    async with atom_anyio.Tracker(ENDPOINT, max_batch_events=1, transport=Hanging(), on_loss=on_loss) as tracker:
        await tracker.track("a", 1)
        await tracker.track("b", 1)
        assert (await tracker.stop(0.01)).lost == 2
    assert told == [1, 1]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.anyio
async def test_a_log_handler_that_raises(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """A handler that raises is shown as logging shows it, if that can be, and the tracker goes on."""
    monkeypatch.setattr("sys.stderr", stderr := StringIO())
    if closed:
        stderr.close()

    class Faulty(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("a bug in a user's handler")

    told = []

    async def raises_once(loss: Loss) -> None:
        told.append(loss.count)
        if len(told) == 1:
            raise KeyError("a bug in a user's callback")

    handler = Faulty()
    logging.getLogger("atom").addHandler(handler)
    try:
        for on_loss in (None, raises_once):
            tracker = await _deliver(transport=atom_anyio.MemoryTransport([400, 400]), on_loss=on_loss)
            assert sum(tracker.statistics().lost.values()) == 2
            if not closed:
                assert "a bug in a user's handler" in stderr.getvalue()
                assert ("is lost" if on_loss is None else "on_loss raised KeyError") in stderr.getvalue()
    finally:
        logging.getLogger("atom").removeHandler(handler)
    assert told == [1, 1]


@pytest.mark.anyio
async def test_an_awaitable_from_on_loss() -> None:
    """What a callback gives back is awaited if that can be, though it is no coroutine function."""
    told = []

    async def tell(loss: Loss) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(loss.count)

    class Callback:
        async def __call__(self, loss: Loss) -> None:
            await tell(loss)

    for on_loss in (lambda loss: tell(loss), Callback()):
        await _deliver(transport=atom_anyio.MemoryTransport([400]), on_loss=on_loss)
    assert told == [1, 1]


def test_stop_in_on_loss() -> None:
    """A callback of threads may stop the tracker, which then does not wait for the callback."""
    done = threading.Event()

    def on_loss(loss: Loss) -> None:
        tracker.stop(600)
        done.set()

    tracker = atom_sync.Tracker(ENDPOINT, transport=atom_sync.MemoryTransport([400]), on_loss=on_loss)
    tracker.track("s", 1)
    tracker.flush()
    assert done.wait(60)


@pytest.mark.parametrize("closed", [False, True])
def test_a_logging_handler_that_raises(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """Where what is to be logged finds a handler with a bug, the next losses are told, and stop() waits for nobody."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("the handler's")

    told = []

    def on_loss(loss: Loss) -> None:
        told.append(loss.stream)
        raise KeyError

    monkeypatch.setattr(logging.getLogger("atom"), "handlers", [Raising()])
    monkeypatch.setattr("sys.stderr", stderr := StringIO())
    if closed:
        stderr.close()
    tracker = atom_sync.Tracker(ENDPOINT, transport=atom_sync.MemoryTransport([400] * 3), on_loss=on_loss)
    for stream in "abc":
        tracker.track(stream, 1)
        tracker.flush()
        assert tracker._reporter.wait(tracker._now() + 60)
    assert told == ["a", "b", "c"]
    tracker.stop(60)
    if not closed:
        assert "ValueError: the handler's" in stderr.getvalue()
        assert "on_loss raised KeyError" in stderr.getvalue()  # what was to be logged
