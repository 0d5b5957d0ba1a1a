"""The events of one (stream, key) pair, waiting in order as bytes.

A kept ``bytes`` from orjson pins a page of 4 KiB, an event object costs hundreds of bytes; appended to a
bytearray an event costs its text and one byte.  The byte is a line break: JSON text has none of its own,
so the buffer needs no index of where events begin.

Where many events wait they are kept in segments of a batch each.  One buffer for all would be moved in memory
again and again while it grows at its end and is cut at its front.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ._flush import Flush, FlushShare
from ._request import array_text, envelope_head, envelope_size, envelope_tail, escape
from ._sign import AuthKey
from ._state import LANE_TRANSITIONS, LaneInput, LaneState, advance

_SAMPLE = 4096
"""Bytes of waiting events from which the cost of escaping the rest is guessed."""


@dataclass(slots=True, eq=False)
class Segment:
    """Some waiting events."""

    lines: bytearray = field(default_factory=bytearray, repr=False)
    """Encoded, a line each."""
    events: int = 0
    since: float = 0.0
    """None of them is older than this."""

    def cut(self, size: int, events: int) -> bytes:
        """Cut off the first *events* lines, which have *size* bytes."""
        lines = bytes(memoryview(self.lines)[:size])
        del self.lines[:size]
        self.events -= events
        return lines


@dataclass(slots=True, eq=False)
class Batch:
    """Some events of one lane that are sent, retried and settled together."""

    batch_id: str
    lines: bytes = field(repr=False)
    """The encoded events, a line each; the body is a function of these and the lane's key alone."""
    events: int
    attempts: int = 0
    """How many times its events were sent, in this batch or in one that it was split off."""
    failures: int = 0
    """How many times the batch itself came to no answer or was told to come again."""
    first_sent: float | None = None
    """When the batch itself was first sent."""
    stale_retry: bool = False
    """Whether a stale connection has already been forgiven since the last answer."""


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one stream and key, and the batch that is on its way."""

    stream: str
    key: AuthKey | None = field(repr=False)
    pinned: bool = False
    """Whether the key came with the events, so that the stream's own key does not replace it."""
    sure_size: int = 0
    """Bytes of an encoded event that surely fits into a request, however much escaping adds."""
    state: LaneState = LaneState.FILLING
    open: Segment = field(default_factory=Segment)
    """Where the next event goes."""
    closed: deque[Segment] = field(default_factory=deque)
    """What waits before ``open``, each of them enough for a batch."""
    due: int = 0
    """How many of the waiting events are to be sent without waiting for a full batch."""
    timer: float | None = None
    """When the lane asks to be looked at again, if it does."""
    batches: list[Batch] = field(default_factory=list, repr=False)
    """Sent or split before, and to be sent before what waits; the last one first."""
    attempt: int = 0
    """Failures in a row; what the pause grows with."""
    flushes: list[FlushShare] = field(default_factory=list, repr=False)
    """Whoever waits for events of this lane."""

    def fire(self, input_: LaneInput) -> None:
        """Let *input_* happen to the lane; what that means is in the table."""
        self.state = advance(LANE_TRANSITIONS, self.state, input_)

    @property
    def front(self) -> Segment:
        """What waits and is next to be sent."""
        return self.closed[0] if self.closed else self.open

    @property
    def waiting(self) -> int:
        """Events that are in no batch yet."""
        return sum(segment.events for segment in self.closed) + self.open.events

    @property
    def batched(self) -> int:
        """Events that are in a batch, in flight or not."""
        return sum(batch.events for batch in self.batches)

    @property
    def pending(self) -> int:
        """Events without an outcome."""
        return self.batched + self.waiting

    @property
    def empty(self) -> bool:
        """Whether it holds nothing at all."""
        return not self.open.events and not self.closed and not self.batches

    def close_segment(self) -> None:
        """What is open makes a full batch; go on in another."""
        self.closed.append(self.open)
        self.open = Segment()

    def body(self, lines: bytes, escaped: bytes | None = None) -> bytes:
        """The request body for *lines*; the same lines and key make the same bytes at any time."""
        text = array_text(lines)
        return b"".join(
            (
                envelope_head(self.stream),
                escape(text) if escaped is None else b"[%s]" % escaped,
                envelope_tail(text, self.key, bulk=True),
            )
        )

    def take(self, batch_id: str, *, max_events: int, max_bytes: int) -> tuple[Batch, bytes]:
        """Cut the longest batch off the front whose body has at most *max_bytes*; give its body too.

        At least one event is taken, even if it alone is too large.
        """
        front = self.front
        size, events, escaped = _longest_fit(
            front.lines, front.events, max_events=max_events, max_bytes=max_bytes - envelope_size(self.stream)
        )
        lines = front.cut(size, events)
        self.due = max(0, self.due - events)
        if self.closed and front.events < max_events and len(front.lines) < max_bytes:
            self._join_rest()
        return Batch(batch_id, lines, events), self.body(lines, escaped)

    def _join_rest(self) -> None:
        """What is left of the first closed segment is no full batch: put it before the next segment."""
        rest = self.closed.popleft()
        if not rest.events:
            return
        after = self.front
        rest.lines += after.lines
        rest.events += after.events
        if self.closed:
            self.closed[0] = rest
        else:
            self.open = rest

    def join_flush(self, flush: Flush) -> None:
        """Let *flush* follow all that is pending here; shares that nobody waits for any more are dropped."""
        self.flushes = [share for share in self.flushes if share.left and share.wanted]
        self.flushes.append(FlushShare(flush, self.pending))

    def settle_flushes(self, events: int, *, after: int = 0, delivered: bool) -> None:
        """The lane's next *events* after the *after* oldest have their outcome."""
        for share in self.flushes:
            share.settle(events, after=after, delivered=delivered)

    def cut_oldest(self) -> bytes:
        """Cut the oldest waiting event off."""
        front = self.front
        line = front.cut(front.lines.index(b"\n") + 1, 1)
        self.due = max(0, self.due - 1)
        if self.closed and not front.events:
            self.closed.popleft()
        return line


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Two halves of a batch of at least two events, with ids made from its own."""
    middle = batch.events // 2
    cut = _nth_line(batch.lines, middle, batch.events)
    first = Batch(f"{batch.batch_id}.1", batch.lines[:cut], middle, batch.attempts)
    second = Batch(f"{batch.batch_id}.2", batch.lines[cut:], batch.events - middle, batch.attempts)
    return first, second


def _longest_fit(lines: bytearray, events: int, *, max_events: int, max_bytes: int) -> tuple[int, int, bytes]:
    """The longest prefix of whole lines that fits: its bytes, its events, and its escaped text.

    Escaping is the dearest part of a body and its length is what counts, so it is the measure: as much as
    should fit is escaped at once, and only what was guessed wrong is escaped again.
    """
    end = len(lines) if events <= max_events else _nth_line(lines, max_events, events)
    left = max_bytes + 1  # the last line's break is no comma
    growth = 1.0 if 2 * end <= left else _escaped_growth(lines[: min(end, _SAMPLE)]) * 1.01
    pieces = []
    position = 0
    with memoryview(lines) as view:
        while position < end:
            reach = min(end, position + max(1, int(left / growth)))
            cut = lines.rfind(b"\n", position, reach) + 1 or lines.index(b"\n", position) + 1
            piece = escape(bytes(view[position:cut]).replace(b"\n", b","))
            if len(piece) > left:
                if lines.find(b"\n", position, cut - 1) >= 0:  # several lines: fewer may fit
                    growth = max(growth * 1.01, len(piece) / (cut - position))
                    continue
                if position:
                    break
            pieces.append(piece)
            left -= len(piece)
            position = cut
    taken = events if position == len(lines) else lines.count(b"\n", 0, position)
    return position, taken, b"".join(pieces)[:-1]


def _escaped_growth(sample: bytearray) -> float:
    """How many times longer a text gets when it is escaped; from 1 to 2."""
    return 1.0 + (sample.count(b'"') + sample.count(b"\\")) / len(sample)


def _nth_line(lines: bytes | bytearray, n: int, events: int) -> int:
    """Where the first *n* of *events* lines end.

    The average length says about where; counting line breaks says how far off that was.  This takes a
    few passes in C over what is near instead of *n* calls.
    """
    position, end = 0, len(lines)
    while n:
        reach = position + max(1, (end - position) * n // events)
        cut = lines.rfind(b"\n", position, reach) + 1 or lines.index(b"\n", position) + 1
        passed = lines.count(b"\n", position, cut)
        if passed > n:
            end, events = cut, passed
        else:
            position, n, events = cut, n - passed, events - passed
    return position
