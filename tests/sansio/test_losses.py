"""What is lost is counted, reported, told to whoever waits for it, and kept if it can be mended."""

from __future__ import annotations

from itertools import count

import pytest

from atom_sansio import AuthKey, Flush, Level, Loss, LossReason, Outcome, Receipt, ReportLoss
from atom_sansio._inlet import Inlet
from atom_sansio._keeper import Keeper
from atom_sansio._lane import Batch, Lane
from atom_sansio._ledger import Ledger
from atom_sansio._losses import Losses

PERMANENT = {LossReason.REJECTED, LossReason.REDIRECTED, LossReason.TOO_LARGE, LossReason.EXPIRED}


def make(keeper: Keeper | None = None) -> tuple[Losses, Ledger]:
    ledger = Ledger(max_bytes=1000, max_events=100)
    return Losses(ledger, unix_offset=1000.0, keeper=keeper, ids=(f"id-{n}" for n in count(1))), ledger


def reported(losses: Losses) -> list[Loss]:
    commands = list(losses.reports)
    losses.reports.clear()
    assert all(type(command) is ReportLoss for command in commands)
    return [command.loss for command in commands]


def test_a_batch() -> None:
    """Its loss says all that is known of it, and its room is free again."""
    losses, ledger = make()
    lane = Lane("s", AuthKey("k"))
    batch = Batch.of("b", b"1\n2\n", 2)
    batch.attempts = 3
    ledger.restore(2, 4)
    losses.lose(lane, batch, LossReason.REJECTED, 400, "no", now=5.0)
    assert reported(losses) == [
        Loss(
            stream="s",
            lines=b"1\n2\n",
            count=2,
            reason=LossReason.REJECTED,
            status=400,
            message="no",
            attempts=3,
            time=1005.0,
        )
    ]
    assert (ledger.pending, ledger.pending_bytes, ledger.lost) == (0, 0, {LossReason.REJECTED: 2})


def test_whoever_waits() -> None:
    """A flush counts those of its events that are lost, and no others; a receipt has the loss itself."""
    losses, _ = make()
    lane = Lane("s", None, inlet=Inlet(None, "s", 0.0, bytearray(b"1\n2\n"), 2))
    receipt, flush = Receipt(), Flush(2)
    lane.join_receipt(receipt)
    lane.join_flush(flush)
    losses.lose(lane, Batch.of("b", b"1\n2\n3\n", 3), LossReason.EXPIRED, None, "late", now=0.0)
    assert (flush.result.lost, flush.result.pending) == (2, 0)
    assert receipt.outcome is Outcome.LOST
    assert [receipt.loss] == reported(losses)


@pytest.mark.parametrize("reason", LossReason)
def test_dead_letters(reason: LossReason) -> None:
    """Beside a backlog what was refused for good is kept, under the id of its batch or one of its own."""
    keeper = Keeper(Level.MEMORY)
    losses, _ = make(keeper)
    losses.lose(Lane("s", AuthKey("k")), Batch.of("b", b"1\n", 1), reason, 400, "no", now=0.0)
    losses.lose_at_once("s", b"2\n", reason, "no", now=0.0)
    update = keeper.update(0.0)
    if reason not in PERMANENT:
        assert update is None
        return
    assert update is not None
    assert [(letter.letter_id, letter.fingerprint, letter.loss) for letter in update.dead] == [
        (letter_id, fingerprint, loss)
        for letter_id, fingerprint, loss in zip(
            ("b", "id-1"), (AuthKey("k").fingerprint, None), reported(losses), strict=True
        )
    ]


def test_a_batch_that_is_kept() -> None:
    """The backlog need not keep it any more."""
    keeper = Keeper(Level.MEMORY)
    losses, _ = make(keeper)
    lane, batch = Lane("s", None), Batch.of("b", b"1\n", 1)
    keeper.put(lane, batch)
    keeper.update(0.0)
    keeper.updated(0)
    losses.lose(lane, batch, LossReason.STOPPED, None, "", now=0.0)
    update = keeper.update(0.0)
    assert update is not None
    assert update.drop == ("b",)


def test_a_batch_that_only_the_backlog_has() -> None:
    """Its loss has the number of its events, and none of them."""
    losses, ledger = make()
    batch = Batch("b", None, 2, 4)
    ledger.restore(2, 4)
    losses.lose(Lane("s", None), batch, LossReason.DAMAGED, None, "no", now=0.0)
    [loss] = reported(losses)
    assert (loss.count, loss.lines, ledger.pending_bytes) == (2, b"", 0)


def test_at_once() -> None:
    """An event that was never pending takes no room, and its receipt knows."""
    losses, ledger = make()
    receipt = Receipt()
    losses.lose_at_once("s", b"1\n", LossReason.BACKLOG_FULL, "no room", now=5.0, receipt=receipt)
    losses.lose_at_once("s", b"2\n", LossReason.BACKLOG_FULL, "no room", now=5.0)
    first, second = reported(losses)
    assert (first.lines, first.count, first.status, first.message, first.time) == (b"1\n", 1, None, "no room", 1005.0)
    assert second.lines == b"2\n"
    assert (receipt.outcome, receipt.loss) == (Outcome.LOST, first)
    assert (ledger.pending, ledger.lost) == (0, {LossReason.BACKLOG_FULL: 2})


def test_damaged_records() -> None:
    """They count as restored and lost; whose they were and what they held nobody knows."""
    losses, ledger = make()
    losses.lose_damaged(3, now=5.0)
    assert reported(losses) == [
        Loss(
            stream="",
            lines=b"",
            count=3,
            reason=LossReason.DAMAGED,
            status=None,
            message="records of the backlog are damaged",
            attempts=0,
            time=1005.0,
        )
    ]
    assert (ledger.restored, ledger.lost, ledger.pending) == (3, {LossReason.DAMAGED: 3}, 0)
