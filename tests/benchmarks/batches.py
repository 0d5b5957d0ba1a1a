"""What an event costs by batch size, for the plot."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

from . import limits, ours
from .delivery import on_loop
from .measure import delivered, interleaved, pinned
from .rows import Row
from .sink import Sink
from .workload import SMALL, counting_sink, numbered

SIZES = (1, 4, 16, 64, 256, 1000, 2000)
KINDS = ("limit", "threads", "limit asyncio", "asyncio", "limit trio", "trio")


def _count(batch: int) -> int:
    """Events a run, fewer where each costs more."""
    return min(32_000, 500 * batch)


def _job(kind: str, sink: Sink, batch: int) -> Callable[[], float]:
    events = numbered(SMALL, _count(batch))
    # The largest body there may be, so that the number of events alone decides.
    options = {"max_batch_events": batch, "max_batch_bytes": 512 * 1024}
    if kind == "limit":
        return lambda: limits.one_socket(sink, events, batch)
    if kind == "threads":
        return lambda: ours.threads(sink, events, **options)
    loop = kind.split()[-1]
    if kind.startswith("limit"):
        return functools.partial(on_loop, loop, limits.one_stream, sink, events, batch)
    return functools.partial(on_loop, loop, ours.tasks, sink, events, **options)


def measure(rounds: int) -> dict[str, Any]:
    """CPU microseconds an event, by kind, batch size and round."""
    with pinned(), counting_sink() as sink:
        jobs = {
            f"{kind} {batch}": functools.partial(delivered, sink, _count(batch), _job(kind, sink, batch))
            for kind in KINDS
            for batch in SIZES
        }
        return interleaved(jobs, min(rounds, 3))


def rows(figures: dict[str, Any]) -> list[Row]:
    return []


def series(figures: dict[str, Any]) -> dict[str, list[float]]:
    """The medians along :data:`SIZES`, by kind."""
    return {kind: [statistics.median(figures[f"{kind} {batch}"]) for batch in SIZES] for kind in KINDS}


def details(figures: dict[str, Any]) -> str:
    """CPU microseconds an event, as a Markdown table."""
    lines = ["| events a batch | " + " | ".join(KINDS) + " |", "| ---: |" + " ---: |" * len(KINDS)]
    for i, batch in enumerate(SIZES):
        lines.append(f"| {batch:,} | " + " | ".join(f"{series(figures)[kind][i]:.2f}" for kind in KINDS) + " |")
    return "\n".join(lines)
