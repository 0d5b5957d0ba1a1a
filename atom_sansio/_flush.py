"""What became of the events that were pending when somebody asked."""

from __future__ import annotations

from weakref import ref

from ._messages import FlushResult


class Flush:
    """Follows the events that were pending at one moment until each has its outcome."""

    __slots__ = ("__weakref__", "_delivered", "_lost", "_pending")

    def __init__(self, pending: int) -> None:
        self._delivered = 0
        self._lost = 0
        self._pending = pending

    @property
    def done(self) -> bool:
        """Whether every one of them has its outcome."""
        return self._pending == 0

    @property
    def result(self) -> FlushResult:
        """What is known so far."""
        return FlushResult(delivered=self._delivered, lost=self._lost, pending=self._pending)

    def _settle(self, events: int, *, delivered: bool) -> None:
        self._pending -= events
        if delivered:
            self._delivered += events
        else:
            self._lost += events


class FlushShare:
    """The part of a flush that one lane owes: its *left* oldest events, since a lane settles in order.

    Held weakly: a flush that nobody waits for any more costs nothing.
    """

    __slots__ = ("_flush", "left")

    def __init__(self, flush: Flush, left: int) -> None:
        self._flush = ref(flush)
        self.left = left

    @property
    def wanted(self) -> bool:
        """Whether somebody still holds the flush."""
        return self._flush() is not None

    def settle(self, events: int, *, after: int, delivered: bool) -> None:
        """Take note that *events* of the lane have their outcome, which *after* older ones have not."""
        mine = min(events, max(0, self.left - after))
        self.left -= mine
        flush = self._flush()
        if flush is not None:
            flush._settle(mine, delivered=delivered)
