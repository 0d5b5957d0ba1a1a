"""Most events get in without a decision; whatever happens at the same time, each is counted and sent once."""

from __future__ import annotations

import json
from collections.abc import Callable
from traceback import TracebackException
from typing import Any

import pytest

from atom_sansio import (
    AuthKey,
    BacklogFull,
    EventError,
    EventTooLarge,
    EventTypeError,
    Intake,
    LossReason,
    Options,
    Receipt,
    Reply,
    ReportLoss,
    SendRequest,
    TrackerClosed,
    TrackerCore,
)
from atom_sansio._inlet import NO_INLET


class Tracker(Intake[Receipt]):
    """A core with an intake; it knows how many events were not taken in without a decision."""

    def __init__(self, **options: Any) -> None:
        self.core = TrackerCore(Options.read({"endpoint": "http://h/", **options}, {}, lambda name: None), source="s")
        self._lanes, self._late = self.core.lanes, self.core.late
        self.decided = 0
        self.handed: list[tuple[str | AuthKey | None, bool]] = []

    track = Intake._take

    def _decide(self, stream: str, line: bytes, auth_key: str | AuthKey | None, receipt: bool) -> None:
        self.decided += 1
        self.handed.append((auth_key, receipt))
        self.core.track_line(stream, line, None if auth_key is None else AuthKey.of(auth_key), now=0.0)

    def flush(self) -> None:
        self.core.flush(now=0.0)

    def arrived(self) -> list[Any]:
        """The events that are sent and delivered when everything is."""
        events: list[Any] = []
        self.core.flush(now=0.0)
        while (command := self.core.next_command(now=0.0)) is not None:
            if isinstance(command, SendRequest):
                events += json.loads(json.loads(command.request.body)["data"])
                self.core.response_received(
                    command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.0
                )
        return events

    def losses(self) -> list[tuple[Any, LossReason]]:
        found = []
        while (command := self.core.next_command(now=0.0)) is not None:
            if isinstance(command, ReportLoss):
                found += [(event, command.loss.reason) for event in command.loss.events]
        return found

    def interrupt(
        self, *, before: Callable[[], object] = int, after: Callable[[], object] = int, stream: str = "a"
    ) -> None:
        """Have something happen just before or after the next event is appended, as threads and handlers can."""

        class Lines(bytearray):
            def __iadd__(self, line: Any) -> Lines:  # type: ignore[override, misc]
                inlet.lines = lines
                before()
                lines.extend(line)
                after()
                return self

        inlet = self._lanes[stream].inlet
        lines = inlet.lines
        inlet.lines = Lines(lines)


def test_without_a_decision() -> None:
    """After a stream's first event the next ones are taken in at once, counted, and sent in order."""
    t = Tracker()
    events = [{"n": n, "none": None, "text": "é"} for n in range(50)]
    for event in events:
        t.track("a", event)
    assert t.decided == 1
    assert t.core.statistics().accepted == t.core.statistics().pending == 50
    assert t.arrived() == events
    assert t.core.statistics().delivered == 50


def test_a_full_batch_is_a_decision() -> None:
    """The event that makes a batch full is decided about, and the first one after it."""
    t = Tracker(max_batch_events=10)
    for n in range(10):
        t.track("a", n)
    assert t.decided == 2
    assert isinstance(t.core.next_command(now=0.0), SendRequest)
    t.track("a", 10)
    assert t.decided == 3


def test_late_events_are_taken_up_by_what_comes_next() -> None:
    """Who has put an event in too late may be held up before saying so in a call: any other call looks."""
    t = Tracker()
    t.track("a", 1)
    inlet = t._lanes["a"].inlet
    t.flush()
    inlet.lines += b"2\n"
    t._late.append(inlet)
    assert t.core.statistics().pending == 1
    t.core.next_deadline()
    assert t.core.statistics().pending == 2
    assert t.arrived() == [1, 2]


def test_the_next_event_is_decided_about() -> None:
    """Where a driver asks for that; an inlet that is closed stays closed, and the one that stands for none."""
    t = Tracker()
    t.track("a", 1)
    t.core.decide_next("a")
    t.track("a", 2)
    t.track("a", 3)
    assert t.decided == 2
    inlet = t._lanes["a"].inlet
    t.flush()
    for stream in ("a", "b"):
        t.core.decide_next(stream)
    assert inlet.max_size == NO_INLET.max_size == -1
    assert t.arrived() == [1, 2, 3]


def test_late_events_have_room() -> None:
    """What was put in just when the room that was lent for it was taken back counts at once."""
    t = Tracker()
    t.track("a", 1)
    inlet = t._lanes["a"].inlet
    t.core._admission._take_back_unused()
    assert t.core._ledger.pending == 1
    inlet.lines += b"2\n"
    inlet.events += 1
    t._late.append(inlet)
    t.core.next_deadline()
    assert (t.core._ledger.pending, inlet.lent_events) == (2, 2)


def test_what_cannot_be_sent() -> None:
    """It is refused as a decision would, and nothing is accepted."""
    t = Tracker(max_batch_bytes=1024)
    t.track("a", 1)
    for event, error in [
        (float("nan"), EventError),
        ({"a": [1, {"b": float("inf")}]}, EventError),
        ({"a": object()}, EventTypeError),
        ("x" * 2000, EventTooLarge),
    ]:
        with pytest.raises(error):
            t.track("a", event)
    for stream in (None, 7, [], ""):
        with pytest.raises((TypeError, ValueError), match="stream"):
            t.track(stream, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="auth_key"):
        t.track("a", 1, 7)  # type: ignore[arg-type]
    assert t.core.statistics().accepted == 1


def test_a_key_of_its_own() -> None:
    """An event with a key of its own is always decided about, and goes into a batch of its own."""
    t = Tracker()
    t.track("a", 1)
    t.track("a", 2, "key")
    t.track("a", 3, auth_key=AuthKey("key"))
    assert t.decided == 3
    assert t.arrived() == [1, 2, 3]


@pytest.mark.parametrize("stream", ["a", "new"])
@pytest.mark.parametrize("event", [1, None])
def test_what_is_handed_over(stream: str, event: object) -> None:
    """A decision is asked for with a key that is hidden already, and a plain yes or no to a receipt."""
    for receipt, asked in ((None, False), (False, False), (True, True), (1, True)):
        for key in ("key", AuthKey("key"), None):
            t = Tracker()
            t.track("a", 1)
            t.track(stream, event, key, receipt)  # type: ignore[call-overload]  # 1 is as good as True
            hidden, handed = t.handed[-1]
            assert hidden == (None if key is None else AuthKey("key"))
            assert handed is asked


@pytest.mark.parametrize("stream", ["a", "new"])
def test_a_key_that_a_traceback_might_show(stream: str) -> None:
    """What cannot be sent is refused by calls whose local variables do not have the key's text."""
    t = Tracker()
    t.track("a", 1)
    try:
        t.track(stream, float("nan"), "canary")
    except EventError as error:
        # Those of the test itself are not ours to hide.
        lines = list(TracebackException.from_exception(error, capture_locals=True).stack)[1:]
    assert lines
    assert all("canary" not in repr(line.locals) for line in lines)


@pytest.mark.parametrize("limit", [{"max_pending_events": 5}, {"max_batch_bytes": 1024, "max_pending_bytes": 1024}])
def test_the_budget(limit: dict[str, Any]) -> None:
    """What is lent without a decision is part of the budget, to the last event of any stream."""
    t = Tracker(on_full="raise", **limit)
    accepted = 5 if "max_pending_events" in limit else 1024 // 63
    for n in range(accepted):
        t.track("ab"[n % 2], "x" * 60)
    for stream in "abc":
        with pytest.raises(BacklogFull):
            t.track(stream, "x" * 60)
    statistics = t.core.statistics()
    assert statistics.pending == accepted
    assert statistics.pending_bytes == accepted * 63
    assert len(t.arrived()) == accepted
    t.track("a", 1)


def test_closed() -> None:
    """After close nothing more gets in, whoever has tracked before."""
    t = Tracker()
    t.track("a", 1)
    t.track("a", 2)
    t.core.close(now=0.0)
    with pytest.raises(TrackerClosed):
        t.track("a", 3)
    assert t.arrived() == [1, 2]


def test_late() -> None:
    """An inlet is closed just before an event is put in: the event is taken in again, behind what was there."""
    t = Tracker()
    t.track("a", 1)
    t.track("a", 2)
    t.interrupt(before=t.flush)
    t.track("a", 3)
    t.track("a", 4)
    statistics = t.core.statistics()
    assert (statistics.accepted, statistics.pending, statistics.pending_bytes) == (4, 4, 8)
    assert t.handed == [(None, False)] * t.decided, "a receipt is asked for with the event, or not at all"
    assert t.arrived() == [1, 2, 3, 4]


def test_just_in_time() -> None:
    """An inlet is closed just after an event was put in: the event went along, and is not taken in twice."""
    t = Tracker()
    t.track("a", 1)
    t.interrupt(after=t.flush)
    t.track("a", 2)
    assert t.core.statistics().pending == 2
    assert t.arrived() == [1, 2]


def test_late_and_over() -> None:
    """What came late to a tracker that takes no more is counted as lost, and reported."""
    t = Tracker()
    t.track("a", 1)
    t.interrupt(before=lambda: t.core.abandon(now=0.0))
    t.track("a", "late")
    assert ("late", LossReason.STOPPED) in t.losses()
    statistics = t.core.statistics()
    assert statistics.lost == {LossReason.STOPPED: 2}
    assert (statistics.accepted, statistics.pending) == (2, 0)


@pytest.mark.parametrize("on_full", ["raise", "block", "drop_newest", "drop_oldest"])
def test_late_and_no_room(on_full: str) -> None:
    """What came late was accepted while there was room: it is over the budget, and nothing is lost for it."""
    t = Tracker(max_pending_events=3, on_full=on_full)
    t.track("a", 1)
    t.interrupt(before=lambda: (t.flush(), t.track("b", 2), t.track("b", 3)))
    t.track("a", "late")
    assert t.core.statistics().pending == 4
    assert not t.core.statistics().lost
    assert sorted(map(str, t.arrived())) == ["1", "2", "3", "late"]
    assert t.core.statistics().delivered == 4


def test_late_and_nothing_lent() -> None:
    """What was lent is taken back just before an event is put in: it is over the budget, and counted at once."""
    t = Tracker(max_pending_events=3, on_full="raise")
    t.track("a", 1)
    t.interrupt(before=lambda: (t.track("b", 2), t.track("b", 3)))
    t.track("a", 4)
    assert t.core.statistics().pending == 4
    for stream in "abc":
        with pytest.raises(BacklogFull, match="4 events, 8 bytes are pending"):
            t.track(stream, 5)
    assert sorted(t.arrived()) == [1, 2, 3, 4]
    assert t.core.statistics().delivered == 4
    t.track("a", 6)


@pytest.mark.parametrize(("lent", "decided"), [(1, 1), (0, 2)])
def test_less_is_lent(lent: int, decided: int) -> None:
    """What is lent shrinks just before an event is put in: only if nothing is left is that the core's concern."""
    t = Tracker()
    t.track("a", 1)
    inlet = t._lanes["a"].inlet
    t.interrupt(before=lambda: setattr(inlet, "max_size", lent))
    t.track("a", 2)
    assert t.decided == decided
    assert t.arrived() == [1, 2]


def test_late_counts_against_others() -> None:
    """What came over the budget is counted at once, so that others find no more room than there is."""
    t = Tracker(max_pending_events=4, max_batch_events=3, on_full="raise")
    t.track("a", 1)
    t.interrupt(before=lambda: [t.track("b", n) for n in (2, 3, 4)])
    t.track("a", 5)
    command = t.core.next_command(now=0.0)
    assert isinstance(command, SendRequest)
    t.core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.0)
    t.track("b", 6)
    t.track("b", 7)
    with pytest.raises(BacklogFull, match="4 events, 8 bytes are pending"):
        t.track("b", 8)
    assert sorted(t.arrived()) == [1, 5, 6, 7]


def test_to_the_last_byte_lent() -> None:
    """An event that just fits into what is lent is taken in without a decision, one that is longer is not."""
    for event, decided in (("xx", 1), ("xxx", 2)):
        t = Tracker()
        t.track("a", "yy")
        t._lanes["a"].inlet.max_size = 10
        t.track("a", event)
        assert t.decided == decided


def test_late_within_another_call() -> None:
    """A handler that comes late during a call of the core leaves its event for the end of that call."""
    t = Tracker()
    t.track("a", 1)
    t.track("a", 2)

    def during_a_call() -> None:
        t.flush()
        t.core._busy = True

    t.interrupt(before=during_a_call)
    t.track("a", 3)
    assert t.core.statistics().pending == 2
    t.core._busy = False
    t.flush()
    assert t.core.statistics().pending == 3
    assert t.arrived() == [1, 2, 3]


def test_several_that_are_late() -> None:
    """One whose inlet is open still holds up none whose inlet is closed."""
    t = Tracker(max_batch_events=3)
    for stream in "ab":
        t.track(stream, 1)

    def nothing_lent() -> None:
        t._lanes["a"].inlet.max_size = 0
        t.core._busy = True

    def full() -> None:
        t.track("b", 2)
        t.track("b", 3)
        t.interrupt(before=nothing_lent)
        t.track("a", 2)

    t.interrupt(before=full, stream="b")
    t.track("b", 4)
    t.core._busy = False
    assert t.core.track_line("a", b"", now=0.0)
    assert t.core.statistics().pending == 6
    assert sorted(t.arrived()) == [1, 1, 2, 2, 3, 4]


def test_who_has_to_look_for_what_is_late() -> None:
    """Whoever tells of it does."""
    assert Tracker().core.track_line("a", b"", now=0.0) is True


def test_a_driver_must_decide() -> None:
    """An intake that does not say what happens to the rest is no driver."""
    bare = Intake()
    bare._lanes = {}
    with pytest.raises(NotImplementedError):
        bare._take("a", 1)
