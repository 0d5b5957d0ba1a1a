"""What is lost: counted, told to those who wait for it, kept with the reason, and held until it is reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from ._flush import Receipt
from ._keeper import Keeper
from ._kept import DeadLetter
from ._lane import Batch, Lane
from ._ledger import Ledger
from ._messages import Loss, LossReason, Outcome, ReportLoss

_PERMANENT: Final = (LossReason.REJECTED, LossReason.REDIRECTED, LossReason.TOO_LARGE, LossReason.EXPIRED)
"""Of these a backlog keeps dead letters: whatever is mended can be sent again."""


class Losses:
    """Every event that is accepted and never delivered comes through here, once.

    Args:
        ledger: where they are counted.
        unix_offset: what to add to ``now`` to get Unix seconds.
        keeper: what keeps dead letters, if anything does.
        ids: makes ids for those that had none.
    """

    def __init__(self, ledger: Ledger, *, unix_offset: float, keeper: Keeper | None, ids: Iterator[str]) -> None:
        self._ledger = ledger
        self._unix_offset = unix_offset
        self._keeper = keeper
        self._ids = ids
        self.reports: deque[ReportLoss] = deque()
        """Not given to the driver yet."""

    def lose(
        self,
        lane: Lane,
        batch: Batch,
        reason: LossReason,
        status: int | None,
        message: str,
        *,
        now: float,
        after: int = 0,
    ) -> None:
        """The events of *batch*, which stand behind the *after* oldest of *lane*, are lost."""
        self._ledger.settle_lost(batch.events, batch.size, reason)
        loss = self._report(lane.stream, lane.fingerprint, batch, reason, status, message, now)
        lane.settle_flushes(batch.events, after=after, delivered=False, loss=loss)
        if self._keeper is not None:
            self._keeper.settled(lane, batch)

    def lose_at_once(
        self,
        stream: str,
        line: bytes,
        reason: LossReason,
        message: str,
        *,
        now: float,
        receipt: Receipt | None = None,
    ) -> None:
        """An event was accepted and lost in one, without ever being pending."""
        self._ledger.count_lost(1, reason)
        loss = self._report(stream, None, Batch.of("", line, 1), reason, None, message, now)
        if receipt is not None:
            receipt._settle(Outcome.LOST, loss)

    def lose_damaged(self, events: int, *, now: float) -> None:
        """So many records of a backlog, accepted in an earlier life, cannot be read any more."""
        self._ledger.restored += events
        self._ledger.count_lost(events, LossReason.DAMAGED)
        batch = Batch.of("", b"", events)
        self._report("", None, batch, LossReason.DAMAGED, None, "records of the backlog are damaged", now)

    def _report(
        self,
        stream: str,
        fingerprint: str | None,
        batch: Batch,
        reason: LossReason,
        status: int | None,
        message: str,
        now: float,
    ) -> Loss:
        loss = Loss(
            stream=stream,
            lines=batch.lines or b"",
            count=batch.events,
            reason=reason,
            status=status,
            message=message,
            attempts=batch.attempts,
            time=now + self._unix_offset,
        )
        self.reports.append(ReportLoss(loss=loss))
        if self._keeper is not None and reason in _PERMANENT:
            letter_id = batch.batch_id or next(self._ids)
            self._keeper.bury(DeadLetter(letter_id=letter_id, fingerprint=fingerprint, loss=loss))
        return loss
