"""The core beside a backlog that is a model: whatever happens, what was accepted is delivered, once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from atom_sansio import (
    AuthKey,
    BacklogFull,
    ConnectionFailed,
    DeadLetter,
    KeptBatch,
    Level,
    LoadBatch,
    LossReason,
    Mark,
    OnFull,
    Options,
    Record,
    Records,
    RecordState,
    Recovered,
    Reply,
    ReportLoss,
    ReportParked,
    RetryPolicy,
    SendRequest,
    TrackerCore,
    TrackerState,
    UpdateBacklog,
    encode_event,
)
from atom_sansio import _keeper as keeper_module
from atom_sansio._records import read_records

STREAMS = ("a", "b", "Ünïcode, \n and spaces")
KEYS = ("", "k1", "k2")


@dataclass
class Disk:
    """What survives a crash."""

    batches: dict[str, tuple[KeptBatch, bytes]] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)
    marks: dict[tuple[int, str, str | None], Mark] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)

    def update(self, update: UpdateBacklog) -> None:
        for kept, lines in update.put:
            assert (len(lines), lines.count(b"\n")) == (kept.size, kept.events)
            self.batches[kept.batch_id] = kept, lines
        for batch_id in update.drop:
            self.batches.pop(batch_id, None)
        for letter in update.dead:
            self.dead[letter.letter_id] = letter
        for mark in update.marks:
            self.marks[mark.generation, mark.stream, mark.fingerprint] = mark
        if update.forget_before:
            self.files = {n: data for n, data in self.files.items() if n >= update.forget_before}
            self.marks = {place: mark for place, mark in self.marks.items() if place[0] >= update.forget_before}

    def append(self, records: Records) -> None:
        self.files[records.generation] = self.files.get(records.generation, b"") + records.data

    def recover(self) -> Recovered:
        records, damaged = read_records(self.files.items(), self.marks.values())
        assert not damaged
        batches = sorted((kept for kept, _ in self.batches.values()), key=lambda kept: (kept.place, kept.part))
        generations = [*self.files, *(place[0] for place in self.marks)]
        return Recovered(batches=tuple(batches), records=tuple(records), generation=max(generations, default=0))


GENERATION_SIZE = keeper_module.GENERATION_SIZE


class Machine(RuleBasedStateMachine):
    """Programs that track, crash and begin again over one backlog, and a collector that stores a batch id once."""

    @initialize(
        level=st.sampled_from(Level),
        on_full=st.sampled_from(OnFull),
        max_events=st.sampled_from((1, 3, 50)),
        window=st.sampled_from((0, 300, 1 << 20)),
        memory=st.sampled_from((300, 1 << 20)),
        generation=st.sampled_from((200, 1 << 25)),
        pending=st.sampled_from((None, None, 5, 40)),
    )
    def begin(
        self,
        level: Level,
        on_full: OnFull,
        max_events: int,
        window: int,
        memory: int,
        generation: int,
        pending: int | None,
    ) -> None:
        self.level = level
        self.window = window
        self.memory = memory
        self.generation_size = generation
        self.options = Options.read(
            {
                "endpoint": "http://c",
                "auth_key": "k0",
                "auth_keys": {"b": "kb"},
                "max_batch_events": max_events,
                "max_batch_bytes": 1024,
                "max_pending_events": pending,
                "on_full": on_full,
                "flush_interval": 10.0,
                "retry": RetryPolicy(base=1.0, cap=4.0),
            },
            {},
            str,
        )
        self.disk = Disk()
        self.disk_fails = False
        self.now = 0.0
        self.number = 0
        self.stored: dict[str, list[bytes]] = {}
        """By batch id."""
        self.accepted: set[bytes] = set()
        self.reported: Counter[bytes] = Counter()
        self.refused: set[bytes] = set()
        self.lost_unnamed = 0
        self.maybe_lost: set[bytes] = set()
        """What was in memory alone when its program crashed."""
        self.degraded = False
        """Whether something was sent that was not kept, so that a crash may send it under another id."""
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        keeper_module.GENERATION_SIZE = self.generation_size  # type: ignore[misc]
        self.core = TrackerCore(
            self.options, source=f"start{self.starts}", level=self.level, window=self.window, memory=self.memory
        )
        self.core.restore(self.disk.recover(), now=self.now)
        self.flying: list[SendRequest] = []
        self.updating: UpdateBacklog | None = None
        self.loading: list[LoadBatch] = []
        self.waiting: dict[bytes, Record] = {}

    def _line(self) -> bytes:
        self.number += 1
        line = encode_event({"n": self.number, "pad": "x" * (self.number * 37 % 90)})
        self.accepted.add(line)
        return line

    # -- what happens ---------------------------------------------------------------------------------

    @rule(stream=st.sampled_from(STREAMS), key=st.sampled_from(KEYS), n=st.integers(1, 12))
    def track(self, stream: str, key: str, n: int) -> None:
        if self.core.state is not TrackerState.OPEN:
            return
        for _ in range(n):
            line = self._line()
            auth_key = AuthKey(key) if key else None
            try:
                if self.level is Level.MEMORY:
                    self.core.track_line(stream, line, auth_key, now=self.now)
                else:
                    record = self.core.admit(stream, line, auth_key, now=self.now)
                    if record is not None:
                        self.waiting[line] = record
            except BacklogFull:
                self._refuse(line)
        if self.level is not Level.MEMORY and n % 2:
            self._write(fail=False)

    def _refuse(self, line: bytes) -> None:
        self.accepted.discard(line)
        self.refused.add(line)

    def _write(self, *, fail: bool) -> None:
        while (records := self.core.next_records(now=self.now)) is not None:
            if fail or self.disk_fails:
                self.core.records_refused("no space", now=self.now)
            else:
                self.disk.append(records)
                self.core.records_written(now=self.now)
        for line, record in list(self.waiting.items()):
            if record.state is RecordState.REFUSED:
                self._refuse(line)
            if record.state in (RecordState.REFUSED, RecordState.ACCEPTED):
                del self.waiting[line]

    @rule(fail=st.booleans())
    def write(self, fail: bool) -> None:
        if self.level is not Level.MEMORY:
            self._write(fail=fail)

    @rule()
    def take_back(self) -> None:
        """A caller has waited for long enough."""
        for line, record in list(self.waiting.items()):
            if self.core.take_back(record):
                self._refuse(line)
                del self.waiting[line]

    @rule(most=st.integers(1, 5))
    def pull(self, most: int) -> None:
        for _ in range(most):
            command = self.core.next_command(now=self.now)
            match command:
                case SendRequest():
                    kept = self.disk.batches.get(command.batch_id)
                    if kept is None:
                        assert self.core._keeper is not None
                        assert self.core._keeper.failing
                        self.degraded = True
                    self.flying.append(command)
                case ReportLoss():
                    loss = command.loss
                    if loss.lines:
                        lines = loss.lines.splitlines(keepends=True)
                        assert loss.count == len(lines)
                        self.reported.update(lines)
                    else:
                        assert loss.reason in (LossReason.BACKLOG_FULL, LossReason.DAMAGED)
                        self.lost_unnamed += loss.count
                case ReportParked():
                    assert command.status is None
                case None:
                    break

    @rule(fail=st.booleans())
    def backlog(self, fail: bool) -> None:
        """Begin or end what the backlog is asked for."""
        if self.updating is not None:
            if fail or self.disk_fails:
                self.core.backlog_failed("no space", now=self.now)
            else:
                self.disk.update(self.updating)
                self.core.backlog_updated()
            self.updating = None
            return
        if self.loading:
            command = self.loading.pop()
            _, lines = self.disk.batches[command.batch_id]
            if fail or self.disk_fails:
                self.core.batch_not_loaded(command.batch_id, now=self.now)
            else:
                self.core.batch_loaded(command.batch_id, lines)
            return
        self._ask_backlog()

    def _ask_backlog(self) -> bool:
        match command := self.core.next_backlog_command(now=self.now):
            case UpdateBacklog():
                self.updating = command
            case LoadBatch():
                self.loading.append(command)
            case Records():
                if self.disk_fails:
                    self.core.records_refused("no space", now=self.now)
                else:
                    self.disk.append(command)
                    self.core.records_written(now=self.now)
        return command is not None

    @rule(what=st.sampled_from(("ok", "ok", "ok", "lost reply", "refused", "500", "400", "413")), i=st.integers(0, 7))
    def answer(self, what: str, i: int) -> None:
        if not self.flying:
            return
        command = self.flying.pop(i % len(self.flying))
        if command.batch_id in self.stored and what in ("400", "413"):
            what = "ok"  # the collector knows it
        status = {"500": 500, "400": 400, "413": 413}.get(what, 200)
        if status == 200 and what != "refused":
            data = json.loads(command.request.body)["data"]
            lines = [encode_event(event) for event in json.loads(data)]
            assert self.stored.setdefault(command.batch_id, lines) == lines
        if what in ("lost reply", "refused"):
            self.core.send_failed(command.batch_id, ConnectionFailed("broken"), now=self.now, unit=0.5)
        else:
            reply = Reply(status=status, headers=(), body=b"")
            self.core.response_received(command.batch_id, reply, now=self.now, unit=0.5)

    @rule(seconds=st.sampled_from((0.5, 3.0, 11.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(fails=st.booleans())
    def fail_disk(self, fails: bool) -> None:
        self.disk_fails = fails

    @rule(stream=st.sampled_from(STREAMS), key=st.sampled_from(("k0", "k1", "k3")))
    def set_key(self, stream: str, key: str) -> None:
        self.core.set_auth_key(stream, AuthKey(key), now=self.now)

    @rule()
    def flush(self) -> None:
        self.core.flush(now=self.now)

    @rule()
    def crash(self) -> None:
        """The process is killed; an update that is under way was made or not."""
        if self.updating is not None and not self.disk_fails and self.number % 2:
            self.disk.update(self.updating)
        for line in self.waiting:
            self._refuse(line)
        for report in self.core._losses.reports:  # nobody has been told
            self.maybe_lost.update(report.loss.lines.splitlines(keepends=True))
            self.lost_unnamed += not report.loss.lines
        if self.level is Level.MEMORY or self.degraded or self.core._unrecorded:
            self.maybe_lost |= self.accepted
        self.start()

    @rule()
    def stop(self) -> None:
        """The program ends in order: nothing is lost, whatever was under way."""
        self._write(fail=False)
        self.core.abandon(now=self.now)
        fails, self.disk_fails = self.disk_fails, False
        while not self.core.closed:
            if self.updating is not None:
                self.backlog(fail=False)
            self.pull(1)
            self._ask_backlog()
        self.disk_fails = fails
        self.loading.clear()
        self.start()

    # -- what holds -----------------------------------------------------------------------------------

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "core"):
            return
        statistics = self.core.statistics()
        assert statistics.accepted == statistics.delivered + sum(statistics.lost.values()) + statistics.pending
        assert statistics.pending >= 0
        assert statistics.pending_bytes >= 0

    def teardown(self) -> None:
        if hasattr(self, "core"):
            try:
                self._end()
            finally:
                keeper_module.GENERATION_SIZE = GENERATION_SIZE  # type: ignore[misc]

    def _end(self) -> None:
        """When faults end, all is delivered."""
        self.disk_fails = False
        for _ in range(300):
            self._write(fail=False)
            self.pull(50)
            while self._ask_backlog() or self.updating is not None or self.loading:
                self.backlog(fail=False)
            while self.flying:
                self.answer("ok", 0)
            for key in KEYS[1:]:
                for stream in STREAMS:
                    self.core.set_auth_key(stream, AuthKey(key), now=self.now)
            self.core.flush(now=self.now)
            self.now += 5.0
            parts = (self.core._keeper, self.core._recording)
            if not self.core.statistics().pending and all(part is None or part.idle for part in parts):
                self.pull(1000)
                break
        else:
            raise AssertionError(f"does not end: {self.core.statistics()}")
        arrived = Counter(line for lines in self.stored.values() for line in lines)
        once_lost = {line for line, n in self.reported.items() if n}
        for line in self.accepted - self.refused:
            if line not in arrived and line not in once_lost:
                assert line in self.maybe_lost or self.lost_unnamed, f"{line!r} is lost in silence"
        if not self.degraded and not self.core._unrecorded:
            assert max(arrived.values(), default=1) == 1, "stored twice"
        assert not self.disk.batches
        dead = {line for letter in self.disk.dead.values() for line in letter.loss.lines.splitlines(keepends=True)}
        assert not dead & set(arrived) or self.degraded


TestBacklog = pytest.mark.thorough(pytest.mark.uncovered(Machine.TestCase))  # else it takes three times as long
TestBacklog.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
