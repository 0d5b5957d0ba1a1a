"""How many events there are, and what became of the rest."""

from __future__ import annotations

import sys
from types import MappingProxyType

from ._inlet import Inlet
from ._messages import LossReason


class Ledger:
    """Counts events from acceptance to outcome, within one budget.

    What an inlet is lent is no room for others, whether it is used already or not.  So the budget is never
    exceeded, though most events are taken in without a look at it.
    """

    __slots__ = (
        "_max_bytes",
        "_max_events",
        "_spare_bytes",
        "_spare_events",
        "delivered",
        "lost",
        "reserved_bytes",
        "reserved_events",
        "restored",
        "room_bytes",
        "room_events",
    )

    def __init__(self, *, max_bytes: int, max_events: int | None) -> None:
        self._max_bytes = self.room_bytes = max_bytes
        self._max_events = self.room_events = sys.maxsize if max_events is None else max_events
        # The last eighth is lent for what it is used for, or others would find no room that nobody uses.
        self._spare_bytes = self._max_bytes // 8
        self._spare_events = self._max_events // 8
        self.reserved_bytes = self.reserved_events = 0
        """Room for events whose records are not written yet."""
        self.restored = 0
        self.delivered = 0
        self.lost: dict[LossReason, int] = {}

    @property
    def pending(self) -> int:
        """Events without an outcome, and those that inlets have been lent room for."""
        return self._max_events - self.room_events

    @property
    def pending_bytes(self) -> int:
        """Their encoded size."""
        return self._max_bytes - self.room_bytes

    def has_room(self, size: int) -> bool:
        """Whether an event of *size* bytes may be accepted."""
        return size <= self.room_bytes and self.room_events > 0

    def reserve(self, size: int) -> None:
        """Keep room for an event of *size* bytes that is not accepted yet."""
        self.room_bytes -= size
        self.room_events -= 1
        self.reserved_bytes += size
        self.reserved_events += 1

    def unreserve(self, size: int) -> None:
        """That room is free again."""
        self._release(1, size)
        self.reserved_bytes -= size
        self.reserved_events -= 1

    def leave(self, events: int, size: int) -> None:
        """*events* of *size* bytes are accepted, and go on pending, in the backlog."""
        self._release(-events, -size)

    def restore(self, events: int, size: int) -> None:
        """*events* of *size* bytes, accepted in an earlier life, are pending, whether there is room or not."""
        self._release(-events, -size)
        self.restored += events

    def lend(self, inlet: Inlet, size: int, *, want_bytes: int, want_events: int, events: int = 1) -> None:
        """Lend *inlet* room for *events* more of *size* bytes, and while there is plenty as much as it wants."""
        need_bytes = len(inlet.lines) + size - inlet.lent_bytes
        need_events = inlet.events + events - inlet.lent_events
        more_bytes = min(want_bytes - inlet.lent_bytes, self.room_bytes - self._spare_bytes)
        more_events = min(want_events - inlet.lent_events, self.room_events - self._spare_events)
        if more_bytes <= need_bytes or more_events <= need_events:  # nobody has any use for the one without the other
            more_bytes, more_events = need_bytes, need_events
        more_bytes, more_events = max(more_bytes, 0), max(more_events, 0)
        inlet.lent_bytes += more_bytes
        self.room_bytes -= more_bytes
        inlet.lent_events += more_events
        self.room_events -= more_events

    def catch_up(self, inlet: Inlet) -> None:
        """Lend *inlet* what it holds beyond what it was lent: an event was put in just when that was taken back."""
        self.lend(inlet, 0, want_bytes=0, want_events=0, events=0)

    def take_back(self, inlet: Inlet, *, used_bytes: int, used_events: int) -> None:
        """Take back from *inlet* what it does not use."""
        self.room_bytes += inlet.lent_bytes - used_bytes
        self.room_events += inlet.lent_events - used_events
        inlet.lent_bytes, inlet.lent_events = used_bytes, used_events

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
