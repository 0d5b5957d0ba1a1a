"""Batches are cut exactly, whatever the events look like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import AuthKey, Endpoint, Flush, _cut, encode_event
from atom_sansio._cut import longest_fit, nth_line
from atom_sansio._inlet import Inlet, Segment
from atom_sansio._lane import Batch, Lane, split
from atom_sansio._ledger import Ledger
from atom_sansio._request import bulk_request, quote
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
    batch, body = lane.take("b", max_events=max_events, max_bytes=max_bytes)
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


@pytest.mark.parametrize("items", [SHAPES, SHAPES[::-1], ["", "", ""], ["x" * 9] * 12, ['"' * 5, 7] * 6, [7]])
def test_every_limit(items: list[Any]) -> None:
    """At each limit of bytes and events, the prefix is the one that trying them one by one finds."""
    lines = [encode_event(item) for item in items]
    every = range(1, len(lines) + 1)
    texts = {n: b",".join(line[:-1] for line in lines[:n]).decode() for n in every}
    sizes = {n: len(json.dumps(text, ensure_ascii=False).encode()) - 2 for n, text in texts.items()}
    for max_events in (1, 2, len(lines) - 1 or 1, len(lines), len(lines) + 1):
        for max_bytes in range(1, sizes[len(lines)] + 3):
            events = max((n for n in every if n <= max_events and sizes[n] <= max_bytes), default=1)
            fit = longest_fit(b"".join(lines), len(lines), max_events=max_events, max_bytes=max_bytes)
            assert fit == (len(b"".join(lines[:events])), events)


@pytest.mark.parametrize(
    ("items", "wasted", "times"),
    [
        (["x" * 98] * 5000, 100, 3),
        (['"' * 60] * 5000, 124, 3),
        ([{"id": i, "name": "x" * (i % 50), "q": '"' * (i % 3)} for i in range(5000)], 200, 4),
        (['"' * 60] * 60 + ["x" * 98] * 5000, 124, 16),
        (["x" * 98] * 3000 + ['"' * 60] * 2000, 450_000, 6),
    ],
    ids=["plain", "quotes", "mixed", "cheaper", "dearer"],
)
@pytest.mark.parametrize("max_bytes", [5_000, 50_000, 400_000])
def test_little_is_escaped_twice(
    items: list[Any], wasted: int, times: int, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of events like those at the beginning hardly more than fits is escaped, in a few pieces; else not much more."""
    lines = b"".join(map(encode_event, items))
    escaped: list[int] = []
    monkeypatch.setattr(_cut, "quote", lambda text: escaped.append(len(text)) or quote(text))
    position, _ = longest_fit(lines, len(items), max_events=10_000, max_bytes=max_bytes)
    assert sum(escaped) <= position + wasted
    assert len(escaped) <= times


@given(batches, st.integers(150, 3000))
def test_all_of_it(items: list[Any], max_bytes: int) -> None:
    """Batch by batch everything is taken, once and in order, and verifies."""
    lane = lane_of(items, key=AuthKey("k"))
    taken = b""
    while lane.waiting:
        batch, _ = lane.take("b", max_events=7, max_bytes=max_bytes)
        assert batch.events == batch.lines.count(b"\n")
        taken += batch.lines
    assert taken == b"".join(map(encode_event, items))
    assert lane.empty


@pytest.mark.parametrize("pattern", [(5, 4000), (4000, 5), (1, 1), (300, 2), (1000, 4000)])
@pytest.mark.parametrize("texts", [("plain", '"' * 5), ('"' * 60, "plain" * 20), ("é", "\\" * 99)])
def test_uneven(pattern: tuple[int, int], texts: tuple[str, str]) -> None:
    """Where the start of the buffer misleads about the rest, batches are exact all the same."""
    items = [texts[0]] * pattern[0] + [texts[1]] * pattern[1]
    lines = [encode_event(item) for item in items]
    lane = lane_of(items)
    position = 0
    while lane.waiting:
        batch, _ = lane.take("b", max_events=2000, max_bytes=16384)
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
        batch, _ = lane.take("b", max_events=10, max_bytes=max_bytes)
        assert (batch.events, lane.waiting) == (1, 1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.data())
def test_nth_line(lengths: list[int], data: st.DataObject) -> None:
    """The end of the first n lines, as counting one by one finds it."""
    lines = b"".join(b"x" * length + b"\n" for length in lengths)
    n = data.draw(st.integers(0, len(lengths)))
    assert nth_line(lines, n, len(lengths)) == sum(lengths[:n]) + n


@given(batches.filter(lambda items: len(items) > 1))
def test_split(items: list[Any]) -> None:
    """Two halves that differ by one event at most, hold the same in order, and remember what had happened."""
    lines = [encode_event(item) for item in items]
    whole = Batch("id", b"".join(lines), len(lines), attempts=3, failures=2, first_sent=7.0)
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


def test_small_segments_make_a_batch_together() -> None:
    """What was closed for being due is joined up to a full batch, in order; what is full goes as it is."""
    lane = Lane("s", None)
    for n in range(5):
        add(lane, [n], due=n == 3)
    batch, _ = lane.take("b", max_events=4, max_bytes=1024)
    assert batch.lines == b"0\n1\n2\n3\n"
    add(lane, [5, 6, 7, 8], full=True)
    add(lane, [9])
    sizes = []
    while lane.closed:
        batch, _ = lane.take("b", max_events=4, max_bytes=1024)
        sizes.append(batch.events)
    assert sizes == [4, 2]
    add(lane, [1], full=True)
    add(lane, [2], full=True)
    assert lane.take("b", max_events=4, max_bytes=1024)[0].events == 1


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
    batch, body = lane.take("b", max_events=2000, max_bytes=1024)
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


def test_a_new_inlet() -> None:
    """An inlet is open but lent nothing, is equal to itself alone, and shows neither events nor where it belongs."""
    inlet = Inlet(Ledger(max_events=None, max_bytes=1 << 20), "s", 0.0)
    inlet.append(b'"canary"\n')
    assert (inlet.max_size, inlet.max_events, inlet.lent_bytes, inlet.lent_events) == (0, 0, 0, 0)
    assert (
        repr(inlet) == "Inlet(stream='s', since=0.0, events=1, max_size=0, max_events=0, lent_bytes=0, lent_events=0)"
    )
    assert inlet == inlet
    assert inlet != Inlet(None, "s", 0.0)
    assert {inlet: 1}[inlet] == 1
    assert type(inlet.cut_oldest()) is bytes
    segment = Segment(lines=b"canary\n", events=1, since=0.0, full=False, due=True)
    assert "canary" not in repr(segment)
    assert not hasattr(inlet, "__dict__")
    assert not hasattr(segment, "__dict__"), "there may be many"


def test_an_inlet_that_is_closed() -> None:
    """Closing gives what is there, lets nothing more in, and gives what came all the same when asked again."""
    inlet = Inlet(None, "s", 0.0, max_size=100, max_events=100)
    inlet.append(b"1\n")
    inlet.append(b"2\n")
    assert (inlet.count(), inlet.close()) == (2, b"1\n2\n")
    assert inlet.max_size < 0
    assert inlet.max_events < 0
    assert inlet.close() == b""
    inlet.append(b"3\n")
    assert inlet.close() == b"3\n"


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
