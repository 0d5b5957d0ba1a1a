"""Ours beside what users would pick instead, as ``peers`` measures it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

EVENTS = 20_000


def available() -> bool:
    """Whether there is anything to compare with in this checkout."""
    return importlib.util.find_spec(f"{__package__}.peers") is not None


def measure(rounds: int) -> list[dict[str, Any]]:
    """One dictionary each, the limit loop's first; takes some minutes, more when environments are to be made."""
    rows: list[dict[str, Any]] = importlib.import_module(f"{__package__}.peers").compare(rounds, EVENTS)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """All of it, as a Markdown table."""
    lines = [
        "| | version | CPU us an event | x limit | call us, median | 99 % | B a pending event | lost of a burst |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["error"]:
            lines.append(f"| {row['name']} | {row['version'] or ''} | not measured: {row['error']} | | | | | |")
            continue
        burst = row["burst"]
        cells = [
            row["name"],
            row["version"] or "",
            _figure(row["net_us"], 2),
            _figure(row["ratio"], 1),
            _figure(row["call_median_us"], 2),
            _figure(row["call_p99_us"], 1),
            _figure(row["pending_bytes"], 0),
            f"{burst['lost']:,} of {burst['asked']:,}" if burst else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
