"""What a call of ``track()`` costs its caller, against ``orjson.dumps(event)``."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson

import atom_sync

from .measure import interleaved, middle_half, pinned, ratio
from .rows import Row, us
from .workload import KEY, SMALL, STREAM, Event, numbered

COUNT = 40_000
RUNS = 3
"""Runs of each a round: many short ones are disturbed less than a few long ones."""


def _loop(events: list[Event]) -> float:
    began = time.thread_time()
    for _ in events:
        pass
    return time.thread_time() - began


def _dumps(events: list[Event]) -> float:
    dumps = orjson.dumps
    began = time.thread_time()
    for event in events:
        dumps(event)
    return time.thread_time() - began


def _track(events: list[Event]) -> float:
    with _tracker() as tracker:
        track = tracker.track
        # This thread's own time: what the senders spend meanwhile is counted end to end.
        began = time.thread_time()
        for event in events:
            track(STREAM, event)
        return time.thread_time() - began


def _tracker() -> atom_sync.Tracker:
    return atom_sync.Tracker("http://127.0.0.1/", auth_key=KEY, transport=atom_sync.MemoryTransport)


def _each(call: Callable[[str, Event], Any], events: Iterable[Event]) -> list[int]:
    """Wall nanoseconds of every call."""
    now = time.perf_counter_ns
    took = []
    for event in events:
        began = now()
        call(STREAM, event)
        took.append(now() - began)
    return sorted(took)


def _percentiles(events: list[Event]) -> tuple[float, float]:
    """Microseconds, median and 99th percentile, of ``track()`` less those of a call that does nothing."""
    nothing = statistics.median(_each(lambda stream, event: None, events))
    with _tracker() as tracker:
        took = _each(tracker.track, events)
    return (took[len(took) // 2] - nothing) / 1e3, (took[len(took) * 99 // 100] - nothing) / 1e3


def measure(rounds: int) -> dict[str, Any]:
    """CPU microseconds a call by round, each net of the empty loop, and percentiles of the wall time."""
    events = numbered(SMALL, COUNT)
    with pinned():
        jobs = {f.__name__: functools.partial(f, events) for f in (_loop, _dumps, _track)}
        spent = interleaved(jobs, rounds * RUNS)
        wall = interleaved({"wall": lambda: _percentiles(events)}, rounds)["wall"]
    loop = statistics.median(spent["_loop"])
    return {
        "track": [(spent - loop) / COUNT * 1e6 for spent in spent["_track"]],
        "dumps": [(spent - loop) / COUNT * 1e6 for spent in spent["_dumps"]],
        "p50": [p50 for p50, _ in wall],
        "p99": [p99 for _, p99 in wall],
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    median = {name: statistics.median(series) for name, series in figures.items()}
    return [
        Row(
            name="track",
            what="`track()`, CPU of the calling thread, in memory",
            limit=f"`orjson.dumps(event)` {us(median['dumps'])}",
            ours=f"{us(median['track'])}; wall, median {us(median['p50'])}",
            value=ratio(figures["track"], figures["dumps"]),
            spread=middle_half(figures["track"], figures["dumps"]),
            target=4.5,
        ),
        Row(
            name="track-p99",
            what="`track()`, wall, 99th percentile",
            limit="",
            ours=us(median["p99"]),
            value=median["p99"],
            unit=" us",
            target=3.0,
        ),
    ]
