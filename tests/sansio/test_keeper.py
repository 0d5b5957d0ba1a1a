"""What a backlog is told, and in which order; how records are given out and taken back."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import inf

import pytest

from atom_sansio import (
    AuthKey,
    DeadLetter,
    KeptBatch,
    LaneState,
    Level,
    Loss,
    LossReason,
    Mark,
    RecordState,
    UpdateBacklog,
)
from atom_sansio import _keeper as keeper_module
from atom_sansio._keeper import Keeper
from atom_sansio._lane import Batch, Lane, split
from atom_sansio._ledger import Ledger
from atom_sansio._recording import Record, Recording
from atom_sansio._records import encode_record, record_head


def make(keeper: Keeper, batch_id: str, events: int = 2) -> Batch:
    """A batch at the next place."""
    batch = Batch.of(batch_id, b"1\n" * events, events)
    batch.place = keeper.next_place()
    return batch


def update(keeper: Keeper, *, now: float = 0.0) -> UpdateBacklog:
    found = keeper.update(now)
    assert found is not None
    return found


def ids(found: UpdateBacklog) -> list[str]:
    return [kept.batch_id for kept, _ in found.put]


@pytest.fixture
def lane() -> Lane:
    return Lane("clicks", None)


@pytest.fixture
def keeper() -> Keeper:
    return Keeper(Level.PROCESS)


def put(keeper: Keeper, lane: Lane, batch: Batch) -> None:
    keeper.seal(lane, batch.events)
    keeper.put(lane, batch)


def kept(keeper: Keeper, lane: Lane, names: str) -> list[Batch]:
    """Batches that the backlog keeps."""
    batches = [make(keeper, name) for name in names]
    for batch in batches:
        put(keeper, lane, batch)
    update(keeper)
    keeper.updated(0)
    return batches


def letter(name: str) -> DeadLetter:
    loss = Loss(
        stream="s", lines=b"", count=1, reason=LossReason.REJECTED, status=None, message="", attempts=1, time=0.0
    )
    return DeadLetter(letter_id=name, fingerprint=None, loss=loss)


def test_one_update_at_a_time(keeper: Keeper, lane: Lane) -> None:
    """What comes while an update is under way makes up the next."""
    assert keeper.idle
    assert keeper.deadline() is None
    put(keeper, lane, make(keeper, "a"))
    assert keeper.deadline() == -inf
    first = update(keeper)
    put(keeper, lane, make(keeper, "b"))
    assert keeper.deadline() is None
    assert keeper.update(0.0) is None
    keeper.updated(0)
    second = update(keeper)
    keeper.updated(0)
    assert (ids(first), ids(second)) == (["a"], ["b"])
    assert [mark.index for mark in (*first.marks, *second.marks)] == [2, 4]
    assert keeper.idle


def test_dropped_last(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is dropped, and a letter buried, only in an update that leaves nothing to be put."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 4)
    first = make(keeper, "a")
    put(keeper, lane, first)
    update(keeper)
    keeper.updated(0)
    keeper.settled(lane, first)
    keeper.bury(letter("l"))
    for name in ("b", "c"):
        put(keeper, lane, make(keeper, name))
    found = update(keeper)
    assert (ids(found), found.drop, found.dead) == (["b"], (), ())
    keeper.updated(0)
    found = update(keeper)
    assert (ids(found), found.drop, [each.letter_id for each in found.dead]) == (["c"], ("a",), ["l"])


def test_a_failure(keeper: Keeper, lane: Lane) -> None:
    """What failed comes again after a pause, or at once when somebody hurries, before what came later."""
    put(keeper, lane, make(keeper, "a"))
    update(keeper)
    put(keeper, lane, make(keeper, "b"))
    keeper.failed(10.0)
    assert keeper.failing
    assert keeper.deadline() == 11.0
    assert keeper.update(10.5) is None
    keeper.hurry()
    assert ids(update(keeper, now=10.5)) == ["a", "b"]
    keeper.updated(0)
    assert not keeper.failing


def test_settled_before_it_is_kept(keeper: Keeper, lane: Lane) -> None:
    """Of a batch that is settled first only its mark is put; one that is settled meanwhile is dropped then."""
    before, meanwhile, never = make(keeper, "a"), make(keeper, "b"), make(keeper, "c")
    put(keeper, lane, before)
    keeper.settled(lane, before)
    put(keeper, lane, meanwhile)
    found = update(keeper)
    assert (ids(found), [mark.index for mark in found.marks]) == (["b"], [4])
    keeper.settled(lane, meanwhile)
    keeper.seal(lane, never.events)
    keeper.settled(lane, never)
    keeper.updated(0)
    found = update(keeper)
    assert (ids(found), set(found.drop), [mark.index for mark in found.marks]) == ([], {"a", "b"}, [6])


def test_without_records(lane: Lane) -> None:
    """At the level of memory there are no marks."""
    keeper = Keeper(Level.MEMORY)
    batch = make(keeper, "a")
    put(keeper, lane, batch)
    assert update(keeper).marks == ()
    keeper.updated(0)
    unasked = make(keeper, "b")
    keeper.settled(lane, unasked)
    assert keeper.idle


def test_split(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves are put together, however large they are, and what they were split off is dropped then."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 1)
    kept, unkept = make(keeper, "a"), make(keeper, "b")
    put(keeper, lane, kept)
    update(keeper)
    keeper.updated(0)
    keeper.split(lane, kept, split(kept))
    found = update(keeper)
    assert (ids(found), found.drop) == (["a.1", "a.2"], ("a",))
    assert [(each.place, each.part) for each, _ in found.put] == [(1, 0), (1, 1)]
    keeper.updated(0)
    put(keeper, lane, unkept)
    keeper.split(lane, unkept, split(unkept))
    assert ids(update(keeper)) == ["b.1", "b.2"]


def test_halves_that_memory_is_too_small_for(lane: Lane) -> None:
    """They are on the disk alone once they are kept, until their turn comes: they may be of many lanes."""
    keeper = Keeper(Level.PROCESS, window=3)
    (batch,) = kept(keeper, lane, "a")
    halves = split(batch)
    keeper.split(lane, batch, halves)
    update(keeper)
    keeper.updated(8)
    assert [half.lines for half in halves] == [None, None]
    assert keeper.away == batch.size


@pytest.mark.parametrize(
    ("state", "stays"),
    [
        (LaneState.PARKED, False),
        (LaneState.BACKING_OFF, False),
        (LaneState.READY, True),
        (LaneState.IN_FLIGHT, True),
        (LaneState.AT_BACKLOG, True),
    ],
)
def test_what_could_not_be_kept_before_its_lane_paused(lane: Lane, state: LaneState, stays: bool) -> None:
    """It is let go once it is kept, if memory is short and it is neither on its way nor about to be."""
    for resident in (3, 4):
        keeper = Keeper(Level.PROCESS, window=3)
        batch = make(keeper, "a")
        put(keeper, lane, batch)
        lane.state = state
        update(keeper)
        keeper.updated(resident)
        assert (batch.lines is not None) == (stays or resident == 3)


def test_what_is_settled_is_not_in_memory(keeper: Keeper, lane: Lane) -> None:
    """Whoever still knows of a batch that is to be dropped has no events of it."""
    (batch,) = kept(keeper, lane, "a")
    keeper.settled(lane, batch)
    assert batch.lines is None
    assert keeper.away == 0


def test_restored_in_memory(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of earlier records may be in memory until it is put, whatever comes after it."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 1)
    assert keeper.restored == 0
    sizes = []
    for names in ("ab", "c"):
        batches = [make(keeper, name) for name in names]
        keeper.put_restored(lane, batches, ())
        sizes.append(sum(batch.size for batch in batches))
    put(keeper, lane, make(keeper, "d"))
    assert keeper.restored == sum(sizes)
    update(keeper)
    keeper.failed(0.0)
    assert keeper.restored == sum(sizes)
    keeper.hurry()
    update(keeper)
    keeper.updated(0)
    assert keeper.restored == sizes[1]
    update(keeper)
    keeper.updated(0)
    assert keeper.restored == 0


def test_dropped_with_its_halves(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was split goes in the update that keeps its halves, whatever else is to be put, and again if that failed."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 1)
    (batch,) = kept(keeper, lane, "a")
    put(keeper, Lane("views", None), make(keeper, "x"))
    put(keeper, Lane("pages", None), make(keeper, "y"))
    keeper.split(lane, batch, split(batch))
    put(keeper, lane, make(keeper, "b"))
    for name in "xy":
        found = update(keeper)
        assert (ids(found), found.drop) == ([name], ())
        keeper.updated(0)
    for _ in range(2):
        found = update(keeper)
        assert (ids(found), found.drop) == (["a.1", "a.2"], ("a",))
        keeper.failed(0.0)
        keeper.hurry()
    update(keeper)
    keeper.updated(0)
    found = update(keeper)
    assert (ids(found), found.drop) == (["b"], ())


def test_dropped_with_what_is_left_of_its_halves(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was split goes though its halves have their outcome, also when many marks wait for a disk that fails."""
    monkeypatch.setattr(keeper_module, "_SLACK", 0)
    keeper = Keeper(Level.PROCESS)
    (batch,) = kept(keeper, lane, "a")
    halves = split(batch)
    keeper.split(lane, batch, halves)
    update(keeper)
    keeper.failed(0.0)
    for half in halves:
        keeper.settled(lane, half)
    keeper.seal(lane, 1)
    keeper.settled(lane, make(keeper, "sent", events=1))
    assert len(keeper._queue) == 2, "of the marks of that lane the last alone is left, and what drops the batch"
    keeper.hurry()
    found = update(keeper)
    assert (ids(found), found.drop) == ([], ("a", "a.1", "a.2"))
    assert [mark.index for mark in found.marks] == [3]


@pytest.mark.parametrize("under_way", [False, True])
def test_split_before_what_came_later(
    keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch, *, under_way: bool
) -> None:
    """No mark of a later batch is put before the halves are: it says that records of their events count no more."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 4)
    first = make(keeper, "a")
    put(keeper, lane, first)
    update(keeper)
    keeper.failed(0.0)
    if under_way:
        update(keeper, now=1.0)
    put(keeper, lane, make(keeper, "b"))
    keeper.split(lane, first, split(first))
    put(keeper, lane, make(keeper, "c"))
    if under_way:
        keeper.failed(1.0)
    found = update(keeper, now=2.0)
    assert (ids(found), [mark.index for mark in found.marks]) == (["b", "a.1", "a.2"], [4])
    keeper.updated(0)
    assert ids(update(keeper, now=2.0)) == ["c"]


def test_split_behind_what_came_before(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves are not put together with what was to be put before their batch."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 4)
    put(keeper, Lane("views", None), make(keeper, "a"))
    put(keeper, lane, batch := make(keeper, "b"))
    keeper.split(lane, batch, split(batch))
    assert ids(update(keeper)) == ["a"]
    keeper.updated(0)
    assert ids(update(keeper)) == ["b.1", "b.2"]


def test_many_that_fail(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come again in their order; those that are settled meanwhile take no room."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 9)
    batches = [make(keeper, name) for name in "abcd"]
    for batch in batches:
        put(keeper, lane, batch)
    assert ids(update(keeper)) == ["a", "b", "c"]
    keeper.failed(0.0)
    assert ids(update(keeper, now=1.0)) == ["a", "b", "c"]
    keeper.failed(1.0)
    keeper.settled(lane, batches[0])
    assert ids(update(keeper, now=2.0)) == ["b", "c", "d"]


def test_split_while_it_is_put(keeper: Keeper, lane: Lane) -> None:
    """What is kept when its halves are waiting to be is dropped when they are."""
    batch = make(keeper, "a")
    put(keeper, lane, batch)
    update(keeper)
    keeper.split(lane, batch, split(batch))
    keeper.updated(0)
    found = update(keeper)
    assert (ids(found), found.drop) == (["a.1", "a.2"], ("a",))


def test_dropping_together(keeper: Keeper, lane: Lane) -> None:
    """What is settled may wait for others to be dropped with, but not beyond what the first of them says."""
    first, second, third, fourth = kept(keeper, lane, "abcd")
    assert keeper.deadline() is None
    keeper.settled(lane, first, drop_by=2.0)
    keeper.settled(lane, second, drop_by=3.0)
    assert keeper.deadline() == 2.0
    assert keeper.update(1.9) is None
    assert update(keeper, now=2.0).drop == ("a", "b")
    keeper.failed(2.0)
    keeper.settled(lane, third, drop_by=4.0)
    assert keeper.deadline() == 2.0 + keeper_module.PAUSE
    assert update(keeper, now=3.0).drop == ("a", "b", "c")
    keeper.updated(0)
    keeper.settled(lane, fourth, drop_by=4.0)
    assert keeper.deadline() == 4.0
    put(keeper, lane, make(keeper, "e"))
    assert keeper.deadline() == -inf
    assert update(keeper, now=3.0).drop == ("d",)


@pytest.mark.parametrize("why", ["another", "the end", "a letter", "settled while it is put"])
def test_dropping_at_once(keeper: Keeper, lane: Lane, why: str) -> None:
    """One that does not wait, a dead letter or the end of all lets no other wait."""
    first, second = kept(keeper, lane, "ab")
    third = make(keeper, "c")
    if why == "settled while it is put":
        put(keeper, lane, third)
        update(keeper)
    keeper.settled(lane, first, drop_by=2.0)
    match why:
        case "another":
            keeper.settled(lane, second)
        case "the end":
            keeper.hurry()
        case "a letter":
            keeper.bury(letter("l"))
        case "settled while it is put":
            keeper.settled(lane, third)
            keeper.updated(0)
    assert keeper.deadline() == -inf
    keeper.settled(lane, second, drop_by=3.0)
    assert keeper.deadline() == -inf


def test_memory(lane: Lane) -> None:
    """Events are let go once they are kept and memory is short, and counted as away until they are loaded."""
    keeper = Keeper(Level.PROCESS, window=3)
    spilled, sent = make(keeper, "a"), make(keeper, "b")
    spilled.spilled = True
    for batch in (spilled, sent):
        put(keeper, lane, batch)
    keeper.let_go(sent, 100)
    assert sent.lines is not None
    update(keeper)
    keeper.updated(8)
    assert (spilled.lines, keeper.away) == (None, 4)
    keeper.let_go(sent, 3)
    assert sent.lines is not None
    for _ in range(2):
        keeper.let_go(sent, 4)
        assert (sent.lines, keeper.away) == (None, 8)
    keeper.loaded(sent, b"1\n1\n")
    assert keeper.away == 4
    keeper.settled(lane, spilled)
    assert keeper.away == 0


def test_restored(keeper: Keeper, lane: Lane) -> None:
    """What was kept before keeps its place; records become batches that are put all or none, with all their marks."""
    kept = KeptBatch(batch_id="old", place=7, part=3, stream="clicks", fingerprint=None, events=1, size=2)
    batch = keeper.restore(kept)
    assert (batch.kept, batch.lines, batch.place, batch.part, keeper.away) == (True, None, 7, 3, 2)
    assert batch.asked
    marks = tuple(Mark(generation=n, stream="clicks", fingerprint=None, index=n) for n in (3, 4))
    batches = [make(keeper, "a"), make(keeper, "b")]
    assert [each.place for each in batches] == [8, 9]
    keeper.put_restored(lane, batches, marks)
    keeper.begin_after(4)
    found = update(keeper)
    assert (ids(found), found.marks, found.forget_before, keeper.generation) == (["a", "b"], marks, 5, 5)
    Keeper(Level.PROCESS).begin_after(0)


def test_restored_together(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there were records of is put in one update, however much it is, and no update before says so."""
    monkeypatch.setattr(keeper_module, "_CHUNK", 1)
    other = Lane("views", None)
    marks = (Mark(generation=3, stream="clicks", fingerprint=None, index=5),)
    for name in "xy":
        put(keeper, other, make(keeper, name))
    keeper.put_restored(lane, [make(keeper, name) for name in "abcd"], marks)
    put(keeper, other, make(keeper, "z"))
    alone = Mark(generation=3, stream="s", fingerprint=None, index=1)
    keeper.put_restored(lane, [make(keeper, "e")], (alone,))
    found = []
    while not keeper.idle:
        found.append(update(keeper))
        keeper.updated(0)
    assert [ids(each) for each in found] == [["x"], ["y"], ["a", "b", "c", "d"], ["z"], ["e"]]
    assert [marks[0] in each.marks for each in found] == [False, False, True, False, False]
    assert [alone in each.marks for each in found] == [False, False, False, False, True]


def test_sizes(keeper: Keeper, lane: Lane) -> None:
    """An update ends with the batch that makes it four mebibytes, a generation with the record that makes it 32."""
    mebibyte = 1024 * 1024
    assert not keeper.written(32 * mebibyte - 1)
    assert keeper.written(1)
    assert (keeper.window, keeper.memory) == (32 * mebibyte, 96 * mebibyte)
    for name, size in (("a", 4 * mebibyte - 1), ("b", 1), ("c", 4 * mebibyte), ("d", 1)):
        put(keeper, lane, Batch.of(name, b"x" * size, 1))
    assert ids(update(keeper)) == ["a", "b"]
    keeper.updated(0)
    assert ids(update(keeper)) == ["c"]


def test_numbers_of_marks(keeper: Keeper) -> None:
    """They count by stream and key, in each generation anew; those of a key say so."""
    lane = Lane("clicks", AuthKey("k"))
    put(keeper, lane, old := make(keeper, "a"))
    [mark] = update(keeper).marks
    assert mark == Mark(generation=1, stream="clicks", fingerprint=AuthKey("k").fingerprint, index=2)
    keeper.updated(0)
    keeper.begin_generation()
    keeper.split(lane, old, split(old))
    assert [(mark.generation, mark.index) for mark in update(keeper).marks] == [(2, 0)]
    keeper.updated(0)
    put(keeper, lane, make(keeper, "b", events=3))
    assert [(mark.generation, mark.index) for mark in update(keeper).marks] == [(2, 3)]


def test_idle(keeper: Keeper, lane: Lane) -> None:
    """It is so unless there is something to put, to drop or to bury, or an update under way."""
    [batch] = kept(keeper, lane, "a")
    for tell in (
        lambda: put(keeper, lane, make(keeper, "b")),
        lambda: keeper.settled(lane, batch),
        lambda: keeper.bury(letter("l")),
    ):
        assert keeper.idle
        assert keeper.deadline() is None
        tell()
        assert not keeper.idle
        assert keeper.deadline() == -inf
        assert update(keeper).forget_before == 0
        assert not keeper.idle
        keeper.updated(0)


def test_drops_and_letters_of_a_failure(keeper: Keeper, lane: Lane) -> None:
    """They come again, before those that came meanwhile."""
    batches = kept(keeper, lane, "abcd")
    for batch, name in zip(batches[:2], "kl", strict=True):
        keeper.settled(lane, batch)
        keeper.bury(letter(name))
    update(keeper)
    for batch, name in zip(batches[2:], "mn", strict=True):
        keeper.settled(lane, batch)
        keeper.bury(letter(name))
    keeper.failed(0.0)
    found = update(keeper, now=1.0)
    assert (found.drop, [each.letter_id for each in found.dead]) == (tuple("abcd"), list("klmn"))


def test_a_batch_behind_a_mark(keeper: Keeper, lane: Lane) -> None:
    """It is kept with the update that has both, also when that has failed before."""
    keeper.seal(lane, 1)
    keeper.settled(lane, make(keeper, "sent", events=1))
    put(keeper, lane, batch := make(keeper, "a"))
    update(keeper)
    keeper.failed(0.0)
    update(keeper, now=1.0)
    keeper.updated(0)
    assert batch.kept


def test_when_memory_is_crowded() -> None:
    """Beyond twice the window, or sooner where there is less room."""
    assert [Keeper(Level.MEMORY, window=10, memory=memory).crowded for memory in (15, 100)] == [15, 20]


@pytest.mark.parametrize(("resident", "left"), [(3, "abc"), (4, "bc"), (7, "bc"), (8, "c")])
def test_only_as_many_are_let_go_as_must(lane: Lane, resident: int, left: str) -> None:
    """Of what was not to be sent yet, the events of the first batches, until the rest fits into memory."""
    keeper = Keeper(Level.PROCESS, window=3)
    batches = [make(keeper, name) for name in "abc"]
    for batch in batches:
        batch.spilled = True
        put(keeper, lane, batch)
    update(keeper)
    keeper.updated(resident)
    assert "".join(batch.batch_id for batch in batches if batch.lines is not None) == left


def test_generations(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many bytes another generation begins, in which numbers begin anew."""
    monkeypatch.setattr(keeper_module, "GENERATION_SIZE", 10)
    other = Lane("views", None)
    assert keeper.last_number(lane.address) == 0
    keeper.give_numbers({lane.address: 2})
    keeper.give_numbers({other.address: 1})
    assert (keeper.last_number(lane.address), keeper.last_number(other.address)) == (2, 1)
    assert not keeper.written(9)
    assert keeper.written(1)
    keeper.begin_generation()
    assert keeper.last_number(lane.address) == 0
    assert not keeper.written(9)
    assert update(keeper).forget_before == 2
    assert keeper.written(1)


def test_marks_do_not_pile_up(keeper: Keeper, lane: Lane) -> None:
    """While the backlog cannot be written, of many marks of one stream the last is kept, and all that is to be put."""
    other = Lane("views", None)
    put(keeper, other, make(keeper, "a"))
    update(keeper)
    keeper.failed(0.0)
    keeper.begin_generation()
    for _ in range(5000):
        batch = make(keeper, "sent")
        keeper.seal(lane, batch.events)
        keeper.settled(lane, batch)
    assert len(keeper._queue) < 2500
    found = update(keeper, now=1.0)
    assert ids(found) == ["a"]
    assert found.forget_before == 2
    assert {(mark.stream, mark.index) for mark in found.marks} == {("views", 2), ("clicks", 10_000)}


def test_how_many_marks_pile_up(keeper: Keeper, lane: Lane) -> None:
    """While the backlog cannot be written, 1024 beside twice those that count; all that count are put when it can."""
    other, third = Lane("views", None), Lane("pages", None)
    put(keeper, lane, make(keeper, "a"))
    update(keeper)
    keeper.failed(0.0)
    for each in (other, third):
        keeper.seal(each, 1)
        keeper.settled(each, make(keeper, "sent", events=1))
    marks = (Mark(generation=7, stream="old", fingerprint=None, index=5),)
    keeper.put_restored(lane, [restored := make(keeper, "r")], marks)
    keeper.settled(lane, restored)
    lengths = []
    for _ in range(1024 + 1030):
        keeper.seal(lane, 1)
        keeper.settled(lane, make(keeper, "sent", events=1))
        lengths.append(len(keeper._queue))
    assert [before for before, after in pairwise(lengths) if after < before] == [1023, 1033]
    assert lengths[-1] == 10, "the last ones of each stream, what is to be put, and those since it was pruned"
    found = update(keeper, now=1.0)
    assert ids(found) == ["a"]
    assert {(mark.stream, mark.index) for mark in found.marks} == {
        ("clicks", 2 + 1024 + 1030),
        ("views", 1),
        ("pages", 1),
        ("old", 5),
    }


def test_giving_up(keeper: Keeper, lane: Lane) -> None:
    """What is not kept is given back, if it should have been; nothing is to be told any more."""
    for all_ in (True, False):
        batch = make(keeper, "a")
        put(keeper, lane, batch)
        keeper.settled(lane, gone := make(keeper, "b"))
        assert gone.settled
        put(keeper, lane, delivered := make(keeper, "c"))
        keeper.settled(lane, delivered)
        keeper.bury(letter("l"))
        assert keeper.give_up(all_=all_) == ([(lane, batch)] if all_ else [])
        assert keeper.idle


# -- records ----------------------------------------------------------------------------------------------


def ledger() -> Ledger:
    return Ledger(max_bytes=1 << 30, max_events=None)


def record(lane: Lane, line: bytes = b"1\n", *, waits: bool = False) -> Record:
    return Record("clicks", line, None, 0.0, lane, waits=waits)


def test_records_are_given_out_together(keeper: Keeper, lane: Lane) -> None:
    """All that there are are written at once, and others when these are."""
    recording = Recording(keeper, ledger())
    assert (recording.idle, recording.last, recording.deadline()) == (True, None, None)
    first, second, third = (record(lane, b"%d\n" % n) for n in range(3))
    recording.add(first, "")
    recording.add(second, "")
    assert recording.last is second
    assert recording.deadline() == -inf
    records = recording.take(0.0, lambda each: each.lane)
    assert records is not None
    assert not records.appended
    assert records.data.count(b"\n") == 2
    assert recording.last is second
    recording.add(third, "")
    assert (recording.writing, recording.deadline()) == (True, None)
    assert recording.take(9.0, lambda each: each.lane) is None
    assert not recording.take_back(first)
    assert recording.written() == (first, second)
    assert recording.writing
    assert not recording.entered()
    assert recording.last is third
    assert recording.take_back(third)
    assert third.state is RecordState.REFUSED
    assert recording.idle


def test_refused_records(keeper: Keeper, lane: Lane) -> None:
    """They keep their order and their numbers, and whoever comes within the pause is told at once why."""
    recording = Recording(keeper, ledger())
    for n in range(2):
        recording.add(record(lane, b"%d\n" % n), "")
    records = recording.take(0.0, lambda each: each.lane)
    recording.add(behind := record(lane, b"9\n", waits=True), "")
    refused = recording.refused("full", 5.0)
    assert behind.trouble == "full"
    assert recording.take_back(behind)
    assert [(each.line, each.trouble, each.state) for each in refused] == [
        (b"0\n", "full", RecordState.QUEUED),
        (b"1\n", "full", RecordState.QUEUED),
    ]
    assert (recording.deadline(), recording.pauses(5.5), recording.pauses(6.0)) == (6.0, "full", "")
    assert recording.take(5.5, lambda each: each.lane) is None
    late = record(lane, b"2\n", waits=True)
    recording.add(late, recording.pauses(5.5))
    assert late.trouble == "full"
    assert len(recording.unheard) == 2
    assert recording.take_back(late)
    assert recording.take(6.0, lambda each: each.lane) == records
    recording.refused("full", 6.0)
    recording.hurry()
    assert recording.take(6.0, lambda each: each.lane) == records


def test_the_last_record_that_nobody_waits_for(keeper: Keeper, lane: Lane) -> None:
    """Who wants all written that was tracked need not wait for those that see to theirs themselves."""
    recording = Recording(keeper, ledger())
    awaited, unheard = record(lane, waits=True), record(lane)
    recording.add(awaited, "")
    assert recording.last is None
    recording.add(unheard, "")
    recording.add(record(lane, waits=True), "")
    assert recording.last is unheard
    recording.take(0.0, lambda each: each.lane)
    assert recording.last is unheard


def test_a_record_that_comes_while_the_last_is_looked_for(keeper: Keeper, lane: Lane) -> None:
    """A signal handler that tracks meanwhile does no harm, and its record counts."""
    recording = Recording(keeper, ledger())
    unheard = record(lane)

    class Interrupted(Record):
        @property
        def waits(self) -> bool:  # type: ignore[override]
            if unheard not in recording._queue:
                recording.add(unheard, "")
            return True

        @waits.setter
        def waits(self, value: bool) -> None: ...

    recording.add(record(lane, waits=True), "")
    recording.add(Interrupted("clicks", b"1\n", None, 0.0, lane, waits=True), "")
    assert recording.last is unheard


def test_records_put_off(keeper: Keeper, lane: Lane) -> None:
    """What nobody came to write comes again as it was; what is written is not, though nobody has said so to the end."""
    recording = Recording(keeper, ledger())
    assert recording.put_off()
    recording.add(it := record(lane), "")
    records = recording.take(0.0, lambda each: each.lane)
    assert records is not None
    assert it.state is RecordState.WRITING
    assert recording.put_off()
    assert not recording.writing
    assert it.state is RecordState.QUEUED
    assert recording.take(0.0, lambda each: each.lane) == records
    assert recording.written() == (it,)
    assert not recording.put_off()
    assert recording.written() == (it,)
    assert not recording.entered()
    assert recording.idle
    assert recording.written() == ()


def test_numbers_of_records(keeper: Keeper, lane: Lane) -> None:
    """They go on, by stream, where those of the last writing ended, whether a record was alone or not."""
    recording = Recording(keeper, ledger())
    other = Lane("views", None)
    head, other_head = record_head(lane.address), record_head(other.address)
    expected = [
        encode_record(1, head, b"1\n") + encode_record(2, head, b"1\n"),
        encode_record(3, head, b"1\n"),
        encode_record(1, other_head, b"1\n"),
        encode_record(4, head, b"1\n") + encode_record(2, other_head, b"1\n"),
    ]
    for lanes, data in zip(((lane, lane), (lane,), (other,), (lane, other)), expected, strict=True):
        if len(lanes) == 1:
            records = recording.take_alone(record(lanes[0]))
        else:
            for each in lanes:
                recording.add(record(each), "")
            records = recording.take(0.0, lambda it: it.lane)
        assert records is not None
        assert records.data == data
        recording.written()
        recording.entered()


def test_a_full_generation(keeper: Keeper, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written with the record that fills a generation ends it."""
    recording = Recording(keeper, ledger())
    size = len(encode_record(1, record_head(lane.address), b"1\n"))
    monkeypatch.setattr(keeper_module, "GENERATION_SIZE", 2 * size)
    ends = []
    for _ in range(2):
        recording.take_alone(record(lane))
        recording.written()
        ends.append(recording.entered())
    assert ends == [False, True]


@pytest.mark.parametrize("later", [False, True])
def test_an_end_that_is_interrupted(keeper: Keeper, lane: Lane, *, later: bool) -> None:
    """A signal handler that raises when a record is just off the queue: the end comes again, and takes no other off."""

    class Queue(deque[Record]):
        def popleft(self) -> Record:
            recording._queue = deque(self)
            recording._queue.popleft()
            raise KeyboardInterrupt

    recording = Recording(keeper, ledger())
    recording.add(record(lane), "")
    recording.take(0.0, lambda each: each.lane)
    if later:
        recording.add(record(lane), "")
    recording.written()
    recording._queue = Queue(recording._queue)
    with pytest.raises(KeyboardInterrupt):
        recording.entered()
    assert recording.writing
    assert not recording.entered()
    assert not recording.writing
    assert recording.idle is not later


def test_taking_back(keeper: Keeper, lane: Lane) -> None:
    """What is given to be written stays, though a handler raised before it said so; what is accepted is so for good."""
    recording = Recording(keeper, ledger())
    given, waiting = record(lane), record(lane)
    recording.add(given, "")
    recording.take(0.0, lambda each: each.lane)
    given.state = RecordState.QUEUED
    assert not recording.take_back(given)
    recording.add(waiting, "")
    assert recording.take_back(waiting)
    recording.written()
    given.state = RecordState.ACCEPTED
    recording.entered()
    assert not recording.take_back(given)
    assert given.state is RecordState.ACCEPTED


def test_many_records(keeper: Keeper, lane: Lane) -> None:
    """No more than about a mebibyte is written at once."""
    recording = Recording(keeper, ledger())
    for _ in range(30):
        recording.add(record(lane, b'"%s"\n' % (b"x" * 100_000)), "")
    sizes = []
    while (records := recording.take(0.0, lambda each: each.lane)) is not None:
        sizes.append(len(records.data))
        recording.written()
        recording.entered()
    assert len(sizes) == 3
    assert max(sizes) < 1_200_000


def test_a_record(lane: Lane) -> None:
    """It is pending until it is accepted or refused, is itself alone, and shows neither its event nor its key."""
    it = record(lane)
    assert (it.trouble, it.state) == ("", RecordState.QUEUED)
    pending = {}
    for state in RecordState:
        it.state = state
        pending[state.value] = it.pending
    assert pending == {"queued": True, "writing": True, "accepted": False, "refused": False}
    assert record(lane) != record(lane)
    assert "canary" not in repr(Record("clicks", b"canary", AuthKey("canary"), 0.0, lane, waits=True))
    assert not hasattr(it, "__dict__"), "there is one for each event"


def test_no_records(keeper: Keeper, lane: Lane) -> None:
    """It is idle when nothing waits and nothing is being written; records are written one after another."""
    recording = Recording(keeper, ledger())
    recording.add(record(lane), "")
    recording.add(record(lane, b"2\n"), "")
    assert not recording.idle
    records = recording.take(0.0, lambda each: each.lane)
    assert records is not None
    head = record_head(lane.address)
    assert records.data == encode_record(1, head, b"1\n") + encode_record(2, head, b"2\n")
    assert not recording.idle
    recording.written()
    recording.entered()
    assert recording.idle


@pytest.mark.parametrize(("size", "count"), [(1024 * 1024 - 1, 2), (1024 * 1024, 1)])
def test_a_full_writing(keeper: Keeper, lane: Lane, size: int, count: int) -> None:
    """The record with which it comes to a mebibyte is its last."""
    recording = Recording(keeper, ledger())
    around = len(encode_record(1, record_head(lane.address), b""))
    recording.add(record(lane, b"x" * (size - around - 1) + b"\n"), "")
    recording.add(record(lane), "")
    records = recording.take(0.0, lambda each: each.lane)
    assert records is not None
    assert records.data.count(b"\n") == count


def test_alone(keeper: Keeper, lane: Lane) -> None:
    """A record is written ahead of none that waits, nor while others are written, nor in a pause."""
    recording = Recording(keeper, ledger())
    waiting, late = record(lane), record(lane)
    recording.add(waiting, "")
    assert recording.take_alone(late) is None
    recording.take(0.0, lambda each: each.lane)
    assert recording.take_alone(late) is None
    assert recording.take_back(waiting) is False
    recording.refused("full", 0.0)
    assert recording.take_back(waiting) is True
    assert recording.take_alone(late) is None
    recording.hurry()
    assert recording.take_alone(late) is not None


def test_the_disk_is_well_again(keeper: Keeper, lane: Lane) -> None:
    """With the first that are written after a failure no event counts as refused, and there is no pause."""
    recording = Recording(keeper, ledger())
    assert len(recording.unheard) == 0
    recording.add(record(lane, b"x" * 1024 * 1024 + b"\n"), "")
    recording.take(0.0, lambda each: each.lane)
    recording.refused("full", 5.0)
    recording.add(record(lane), recording.pauses(5.5))
    recording.add(record(lane), recording.pauses(7.0))
    assert [each.trouble for each in recording.unheard] == ["full", "full", ""], "the last one came after the pause"
    assert recording.take(7.0, lambda each: each.lane) is not None
    recording.written()
    recording.entered()
    assert [each.trouble for each in recording.unheard] == ["", ""], "it takes them, too"
    assert recording.pauses(5.5) == ""
    assert recording.deadline() == -inf
