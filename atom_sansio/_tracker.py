"""The tracker: what is sent when, and what becomes of it.  All decisions, no I/O.

A driver calls an input when something happens and then pulls :meth:`TrackerCore.next_command` until it is
None.  It calls again when :meth:`TrackerCore.next_deadline` is reached, or when an input said so.

Not thread-safe: a driver with threads holds one lock around each call.  But ``track`` may interrupt any other
call in the same thread, as a signal handler or a finaliser does: such an event is set aside and taken up when
the interrupted call ends.  Most events do not come here at all: an :class:`Intake` takes them in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from itertools import count
from math import inf
from typing import Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from ._admission import Admission, check_key
from ._delivery import Delivery
from ._encode import encode_event
from ._errors import BacklogFull, EventTooLarge, LocalError, RemoteError, TrackerClosed
from ._flush import Flush, Receipt
from ._inlet import CLOSED, NO_INLET, Inlet
from ._keeper import MEMORY, WINDOW, Keeper
from ._kept import Level, Records, Recovered
from ._lane import Batch, Lane
from ._ledger import Ledger
from ._losses import Losses
from ._messages import BacklogCommand, Command, LossReason, Outcome, Reply, ReportParked, Statistics
from ._options import OnFull, Options
from ._recording import TOO_LATE, Record, Recording, RecordState
from ._request import check_stream
from ._schedule import Schedule
from ._sign import AuthKey
from ._state import (
    TRACKER_TRANSITIONS,
    LaneInput,
    LaneState,
    TrackerInput,
    TrackerState,
    advance,
)
from ._verdict import Verdict, verdict

_STOPPED: Final = "the tracker was stopped and takes no more events"
_INTERRUPTED: Final = "only track() may interrupt another call, as from a signal handler or a finaliser"
_OPEN: Final = TrackerState.OPEN
_CLOSED: Final = TrackerState.CLOSED
_ACCEPTED: Final = RecordState.ACCEPTED
"""To look up a member of an enumeration takes as long as a call does; these are for what is done for each event."""

Interrupting: TypeAlias = tuple[str, bytes, AuthKey | None, float, Receipt | None]
"""What :meth:`TrackerCore.track_line` was called with in the midst of another call."""

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="TrackerCore")

_UNSENT: Final = "not sent when the tracker stopped"
_UNDELIVERED: Final = "not delivered when the tracker stopped"
_UNCONFIRMED: Final = "sent, but not confirmed when the tracker stopped"


def in_turn(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """One call at a time; what only ``track()`` may interrupt is taken up at its end.

    No context manager does this: a signal handler that raises at the beginning of its ``__exit__`` would leave the
    core busy for ever.
    """

    @wraps(method)
    def call(self: C, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._busy:
            raise LocalError(_INTERRUPTED)
        self._busy = True
        try:
            return method(self, *args, **kwargs)
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()

    return call  # type: ignore[return-value]  # which wraps() has made something else


class TrackerCore:
    """Takes events in, gives requests out.

    Every ``now`` is in monotonic seconds of any origin and never decreases; every ``unit`` is a draw from
    [0, 1).  Given the same calls, it does the same.

    Args:
        options: see :class:`~atom_sansio.Options`.
        source: what batch ids begin with; must be unique to this tracker, say 128 random bits in hex.
        unix_offset: what to add to ``now`` to get Unix seconds, for the times that are reported.
        verdict: what each status means; the default is :func:`~atom_sansio.verdict`.
        level: what events survive, if there is a backlog.
        window: bytes of pending events that are held in memory beside a backlog.
        memory: bytes of them that may be there at most, where the disk is behind; more than the largest event has.
    """

    def __init__(
        self,
        options: Options,
        *,
        source: str,
        unix_offset: float = 0.0,
        verdict: Callable[[int], Verdict] = verdict,
        level: Level | None = None,
        window: int = WINDOW,
        memory: int = MEMORY,
    ) -> None:
        self._options = options
        self._ids = map((source + "-%d").__mod__, count(1))  # no generator: what is raised in one ends it
        self._state = TrackerState.OPEN
        self._ledger = Ledger(max_bytes=options.max_pending_bytes, max_events=options.max_pending_events)
        self._keeper = None if level is None else Keeper(level, window=window, memory=memory)
        self._recording = None
        if self._keeper is not None and self._keeper.records:
            self._recording = Recording(self._keeper, self._ledger)
        self._losses = Losses(self._ledger, unix_offset=unix_offset, keeper=self._keeper, ids=self._ids)
        self._schedule = Schedule()
        self._admission = Admission(options, self._schedule, self._ledger, self._losses, self._keeper, self._ids)
        self.lanes: Mapping[str, Lane] = self._schedule.by_stream
        """For an :class:`Intake`: the lanes of events that come without a key of their own."""
        self.late: deque[Inlet] = deque()
        """For an :class:`Intake`: inlets that were closed, or had lent room taken back, while an event was put in."""
        self._delivery = Delivery(
            options,
            self._schedule,
            self._ledger,
            self._losses,
            self._admission,
            self._keeper,
            unix_offset=unix_offset,
            verdict=verdict,
        )
        self._tried_again = False  # whether, at the end, an update that had failed comes once more
        self._unrecorded = False  # whether events that should have records may have none
        self._left: list[Lane] = []  # at the end, with events that the backlog is still to be told of
        self._new_keys: list[tuple[str, AuthKey]] = []  # that came while records were being written
        self._told_deadline = inf
        self._busy = False
        self._interrupting: deque[Interrupting] = deque()
        self._taking_up = False

    # -- what the caller asks -------------------------------------------------------------------------

    def track(self, stream: str, event: object, auth_key: AuthKey | None = None, *, now: float) -> bool:
        """Accept *event*; return whether a driver that waits must look again.

        Raises:
            EventError: the event cannot be sent; its subclasses say why.
            TypeError, ValueError: *stream* is no name.
            BacklogFull: there is no room, and ``on_full`` is ``block`` or ``raise``.  The driver waits or not.
            TrackerClosed: after :meth:`close`.
        """
        return self.track_line(stream, encode_event(event), auth_key, now=now)

    def track_line(
        self,
        stream: str,
        line: bytes,
        auth_key: AuthKey | None = None,
        *,
        now: float,
        receipt: Receipt | None = None,
    ) -> bool:
        """:meth:`track` for an event that :func:`~atom_sansio.encode_event` has encoded.

        For drivers with a lock: encoding may run code of the caller's, which must not happen under it.  An
        empty *line* stands for an event that an :class:`Intake` has taken in already, too late perhaps.

        *receipt*, if there is one, follows the event.

        With a backlog that has records, the event is accepted when its record was written; see :meth:`admit`.
        """
        if self._recording is not None and line:
            self.admit(stream, line, auth_key, now=now, waits=False, receipt=receipt)
            return True
        if self._busy:
            check_key(auth_key)
            if line:
                self._interrupting.append((check_stream(stream), line, auth_key, now, receipt))
            return True  # the interrupted call, which takes it up, does not say so
        self._busy = True
        try:
            if not line:
                return True
            if self._state is not _OPEN:
                raise TrackerClosed(_STOPPED)
            when = self._admission.accept(stream, line, auth_key, now, receipt)
            return (when != inf or self._admission.woken) and self._sooner(when)
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()

    def admit(
        self,
        stream: str,
        line: bytes,
        auth_key: AuthKey | None = None,
        *,
        now: float,
        waits: bool = True,
        receipt: Receipt | None = None,
    ) -> Record | None:
        """:meth:`track_line` where there are records: the event is accepted when its record says so.

        Until then :meth:`next_records` has something to be written.  None if the event was dropped, or if this
        call interrupts another, which then takes it up.  *waits* says whether the caller waits for the record,
        so that the event may still be refused.
        """
        if self._busy:
            check_key(auth_key)
            self._interrupting.append((check_stream(stream), line, auth_key, now, receipt))
            return None
        self._busy = True
        try:
            if self._state is not _OPEN:
                raise TrackerClosed(_STOPPED)
            assert self._recording is not None
            trouble = self._recording.pauses(now)
            if trouble and self._options.on_full is OnFull.RAISE:
                raise BacklogFull(trouble)
            record = self._admission.admit(stream, line, auth_key, now, waits=waits, receipt=receipt)
            if record is None:
                return None
            if trouble and self._options.on_full is not OnFull.BLOCK:
                self._losses.lose_at_once(stream, line, LossReason.BACKLOG_FULL, trouble, now=now, receipt=receipt)
                return None
            self._recording.add(record, trouble)
            return record
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()

    def admit_quickly(self, stream: str, line: bytes, *, now: float) -> tuple[Record, Records] | tuple[None, None]:
        """:meth:`admit` and :meth:`next_records` in one, where nothing is in the way; nothing where something is.

        For the event that nearly all are: one of a stream that is known, while no other is written.  Whoever waits for
        the record must set its ``waits``.
        """
        recording = self._recording
        lane = self.lanes.get(stream) if type(stream) is str else None
        if lane is None or recording is None or self._busy or self._state is not _OPEN:
            return None, None
        size = len(line)
        if not self._admission.has_room(size) or size > lane.sure_size(self._options.max_batch_bytes):
            return None, None
        self._busy = True
        try:
            record = Record(stream, line, None, now, lane, False)
            records = recording.take_alone(record)
            return (None, None) if records is None else (record, records)
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()

    @in_turn
    def decide_next(self, stream: str) -> None:
        """Let the next event of *stream* that comes without a key of its own be decided about."""
        lane = self.lanes.get(stream)
        if lane is not None and lane.inlet is not NO_INLET:
            lane.inlet.max_size = 0

    @in_turn
    def take_back(self, record: Record) -> bool:
        """Do not accept the event of *record* after all; False if it is accepted, or being written just now."""
        assert self._recording is not None
        return self._recording.take_back(record)

    @in_turn
    def record_late(self, record: Record, *, now: float) -> bool:
        """Whoever waits for *record* waits no longer: ``on_full`` says what becomes of the event, as of one refused.

        False if it is accepted, or being written just now.
        """
        assert self._recording is not None
        if not self._recording.take_back(record):
            return False
        record.trouble = record.trouble or TOO_LATE
        if self._options.on_full in (OnFull.DROP_NEWEST, OnFull.DROP_OLDEST):
            reason, message = LossReason.BACKLOG_FULL, record.trouble
            self._losses.lose_at_once(record.stream, record.line, reason, message, now=now, receipt=record.receipt)
            record.state = _ACCEPTED  # and lost
        return True

    @in_turn
    def flush(self, *, now: float) -> Flush:
        """Send all that is pending without waiting for full batches; pauses after failures still hold.

        Returns an object that follows those events: its ``done`` and ``result``.
        """
        self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.FLUSH)
        return self._flush()

    @in_turn
    def close(self, *, now: float) -> Flush:
        """:meth:`flush`, and take no more events.  Closing twice is harmless."""
        self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.CLOSE)
        return self._flush()

    @in_turn
    def abandon(self, *, now: float) -> None:
        """Be closed now, and let outcomes no longer count.

        What has none is lost, with reason ``STOPPED``; or, with a backlog, left there.
        """
        self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.ABANDON)
        self._delivery.abandon()
        if self._keeper is not None:
            self._leave(self._keeper)
            return
        for lane in self._schedule:
            while lane.batches:
                batch = lane.batches.pop()
                message = _UNCONFIRMED if batch.attempts else _UNSENT
                if batch.trouble:
                    message = f"{_UNDELIVERED}; the last attempt: {batch.trouble}"
                self._losses.lose(lane, batch, LossReason.STOPPED, batch.status, message, now=now)
            lane.make_due()
            if lane.closed:
                unsent = Batch.of("", b"".join(segment.lines for segment in lane.closed), lane.waiting)
                self._losses.lose(lane, unsent, LossReason.STOPPED, None, _UNSENT, now=now)
            self._schedule.remove(lane)

    @in_turn
    def set_auth_key(self, stream: str, auth_key: AuthKey, *, now: float) -> None:
        """Sign *stream* with *auth_key* from now on, what waits included; a parked lane goes on.

        Events that came with a key of their own keep it, unless that key is the one that was refused.
        """
        check_stream(stream)
        if auth_key is None:
            raise TypeError("auth_key must be an AuthKey, not None")
        check_key(auth_key)
        if self._recording is not None and self._recording.writing:
            self._new_keys.append((stream, auth_key))  # each record says which key its event has
        else:
            self._set_key(stream, auth_key)

    # -- what the world reports -----------------------------------------------------------------------

    @in_turn
    def response_received(self, batch_id: str, reply: Reply, *, now: float, unit: float) -> None:
        """The batch was answered.  An id that has its outcome already is ignored."""
        self._delivery.answered(batch_id, reply, now=now, unit=unit)

    @in_turn
    def send_failed(self, batch_id: str, error: RemoteError, *, now: float, unit: float) -> None:
        """The batch came to no answer; whether it was stored is unknown, so the same bytes go again."""
        self._delivery.failed(batch_id, error, now=now, unit=unit)

    # -- what to do, and when to come back ------------------------------------------------------------

    @in_turn
    def next_command(self, *, now: float) -> Command | None:
        """The next thing to do, or None for nothing before :meth:`next_deadline`."""
        if self._losses.reports:
            return self._losses.reports.popleft()
        if self._delivery.parked:
            return self._delivery.parked.popleft()
        while (lane := self._schedule.take_timed(now)) is not None:
            if lane.state is LaneState.FILLING:
                self._schedule.make_due(lane)
            else:
                self._schedule.make_ready(lane)
        # While the disk may still take what was accepted there is something to wait for.
        if (
            self._state is TrackerState.DRAINING
            and not self._schedule
            and (self._recording is None or self._recording.idle)
        ):
            self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.ALL_SETTLED)
        return None if self._state is _CLOSED else self._delivery.next_request(now)

    def next_deadline(self) -> float | None:
        """When to call :meth:`next_command` again though nothing happens, or None for never.

        Minus infinity if it was not pulled until None: there is more to do now, for another sender, say.
        """
        if self._busy:
            raise LocalError(_INTERRUPTED)
        self._busy = True
        try:
            timer = self._schedule.next_timer()
            may_send_at = self._delivery.may_send_at()
            to_tell = self._losses.reports or self._delivery.parked
            self._told_deadline = -inf if to_tell else may_send_at if timer is None else min(timer, may_send_at)
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()  # which counts
        return None if self._told_deadline == inf else self._told_deadline

    @property
    def state(self) -> TrackerState:
        """Where it is in its life."""
        return self._state

    @property
    def busy(self) -> bool:
        """Whether a call is under way: what asks has interrupted it, or is another thread."""
        return self._busy

    @property
    def closed(self) -> bool:
        """Whether it is CLOSED and has nothing more to report or to keep."""
        return (
            self._state is _CLOSED
            and not (self._losses.reports or self._delivery.parked)
            and all(part is None or part.idle for part in (self._keeper, self._recording))
        )

    def statistics(self) -> Statistics:
        """The ledger as it stands."""
        lanes = list(self._schedule)
        unused_bytes = unused_events = 0
        for lane in lanes:
            if (inlet := lane.inlet) is not NO_INLET:
                unused_bytes += inlet.lent_bytes - len(inlet.lines)
                unused_events += inlet.lent_events - inlet.count()
        delivered, lost = self._ledger.delivered, self._ledger.lost_by_reason()
        pending = self._ledger.pending - unused_events - self._ledger.reserved_events
        return Statistics(
            accepted=delivered + sum(lost.values()) + pending,  # of the same reading: a track() may interrupt
            restored=self._ledger.restored,
            delivered=delivered,
            lost=lost,
            pending=pending,
            pending_bytes=self._ledger.pending_bytes - unused_bytes - self._ledger.reserved_bytes,
            lanes=len(lanes),
            parked=sum(lane.state is LaneState.PARKED for lane in lanes),
            in_flight=self._delivery.in_flight,
            requests=self._delivery.requests,
            failures=self._delivery.failures,
        )

    def _sooner(self, when: float) -> bool:
        """Whether what is to be done at *when* is to be done sooner than the driver was told."""
        if when == -inf or self._admission.woken:
            self._admission.woken = False
            return True
        sooner = when < self._told_deadline
        self._told_deadline = min(when, self._told_deadline)
        return sooner

    # -- what came in between -------------------------------------------------------------------------

    @in_turn
    def take_up(self, events: deque[Interrupting]) -> None:
        """Take up *events* as if they had interrupted this call; none is left there.

        For a driver that has no core at first, for what comes by interrupting what makes it.
        """
        with suppress(IndexError):  # all of them in one go: what a handler raises in between would lose one
            self._interrupting.extend(iter(events.popleft, None))

    def _take_up_interrupting(self) -> None:
        """Track what came in between.  Whoever brought it has gone, so what cannot be taken is reported."""
        if self._taking_up:  # by the loop below, which called the call that ends here
            return
        self._taking_up = True
        try:
            while self._interrupting or self.late:
                while self.late:
                    inlet = self.late.popleft()
                    if inlet.max_size != CLOSED:
                        self._ledger.catch_up(inlet)
                        continue
                    self._take_up_late(inlet)
                if not self._interrupting:
                    break
                stream, line, auth_key, now, receipt = self._interrupting.popleft()
                try:
                    self.track_line(stream, line, auth_key, now=now, receipt=receipt)
                except TrackerClosed as error:
                    self._losses.lose_at_once(stream, line, LossReason.STOPPED, str(error), now=now, receipt=receipt)
                except BacklogFull as error:
                    self._losses.lose_at_once(
                        stream, line, LossReason.BACKLOG_FULL, str(error), now=now, receipt=receipt
                    )
                except EventTooLarge as error:
                    self._losses.lose_at_once(stream, line, LossReason.TOO_LARGE, str(error), now=now, receipt=receipt)
        finally:
            self._taking_up = False
            self._told_deadline = -inf  # what the driver was told may be too late now

    @in_turn
    def _take_up_late(self, inlet: Inlet) -> None:
        """What was put into *inlet* just when that was closed was accepted, whether there is room now or not."""
        for line in inlet.close().splitlines(keepends=True):
            if self._state is _OPEN:
                self._admission.accept(inlet.stream, line, None, inlet.since, late=True)
            else:
                self._losses.lose_at_once(inlet.stream, line, LossReason.STOPPED, _STOPPED, now=inlet.since)

    # -- all lanes --------------------------------------------------------------------------------------

    def _flush(self) -> Flush:
        lanes = list(self._schedule)
        for lane in lanes:
            self._schedule.make_due(lane)
        unheard = [] if self._recording is None else self._recording.unheard
        flush = Flush(self._ledger.pending - self._ledger.reserved_events + len(unheard))
        for lane in lanes:
            lane.join_flush(flush)
        for record in unheard:
            record.flushes += (flush,)
        if self._state is TrackerState.CLOSED:
            flush.leave()
        return flush

    def _set_key(self, stream: str, auth_key: AuthKey) -> None:
        self._admission.set_key(stream, auth_key)
        for lane in self._schedule:
            parked = lane.state is LaneState.PARKED
            if lane.stream == stream and (parked or not lane.pinned):
                self._admission.rekey(lane, auth_key)
                if parked:
                    self._delivery.unpark(lane)

    # -- the backlog ------------------------------------------------------------------------------------

    @in_turn
    def restore(self, recovered: Recovered, *, now: float) -> None:
        """Go on with what a backlog held when it was opened; to be called before anything else is."""
        assert self._keeper is not None
        lanes: dict[Lane, list[Batch]] = {}
        for kept in recovered.batches:
            batch = self._keeper.restore(kept)
            self._ledger.restore(batch.events, batch.size)
            lanes.setdefault(self._restored_lane(kept.stream, kept.fingerprint), []).append(batch)
        for lane, batches in lanes.items():
            self._admission.add_kept(lane, batches)
        for records in recovered.records:
            lane = self._restored_lane(records.stream, records.fingerprint)
            lanes[lane] = []
            self._admission.restore_records(lane, records, now)
        for lane in lanes:
            if lane.key is None and lane.fingerprint is not None:
                lane.fire(LaneInput.NO_KEY)
                message = f"events that were kept wait for the key {lane.fingerprint}, which was not given"
                self._delivery.parked.append(ReportParked(stream=lane.stream, status=None, message=message))
            else:
                self._schedule.make_ready(lane)
        self._keeper.begin_after(recovered.generation)
        if recovered.damaged:
            self._losses.lose_damaged(recovered.damaged, now=now)

    @property
    def writes_records(self) -> bool:
        """Whether some that :meth:`next_records` gave are neither written nor refused nor put off yet."""
        return self._recording is not None and self._recording.writing

    @property
    def last_record(self) -> Record | None:
        """The last one that is still to be written though its ``track`` has returned; all before it come first."""
        return None if self._recording is None else self._recording.last

    @in_turn
    def next_records(self, *, now: float) -> Records | None:
        """Records to be written, or None if there are none, or others are being written."""
        return None if self._recording is None else self._recording.take(now, self._admission.lane_of)

    def records_written(self, *, now: float) -> bool:
        """What :meth:`next_records` gave is written; return whether a driver must look again.

        To call it again, after a signal handler has raised in it, goes on where that was.
        """
        if self._busy:
            raise LocalError(_INTERRUPTED)
        self._busy = True  # written out, since this is for each event
        try:
            return self._enter_written()
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()

    def _enter_written(self) -> bool:
        recording, admission = self._recording, self._admission
        assert recording is not None
        closed = self._state is _CLOSED
        enter = self._leave_written if closed else admission.enter
        sooner = closed  # who waits for the end of it all may end
        for record in recording.written():
            if record.state is not _ACCEPTED:
                when = enter(record)
                if when != inf or admission.woken:
                    sooner |= self._sooner(when)
            # Also of one that was entered before a handler has raised; but another call may have dropped it since that.
            if record.flushes and record.lane in self._schedule:
                self._schedule.make_due(record.lane)
                sooner |= self._sooner(-inf)
        if recording.entered() and not closed:
            assert self._keeper is not None
            admission.seal_all()
            self._keeper.begin_generation()
            sooner = True
        if self._new_keys:
            self._set_new_keys()
        return sooner or recording.last is not None  # which somebody has to write

    @in_turn
    def records_refused(self, trouble: str, *, now: float) -> None:
        """What :meth:`next_records` gave could not be written; ``on_full`` says what becomes of the events."""
        assert self._recording is not None
        assert self._keeper is not None
        message = f"the backlog cannot be written: {trouble}"
        for record in self._recording.refused(message, now):
            closed = self._state is TrackerState.CLOSED
            if self._options.on_full is OnFull.BLOCK and not closed:
                continue
            self._recording.take_back(record)
            if not record.waits and not closed and self._options.on_full is OnFull.RAISE:
                # It was accepted, so better in memory alone than lost.  Its number counts, or marks would lie.
                address = self._admission.lane_of(record).address
                self._keeper.give_numbers({address: self._keeper.last_number(address) + 1})
                self._ledger.reserve(len(record.line))
                self._admission.enter(record)
                if record.flushes:
                    self._schedule.make_due(record.lane)
                self._unrecorded = True
                continue
            if record.waits and (closed or self._options.on_full is OnFull.RAISE):
                continue
            reason = LossReason.STOPPED if closed else LossReason.BACKLOG_FULL
            self._losses.lose_at_once(record.stream, record.line, reason, message, now=now, receipt=record.receipt)
            for flush in record.flushes:
                flush._settle(1, delivered=False)
            record.state = RecordState.ACCEPTED
        if self._state is TrackerState.CLOSED:
            self._recording.hurry()  # nobody will be there after a pause to write those that came meanwhile
        self._set_new_keys()

    @in_turn
    def records_put_off(self) -> bool:
        """Nobody writes what :meth:`next_records` gave, through no fault of the disk: it comes again.

        What is written already, as :meth:`records_written` was told before something was raised in it, is accepted.
        Returns whether a driver must look again.
        """
        assert self._recording is not None
        if not self._recording.put_off():
            return self._enter_written()
        self._set_new_keys()
        return True

    @in_turn
    def next_backlog_command(self, *, now: float, records: bool = True) -> BacklogCommand | None:
        """What the backlog is to do next, or None for nothing before :meth:`next_backlog_deadline`.

        Records come last, or not at all where somebody else looks after them: those that wait for theirs never stop.
        """
        if self._keeper is None:
            return None
        loads = self._delivery.loads
        command: BacklogCommand | None = loads.popleft() if loads else self._keeper.update(now)
        if command is None and records and self._recording is not None:
            command = self._recording.take(now, self._admission.lane_of)
        return command

    def next_backlog_deadline(self, *, records: bool = True) -> float | None:
        """When to call :meth:`next_backlog_command` again though nothing happens; as :meth:`next_deadline`."""
        if self._busy:
            raise LocalError(_INTERRUPTED)
        if self._delivery.loads:
            return -inf
        deadline = None if self._keeper is None else self._keeper.deadline()
        if not records or self._recording is None:
            return deadline
        others = self._recording.deadline()
        return others if deadline is None else deadline if others is None else min(deadline, others)

    @in_turn
    def backlog_updated(self) -> None:
        """The update was made."""
        assert self._keeper is not None
        self._keeper.updated(self._admission.resident)
        self._delivery.back_from_backlog()
        self._leave_kept(self._keeper)

    @in_turn
    def backlog_failed(self, trouble: str, *, now: float) -> None:
        """The update was not made, or nobody knows.  It comes again; meanwhile batches are sent though not kept.

        At the end it comes once more, at once.
        """
        assert self._keeper is not None
        self._keeper.failed(now)
        self._delivery.back_from_backlog()
        if self._state is not TrackerState.CLOSED:
            return
        if not self._tried_again:  # it may have begun before the disk was well again
            self._tried_again = True
            self._keeper.hurry()
        else:
            message = f"{_UNDELIVERED}, and the backlog cannot be written: {trouble}"
            for lane, batch in self._keeper.give_up(all_=self._recording is None or self._unrecorded):
                after = lane.take_out(batch)
                self._losses.lose(lane, batch, LossReason.STOPPED, batch.status, message, now=now, after=after)
            self._keeper.give_up(all_=False)  # what it would have been told of these
            self._leave_kept(self._keeper)

    @in_turn
    def batch_loaded(self, batch_id: str, lines: bytes) -> None:
        """The events of a batch, as the backlog has kept them."""
        self._delivery.loaded(batch_id, lines)

    @in_turn
    def batch_not_loaded(self, batch_id: str, *, now: float) -> None:
        """The events of a batch cannot be read now; they stay where they are, and are asked for again after a pause."""
        self._delivery.not_loaded(batch_id, now=now)

    @in_turn
    def batch_unreadable(self, batch_id: str, trouble: str, *, now: float) -> None:
        """The events of a batch cannot be read any more, whoever tries, and are lost."""
        self._delivery.unreadable(batch_id, trouble, now=now)

    def _restored_lane(self, stream: str, fingerprint: str | None) -> Lane:
        lane = self._schedule.at((stream, fingerprint))
        if lane is None:
            key = self._admission.key_of(stream, fingerprint)
            lane = Lane(stream, key, pinned=not self._admission.is_plain(stream, fingerprint), fingerprint=fingerprint)
            self._schedule.add(lane)
        return lane

    def _leave_written(self, record: Record) -> float:
        """The tracker is closed: the event of *record* stays where it is written."""
        record.state = _ACCEPTED
        self._ledger.unreserve(len(record.line))
        self._ledger.leave(1, len(record.line))
        if record.receipt is not None:
            record.receipt._settle(Outcome.KEPT)
        return inf

    def _set_new_keys(self) -> None:
        keys, self._new_keys = self._new_keys, []
        for stream, key in keys:
            self._set_key(stream, key)

    def _leave(self, keeper: Keeper) -> None:
        """Leave what has no outcome in the backlog.  What there are records of is there already."""
        sure = self._recording is not None and not self._unrecorded
        if not sure:
            self._admission.seal_all()
        for lane in self._schedule:
            lane.leave(kept=sure)
            self._schedule.remove(lane)
            if not sure:
                self._left.append(lane)
        keeper.hurry()
        if self._recording is not None:
            self._recording.leave()
        self._leave_kept(keeper)

    def _leave_kept(self, keeper: Keeper) -> None:
        """What was left, and is not lost by now, is in the backlog once that knows all that it should."""
        if self._left and keeper.idle:
            for lane in self._left:
                lane.leave(kept=True)
            self._left.clear()
