"""How figures are taken on a machine that others use too: on one CPU, interleaved, and with proof of delivery."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from .sink import Sink

T = TypeVar("T")


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep this thread, and the threads and processes that it starts, on one CPU.

    Across CPUs a loopback round trip costs 25 us in interrupts alone, which would hide what is to be seen.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})  # the first has more interrupts to serve
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def interleaved(jobs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each job gives, once a round, in an order that is random every time.

    What exists before a job is kept from the garbage collector while it runs: every job finds the same heap.
    """
    results: dict[str, list[T]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name in random.sample(list(jobs), len(jobs)):
            gc.collect()
            gc.freeze()
            try:
                results[name].append(jobs[name]())
            finally:
                gc.unfreeze()
    return results


def delivered(sink: Sink, count: int, loop: Callable[[], float], *, repeated: int = 0) -> float:
    """CPU microseconds an event of *loop*, which must bring the sink *count* events, *repeated* of them known ones.

    Raises:
        RuntimeError: the sink has counted otherwise.
    """
    sink.reset()
    spent = loop()
    seen = sink.stats()
    if (seen["events"], seen["repeated"]) != (count, repeated):
        raise RuntimeError(f"{seen['events']} events arrived, {seen['repeated']} repeatedly; there were {count}")
    return spent / count * 1e6


def ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    """The median of the rounds' ratios: what slows a round down slows down both."""
    return statistics.median(a / b for a, b in zip(ours, limit, strict=True))


def middle_half(ours: Sequence[float], limit: Sequence[float]) -> tuple[float, float] | None:
    """Between which ratios half of the rounds are: how much to believe of the median."""
    if len(ours) < 4:
        return None
    low, _, high = statistics.quantiles((a / b for a, b in zip(ours, limit, strict=True)), method="inclusive")
    return low, high
