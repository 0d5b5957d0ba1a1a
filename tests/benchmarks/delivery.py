"""What an event costs from ``track()`` to the collector's answer, against the limit loops."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Collection
from typing import Any

from . import limits, ours
from .measure import delivered, interleaved, middle_half, pinned, ratio
from .rows import Row, us
from .sink import Sink
from .workload import LARGE, SMALL, counting_sink, numbered

COUNT = 64_000
"""Small events a run at large batches; half of it at 64 a batch, a quarter of large events."""
RUNS = 2
"""Runs of each a round: many short ones are disturbed less than a few long ones."""
LARGEST = 2000
"""Events in a batch of the limit loop that our default batch is held against."""


def on_loop(loop: str, program: Callable[..., Any], *args: Any, **options: Any) -> float:
    """CPU seconds of one run of *program* on *loop*."""
    spent: float = ours.on(loop, functools.partial(program, *args, **options))
    return spent


def _jobs(sink: Sink, count: int) -> dict[str, tuple[int, Callable[[], float]]]:
    """How many events each brings to the sink, and how."""
    small = numbered(SMALL, count)
    few = small[: count // 2]
    large = numbered(LARGE, count // 4)
    jobs: dict[str, tuple[int, Callable[[], float]]] = {
        "limit 2000": (len(small), lambda: limits.one_socket(sink, small, LARGEST)),
        "limit 64": (len(few), lambda: limits.one_socket(sink, few, 64)),
        "limit 1 KiB 2000": (len(large), lambda: limits.one_socket(sink, large, LARGEST)),
        "threads default": (len(small), lambda: ours.threads(sink, small)),
        "threads 64": (len(few), lambda: ours.threads(sink, few, max_batch_events=64)),
        "threads 1 KiB default": (len(large), lambda: ours.threads(sink, large)),
    }
    for loop in ours.LOOPS:
        on = functools.partial(on_loop, loop)
        jobs[f"limit {loop} 2000"] = len(small), functools.partial(on, limits.one_stream, sink, small, LARGEST)
        jobs[f"limit {loop} 64"] = len(few), functools.partial(on, limits.one_stream, sink, few, 64)
        jobs[f"{loop} default"] = len(small), functools.partial(on, ours.tasks, sink, small)
        jobs[f"{loop} 64"] = len(few), functools.partial(on, ours.tasks, sink, few, max_batch_events=64)
    return jobs


PAIRS = {
    "sync-default": ("threads, default batches", "threads default", "limit 2000", 2.4),
    "sync-64": ("threads, 64 a batch", "threads 64", "limit 64", 4.5),
    "asyncio-default": ("asyncio, default batches", "asyncio default", "limit asyncio 2000", 2.0),
    "trio-default": ("trio, default batches", "trio default", "limit trio 2000", 2.0),
    "uvloop-default": ("uvloop, default batches", "uvloop default", "limit uvloop 2000", 2.0),
    "asyncio-64": ("asyncio, 64 a batch", "asyncio 64", "limit asyncio 64", None),
    "trio-64": ("trio, 64 a batch", "trio 64", "limit trio 64", None),
    "uvloop-64": ("uvloop, 64 a batch", "uvloop 64", "limit uvloop 64", None),
    "sync-1k": ("threads, 1 KiB events, default batches", "threads 1 KiB default", "limit 1 KiB 2000", 1.25),
}
"""Row: what it says, whose figures over whose, target."""


def measure(rounds: int, names: Collection[str] = tuple(PAIRS)) -> dict[str, Any]:
    """CPU microseconds an event by round, of ours, the limits and the sink beside them, for the rows *names*."""
    wanted = {job for name in names for job in PAIRS[name][1:3]}
    sinks: dict[str, list[float]] = {name: [] for name in wanted}
    with pinned(), counting_sink() as sink:

        def run(name: str, events: int, loop: Callable[[], float]) -> float:
            spent = delivered(sink, events, loop)
            sinks[name].append(sink.stats()["cpu_us"] / events)
            return spent

        jobs = {name: functools.partial(run, name, *job) for name, job in _jobs(sink, COUNT).items() if name in wanted}
        return {"cpu_us": interleaved(jobs, rounds * RUNS), "sink_cpu_us": sinks}


def rows(figures: dict[str, Any]) -> list[Row]:
    cpu = figures["cpu_us"]
    return [
        Row(
            name=name,
            what=f"CPU an event, {what}",
            limit=f"{limit} {us(statistics.median(cpu[limit]))}",
            ours=us(statistics.median(cpu[mine])),
            value=ratio(cpu[mine], cpu[limit]),
            spread=middle_half(cpu[mine], cpu[limit]),
            target=target,
        )
        for name, (what, mine, limit, target) in PAIRS.items()
        if mine in cpu
    ]


def sink_cost(figures: dict[str, Any]) -> str:
    """How much of the CPU the sink itself took, beside the fastest clients."""
    cpu, sink = figures["cpu_us"], figures["sink_cpu_us"]
    shown = [
        f"{statistics.median(sink[name]):.3f} us an event beside `{name}` ({statistics.median(cpu[name]):.3f} us)"
        for name in ("limit 64", "limit 2000", "limit 1 KiB 2000")
        if name in sink
    ]
    return "The null collector itself needs " + ", ".join(shown) + "."
