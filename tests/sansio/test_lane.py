"""Batches are cut exactly, whatever the events look like."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import AuthKey, Endpoint, Flush, encode_event
from atom_sansio._inlet import CLOSED, NO_INLET, Inlet, Segment
from atom_sansio._lane import Batch, Lane, split
from atom_sansio._request import bulk_request
from atom_sansio.testing import ModelCollector, events, streams

SHAPES: list[Any] = [
    "",
    "x" * 100,
    '"' * 50,
    "\\" * 300,
    "é𝄞" * 30,
    {"a": '"quoted"', "b": [None, True, 1.5]},
    7,
    "\x00\n" * 40,
    "y" * 900,
]
batches = st.lists(st.sampled_from(SHAPES) | events(), min_size=1, max_size=60)
keys = st.sampled_from([None, AuthKey("k")])


def lane_of(items: list[Any], stream: str = "s", key: AuthKey | None = None) -> Lane:
    """A lane whose events wait in one segment that is due."""
    lane = Lane(stream, key)
    add(lane, items)
    return lane


def add(lane: Lane, items: list[Any], *, full: bool = False, due: bool = True) -> None:
    lane.inlet = Inlet(None, lane.stream, 0.0)
    for item in items:
        lane.inlet.append(encode_event(item))
    lane.close_inlet(full=full, due=due)


def waiting(lane: Lane) -> bytes:
    return b"".join(segment.lines for segment in lane.closed) + bytes(lane.inlet.lines)


def body_of(lines: list[bytes], stream: str, key: AuthKey | None) -> bytes:
    """By the plainest way there is."""
    return Lane(stream, key).body(b"".join(lines))


@given(batches, streams(), keys, st.integers(1, 70), st.integers(100, 6000))
def test_the_longest_prefix_that_fits(
    items: list[Any], stream: str, key: AuthKey | None, max_events: int, max_bytes: int
) -> None:
    """One event less would be too few, one more too many; room for a signature is kept in any case."""
    lane = lane_of(items, stream, key)
    lines = [encode_event(item) for item in items]
    batch = lane.take("b", max_events=max_events, max_bytes=max_bytes)
    body = batch.body or lane.body(batch.lines)
    taken = lines[: batch.events]
    assert batch.lines == b"".join(taken)
    assert waiting(lane) == b"".join(lines[batch.events :])
    assert lane.waiting == len(lines) - batch.events
    assert body == body_of(taken, stream, key) == lane.body(batch.lines)

    signed = AuthKey("any")
    assert 1 <= batch.events <= max_events
    assert len(body_of(taken, stream, signed)) <= max_bytes or batch.events == 1
    if batch.events < min(len(lines), max_events):
        assert len(body_of(lines[: batch.events + 1], stream, signed)) > max_bytes


@given(batches, st.integers(150, 3000))
def test_all_of_it(items: list[Any], max_bytes: int) -> None:
    """Batch by batch everything is taken, once and in order, and verifies."""
    lane = lane_of(items, key=AuthKey("k"))
    taken = b""
    while lane.waiting:
        batch = lane.take("b", max_events=7, max_bytes=max_bytes)
        assert batch.events == batch.lines.count(b"\n")
        taken += batch.lines
    assert taken == b"".join(map(encode_event, items))
    assert lane.empty


def test_a_closed_inlet() -> None:
    """Nothing may be appended to it any more; what it held is taken out, and what is appended all the same stays."""
    lane = Lane("s", None, inlet=Inlet(None, "s", 0.0, bytearray(b"1\n2\n"), 2, max_size=100, max_events=9))
    inlet = lane.inlet
    lane.close_inlet()
    inlet.lines += b"3\n"
    assert (inlet.max_size, inlet.max_events) == (CLOSED, CLOSED)
    assert inlet.lines == b"3\n"
    assert [segment.lines for segment in lane.closed] == [b"1\n2\n"]
    assert lane.inlet is NO_INLET


@pytest.mark.parametrize("pattern", [(5, 4000), (4000, 5), (1, 1), (300, 2), (1000, 4000)])
@pytest.mark.parametrize("texts", [("plain", '"' * 5), ('"' * 60, "plain" * 20), ("é", "\\" * 99)])
def test_uneven(pattern: tuple[int, int], texts: tuple[str, str]) -> None:
    """Where the start of the buffer misleads about the rest, batches are exact all the same."""
    items = [texts[0]] * pattern[0] + [texts[1]] * pattern[1]
    lines = [encode_event(item) for item in items]
    lane = lane_of(items)
    position = 0
    while lane.waiting:
        batch = lane.take("b", max_events=2000, max_bytes=16384)
        upto = position + batch.events
        assert len(body_of(lines[position:upto], "s", AuthKey("k"))) <= 16384
        full = batch.events == 2000 or upto == len(lines)
        assert full or len(body_of(lines[position : upto + 1], "s", AuthKey("k"))) > 16384
        position = upto
    assert position == len(lines)


def test_a_lone_event_that_is_too_large() -> None:
    """It is taken alone, since nothing else could ever become of it, also with less room than an envelope."""
    for max_bytes in (1, 1024):
        lane = lane_of(["x" * 2000, "y"])
        batch = lane.take("b", max_events=10, max_bytes=max_bytes)
        assert (batch.events, lane.waiting) == (1, 1)


@given(batches.filter(lambda items: len(items) > 1))
def test_split(items: list[Any]) -> None:
    """Two halves that differ by one event at most, hold the same in order, and remember what had happened."""
    lines = [encode_event(item) for item in items]
    whole = Batch.of("id", b"".join(lines), len(lines))
    whole.attempts, whole.failures, whole.first_sent = 3, 2, 7.0
    first, second = split(whole)
    assert first.lines + second.lines == whole.lines
    assert first.lines == b"".join(lines[: first.events])
    assert 0 <= second.events - first.events <= 1
    assert first.events + second.events == whole.events
    assert {first.batch_id, second.batch_id} == {"id.1", "id.2"}
    for half in (first, second):
        assert (half.attempts, half.failures, half.first_sent, half.stale_retry) == (3, 0, None, False)


def test_due() -> None:
    """A rest is due if what it was cut off was, and not if that was sent for being full."""
    for full, due in ((False, True), (True, False)):
        lane = Lane("s", None)
        assert not lane.due
        add(lane, [1, 2, 3], full=full, due=due)
        assert lane.due
        lane.take("b", max_events=2, max_bytes=1024)
        assert (lane.due, lane.waiting) == (due, 1)


def test_due_behind_what_is_not() -> None:
    """What waits is due as a whole if the last of it is."""
    for full, due in ((False, True), (True, False)):
        lane = Lane("s", None)
        add(lane, [1], due=False)
        assert not lane.due
        add(lane, [2], full=full, due=due)
        assert lane.due


def test_small_segments_make_a_batch_together() -> None:
    """What was closed for being due is joined up to a full batch, in order; what is full goes as it is."""
    lane = Lane("s", None)
    for n in range(5):
        add(lane, [n], due=n == 3)
    batch = lane.take("b", max_events=4, max_bytes=1024)
    assert batch.lines == b"0\n1\n2\n3\n"
    add(lane, [5, 6, 7, 8], full=True)
    add(lane, [9])
    sizes = []
    while lane.closed:
        batch = lane.take("b", max_events=4, max_bytes=1024)
        sizes.append(batch.events)
    assert sizes == [4, 2]
    add(lane, [1], full=True)
    add(lane, [2], full=True)
    assert lane.take("b", max_events=4, max_bytes=1024).events == 1


def sized(lane: Lane, *segments: int, size: int = 100, due: bool = False) -> None:
    """Have segments of so many events wait, each event a number that takes *size* bytes; the first may be due."""
    for number, count in enumerate(segments):
        lane.inlet = Inlet(None, lane.stream, float(number), bytearray((b"1" * (size - 1) + b"\n") * count), count)
        lane.close_inlet(due=due and not number)


@pytest.mark.parametrize("limits", [{"max_events": 5, "max_bytes": 100_000}, {"max_events": 100, "max_bytes": 500}])
def test_no_more_are_joined_than_make_a_batch(limits: dict[str, int]) -> None:
    """What is behind a full batch stays as it was, and is not due because that was."""
    lane = Lane("s", None)
    limits["max_bytes"] += lane.envelope
    sized(lane, 1, 1, 3, 1, due=True)
    assert lane.take("b", **limits).events == 5
    assert (lane.waiting, lane.due, lane.since) == (1, False, 3.0)


@pytest.mark.parametrize("due", [False, True])
def test_the_rest_of_what_was_joined(*, due: bool) -> None:
    """It is due if anything of it was, and has waited for as long as the oldest."""
    lane = Lane("s", None)
    sized(lane, 2, 3, due=due)
    assert lane.since == 0.0
    assert lane.take("b", max_events=4, max_bytes=1024).events == 4
    assert (lane.waiting, lane.due, lane.since) == (1, due, 0.0)


@pytest.mark.parametrize(("events", "full"), [(10, True), (9, False)])
def test_a_rest_that_is_full(events: int, full: bool) -> None:
    """What is left is full if it makes a batch by its number, or by its bytes, and not if one event is missing."""
    for max_events, max_bytes in ((10, 100_000), (100, 1000)):
        lane = Lane("s", None)
        sized(lane, 10 + events)
        assert lane.take("b", max_events=max_events, max_bytes=max_bytes + lane.envelope).events == 10
        assert [segment.full for segment in lane.closed] == [full]


def test_to_the_last_byte() -> None:
    """A batch whose body is just as large as may be is made at once, body and all; with a byte less it is cut."""
    lines = [encode_event("x" * 50)] * 5
    whole = len(body_of(lines, "s", AuthKey("k")))
    for max_bytes, taken in ((whole, 5), (whole - 1, 4)):
        lane = lane_of(["x" * 50] * 5, key=AuthKey("k"))
        batch = lane.take("b", max_events=10, max_bytes=max_bytes)
        assert batch.events == taken
        assert (batch.body is not None) == (taken == 5)


def test_growth() -> None:
    """It is that of the last batch, exactly, whatever else waits."""
    lane = Lane("s", None)
    sized(lane, 5)
    lane.take("b", max_events=5, max_bytes=100_000)
    assert lane.growth == 1.0
    lane.inlet = Inlet(None, "s", 0.0, bytearray(b'"' * 5000), 1)
    assert lane.full_size(10_000) == int((10_000 - lane.envelope) * 0.99)


def test_taking_a_batch_out() -> None:
    """It is gone, and for whoever follows events it is told how many stand before it."""
    for followed in (False, True):
        lane = Lane("s", None)
        lane.batches = [Batch.of(f"{count}", b"1\n" * count, count) for count in (4, 3, 2, 1)]
        flush = Flush(10)
        if followed:
            lane.join_flush(flush)
        assert lane.take_out(lane.batches[1]) == (3 if followed else 0)
        assert [batch.batch_id for batch in lane.batches] == ["4", "2", "1"]


def test_the_rest_of_what_was_full() -> None:
    """What is left of a segment that turned out to be more than one batch is full if it makes another."""
    lane = Lane("s", None)
    add(lane, ["x" * 100] * 20, full=True)
    lane.take("b", max_events=2000, max_bytes=1024)
    assert [segment.full for segment in lane.closed] == [True]
    lane.take("b", max_events=2000, max_bytes=1024)
    assert [segment.full for segment in lane.closed] == [False]


def test_a_full_segment_that_is_more_than_it_seemed() -> None:
    """What would fit by its bytes, but not escaped, is cut where it does."""
    lane = Lane("s", None)
    add(lane, ['"' * 50] * 8, full=True)
    batch = lane.take("b", max_events=2000, max_bytes=1024)
    body = batch.body or lane.body(batch.lines)
    assert len(lane.body(batch.lines)) == len(body) <= 1024
    assert batch.events == 4
    assert lane.waiting == 4


def test_full_size() -> None:
    """How many bytes make a batch is guessed from a sample at first, then known from the batch before."""
    lane = Lane("s", None)
    assert lane.full_size(10_000) == 10_000 - lane.envelope
    add(lane, ['"' * 100])
    lane.inlet = Inlet(None, "s", 0.0)
    lane.inlet.lines += b'"' * 4096
    assert lane.full_size(10_000) == int((10_000 - lane.envelope) * 0.99 / 2)
    lane.take("b", max_events=10, max_bytes=10_000)
    assert lane.growth == pytest.approx(2.0, abs=0.01)
    add(lane, ["x" * 1000])
    lane.take("b", max_events=10, max_bytes=10_000)
    assert lane.growth == pytest.approx(1.0, abs=0.01)


def test_cut_oldest() -> None:
    """Events are cut off in order, out of segments and the inlet, with what was lent for them."""
    lane = Lane("s", None)
    add(lane, [1, 2])
    lane.inlet = Inlet(None, "s", 5.0, max_size=10, max_events=9, lent_bytes=10, lent_events=9)
    for n in (3, 4):
        lane.inlet.append(encode_event(n))
    assert [lane.cut_oldest() for _ in range(2)] == [b"1\n", b"2\n"]
    assert (lane.since, lane.waiting) == (5.0, 2)
    assert lane.cut_oldest() == b"3\n"
    inlet = lane.inlet
    assert (inlet.events, inlet.max_size, inlet.max_events, inlet.lent_bytes, inlet.lent_events) == (1, 8, 8, 8, 8)
    assert not lane.empty
    lane.cut_oldest()
    assert (lane.empty, lane.since) == (True, None)


def test_the_sample() -> None:
    """The first 4096 bytes that wait say how much longer the rest gets, not fewer, and not those behind them."""
    lane = Lane("s", None, inlet=Inlet(None, "s", 0.0, bytearray(b"x" * 4095), 1))
    lane.full_size(10_000)
    assert lane.growth is None
    lane.inlet.lines += b"x" + b'"' * 1000
    lane.full_size(10_000)
    assert lane.growth == 1.0


def test_a_new_lane() -> None:
    """Nothing has happened to it: it takes all events of its stream, and is told from others by what it is."""
    lane = Lane("s", AuthKey("k"))
    assert (lane.pinned, lane.timer, lane.attempt, lane.growth, lane.record_head) == (False, None, 0, None, b"")
    assert (lane.address, lane.fingerprint) == (("s", AuthKey("k").fingerprint), AuthKey("k").fingerprint)
    assert lane != Lane("s", AuthKey("k"))
    assert not hasattr(lane, "__dict__"), "there may be many"


def test_another_key() -> None:
    """What comes next says so: the lane's address, its records, and the body of a batch that was not sent yet."""
    lane = lane_of([1], key=AuthKey("old"))
    lane.record_head = b"old"
    lane.batches = [lane.take("b", max_events=1, max_bytes=1024)]
    lane.rekey(AuthKey("new"))
    assert (lane.key, lane.fingerprint) == (AuthKey("new"), AuthKey("new").fingerprint)
    assert (lane.address, lane.record_head) == (("s", AuthKey("new").fingerprint), b"")
    assert [batch.body for batch in lane.batches] == [None]
    assert lane.body(b"1\n") == body_of([b"1\n"], "s", AuthKey("new"))


def test_a_new_batch() -> None:
    """Nothing has happened to it, and it is told from others by what it is."""
    batch = Batch.of("b", b"1\n2\n", 2)
    assert (batch.batch_id, batch.lines, batch.events, batch.size) == ("b", b"1\n2\n", 2, 4)
    assert (batch.attempts, batch.failures, batch.first_sent, batch.status, batch.trouble) == (0, 0, None, None, "")
    assert (batch.body, batch.place, batch.part) == (None, 0, 0)
    assert not any((batch.stale_retry, batch.asked, batch.kept, batch.doubtful, batch.spilled, batch.settled))
    assert batch != Batch.of("b", b"1\n2\n", 2)
    assert not hasattr(batch, "__dict__")


def test_no_events_in_a_repr_of_a_batch() -> None:
    """Neither its lines nor its body."""
    batch = lane_of(["canary"]).take("b", max_events=1, max_bytes=1024)
    assert batch.body is not None
    assert "canary" not in repr(batch)


def test_many_flushes() -> None:
    """From the ninth on those that are done are forgotten with each batch."""
    lane = lane_of([1, 2])
    flushes = [Flush(2) for _ in range(8)]
    for flush in flushes:
        lane.join_flush(flush)
    del flushes[0], flush
    lane.settle_flushes(1, delivered=True)
    assert len(lane.flushes) == 8, "one is forgotten at the next flush"
    flushes += [Flush(1), Flush(1)]
    for flush in flushes[-2:]:
        lane.join_flush(flush)
    assert len(lane.flushes) == 9
    del flushes[0], flush
    lane.settle_flushes(0, delivered=True)
    assert len(lane.flushes) == 8
    flushes.append(Flush(1))
    lane.join_flush(flushes[-1])
    lane.settle_flushes(1, delivered=True)
    assert len(lane.flushes) == 3, "those of them that are done are forgotten, too, whoever holds them"


def test_nothing_is_no_segment() -> None:
    """An inlet that holds nothing leaves nothing behind."""
    lane = Lane("s", None, inlet=Inlet(None, "s", 0.0))
    lane.close_inlet(due=True)
    assert (lane.empty, lane.waiting) == (True, 0)


def test_flushes_that_nobody_holds() -> None:
    """A flush that nobody waits for any more is forgotten, and one that is done likewise."""
    lane = lane_of([1, 2])
    held, dropped = Flush(2), Flush(2)
    for flush in (held, dropped):
        lane.join_flush(flush)
    del dropped, flush
    lane.settle_flushes(1, delivered=True)
    another = Flush(1)
    lane.join_flush(another)
    assert len(lane.flushes) == 2
    lane.settle_flushes(1, delivered=False)
    assert (held.result.delivered, held.result.lost, held.done) == (1, 1, True)
    lane.join_flush(Flush(0))
    assert len(lane.flushes) == 2


def test_a_batch_is_verified_by_a_collector() -> None:
    """The body's signature is over the very text of its data."""
    lane = lane_of(SHAPES, "поток", AuthKey("k"))
    body = lane.body(waiting(lane))
    assert b'"bulk":true}' in body
    collector = ModelCollector(["k"])
    assert collector.handle(bulk_request(Endpoint.parse("http://h"), body, "b")).status == 200
    assert collector.lines("поток") == [encode_event(shape) for shape in SHAPES]


def test_no_events_or_key_in_a_repr() -> None:
    """A lane's repr, in a traceback say, shows neither."""
    lane = lane_of(["canary-event"], key=AuthKey("canary-key"))
    assert "canary" not in repr(lane)


def test_what_is_not_sent_yet_fits_too() -> None:
    """A batch whose body is not made yet is cut where that would be too large."""
    lane = Lane("s", None)
    line = b'"' + rb"\\" * 20 + b'"\n'  # nearly twice as long when it is escaped
    lane.closed = deque([Segment(line * 10, 10, 0.0, full=True, due=False)])
    batch = lane.take("a", max_events=100, max_bytes=600, send=False)
    assert 0 < batch.events < 10
    assert len(lane.body(batch.lines or b"")) <= 600
