"""What is measured: the trackers, used as a program would.

Like the limit loops, each takes events to the sink and returns the CPU seconds that the whole process spent from the
first ``track()`` until everything was confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import cycle
from typing import Any

import anyio
import anyio.lowlevel

import atom_anyio
import atom_sync

from .limits import TURN
from .sink import Sink
from .workload import KEY, STREAM, WARM_UP, Event

PATIENCE = 120.0
"""Seconds until a run that does not end is given up."""

LOOPS = ("asyncio", "trio", "uvloop")


def threads(sink: Sink, events: Iterable[Event], **options: Any) -> float:
    """``atom_sync.Tracker``: one thread tracks, the driver's send."""
    with atom_sync.Tracker(sink.url, auth_key=KEY, **options) as tracker:
        track = tracker.track
        track(STREAM, WARM_UP)
        tracker.flush(PATIENCE)
        began = time.process_time()
        for event in events:
            track(STREAM, event)
        finish(tracker)
        return time.process_time() - began


def threads_over_streams(sink: Sink, events: Iterable[Event], streams: Sequence[str], **options: Any) -> float:
    """The same, with the events going to *streams* in turn."""
    with atom_sync.Tracker(sink.url, auth_key=KEY, **options) as tracker:
        track = tracker.track
        track(STREAM, WARM_UP)
        tracker.flush(PATIENCE)
        began = time.process_time()
        for stream, event in zip(cycle(streams), events, strict=False):
            track(stream, event)
        finish(tracker)
        return time.process_time() - began


async def tasks(sink: Sink, events: Iterable[Event], **options: Any) -> float:
    """``atom_anyio.Tracker``: the program gives the loop a turn as often as in the limit loop."""
    async with atom_anyio.Tracker(sink.url, auth_key=KEY, **options) as tracker:
        track = tracker.track_nowait
        track(STREAM, WARM_UP)
        await tracker.flush(PATIENCE)
        began = time.process_time()
        for i, event in enumerate(events):
            track(STREAM, event)
            if not i % TURN:
                await anyio.lowlevel.checkpoint()
        await finish_async(tracker)
        return time.process_time() - began


def finish(tracker: atom_sync.Tracker) -> None:
    """Wait until everything is confirmed."""
    if not tracker.flush(PATIENCE):
        raise RuntimeError(f"not everything was delivered: {tracker.statistics()}")


async def finish_async(tracker: atom_anyio.Tracker) -> None:
    """Wait until everything is confirmed."""
    if not await tracker.flush(PATIENCE):
        raise RuntimeError(f"not everything was delivered: {tracker.statistics()}")


def on(loop: str, program: Callable[[], Awaitable[Any]]) -> Any:
    """*program* run to its end on asyncio, trio or uvloop."""
    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(program, backend=backend, backend_options=options)
