"""A flush follows the events that were pending, and no others."""

from __future__ import annotations

import gc

import pytest

from atom_sansio import Flush, FlushResult, Outcome, Receipt
from atom_sansio._flush import EventShare, FlushShare


def test_nothing_pending() -> None:
    """With nothing to wait for it is done at once."""
    assert Flush(0).done
    assert Flush(0).result == FlushResult(delivered=0, lost=0, pending=0)
    assert bool(Flush(0).result)


def test_shares() -> None:
    """Two lanes settle their shares; what was tracked later does not count."""
    flush = Flush(5)
    a, b = FlushShare(flush, 3), FlushShare(flush, 2)
    a.settle(2, after=0, delivered=True)
    b.settle(1, after=0, delivered=False)
    assert flush.result == FlushResult(delivered=2, lost=1, pending=2)
    a.settle(10, after=0, delivered=True)
    assert not flush.done
    b.settle(10, after=0, delivered=True)
    assert flush.result == FlushResult(delivered=4, lost=1, pending=0)
    assert flush.done
    a.settle(1, after=0, delivered=False)
    assert flush.result == FlushResult(delivered=4, lost=1, pending=0)


@pytest.mark.parametrize(("after", "lost"), [(0, 2), (2, 2), (3, 1), (4, 0), (9, 0)])
def test_behind_others(after: int, lost: int) -> None:
    """Of events that come after others without an outcome only those count that were pending then."""
    flush = Flush(4)
    share = FlushShare(flush, 4)
    share.settle(2, after=after, delivered=False)
    assert flush.result.lost == lost
    assert share.left == 4 - lost


def test_held_weakly() -> None:
    """A flush that nobody holds is gone, and its share does no harm."""
    flush = Flush(1)
    share = FlushShare(flush, 1)
    assert share.wanted
    del flush
    gc.collect()
    assert not share.wanted
    share.settle(1, after=0, delivered=True)
    assert share.left == 0


@pytest.mark.parametrize(("lost", "pending", "truth"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_truth(lost: int, pending: int, truth: bool) -> None:
    """A result is true if everything was delivered."""
    assert bool(FlushResult(delivered=3, lost=lost, pending=pending)) is truth


def test_left_in_a_backlog() -> None:
    """What a closed tracker leaves in its backlog is pending, and not waited for."""
    flush, gone = Flush(3), Flush(1)
    shares = FlushShare(flush, 3), FlushShare(gone, 1)
    del gone
    shares[0].settle(1, after=0, delivered=True)
    for share in shares:
        share.leave(kept=True)
    assert flush.done
    assert flush.result == FlushResult(delivered=1, lost=0, pending=2)


def test_a_receipt_for_one_among_others() -> None:
    """What settles before its event, or after it, does not settle it."""
    receipt = Receipt()
    share = EventShare(receipt, 2)
    share.settle(2, after=3, delivered=True)  # later ones, of which the lane lets go first
    share.settle(2, after=0, delivered=True)
    assert receipt.outcome is None
    share.settle(1, after=0, delivered=True)
    share.leave(kept=True)
    receipt._settle(Outcome.LOST)
    assert receipt.outcome is Outcome.DELIVERED


def test_a_flush_that_an_event_has_joined_late() -> None:
    """It hears of that event, or ends when all does."""
    flush, left = Flush(1), Flush(1)
    EventShare(flush, 0).settle(1, after=0, delivered=True)
    assert flush.result == FlushResult(delivered=1, lost=0, pending=0)
    EventShare(left, 0).leave(kept=False)
    assert left.done
    assert left.result == FlushResult(delivered=0, lost=0, pending=1)


def test_a_receipt_of_what_may_not_be_kept() -> None:
    """When all ends it has no outcome before its event is known to be kept, or is lost."""
    receipt = Receipt()
    share = EventShare(receipt, 0)
    share.leave(kept=False)
    assert receipt.outcome is None
    share.settle(1, after=0, delivered=False)
    share.leave(kept=True)
    assert receipt.outcome is Outcome.LOST


def test_a_receipt_that_nobody_holds() -> None:
    """It is told nothing more."""
    share = EventShare(Receipt(), 0)
    gc.collect()
    assert not share.wanted
    share.leave(kept=True)
    share.settle(1, after=0, delivered=True)
    assert share.left == 0
