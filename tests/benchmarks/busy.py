"""How much is delivered beside a program that never rests, since the interpreter's lock has to be won back."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import atom_sync

from . import limits
from .measure import interleaved
from .rows import Row, Sense
from .sink import Sink
from .workload import KEY, SMALL, STREAM, Event, counting_sink, numbered

RATE = 100_000
"""Events a second that the program asks for."""
SECONDS = 4.0
NAIVE_BATCH = 64

Track = Callable[[str, Event], Any]


@contextlib.contextmanager
def _ours(sink: Sink) -> Iterator[Track]:
    """At default settings."""
    with atom_sync.Tracker(sink.url, auth_key=KEY) as tracker:
        yield tracker.track


@contextlib.contextmanager
def _naive(sink: Sink) -> Iterator[Track]:
    """A deque, and a thread that posts 64 events at a time."""
    pending: deque[Event] = deque()
    finished = threading.Event()

    def send() -> None:
        with limits.connect(sink) as connection:
            while not finished.is_set():
                if len(pending) < NAIVE_BATCH:
                    time.sleep(0.01)
                    continue
                batch = [pending.popleft() for _ in range(NAIVE_BATCH)]
                limits.post(connection, limits.request(sink, STREAM, batch))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield lambda stream, event: pending.append(event)
    finally:
        finished.set()
        thread.join()


def _run(tracker: Callable[[Sink], contextlib.AbstractContextManager[Track]], sink: Sink) -> dict[str, float]:
    """Events asked and delivered a second, while a program is busy for some seconds."""
    events = numbered(SMALL, int(RATE * SECONDS))
    sink.reset()
    with tracker(sink) as track:
        now = time.perf_counter
        asked = 0
        began = due = now()
        end = began + SECONDS
        while (at := now()) < end and asked < len(events):
            if at >= due:  # else it works on something of its own: this very loop
                track(STREAM, events[asked])
                asked += 1
                due += 1 / RATE
        took = at - began
        seen = sink.stats()
    if seen["repeated"]:
        raise RuntimeError(f"events arrived twice: {seen}")
    return {"asked": asked / took, "delivered": seen["events"] / took}


def measure(rounds: int) -> dict[str, Any]:
    """Rates by round, on all CPUs."""
    with counting_sink() as sink:
        jobs = {"ours": lambda: _run(_ours, sink), "naive": lambda: _run(_naive, sink)}
        return interleaved(jobs, min(rounds, 3))


def _share(of: list[dict[str, float]]) -> float:
    return statistics.median(each["delivered"] / each["asked"] for each in of) * 100


def rows(figures: dict[str, Any]) -> list[Row]:
    asked = statistics.median(each["asked"] for each in figures["ours"])
    delivered = statistics.median(each["delivered"] for each in figures["ours"])
    return [
        Row(
            name="busy",
            what=f"delivered beside a busy program that asks {RATE:,} events/s, all CPUs",
            limit=f"a naive thread, {NAIVE_BATCH} a batch: {_share(figures['naive']):.0f} %",
            ours=f"{delivered:,.0f} of {asked:,.0f} events/s",
            value=_share(figures["ours"]),
            unit=" %",
            target=90,
            sense=Sense.AT_LEAST,
        )
    ]
