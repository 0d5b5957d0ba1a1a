"""The topics of the table, in its order.  Each is a module with ``measure(rounds)`` and ``rows(figures)``."""

from __future__ import annotations

from typing import Any, Protocol

from . import backlog, batches, burst, busy, calls, delivery, growth, idle, imports, latency, memory, stored
from .rows import Row


class Topic(Protocol):
    """One question of the table.  Some also have ``details(figures)``: Markdown to show below it."""

    def measure(self, rounds: int) -> dict[str, Any]:
        """Take the figures; what is returned can be written as JSON."""
        ...

    def rows(self, figures: dict[str, Any]) -> list[Row]:
        """What they say, against the targets."""
        ...


TOPICS: dict[str, Topic] = {
    "calls": calls,
    "delivery": delivery,
    "memory": memory,
    "growth": growth,
    "imports": imports,
    "idle": idle,
    "latency": latency,
    "busy": busy,
    "burst": burst,
    "batches": batches,
    "backlog": backlog,
    "collector": stored,
}
