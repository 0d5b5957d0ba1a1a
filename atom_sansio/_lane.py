"""The events of one (stream, key) pair: what waits, in order, and the batch that is on its way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ._cut import escaped_growth, longest_fit, nth_line
from ._flush import EventShare, Flush, FlushShare, Receipt
from ._inlet import CLOSED, NO_INLET, Inlet, Segment, count_lines
from ._messages import Loss
from ._request import array_text, envelope, envelope_size, quote
from ._sign import AuthKey
from ._state import LANE_TRANSITIONS, LaneInput, LaneState, advance

_SAMPLE = 4096
"""Bytes of waiting events from which the growth of the first batch is guessed."""

_MANY_FLUSHES = 8
"""Of a lane; from here on those that are done are forgotten with each batch, not with the next flush."""

_FILL = 0.99
"""Of a body's room, what a segment is meant to take.  Events that are much alike do not differ by more."""


@dataclass(slots=True, eq=False)
class Batch:
    """Some events of one lane that are sent, retried and settled together."""

    batch_id: str
    lines: bytes | None = field(repr=False)
    """The encoded events, a line each; the body is a function of these and the lane's key alone.  None when they are
    in the backlog alone."""
    events: int
    size: int
    """Bytes of its events."""
    attempts: int = 0
    """How many times its events were sent, in this batch or in one that it was split off."""
    failures: int = 0
    """How many times the batch itself came to no answer or was told to come again."""
    first_sent: float | None = None
    """When the batch itself was first sent."""
    status: int | None = None
    """That of the last answer, if there was one."""
    trouble: str = ""
    """What came of the last attempt, in words, if it was for nothing."""
    stale_retry: bool = False
    """Whether a stale connection has already been forgiven since the last answer."""
    body: bytes | None = field(default=None, repr=False)
    """Of its first request, until that is sent."""
    place: int = 0
    """With ``part`` its order among those in the backlog; see :class:`KeptBatch`."""
    part: int = 0
    asked: bool = False
    """Whether the backlog is to keep it."""
    kept: bool = False
    """Whether the backlog keeps it."""
    doubtful: bool = False
    """Whether the backlog may keep it all the same: nobody knows what came of an update that puts it."""
    spilled: bool = False
    """Whether it was made to be kept, and not yet to be sent."""
    settled: bool = False
    """Whether the backlog need not keep it any more."""

    @classmethod
    def of(cls, batch_id: str, lines: bytes, events: int) -> Batch:
        """A batch of these events."""
        return cls(batch_id, lines, events, len(lines))


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one stream and key, and the batch that is on its way."""

    stream: str
    key: AuthKey | None = field(repr=False)
    pinned: bool = False
    """Whether the key came with the events, so that the stream's own key does not replace it."""
    state: LaneState = LaneState.FILLING
    inlet: Inlet = NO_INLET
    """Where the next event goes."""
    closed: deque[Segment] | tuple[Segment, ...] = ()
    """What waits before ``inlet``.  (An empty deque takes as much memory as the rest of a lane.)"""
    timer: float | None = None
    """When the lane asks to be looked at again, if it does."""
    batches: list[Batch] = field(default_factory=list, repr=False)
    """What is in batches already, to be sent before what waits; the last one first."""
    attempt: int = 0
    """Failures in a row; what the pause grows with."""
    flushes: list[FlushShare | EventShare] | tuple[FlushShare | EventShare, ...] = field(default=(), repr=False)
    """Whoever waits for events of this lane."""
    growth: float | None = None
    """How many times longer its events get when they are escaped, as seen last."""
    fingerprint: str | None = None
    """Of its key, or of the one that it waits for."""
    address: tuple[str, str | None] = field(init=False)
    """Stream and fingerprint: what tells it from others."""
    record_head: bytes = b""
    """What its records begin with, once there was one."""
    envelope: int = field(init=False)
    """Bytes of a request around its events."""

    def __post_init__(self) -> None:
        self.envelope = envelope_size(self.stream)
        if self.key is not None:
            self.fingerprint = self.key.fingerprint
        self.address = self.stream, self.fingerprint

    def rekey(self, key: AuthKey) -> None:
        """Sign with *key* from now on."""
        self.key, self.fingerprint = key, key.fingerprint
        self.address = self.stream, self.fingerprint
        self.record_head = b""
        for batch in self.batches:
            batch.body = None  # of a batch that is at the backlog; it has the old signature

    def fire(self, input_: LaneInput) -> None:
        """Let *input_* happen to the lane; what that means is in the table."""
        self.state = advance(LANE_TRANSITIONS, self.state, input_)

    @property
    def waiting(self) -> int:
        """Events that are in no batch yet."""
        return sum(segment.events for segment in self.closed) + self.inlet.count()

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
        return not (self.batches or self.closed or self.inlet.lines)

    @property
    def due(self) -> bool:
        """Whether it holds something to be sent without waiting for more."""
        return bool(self.batches) or (bool(self.closed) and (self.closed[-1].full or self.closed[-1].due))

    @property
    def since(self) -> float | None:
        """When the oldest waiting event came, or before; None when none waits."""
        if self.closed:
            return self.closed[0].since
        return self.inlet.since if self.inlet.lines else None

    def full_size(self, max_bytes: int) -> int:
        """Bytes of waiting events that make a batch of at most *max_bytes*, by what is known of their escaping."""
        if self.growth is None and len(self.inlet.lines) >= _SAMPLE:
            self.growth = escaped_growth(self.inlet.lines[:_SAMPLE])
        room = max_bytes - self.envelope
        return room if self.growth is None else int(room * _FILL / self.growth)

    def sure_size(self, max_bytes: int) -> int:
        """Bytes of events that fit in a batch of at most *max_bytes*, however they are escaped."""
        return (max_bytes - self.envelope) // 2

    def close_inlet(self, *, full: bool = False, due: bool = False) -> None:
        """Let what is in the inlet wait as a segment, if there is anything; the next event opens another inlet."""
        inlet = self.inlet
        if inlet is NO_INLET:
            return
        inlet.max_size = inlet.max_events = CLOSED
        lines = bytes(inlet.lines)
        size, events = len(lines), count_lines(lines)
        closed = self.closed if isinstance(self.closed, deque) else deque()
        segment = Segment(lines, events, inlet.since, full, due)
        ledger = inlet.ledger
        # Without a call in between, in which a signal handler might raise: all of it is done, or nothing.
        if lines:
            closed += (segment,)
            self.closed = closed
        del inlet.lines[:size]  # what is left comes late
        if ledger is not None:
            ledger.room_bytes += inlet.lent_bytes - size
            ledger.room_events += inlet.lent_events - events
        inlet.lent_bytes, inlet.lent_events = size, events
        self.inlet = NO_INLET

    def make_due(self) -> None:
        """Let all that waits be sent without waiting for more."""
        if self.inlet.lines:
            self.close_inlet(due=True)
        if self.closed:
            self.closed[-1].due = True  # a full one, too: its events may be too large when they are escaped

    def body(self, lines: bytes) -> bytes:
        """The request body for *lines*; the same lines and key make the same bytes at any time."""
        text = array_text(lines)
        return envelope(self.stream, text, quote(text), self.key, bulk=True)

    def take(self, batch_id: str, *, max_events: int, max_bytes: int, send: bool = True) -> Batch:
        """Cut a batch off the front whose body, which it has with it if it is to be sent, has at most *max_bytes*.

        It is the longest that there is, or a segment that was full by itself.  At least one event is taken,
        even if it alone is too large.  The inlet is not touched.
        """
        assert isinstance(self.closed, deque)
        segment = _front(self.closed, max_events, self.full_size(max_bytes))
        room = max_bytes - self.envelope
        lines, events = segment.lines, segment.events
        if events <= max_events and len(lines) <= room:
            if not send and len(lines) <= self.sure_size(max_bytes):
                return Batch.of(batch_id, lines, events)  # its body is made when it is sent
            text = array_text(lines)
            data = quote(text)  # most of what a body costs, so nearly always it is made but once
            self.growth = (len(data) - 3) / len(lines)
            if len(data) - 4 <= room:  # less its quotes and the array's brackets
                batch = Batch.of(batch_id, lines, events)
                if send:
                    batch.body = envelope(self.stream, text, data, self.key, bulk=True)
                return batch
        size, taken = longest_fit(lines, events, max_events=max_events, max_bytes=room)
        if taken < events:
            rest = Segment(lines[size:], events - taken, segment.since, full=False, due=segment.due)
            rest.full = rest.events >= max_events or len(rest.lines) >= self.full_size(max_bytes)
            self.closed.appendleft(rest)
            lines = lines[:size]
        return Batch.of(batch_id, lines, taken)

    def join_flush(self, flush: Flush) -> None:
        """Let *flush* follow all that is pending here; shares that nobody waits for any more are dropped."""
        wanted = [share for share in self.flushes if share.left and share.wanted]
        self.flushes = [*wanted, FlushShare(flush, self.pending)]

    def join_receipt(self, receipt: Receipt) -> None:
        """Let *receipt* follow the event that came last."""
        if not isinstance(self.flushes, list):
            self.flushes = []
        self.flushes.append(EventShare(receipt, self.pending - 1))

    def settle_flushes(self, events: int, *, after: int = 0, delivered: bool, loss: Loss | None = None) -> None:
        """The lane's next *events* after the *after* oldest have their outcome."""
        for share in self.flushes:
            share.settle(events, after=after, delivered=delivered, loss=loss)
        if len(self.flushes) > _MANY_FLUSHES:
            self.flushes = [share for share in self.flushes if share.left and share.wanted]

    def leave(self, *, kept: bool) -> None:
        """All ends; *kept* says whether the backlog has what there is, or only may come to have it."""
        for share in self.flushes:
            share.leave(kept=kept)

    def take_out(self, batch: Batch) -> int:
        """Take *batch* out, wherever it stands; return how many events go before it, if somebody follows any."""
        position = self.batches.index(batch)
        after = sum(other.events for other in self.batches[position + 1 :]) if self.flushes else 0
        del self.batches[position]
        return after

    def cut_oldest(self) -> bytes:
        """Cut the oldest waiting event off."""
        if not self.closed:
            return self.inlet.cut_oldest()
        first = self.closed[0]
        end = first.lines.index(b"\n") + 1
        line, first.lines = first.lines[:end], first.lines[end:]
        first.events -= 1
        if not first.events:
            assert isinstance(self.closed, deque)
            self.closed.popleft()
        return line


def _front(closed: deque[Segment], max_events: int, full_size: int) -> Segment:
    """Take the first segment off, with as many of the next as it lacks to make a batch."""
    first = closed.popleft()
    if first.full or not closed:
        return first
    parts = [first]
    events, size = first.events, len(first.lines)
    while closed and events < max_events and size < full_size:
        parts.append(closed.popleft())
        events += parts[-1].events
        size += len(parts[-1].lines)
    due = any(part.due for part in parts)
    return Segment(b"".join([part.lines for part in parts]), events, first.since, full=False, due=due)


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Two halves of a batch of at least two events, with ids made from its own."""
    assert batch.lines is not None
    middle = batch.events // 2
    cut = nth_line(batch.lines, middle, batch.events)
    first = Batch.of(f"{batch.batch_id}.1", batch.lines[:cut], middle)
    second = Batch.of(f"{batch.batch_id}.2", batch.lines[cut:], batch.events - middle)
    first.attempts = second.attempts = batch.attempts
    first.place = second.place = batch.place
    first.part, second.part = batch.part, batch.part + middle
    return first, second
