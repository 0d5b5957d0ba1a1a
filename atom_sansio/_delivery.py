"""Which batch is sent when, and what its answer means."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from ._admission import Admission
from ._backoff import backoff
from ._breaker import Breaker
from ._budget import RetryBudget
from ._errors import ConnectionFailed, RemoteError
from ._keeper import PAUSE, Keeper
from ._kept import LoadBatch
from ._lane import Batch, Lane, split
from ._ledger import Ledger
from ._losses import Losses
from ._messages import LossReason, Reply, ReportParked, SendRequest
from ._options import Options
from ._request import bulk_request
from ._schedule import Schedule
from ._sign import AuthKey
from ._state import LaneInput
from ._verdict import Verdict, retry_after, words

_DROP_WITHIN: Final = 0.1
"""Seconds for which a delivered batch may wait for others to be dropped with.  After a crash it is sent once more."""


class Delivery:
    """Sends the batches of all lanes, one of each lane at a time.

    Args:
        unix_offset: what to add to ``now`` to get Unix seconds.
        verdict: what each status means.
    """

    def __init__(
        self,
        options: Options,
        schedule: Schedule,
        ledger: Ledger,
        losses: Losses,
        admission: Admission,
        keeper: Keeper | None,
        *,
        unix_offset: float,
        verdict: Callable[[int], Verdict],
    ) -> None:
        self._options = options
        self._schedule = schedule
        self._ledger = ledger
        self._losses = losses
        self._admission = admission
        self._keeper = keeper
        self._unix_offset = unix_offset
        self._verdict = verdict
        self._breaker = Breaker(options.retry)
        self._budget = RetryBudget()
        self._in_flight: dict[str, tuple[Lane, Batch, AuthKey | None]] = {}
        self._at_backlog: dict[str, Lane] = {}
        self.loads: deque[LoadBatch] = deque()
        """To be given to the driver."""
        self.parked: deque[ReportParked] = deque()
        """To be reported."""
        self.requests = 0
        self.failures = 0

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._in_flight)

    def abandon(self) -> None:
        """Send no more, and let answers no longer count."""
        self._in_flight.clear()
        self._at_backlog.clear()
        self.loads.clear()

    # -- sending --------------------------------------------------------------------------------------

    def next_request(self, now: float) -> SendRequest | None:
        """What is to be sent now, if anything is."""
        while (lane := self._next_lane(now)) is not None:
            if (command := self._send(lane, now)) is not None:
                return command
        return None

    def _next_lane(self, now: float) -> Lane | None:
        """The lane that may send now, taken off its queue, or None."""
        if self._breaker.retry_at is None:
            if len(self._in_flight) + len(self._at_backlog) >= self._options.max_in_flight:
                return None
        elif now < self.may_send_at():
            return None
        else:
            # A lane that has not failed goes first: it may be in no trouble at all.
            return self._schedule.take_unfailed() or self._schedule.take_retry()
        return self._schedule.take() if now >= self._budget.next_at else self._schedule.take_unfailed()

    def may_send_at(self) -> float:
        """When a lane that is ready may send, minus infinity for now, infinity for not before something happens."""
        probe_at = self._breaker.retry_at
        busy = len(self._in_flight) + len(self._at_backlog)
        if busy >= (self._options.max_in_flight if probe_at is None else 1):  # one probe at a time
            return inf
        if self._schedule.has_unfailed():
            return -inf if probe_at is None else probe_at
        if self._schedule.has_retry():
            return self._budget.next_at if probe_at is None else probe_at
        return inf

    def _send(self, lane: Lane, now: float) -> SendRequest | None:
        """Send the lane's next batch, or None if it must go to the backlog first."""
        batch = lane.batches[-1] if lane.batches else self._admission.next_batch(lane)
        batch.spilled = False
        if batch.lines is None or (self._keeper is not None and not batch.kept and not self._keeper.failing):
            lane.fire(LaneInput.ASK_BACKLOG)
            self._at_backlog[batch.batch_id] = lane
            if batch.lines is None:
                self.loads.append(LoadBatch(batch_id=batch.batch_id))
            elif len(lane.batches) == 1:
                self._admission.seal_ahead(lane)
            return None
        lane.fire(LaneInput.SEND)
        body, batch.body = batch.body or lane.body(batch.lines), None
        if batch.first_sent is None:
            batch.first_sent = now
        if lane.attempt:
            self._budget.spend(now)
        else:
            self._budget.earn()
        batch.attempts += 1
        self._in_flight[batch.batch_id] = (lane, batch, lane.key)
        self.requests += 1
        return SendRequest(
            batch_id=batch.batch_id,
            request=bulk_request(self._options.endpoint, body, batch.batch_id),
            timeout=self._options.request_timeout,
            events=batch.events,
        )

    # -- answers; the batch of a lane that was in flight is its last one ----------------------------------

    def answered(self, batch_id: str, reply: Reply, *, now: float, unit: float) -> None:
        """The batch was answered.  An id that has its outcome already is ignored."""
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
                if lane.attempt:
                    self._budget.give_back()
                self._ledger.settle_delivered(batch.events, batch.size)
                lane.settle_flushes(batch.events, delivered=True)
                if self._keeper is not None:
                    more = len(lane.batches) > 1
                    self._keeper.settled(lane, batch, drop_by=now + _DROP_WITHIN if more else -inf)
                self._finish(lane)
            case Verdict.RETRY:
                pause = retry_after(reply, unix_now=now + self._unix_offset)
                self._fail(lane, status, words(reply), pause, now, unit)
            case Verdict.PARK:
                self._park(lane, key, reply)
            case Verdict.SPLIT if batch.events > 1:
                assert batch.lines is not None
                refused = len(lane.body(batch.lines))
                self._admission.learn_max_bytes(refused)
                self._split(lane, batch)
            case Verdict.ISOLATE if batch.events > 1:
                self._split(lane, batch)
            case Verdict.SPLIT:
                self._give_up(lane, LossReason.TOO_LARGE, status, words(reply), now)
            case Verdict.REDIRECTED:
                self._give_up(lane, LossReason.REDIRECTED, status, words(reply), now)
            case Verdict.ISOLATE | Verdict.REJECTED:  # pragma: no branch - there are no others
                self._give_up(lane, LossReason.REJECTED, status, words(reply), now)

    def failed(self, batch_id: str, error: RemoteError, *, now: float, unit: float) -> None:
        """The batch came to no answer; whether it was stored is unknown, so the same bytes go again."""
        if batch_id not in self._in_flight:
            return
        lane, batch, _ = self._in_flight.pop(batch_id)
        if isinstance(error, ConnectionFailed) and error.stale and not batch.stale_retry:
            # The peer closed an idle connection: no fault of the endpoint, so once without a pause.
            batch.stale_retry = True
            self.failures += 1
            lane.fire(LaneInput.FAILED)
            self._schedule.make_ready(lane)
            return
        batch.stale_retry = False
        self._breaker.failed((lane.stream, lane.key), now=now, unit=unit)
        self._fail(lane, None, str(error), 0.0, now, unit)

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

    def _split(self, lane: Lane, batch: Batch) -> None:
        halves = split(batch)
        if self._keeper is not None:
            self._keeper.split(lane, batch, halves)
        self._finish(lane, *halves)

    def _fail(self, lane: Lane, status: int | None, message: str, at_least: float, now: float, unit: float) -> None:
        """Pause the lane.  Its batch goes again after that, unless the policy says to give it up."""
        self.failures += 1
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
        self._let_go(lane)

    def _park(self, lane: Lane, refused: AuthKey | None, reply: Reply) -> None:
        lane.fire(LaneInput.REFUSED_KEY)
        if lane.key != refused:  # replaced while the refused one was on its way
            self.unpark(lane)
            return
        batch = lane.batches[-1]
        batch.status, batch.trouble = reply.status, words(reply)
        self.parked.append(ReportParked(stream=lane.stream, status=reply.status, message=words(reply)))
        self._let_go(lane)

    def unpark(self, lane: Lane) -> None:
        """*lane* has another key than the one that was refused."""
        lane.attempt = 0
        self._schedule.make_ready(lane, LaneInput.NEW_KEY)

    def _give_up(self, lane: Lane, reason: LossReason, status: int | None, message: str, now: float) -> None:
        self._losses.lose(lane, lane.batches[-1], reason, status, message, now=now)
        self._finish(lane)

    # -- batches at the backlog --------------------------------------------------------------------------

    def back_from_backlog(self) -> None:
        """Let go on who waited for an update."""
        assert self._keeper is not None
        for batch_id, lane in list(self._at_backlog.items()):
            batch = lane.batches[-1]
            if batch.lines is not None and (batch.kept or self._keeper.failing):
                del self._at_backlog[batch_id]
                self._schedule.make_next(lane)

    def loaded(self, batch_id: str, lines: bytes) -> None:
        """The events of a batch, as the backlog has kept them."""
        lane = self._at_backlog.pop(batch_id, None)
        if lane is not None:
            assert self._keeper is not None
            self._keeper.loaded(lane.batches[-1], lines)
            self._schedule.make_next(lane)

    def not_loaded(self, batch_id: str, *, now: float) -> None:
        """The events of a batch cannot be read now.

        Its lane asks again after a pause.  It does not wait for that at the backlog, where it would be in the way of
        others: what is there counts as in flight, and as the one probe while the breaker is open.
        """
        lane = self._at_backlog.pop(batch_id, None)
        if lane is not None:
            lane.fire(LaneInput.FAILED)
            self._schedule.arm(lane, now + PAUSE)

    def unreadable(self, batch_id: str, trouble: str, *, now: float) -> None:
        """The events of a batch cannot be read any more."""
        lane = self._at_backlog.pop(batch_id, None)
        if lane is not None:
            self._schedule.make_next(lane)
            lane = self._schedule.take()
            assert lane is not None
            lane.fire(LaneInput.SEND)
            self._give_up(lane, LossReason.DAMAGED, None, trouble, now)

    def _let_go(self, lane: Lane) -> None:
        if self._keeper is not None and lane.batches:
            self._keeper.let_go(lane.batches[-1], self._admission.resident)
