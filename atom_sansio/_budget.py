"""How many requests may be retries, so that a service in trouble is not sent much more than one that is well."""

from __future__ import annotations

from math import inf
from typing import Final

RATE: Final = 8.0
"""Retries a second that are always allowed, in the long run."""

RESERVE: Final = 8
"""Retries at most that may be made at once."""

SHARE: Final = 0.125
"""Of a retry, what each first attempt allows beside them."""


class RetryBudget:
    """Bounds the retries of all lanes together; one that is over it is put off, not dropped.

    The pauses after failures bound the retries of one lane, and the breaker those to an endpoint that gives no
    answer at all.  This is for the rest: many lanes, and an endpoint that fails again and again, but not always.
    A retry that is delivered costs nothing, so that nobody waits longer than the trouble lasts.
    """

    __slots__ = ("next_at",)

    def __init__(self) -> None:
        self.next_at = -inf
        """When the next retry may go, had there been no limit to what is saved up since."""

    def spend(self, now: float) -> None:
        """A batch is sent again."""
        self.next_at = max(self.next_at, now - (RESERVE - 1) / RATE) + 1 / RATE

    def earn(self) -> None:
        """A batch is sent for the first time."""
        self.next_at -= SHARE / RATE

    def give_back(self) -> None:
        """A retry was delivered."""
        self.next_at -= 1 / RATE
