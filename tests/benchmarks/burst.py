"""What becomes of a burst at default settings."""

from __future__ import annotations

import functools
from typing import Any

import atom_anyio
import atom_sync
from atom_sansio import Statistics

from . import ours
from .rows import Row
from .sink import Sink
from .workload import KEY, SMALL, STREAM, Event, counting_sink, numbered

COUNT = 100_000
KINDS = ("threads", "asyncio", "trio")


def _threads(sink: Sink, events: list[Event]) -> Statistics:
    with atom_sync.Tracker(sink.url, auth_key=KEY) as tracker:
        for event in events:
            tracker.track(STREAM, event)
        tracker.flush(ours.PATIENCE)
        return tracker.statistics()


async def _tasks(sink: Sink, events: list[Event]) -> Statistics:
    async with atom_anyio.Tracker(sink.url, auth_key=KEY) as tracker:
        for event in events:  # the loop gets no turn meanwhile
            tracker.track_nowait(STREAM, event)
        await tracker.flush(ours.PATIENCE)
        return tracker.statistics()


def measure(rounds: int) -> dict[str, Any]:
    """What was accepted, delivered and lost, and what the sink saw.  Once: nothing in it is by chance."""
    events = numbered(SMALL, COUNT)
    result = {}
    with counting_sink() as sink:
        for kind in KINDS:
            sink.reset()
            seen: Statistics = (
                _threads(sink, events) if kind == "threads" else ours.on(kind, functools.partial(_tasks, sink, events))
            )
            arrived = sink.stats()
            result[kind] = {
                "accepted": seen.accepted,
                "delivered": seen.delivered,
                "lost": sum(seen.lost.values()),
                "arrived": arrived["events"] - arrived["repeated"],
            }
    return result


def rows(figures: dict[str, Any]) -> list[Row]:
    return [
        Row(
            name=f"burst-{kind}",
            what=f"lost of a burst of {COUNT:,} at default settings, {kind}",
            limit="0",
            ours=f"{figures[kind]['accepted']:,} accepted, {figures[kind]['arrived']:,} arrived",
            value=COUNT - figures[kind]["arrived"],
            unit="",
            target=0,
        )
        for kind in KINDS
    ]
