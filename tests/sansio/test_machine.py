"""The core driven at random against a model of a collector: one invariant for each promise."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atom_sansio import (
    AuthKey,
    BacklogFull,
    EventTooLarge,
    Flush,
    LaneState,
    LossReason,
    OnFull,
    Options,
    Reply,
    ReportLoss,
    Request,
    SendRequest,
    Statistics,
    TrackerClosed,
    TrackerCore,
    TrackerState,
    encode_event,
)
from atom_sansio._receive import read_submission
from atom_sansio.testing import ModelCollector, failures, options, replies

KEYS = {name: AuthKey(name) for name in ("k-one", "k-two", "k-three")}
STREAMS = ["a", "b", "поток"]
MAX_RETRY_AFTER = 3600.0
UNIX_OFFSET = 1_000_000_000.0

units = st.sampled_from([0.0, 0.25, 0.999999]) | st.floats(0, 1, exclude_max=True)
streams = st.sampled_from(STREAMS)
keys = st.sampled_from([None, None, None, *KEYS])
texts = st.sampled_from(["x", "é" * 20, '"' * 100, "\\" * 300, "y" * 400, "z" * 900, "w" * 3000])


def accepted_keys(request: Request) -> list[str | bytes]:
    return list(KEYS) if b',"auth":"' in request.body else []


class Interrupted(AuthKey):
    """A key whose first signature is interrupted by a signal handler that tracks."""

    def __init__(self, key: str, handler: Any) -> None:
        super().__init__(key)
        self.handler = handler

    def sign(self, text: bytes) -> str:
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return super().sign(text)


class Machine(RuleBasedStateMachine):
    """Knows what was tracked, what was answered and what was reported, and nothing of the core's inside."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.options: Options = data.draw(options())
        self.now = data.draw(st.sampled_from([0.0, 1e-3, 12345.678]))
        self.core = TrackerCore(self.options, source="s", unix_offset=UNIX_OFFSET)
        self.collector = ModelCollector()
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.commands: list[Any] = []
        self.replayable = True
        self.serial = 0
        self.accepted: dict[str, list[bytes]] = defaultdict(list)
        self.explicit: set[bytes] = set()
        self.reported: Counter[bytes] = Counter()
        self.delivered: Counter[bytes] = Counter()
        self.lost: Counter[LossReason] = Counter()
        self.open: dict[str, SendRequest] = {}
        self.bodies: dict[str, dict[str | bytes | None, bytes]] = {}
        self.sends: Counter[str] = Counter()
        self.no_failure: Counter[str] = Counter()
        self.first_sent: dict[str, float] = {}
        self.not_before: dict[str, float] = {}
        self.not_after: dict[str, float] = {}
        self.lines_of: dict[str, list[bytes]] = {}
        self.flushes: list[tuple[Flush, int, set[bytes] | None]] = []
        self.learned = self.options.max_batch_bytes

    # -- what happens ---------------------------------------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the core, and take note so that the run can be replayed."""
        self.calls.append((name, args, kwargs))
        return getattr(self.core, name)(*args, **kwargs)

    def event(self, text: str) -> dict[str, Any]:
        self.serial += 1
        return {"n": self.serial, "t": text}

    @rule(stream=streams, key=keys, text=texts, times=st.integers(1, 8))
    def track_some(self, stream: str, key: str | None, text: str, times: int) -> None:
        for _ in range(times):
            self.track(stream, key, text)

    def track(self, stream: str, key: str | None, text: str) -> None:
        event = self.event(text)
        line = encode_event(event)
        before = self.core.statistics()
        auth_key = KEYS[key] if key else None
        try:
            self.call("track", stream, event, auth_key, now=self.now)
        except (BacklogFull, EventTooLarge, TrackerClosed) as error:
            assert self.core.statistics() == before, "a refused event changes nothing"
            if isinstance(error, BacklogFull):
                assert self.options.on_full in (OnFull.BLOCK, OnFull.RAISE)
                assert self.is_full_for(line, before)
            elif isinstance(error, EventTooLarge):
                assert len(line) * 2 + 3200 > self.options.max_batch_bytes
            else:
                assert self.core.state is not TrackerState.OPEN
        else:
            assert self.core.state is TrackerState.OPEN
            self.note_accepted(stream, line, key)

    def is_full_for(self, line: bytes, statistics: Statistics) -> bool:
        limit = self.options.max_pending_events
        too_many = limit is not None and statistics.pending >= limit
        return too_many or statistics.pending_bytes + len(line) > self.options.max_pending_bytes

    def note_accepted(self, stream: str, line: bytes, key: str | None) -> None:
        self.accepted[stream].append(line)
        if key:
            self.explicit.add(line)

    @rule(stream=streams, text=texts)
    def track_while_another_call_runs(self, stream: str, text: str) -> None:
        """The lane's key is replaced by one whose signature is interrupted, whenever that may be."""
        event = self.event(text)

        def handler() -> None:
            assert self.core.busy
            before = self.core.statistics()
            self.core.track(stream, event, now=self.now)
            after = self.core.statistics()
            assert after.accepted - before.accepted in (0, 1), "it is taken at once, or set aside"
            assert after.accepted == after.delivered + sum(after.lost.values()) + after.pending
            self.note_accepted(stream, encode_event(event), None)

        key = Interrupted("k-one", handler)
        self.replayable = False  # the handler is no function of the inputs alone
        self.core.set_auth_key(stream, key, now=self.now)

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 6.0, 10.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.core.next_deadline() is not None)
    @rule()
    def wait_for_the_deadline(self) -> None:
        deadline = self.call("next_deadline")
        self.now = max(self.now, deadline)
        commands = self.pull()
        later = self.core.next_deadline()
        assert commands or later is None or later > self.now, "a deadline once reached is not told again"

    @rule()
    def pull_until_none(self) -> None:
        self.pull()

    @rule()
    def pull_once(self) -> None:
        """As one of several senders does."""
        self.pull_one()

    def pull(self) -> int:
        """Pull until None: that ends within a number of steps that what is pending bounds."""
        bound = 2 * self.core.statistics().pending + sum(map(len, self.accepted.values())) + 5
        pulled = 0
        while self.pull_one():
            pulled += 1
            assert pulled <= bound, "the core spins"
        deadline = self.call("next_deadline")
        assert deadline is None or deadline > self.now, "nothing is left to do now"
        if deadline is None:
            self.check_nothing_waits_on_time()
        return pulled

    def check_nothing_waits_on_time(self) -> None:
        full = len(self.open) == self.options.max_in_flight
        for lane in self.core._schedule:
            waits_for_an_answer = lane.state is LaneState.IN_FLIGHT
            waits_for_its_turn = lane.state is LaneState.READY and (full or self.open)
            assert waits_for_an_answer or waits_for_its_turn or lane.state is LaneState.PARKED

    def pull_one(self) -> bool:
        command = self.call("next_command", now=self.now)
        self.commands.append(command)
        if isinstance(command, SendRequest):
            self.sent(command)
        elif isinstance(command, ReportLoss):
            self.reported_lost(command)
        return command is not None

    def sent(self, command: SendRequest) -> None:
        batch_id, request = command.batch_id, command.request
        assert batch_id not in self.open
        self.open[batch_id] = command
        assert len(self.open) <= self.options.max_in_flight
        assert dict(request.headers)["Idempotency-Key"] == batch_id
        assert command.timeout == self.options.request_timeout

        probe = ModelCollector(accepted_keys(request))
        assert probe.handle(request).status == 200, probe.refused
        stream, lines = probe.rows[0].stream, [row.line for row in probe.rows]
        used = probe.rows[0].key
        assert len(lines) == command.events <= self.options.max_batch_events
        assert len(request.body) <= self.options.max_batch_bytes
        if "." not in batch_id and batch_id not in self.bodies and len(lines) > 1:
            assert len(request.body) <= self.learned
        known = set(self.accepted[stream])
        assert known.issuperset(lines), "nothing is sent that was not tracked"

        read = read_submission(request.method, request.target, request.headers, request.body)
        assert [text.encode() + b"\n" for text in read.elements] == lines

        # A retry is byte-identical, but for the signature when the key was changed meanwhile.
        sent_before = self.bodies.setdefault(batch_id, {})
        assert sent_before.setdefault(used, request.body) == request.body
        assert self.lines_of.setdefault(batch_id, lines) == lines
        self.first_sent.setdefault(batch_id, self.now)
        self.sends[batch_id] += 1
        limit = self.options.retry.max_attempts
        assert limit is None or self.sends[batch_id] - self.no_failure[batch_id] <= limit
        if batch_id in self.not_before:
            assert self.now >= self.not_before.pop(batch_id)

        # One request per lane at a time: none of its events is in another one that is open.
        for other, open_command in self.open.items():
            if other != batch_id:
                assert not set(lines) & set(self.lines_of[open_command.batch_id])

    def reported_lost(self, command: ReportLoss) -> None:
        loss = command.loss
        lines = loss.lines.splitlines(keepends=True)
        assert loss.count == len(lines) == len(loss.events)
        assert set(lines) <= set(self.accepted[loss.stream])
        assert loss.time <= self.now + UNIX_OFFSET
        self.reported.update(lines)
        self.lost[loss.reason] += len(lines)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), reply=replies(), unit=units)
    def answer(self, data: st.DataObject, reply: Reply, unit: float) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.open)))
        command = self.open.pop(batch_id)
        self.call("response_received", batch_id, reply, now=self.now, unit=unit)
        if self.core.state is TrackerState.CLOSED:
            return
        status = reply.status
        if status < 300:
            self.store(command)
        elif status == 413 and command.events > 1:
            self.learned = max(1024, min(self.learned, len(command.request.body) // 2))
        elif status in (401, 403):
            self.no_failure[batch_id] += 1
        elif status in (408, 425, 429) or status >= 500:
            after = reply.header("retry-after") or ""
            minimum = {"7": 7.0, "3600": MAX_RETRY_AFTER, "1000000000": MAX_RETRY_AFTER}.get(after, 0.0)
            self.not_before[batch_id] = self.now + minimum

    def store(self, command: SendRequest) -> None:
        self.collector.keys = accepted_keys(command.request)
        assert self.collector.handle(command.request).status == 200
        self.delivered.update(self.lines_of[command.batch_id])

    @precondition(lambda self: self.open)
    @rule(data=st.data(), error=failures(), unit=units)
    def fail(self, data: st.DataObject, error: Any, unit: float) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[batch_id]
        if getattr(error, "stale", False):
            self.no_failure[batch_id] += 1
        self.call("send_failed", batch_id, error, now=self.now, unit=unit)

    @rule(reply=replies(), error=failures(), batch_id=st.sampled_from(["s-1", "s-1.1", "s-2", "nonsense"]))
    def say_something_late(self, reply: Reply, error: Any, batch_id: str) -> None:
        """The outcome of a batch that is not in flight changes nothing."""
        if batch_id not in self.open:
            before = self.core.statistics()
            self.call("response_received", batch_id, reply, now=self.now, unit=0.0)
            self.call("send_failed", batch_id, error, now=self.now, unit=0.0)
            assert self.core.statistics() == before

    @rule(stream=streams, key=st.sampled_from(sorted(KEYS)))
    def set_auth_key(self, stream: str, key: str) -> None:
        self.call("set_auth_key", stream, KEYS[key], now=self.now)

    @rule()
    def flush(self) -> None:
        self.follow("flush")

    def follow(self, name: str) -> None:
        lines = self.pending_lines() if self.all_losses_are_reported() else None
        flush = self.call(name, now=self.now)
        self.flushes.append((flush, self.core.statistics().pending, lines))

    def pending_lines(self) -> set[bytes]:
        accepted = {line for lines in self.accepted.values() for line in lines}
        return accepted - self.delivered.keys() - self.reported.keys()

    def all_losses_are_reported(self) -> bool:
        return self.reported.total() == sum(self.core.statistics().lost.values())

    @rule(data=st.data())
    def forget_a_flush(self, data: st.DataObject) -> None:
        if self.flushes:
            self.flushes.pop(data.draw(st.integers(0, len(self.flushes) - 1)))

    @precondition(lambda self: self.serial > 60)
    @rule()
    def close(self) -> None:
        self.follow("close")
        assert self.core.state is not TrackerState.OPEN

    @precondition(lambda self: self.serial > 90)
    @rule()
    def abandon(self) -> None:
        self.call("abandon", now=self.now)
        assert self.core.state is TrackerState.CLOSED
        self.open.clear()
        assert all(flush.done for flush, *_ in self.flushes)

    # -- what is promised -----------------------------------------------------------------------------

    @invariant()
    def every_event_is_accounted_for(self) -> None:
        statistics = self.core.statistics()
        delivered, lost = statistics.delivered, sum(statistics.lost.values())
        assert statistics.accepted == sum(map(len, self.accepted.values()))
        assert statistics.accepted == delivered + lost + statistics.pending
        assert delivered == self.delivered.total()
        held = sum(lane.pending for lane in self.core._schedule)
        assert held == statistics.pending
        assert (held == 0) == (statistics.pending_bytes == 0)

    @invariant()
    def the_budget_holds(self) -> None:
        statistics = self.core.statistics()
        assert 0 <= statistics.pending_bytes <= self.options.max_pending_bytes
        assert 0 <= statistics.pending <= (self.options.max_pending_events or statistics.pending)
        assert statistics.in_flight == len(self.open)
        assert statistics.requests == self.sends.total()

    @invariant()
    def no_event_has_two_outcomes(self) -> None:
        assert max(self.delivered.values(), default=1) == 1
        assert max(self.reported.values(), default=1) == 1
        assert not self.delivered.keys() & self.reported.keys()

    @invariant()
    def flushes_add_up(self) -> None:
        statistics = self.core.statistics()
        for flush, asked, lines in self.flushes:
            result = flush.result
            assert result.delivered + result.lost + result.pending == asked
            assert min(result.delivered, result.lost, result.pending) >= 0
            assert result.pending <= statistics.pending
            assert flush.done == (result.pending == 0)
            assert bool(result) == (result.delivered == asked)
            if lines is not None:
                assert result.delivered == len(lines & self.delivered.keys())
                if self.all_losses_are_reported():
                    assert result.lost == len(lines & self.reported.keys())

    @invariant()
    def order_holds_within_a_lane(self) -> None:
        """Events that came without a key are stored in the order they were tracked, stream by stream."""
        for stream in STREAMS:
            at = {line: i for i, line in enumerate(self.accepted[stream])}
            stored = [at[line] for line in self.collector.lines(stream) if line not in self.explicit]
            assert stored == sorted(stored)

    @invariant()
    def closed_means_empty(self) -> None:
        if self.core.state is TrackerState.CLOSED:
            statistics = self.core.statistics()
            assert (statistics.pending, statistics.lanes, statistics.in_flight) == (0, 0, 0)

    def teardown(self) -> None:
        """Whatever happened: with a collector that works again, everything has its outcome in bounded time."""
        if not hasattr(self, "core"):
            return
        self.replay()
        for stream in STREAMS:
            self.core.set_auth_key(stream, KEYS["k-one"], now=self.now)
        for _ in range(10 * self.serial + 10):
            self.pull()
            for batch_id in sorted(self.open):
                command = self.open.pop(batch_id)
                self.core.response_received(batch_id, OK, now=self.now, unit=0.0)
                self.store(command)
            self.every_event_is_accounted_for()
            self.order_holds_within_a_lane()
            deadline = self.core.next_deadline()
            if deadline is None:
                break
            self.now = max(self.now, deadline)
        self.pull()
        assert self.core.statistics().pending == 0
        assert self.lost == self.core.statistics().lost, "every loss is reported"
        assert all(flush.done for flush, *_ in self.flushes)

    def replay(self) -> None:
        """The same calls bring the same commands."""
        if not self.replayable:
            return
        again = TrackerCore(self.options, source="s", unix_offset=UNIX_OFFSET)
        commands = []
        for name, args, kwargs in self.calls:
            try:
                result = getattr(again, name)(*args, **kwargs)
            except (BacklogFull, EventTooLarge, TrackerClosed):
                continue
            if name == "next_command":
                commands.append(result)
        assert commands == self.commands
        assert again.statistics() == self.core.statistics()


OK = Reply(status=200, headers=(), body=b"")

Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=50)


TestMachine = pytest.mark.thorough(pytest.mark.uncovered(Machine.TestCase))  # else it takes three times as long
