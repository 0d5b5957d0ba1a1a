"""One run: programs that track, a network, a collector, a clock, and the faults of a plan, all from one seed.

There is one heap of (virtual time, order, what).  Each turn takes the first off, does it, and checks what must be true.
The driver here is that of ``atom_sync`` without its threads: it pulls when it was woken, when it was told a deadline
that is over, and after each outcome, and at no other time.  So an event that waits because nobody was woken waits here
too, and that is found.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from atom_sansio import (
    AuthKey,
    BacklogFull,
    ConnectionFailed,
    EventError,
    EventTooLarge,
    Intake,
    Keyring,
    Level,
    LocalError,
    OnFull,
    Options,
    Receipt,
    Refused,
    RemoteError,
    Reply,
    ReplyError,
    ReportLoss,
    ReportParked,
    Request,
    RequestTimeout,
    SendRequest,
    TrackerClosed,
    TrackerCore,
    TrackerState,
    encode_event,
)
from atom_sansio import _keeper as keeper_module

from .disk import Disk, ModelledDisk, RealDisk
from .interrupt import interrupted
from .keeping import Keeping
from .kept import Kept
from .oracle import Kind, Oracle, Sent, Violation, must
from .plan import Plan, draw
from .server import NO_LIMIT, Server, garbage, half, over_the_wire, overloaded
from .shapes import FIRST, Shape, shapes

UNIX_OFFSET = 1_000_000_000.0
EVENTS = 100_000
"""Of one run at most."""

SHOWN = 40
"""Lines of the trace that a failure shows."""


RECORD_PAUSE = 1.0
"""Seconds after a failure until records are written again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to."""

    seed: int
    events: int
    """Tracked."""
    requests: int
    steps: int
    seconds: float
    """Virtual."""
    delivered: int
    lost: dict[str, int]
    crashed: int
    """Events that were in memory when their program crashed."""
    duplicates: int
    trace: str
    """Hash of everything that was said between the core and the world."""


class Failure(Exception):
    """An invariant does not hold; says where, and how to come there again."""


class Program(Intake[Receipt]):
    """A tracker as a driver makes it of the core."""

    def __init__(self, core: TrackerCore, world: World) -> None:
        self.core = core
        self._lanes, self._late = core.lanes, core.late
        self._world = world
        self.woken = False
        self.refused: bytes = b""
        """The line of the event for which there was no room."""

    track = Intake._take

    def _decide(self, stream: str, line: bytes, auth_key: str | AuthKey | None, receipt: bool) -> None:
        key = None if auth_key is None else AuthKey.of(auth_key)
        world = self._world
        try:
            if line and world.recorded:
                assert world.keeping is not None
                world.keeping.put(stream, line, key, world.number_now)
                return
            with world.lock():
                if self.core.track_line(stream, line, key, now=world.now):
                    self.woken = True
        except BacklogFull:
            self.woken = True
            self.refused = line
            raise


class World:
    """Everything that one seed makes happen."""

    def __init__(self, seed: int, *, events: int = EVENTS) -> None:
        self.seed = seed
        # A stream of draws for each part, so that a change in one does not shift the others.
        self.load, self.net, self.fate, self.timing = (
            Random(f"{seed}/{part}") for part in ("load", "network", "fate", "timing")
        )
        plan_rng = Random(f"{seed}/plan")
        self.plan: Plan = draw(plan_rng, events=events, shapes=len(shapes(1024)))
        options = self.plan.options
        self.shapes = shapes(options["max_batch_bytes"])
        self.picks: list[int] = plan_rng.choices(range(len(self.shapes)), self.plan.shapes, k=997)
        self.now = plan_rng.choice((0.0, 1e-3, 12345.678))
        self.keys: dict[str, AuthKey] = {}
        self.names: dict[str, str] = {}
        for name in ("explicit one", "explicit two"):
            self._key(name)
        self.default_key = "default key" if self.plan.signed else None
        self.stream_keys = {s: f"key of {s}" for s in self.plan.streams[::2]} if self.plan.signed else {}
        self.every_key: dict[str, list[str]] = {stream: [] for stream in self.plan.streams}
        self.accepted_keys: dict[str, list[str]] = {}
        self.server = Server()
        self.heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.order = count()
        self.steps = 0
        self.hash = hashlib.sha256()
        self.trace: list[str] = []
        """What is not in the hash yet."""
        self.recent: list[str] = []
        """What came last before that."""
        self.faults = True
        self.generation = 0
        self.next_number = FIRST
        self.bytes_tracked = 0
        self.epoch = 0
        self.crashed = 0
        self.serial_of_key = 0
        self.classes: dict[tuple[str, str | None, Kind], int] = {}
        self.blocked: tuple[str, str | None, int, str] | None = None
        self.orphans: dict[tuple[int, str], int] = {}
        self.left_in_lanes: set[str] = set()
        self.constants = keeper_module.GENERATION_SIZE, keeper_module._SLACK  # which each start changes
        self.stopped = False
        self.ends = 0.0
        self.starts = {
            stream: f'{{"table":{json.dumps(stream, ensure_ascii=False)},'.encode() for stream in self.plan.streams
        }
        # What a disk takes nothing of stays in memory, if the collector has the tracker split it.
        memory = self.plan.memory if not any("disk" in name for name in self.plan.events) else 1 << 60
        self.oracle = Oracle(self._options(), self.shapes, names=self.names, memory=memory)
        self.disk: Disk | None = None
        self.keeping: Keeping | None = None
        level = self.plan.level
        if level is not None:
            rng = Random(f"{seed}/disk")
            self.disk = RealDisk(level, rng) if self.plan.real else ModelledDisk(sync=level is Level.DISK, rng=rng)
            self.oracle.kept = Kept(self.oracle, self.disk.letters, level)
        self.nowait = False  # for their records, the calls that track now
        self.locked = False  # the core, by the call that is under way
        self.number_now = -1  # of the event that is being tracked
        self.recorded = level not in (None, Level.MEMORY)
        for stream in self.plan.streams:
            self._accept_keys(stream)
        self._start()

    # -- the program --------------------------------------------------------------------------------------

    def _options(self) -> Options:
        keys = {stream: self._key(name) for stream, name in self.stream_keys.items()}
        default = self._key(self.default_key) if self.default_key else None
        return Options.read({**self.plan.options, "auth_key": default, "auth_keys": keys}, {}, lambda name: None)

    def _key(self, name: str) -> AuthKey:
        key = self.keys.get(name)
        if key is None:
            key = self.keys[name] = AuthKey(name)
            self.names[key.fingerprint] = name
        return key

    def _start(self, *, power: bool = False) -> None:
        """A program starts, with nothing in memory but what the backlog has; *power* if it was lost before."""
        self.generation += 1
        self.touched = True
        plan, disk, kept = self.plan, self.disk, self.oracle.kept
        core = TrackerCore(
            self._options(),
            source=f"source{self.generation}",
            unix_offset=UNIX_OFFSET,
            level=plan.level,
            window=plan.window,
            memory=plan.memory,
        )
        before = len(self.oracle.pending)
        pending: list[int] = []
        damaged = 0
        if disk is not None:
            assert kept is not None
            reports = self.core._losses.reports if self.generation > 1 else ()
            keeper_module.GENERATION_SIZE, keeper_module._SLACK = plan.generation_size, plan.slack  # type: ignore[misc]
            found = disk.open()
            damaged = found.damaged
            pending = kept.begin(found, disk.lines, reports, power=power)
            self.note("restored", len(found.batches), len(found.records), len(pending), damaged)
        self.crashed += max(0, before - len(pending))
        self.core = core
        self.program = Program(self.core, self)
        self.keeping = None
        self.ending = False
        self.blocked = None
        self.stopped = False
        self.next_pull: float | None = None
        self.flush_interrupted = False
        self.oracle.begin(pending, damaged)
        if disk is not None:
            assert kept is not None
            assert plan.level is not None
            core.restore(found, now=self.now)
            self.keeping = Keeping(self, disk, kept, plan.level)
            self.program.woken = True
            self.keeping.look()

    def _restart(self, generation: int) -> None:
        if generation == self.generation:
            self.note("start")
            self._start()

    def plain_key(self, stream: str) -> str | None:
        """What the program signs *stream* with."""
        return self.stream_keys.get(stream, self.default_key)

    # -- running ------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Faults first, then none; whatever is pending must arrive, and so must what comes then.

        Raises:
            Failure: an invariant does not hold.
        """
        try:
            self._fault_phase()
            self._liveness_phase()
        except (
            Violation,
            AssertionError,
            LocalError,
            Refused,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise Failure(self._explain(error)) from error
        finally:
            keeper_module.GENERATION_SIZE, keeper_module._SLACK = self.constants  # type: ignore[misc]
            if self.disk is not None:
                self.disk.remove()
        oracle = self.oracle
        return Outcome(
            seed=self.seed,
            events=self.next_number - FIRST,
            requests=len(oracle.over),
            steps=self.steps,
            seconds=self.now,
            delivered=oracle.delivered_ever,
            lost=dict(sorted(oracle.lost_ever.items())),
            crashed=self.crashed,
            duplicates=oracle.duplicates,
            trace=self._hash(),
        )

    def _explain(self, error: BaseException) -> str:
        recent = [*self.recent, *self.trace][-SHOWN:]
        phase = "with faults" if self.faults else "after all faults"
        return "\n".join(
            (
                f"seed {self.seed}, step {self.steps}, at {self.now!r} s, {phase}: {type(error).__name__}: {error}",
                f"trace {self._hash()}",
                f"plan {self.plan}",
                "last steps:",
                *(f"  {line}" for line in recent),
            )
        )

    def at(self, when: float, what: Callable[..., None], *args: Any) -> None:
        """Have *what* happen then."""
        heappush(self.heap, (when, next(self.order), what, args))

    def note(self, *words: object) -> None:
        """Part of the trace."""
        self.trace.append(f"{self.now!r} {' '.join(map(str, words))}")
        if len(self.trace) >= 1000:
            self._hash()

    def _hash(self) -> str:
        """The hash of the trace so far."""
        self.hash.update("\n".join([*self.trace, ""]).encode())
        self.trace[:-SHOWN] = []
        self.recent, self.trace = self.trace, []
        return self.hash.hexdigest()

    def _step(self) -> None:
        when, _, what, args = heappop(self.heap)
        self.now = max(self.now, when)
        self.steps += 1
        self.touched = False
        what(*args)
        if self.program.woken:
            self.program.woken = False
            self._wake()
        if self.touched:
            self.oracle.check(self.core)
        if self.steps % 8 == 0 and (self.next_pull is None or self.next_pull > self.now + 1e-3):
            self.oracle.check_not_overdue(self.core, self.now)

    def _fault_phase(self) -> None:
        plan = self.plan
        self.ends = self.now + plan.seconds
        self.at(self.now, self._burst)
        for name, times in plan.events.items():
            self._plan_event(name, plan.seconds / times)
        while self.heap and self.heap[0][0] < self.ends:
            self._step()
        self.now = max(self.now, self.ends) if self.ends > self.now else self.now

    def _plan_event(self, name: str, gap: float) -> None:
        self.at(self.now + self.fate.expovariate(1 / gap), self._event, name, gap)

    def _event(self, name: str, gap: float) -> None:
        if self.faults:
            self.note("event", name)
            _EVENTS[name](self)
            self._plan_event(name, gap)

    def _liveness_phase(self) -> None:
        self.faults = False
        self.note("no more faults")
        server, plan = self.server, self.plan
        server.up, server.full, server.max_body = True, False, NO_LIMIT
        self._mend_disk()
        for stream in plan.streams:
            self._accept_keys(stream)
        for stream in plan.streams:
            self._set_key(stream, self.plain_key(stream) or f"late key of {stream}")
        self._wake()
        self._drain()
        if self.core.state is not TrackerState.OPEN:
            if self.disk is not None:
                self._abandon()
                while self.core.state is not TrackerState.OPEN:
                    self._step()
                self._drain()
            else:
                must(self.core.closed, "I10: a tracker that was closed and has delivered all is not closed")
                self._start()
        until = self.now + RECORD_PAUSE  # a disk that has failed is tried again by then
        self.at(until, lambda: None)
        while self.now < until:
            self._step()
        self._isolation()
        for stream in plan.streams[:6] + plan.streams[-2:]:
            number = self.next_number
            self._track(stream, None, self.shapes[1], 1, Kind.PLAIN)
            limbo = () if self.oracle.kept is None else self.oracle.kept.limbo
            taken = number in self.oracle.pending or number in limbo
            must(taken, "I10: an event that came when all was well was not taken")
            self._drain()
        self._close()
        self._drain()
        self.oracle.check(self.core)
        must(self.core.closed, "I10: closed and drained, and yet not closed")
        must(not self.oracle.announced, "I1: a loss was never reported")
        if self.disk is not None:
            self._abandon()
            generation = self.generation
            while self.generation == generation:
                self._step()
            must(not self.oracle.pending, "I9: all was delivered, and the backlog is not empty")

    def _isolation(self) -> None:
        """One stream's trouble delays no other by more than a request that is under way."""
        options, timing = self.plan.options, self.timing
        if len(self.plan.streams) < 2 or options["max_pending_bytes"] < 16384 or options["max_pending_events"]:
            return
        victim, other = timing.sample(self.plan.streams, 2)
        self._track(other, None, self.shapes[1], 1, Kind.PLAIN)  # an answer: or a second failure may open the breaker
        self._drain()
        what = timing.choice(("poison", "key", "error") if self.plan.signed else ("poison", "error"))
        self.note("trouble", victim, what)
        if what == "error":
            self.server.broken = victim
        elif what == "key":
            self._accept_keys(victim, "nobody's key", without=True)
        self._track(victim, None, self.shapes[-2 if what == "poison" else 1], timing.randint(1, 20), Kind.PLAIN)
        number = self.next_number
        self._track(other, None, self.shapes[1], 1, Kind.PLAIN)
        until = self.now + options["flush_interval"] + 1.0
        limbo: Any = () if self.oracle.kept is None else self.oracle.kept.limbo
        self._wake()
        while number in self.oracle.pending or number in limbo:
            must(self.heap and self.heap[0][0] <= until, "I11: one stream's trouble delays another")
            self._step()
        must(number in self.oracle.stored, "I11: one stream's trouble loses events of another")
        self.server.broken = None
        self._set_key(victim, self.plain_key(victim) or f"late key of {victim}")
        self._drain()

    def _drain(self) -> None:
        """All that is pending gets its outcome, in bounded time."""
        oracle = self.oracle
        policy = self.plan.options["retry"]
        limbo = 0 if oracle.kept is None else len(oracle.kept.limbo)
        sends = 2 * (len(oracle.pending) + limbo) + 50
        until = (
            self.now
            + self.plan.options["request_timeout"]
            + self.plan.options["flush_interval"]
            + sends * 0.1
            + (10.0 if self.disk is not None else 0.0)
        )
        requests = oracle.requests
        if self.program.woken:
            self.program.woken = False
            self._wake()
        while (
            oracle.pending
            or self.blocked is not None
            or (self.stopped and not self.core.closed)
            or (self.keeping is not None and self.keeping.busy)
        ):
            must(self.heap, "I10: events are pending and nothing will ever happen")
            pauses = 2 * max(oracle.longest_pause, policy.cap)  # an answer of before may bring another one
            must(self.heap[0][0] <= until + pauses, "I10: not drained in time")
            must(oracle.requests - requests <= 2 * sends, "I10: too many requests to drain")
            self._step()

    # -- tracking -----------------------------------------------------------------------------------------

    def _burst(self) -> None:
        plan, load = self.plan, self.load
        if not self.faults:
            return
        tracked = self.next_number - FIRST
        if tracked >= plan.max_events or self.oracle.requests > plan.max_requests or self.bytes_tracked > 1 << 24:
            self.ends = min(self.ends, self.now + load.choice((0.0, 1.0, 30.0)))
            return
        self.at(self.now + load.expovariate(1 / plan.gap), self._burst)
        if (
            self.blocked is not None
            or len(self.oracle.pending) > min(200, 20 + 2000 // plan.per_request) * plan.per_request
        ):
            return  # whoever tracks waits; or what is pending takes long enough to deliver
        stream = load.choice(plan.streams)
        key = load.choice(("explicit one", "explicit two")) if load.random() < plan.explicit else None
        times = load.randint(1, plan.burst)
        kind = Kind.PLAIN if key is None else Kind.KEYED
        for _ in range(8 if self.interrupts() else 0):
            if self.blocked is not None:
                break
            shape = self.shapes[self.picks[load.randrange(997)]]
            self._interrupted(partial(self._track, stream, key, shape, 1, kind), stream, others=True)
        if self.blocked is None:
            self.nowait = self.recorded and not plan.quick and load.random() < plan.nowait
            self._track(stream, key, None, times, kind)
            self.nowait = False

    def _class(self, stream: str, key: str | None, kind: Kind) -> int:
        class_ = self.classes.get((stream, key, kind))
        if class_ is None:
            class_ = self.classes[stream, key, kind] = len(self.oracle.classes)
            self.oracle.classes.append((stream, kind))
            if key is not None:
                self.every_key[stream].append(key)
        return class_

    def _track(self, stream: str, key: str | None, shape: Shape | None, times: int, kind: Kind) -> None:
        """Track *times* events, of *shape* or of all shapes of the plan, as long as there is room."""
        self.touched = True
        if self.recorded:
            self._track_recorded(stream, key, shape, times, kind)
            return
        oracle, shapes, picks = self.oracle, self.shapes, self.picks
        expected, shape_of = oracle.expected, oracle.shape_of
        class_ = self._class(stream, key, kind)
        track = self.program.track if key is None else lambda stream, event: self.program.track(stream, event, key)
        number = first = self.next_number
        last = first + times
        self.next_number = last
        fixed = shape
        one_at_a_time = times == 1  # may be interrupted, and sent and settled by what interrupts it
        if one_at_a_time:
            oracle.class_of.append(class_)
            oracle.pending.add(number)
            oracle.accepted += 1
        error: LocalError | None = None
        size = 0
        while number < last:
            if fixed is None:
                pick = picks[number % 997]
                shape = shapes[pick]
                if shape.poison and len(oracle.poison) > self.plan.max_poison:  # each is split off, which takes long
                    pick, shape = 0, shapes[0]
            else:
                pick = self.oracle.shapes.index(fixed)
                shape = fixed
            text = f"{shape.before}{number}{shape.after}"
            if shape.poison:
                oracle.poison.add(number)
            shape_of.append(pick)
            expected[text] = number
            proto = shape.proto
            if proto is None:
                event: Any = text if shape.slot is None else number
            else:
                proto[shape.slot] = number
                event = proto
            try:
                track(stream, event)
            except (BacklogFull, TrackerClosed, EventTooLarge) as refused:
                del expected[text]
                error = refused
                break
            must(not shape.too_large, "I6: an event was taken that is larger than max_batch_bytes")
            number += 1
            size += shape.size
        self.bytes_tracked += size
        if one_at_a_time:
            if error is not None:
                oracle.pending.discard(first)
                oracle.accepted -= 1
        else:
            oracle.class_of.extend([class_] * (number - first + (error is not None)))
            oracle.pending.update(range(first, number))
            oracle.accepted += number - first
            self.next_number = number + (error is not None)
        self.note("track", class_, first, number)
        if error is not None:
            assert shape is not None
            self._not_taken(error, shape, stream, key, number, text)

    def _track_recorded(self, stream: str, key: str | None, fixed: Shape | None, times: int, kind: Kind) -> None:
        """The same where each event has a record: several callers at once, one of whom writes."""
        oracle, picks, keeping = self.oracle, self.picks, self.keeping
        assert keeping is not None
        class_ = self._class(stream, key, kind)
        auth_key = None if key is None else self._key(key)
        first = self.next_number
        group = self.plan.callers
        for left in range(times, 0, -1):
            number = self.next_number
            self.next_number += 1
            pick = picks[number % 997] if fixed is None else self.oracle.shapes.index(fixed)
            shape = self.shapes[pick]
            if fixed is None and shape.poison and len(oracle.poison) > self.plan.max_poison:
                pick, shape = 0, self.shapes[0]
            text = f"{shape.before}{number}{shape.after}"
            if shape.poison:
                oracle.poison.add(number)
            oracle.class_of.append(class_)
            oracle.shape_of.append(pick)
            oracle.expected[text] = number
            line = encode_event(shape.event(number, text))
            try:
                keeping.put(stream, line, auth_key, number)
            except (BacklogFull, TrackerClosed, EventTooLarge) as refused:
                del oracle.expected[text]
                self.program.refused = line
                self.program.woken = True
                self.note("track", class_, first, number)
                self._not_taken(refused, shape, stream, key, number, text)
                break
            self.bytes_tracked += shape.size
            if left % group == 1 or group == 1:
                keeping.write()
            if len(keeping.waiting) >= group:
                keeping.write()
                if len(keeping.waiting) >= group:
                    break  # all callers wait
        else:
            self.note("track", class_, first, self.next_number)
        keeping.write()

    def _not_taken(self, error: LocalError, shape: Shape, stream: str, key: str | None, number: int, text: str) -> None:
        self.note("not taken", type(error).__name__)
        on_full = self.plan.options["on_full"]
        if isinstance(error, BacklogFull):
            must(on_full in (OnFull.BLOCK, OnFull.RAISE), "I6: refused though on_full says to drop")
            self._must_be_full(shape)
            if on_full is OnFull.BLOCK:
                self.blocked = (stream, key, number, text)
        elif isinstance(error, EventTooLarge):
            must(shape.too_large, "I6: an event was refused for its size, but is not large")
        else:
            must(self.core.state is not TrackerState.OPEN, "I10: refused as closed, but open")

    def _must_be_full(self, shape: Shape) -> None:
        statistics, options = self.core.statistics(), self.plan.options
        if self._pauses:
            return
        limit = options["max_pending_events"]
        limbo = () if self.oracle.kept is None else self.oracle.kept.limbo
        too_many = limit is not None and statistics.pending + len(limbo) >= limit
        size = statistics.pending_bytes + self.oracle.size_of(limbo) + shape.size
        full = too_many or size > options["max_pending_bytes"]
        if self.oracle.kept is not None:
            full = full or self.core._admission.resident + shape.size > self.plan.memory
        must(full, "I6: refused for want of room, but there is room")

    @property
    def _pauses(self) -> bool:
        """Whether the disk has failed so lately that no event is written, and each is refused at once."""
        failed_at = None if self.keeping is None else self.keeping.failed_at
        refusing = self.plan.options["on_full"] is OnFull.RAISE
        return refusing and failed_at is not None and self.now < failed_at + RECORD_PAUSE

    def retry_blocked(self) -> None:
        """There may be room now: what the driver's ``track`` does that waits."""
        if self.blocked is None:
            return
        self.touched = True
        stream, key, number, text = self.blocked
        line, auth_key = self.program.refused, self._key(key) if key else None
        expected = self.oracle.expected
        expected[text] = number
        try:
            if self.recorded:
                assert self.keeping is not None
                self.keeping.put(stream, line, auth_key, number)
            else:
                with self.lock():
                    self.program.woken |= self.core.track_line(stream, line, auth_key, now=self.now)
        except BacklogFull:
            self._must_be_full(self.shapes[self.oracle.shape_of[number - FIRST]])
            del expected[text]
            if self.load.random() < 0.05:  # its time is over
                self.blocked = None
        except TrackerClosed:
            del expected[text]
            self.blocked = None
        else:
            self.note("room", number)
            self.blocked = None
            if self.recorded:
                assert self.keeping is not None
                self.keeping.write()
                return
            self.oracle.pending.add(number)
            self.oracle.accepted += 1

    # -- interruptions ------------------------------------------------------------------------------------

    def interrupts(self) -> bool:
        """Whether what is done now is interrupted."""
        if not self.plan.interrupts or not self.faults:
            return False
        # Each tracks, and what is tracked is sent, which may be interrupted, too.
        few = (
            self.next_number - FIRST <= 2 * self.plan.max_events and self.oracle.requests <= 2 * self.plan.max_requests
        )
        return few and self.timing.random() < self.plan.interrupts

    def call(self, call: Callable[[], Any]) -> Any:
        """Call the core, perhaps with an interruption."""
        self.touched = True
        before, self.locked = self.locked, True
        try:
            if not self.interrupts():
                return call()
            return self._interrupted(call, self.timing.choice(self.plan.streams))
        finally:
            self.locked = before

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the driver's lock: what interrupts now may track, and no more."""
        before, self.locked = self.locked, True
        try:
            yield
        finally:
            self.locked = before

    def interrupt_writer(self) -> None:
        """A signal handler or finaliser tracks in the thread that is writing records."""
        with self.lock():
            self.epoch += 1
            self._handler(self.timing.choice(self.plan.streams), False)

    def _interrupted(self, call: Callable[[], Any], stream: str, *, others: bool = False) -> Any:
        after = self.timing.randint(1, 120) if others else int(10 ** self.timing.uniform(0, 3))
        self.epoch += 1
        return interrupted(call, lambda: self._handler(stream, others), after)

    def _handler(self, stream: str, others: bool) -> None:
        """What interrupts: it tracks; where no lock is held, *others* may do what they do as well."""
        rng, core = self.timing, self.core
        self.note("interrupt", core.busy)
        if core.busy:
            try:
                core.flush(now=self.now)
            except LocalError:
                pass
            else:
                raise Violation("a call of the core was interrupted by another")
        for _ in range(rng.randint(1, 3)):
            what = rng.random()
            if self.locked or not others or what < 0.6:
                self._track_interrupting(stream)
            elif what < 0.9:
                self._pull_some(1)
            else:
                with self.lock():
                    core.flush(now=self.now)
                self.program.woken = True
                self._pull_some(1)
        statistics = core.statistics()
        lost = sum(statistics.lost.values())
        must(statistics.accepted == statistics.delivered + lost + statistics.pending, "I1: not even in between")

    def _track_interrupting(self, stream: str) -> None:
        oracle = self.oracle
        pick = self.picks[self.timing.randrange(997)]
        shape = self.shapes[pick]
        number = self.next_number
        self.next_number += 1
        oracle.class_of.append(self._class(stream, None, Kind.INTERRUPTING))
        # The event that is interrupted may not be in the books yet, and its number is smaller.
        oracle.shape_of.extend([pick] * (number - FIRST + 1 - len(oracle.shape_of)))
        oracle.epoch_of[number] = self.epoch
        text = shape.text(number)
        oracle.expected[text] = number
        if shape.poison:
            oracle.poison.add(number)
        if not self.recorded:
            oracle.pending.add(number)
            oracle.accepted += 1
        number_before, self.number_now = self.number_now, number
        set_aside = self.core.busy
        refused = self.program.refused
        try:
            self.program.track(stream, shape.event_apart(number, text))
        except (BacklogFull, TrackerClosed, EventTooLarge) as error:
            must(not set_aside, "I1: an event was refused that interrupts, where it must be taken")
            must(shape.too_large or not isinstance(error, EventTooLarge), "I6: not too large")
            del oracle.expected[text]
            if not self.recorded:
                oracle.pending.discard(number)
                oracle.accepted -= 1
            self.note("interrupting event not taken")
        self.program.refused = refused
        self.number_now = number_before
        if self.recorded and not self.locked:
            assert self.keeping is not None
            self.program.woken = True
            self.keeping.write()

    # -- sending ------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._pull_by(self.now + self.timing.random() * 1e-3)

    def _pull_by(self, when: float) -> None:
        if self.next_pull is None or when < self.next_pull:
            self.next_pull = when
            self.at(when, self._pull, when, self.generation)

    def _pull(self, when: float, generation: int) -> None:
        if when == self.next_pull and generation == self.generation:
            self.next_pull = None
            self._pull_some(1 if self.timing.random() < self.plan.pull_one else None)

    def _pull_some(self, most: int | None) -> None:
        """Be a sender: take what is to be done, and do it.  Another one goes on if there is more."""
        pulled = 0
        while True:
            command = self.call(lambda: self.core.next_command(now=self.now))
            if isinstance(command, SendRequest):
                self._send(command)
            elif isinstance(command, ReportLoss):
                loss = command.loss
                self.note("lost", loss.count, loss.reason.value, loss.attempts, loss.lines[:40])
                must(loss.time <= self.now + UNIX_OFFSET, "I12: a loss of a time to come")
                self.oracle.lost(loss, stopped=self.core.state is not TrackerState.OPEN, in_lanes=self._in_lanes)
            elif isinstance(command, ReportParked):
                self.note("parked", command.stream, command.status)
                if not self.faults:  # by an answer that was on its way; somebody gives the key once more
                    name = self.plain_key(command.stream) or f"late key of {command.stream}"
                    self.at(self.now + 1.0, self._set_key, command.stream, name)
            before, self.locked = self.locked, True
            deadline = self.core.next_deadline()
            self.locked = before
            if self.keeping is not None:
                self.keeping.look()
            if command is None:
                if deadline is not None:
                    self._pull_by(deadline)
                if not self.program.woken:
                    self.oracle.check_idle(self.core, self.now, deadline)
                return
            pulled += 1
            must(pulled <= 3 * len(self.oracle.shape_of) + 100, "I7: the core spins")
            if pulled == most:
                if deadline is not None or not isinstance(command, SendRequest):
                    # Whoever has only told something comes back at once.
                    when = self.now if deadline is None else max(self.now, deadline)
                    self._pull_by(when + self.timing.random() * 1e-3)
                return

    def _in_lanes(self) -> set[str]:
        """Ids of all batches that wait for something, or did when the core was abandoned."""
        if self.core.state is TrackerState.CLOSED:
            return self.left_in_lanes
        return {batch.batch_id for lane in self.core._schedule for batch in lane.batches}

    def _send(self, command: SendRequest) -> None:
        request = command.request
        stream_keys = ()
        plain = None
        sent = self.oracle.batches.get(command.batch_id)
        stream = None if sent is None else sent.submission.stream
        if stream is None:
            stream = self._stream_of(request)
        plain = self.plain_key(stream)
        stream_keys = (*((plain,) if plain else ()), *self.every_key[stream])
        sent = self.oracle.send(command, self.now, stream_keys, plain)
        if self.oracle.kept is not None:
            self.oracle.kept.sent(command.batch_id, sent.numbers)
        attempt = sent.sends
        self.note("send", command.batch_id, attempt, command.events, zlib.crc32(request.body))
        until = self.now + command.timeout
        self.at(until, self._outcome, self.generation, sent, attempt, RequestTimeout("no reply in time"), 0.0)
        self._travel(sent, request, attempt)

    def _stream_of(self, request: Request) -> str:
        for stream, start in self.starts.items():
            if request.body.startswith(start):
                return stream
        raise Violation("I5: a request for a stream that there is not")

    def _travel(self, sent: Sent, request: Request, attempt: int) -> None:
        net = self.net
        after = net.expovariate(50.0) if self.faults else net.random() * 0.02
        what = "through"
        if self.faults:
            draw = net.random()
            for name, share in self.plan.network.items():
                draw -= share
                if draw < 0:
                    what = name
                    break
        if what != "through":
            self.note("fault", what)
        args = (self.generation, sent, attempt)
        when = self.now + after
        if what in ("refused", "reset before"):
            self.at(when, self._outcome, *args, ConnectionFailed("connection reset"), 0.0)
        elif what == "vanish":
            pass
        elif what == "stale before":
            self.at(when, self._outcome, *args, ConnectionFailed("closed while idle", stale=True), 0.0)
        elif what == "garbage before":
            outcome = over_the_wire(request, garbage(net))
            must(isinstance(outcome, RemoteError), "garbage was taken for a reply")
            self.at(when, self._outcome, *args, outcome, 0.0)
        elif what == "overloaded":
            reply, seconds = overloaded(net, when + UNIX_OFFSET)
            self.at(when, self._outcome, *args, reply, seconds)
        elif what in _STATUSES:
            status = net.choice(_STATUSES[what])
            reply = Reply(status=status, headers=(("location", "http://elsewhere.example/"),), body=b"so it is")
            self.at(when, self._outcome, *args, reply, 0.0)
        else:
            if what == "slow":
                when = self.now + net.expovariate(1 / self.plan.options["request_timeout"])
            elif what == "duplicate":
                self.at(when + net.expovariate(1.0), self._arrive, *args, request, sent.submission, "nobody waits")
            self.at(when, self._arrive, *args, request, sent.submission, what)

    def _arrive(self, generation: int, sent: Sent, attempt: int, request: Request, submission: Any, what: str) -> None:
        """A request comes to the collector."""
        net = self.net
        back = self.now + (net.expovariate(50.0) if self.faults else net.random() * 0.02)
        args = (generation, sent, attempt)
        if not self.server.up:
            if what != "nobody waits":
                self.at(back, self._outcome, *args, ConnectionFailed("connection refused"), 0.0)
            return
        reply, new = self.server.handle(request, submission, sent.numbers, self.oracle.poison)
        live = generation == self.generation and self.oracle.open.get(sent.batch_id) == attempt
        if new:
            self.oracle.store(sent, live=live and what != "nobody waits")
        self.note("arrived", sent.batch_id, attempt, reply.status, new)
        outcome: Reply | RemoteError = reply
        if what in ("reply vanishes", "nobody waits"):
            return
        if what == "reset after":
            outcome = ConnectionFailed("connection reset")
        elif what == "stale after":
            outcome = ConnectionFailed("closed while idle", stale=True)
        elif what == "half reply":
            outcome = over_the_wire(request, half(net, reply))
            must(isinstance(outcome, RemoteError), "half a reply was taken for a whole one")
        elif what == "garbage after":
            outcome = over_the_wire(request, garbage(net))
            must(isinstance(outcome, (ReplyError, ConnectionFailed)), "garbage was taken for a reply")
        seconds = 5.0 if isinstance(outcome, Reply) and reply.status == 503 else 0.0
        self.at(back, self._outcome, *args, outcome, seconds)

    def _outcome(
        self, generation: int, sent: Sent, attempt: int, outcome: Reply | RemoteError, at_least: float
    ) -> None:
        """The first that is known of a request."""
        if generation != self.generation:
            return
        core, batch_id = self.core, sent.batch_id
        unit = self.timing.random()
        if self.oracle.open.get(batch_id) != attempt:
            if self.orphans.pop((generation, batch_id), None) == attempt:
                self.note("too late", batch_id)
                self._tell(core, batch_id, outcome, unit)
            return
        status = outcome.status if isinstance(outcome, Reply) else type(outcome).__name__
        self.note("outcome", batch_id, attempt, status, unit)
        if isinstance(outcome, Reply) and outcome.status == 503 and outcome.body != b"busy":
            at_least = 5.0
        self.oracle.outcome(sent, outcome, at_least, self.now, unit)
        self.call(lambda: self._tell(core, batch_id, outcome, unit))
        if self.keeping is not None:
            self.keeping.look()
        self.retry_blocked()
        self._wake()

    def _tell(self, core: TrackerCore, batch_id: str, outcome: Reply | RemoteError, unit: float) -> None:
        if isinstance(outcome, Reply):
            core.response_received(batch_id, outcome, now=self.now, unit=unit)
        else:
            core.send_failed(batch_id, outcome, now=self.now, unit=unit)

    # -- what else may happen -----------------------------------------------------------------------------

    def _crash(self, *, power: bool = False) -> None:
        if self.disk is not None:
            assert self.keeping is not None
            under_way = self.keeping.writing, self.keeping.updating
            if power:
                self.disk.power_lost(*under_way)
            else:
                self.disk.killed(*under_way)
        self.generation += 1  # nothing reaches the program that was
        self._start(power=power)

    def _lose_power(self) -> None:
        self._crash(power=True)

    def _fill_disk(self) -> None:
        assert self.disk is not None
        self.disk.full = True
        self.at(self.now + self.fate.expovariate(1 / 5.0), self._mend_disk)

    def _stop_on_full_disk(self) -> None:
        self._fill_disk()
        for _ in range(3):
            stream = self.fate.choice(self.plan.streams)
            if self.blocked is None:  # or another call comes before the one that waits for room
                self._track(stream, None, self.shapes[1], 3, Kind.PLAIN)
        self.at(self.now + self.fate.choice((0.0, 0.1, 2.0)), self._stop_now, self.generation)

    def _stop_now(self, generation: int) -> None:
        if generation == self.generation and self.faults and self.core.state is TrackerState.OPEN:
            self._close()
            self._end(generation)

    def _break_disk(self) -> None:
        assert self.disk is not None
        self.disk.fails = self.fate.choice((0.1, 0.5, 1.0))
        self.at(self.now + self.fate.expovariate(1 / 5.0), self._mend_disk)
        # Events that nobody waits for are lost most easily.
        stream = self.fate.choice(self.plan.streams)
        for _ in range(4 if self.plan.interrupts else 0):
            if self.blocked is None:
                track = partial(self._track, stream, None, self.shapes[1], 1, Kind.PLAIN)
                self._interrupted(track, stream, others=True)
        if self.recorded and not self.plan.quick:
            for pause in (0.0, 1.5, 1.5, 3.0):
                self.at(self.now + pause, self._track_nowait, self.generation, stream)

    def _track_nowait(self, generation: int, stream: str) -> None:
        if generation == self.generation and self.faults and self.blocked is None:
            self.nowait = True
            self._track(stream, None, self.shapes[1], 5, Kind.PLAIN)
            self.nowait = False

    def _slow_disk(self) -> None:
        assert self.disk is not None
        self.disk.slow = True
        self.at(self.now + self.fate.expovariate(1 / 20.0), self._mend_disk)

    def _mend_disk(self) -> None:
        if self.disk is not None:
            self.note("disk mended")
            self.disk.full = self.disk.slow = False
            self.disk.fails = 0.0

    def _damage(self) -> None:
        assert self.disk is not None
        self.note("damaged", self.disk.damage())

    def _other_keys(self) -> None:
        """The program is killed, and the next one has other keys."""
        if self.plan.signed:
            for stream in self.plan.streams:
                if self.fate.random() < 0.5:
                    old, new = self.plain_key(stream), self._new_key()
                    if old is not None:
                        self.every_key[stream].append(old)
                    self.stream_keys[stream] = new
                    self.oracle.rekeyed.add(stream)
                    self._accept_keys(stream, *((old,) if old is not None and self.fate.random() < 0.5 else ()))
        self._crash()

    def _restart_server(self) -> None:
        self.server.up = False
        self.at(self.now + self.fate.expovariate(1 / 5.0), self._server_up)

    def _server_up(self) -> None:
        self.note("server up")
        self.server.up = True

    def _fill_store(self) -> None:
        self.server.full = True
        self.at(self.now + self.fate.expovariate(1 / 5.0), self._empty_store)

    def _empty_store(self) -> None:
        self.note("store has room")
        self.server.full = False

    def _limit(self) -> None:
        # Not so low that a full batch is split again and again.
        least = self.plan.options["max_batch_bytes"] // 32
        self.server.max_body = max(least, self.fate.choice((NO_LIMIT, 400, 1024, 4096, 32768)))

    def _accept_keys(self, stream: str, *more: str, without: bool = False) -> None:
        """Let the collector accept the program's key and *more*, or only *more*."""
        if not self.plan.signed:
            return  # it takes anything
        plain = self.plain_key(stream)
        old = () if without or plain is None else (plain,)
        self.accepted_keys[stream] = [*old, *more] if without else [*old, *more, "explicit one", "explicit two"]
        keys = [self._key(name) for name in self.accepted_keys[stream]]
        self.server.keyrings[stream] = Keyring({stream: keys})

    def _new_key(self) -> str:
        self.serial_of_key += 1
        return f"new key {self.serial_of_key}"

    def _rotate(self) -> None:
        """The collector takes the old key and the new one for a while; the program changes meanwhile, or too late."""
        stream, new = self.fate.choice(self.plan.streams), self._new_key()
        self._accept_keys(stream, new)
        self.at(self.now + self.fate.expovariate(1 / 5.0), self._set_key_later, stream, new)
        self.at(self.now + self.fate.expovariate(1 / 10.0), self._take_only, stream, new)

    def rotate_meanwhile(self, stream: str, when: float) -> None:
        """Perhaps have a key changed while a batch of *stream* waits to be kept, which else hardly ever meets."""
        if self.faults and "set key" in self.plan.events and self.timing.random() < 0.03:
            new = self._new_key()
            self._accept_keys(stream, new)
            self.at(when, self._set_key_later, stream, new)

    def _revoke(self) -> None:
        stream, new = self.fate.choice(self.plan.streams), self._new_key()
        self._take_only(stream, new)
        self.at(self.now + self.fate.expovariate(1 / 5.0), self._set_key_later, stream, new)

    def _take_only(self, stream: str, key: str) -> None:
        if self.faults:
            self.note("only", key)
            self._accept_keys(stream, key, without=True)

    def _set_key_later(self, stream: str, key: str) -> None:
        if self.faults:
            self._set_key(stream, key)

    def _set_any_key(self) -> None:
        stream = self.fate.choice(self.plan.streams)
        self._set_key(stream, self.plain_key(stream) or self._new_key() if self.fate.random() < 0.5 else "wrong key")

    def _set_key(self, stream: str, name: str) -> None:
        self.note("set key", stream, name)
        old = self.plain_key(stream)
        self.stream_keys[stream] = name
        self.every_key[stream].append(name)
        self.oracle.rekeyed.add(stream)
        self.oracle.given.setdefault(stream, []).append(name)
        if self.keeping is not None and self.keeping.writing is not None:
            self.oracle.key_to_come.add(stream)
            if old is not None:
                self.every_key[stream].append(old)
        if not self.faults:
            self._accept_keys(stream)
        self.call(lambda: self.core.set_auth_key(stream, self._key(name), now=self.now))
        self.program.woken = True

    def _flush(self) -> None:
        self._when_written(self.generation, lambda: self._follow(self.core.flush), self.now + 1.0)

    def _when_written(self, generation: int, what: Callable[[], None], until: float) -> None:
        """Do what the driver does before a flush or a stop: wait for the records of calls that did not."""
        if generation != self.generation or self.ending:
            return
        record = self.core.last_record
        if record is not None and record.pending and not record.trouble and self.now < until:
            self.at(self.now + 1e-3, self._when_written, generation, what, until)
        else:
            what()

    def _close(self) -> None:
        self.stopped = True
        self._follow(self.core.close)

    def _follow(self, ask: Callable[..., Any]) -> None:
        epoch = self.epoch
        all_reported = sum(self.core.statistics().lost.values()) == self.oracle.reported.total()
        flush = self.call(lambda: ask(now=self.now))
        if flush is not None:
            self.oracle.follow(flush, exact=all_reported and epoch == self.epoch)
        self.program.woken = True

    def _stop(self) -> None:
        """Close, and wait for some time, then abandon what is left and start anew."""
        if self.core.state is TrackerState.OPEN:
            patience = self.fate.choice((0.0, 0.1, 5.0, 100.0))
            self.at(self.now + patience, self._end, self.generation)
            self._when_written(self.generation, self._close, self.now + patience)

    def _end(self, generation: int) -> None:
        if generation == self.generation and self.faults and not self.ending:
            self._abandon()

    def _abandon(self) -> None:
        if self.ending:
            return
        self.note("abandon")
        oracle = self.oracle
        self.stopped = True
        self.orphans.update({(self.generation, batch_id): attempt for batch_id, attempt in oracle.open.items()})
        self.call(self._abandon_core)
        oracle.abandoned = True
        oracle.open.clear()
        oracle.in_flight.clear()
        if self.keeping is not None:
            self.ending = True
            self.blocked = None
            self._pull_some(None)
            self.keeping.finish()
            return
        must(all(followed.flush.done for followed in oracle.flushes), "I10: abandoned, but a flush goes on")
        self._pull_some(None)
        while self.program.woken:  # by what interrupted the last pull
            self.program.woken = False
            self._pull_some(None)
        must(self.core.closed and not oracle.pending, "I10: abandoned, but not closed")
        self.blocked = None
        self.at(self.now + self.fate.random(), self._restart, self.generation)

    def _abandon_core(self) -> None:
        self.left_in_lanes = self._in_lanes()
        self.core.abandon(now=self.now)

    def finish(self) -> None:
        """What stop() does when the backlog has all."""
        assert self.disk is not None
        assert self.oracle.kept is not None
        self._pull_some(None)
        while self.program.woken:
            self.program.woken = False
            self._pull_some(None)
        must(self.core.closed, "I10: abandoned and kept, but not closed")
        must(not self.oracle.kept.limbo, "I10: closed, and an event waits for its record")
        self.note("closed")
        self.oracle.kept.ended = True
        self.disk.close()
        self.at(self.now + self.fate.random(), self._restart, self.generation)

    def _bad_event(self) -> None:
        """Events and streams that there cannot be change nothing."""
        before, epoch = self.core.statistics(), self.epoch
        self.number_now = -1
        for stream, event in (
            ("e", float("nan")),
            ("e", {"deep": [float("inf")]}),
            ("e", {1, 2}),
            ("e", "\ud800"),
            ("", 1),
            ("x" * 513, 1),
        ):
            try:
                self.program.track(stream, event)
            except (EventError, ValueError, TrackerClosed):
                continue
            except BacklogFull:
                must(self._pauses, "I6: refused for want of room, but there is room")
                continue
            raise Violation(f"I5: taken, though it is no event of a stream: {event!r}")
        must(epoch != self.epoch or self.core.statistics() == before, "I1: a refused event changed something")


_STATUSES = {
    "error": (408, 425, 500, 502, 504, 599),
    "redirect": (301, 302, 307),
    "too large": (413,),
    "not found": (404, 405, 410, 422, 400),
    "forbidden": (403, 401),
}

_EVENTS: dict[str, Callable[[World], None]] = {
    "crash": World._crash,
    "server restart": World._restart_server,
    "store full": World._fill_store,
    "rotate": World._rotate,
    "revoke": World._revoke,
    "set key": World._set_any_key,
    "limit": World._limit,
    "flush": World._flush,
    "close": World._stop,
    "abandon": World._abandon,
    "bad event": World._bad_event,
    "power loss": World._lose_power,
    "full disk": World._fill_disk,
    "stop on full disk": World._stop_on_full_disk,
    "disk errors": World._break_disk,
    "slow disk": World._slow_disk,
    "damage": World._damage,
    "other keys": World._other_keys,
}
