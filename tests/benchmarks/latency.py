"""Whether a slow collector is made up for by requests in flight."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel

import atom_anyio
import atom_sync

from . import ours
from .limits import TURN
from .measure import interleaved
from .rows import Row, Sense
from .sink import Sink
from .workload import KEY, NEEDLE, SMALL, Event

DELAY = 0.02
IN_FLIGHT = (1, 2, 4, 8, 16)
BATCH = 64
REQUESTS = 40
"""Requests a stream: a run takes so many times the delay, whatever is in flight."""
KINDS = ("threads", "asyncio", "trio")


def _options(in_flight: int) -> dict[str, Any]:
    return {"auth_key": KEY, "max_batch_events": BATCH, "max_in_flight": in_flight}


def _arrivals(in_flight: int, requests: int) -> Iterator[tuple[str, Event]]:
    """Full batches for each of so many streams, a batch for one after a batch for the other."""
    streams = [f"bench.public.stream{i}" for i in range(in_flight)]
    for _ in range(requests):
        for stream in streams:
            for _ in range(BATCH):
                yield stream, SMALL


def _threads(sink: Sink, in_flight: int) -> float:
    """Events a second."""
    with atom_sync.Tracker(sink.url, **_options(in_flight)) as tracker:
        for stream, event in _arrivals(in_flight, 1):
            tracker.track(stream, event)
        ours.finish(tracker)
        began = time.perf_counter()
        for stream, event in _arrivals(in_flight, REQUESTS):
            tracker.track(stream, event)
        ours.finish(tracker)
        return in_flight * REQUESTS * BATCH / (time.perf_counter() - began)


async def _tasks(sink: Sink, in_flight: int) -> float:
    """Events a second."""
    async with atom_anyio.Tracker(sink.url, **_options(in_flight)) as tracker:
        for stream, event in _arrivals(in_flight, 1):
            tracker.track_nowait(stream, event)
        await ours.finish_async(tracker)
        began = time.perf_counter()
        for i, (stream, event) in enumerate(_arrivals(in_flight, REQUESTS)):
            tracker.track_nowait(stream, event)
            if not i % TURN:
                await anyio.lowlevel.checkpoint()
        await ours.finish_async(tracker)
        return in_flight * REQUESTS * BATCH / (time.perf_counter() - began)


def _run(kind: str, sink: Sink, in_flight: int) -> float:
    sink.reset()
    rate: float = (
        _threads(sink, in_flight) if kind == "threads" else ours.on(kind, functools.partial(_tasks, sink, in_flight))
    )
    if (arrived := sink.stats()["events"]) != (expected := in_flight * (REQUESTS + 1) * BATCH):
        raise RuntimeError(f"{kind}, {in_flight} in flight: {arrived} of {expected} events arrived")
    return rate


def measure(rounds: int) -> dict[str, Any]:
    """Events a second by driver and requests in flight, by round; on all CPUs, since it is about wall time."""
    with Sink(NEEDLE, delay=DELAY) as sink:
        jobs: dict[str, Callable[[], float]] = {
            f"{kind} {k}": functools.partial(_run, kind, sink, k) for kind in KINDS for k in IN_FLIGHT
        }
        return interleaved(jobs, min(rounds, 3))


def _scaling(figures: dict[str, Any], kind: str) -> dict[int, float]:
    """What *k* requests in flight bring, as a share of *k* times what one brings."""
    one = figures[f"{kind} 1"]
    return {
        k: statistics.median(a / b for a, b in zip(figures[f"{kind} {k}"], one, strict=True)) / k for k in IN_FLIGHT
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    result = []
    for kind in KINDS:
        scaling = _scaling(figures, kind)
        worst = min(scaling, key=lambda k: scaling[k])
        one, most = (statistics.median(figures[f"{kind} {k}"]) for k in (1, IN_FLIGHT[-1]))
        result.append(
            Row(
                name=f"latency-{kind}",
                what=f"20 ms server, 64 a batch, up to {IN_FLIGHT[-1]} in flight, {kind}",
                limit=f"k x one in flight; one brings {one:,.0f} events/s",
                ours=f"{most:,.0f} events/s with {IN_FLIGHT[-1]}; worst at {worst}",
                value=scaling[worst],
                target=0.95,
                sense=Sense.AT_LEAST,
            )
        )
    return result


def details(figures: dict[str, Any]) -> str:
    """Every step, as a Markdown table."""
    lines = ["| in flight | " + " | ".join(f"{kind}, events/s | of k x one" for kind in KINDS) + " |"]
    lines += ["| ---: |" + " ---: | ---: |" * len(KINDS)]
    for k in IN_FLIGHT:
        cells = [
            f"{statistics.median(figures[f'{kind} {k}']):,.0f} | {_scaling(figures, kind)[k]:.2f}" for kind in KINDS
        ]
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
