"""Which lane an event goes to, whether there is room, and when there is something to do for it."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import Any

import pytest

from atom_sansio import (
    AuthKey,
    BacklogFull,
    EventTooLarge,
    LaneInput,
    LaneState,
    Level,
    Loss,
    LossReason,
    Mark,
    Options,
    Outcome,
    Receipt,
    UpdateBacklog,
    encode_event,
)
from atom_sansio._admission import Admission
from atom_sansio._inlet import Inlet
from atom_sansio._keeper import Keeper
from atom_sansio._kept import KeptRecords
from atom_sansio._lane import Batch, Lane, split
from atom_sansio._ledger import Ledger
from atom_sansio._losses import Losses
from atom_sansio._recording import Record
from atom_sansio._schedule import Schedule

OLD, NEW = AuthKey("old"), AuthKey("new")


class Admitting(Admission):
    """An admission with all that it works on."""

    def __init__(self, level: Level | None = None, *, window: int = 10**9, memory: int = 10**9, **options: Any) -> None:
        self.options = Options.read({"endpoint": "http://h/", **options}, {}, lambda name: None)
        self.schedule = Schedule()
        self.ledger = Ledger(max_bytes=self.options.max_pending_bytes, max_events=self.options.max_pending_events)
        self.keeper = None if level is None else Keeper(level, window=window, memory=memory)
        ids = (f"id-{n}" for n in count(1))
        self.losses = Losses(self.ledger, unix_offset=0.0, keeper=self.keeper, ids=ids)
        super().__init__(self.options, self.schedule, self.ledger, self.losses, self.keeper, ids)

    def put(self, line: bytes, stream: str = "s", key: AuthKey | None = None, *, now: float = 0.0) -> float:
        """Accept an event."""
        return self.accept(stream, line, key, now)

    def record(self, line: bytes, stream: str = "s", key: AuthKey | None = None, **more: Any) -> Record:
        """Admit an event, which has room, and keep that."""
        record = self.admit(stream, line, key, 0.0, waits=True, **more)
        assert record is not None
        self.ledger.reserve(len(line))
        return record

    def lane(self, stream: str = "s") -> Lane:
        return self.schedule.by_stream[stream]

    def lost(self) -> list[Loss]:
        return [report.loss for report in self.losses.reports]

    def update(self) -> UpdateBacklog:
        assert self.keeper is not None
        update = self.keeper.update(0.0)
        assert update is not None
        self.keeper.updated(self.resident)
        return update


def number(size: int) -> bytes:
    """An event of that many bytes, none of which has to be escaped."""
    return b"1" * (size - 1) + b"\n"


def test_learning() -> None:
    """Bodies are half as large as one that was refused, but never as small as to hold hardly an event."""
    it = Admitting()
    for refused, learned in ((10_001, 5000), (20_000, 5000), (6000, 3000), (100, 1024)):
        it.learn_max_bytes(refused)
        assert it.max_bytes == learned


def test_keys() -> None:
    """A key is found by its fingerprint, wherever it was given, and options stay as they were."""
    it = Admitting(auth_key="default", auth_keys={"s": OLD})
    assert it.key_of("t", OLD.fingerprint) == OLD
    assert it.key_of("s", AuthKey("default").fingerprint) == AuthKey("default")
    assert it.key_of("s", NEW.fingerprint) is None
    it.set_key("s", NEW)
    assert it.key_of("t", NEW.fingerprint) == NEW
    assert it.options.auth_keys == {"s": OLD}


def test_plain() -> None:
    """A lane is for events without a key of their own if theirs is the stream's, or the default, or none."""
    it = Admitting(auth_keys={"s": OLD})
    assert it.is_plain("s", OLD.fingerprint)
    assert not it.is_plain("s", None)
    assert it.is_plain("t", None)
    assert not it.is_plain("t", OLD.fingerprint)


@pytest.mark.parametrize("level", [Level.MEMORY, Level.PROCESS])
def test_another_key_beside_records(level: Level) -> None:
    """Where there are records two lanes that get the same key are put in batches first, else they go on as they are."""
    it = Admitting(level)
    it.put(b"1\n")
    it.put(b"2\n", key=NEW)
    plain, other = it.schedule
    it.rekey(plain, NEW)
    sealed = level is Level.PROCESS
    assert [len(lane.batches) for lane in (plain, other)] == [sealed, sealed]
    assert it.schedule.find("s", NEW) is (plain if sealed else other)
    assert not it.woken


def test_a_lane_that_waited_for_its_key() -> None:
    """An event that brings the key lets it go on."""
    it = Admitting(Level.MEMORY)
    lane = Lane("s", None, pinned=True, fingerprint=OLD.fingerprint)
    it.schedule.add(lane)
    lane.fire(LaneInput.NO_KEY)
    it.put(b"1\n", key=OLD)
    assert (lane.key, lane.state, it.woken) == (OLD, LaneState.READY, True)


def test_a_lane_for_events_without_a_key() -> None:
    """One that began with a key per call is theirs as well, if that is the key that they have."""
    it = Admitting(auth_key=OLD)
    it.put(b"1\n", key=OLD)
    assert it.schedule.by_stream == {}
    it.put(b"2\n")
    assert it.lane() is it.schedule.find("s", OLD)
    assert it.lane().waiting == 2


# -- how full -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [False, True])
def test_full_to_the_last_byte(*, recorded: bool) -> None:
    """Events that make a batch exactly are one; one that is a byte too long begins another, and both are to be sent."""
    for size, closed in ((500, [2]), (501, [1]), (499, [])):
        it = Admitting(Level.PROCESS if recorded else None)
        lane = Lane("s", None)
        it.max_bytes = 1000 + lane.envelope
        lines = (number(500), number(size))
        whens = [it.enter(it.record(line)) if recorded else it.put(line) for line in lines]
        assert [segment.events for segment in it.lane().closed] == closed
        assert all(segment.full for segment in it.lane().closed)
        assert whens == [10.0, -inf if closed else inf]
        assert it.lane().waiting == 2


@pytest.mark.parametrize("recorded", [False, True])
def test_full_by_number(*, recorded: bool) -> None:
    """A batch is full with the last event that it may have."""
    it = Admitting(Level.PROCESS if recorded else None, max_batch_events=2)
    whens = [it.enter(it.record(b"1\n")) if recorded else it.put(b"1\n") for _ in range(3)]
    assert whens == [10.0, -inf, inf]
    assert [segment.events for segment in it.lane().closed] == [2]


@pytest.mark.parametrize("recorded", [False, True])
def test_an_event_larger_than_what_the_collector_takes(*, recorded: bool) -> None:
    """It is a batch by itself, to be sent in its turn: nothing is sent before it, and nothing is forgotten."""
    it = Admitting(Level.PROCESS if recorded else None)
    it.learn_max_bytes(2048)
    line = number(3000)
    assert (it.enter(it.record(line)) if recorded else it.put(line)) == -inf
    assert it.schedule.take() is it.lane()
    assert [segment.events for segment in it.lane().closed] == [1]


def test_an_event_too_large_for_a_record() -> None:
    """It is refused before there is one."""
    it = Admitting(Level.PROCESS, max_batch_bytes=1024)
    with pytest.raises(EventTooLarge):
        it.record(number(2000))
    assert it.ledger.pending == 0


def test_an_event_that_just_fits_with_a_record() -> None:
    """To the last byte of a request, in which its quotation marks are escaped, an event is admitted, and not beyond."""
    it = Admitting(Level.PROCESS, max_batch_bytes=1024)
    room = 1024 - Lane("s", None).envelope
    most = room // 4 - 1  # each takes four bytes when it is escaped twice, and those around them two
    with pytest.raises(EventTooLarge):
        it.record(encode_event('"' * (most + 1)))
    it.record(encode_event('"' * most))
    assert it.ledger.pending == 1


def test_a_receipt_and_a_record() -> None:
    """A receipt follows the event once that is taken in."""
    it = Admitting(Level.PROCESS)
    receipt = Receipt()
    it.enter(it.record(b"1\n", receipt=receipt))
    assert [share.wanted for share in it.lane().flushes] == [True]


def test_receipts_of_several_records() -> None:
    """Each follows its own event, in the order of these."""
    it = Admitting(Level.PROCESS)
    receipts = [Receipt(), Receipt()]
    for n, receipt in enumerate(receipts):
        it.enter(it.record(b"%d\n" % n, receipt=receipt))
    it.lane().settle_flushes(1, delivered=True)
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, None]
    it.lane().settle_flushes(1, delivered=True)
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED] * 2


def test_a_record_whose_key_was_replaced() -> None:
    """It goes where its lane's events go, which have the new key now."""
    it = Admitting(Level.PROCESS)
    it.enter(it.record(b"1\n", key=OLD))
    record = it.record(b"2\n", key=OLD)
    it.rekey(record.lane, NEW)
    assert it.lane_of(record) is it.schedule.find("s", NEW)


# -- what is lent -------------------------------------------------------------------------------------------


def test_how_much_is_lent() -> None:
    """Twice what a lane holds, but some KiB at least, and no more than a batch; for later batches that at once."""
    it = Admitting()
    lent = []
    for size in (10, 5000, 3000, 60_000):
        it.put(number(size))
        lent.append(it.lane().inlet.lent_bytes)
    assert lent[:3] == [8192, 2 * 5010, 2 * 8010]
    assert lent[3] == it.lane().full_size(it.max_bytes)
    it.lane().close_inlet()
    it.put(b"1\n")
    assert it.lane().inlet.lent_bytes == it.lane().full_size(it.max_bytes)


def test_what_is_taken_in_without_a_decision() -> None:
    """As much as is lent and surely fits, and all but the event that makes a batch full."""
    it = Admitting(max_batch_events=10)
    it.put(b"1\n")
    inlet = it.lane().inlet
    assert (inlet.lent_events, inlet.max_events, inlet.max_size) == (10, 9, 8192)
    it = Admitting(max_batch_bytes=1024, max_pending_events=5)
    it.put(b"1\n")
    inlet = it.lane().inlet
    assert (inlet.lent_events, inlet.max_events) == (5, 5)
    assert inlet.max_size == 2 + (1024 - it.lane().envelope) // 2
    it = Admitting(max_batch_bytes=1024)
    it.put(number(800))
    assert it.lane().inlet.max_size == 1024 - it.lane().envelope


def test_events_that_are_lent_and_not_used() -> None:
    """They are taken back when there is no room left, though all bytes are used."""
    it = Admitting(max_batch_bytes=1024, max_pending_bytes=1024, max_pending_events=8, on_full="raise")
    it.put(number(400), "a")
    it.lane("a").inlet.append(number(496))
    assert (it.lane("a").inlet.lent_bytes, it.lane("a").inlet.lent_events) == (896, 7)
    it.ledger.reserve(0)
    it.put(b"1\n", "b")
    assert [it.lane(stream).waiting for stream in "ab"] == [2, 1]


def test_bytes_that_are_lent_and_not_used() -> None:
    """They are taken back when there is no room left, though all events are used."""
    it = Admitting(max_batch_bytes=8192, max_pending_bytes=9000, max_pending_events=10, on_full="raise")
    for _ in range(7):
        it.ledger.reserve(0)
    it.put(b"1\n", "a")
    it.lane("a").inlet.append(b"2\n")
    assert (it.lane("a").inlet.lent_bytes, it.lane("a").inlet.lent_events) == (7875, 2)
    it.put(number(3000), "b")
    assert [it.lane(stream).waiting for stream in "ab"] == [2, 1]


def test_while_more_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing gets into the inlet without a decision just then."""
    it = Admitting()
    it.put(b"1\n")
    lend, seen = Ledger.lend, []

    def watched(self: Ledger, inlet: Inlet, *arguments: Any, **more: Any) -> None:
        seen.append(inlet.max_size)
        lend(self, inlet, *arguments, **more)

    monkeypatch.setattr(Ledger, "lend", watched)
    it.put(b"2\n")
    assert seen == [0]
    assert it.lane().inlet.max_size == 8192


# -- room ---------------------------------------------------------------------------------------------------


def test_no_room() -> None:
    """The caller is told how much is pending, also before any event of this tracker."""
    it = Admitting(max_pending_events=3, on_full="raise")
    it.ledger.restore(3, 100)
    with pytest.raises(BacklogFull, match=r"^the pending budget has no room: 3 events, 100 bytes are pending$"):
        it.put(b"1\n")
    it = Admitting(max_pending_events=3, on_full="drop_newest")
    it.ledger.restore(3, 100)
    assert it.put(b"1\n") == -inf
    [loss] = it.lost()
    assert (loss.reason, loss.message, loss.status) == (
        LossReason.BACKLOG_FULL,
        "the pending budget has no room",
        None,
    )


def test_what_is_dropped_for_a_record() -> None:
    """A lane that held nothing but that is gone; one that holds more stays, and one that is new does not come yet."""
    it = Admitting(Level.PROCESS, max_pending_events=2, on_full="drop_oldest")
    it.enter(it.record(b"1\n", "a"))
    it.enter(it.record(b"2\n", "a"))
    it.record(b"3\n", "a")
    assert it.woken
    assert [lane.stream for lane in it.schedule] == ["a"]
    it.record(b"4\n", "a")
    assert len(it.schedule) == 0
    it = Admitting(Level.PROCESS, max_pending_events=2, on_full="drop_oldest")
    it.enter(it.record(b"1\n", "a"))
    it.enter(it.record(b"2\n", "a"))
    it.record(b"3\n", "b")
    assert [lane.stream for lane in it.schedule] == ["a"]


def test_a_lane_that_has_dropped_all_for_nothing() -> None:
    """Where the event has no room all the same, its lane is empty then, and has no turn any more."""
    it = Admitting(max_batch_bytes=1024, max_pending_bytes=1024, on_full="drop_oldest")
    it.ledger.reserve(900)
    it.put(b"1\n")
    it.schedule.make_due(it.lane())
    assert it.put(number(200)) == -inf
    assert [loss.lines for loss in it.lost()] == [b"1\n", number(200)]
    assert len(it.schedule) == 0
    assert it.schedule.take() is None


def test_an_event_that_just_fits() -> None:
    """To the last byte of a request an event is taken, and not beyond."""
    it = Admitting(max_batch_bytes=1024, on_full="raise")
    most = 1024 - Lane("s", None).envelope
    with pytest.raises(EventTooLarge, match=r"^event needs a request of 1025 bytes; max_batch_bytes allows 1024$"):
        it.put(number(most + 2))
    it.put(number(most + 1))  # its line break is not sent
    assert it.lane().waiting == 1


def test_when_others_wait_already() -> None:
    """What comes behind events that wait for more is sent at their time, which is told already."""
    it = Admitting()
    assert it.put(b"1\n") == 10.0
    it.lane().close_inlet()
    assert it.put(b"2\n", now=5.0) == inf
    assert it.schedule.next_timer() == 10.0


def test_no_room_makes_what_waits_due() -> None:
    """To wait for more has no point where more has no room."""
    it = Admitting(max_pending_events=1, on_full="raise")
    it.put(b"1\n")
    with pytest.raises(BacklogFull):
        it.put(b"2\n")
    assert it.schedule.take() is it.lane()


def test_taking_back() -> None:
    """Without a decision nothing more gets into an inlet whose unused room was taken back."""
    it = Admitting(max_pending_events=2, on_full="raise")
    it.put(b"1\n", "a")
    inlet = it.lane("a").inlet
    assert (inlet.lent_events, inlet.max_size) == (2, 8192)
    it.put(b"2\n", "b")
    assert (inlet.lent_events, inlet.lent_bytes, inlet.max_size) == (1, 2, 0)


# -- batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "alone"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_what_goes_with_a_batch(*, first: bool, second: bool, alone: bool) -> None:
    """The newest events go along with what is due before them, unless there is a full batch without them."""
    it = Admitting(Level.MEMORY)
    for line, full in ((b"1\n", first), (b"2\n", second)):
        it.put(line)
        it.lane().close_inlet(full=full, due=True)
    it.put(b"3\n")
    batch = it.next_batch(it.lane())
    assert bool(it.lane().inlet.lines) == alone
    assert batch.body is not None
    assert (batch.place, batch.asked) == (1, True)
    assert it.lane().batches == [batch]


def test_sealing() -> None:
    """All that waits is put in batches to be kept, in order, without a body yet, and the lane has its turn."""
    it = Admitting(Level.PROCESS, max_batch_events=2)
    for n in range(3):
        it.put(b"%d\n" % n)
    lane = it.lane()
    it.seal(lane)
    assert [batch.lines for batch in lane.batches] == [b"2\n", b"0\n1\n"]
    assert [(batch.place, batch.body, batch.spilled) for batch in lane.batches] == [(2, None, True), (1, None, True)]
    assert it.schedule.take() is lane
    assert [lines for _, lines in it.update().put] == [b"0\n1\n", b"2\n"]
    it.put(b"3\n")
    it.seal(lane)
    assert [batch.lines for batch in lane.batches] == [b"3\n", b"2\n", b"0\n1\n"]


@pytest.mark.parametrize(
    ("size", "on_full", "ahead"),
    [
        (32_768, "block", 3),
        (43_691, "block", 1),
        (65_537, "block", 0),
        (10, "block", 3),
        (10, "drop_oldest", 0),
    ],
)
def test_sealing_ahead(size: int, on_full: str, ahead: int) -> None:
    """What is full behind the next batch is kept in one with that, up to 128 KiB; what is not full waits."""
    it = Admitting(Level.MEMORY, max_batch_events=10, on_full=on_full)
    for _ in range(4):
        it.put(b"1" * (size - 1) + b"\n")
        it.lane().close_inlet(full=True)
    it.put(b"2\n")
    lane = it.lane()
    batch = it.next_batch(lane)
    it.seal_ahead(lane)
    assert lane.batches[-1] is batch
    assert [(each.place, each.body, each.spilled) for each in reversed(lane.batches[:-1])] == [
        (2 + n, None, True) for n in range(ahead)
    ]
    assert len(it.update().put) == 1 + ahead
    assert lane.waiting == 4 - ahead


@pytest.mark.parametrize(
    ("sizes", "ahead"), [((30_000, 10, 101_080), 1), ((10, 10, 70_000, 70_000), 2), ((10,) * 15, 14), ((10,) * 17, 15)]
)
def test_sealing_ahead_of_different_sizes(sizes: tuple[int, ...], ahead: int) -> None:
    """Each counts with its own size, and there are 16 at most."""
    it = Admitting(Level.MEMORY, max_batch_events=10)
    for size in sizes:
        it.put(b"1" * (size - 1) + b"\n")
        it.lane().close_inlet(full=True)
    it.next_batch(it.lane())
    it.seal_ahead(it.lane())
    assert len(it.lane().batches) == 1 + ahead


def test_sealing_ahead_of_what_is_not_full() -> None:
    """It waits, though something full comes after it."""
    it = Admitting(Level.MEMORY, max_batch_events=2)
    for line, full in ((b"1\n", True), (b"2\n", False), (b"3\n", True)):
        it.put(line)
        it.lane().close_inlet(full=full, due=True)
    batch = it.next_batch(it.lane())
    it.seal_ahead(it.lane())
    assert it.lane().batches == [batch]


@pytest.mark.parametrize(
    ("window", "busy", "sealed"),
    [(300, "", ""), (299, "", "b"), (150, "", "b"), (149, "", "ab"), (149, "putting", "b"), (149, "dropping", "ab")],
)
def test_memory_is_short(window: int, busy: str, sealed: str) -> None:
    """With a full batch what is beyond the window is kept: the lane's, or all if it is much and nothing else is put."""
    it = Admitting(Level.PROCESS, window=window, max_batch_events=2)
    it.enter(it.record(number(100), "a"))
    assert it.keeper is not None
    if busy == "putting":
        it.keeper.begin_generation()
    elif busy == "dropping":
        it.keeper.settled(Lane("c", None), Batch("old", b"1\n", 1, 2, asked=True, kept=True), drop_by=1.0)
    it.enter(it.record(number(100), "b"))
    when = it.enter(it.record(number(100), "b"))
    assert (when, it.woken) == ((-inf, False) if sealed != "ab" else (inf, True))
    assert "".join(lane.stream for lane in it.schedule if lane.batches) == sealed
    assert it.schedule.take() is not None


def test_what_is_in_memory() -> None:
    """All that is pending, but for what is in the backlog alone."""
    it = Admitting()
    it.ledger.reserve(100)
    assert it.resident == 100
    it = Admitting(Level.MEMORY)
    assert it.keeper is not None
    it.ledger.reserve(100)
    it.keeper.away = 30
    assert it.resident == 70


def behind(on_full: str, **options: Any) -> Admitting:
    """One that holds as much as it may in memory, in batches of two, of which the disk has none yet."""
    it = Admitting(Level.MEMORY, window=199, memory=398, max_batch_events=2, on_full=on_full, **options)
    assert it.keeper is not None
    for n in range(4):
        it.put(number(99 if n else 101))
    assert [batch.size for batch in it.lane().batches] == [198, 200]
    return it


@pytest.mark.parametrize("on_full", ["block", "raise"])
def test_no_room_in_memory(on_full: str) -> None:
    """Where the disk is behind there is room once it has taken something, however large the budget is."""
    it = behind(on_full)
    with pytest.raises(BacklogFull, match=r"memory has no room, .*: 4 events, 398 bytes are pending"):
        it.put(number(1), "t")
    assert "t" not in it.schedule.by_stream
    assert len(it.update().put) == 2
    assert it.resident == 198
    it.put(number(200), "t")
    with pytest.raises(BacklogFull):
        it.put(number(1), "t")


def test_memory_that_many_lanes_fill() -> None:
    """What waits in all of them goes to the disk then, full batch or not; but not bit by bit while others go there."""
    it = Admitting(Level.MEMORY, window=300, memory=400, on_full="raise")
    for stream in "abcd":
        it.put(number(100), stream)
    for _ in range(2):
        with pytest.raises(BacklogFull):
            it.put(number(1), "e")
    assert len(it.update().put) == 4
    assert it.resident == 300
    it.put(number(50), "e")
    assert it.keeper is not None
    it.keeper.begin_generation()
    with pytest.raises(BacklogFull):
        it.put(number(51), "e")
    assert it.update().put == ()
    with pytest.raises(BacklogFull):
        it.put(number(51), "e")
    assert [kept.size for kept, _ in it.update().put] == [50]


@pytest.mark.parametrize("recorded", [False, True])
def test_before_memory_is_full(recorded: bool) -> None:
    """Where many lanes hold little each, all of it goes to the disk in time."""
    it = Admitting(Level.PROCESS if recorded else Level.MEMORY, window=100, memory=400, on_full="raise")
    for stream in "abc":
        assert not it.woken
        if recorded:
            it.enter(it.record(number(100), stream))
        else:
            it.put(number(100), stream)
            it._take_back_unused()
    assert it.woken == recorded  # the third record is in memory already when it is entered
    if not recorded:
        it.put(number(1), "c")
    assert it.woken
    assert [kept.size for kept, _ in it.update().put] == [100] * (2 if recorded else 3)


def test_a_new_event_is_dropped_for_want_of_memory() -> None:
    """The words say what was short."""
    it = behind("drop_newest")
    it.put(number(1), "t")
    [loss] = it.lost()
    assert (loss.stream, loss.message.split(",")[0]) == ("t", "memory has no room")


def test_the_oldest_is_dropped_for_want_of_memory() -> None:
    """Of what the disk does not have: the rest need not be in memory."""
    it = behind("drop_oldest")
    it.update()  # one of the two is on the disk alone then
    for _ in range(2):
        it.put(number(101), "t")
        it.put(number(98), "t")
    assert it.lost() == []
    assert [batch.lines for batch in it.lane().batches] == [None, None]
    assert it.resident == 398
    it.put(number(199), "u")
    assert [(loss.stream, loss.count, loss.message.split(",")[0]) for loss in it.lost()] == [
        ("t", 2, "memory has no room")
    ]
    it.put(number(199), "u")
    assert [loss.stream for loss in it.lost()] == ["t", "t"]
    assert sum(lane.pending for lane in it.schedule) == 6


def test_a_budget_that_is_used_up_where_memory_is_short_too() -> None:
    """What is on the disk alone makes room in the budget, and in memory only what is there."""
    it = behind("drop_oldest", max_pending_events=6)
    it.update()
    it.put(number(100), "t")
    it.put(number(100), "t")
    it.put(number(300), "u")
    assert [(loss.count, loss.lines) for loss in it.lost()] == [(2, b""), (2, number(100) * 2)]
    assert [lane.stream for lane in it.schedule] == ["s", "u"]


def test_little_is_lent_where_memory_is_short() -> None:
    """What is not used there yet would be in the way of others."""
    it = Admitting(Level.MEMORY, window=800)
    it.put(number(1300))
    assert it.lane().inlet.lent_bytes == 1400
    it.put(number(1), "t")
    assert it.lane("t").inlet.lent_bytes == 1
    it.put(number(2), "t")
    assert it.lane("t").inlet.lent_bytes == 3
    it = Admitting(Level.MEMORY, memory=1600)
    it.put(number(1300))
    assert it.lane().inlet.lent_bytes == 1400
    it = Admitting()
    it.put(number(1300))
    assert it.lane().inlet.lent_bytes == 8192


def test_memory_that_is_just_not_crowded() -> None:
    """Nothing is taken back or kept for that."""
    it = Admitting(Level.MEMORY, window=100, memory=400)
    it.put(number(100), "a")
    it.put(number(25), "b")
    assert (it.resident, it.lane("a").inlet.lent_bytes) == (200, 175)
    it.put(number(75), "b")
    assert (it.resident, it.lane("a").inlet.lent_bytes) == (275, 175)
    it.put(number(1), "c")
    assert (it.resident, it.lane("a").inlet.lent_bytes) == (201, 100)
    assert not it.woken
    it.put(number(1), "c")
    assert it.woken


def test_what_is_lent_is_no_memory() -> None:
    """Many lanes with little each wait until they are full, however much they were lent."""
    it = Admitting(Level.MEMORY, window=10_000, memory=30_000)
    for n in range(300):
        it.put(number(50), f"s{n % 100}")
    assert not it.woken
    assert it.keeper is not None
    assert not it.keeper.putting
    assert it.schedule.take() is None
    assert [lane.pending for lane in it.schedule] == [3] * 100
    for n in range(200):
        it.put(number(50), f"s{n % 100}")
    assert it.woken
    assert it.keeper.putting


def test_restored_records_in_memory() -> None:
    """They may be more than memory has room for, until all is kept, and are no reason to drop anything."""
    it, _ = restored(on_full="drop_oldest", window=0, memory=6)
    for n in (4, 5, 6):
        it.put(b"%d\n" % n)
    assert it.lost() == []
    it.put(b"7\n")
    assert [loss.lines for loss in it.lost()] == [b"1\n2\n"]
    while it.keeper is not None and it.keeper.putting:
        it.update()
    assert it.keeper is not None
    assert it.keeper.restored == 0


def test_which_batch_is_dropped() -> None:
    """One that is in memory makes room there, and one that is on the disk alone is found when the budget is used up."""
    it = behind("drop_oldest")
    it.update()
    other = Lane("t", None)
    assert it._drop_spilled(other, 0.0, "memory", in_memory=True)
    assert (it.resident, it.lost()) == (0, [])
    assert not it._drop_spilled(other, 0.0, "memory", in_memory=True)
    it.put(number(100))
    it.put(number(100))
    assert it._drop_spilled(other, 0.0, "memory", in_memory=True)
    for _ in range(2):
        assert it._drop_spilled(other, 0.0, "budget", in_memory=False)
    assert not it._drop_spilled(other, 0.0, "budget", in_memory=False)
    assert [(loss.message, len(loss.lines)) for loss in it.lost()] == [("memory", 200), ("budget", 0), ("budget", 0)]


def test_how_many_batches_are_remembered() -> None:
    """Twice as many as there are, and some."""
    it = Admitting(Level.MEMORY, window=0, max_batch_events=1, on_full="drop_oldest")
    bounds = []
    for n in range(1, 500):
        it.put(number(2))
        if it._most_spilled not in bounds:
            bounds += [it._most_spilled, n]
    assert bounds == [64, 1, 2 * 65 + 64, 65, 2 * 195 + 64, 195, 2 * 455 + 64, 455]


def test_batches_that_are_settled_are_forgotten() -> None:
    """Of those that might be dropped for new events no more are remembered than there are, and of none its events."""
    it = Admitting(Level.MEMORY, window=0, max_batch_events=1, on_full="drop_oldest")
    assert it.keeper is not None
    for _ in range(500):
        it.put(number(100))
        it.update()
        lane = it.lane()
        batch = lane.batches.pop()
        it.keeper.loaded(batch, number(100))
        it.keeper.settled(lane, batch)
        it.ledger.settle_delivered(1, 100)
        assert batch.lines is None
    assert len(it._spilled) < 200
    assert len(it._in_memory) < 200


def test_batches_that_are_dropped_are_forgotten() -> None:
    """Also while the budget alone is short, so that memory is never looked through for one to drop."""
    it = Admitting(Level.MEMORY, window=0, max_batch_events=1, max_pending_events=10, on_full="drop_oldest")
    for _ in range(500):
        it.put(number(100))
        if it.keeper is not None and it.keeper.putting:
            it.update()
    assert sum(loss.count for loss in it.lost()) == 490
    assert len(it._in_memory) < 200


@pytest.mark.parametrize(
    "limit", [{"max_pending_bytes": 100_000, "max_batch_bytes": 20_000}, {"max_pending_events": 1000}]
)
def test_a_budget_that_stays_used_up(monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]) -> None:
    """Lanes are not looked through for what they do not use with each event."""
    counts = 0
    count = Inlet.count

    def counting(inlet: Inlet) -> int:
        nonlocal counts
        counts += 1
        return count(inlet)

    monkeypatch.setattr(Inlet, "count", counting)
    it = Admitting(on_full="drop_oldest", **limit)
    for n in range(3000):
        it.put(number(100), f"s{n % 10}")
    assert sum(loss.count for loss in it.lost()) == 2000
    assert counts < 100


def test_batches_that_are_split_are_forgotten() -> None:
    """Of one that is kept its halves have the events, and nothing else has."""
    it = Admitting(Level.MEMORY, window=10**6, memory=10**6, max_batch_events=2, on_full="drop_oldest")
    assert it.keeper is not None
    for _ in range(500):
        it.put(number(100))
        it.put(number(100))
        it.seal_all()
        it.update()
        lane = it.lane()
        batch = lane.batches.pop()
        halves = split(batch)
        it.keeper.split(lane, batch, halves)
        for half in halves:
            it.keeper.settled(lane, half)
        it.ledger.settle_delivered(2, 200)
        assert batch.lines is None
    assert len(it._in_memory) < 200


def restored(**options: Any) -> tuple[Admitting, Lane]:
    """A lane of which there are records of three events, two of which make a batch."""
    it = Admitting(Level.PROCESS, max_batch_events=2, **options)
    lane = Lane("s", None)
    it.schedule.add(lane)
    marks = (Mark(generation=1, stream="s", fingerprint=None, index=3),)
    records = KeptRecords(stream="s", fingerprint=None, lines=b"1\n2\n3\n", marks=marks)
    it.restore_records(lane, records, 0.0)
    return it, lane


def test_restored_records() -> None:
    """They are put in batches, which are kept in one update with their marks, and count as restored."""
    it, lane = restored()
    assert [(batch.lines, batch.batch_id) for batch in lane.batches] == [(b"3\n", "id-2"), (b"1\n2\n", "id-1")]
    assert [(batch.place, batch.body, batch.spilled) for batch in lane.batches] == [(2, None, True), (1, None, True)]
    assert (it.ledger.restored, it.ledger.pending, it.ledger.pending_bytes) == (3, 3, 6)
    assert lane.waiting == 0
    update = it.update()
    assert [lines for _, lines in update.put] == [b"1\n2\n", b"3\n"]
    assert [mark.index for mark in update.marks] == [3]


def test_kept_batches_come_in_order() -> None:
    """The batches that a lane gets later are sent later."""
    it, lane = restored()
    before = list(lane.batches)
    it.put(b"4\n")
    it.put(b"5\n")
    it.put(b"6\n")
    lane.close_inlet()
    batches = [lane.take(name, max_events=2, max_bytes=1024) for name in "ab"]
    it.add_kept(lane, batches)
    assert lane.batches == [*reversed(batches), *before]


def test_restored_events_make_room() -> None:
    """Batches that wait in the backlog are dropped for new events, the oldest first, but for those that are settled."""
    it, lane = restored(on_full="drop_oldest", max_pending_events=3)
    assert it.put(b"4\n") == -inf
    assert [loss.count for loss in it.lost()] == [2]
    assert it.lane().waiting == 1
    lane.batches[0].settled = True
    lane.batches.clear()
    it.ledger.settle_delivered(1, 2)
    it.put(b"5\n")
    it.put(b"6\n")
    it.put(b"7\n")
    assert [loss.lines for loss in it.lost()][1:] == [b"4\n"]


def kept_alone(*lines: bytes, **options: Any) -> tuple[Admitting, Lane]:
    """A lane with a batch of each event, which all wait in the backlog."""
    it = Admitting(Level.PROCESS, max_batch_events=1, on_full="drop_oldest", **options)
    lane = Lane("s", None)
    it.schedule.add(lane)
    it.restore_records(lane, KeptRecords(stream="s", fingerprint=None, lines=b"".join(lines), marks=()), 0.0)
    it.schedule.make_ready(lane)
    return it, lane


def test_what_is_at_the_backlog_is_not_dropped() -> None:
    """A batch that is about to be sent stays; those behind it make room, the oldest first."""
    it, lane = kept_alone(b"1\n", b"2\n", b"3\n", b"4\n", max_pending_events=4)
    assert it.schedule.take() is lane
    lane.fire(LaneInput.ASK_BACKLOG)
    for n in range(3):
        it.put(b"5\n", "t")
        assert [loss.lines for loss in it.lost()] == [b"2\n", b"3\n", b"4\n"][: n + 1]
    assert [batch.lines for batch in lane.batches] == [b"1\n"]


def test_a_lane_whose_batches_are_all_dropped() -> None:
    """It is gone, unless the new event is its own."""
    it, lane = kept_alone(b"1\n", b"2\n", max_pending_events=2)
    it.put(b"3\n", "t")
    assert [lane.stream for lane in it.schedule] == ["s", "t"]
    it.put(b"4\n", "t")
    assert [lane.stream for lane in it.schedule] == ["t"]
    it, lane = kept_alone(b"1\n", max_pending_events=1)
    it.put(b"2\n")
    assert list(it.schedule) == [lane]
    assert lane.waiting == 1
    assert [loss.lines for loss in it.lost()] == [b"1\n"]


def test_a_lane_that_waits_for_an_answer() -> None:
    """It stays, though all that waits in it is dropped."""
    it = Admitting(max_pending_events=2, on_full="drop_oldest")
    it.put(b"1\n", "a")
    it.next_batch(it.lane("a"))
    it.put(b"2\n", "a")
    it.put(b"3\n", "b")
    assert [loss.lines for loss in it.lost()] == [b"2\n"]
    assert [lane.stream for lane in it.schedule] == ["a", "b"]


def test_behind_what_waits_already() -> None:
    """Where a batch was cut shorter than what was to go with it, the rest waits first, and its time is not put off."""
    it = Admitting(flush_interval=10.0)
    assert it.put(b"1\n", now=1.0) == 11.0
    it.lane().close_inlet()
    assert it.put(b"2\n", now=5.0) == inf
    assert it.lane().timer == 11.0
    assert it.lane().waiting == 2
