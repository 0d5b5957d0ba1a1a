"""Batches are cut exactly, whatever the events look like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import AuthKey, Endpoint, Flush, encode_event
from atom_sansio._lane import Batch, Lane, _nth_line, split
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
    lane = Lane(stream, key)
    for item in items:
        lane.open.lines += encode_event(item)
        lane.open.events += 1
    return lane


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
    assert bytes(lane.open.lines) == b"".join(lines[batch.events :])
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
    assert _nth_line(lines, n, len(lengths)) == sum(lengths[:n]) + n


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
    """What is due is taken first, and is no longer due then."""
    lane = lane_of([1, 2, 3, 4])
    lane.due = 3
    lane.take("b", max_events=2, max_bytes=1024)
    assert lane.due == 1
    assert lane.cut_oldest() == b"3\n"
    assert (lane.due, lane.waiting, bytes(lane.open.lines)) == (0, 1, b"4\n")
    lane.cut_oldest()
    assert (lane.due, lane.empty) == (0, True)


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
    body = lane.body(bytes(lane.open.lines))
    assert b'"bulk":true}' in body
    collector = ModelCollector(["k"])
    assert collector.handle(bulk_request(Endpoint.parse("http://h"), body, "b")).status == 200
    assert collector.lines("поток") == [encode_event(shape) for shape in SHAPES]


def test_no_events_or_key_in_a_repr() -> None:
    """A lane's repr, in a traceback say, shows neither."""
    lane = lane_of(["canary-event"], key=AuthKey("canary-key"))
    assert "canary" not in repr(lane)
