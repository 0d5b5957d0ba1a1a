"""The old SDK's way with a setting that is out of range: warn, and go on with the default."""

from __future__ import annotations

import logging
from math import inf
from typing import TypeVar

from atom_sansio._shown import shown

_T = TypeVar("_T", int, float)


def read_number(logger: logging.Logger, name: str, value: object, default: _T, *, low: float, high: float = inf) -> _T:
    """*value* if it is from *low* to *high*, else *default*; whole if *default* is an ``int``."""
    wanted = int if isinstance(default, int) else (int, float)
    if not isinstance(value, bool) and isinstance(value, wanted) and low <= value <= high:
        return value
    range_ = f"from {low:g} up" if high == inf else f"from {low:g} to {high:g}"
    kind = "an int" if isinstance(default, int) else "a number"
    logger.warning("%s must be %s %s, not %s: %r is taken", name, kind, range_, shown(value), default)
    return default
