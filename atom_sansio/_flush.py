"""What became of the events that were pending when somebody asked, and of single ones that somebody follows."""

from __future__ import annotations

from weakref import ref

from ._messages import FlushResult, Loss, Outcome


class Flush:
    """Follows the events that were pending at one moment until each has its outcome."""

    __slots__ = ("__weakref__", "_delivered", "_left", "_lost", "_pending")

    def __init__(self, pending: int) -> None:
        self._delivered = 0
        self._lost = 0
        self._pending = pending
        self._left = False

    @property
    def done(self) -> bool:
        """Whether every one of them has its outcome, or is left in the backlog."""
        return self._pending == 0 or self._left

    @property
    def result(self) -> FlushResult:
        """What is known so far."""
        return FlushResult(delivered=self._delivered, lost=self._lost, pending=self._pending)

    def leave(self) -> None:
        """What has no outcome by now gets none."""
        self._left = True

    def _settle_event(self, *, delivered: bool, loss: Loss | None) -> None:
        self._settle(1, delivered=delivered)

    def _leave_event(self, *, kept: bool) -> None:
        self.leave()

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

    def leave(self, *, kept: bool) -> None:
        """What has no outcome by now gets none, whether it is *kept* or not."""
        if (flush := self._flush()) is not None:
            flush.leave()

    def settle(self, events: int, *, after: int, delivered: bool, loss: Loss | None = None) -> None:
        """Take note that *events* of the lane have their outcome, which *after* older ones have not."""
        mine = min(events, max(0, self.left - after))
        self.left -= mine
        flush = self._flush()
        if flush is not None:
            flush._settle(mine, delivered=delivered)


class Receipt:
    """Follows one event until it has its outcome; made when ``track`` is asked for a receipt."""

    __slots__ = ("__weakref__", "_loss", "_outcome")

    def __init__(self) -> None:
        self._outcome: Outcome | None = None
        self._loss: Loss | None = None

    @property
    def outcome(self) -> Outcome | None:
        """None as long as there is none."""
        return self._outcome

    @property
    def loss(self) -> Loss | None:
        """If the event is lost, what it was lost with, and why."""
        return self._loss

    @property
    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome is not None

    def _settle_event(self, *, delivered: bool, loss: Loss | None) -> None:
        self._settle(Outcome.DELIVERED if delivered else Outcome.LOST, loss)

    def _leave_event(self, *, kept: bool) -> None:
        if kept:
            self._settle(Outcome.KEPT)

    def _settle(self, outcome: Outcome, loss: Loss | None = None) -> None:
        if self._outcome is None:
            self._outcome, self._loss = outcome, loss

    def __repr__(self) -> str:
        outcome = "no outcome yet" if self._outcome is None else self._outcome.value
        return f"<{type(self).__module__}.{type(self).__name__} {outcome}>"


class EventShare:
    """The one event of a lane, which *before* others come before, that a receipt follows, or that joins a flush late.

    Held weakly, as above.
    """

    __slots__ = ("_before", "_follower", "left")

    def __init__(self, follower: Receipt | Flush, before: int) -> None:
        self._follower = ref(follower)
        self._before = before
        self.left = 1

    @property
    def wanted(self) -> bool:
        """Whether somebody still holds what follows it."""
        return self._follower() is not None

    def settle(self, events: int, *, after: int, delivered: bool, loss: Loss | None = None) -> None:
        """Take note that *events* of the lane have their outcome, which *after* older ones have not."""
        if self._before >= after + events:
            self._before -= events
        elif self.left and self._before >= after:
            self.left = 0
            follower = self._follower()
            if follower is not None:
                follower._settle_event(delivered=delivered, loss=loss)

    def leave(self, *, kept: bool) -> None:
        """All ends; that the event is *kept* is an outcome for a receipt."""
        follower = self._follower()
        if follower is not None and self.left:
            follower._leave_event(kept=kept)
