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
    text: str = importlib.import_module(f"{__package__}.peers.run").table(rows)
    return text
