"""What the collector stores a second, as ``collector.py`` measures it."""

from __future__ import annotations

import importlib
import statistics
from typing import Any

from .rows import Row, Sense, number


def measure(rounds: int) -> dict[str, Any]:
    """What ``collector(rounds)`` gives.

    Its ``events_per_second`` and ``cpu_us`` an event are numbers or lists of them by round; ``breakdown`` says how
    many of the latter go where.
    """
    figures: dict[str, Any] = importlib.import_module(f"{__package__}.collector").collector(rounds)
    return figures


def _median(figure: Any) -> float:
    return statistics.median(figure) if isinstance(figure, list) else float(figure)


def rows(figures: dict[str, Any]) -> list[Row]:
    rate = _median(figures["events_per_second"])
    return [
        Row(
            name="collector",
            what="collector: 64-event batches, verified and stored in SQLite, one process",
            limit="",
            ours=f"{number(_median(figures['cpu_us']))} us of CPU an event",
            value=rate,
            unit=" events/s",
            target=100_000,
            sense=Sense.AT_LEAST,
        )
    ]


def details(figures: dict[str, Any]) -> str:
    """Where the time goes, as a Markdown table."""
    lines = ["| collector, part | us of CPU an event |", "| --- | ---: |"]
    lines += [f"| {part} | {number(_median(cost))} |" for part, cost in figures.get("breakdown", {}).items()]
    return "\n".join(lines)
