"""How many events there are, and what became of the rest."""

from __future__ import annotations

import sys
from types import MappingProxyType

from ._messages import LossReason


class Ledger:
    """Counts events from acceptance to outcome, within one budget.

    ``room_bytes`` and ``room_events`` are what the budget has left; ``track`` reads and lowers them
    directly, since that is the hottest path there is.
    """

    __slots__ = ("_max_bytes", "_max_events", "delivered", "lost", "room_bytes", "room_events")

    def __init__(self, *, max_bytes: int, max_events: int | None) -> None:
        self._max_bytes = self.room_bytes = max_bytes
        self._max_events = self.room_events = sys.maxsize if max_events is None else max_events
        self.delivered = 0
        self.lost: dict[LossReason, int] = {}

    @property
    def pending(self) -> int:
        """Events without an outcome."""
        return self._max_events - self.room_events

    @property
    def pending_bytes(self) -> int:
        """Their encoded size."""
        return self._max_bytes - self.room_bytes

    def settle_delivered(self, events: int, size: int) -> None:
        """*events* of *size* bytes were delivered."""
        self._release(events, size)
        self.delivered += events

    def settle_lost(self, events: int, size: int, reason: LossReason) -> None:
        """*events* of *size* bytes are lost."""
        self._release(events, size)
        self.count_lost(events, reason)

    def count_lost(self, events: int, reason: LossReason) -> None:
        """*events* were accepted and lost at once, without ever being pending."""
        self.lost[reason] = self.lost.get(reason, 0) + events

    def lost_by_reason(self) -> MappingProxyType[LossReason, int]:
        """A copy that stays as it is."""
        return MappingProxyType(dict(self.lost))

    def _release(self, events: int, size: int) -> None:
        self.room_events += events
        self.room_bytes += size
