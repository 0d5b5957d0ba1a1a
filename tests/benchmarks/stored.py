"""What the collector stores a second, as ``collector.py`` measures it."""

from __future__ import annotations

from typing import Any

from .collector import LOOPS, collector
from .rows import Row, Sense, number


def measure(rounds: int) -> dict[str, Any]:
    """What :func:`~tests.benchmarks.collector.collector` gives."""
    return collector(rounds)


def rows(figures: dict[str, Any]) -> list[Row]:
    return [
        Row(
            name=f"collector-{loop}",
            what=f"collector on {loop}: 64-event batches, verified and stored in SQLite, one process",
            limit="",
            ours=f"{number(figures[loop]['cpu'])} us of CPU an event",
            value=figures[loop]["per_second"],
            unit=" events/s",
            target=100_000,
            sense=Sense.AT_LEAST,
        )
        for loop in LOOPS
        if loop in figures
    ]


def details(figures: dict[str, Any]) -> str:
    """Where the time goes, as a Markdown table."""
    lines = ["| collector, part by itself | us of CPU an event |", "| --- | ---: |"]
    lines += [f"| {part} | {number(cost)} |" for part, cost in figures["parts"].items()]
    return "\n".join(lines)
