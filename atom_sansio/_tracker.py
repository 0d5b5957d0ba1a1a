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
from itertools import count
from math import inf
from typing import Final

from ._admission import Admission, check_key
from ._backoff import backoff
from ._breaker import Breaker
from ._encode import encode_event
from ._errors import BacklogFull, ConnectionFailed, EventTooLarge, LocalError, RemoteError, TrackerClosed
from ._flush import Flush
from ._inlet import CLOSED, Inlet
from ._lane import Batch, Lane, split
from ._ledger import Ledger
from ._losses import Losses
from ._messages import Command, LossReason, Reply, ReportParked, SendRequest, Statistics
from ._options import Options
from ._request import bulk_request, check_stream
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
from ._verdict import Verdict, retry_after, verdict, words

_UNSENT: Final = "not sent when the tracker stopped"
_UNDELIVERED: Final = "not delivered when the tracker stopped"
_UNCONFIRMED: Final = "sent, but not confirmed when the tracker stopped"


class _Turn:
    """Lets no other call in before this one is done; ``track`` alone may come, and is set aside."""

    __slots__ = ("_core",)

    def __init__(self, core: TrackerCore) -> None:
        self._core = core

    def __enter__(self) -> None:
        if self._core._busy:
            raise LocalError("only track() may interrupt another call, as from a signal handler or a finaliser")
        self._core._busy = True

    def __exit__(self, *exc_info: object) -> None:
        self._core._busy = False
        if self._core._interrupting or self._core.late:
            self._core._take_up_interrupting()


class TrackerCore:
    """Takes events in, gives requests out.

    Every ``now`` is in monotonic seconds of any origin and never decreases; every ``unit`` is a draw from
    [0, 1).  Given the same calls, it does the same.

    Args:
        options: see :class:`~atom_sansio.Options`.
        source: what batch ids begin with; must be unique to this tracker, say 128 random bits in hex.
        unix_offset: what to add to ``now`` to get Unix seconds, for the times that are reported.
        verdict: what each status means; the default is :func:`~atom_sansio.verdict`.
    """

    def __init__(
        self,
        options: Options,
        *,
        source: str,
        unix_offset: float = 0.0,
        verdict: Callable[[int], Verdict] = verdict,
    ) -> None:
        self._options = options
        self._ids = (f"{source}-{n}" for n in count(1))
        self._unix_offset = unix_offset
        self._verdict = verdict
        self._state = TrackerState.OPEN
        self._ledger = Ledger(max_bytes=options.max_pending_bytes, max_events=options.max_pending_events)
        self._losses = Losses(self._ledger, unix_offset=unix_offset)
        self._schedule = Schedule()
        self._admission = Admission(options, self._schedule, self._ledger, self._losses)
        self.lanes: Mapping[str, Lane] = self._schedule.by_stream
        """For an :class:`Intake`: the lanes of events that come without a key of their own."""
        self.late: deque[Inlet] = deque()
        """For an :class:`Intake`: inlets that were closed, or had lent room taken back, while an event was put in."""
        self._breaker = Breaker(options.retry)
        self._in_flight: dict[str, tuple[Lane, Batch, AuthKey | None]] = {}
        self._parked: deque[ReportParked] = deque()  # not reported yet
        self._requests = 0
        self._failures = 0
        self._told_deadline = inf
        self._busy = False
        self._turn = _Turn(self)
        self._interrupting: deque[tuple[str, bytes, AuthKey | None, float]] = deque()
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

    def track_line(self, stream: str, line: bytes, auth_key: AuthKey | None = None, *, now: float) -> bool:
        """:meth:`track` for an event that :func:`~atom_sansio.encode_event` has encoded.

        For drivers with a lock: encoding may run code of the caller's, which must not happen under it.  An
        empty *line* stands for an event that an :class:`Intake` has taken in already, too late perhaps.
        """
        if self._busy:
            check_key(auth_key)
            if line:
                self._interrupting.append((check_stream(stream), line, auth_key, now))
            return True  # the interrupted call, which takes it up, does not say so
        self._busy = True
        try:
            return not line or self._accept(stream, line, auth_key, now)
        finally:
            self._busy = False
            if self._interrupting or self.late:
                self._take_up_interrupting()

    def flush(self, *, now: float) -> Flush:
        """Send all that is pending without waiting for full batches; pauses after failures still hold.

        Returns an object that follows those events: its ``done`` and ``result``.
        """
        with self._turn:
            self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.FLUSH)
            return self._flush()

    def close(self, *, now: float) -> Flush:
        """:meth:`flush`, and take no more events.  Closing twice is harmless."""
        with self._turn:
            self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.CLOSE)
            return self._flush()

    def abandon(self, *, now: float) -> None:
        """Be closed now: what has no outcome is lost, with reason ``STOPPED``, and outcomes no longer count."""
        with self._turn:
            self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.ABANDON)
            self._in_flight.clear()
            for lane in self._schedule:
                while lane.batches:
                    batch = lane.batches.pop()
                    message = _UNCONFIRMED if batch.attempts else _UNSENT
                    if batch.trouble:
                        message = f"{_UNDELIVERED}; the last attempt: {batch.trouble}"
                    self._losses.lose(lane, batch, LossReason.STOPPED, batch.status, message, now=now)
                lane.make_due()
                if lane.closed:
                    unsent = Batch("", b"".join(segment.lines for segment in lane.closed), lane.waiting)
                    self._losses.lose(lane, unsent, LossReason.STOPPED, None, _UNSENT, now=now)
                self._schedule.remove(lane)

    def set_auth_key(self, stream: str, auth_key: AuthKey, *, now: float) -> None:
        """Sign *stream* with *auth_key* from now on, what waits included; a parked lane goes on.

        Events that came with a key of their own keep it, unless that key is the one that was refused.
        """
        check_stream(stream)
        if auth_key is None:
            raise TypeError("auth_key must be an AuthKey, not None")
        check_key(auth_key)
        with self._turn:
            self._admission.set_key(stream, auth_key)
            for lane in self._schedule:
                parked = lane.state is LaneState.PARKED
                if lane.stream == stream and (parked or not lane.pinned):
                    self._schedule.rekey(lane, auth_key)
                    if parked:
                        self._unpark(lane)

    # -- what the world reports -----------------------------------------------------------------------

    def response_received(self, batch_id: str, reply: Reply, *, now: float, unit: float) -> None:
        """The batch was answered.  An id that has its outcome already is ignored."""
        with self._turn:
            if batch_id not in self._in_flight:
                return
            lane, batch, key = self._in_flight.pop(batch_id)
            batch.stale_retry = False
            status = reply.status
            if status < 500:
                self._breaker.answered()
            else:
                self._breaker.failed((lane.stream, lane.key), now=now, unit=unit)
            match self._verdict(status):
                case Verdict.DELIVERED:
                    self._ledger.settle_delivered(batch.events, len(batch.lines))
                    lane.settle_flushes(batch.events, delivered=True)
                    self._finish(lane)
                case Verdict.RETRY:
                    pause = retry_after(reply, unix_now=now + self._unix_offset)
                    self._fail(lane, status, words(reply), pause, now, unit)
                case Verdict.PARK:
                    self._park(lane, key, reply)
                case Verdict.SPLIT if batch.events > 1:
                    refused = len(lane.body(batch.lines))
                    self._admission.learn_max_bytes(refused)
                    self._finish(lane, *split(batch))
                case Verdict.ISOLATE if batch.events > 1:
                    self._finish(lane, *split(batch))
                case Verdict.SPLIT:
                    self._give_up(lane, LossReason.TOO_LARGE, status, words(reply), now)
                case Verdict.REDIRECTED:
                    self._give_up(lane, LossReason.REDIRECTED, status, words(reply), now)
                case Verdict.ISOLATE | Verdict.REJECTED:  # pragma: no branch - there are no others
                    self._give_up(lane, LossReason.REJECTED, status, words(reply), now)

    def send_failed(self, batch_id: str, error: RemoteError, *, now: float, unit: float) -> None:
        """The batch came to no answer; whether it was stored is unknown, so the same bytes go again."""
        with self._turn:
            if batch_id not in self._in_flight:
                return
            lane, batch, _ = self._in_flight.pop(batch_id)
            if isinstance(error, ConnectionFailed) and error.stale and not batch.stale_retry:
                # The peer closed an idle connection: no fault of the endpoint, so once without a pause.
                batch.stale_retry = True
                self._failures += 1
                lane.fire(LaneInput.FAILED)
                self._schedule.make_ready(lane)
                return
            batch.stale_retry = False
            self._breaker.failed((lane.stream, lane.key), now=now, unit=unit)
            self._fail(lane, None, str(error), 0.0, now, unit)

    # -- what to do, and when to come back ------------------------------------------------------------

    def next_command(self, *, now: float) -> Command | None:
        """The next thing to do, or None for nothing before :meth:`next_deadline`."""
        with self._turn:
            if self._losses.reports:
                return self._losses.reports.popleft()
            if self._parked:
                return self._parked.popleft()
            while (lane := self._schedule.take_timed(now)) is not None:
                if lane.state is LaneState.FILLING:
                    self._schedule.make_due(lane)
                else:
                    self._schedule.make_ready(lane)
            if self._state is TrackerState.DRAINING and not self._schedule:
                self._state = advance(TRACKER_TRANSITIONS, self._state, TrackerInput.ALL_SETTLED)
            lane = self._next_lane(now)
            return None if lane is None else self._send(lane, now)

    def next_deadline(self) -> float | None:
        """When to call :meth:`next_command` again though nothing happens, or None for never.

        Minus infinity if it was not pulled until None: there is more to do now, for another sender, say.
        """
        with self._turn:
            timer = self._schedule.next_timer()
            deadline = inf if timer is None else timer
            if self._losses.reports or self._parked:
                deadline = -inf
            elif self._schedule.peek() is not None:
                retry_at = self._breaker.retry_at
                if retry_at is None:
                    if len(self._in_flight) < self._options.max_in_flight:
                        deadline = -inf
                elif not self._in_flight:
                    deadline = min(deadline, retry_at)
            self._told_deadline = deadline
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
        """Whether it is CLOSED and has nothing more to report."""
        return self._state is TrackerState.CLOSED and not (self._losses.reports or self._parked)

    def statistics(self) -> Statistics:
        """The ledger as it stands."""
        lanes = list(self._schedule)
        unused_bytes = unused_events = 0
        for lane in lanes:
            unused_bytes += lane.inlet.lent_bytes - len(lane.inlet.lines)
            unused_events += lane.inlet.lent_events - lane.inlet.count()
        delivered, lost = self._ledger.delivered, self._ledger.lost_by_reason()
        pending = self._ledger.pending - unused_events
        return Statistics(
            accepted=delivered + sum(lost.values()) + pending,  # of the same reading: a track() may interrupt
            delivered=delivered,
            lost=lost,
            pending=pending,
            pending_bytes=self._ledger.pending_bytes - unused_bytes,
            lanes=len(lanes),
            parked=sum(lane.state is LaneState.PARKED for lane in lanes),
            in_flight=len(self._in_flight),
            requests=self._requests,
            failures=self._failures,
        )

    def _accept(self, stream: str, line: bytes, auth_key: AuthKey | None, now: float) -> bool:
        """Take an event in; return whether there is something to do sooner than the driver was told."""
        if self._state is not TrackerState.OPEN:
            raise TrackerClosed("the tracker was stopped and takes no more events")
        when = self._admission.accept(stream, line, auth_key, now)
        if when == -inf:
            return True
        sooner = when < self._told_deadline
        self._told_deadline = min(when, self._told_deadline)
        return sooner

    # -- what came in between -------------------------------------------------------------------------

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
                    late = inlet.close().splitlines(keepends=True)
                    self._interrupting.extend((inlet.stream, line, None, inlet.since) for line in late)
                if not self._interrupting:
                    break
                stream, line, auth_key, now = self._interrupting.popleft()
                try:
                    self.track_line(stream, line, auth_key, now=now)
                except TrackerClosed as error:
                    self._losses.lose_at_once(stream, line, LossReason.STOPPED, str(error), now=now)
                except BacklogFull as error:
                    self._losses.lose_at_once(stream, line, LossReason.BACKLOG_FULL, str(error), now=now)
                except EventTooLarge as error:
                    self._losses.lose_at_once(stream, line, LossReason.TOO_LARGE, str(error), now=now)
        finally:
            self._taking_up = False
            self._told_deadline = -inf  # what the driver was told may be too late now

    # -- sending --------------------------------------------------------------------------------------

    def _next_lane(self, now: float) -> Lane | None:
        """The lane that may send now, taken off its queue, or None."""
        retry_at = self._breaker.retry_at
        if retry_at is None:
            return self._schedule.take() if len(self._in_flight) < self._options.max_in_flight else None
        # One probe at a time.  A lane that has not failed goes first: it may be in no trouble at all.
        return None if self._in_flight or now < retry_at else self._schedule.take_unfailed()

    def _send(self, lane: Lane, now: float) -> SendRequest:
        lane.fire(LaneInput.SEND)
        if lane.batches:
            batch = lane.batches[-1]
            body = lane.body(batch.lines)
        else:
            if lane.inlet.lines and not (lane.closed and (lane.closed[0].full or lane.closed[-1].full)):
                lane.close_inlet()  # it goes with what is due before it
            batch, body = lane.take(
                next(self._ids), max_events=self._options.max_batch_events, max_bytes=self._admission.max_bytes
            )
            lane.batches = [batch]
        if batch.first_sent is None:
            batch.first_sent = now
        batch.attempts += 1
        self._in_flight[batch.batch_id] = (lane, batch, lane.key)
        self._requests += 1
        return SendRequest(
            batch_id=batch.batch_id,
            request=bulk_request(self._options.endpoint, body, batch.batch_id),
            timeout=self._options.request_timeout,
            events=batch.events,
        )

    # -- outcomes; the batch of a lane that was in flight is its last one ---------------------------------

    def _finish(self, lane: Lane, *halves: Batch) -> None:
        """The lane's batch was settled, or is replaced by *halves*: on with the next, or wait, or be gone."""
        lane.batches.pop()
        lane.batches.extend(reversed(halves))
        lane.attempt = 0
        lane.fire(LaneInput.SETTLED)
        if lane.due:
            self._schedule.make_ready(lane)
        elif (since := lane.since) is not None:
            # What is left came after `since`; to take that for its age is early at worst, once an interval.
            self._schedule.arm(lane, since + self._options.flush_interval)
        else:
            self._schedule.remove(lane)

    def _fail(self, lane: Lane, status: int | None, message: str, at_least: float, now: float, unit: float) -> None:
        """Pause the lane.  Its batch goes again after that, unless the policy says to give it up."""
        self._failures += 1
        lane.attempt += 1
        batch = lane.batches[-1]
        batch.failures += 1
        batch.status, batch.trouble = status, message
        policy = self._options.retry
        if (policy.max_attempts is not None and batch.failures >= policy.max_attempts) or (
            policy.max_elapsed is not None and now - (batch.first_sent or 0.0) >= policy.max_elapsed
        ):
            # The pause holds all the same: the next batch would meet the same trouble.
            self._losses.lose(lane, lane.batches.pop(), LossReason.EXPIRED, status, message, now=now)
        lane.fire(LaneInput.FAILED)
        if lane.empty:
            self._schedule.remove(lane)
            return
        pause = backoff(lane.attempt, base=policy.base, cap=policy.cap, unit=unit)
        self._schedule.arm(lane, now + max(pause, at_least))

    def _park(self, lane: Lane, refused: AuthKey | None, reply: Reply) -> None:
        lane.fire(LaneInput.REFUSED_KEY)
        if lane.key != refused:  # replaced while the refused one was on its way
            self._unpark(lane)
            return
        batch = lane.batches[-1]
        batch.status, batch.trouble = reply.status, words(reply)
        self._parked.append(ReportParked(stream=lane.stream, status=reply.status, message=words(reply)))

    def _unpark(self, lane: Lane) -> None:
        lane.attempt = 0
        self._schedule.make_ready(lane, LaneInput.NEW_KEY)

    def _give_up(self, lane: Lane, reason: LossReason, status: int | None, message: str, now: float) -> None:
        self._losses.lose(lane, lane.batches[-1], reason, status, message, now=now)
        self._finish(lane)

    def _flush(self) -> Flush:
        lanes = list(self._schedule)
        for lane in lanes:
            self._schedule.make_due(lane)
        flush = Flush(self._ledger.pending)
        for lane in lanes:
            lane.join_flush(flush)
        return flush
