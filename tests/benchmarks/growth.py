"""What an event costs as streams and backlog grow."""

from __future__ import annotations

import functools
import statistics
import time
from collections import deque
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import atom_sync

from . import limits, ours
from .held import Held
from .measure import delivered, interleaved, pinned, ratio
from .rows import Row, us
from .sink import Sink
from .workload import KEY, SMALL, STREAM, Event, counting_sink, numbered

STREAMS = (1, 10, 100, 1000)
BATCH = 64
"""Events a batch over many streams, so that every batch is full whatever their number."""
COUNT = 128_000
PENDING = (10_000, 100_000, 1_000_000)


def _streams_jobs(sink: Sink) -> dict[str, Callable[[], float]]:
    events = numbered(SMALL, COUNT)
    jobs = {}
    for count in STREAMS:
        streams = [f"bench.public.stream{i}" for i in range(count)]
        jobs[f"ours {count}"] = functools.partial(
            ours.threads_over_streams, sink, events, streams, max_batch_events=BATCH
        )
        jobs[f"limit {count}"] = functools.partial(limits.one_socket_over_streams, sink, events, streams, BATCH)
    return {name: functools.partial(delivered, sink, COUNT, job) for name, job in jobs.items()}


def _ours_pending(sink: Sink, events: list[Event], count: int) -> tuple[float, float]:
    """CPU microseconds an event of filling a backlog of *count*, and of emptying it."""
    fill = drain = 0.0
    times = _times(count)
    for _ in range(times):
        held = Held(atom_sync.SocketTransport())
        sink.reset()
        with atom_sync.Tracker(sink.url, auth_key=KEY, transport=held, max_pending_bytes=1 << 30) as tracker:
            track = tracker.track
            began = time.process_time()
            for event in chain.from_iterable(repeat(events, count // len(events))):
                track(STREAM, event)
            filled = time.process_time()
            held.release()
            ours.finish(tracker)
            drain += time.process_time() - filled
            fill += filled - began
        _arrived(sink, count)
    return fill / count / times * 1e6, drain / count / times * 1e6


def _limit_pending(sink: Sink, events: list[Event], count: int) -> tuple[float, float]:
    """The same of the limit loop."""
    fill = drain = 0.0
    times = _times(count)
    for _ in range(times):
        sink.reset()
        pending: deque[Event] = deque()
        append = pending.append
        began = time.process_time()
        for event in chain.from_iterable(repeat(events, count // len(events))):
            append(event)
        fill += time.process_time() - began
        drain += limits.from_a_deque(sink, pending, 2000)
        _arrived(sink, count)
    return fill / count / times * 1e6, drain / count / times * 1e6


def _times(count: int) -> int:
    """How often a small backlog is filled for one figure."""
    return max(1, min(10, 300_000 // count))


def _arrived(sink: Sink, count: int) -> None:
    seen = sink.stats()
    if (seen["events"], seen["repeated"]) != (count, count - PENDING[0]):  # the same events, again and again
        raise RuntimeError(f"{seen} at {count} pending")


def measure(rounds: int) -> dict[str, Any]:
    """CPU microseconds an event, by number of streams and by size of the backlog (fill, drain), by round."""
    with pinned(), counting_sink() as sink:
        streams = interleaved(_streams_jobs(sink), rounds)
        events = numbered(SMALL, PENDING[0])
        jobs = {f"ours {count}": functools.partial(_ours_pending, sink, events, count) for count in PENDING}
        jobs |= {f"limit {count}": functools.partial(_limit_pending, sink, events, count) for count in PENDING}
        pending = interleaved(jobs, rounds)
    return {"streams": streams, "pending": pending}


def steps(of: dict[str, Any], who: str, at: tuple[int, ...], part: int | None = None) -> list[tuple[float, float]]:
    """Microseconds an event, and the multiple of the first step, of *who* at each step.

    *part* is 0 for filling a backlog and 1 for emptying it.
    """
    series = [[each if part is None else each[part] for each in of[f"{who} {step}"]] for step in at]
    return [(statistics.median(each), ratio(each, series[0])) for each in series]


def rows(figures: dict[str, Any]) -> list[Row]:
    streams, pending = figures["streams"], figures["pending"]
    mine, least = steps(streams, "ours", STREAMS), steps(streams, "limit", STREAMS)
    result = [
        Row(
            name="streams",
            what="1,000 streams in turn over one, CPU an event at 64 a batch",
            limit=f"the limit grows {least[-1][1]:.2f}x",
            ours=f"{us(mine[0][0])} to {us(mine[-1][0])}",
            value=mine[-1][1],
            target=1.25,
        )
    ]
    for part, what in enumerate(("filling", "emptying")):
        mine, least = steps(pending, "ours", PENDING, part), steps(pending, "limit", PENDING, part)
        result.append(
            Row(
                name=f"pending-{what}",
                what=f"{what} a backlog of 10^6 over one of 10^4, CPU an event",
                limit=f"the limit grows {least[-1][1]:.2f}x",
                ours=f"{us(mine[0][0])} to {us(mine[-1][0])}",
                value=mine[-1][1],
                target=1.05,
            )
        )
    return result


def details(figures: dict[str, Any]) -> str:
    """Every step, as Markdown tables."""
    lines = ["| streams | ours, us an event | x | limit | x |", "| ---: | ---: | ---: | ---: | ---: |"]
    both = zip(
        STREAMS,
        steps(figures["streams"], "ours", STREAMS),
        steps(figures["streams"], "limit", STREAMS),
        strict=True,
    )
    lines += [f"| {step:,} | {a:.2f} | {x:.2f} | {b:.3f} | {y:.2f} |" for step, (a, x), (b, y) in both]
    lines += ["", "| pending | fill, us an event | x | drain | x | limit's drain | x |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    pending = figures["pending"]
    three = zip(
        PENDING,
        steps(pending, "ours", PENDING, 0),
        steps(pending, "ours", PENDING, 1),
        steps(pending, "limit", PENDING, 1),
        strict=True,
    )
    lines += [
        f"| {step:,} | {a:.2f} | {x:.2f} | {b:.2f} | {y:.2f} | {c:.3f} | {z:.2f} |"
        for step, (a, x), (b, y), (c, z) in three
    ]
    return "\n".join(lines)
