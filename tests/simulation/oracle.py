"""What must be true, known from outside: from what was tracked, sent, answered and reported.

It keeps books of its own and shares nothing with the tracker's.  Its complaints begin with what they are about:

- I1 conservation: accepted = delivered + lost, by reason, + pending; a loss is reported once, with its cause.
- I2 what counts as delivered is stored; what a backlog has accepted is there again after a crash, and after an orderly
  end all is.  I3 a retry has the same id and bytes, and is stored once, also when another program sends it; an event
  is kept under one id.
- I4 order, per stream, and per stream and key while the key stays.  I5 nothing is invented or altered.
- I6 bounds: bytes and events that are pending, in a batch, in flight.
- I7 pauses: none too short, none too long, Retry-After, attempts, one probe at a time, limits that were learned.
- I8 signatures, verified independently.  I10 what can be sent is sent, and closing ends.
- I9 nothing is accepted before its record is written, sent before it is kept, or forgotten on the disk before what
  replaces it is kept; of what is lost for good there is a dead letter.  (These books are in ``kept.py``.)
- I11 a stream that the collector refuses, and an event that it does, delay no other stream (see ``World._isolation``).
- I12 only the monotonic clock counts.  I13 the same seed does the same (compared by the tests).
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from atom_sansio import (
    Flush,
    LaneState,
    Loss,
    LossReason,
    OnFull,
    Options,
    RemoteError,
    Reply,
    SendRequest,
    Submission,
    TrackerCore,
    TrackerState,
    read_submission,
)
from atom_sansio._lane import Lane

from .complaint import Violation, must
from .kept import Kept, texts
from .shapes import FIRST, Shape

__all__ = ["Followed", "Kind", "Oracle", "Sent", "Violation", "must"]

SLACK = 8
"""Events that may be pending beyond the budget: one for each call that is interrupted just before it puts one in."""

LARGEST = 20_200
"""Bytes of an event of the largest shape."""

LOAD_PAUSE = 1.0
"""Seconds that a lane pauses after a batch could not be read, whatever becomes of that batch meanwhile."""


class Kind(Enum):
    """What order is promised to the events of a class."""

    PLAIN = auto()
    """Without a key of their own: the order in which they were tracked."""
    KEYED = auto()
    """The same, as long as the stream gets no other key."""
    INTERRUPTING = auto()
    """Tracked by what interrupts a call: the order of those calls."""


@dataclass(slots=True, eq=False)
class Sent:
    """One batch, over all its attempts."""

    batch_id: str
    numbers: list[int]
    submission: Submission
    body: bytes
    first_sent: float
    sends: int = 0
    sends_before: int = 0
    """Of the batches that it was split off."""
    failures: int = 0
    failures_in_a_row: int = 0
    forgiven: bool = False
    """Whether a stale connection has been forgiven since the last answer."""
    not_before: float = 0.0


@dataclass(slots=True, eq=False)
class Followed:
    """A flush, and what it should say."""

    flush: Flush
    asked: int
    numbers: frozenset[int] | None
    delivered: int = 0
    lost: int = 0


@dataclass(slots=True)
class Oracle:
    """The books of one world, over all programs that run in it."""

    options: Options
    shapes: list[Shape]
    memory: int = 0
    """Bytes of pending events that may be in memory beside a backlog."""
    expected: dict[str, int] = field(default_factory=dict)
    """The number of each event that was tracked, by its text."""
    shape_of: list[int] = field(default_factory=list)
    class_of: list[int] = field(default_factory=list)
    epoch_of: dict[int, int] = field(default_factory=dict)
    split_ever: set[str] = field(default_factory=set)
    """By any program: a request of one that is gone may still arrive."""
    classes: list[tuple[str, Kind]] = field(default_factory=list)
    rekeyed: set[str] = field(default_factory=set)
    poison: set[int] = field(default_factory=set)
    pending: set[int] = field(default_factory=set)
    rooted: set[int] = field(default_factory=set)
    stored: set[int] = field(default_factory=set)
    duplicates: int = 0
    delivered_ever: int = 0
    lost_ever: Counter[str] = field(default_factory=Counter)
    batches: dict[str, Sent] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    """Ids of batches that are settled or split, and must not be sent again."""
    split: dict[str, list[int]] = field(default_factory=dict)
    last_sent: dict[int, int] = field(default_factory=dict)
    last_stored: dict[int, int] = field(default_factory=dict)
    # Of the program that runs now:
    accepted: int = 0
    delivered: int = 0
    requests: int = 0
    failures: int = 0
    reported: Counter[LossReason] = field(default_factory=Counter)
    announced: dict[int, tuple[list[int], LossReason, int]] = field(default_factory=dict)
    """Losses that must be reported, by their first event."""
    open: dict[str, int] = field(default_factory=dict)
    """The attempt that is under way, by batch id."""
    in_flight: set[int] = field(default_factory=set)
    flushes: list[Followed] = field(default_factory=list)
    learned: int = 0
    failing: set[str] = field(default_factory=set)
    failing_for: int = 0
    probe_not_before: float = 0.0
    longest_pause: float = 0.0
    longest_asked: float = 0.0
    answered_last: bool = True
    abandoned: bool = False
    checks: int = 0
    seen: tuple[object, ...] = ()
    """What changes when anything does that is checked after every step."""
    same: int = 0
    next_sizing: int = 0
    next_counting: int = 0
    kept: Kept | None = None
    """What is known of the backlog, if there is one."""
    unnamed: int = 0
    """Events of damaged records, not reported yet."""
    restored_bytes: int = 0
    given: dict[str, list[str]] = field(default_factory=dict)
    """Keys that were set for a stream since the program began."""
    names: dict[str, str] = field(default_factory=dict)
    """Of all keys, by their fingerprints."""
    key_to_come: set[str] = field(default_factory=set)
    """Streams whose key changes when the records that are being written are."""
    load_pauses: dict[Lane, float] = field(default_factory=dict)
    """When the pause of a lane ends whose batch could not be read."""
    unordered: set[str] = field(default_factory=set)
    """Streams whose key was another in an earlier program, so that what is kept of them is in several lanes."""

    def begin(self, pending: Iterable[int] = (), damaged: int = 0) -> None:
        """A program starts, with *pending* from the backlog, in which *damaged* records are."""
        self.accepted = self.delivered = self.requests = self.failures = 0
        self.given = {}
        self.key_to_come.clear()
        self.load_pauses.clear()
        self.pending = set(pending)
        self.accepted = len(self.pending) + damaged
        self.unnamed = damaged
        self.restored_bytes = self.size_of(self.pending)
        if self.kept is not None:
            self.last_sent, self.last_stored = {}, {}
            self.over.difference_update(self.kept.restored)
            self.unordered |= self.rekeyed
        self.reported = Counter()
        self.announced = {}
        self.open = {}
        self.in_flight = set()
        self.flushes = []
        self.batches = {}
        self.split = {}
        self.learned = self.options.max_batch_bytes
        self.failing = set()
        self.failing_for = 0
        self.probe_not_before = 0.0
        self.longest_pause = max(self.options.retry.cap, self.options.flush_interval)
        self.longest_asked = 0.0
        self.answered_last = True
        self.abandoned = False

    def size_of(self, numbers: Iterable[int]) -> int:
        """Bytes of these events."""
        shapes, shape_of = self.shapes, self.shape_of
        return sum([shapes[shape_of[number - FIRST]].size for number in numbers])

    # -- what is sent -------------------------------------------------------------------------------------

    def send(self, command: SendRequest, now: float, keys: tuple[str, ...], plain_key: str | None) -> Sent:
        """Check a request that is about to be sent; *keys* may have signed it, *plain_key* if all are PLAIN."""
        batch_id, body = command.batch_id, command.request.body
        must(batch_id not in self.open, "I4: a batch is sent while it is under way")
        must(batch_id not in self.over, "I7: a batch is sent again that is settled")
        must(len(self.open) < self.options.max_in_flight, "I6: more requests at once than max_in_flight")
        must(len(body) <= self.options.max_batch_bytes, "I6: a body is larger than max_batch_bytes")
        must(command.timeout == self.options.request_timeout, "I10: a request without its timeout")
        if len(self.failing) >= 2:
            must(not self.open, "I7: a failing endpoint gets more than one probe at a time")
            must(now >= self.probe_not_before, "I7: a probe comes before its time")
        sent = self.batches.get(batch_id)
        if sent is None:
            sent = self._first(command, now)
            self._signed(sent, keys, plain_key)
        elif body != sent.body:
            request = command.request
            again = read_submission(request.method, request.target, request.headers, body)
            must(again.data == sent.submission.data, "I3: a batch is sent again with other bytes")
            must(again.stream in self.rekeyed, "I3: a batch is sent again with another signature, without another key")
            sent.submission, sent.body = again, body
            self._signed(sent, keys, plain_key)
        must(now >= sent.not_before, "I7: a batch is sent again before its pause is over")
        must(self.in_flight.isdisjoint(sent.numbers), "I4: an event is in two requests at once")
        self.in_flight.update(sent.numbers)
        limit = self.options.retry.max_attempts
        must(limit is None or sent.failures < limit, "I7: more attempts than max_attempts")
        sent.sends += 1
        self.open[batch_id] = sent.sends
        self.requests += 1
        return sent

    def _first(self, command: SendRequest, now: float) -> Sent:
        request, batch_id = command.request, command.batch_id
        must(dict(request.headers)["Idempotency-Key"] == batch_id, "I3: a request does not have its batch id")
        submission = read_submission(request.method, request.target, request.headers, request.body)
        numbers = self.numbers(submission.elements)
        must(len(numbers) == command.events, "I1: a request does not hold the events that it should")
        must(len(numbers) <= self.options.max_batch_events, "I6: more events than max_batch_events")
        must(self.pending.issuperset(numbers), "I1: an event is sent that is settled")
        sent = Sent(batch_id, numbers, submission, request.body, now)
        parent_id, dot, half = batch_id.rpartition(".")
        kept = self.kept
        if kept is not None and batch_id in kept.restored:
            must(numbers == kept.restored[batch_id], "I3: a batch is sent with other events than it was kept with")
            if not dot:
                self.rooted.update(numbers)
                self._in_order(numbers, self.last_sent, "sent")
        elif dot:
            parent = self.split.get(parent_id)
            must(parent is not None, "I3: a half of a batch that was not split")
            assert parent is not None
            middle = len(parent) // 2
            must(
                numbers == (parent[:middle] if half == "1" else parent[middle:]), "I1: a half is not what it should be"
            )
            sent.sends_before = self._sends_of(parent_id)
        else:
            must(self.rooted.isdisjoint(numbers), "I3: an event is sent under two batch ids")
            if kept is not None:
                must(kept.home.isdisjoint(numbers), "I3: an event is sent under another id than it was kept")
            self.rooted.update(numbers)
            self._in_order(numbers, self.last_sent, "sent")
            if len(numbers) > 1 and kept is None:  # else it may have been made and kept before that was learned
                must(len(request.body) <= self.learned, "I7: a body is larger than what the collector refused")
        self.batches[batch_id] = sent
        return sent

    def _sends_of(self, batch_id: str) -> int:
        sent = self.batches[batch_id]
        return sent.sends_before + sent.sends

    def _signed(self, sent: Sent, keys: tuple[str, ...], plain_key: str | None) -> None:
        """Verify independently."""
        submission = sent.submission
        kinds = {self.classes[self.class_of[number - FIRST]] for number in sent.numbers[:50]}
        must({stream for stream, _ in kinds} == {submission.stream}, "I5: an event is sent to another stream")
        if self.kept is not None and sent.numbers[0] in self.kept.keys:
            # Of an earlier program: with the key that it had, unless another was set since, for what waits too.
            fingerprint = self.kept.keys[sent.numbers[0]]
            own = () if fingerprint is None else (self.names[fingerprint],)
            keys = (*own, *self.given.get(submission.stream, ()))
            if not submission.auth and fingerprint is None:
                keys = ()
        elif any(kind is not Kind.KEYED for _, kind in kinds) and submission.stream not in self.key_to_come:
            keys = (plain_key,) if plain_key else ()
        if not submission.auth and submission.stream in self.key_to_come and self.options.auth_key is None:
            return  # it had none before, perhaps, and gets one when the records are written that are being written now
        if not keys:
            must(not submission.auth, "I8: signed without a key")
            return
        data = submission.data.encode()
        must(
            any(hmac.digest(key.encode(), data, "sha256").hex() == submission.auth for key in keys),
            "I8: the signature is wrong",
        )
        for key in keys:
            must(key.encode() not in sent.body, "I8: a key is in a body")

    def numbers(self, texts: Iterable[str]) -> list[int]:
        """The events that have these texts."""
        numbers = list(map(self.expected.get, texts))
        must(None not in numbers, "I5: something is sent that was not tracked")
        return numbers  # type: ignore[return-value]

    def _in_order(self, numbers: list[int], last: dict[int, int], what: str) -> None:
        class_of = self.class_of
        first = class_of[numbers[0] - FIRST]
        if numbers == sorted(numbers) and {class_of[number - FIRST] for number in numbers} == {first}:
            if self._ordered(first):
                must(last.get(first, 0) < numbers[0], f"I4: {what} out of order")
                last[first] = numbers[-1]
                return
            if self.classes[first][1] is not Kind.INTERRUPTING:
                return
        for number in numbers:
            class_ = class_of[number - FIRST]
            if self._ordered(class_):
                must(last.get(class_, 0) < number, f"I4: {what} out of order")
                last[class_] = number
            elif self.classes[class_][1] is Kind.INTERRUPTING and self.classes[class_][0] not in self.unordered:
                epoch = self.epoch_of[number]
                must(last.get(class_, 0) <= epoch, f"I4: {what} out of order after an interruption")
                last[class_] = epoch

    def _ordered(self, class_: int) -> bool:
        stream, kind = self.classes[class_]
        if stream in self.unordered:
            return False
        return kind is Kind.PLAIN or (kind is Kind.KEYED and stream not in self.rekeyed)

    def store(self, sent: Sent, *, live: bool) -> None:
        """The collector has stored a batch for the first time; *live* if the client still waits for it."""
        numbers = sent.numbers
        if self.stored.isdisjoint(numbers):
            if live:
                self._in_order(numbers, self.last_stored, "stored")
        else:  # only the halves of a batch that was stored, and refused when it came again, may be stored again
            if "." not in sent.batch_id and sent.batch_id not in self.split_ever:
                again = self.stored.intersection(numbers)
                must(self.kept is not None and again <= self.kept.excused, "I3: an event is stored twice")
            self.duplicates += len(self.stored.intersection(numbers))
        self.stored.update(numbers)

    # -- what becomes of it -------------------------------------------------------------------------------

    def outcome(self, sent: Sent, outcome: Reply | RemoteError, at_least: float, now: float, unit: float) -> None:
        """The batch came to this; it is told so to the core at the same time.  *at_least* was asked for in words."""
        del self.open[sent.batch_id]
        self.in_flight.difference_update(sent.numbers)
        if not isinstance(outcome, Reply):
            if getattr(outcome, "stale", False) and not sent.forgiven:
                sent.forgiven = True
                self.failures += 1
                return
            self._no_answer(sent, now, unit)
            self._retry(sent, 0.0, now, unit)
            return
        status = outcome.status
        if status < 500:
            self.failing.clear()
            self.failing_for = 0
            self.answered_last = True
            sent.forgiven = False
        else:
            self._no_answer(sent, now, unit)
        if 200 <= status < 300:
            must(self.stored.issuperset(sent.numbers), "I2: something counts as delivered that is not stored")
            self._settle(sent, delivered=True)
            self.delivered += len(sent.numbers)
            self.delivered_ever += len(sent.numbers)
        elif status in (401, 403):
            sent.failures_in_a_row = 0
            sent.not_before = now
        elif status in (408, 425, 429) or status >= 500:
            self._retry(sent, at_least, now, unit)
        elif status >= 400 and len(sent.numbers) > 1:
            self.over.add(sent.batch_id)
            self.split[sent.batch_id] = sent.numbers
            self.split_ever.add(sent.batch_id)
            # Where an earlier program has split it too, and the power was lost, its halves come again.
            self.over -= {f"{sent.batch_id}.1", f"{sent.batch_id}.2"}
            if status == 413:  # a signature may have come to the body meanwhile
                self.learned = max(1024, min(self.learned, (len(sent.body) + 80) // 2))
        else:
            reason = LossReason.REDIRECTED if status < 400 else LossReason.REJECTED
            self._give_up(sent, LossReason.TOO_LARGE if status == 413 else reason)

    def _no_answer(self, sent: Sent, now: float, unit: float) -> None:
        sent.forgiven = False
        self.answered_last = False
        self.failing.add(sent.submission.stream)
        if len(self.failing) >= 2:
            self.failing_for += 1
            self.probe_not_before = now + self._pause(self.failing_for, unit)

    def _pause(self, attempt: int, unit: float) -> float:
        policy = self.options.retry
        return unit * min(policy.cap, policy.base * 2.0 ** min(attempt, 60))

    def _retry(self, sent: Sent, at_least: float, now: float, unit: float) -> None:
        self.failures += 1
        sent.failures += 1
        sent.failures_in_a_row += 1
        sent.not_before = now + max(at_least, self._pause(sent.failures_in_a_row, unit))
        self.longest_pause = max(self.longest_pause, at_least)
        self.longest_asked = max(self.longest_asked, at_least)
        policy = self.options.retry
        if (policy.max_attempts is not None and sent.failures >= policy.max_attempts) or (
            policy.max_elapsed is not None and now - sent.first_sent >= policy.max_elapsed
        ):
            self._give_up(sent, LossReason.EXPIRED)

    def _give_up(self, sent: Sent, reason: LossReason) -> None:
        self.over.add(sent.batch_id)
        self.announced[sent.numbers[0]] = (sent.numbers, reason, sent.sends_before + sent.sends)

    def _settle(self, sent: Sent, *, delivered: bool) -> None:
        before = len(self.pending)
        self.pending.difference_update(sent.numbers)
        must(before - len(self.pending) == len(sent.numbers), "I1: an event has two outcomes")
        self.over.add(sent.batch_id)
        if not any(followed.numbers for followed in self.flushes):
            return
        self._follow(sent.numbers, delivered=delivered)

    def _follow(self, numbers: list[int], *, delivered: bool) -> None:
        for followed in self.flushes:
            if followed.numbers:
                mine = len(followed.numbers.intersection(numbers))
                if delivered:
                    followed.delivered += mine
                else:
                    followed.lost += mine

    def lost(self, loss: Loss, *, stopped: bool, in_lanes: Callable[[], set[str]]) -> None:
        """A loss is reported; *stopped* if the tracker was stopped before."""
        kept, reason = self.kept, loss.reason
        if loss.lines:
            numbers = self.numbers(texts(loss.lines))
        elif reason is LossReason.DAMAGED:
            assert kept is not None
            if not loss.stream:
                must(loss.count == self.unnamed, "I1: damaged records are not counted as they were found")
                self.unnamed = 0
                self.reported[reason] += loss.count
                self.lost_ever[reason.value] += loss.count
                return
            must(kept.unreadable, "I1: lost as damaged, though nothing is")
            numbers = kept.unreadable.popleft()
        else:
            must(reason is LossReason.BACKLOG_FULL and kept is not None, "I1: a loss without its events")
            assert kept is not None
            numbers = kept.unnamed(loss.stream, loss.count, in_lanes())
        must(loss.count == len(numbers), "I1: a loss does not hold the events that it counts")
        for number in numbers:
            must(self.classes[self.class_of[number - FIRST]][0] == loss.stream, "I5: a loss of another stream")
        announced = self.announced.pop(numbers[0], None)
        if kept is not None:
            kept.lost(numbers, reason)
        if announced is not None:
            must((numbers, reason) == announced[:2], f"I1: lost as {reason.value}, not as {announced[1].value}")
            must(loss.attempts == announced[2], "I1: a loss has another number of attempts")
        elif reason is LossReason.DAMAGED:
            must(not loss.lines, "I1: lost as damaged, though it is there")
        elif reason is LossReason.STOPPED:
            must(stopped, "I1: lost since the tracker was stopped, which it was not")
        elif reason is LossReason.TOO_LARGE:  # nobody was there any more to be told
            shapes = [self.shapes[self.shape_of[number - FIRST]] for number in numbers if number in self.epoch_of]
            must(len(shapes) == len(numbers) == 1 and shapes[0].too_large, "I6: lost for its size, but is not large")
        else:
            must(reason is LossReason.BACKLOG_FULL, f"I1: lost as {reason.value} without a cause")
            epochs = self.epoch_of
            dropping = self.options.on_full in (OnFull.DROP_NEWEST, OnFull.DROP_OLDEST)
            must(dropping or all(n in epochs for n in numbers), "I1: dropped though on_full does not say so")
            if self.options.on_full is OnFull.DROP_OLDEST:
                self._dropped_oldest(numbers)
        before = len(self.pending)
        self.pending.difference_update(numbers)
        must(before - len(self.pending) == len(numbers), "I1: an event has two outcomes")
        self.reported[reason] += len(numbers)
        self.lost_ever[reason.value] += len(numbers)
        self._follow(numbers, delivered=False)

    def _dropped_oldest(self, numbers: list[int]) -> None:
        """Whatever is sent of that class from now on is younger, or it was not the oldest."""
        for number in numbers:
            class_ = self.class_of[number - FIRST]
            if self.kept is None and self._ordered(class_):  # else a batch that is being loaded is older, and stays
                must(number > self.last_sent.get(class_, 0), "I4: dropped is not the oldest")
                self.last_sent[class_] = number

    def not_loaded(self, lane: Lane, now: float) -> None:
        """The last batch of *lane* cannot be read from the backlog now."""
        self.load_pauses[lane] = now + LOAD_PAUSE

    # -- after every step ---------------------------------------------------------------------------------

    def check(self, core: TrackerCore) -> None:
        """What must be true at every moment; most of it takes the same time however much is pending."""
        self.checks += 1
        ledger = core._ledger
        seen = (
            ledger.room_bytes,
            ledger.room_events,
            ledger.reserved_events,
            ledger.delivered,
            len(core._losses.reports),
            core._delivery.requests,
            core._delivery.failures,
            len(core._delivery._in_flight),
            core._state,
            len(self.shape_of),
            self.accepted,
            self.delivered,
            len(self.pending),
            self.flushes,
        )
        if seen == self.seen:  # as in half of all steps: nothing that this looks at has changed since the last time
            self.same += 1
            if self.same % 16:
                return
        self.seen = seen
        statistics = core.statistics()
        lost = sum(statistics.lost.values())
        unreported = lost - self.reported.total()
        options = self.options
        limbo = statistics.accepted - self.accepted  # accepted and lost in one, not told yet
        most = 0 if self.kept is None else min(unreported, len(self.kept.limbo))
        must(0 <= limbo <= most, "I1: accepted is not what was accepted")
        must(statistics.accepted == statistics.delivered + lost + statistics.pending, "I1: the ledger does not add up")
        must(statistics.delivered == self.delivered, "I1: delivered is not what was delivered")
        pending = len(self.pending) + self.unnamed + limbo
        must(statistics.pending == pending - unreported, "I1: pending is not what is pending")
        # An event may have been about to be put in when what was lent for it was taken back: one for each call that
        # is interrupted so, and calls that interrupt may be interrupted, too.
        slack = SLACK if self.epoch_of else 0
        max_bytes = max(options.max_pending_bytes + slack * LARGEST, self.restored_bytes)
        must(0 <= statistics.pending_bytes <= max_bytes, "I6: more bytes than max_pending_bytes")
        if options.max_pending_events is not None:
            most = max(options.max_pending_events + slack, statistics.restored)
            must(statistics.pending <= most, "I6: more events than max_pending_events")
        must(statistics.in_flight == len(self.open), "I6: in_flight is not what is in flight")
        must(statistics.requests == self.requests, "I1: requests are not what was sent")
        must(statistics.failures == self.failures, "I1: failures are not what failed")
        if not unreported:
            must(not self.announced, "I1: a loss is not counted")
            must(statistics.lost == self.reported, "I1: losses are counted for another reason")
            if not self.pending or self.checks >= self.next_sizing:
                self.next_sizing = self.checks + max(64, len(self.pending) // 8)  # it takes time for each
                size = self.size_of(self.pending)
                must(statistics.pending_bytes == size, "I6: pending_bytes is not the size of what is pending")
        for followed in self.flushes:
            result = followed.flush.result
            settled = result.delivered + result.lost
            must(settled + result.pending == followed.asked, "I1: a flush does not add up")
            must(min(result.delivered, result.lost, result.pending) >= 0, "I1: a flush counts below zero")
            if result.pending == 0 or self.abandoned:
                must(followed.flush.done, "I10: a flush is done too late")
            elif core.state is not TrackerState.CLOSED:  # else it depends on whether it was asked for since
                must(not followed.flush.done, "I10: a flush is done too early")
            if followed.numbers is not None:
                must(result.delivered == followed.delivered, "I1: a flush counts other deliveries")
                if not unreported:
                    must(result.lost == followed.lost, "I1: a flush counts other losses")
        if core.state is TrackerState.CLOSED:
            must(not statistics.lanes, "I10: closed and not empty")
            must(not statistics.pending or self.kept is not None, "I10: closed and not empty")

    def check_idle(self, core: TrackerCore, now: float, deadline: float | None) -> None:
        """What must be true when the core has said that there is nothing to do now."""
        must(deadline is None or deadline > now, "I7: nothing to do, but the deadline is over")
        must(deadline is None or deadline <= now + self.longest_pause * (1 + 1e-9), "I7: a pause is too long")
        if core.state is TrackerState.CLOSED:
            return
        lanes = list(core._schedule)
        at_backlog = len(core._delivery._at_backlog)
        free = len(self.open) + at_backlog < self.options.max_in_flight
        must(not at_backlog or self.kept is not None, "I10: a lane waits for a backlog that there is not")
        filled_after = now - self.options.flush_interval
        for lane in lanes:
            state = lane.state
            if state is LaneState.FILLING:
                since = lane.since
                must(since is not None, "I6: an empty lane is kept")
                assert since is not None
                if since <= filled_after:
                    must(since + self.options.flush_interval > now, "I10: events wait longer than flush_interval")
                must(deadline is not None, "I10: events wait for ever")
            elif state is LaneState.READY:
                paid = not lane.attempt or core._delivery._budget.next_at <= now
                must(not (free and self.answered_last and paid), "I10: a lane waits though nothing is in its way")
                must(bool(self.open) or at_backlog or deadline is not None, "I10: a lane waits for ever")
            elif state is LaneState.BACKING_OFF:
                must(deadline is not None and lane.timer is not None, "I10: a lane backs off for ever")
                assert lane.timer is not None
                longest = max(self.longest_asked, self._pause(lane.attempt, 1.0)) * (1 + 1e-9)
                latest = max(now + longest, self.load_pauses.get(lane, now))
                must(lane.timer <= latest, "I7: a pause is too long")
        if self.checks >= self.next_counting:  # it takes time for each batch
            batches = sum([len(lane.batches) for lane in lanes])
            self.next_counting = self.checks + 8 + batches // 8
            if self.kept is not None:
                held = sum(map(_held, lanes))
                loaded = self.options.max_in_flight * self.options.max_batch_bytes
                most = max(self.memory + SLACK * LARGEST + loaded, self.restored_bytes)
                must(held <= most, "I6: more bytes in memory than there may be")
            waiting = sum([lane.pending for lane in lanes])
            must(waiting == core.statistics().pending, "I1: pending events are in no lane")
            away = [lane for lane in lanes if lane.state is LaneState.AT_BACKLOG]
            must(len(away) == at_backlog, "I10: a lane waits for the backlog, and nobody asks it")

    def check_not_overdue(self, core: TrackerCore, now: float) -> None:
        """What must be true while every sender sleeps: it has been told of all that comes due."""
        for lane in core._schedule:
            if lane.state is LaneState.FILLING and lane.since is not None:
                due = lane.since + self.options.flush_interval
                must(due + 1e-3 >= now, "I10: events are due and nobody was woken")

    def follow(self, flush: Flush, *, exact: bool) -> None:
        """A flush was asked for, and not interrupted if *exact*."""
        result = flush.result
        asked = result.delivered + result.lost + result.pending
        if exact:
            # And what the disk does not take, of calls that have returned.
            unheard = 0 if self.kept is None else sum(not waits for waits in self.kept.limbo.values())
            must(0 <= asked - len(self.pending) <= unheard, "I1: a flush does not follow all that is pending")
            exact = asked == len(self.pending)
        numbers = frozenset(self.pending) if exact and len(self.pending) <= 20_000 else None
        self.flushes = [*self.flushes[-2:], Followed(flush, asked, numbers)]


def _held(lane: Lane) -> int:
    """Bytes of its events that are in memory."""
    batches = sum([len(batch.lines) for batch in lane.batches if batch.lines is not None])
    return batches + sum([len(segment.lines) for segment in lane.closed]) + len(lane.inlet.lines)
