"""What is lost: counted, told to those who wait for it, and kept until it is reported."""

from __future__ import annotations

from collections import deque

from ._lane import Batch, Lane
from ._ledger import Ledger
from ._messages import Loss, LossReason, ReportLoss


class Losses:
    """Every event that is accepted and never delivered comes through here, once.

    Args:
        ledger: where they are counted.
        unix_offset: what to add to ``now`` to get Unix seconds.
    """

    def __init__(self, ledger: Ledger, *, unix_offset: float) -> None:
        self._ledger = ledger
        self._unix_offset = unix_offset
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
        self._ledger.settle_lost(batch.events, len(batch.lines), reason)
        lane.settle_flushes(batch.events, after=after, delivered=False)
        self._report(lane.stream, batch, reason, status, message, now)

    def lose_at_once(self, stream: str, line: bytes, reason: LossReason, message: str, *, now: float) -> None:
        """An event was accepted and lost in one, without ever being pending."""
        self._ledger.count_lost(1, reason)
        self._report(stream, Batch("", line, 1), reason, None, message, now)

    def _report(
        self, stream: str, batch: Batch, reason: LossReason, status: int | None, message: str, now: float
    ) -> None:
        loss = Loss(
            stream=stream,
            lines=batch.lines,
            reason=reason,
            status=status,
            message=message,
            attempts=batch.attempts,
            time=now + self._unix_offset,
        )
        self.reports.append(ReportLoss(loss=loss))
