"""The ledger counts every event once."""

from __future__ import annotations

import sys

import pytest

from atom_sansio import LossReason
from atom_sansio._inlet import Inlet
from atom_sansio._ledger import Ledger


def ledger(max_events: int | None = 10) -> Ledger:
    it = Ledger(max_bytes=100, max_events=max_events)
    it.room_events -= 5
    it.room_bytes -= 50
    return it


def test_pending() -> None:
    """What was taken from the room is pending."""
    assert (ledger().pending, ledger().pending_bytes) == (5, 50)
    assert ledger(None).pending == 5
    assert ledger(None).room_events == sys.maxsize - 5


def test_lending() -> None:
    """An inlet is lent what it wants while there is plenty, and no more than it needs from the last eighth."""
    it = Ledger(max_bytes=800, max_events=80)
    inlet = Inlet(None, "s", 0.0)
    it.lend(inlet, 10, want_bytes=500, want_events=20)
    assert (inlet.lent_bytes, inlet.lent_events, it.room_bytes, it.room_events) == (500, 20, 300, 60)
    inlet.append(b"x" * 10)
    it.lend(inlet, 10, want_bytes=500, want_events=20)
    assert (it.room_bytes, it.room_events) == (300, 60), "it has what it wants"
    it.lend(inlet, 10, want_bytes=5000, want_events=2000)
    assert (it.room_bytes, it.room_events) == (100, 10)
    other = Inlet(None, "t", 0.0)
    it.lend(other, 7, want_bytes=500, want_events=20)
    assert (other.lent_bytes, other.lent_events, it.room_bytes, it.room_events) == (7, 1, 93, 9)
    it.take_back(inlet, used_bytes=10, used_events=1)
    assert (inlet.lent_bytes, inlet.lent_events, it.room_bytes, it.room_events) == (10, 1, 783, 78)


def test_room() -> None:
    """There is room for an event if both its bytes and one more event have room."""
    assert ledger().has_room(50)
    assert not ledger().has_room(51)
    it = ledger()
    it.room_events = 0
    assert not it.has_room(1)


def test_reserved() -> None:
    """Room that is reserved for an event is nobody else's, until nobody wants it any more."""
    it = Ledger(max_bytes=100, max_events=10)
    it.reserve(30)
    it.reserve(20)
    assert (it.reserved_events, it.reserved_bytes, it.pending, it.pending_bytes) == (2, 50, 2, 50)
    it.unreserve(20)
    assert (it.reserved_events, it.reserved_bytes, it.pending, it.pending_bytes) == (1, 30, 1, 30)


def test_what_is_in_a_backlog() -> None:
    """What it held before and what is left in it is pending, though there is no room; only the former is restored."""
    it = Ledger(max_bytes=100, max_events=10)
    it.restore(8, 90)
    assert (it.restored, it.pending, it.pending_bytes) == (8, 8, 90)
    it.leave(4, 30)
    assert (it.restored, it.pending, it.pending_bytes) == (8, 12, 120)
    assert not it.has_room(1)


def test_an_event_that_an_inlet_was_not_lent_room_for() -> None:
    """It is made up for by just that, also beyond what there is."""
    it = Ledger(max_bytes=100, max_events=10)
    inlet = Inlet(None, "s", 0.0)
    inlet.append(b"x" * 120)
    it.catch_up(inlet)
    assert (inlet.lent_events, inlet.lent_bytes) == (1, 120)
    assert (it.pending, it.pending_bytes) == (1, 120)
    it.catch_up(inlet)
    assert (it.pending, it.pending_bytes) == (1, 120)


@pytest.mark.parametrize(("bytes_", "events"), [(100, 60), (110, 60), (700, 9), (700, 11)])
def test_what_is_of_no_use_is_not_lent(bytes_: int, events: int) -> None:
    """Bytes without events are none, nor events without bytes."""
    it = Ledger(max_bytes=800, max_events=80)
    it.reserve(800 - bytes_)
    for _ in range(79 - events):
        it.reserve(0)
    inlet = Inlet(None, "s", 0.0)
    it.lend(inlet, 10, want_bytes=500, want_events=20)
    assert (inlet.lent_bytes, inlet.lent_events, it.room_bytes, it.room_events) == (10, 1, bytes_ - 10, events - 1)


def test_an_inlet_that_has_what_it_holds() -> None:
    """It is lent nothing more to catch up, and what it has beyond that is left to it when room is short."""
    it = Ledger(max_bytes=800, max_events=80)
    inlet = Inlet(None, "s", 0.0)
    it.catch_up(inlet)
    assert (inlet.lent_events, inlet.lent_bytes) == (0, 0)
    it.lend(inlet, 10, want_bytes=500, want_events=20)
    it.reserve(250)
    for _ in range(55):
        it.reserve(0)
    it.lend(inlet, 10, want_bytes=500, want_events=20)
    assert (inlet.lent_events, inlet.lent_bytes, it.room_events, it.room_bytes) == (20, 500, 4, 50)


def test_outcomes() -> None:
    """An outcome makes room, and is counted as what it is."""
    it = ledger()
    it.settle_delivered(2, 20)
    it.settle_lost(1, 10, LossReason.EXPIRED)
    it.settle_lost(1, 10, LossReason.EXPIRED)
    assert (it.pending, it.pending_bytes, it.delivered) == (1, 10, 2)
    assert it.lost_by_reason() == {LossReason.EXPIRED: 2}
    assert (it.room_events, it.room_bytes) == (9, 90)


def test_lost_at_once() -> None:
    """What was never pending takes no room when it is lost."""
    it = ledger()
    it.count_lost(1, LossReason.BACKLOG_FULL)
    assert (it.pending, it.pending_bytes) == (5, 50)
    assert it.lost_by_reason() == {LossReason.BACKLOG_FULL: 1}


def test_a_copy() -> None:
    """What was read stays as it was, and cannot be written."""
    it = ledger()
    before = it.lost_by_reason()
    it.count_lost(1, LossReason.STOPPED)
    assert before == {}
    with pytest.raises(TypeError):
        before[LossReason.STOPPED] = 1  # type: ignore[index]
