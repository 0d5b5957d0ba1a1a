"""Which lane an event goes to, whether there is room for it, and when there is something to do for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final

from ._cut import escaped_size, pieces
from ._errors import BacklogFull, EventTooLarge
from ._flush import EventShare, Receipt
from ._inlet import CLOSED, NO_INLET, Inlet, Segment, count_lines
from ._keeper import Keeper
from ._kept import KeptRecords
from ._lane import Batch, Lane
from ._ledger import Ledger
from ._losses import Losses
from ._messages import LossReason
from ._options import OnFull, Options
from ._recording import Record, RecordState
from ._request import check_stream
from ._schedule import Ages, Schedule
from ._sign import AuthKey
from ._state import LaneInput, LaneState

_LEAST_LENT: Final = 8192
"""Bytes that a lane is lent of the budget with its first event, if there is plenty; with more, more."""

_MIN_LEARNED_BYTES: Final = 1024
"""A collector that refuses bodies for their size is not sent smaller ones than this on its word."""

_AHEAD_BATCHES: Final = 16
"""Batches of a lane at most that are kept at a time."""

_AHEAD_BYTES: Final = 128 * 1024
"""Bytes of their events, if there is more than one."""

_SLACK: Final = 64
"""Batches that may be remembered beyond twice those that count, before the others are forgotten."""

_ACCEPTED: Final = RecordState.ACCEPTED
"""To look up a member of an enumeration takes as long as a call does, and this is for each event."""

_NO_ROOM: Final = "the pending budget has no room"
_NO_MEMORY: Final = "memory has no room, since the backlog has not taken what came before"


class Admission:
    """Takes in the events that an :class:`Intake` leaves to be decided about, and makes batches of them."""

    def __init__(
        self,
        options: Options,
        schedule: Schedule,
        ledger: Ledger,
        losses: Losses,
        keeper: Keeper | None,
        ids: Iterator[str],
    ) -> None:
        self._options = options
        self._schedule = schedule
        self._ledger = ledger
        self._losses = losses
        self._keeper = keeper
        self._ids = ids
        self._spilled: deque[tuple[Lane, Batch]] = deque()  # those to be kept, the oldest first
        self._in_memory: deque[tuple[Lane, Batch]] = deque()  # of these, those that may be there
        self._most_spilled = _SLACK
        self._keys = dict(options.auth_keys)
        self._some_unused = False  # whether a lane may have been lent more than it uses
        self._ages = Ages() if options.on_full is OnFull.DROP_OLDEST else None
        self.max_bytes = options.max_batch_bytes
        """Of a batch's body; lower once the collector said 413."""
        self.woken = False
        """Whether a lane may send now that could not, since this was last set to False."""

    def learn_max_bytes(self, refused: int) -> None:
        """The collector takes no body of *refused* bytes."""
        self.max_bytes = max(_MIN_LEARNED_BYTES, min(self.max_bytes, refused // 2))

    def set_key(self, stream: str, key: AuthKey) -> None:
        """Sign what comes for *stream* without a key of its own with *key*."""
        self._keys[stream] = key

    def key_of(self, stream: str, fingerprint: str | None) -> AuthKey | None:
        """The key of that fingerprint, if it was given."""
        keys = (self._keys.get(stream), self._options.auth_key, *self._keys.values())
        return next((key for key in keys if key is not None and key.fingerprint == fingerprint), None)

    def is_plain(self, stream: str, fingerprint: str | None) -> bool:
        """Whether events of *stream* that come without a key of their own have one of that fingerprint."""
        key = self._keys.get(stream, self._options.auth_key)
        return fingerprint == (None if key is None else key.fingerprint)

    def rekey(self, lane: Lane, key: AuthKey) -> None:
        """Sign *lane* with *key* from now on."""
        records = self._keeper is not None and self._keeper.records
        if records:
            # The records of two lanes would be told apart no longer.  So both have none, and one of them gets more.
            self.seal(lane)
            other = self._schedule.find(lane.stream, key)
            if other is not None and other is not lane:
                self.seal(other)
        self._schedule.rekey(lane, key, take_over=records)

    def accept(
        self,
        stream: str,
        line: bytes,
        auth_key: AuthKey | None,
        now: float,
        receipt: Receipt | None = None,
        *,
        late: bool = False,
    ) -> float:
        """Take an event in; return when there is something to do for it, minus infinity for now, infinity for never.

        One that is *late* was taken in before, when there was room for it; it needs none now.

        Raises:
            EventTooLarge, BacklogFull, TypeError, ValueError: see :meth:`TrackerCore.track`; nothing was accepted.
        """
        if self._keeper is not None:
            self._relieve(self._keeper)
        lane = self._lane(stream, auth_key)
        size = len(line)
        sure_size = lane.sure_size(self._options.max_batch_bytes)
        if size > sure_size:
            self._check_size(lane, line)
        when = inf
        full_size = lane.full_size(self.max_bytes)
        if lane.inlet.lines and len(lane.inlet.lines) + size > full_size:
            when = self._close_full(lane)
        ledger = self._ledger
        if not self.has_room(size) and not late:
            self._take_back_unused()
            if not self.has_room(size):
                when = -inf
                if not self._make_room(lane, line, now, receipt):
                    return when
        if lane.inlet is NO_INLET:
            when = min(when, self._open_inlet(lane, now))
        inlet = lane.inlet
        inlet.max_size = 0  # nobody else appends to it just now
        max_events = self._options.max_batch_events
        want_bytes = full_size if lane.closed else min(full_size, max(_LEAST_LENT, 2 * (len(inlet.lines) + size)))
        if self._keeper is not None:  # as the ledger has it of its budget, the last eighth is for what is used
            want_bytes = min(want_bytes, inlet.lent_bytes + self._keeper.crowded // 8 * 7 - self.resident)
        ledger.lend(inlet, size, want_bytes=want_bytes, want_events=max_events)
        inlet.append(line)
        if receipt is not None:
            lane.join_receipt(receipt)
        held = len(inlet.lines)
        if inlet.lent_bytes > held or inlet.lent_events > inlet.events:
            self._some_unused = True
        if inlet.events >= max_events or held >= full_size:
            return min(when, self._close_full(lane))
        inlet.max_events = min(inlet.lent_events, max_events - 1)  # the last of a batch comes here
        inlet.max_size = min(inlet.lent_bytes, full_size, held + sure_size)
        return when

    def admit(
        self,
        stream: str,
        line: bytes,
        auth_key: AuthKey | None,
        now: float,
        *,
        waits: bool,
        receipt: Receipt | None = None,
    ) -> Record | None:
        """Find room for an event that has a record first; None when it was dropped.

        Raises:
            EventTooLarge, BacklogFull, TypeError, ValueError: as :meth:`accept`.
        """
        lane = self._lane(stream, auth_key)
        if len(line) > lane.sure_size(self._options.max_batch_bytes):
            self._check_size(lane, line)
        if not self.has_room(len(line)):
            if not self._make_room(lane, line, now, receipt):
                return None
            self.woken = True  # somebody has to tell what was dropped
            if lane.empty and lane in self._schedule:  # what it held was dropped for this one, which comes later
                self._schedule.remove(lane)
        return Record(stream, line, auth_key, now, lane, waits, receipt)

    def lane_of(self, record: Record) -> Lane:
        """Which lane the event of *record* goes to, now."""
        lane = record.lane
        if lane is not self._schedule.at(lane.address) or lane.key is None:  # it may not be the one any more
            lane = record.lane = self._lane(record.stream, record.auth_key)
        return lane

    def enter(self, record: Record) -> float:
        """Accept the event of *record*, for which room is reserved; return as :meth:`accept`."""
        assert self._keeper is not None
        self._relieve(self._keeper)
        lane, line = record.lane, record.line
        if self._schedule.by_stream.get(record.stream) is not lane:
            lane = self.lane_of(record)
        size = len(line)
        full_size = lane.full_size(self.max_bytes)
        when = inf
        if lane.inlet.lines and len(lane.inlet.lines) + size > full_size:
            when = self._close_full(lane)
        if lane.inlet is NO_INLET:
            when = min(when, self._open_inlet(lane, record.now))
        inlet, ledger = lane.inlet, self._ledger
        flushes = lane.flushes if isinstance(lane.flushes, list) else []
        shares: list[EventShare] = []
        if record.receipt is not None or record.flushes:
            followers = (record.receipt, *record.flushes)
            shares = [EventShare(follower, lane.pending) for follower in followers if follower is not None]
        # Without a call in between, in which a signal handler might raise: all of it is done, or nothing.
        ledger.reserved_bytes -= size
        ledger.reserved_events -= 1
        inlet.lent_bytes += size
        inlet.lent_events += 1
        inlet.lines += line
        inlet.events += 1
        if shares:
            flushes += shares
            lane.flushes = flushes
        record.state = _ACCEPTED
        if inlet.events >= self._options.max_batch_events or len(inlet.lines) >= full_size:
            return min(when, self._close_full(lane))
        return when

    def _open_inlet(self, lane: Lane, now: float) -> float:
        inlet = Inlet(self._ledger, lane.stream, now)
        when = self._begin_to_wait(lane, now)
        lane.inlet = inlet  # not before, or where a signal handler raises it would wait without a timer
        return when

    def _lane(self, stream: str, auth_key: AuthKey | None) -> Lane:
        """The lane of an event; a new one is scheduled once it holds the event."""
        if auth_key is None and type(stream) is str and (found := self._schedule.by_stream.get(stream)) is not None:
            return found
        check_stream(stream)
        check_key(auth_key)
        key = auth_key or self._keys.get(stream, self._options.auth_key)
        lane = self._schedule.find(stream, key) or Lane(stream, key, pinned=True)
        if lane.key is None and key is not None:  # what the backlog held of it has waited for this key
            lane.key = key
            self._schedule.make_ready(lane, LaneInput.NEW_KEY)
            self.woken = True
        if auth_key is None:
            lane.pinned = False
            self._schedule.unpin(lane)
        return lane

    def _check_size(self, lane: Lane, line: bytes) -> None:
        size = lane.envelope + escaped_size(line)
        if size > self._options.max_batch_bytes:
            raise EventTooLarge(
                f"event needs a request of {size} bytes; max_batch_bytes allows {self._options.max_batch_bytes}"
            )

    def _begin_to_wait(self, lane: Lane, now: float) -> float:
        """The lane gets a new inlet; return when it is to be sent though it does not get full."""
        if self._ages is not None:
            self._ages.add(lane, now)
        if lane.state is not LaneState.FILLING:
            return inf
        self._schedule.add(lane)
        if lane.closed:  # their time comes first
            return inf
        deadline = now + self._options.flush_interval
        self._schedule.arm(lane, deadline)
        return deadline

    def _close_full(self, lane: Lane) -> float:
        """The lane has another full batch; return whether it may be sent now and could not before."""
        lane.close_inlet(full=True)
        if self._keeper is not None and self.resident > self._keeper.window:
            self.seal(lane)
            return -inf
        if lane.state is not LaneState.FILLING:
            return inf
        self._schedule.make_ready(lane)
        return -inf

    # -- batches --------------------------------------------------------------------------------------

    def next_batch(self, lane: Lane) -> Batch:
        """Make the next batch of *lane*, to be sent."""
        if lane.inlet.lines and not (lane.closed and (lane.closed[0].full or lane.closed[-1].full)):
            lane.close_inlet()  # it goes with what is due before it
        batch = self._cut(lane)
        lane.batches = [batch]
        return batch

    def seal(self, lane: Lane) -> None:
        """Make batches of all that waits in *lane*, to be kept and then sent."""
        assert self._keeper is not None
        if lane.inlet.lines:
            lane.close_inlet()
        sealed = []
        while lane.closed:
            sealed.append(self._cut(lane, send=False))
        if sealed:
            self.add_kept(lane, sealed)
            if lane.state is LaneState.FILLING:
                self._schedule.make_ready(lane)

    def seal_ahead(self, lane: Lane) -> None:
        """Make batches of what is full in *lane*, to be kept in one with that which is to be sent next."""
        if self._ages is not None:
            return  # of several lanes the oldest events are to be found by themselves, to be dropped for new ones
        [batch] = lane.batches
        size = batch.size
        for _ in range(1, _AHEAD_BATCHES):
            if not (lane.closed and lane.closed[0].full and size + len(lane.closed[0].lines) <= _AHEAD_BYTES):
                return
            batch = self._cut(lane, send=False)
            self.add_kept(lane, [batch])  # each by itself: a signal handler that raises leaves one in no lane at most
            size += batch.size

    def seal_all(self) -> None:
        """:meth:`seal` every lane."""
        for lane in self._schedule:
            self.seal(lane)

    def restore_records(self, lane: Lane, records: KeptRecords, now: float) -> None:
        """Make batches of what there were records of."""
        assert self._keeper is not None
        size = lane.full_size(self.max_bytes)
        lane.closed = deque(
            Segment(lines, count_lines(lines), now, full=False, due=True) for lines in pieces(records.lines, size)
        )
        restored = []
        while lane.closed:
            batch = lane.take(
                next(self._ids), max_events=self._options.max_batch_events, max_bytes=self.max_bytes, send=False
            )
            batch.place = self._keeper.next_place()
            restored.append(batch)
            self._ledger.restore(batch.events, batch.size)
        self._keeper.put_restored(lane, restored, records.marks)
        self.add_kept(lane, restored)

    def add_kept(self, lane: Lane, batches: list[Batch]) -> None:
        """Let *batches*, which are or will be kept, be sent after those that *lane* has, before what waits."""
        for batch in batches:
            batch.spilled = True
        lane.batches[:0] = reversed(batches)
        if self._ages is not None:
            entries = [(lane, batch) for batch in batches]
            self._spilled += entries
            self._in_memory += entries
            if max(len(self._spilled), len(self._in_memory)) > self._most_spilled:
                self._spilled = deque(entry for entry in self._spilled if not entry[1].settled)
                self._in_memory = deque(entry for entry in self._in_memory if entry[1].lines is not None)
                self._most_spilled = 2 * max(len(self._spilled), len(self._in_memory)) + _SLACK

    def _cut(self, lane: Lane, *, send: bool = True) -> Batch:
        max_events = self._options.max_batch_events
        batch = lane.take(next(self._ids), max_events=max_events, max_bytes=self.max_bytes, send=send)
        if self._keeper is not None:
            batch.place = self._keeper.next_place()
            self._keeper.seal(lane, batch.events)
            self._keeper.put(lane, batch)
        return batch

    @property
    def resident(self) -> int:
        """Bytes of pending events in memory, with what is lent or reserved for more of them."""
        return self._ledger.pending_bytes - (0 if self._keeper is None else self._keeper.away)

    def _relieve(self, keeper: Keeper) -> None:
        """Have what waits in all lanes kept, of which many may hold little each, if memory is short."""
        if self.resident > keeper.crowded and not keeper.putting:
            self._take_back_unused()  # which is no memory
            if self.resident > keeper.crowded:
                self.seal_all()
                self.woken = True

    # -- room -----------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether an event of *size* bytes may be accepted: the budget allows it, and memory, if the disk is behind."""
        keeper = self._keeper
        return self._ledger.has_room(size) and (
            keeper is None or self.resident + size <= keeper.memory + keeper.restored
        )

    def _take_back_unused(self) -> None:
        """Let inlets keep only as much of the budget as they use; again and again it costs nothing."""
        if not self._some_unused:
            return
        self._some_unused = False
        for lane in self._schedule:
            if lane.inlet.max_size != CLOSED:
                lane.inlet.max_size = 0
                self._ledger.take_back(lane.inlet, used_bytes=len(lane.inlet.lines), used_events=lane.inlet.count())

    def _make_room(self, lane: Lane, line: bytes, now: float, receipt: Receipt | None) -> bool:
        """Whether *line* may be accepted after all; False when it was dropped.

        Raises:
            BacklogFull: neither, and ``on_full`` leaves that to the caller.
        """
        size = len(line)
        trouble = _NO_ROOM
        if self._ledger.has_room(size):
            assert self._keeper is not None
            trouble = _NO_MEMORY
            if not self._keeper.putting:
                self.seal_all()
        while self._ages is not None and self._drop_spilled(lane, now, trouble, in_memory=self._ledger.has_room(size)):
            if self.has_room(size):
                return True
        while self._ages is not None and (victim := self._ages.oldest()):
            oldest = Batch.of("", victim.cut_oldest(), 1)
            if self._keeper is not None:
                self._keeper.seal(victim, 1)
            after = victim.batched if victim.flushes else 0
            self._losses.lose(victim, oldest, LossReason.BACKLOG_FULL, None, trouble, now=now, after=after)
            if victim.since is None:
                victim.close_inlet()  # the next event begins to wait anew, and nobody may append to a lane that is gone
                if victim.empty and victim is not lane:
                    self._schedule.remove(victim)
            if self.has_room(size):
                return True
        if lane.empty and lane in self._schedule:
            self._schedule.remove(lane)
        self._schedule.make_all_due()  # to wait for more has no point, since more has no room
        if self._options.on_full in (OnFull.BLOCK, OnFull.RAISE):
            events, pending = self._ledger.pending, self._ledger.pending_bytes
            raise BacklogFull(f"{trouble}: {events} events, {pending} bytes are pending")
        self._losses.lose_at_once(lane.stream, line, LossReason.BACKLOG_FULL, trouble, now=now, receipt=receipt)
        return False

    def _drop_spilled(self, lane: Lane, now: float, trouble: str, *, in_memory: bool) -> bool:
        """Drop the oldest batch that was never to be sent yet; return whether there was one.

        With *in_memory* one that is there, of which memory alone is let go if the disk has it.
        """
        batches = self._in_memory if in_memory else self._spilled
        while batches:
            victim, batch = batches.popleft()
            if (
                batch.settled
                or batch.attempts
                or (in_memory and batch.lines is None)
                or (victim.state is LaneState.AT_BACKLOG and batch is victim.batches[-1])
            ):
                continue
            if in_memory and batch.kept:
                assert self._keeper is not None
                self._keeper.let_go(batch)
                return True
            after = victim.take_out(batch)
            self._losses.lose(victim, batch, LossReason.BACKLOG_FULL, None, trouble, now=now, after=after)
            if victim.empty and victim is not lane:
                self._schedule.remove(victim)
            return True
        return False


def check_key(auth_key: object) -> None:
    """Raise TypeError unless *auth_key* is an AuthKey or None."""
    if not (auth_key is None or isinstance(auth_key, AuthKey)):
        raise TypeError(f"auth_key must be an AuthKey, not {type(auth_key).__name__}")
