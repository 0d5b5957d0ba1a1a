"""How long to wait after a failure."""

from __future__ import annotations

from dataclasses import dataclass
from sys import float_info

from ._shown import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to send a batch again that failed for a passing reason.

    Raises:
        TypeError: an option is not a number.
        ValueError: an option is out of its range.
    """

    base: float = 3.0
    """Seconds; the ceiling doubles from here with each attempt.  More than 0."""
    cap: float = 1800.0
    """Seconds; no drawn delay is longer.  At least ``base``."""
    max_attempts: int | None = None
    """Failed sends of one batch after which it is given up; None for no limit.  At least 1.  An immediate
    resend over a stale connection and one after a changed key do not count."""
    max_elapsed: float | None = None
    """Seconds since the first send of a batch after which it is given up; None for no limit.  More than 0."""

    def __post_init__(self) -> None:
        _check_seconds("base", self.base)
        _check_seconds("cap", self.cap)
        if self.cap < self.base:
            raise ValueError(f"RetryPolicy cap must be at least base ({self.base:g}), not {self.cap:g}")
        if self.max_attempts is not None:
            if type(self.max_attempts) is not int:
                kind = type(self.max_attempts).__name__
                raise TypeError(f"RetryPolicy max_attempts must be an int or None, not {kind}")
            if self.max_attempts < 1:
                raise ValueError(f"RetryPolicy max_attempts must be at least 1, not {shown(self.max_attempts)}")
        if self.max_elapsed is not None:
            _check_seconds("max_elapsed", self.max_elapsed)


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"RetryPolicy {name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= float_info.max:  # an int can be larger
        raise ValueError(f"RetryPolicy {name} must be more than 0 and finite, not {shown(value)}")


def backoff(attempt: int, *, base: float, cap: float, unit: float) -> float:
    """Seconds to wait after failed attempt *attempt* (from 1); *unit* is a draw from [0, 1).

    Full jitter, as the old SDK drew it: uniform between 0 and ``min(cap, base * 2 ** attempt)``.
    """
    try:
        ceiling = min(cap, base * 2.0**attempt)
    except OverflowError:  # floats end near attempt 1024
        ceiling = cap
    return unit * ceiling
