"""Whose turn it is, when, and how lanes are found."""

from __future__ import annotations

from itertools import pairwise

import pytest

from atom_sansio import AuthKey, LaneInput, LaneState
from atom_sansio._inlet import NO_INLET, Inlet
from atom_sansio._lane import Lane
from atom_sansio._ledger import Ledger
from atom_sansio._schedule import Ages, Schedule

OLD, NEW = AuthKey("old"), AuthKey("new")


def lane(stream: str = "s", key: AuthKey | None = None, *, pinned: bool = False, events: int = 1) -> Lane:
    return Lane(stream, key, pinned=pinned, inlet=Inlet(None, stream, 0.0, bytearray(b"1\n" * events), events))


def test_found() -> None:
    """A lane is found by stream and key while it holds events; without a key only if it is for such events."""
    schedule = Schedule()
    plain, pinned = lane(key=OLD), lane(key=NEW, pinned=True)
    for it in (plain, pinned):
        schedule.add(it)
    assert schedule.find("s", OLD) is plain
    assert schedule.find("s", NEW) is pinned
    assert schedule.by_stream == {"s": plain}
    assert (len(schedule), list(schedule), plain in schedule) == (2, [plain, pinned], True)
    schedule.remove(plain)
    assert (schedule.find("s", OLD), schedule.by_stream, plain in schedule) == (None, {}, False)
    pinned.pinned = False
    schedule.unpin(pinned)
    assert schedule.by_stream == {"s": pinned}
    schedule.unpin(plain)
    assert schedule.by_stream == {"s": pinned}, "a lane that holds nothing is not found"


def test_another_key() -> None:
    """With another key a lane is found under that, and two lanes of one key go on side by side."""
    schedule = Schedule()
    plain, pinned = lane(key=OLD), lane(key=NEW, pinned=True)
    schedule.add(pinned)
    schedule.add(plain)
    schedule.rekey(plain, NEW)
    assert plain.key == NEW
    assert schedule.find("s", OLD) is None
    assert schedule.find("s", NEW) is pinned
    assert schedule.by_stream == {"s": plain}
    schedule.remove(plain)
    assert schedule.find("s", NEW) is pinned
    schedule.remove(pinned)
    assert len(schedule) == 0


def test_a_key_that_has_no_lane() -> None:
    """Under a new key a lane is found if it is alone, whoever takes over."""
    for take_over in (False, True):
        for pinned in (False, True):
            schedule = Schedule()
            it = lane(key=OLD, pinned=pinned)
            schedule.add(it)
            schedule.rekey(it, NEW, take_over=take_over)
            assert schedule.find("s", NEW) is it
            assert schedule.find("s", OLD) is None


def test_turns() -> None:
    """Ready lanes have their turns in order; one that was emptied meanwhile has none."""
    schedule = Schedule()
    lanes = [lane(str(n)) for n in range(3)]
    for it in lanes:
        schedule.add(it)
        schedule.make_ready(it)
        assert it.state is LaneState.READY
    schedule.remove(lanes[0])
    assert schedule.has_unfailed()
    assert schedule.take() is lanes[1]
    assert schedule.take() is lanes[2]
    assert schedule.take() is None
    assert not schedule.has_unfailed()


def test_turns_of_those_that_have_failed() -> None:
    """They are told apart from the others, and take their turns among them."""
    schedule = Schedule()
    lanes = [lane(str(n)) for n in range(4)]
    for number, it in enumerate(lanes):
        it.attempt = number % 2
        schedule.add(it)
        schedule.make_ready(it)
    assert schedule.has_retry()
    assert [schedule.take() for _ in lanes] == lanes
    assert not schedule.has_retry()


@pytest.mark.parametrize("attempt", [0, 1])
def test_turns_of_lanes_that_are_gone(attempt: int) -> None:
    """Whether or not they had failed they have none, and nobody waits for one then."""
    schedule = Schedule()
    is_one_ready = schedule.has_retry if attempt else schedule.has_unfailed
    lanes = [lane(name) for name in "abc"]
    for it in lanes:
        it.attempt = attempt
        schedule.add(it)
        schedule.make_ready(it)
    gone, stays, last = lanes
    schedule.remove(gone)
    assert is_one_ready()
    assert schedule.take() is stays
    assert is_one_ready()
    schedule.remove(last)
    assert not is_one_ready()
    assert (schedule.take_retry(), schedule.take_unfailed(), schedule.take()) == (None, None, None)


def test_a_turn_beside_one_of_a_lane_that_is_gone() -> None:
    """A lane that has not failed has its turn though one that had is gone."""
    schedule = Schedule()
    gone, stays = lane("a"), lane("b")
    gone.attempt = 1
    for it in (gone, stays):
        schedule.add(it)
        schedule.make_ready(it)
    schedule.remove(gone)
    assert schedule.take() is stays
    assert schedule.take() is None


def test_a_lane_that_has_not_failed_goes_first() -> None:
    """As a probe an untried lane is taken before those that failed, wherever it stands; else the first."""
    schedule = Schedule()
    failed, gone, fresh = lane("a"), lane("b"), lane("c")
    failed.attempt = 2
    for it in (failed, gone, fresh):
        schedule.add(it)
        schedule.make_ready(it)
    schedule.remove(gone)
    assert schedule.take_unfailed() is fresh
    assert schedule.take_unfailed() is None
    assert schedule.take_retry() is failed
    assert schedule.take_unfailed() is None


def test_timers() -> None:
    """A lane is ready at the very time it was armed for, once, and a later arming replaces the earlier."""
    schedule = Schedule()
    early, late = lane("a", events=3), lane("b")
    for it, when in ((late, 2.0), (early, 1.0), (late, 3.0)):
        schedule.add(it)
        schedule.arm(it, when)
    assert schedule.next_timer() == 1.0
    assert schedule.take_timed(0.999) is None
    assert schedule.take_timed(1.0) is early
    assert schedule.take_timed(2.5) is None
    assert schedule.next_timer() == 3.0
    assert schedule.take_timed(3.0) is late
    assert schedule.take_timed(9.0) is None
    assert schedule.next_timer() is None


def test_a_time_that_is_over() -> None:
    """It makes a lane ready once, and not if the lane is gone."""
    schedule = Schedule()
    it, gone = lane("a"), lane("b")
    for each in (it, gone):
        schedule.add(each)
        for _ in range(2):
            schedule.arm(each, 1.0)
    schedule.remove(gone)
    assert [schedule.take_timed(1.0) for _ in range(2)] == [it, None]


def test_nothing_is_due() -> None:
    """A lane whose first event a signal handler has kept out has no turn, is gone, and gives back what it was lent."""
    schedule, ledger = Schedule(), Ledger(max_bytes=1000, max_events=100)
    it = lane(events=0)
    it.inlet.ledger = ledger
    ledger.room_bytes, ledger.room_events = 960, 96
    it.inlet.lent_bytes, it.inlet.lent_events = 40, 4
    schedule.add(it)
    schedule.make_due(it)
    assert schedule.take() is None
    assert it not in schedule
    assert (ledger.room_bytes, ledger.room_events) == (1000, 100)
    assert it.inlet is NO_INLET


def test_making_ready_disarms() -> None:
    """What is ready already is not made ready again by its timer."""
    schedule = Schedule()
    it = lane()
    schedule.add(it)
    schedule.arm(it, 1.0)
    schedule.make_ready(it)
    assert schedule.take_timed(1.0) is None
    assert schedule.take() is it
    assert schedule.take() is None
    it.state = LaneState.PARKED
    schedule.make_ready(it, LaneInput.NEW_KEY)
    assert schedule.take() is it


def test_timers_of_the_past_are_cleared_out() -> None:
    """However often lanes come and go before their time, what is kept is in proportion to the lanes there are."""
    schedule = Schedule()
    stays = lane("stays")
    schedule.add(stays)
    schedule.arm(stays, 5000.0)
    for n in range(1000):
        it = lane()
        schedule.add(it)
        schedule.arm(it, 3600.0 + n)
        schedule.arm(it, 3600.0)
        schedule.make_ready(it)
        schedule.take()
        schedule.remove(it)
    assert len(schedule._timers) < 100
    assert schedule.take_timed(4999.0) is None
    assert schedule.next_timer() == 5000.0


def drops(lengths: list[int]) -> list[tuple[int, int]]:
    """Where it became shorter, from what to what."""
    return [(before, after) for before, after in pairwise(lengths) if after < before]


def test_how_many_timers_there_are() -> None:
    """64 of the past beside twice as many as there are lanes, and one; then all but those that count are forgotten."""
    schedule = Schedule()
    lanes = [lane(name) for name in "abc"]
    for it in lanes:
        schedule.add(it)
    for it in lanes[:2]:
        schedule.arm(it, 9.0)
    lengths = []
    for n in range(120):
        schedule.arm(lanes[2], 1000.0 - n)
        lengths.append(len(schedule._timers))
    assert drops(lengths) == [(71, 4)]
    assert schedule.take_timed(500.0) is lanes[0], "of equal times the one that was armed first"
    assert schedule.take_timed(500.0) is lanes[1]
    assert schedule.take_timed(500.0) is None
    assert schedule.take_timed(1000.0 - 119) is lanes[2]


def test_times_when_others_are_cleared_out() -> None:
    """Those that count come in their order, whatever the order of their lanes is."""
    schedule = Schedule()
    late, early, again = (lane(name) for name in "abc")
    for it, when in ((late, 50.0), (early, 20.0)):
        schedule.add(it)
        schedule.arm(it, when)
    schedule.add(again)
    for n in range(100):
        schedule.arm(again, 1000.0 - n)
    assert schedule.next_timer() == 20.0
    assert [schedule.take_timed(now) for now in (20.0, 50.0, 1000.0)] == [early, late, again]


def test_making_all_due() -> None:
    """All that waits for more has its turn then, lane by lane, and so has what begins to wait later, if asked again."""
    schedule = Schedule()
    lanes = [lane(name) for name in "abc"]
    for number, it in enumerate(lanes):
        schedule.add(it)
        schedule.arm(it, 10.0 + number)
    schedule.make_ready(lanes[1])
    schedule.make_all_due()
    assert [it.inlet.lines == b"" for it in lanes] == [True, False, True]
    assert [schedule.take() for _ in range(4)] == [lanes[1], lanes[0], lanes[2], None]
    assert schedule.next_timer() is None
    late = lane("d")
    schedule.add(late)
    schedule.arm(late, 20.0)
    schedule.make_all_due()
    assert schedule.take() is late


def test_taking_over() -> None:
    """A lane with another key takes events with that key over, unless those without a key go where these went."""
    schedule = Schedule()
    plain, pinned = lane(key=OLD), lane(key=NEW, pinned=True)
    for it in (pinned, plain):
        schedule.add(it)
    schedule.rekey(plain, NEW, take_over=True)
    assert schedule.find("s", NEW) is plain
    assert schedule.at(("s", NEW.fingerprint)) is plain
    assert schedule.by_stream == {"s": plain}

    schedule = Schedule()
    plain, pinned = lane(key=NEW), lane(key=OLD, pinned=True)
    for it in (pinned, plain):
        schedule.add(it)
    schedule.rekey(pinned, NEW, take_over=True)
    assert schedule.find("s", NEW) is plain
    assert schedule.find("s", OLD) is None

    schedule = Schedule()
    earlier, later = lane(key=OLD), lane(key=NEW)
    for it in (earlier, later):
        schedule.add(it)
    schedule.rekey(earlier, NEW, take_over=True)
    assert schedule.find("s", NEW) is earlier
    assert schedule.by_stream == {"s": earlier}

    schedule = Schedule()
    plain, pinned = lane(key=None), lane(key=OLD, pinned=True)
    for it in (pinned, plain):
        schedule.add(it)
    schedule.rekey(pinned, NEW, take_over=True)
    assert schedule.find("s", NEW) is pinned
    assert schedule.find("s", None) is plain


def test_back_from_the_backlog() -> None:
    """A lane that was there at its turn goes on before all others, the one that came back last first."""
    schedule = Schedule()
    first, second, third = (lane(name) for name in "abc")
    for it in (first, second, third):
        schedule.add(it)
        schedule.make_ready(it)
    for it in (first, second):
        assert schedule.take() is it
        it.fire(LaneInput.ASK_BACKLOG)
    second.attempt = 1
    for it in (first, second):
        schedule.make_next(it)
    assert [schedule.take() for _ in range(3)] == [second, first, third]


def test_back_from_the_backlog_after_a_failure() -> None:
    """What came back counts as failed lately if it has, and only then."""
    schedule = Schedule()
    failed, unfailed = lane("a"), lane("b")
    for it in (failed, unfailed):
        schedule.add(it)
        schedule.make_ready(it)
        assert schedule.take() is it
        it.fire(LaneInput.ASK_BACKLOG)
    failed.attempt = 1
    schedule.make_next(failed)
    assert (schedule.has_unfailed(), schedule.has_retry()) == (False, True)
    schedule.make_next(unfailed)
    assert schedule.take_unfailed() is unfailed
    assert schedule.take_retry() is failed


def test_oldest() -> None:
    """The lane that began to wait first, while it waits."""
    ages = Ages()
    assert ages.oldest() is None
    first, second = lane("a"), lane("b")
    for now, it in enumerate((first, second)):
        it.inlet.since = now
        ages.add(it, it.inlet.since)
    assert ages.oldest() is first
    first.inlet.close()
    assert ages.oldest() is second
    first.inlet = Inlet(None, "a", 2.0, bytearray(b"1\n"), 1)
    ages.add(first, first.inlet.since)
    assert ages.oldest() is second
    second.inlet.close()
    assert ages.oldest() is first


def test_ages_of_the_past_are_cleared_out() -> None:
    """However often lanes begin to wait, what is kept is in proportion to those that wait."""
    ages = Ages()
    waiting = [lane(str(n)) for n in range(3)]
    for n, it in enumerate(waiting):
        it.inlet.since = float(n)
        ages.add(it, it.inlet.since)
    for n in range(1000):
        it = lane("comes and goes")
        it.inlet.since = 10.0 + n
        ages.add(it, it.inlet.since)
        ages.add(waiting[0], waiting[0].inlet.since)
        it.inlet.close()
    assert len(ages._heap) < 200
    for it in waiting:
        assert ages.oldest() is it
        it.inlet.close()
    assert ages.oldest() is None


def test_how_many_ages_there_are() -> None:
    """64 of the past beside twice those that count, and one; then these are forgotten."""
    ages = Ages()
    gone, late, early, twin = (lane(name) for name in "abcd")
    for it, since in ((gone, 0.0), (late, 5.0), (early, 1.0), (twin, 1.0)):
        it.inlet.since = since
        ages.add(it, it.inlet.since)
    gone.inlet.close()
    lengths = []
    for n in range(140):
        it = lane()
        it.inlet.since = 10.0 + n
        ages.add(it, it.inlet.since)
        it.inlet.close()
        lengths.append(len(ages._heap))
    assert drops(lengths) == [(65, 4), (71, 4)]
    for it in (early, twin, late):
        assert ages.oldest() is it
        it.inlet.close()
    assert ages.oldest() is None


def test_ages_of_a_lane_that_waits_anew() -> None:
    """Those of its earlier events are of the past."""
    ages = Ages()
    it = lane()
    lengths = []
    for n in range(70):
        it.inlet = Inlet(None, "s", float(n), bytearray(b"1\n"), 1)
        ages.add(it, it.inlet.since)
        lengths.append(len(ages._heap))
    assert drops(lengths) == [(65, 1)]
