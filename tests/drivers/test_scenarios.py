"""Every driver does the same at the same time: one list of scenarios, run by each on virtual time."""

from __future__ import annotations

import importlib.util
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, repeat
from math import inf
from pathlib import Path
from random import Random
from selectors import EVENT_READ, EVENT_WRITE
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio.abc
import trio.testing
from kept import Disk, without_threads
from scenarios import GARBAGE, OK, SCENARIOS, Action, Answer, Flush, Scenario, Seen, SetKey, Stop, Track, is_down, track
from virtual import VirtualClock, VirtualTimeLoop

import atom_anyio
import atom_anyio._tracker
import atom_sync
from atom_sansio import (
    FlushResult,
    LocalError,
    Loss,
    Options,
    Origin,
    Reply,
    Request,
    RequestTimeout,
    Statistics,
)

ENDPOINT = "http://collector.example/"
GRACE = 1000.0
"""Virtual seconds after which nothing of a stopped tracker may be left."""


@dataclass(frozen=True)
class Outcome:
    """What was seen."""

    requests: list[tuple[float, str, list[Any]]]
    returns: list[tuple[float, FlushResult | str]]
    losses: list[tuple[float, str, list[Any], str]]
    statistics: Statistics
    bodies: dict[str, set[bytes]]
    """Bodies by batch id."""
    turns: int
    """How many times the driver, or its loop, woke up."""


class Record:
    """The server of a scenario, and who writes down what happens."""

    def __init__(self, scenario: Scenario, now: Callable[[], float]) -> None:
        self._now = now
        self._requests: list[tuple[float, str, list[Any]]] = []
        self._returns: list[tuple[float, FlushResult | str]] = []
        self._losses: list[tuple[float, str, list[Any], str]] = []
        self._bodies: dict[str, set[bytes]] = {}
        server = scenario.server
        if callable(server):
            self._rule = server
        else:
            script = {stream: deque(answers) for stream, answers in server.items()}
            self._rule = lambda seen: script[seen.stream].popleft() if script.get(seen.stream) else OK

    def request(self, body: bytes, batch_id: str) -> Answer:
        seen = Seen.read(self.time(), body, batch_id)
        self._requests.append((seen.time, seen.stream, list(seen.events)))
        self._bodies.setdefault(batch_id, set()).add(body)
        return self._rule(seen)

    def loss(self, loss: Loss) -> None:
        self._losses.append((self.time(), loss.stream, list(loss.events), loss.reason.value))

    def returned(self, value: FlushResult | str) -> None:
        self._returns.append((self.time(), value))

    def end(self, statistics: Statistics, turns: int) -> Outcome:
        """What was seen so far.  What happens at one moment happens in no order."""
        return Outcome(
            requests=sorted(self._requests, key=lambda request: request[:2]),
            returns=sorted(self._returns, key=lambda each: (each[0], str(each[1]))),
            losses=list(self._losses),
            statistics=statistics,
            bodies=self._bodies,
            turns=turns,
        )

    def time(self) -> float:
        return round(self._now(), 6)


def disk_of(scenario: Scenario, now: Callable[[], float], sleep: Callable[[float], None]) -> dict[str, Any]:
    """The option ``backlog``, if the scenario has one."""
    if (keeps := scenario.backlog) is None:
        return {}

    def fails(method: str) -> str | None:
        start, end = keeps.fails.get(method, (inf, inf))
        return "no space left" if start <= round(now(), 6) < end else None

    return {"backlog": Disk(keeps.level, fails, lambda method: keeps.takes.get(method, 0.0), sleep)}


def check_kept(scenario: Scenario, options: dict[str, Any], statistics: Statistics) -> None:
    """What is left is in the backlog, or without one nothing is left."""
    disk = options.get("backlog")
    if disk is None:
        check_conservation(statistics)
        return
    assert disk.closed
    assert disk.events() == list(scenario.kept or ())
    assert statistics.pending == len(disk.events())


def header(request: Request, name: str) -> str:
    return next(value for key, value in request.headers if key == name)


# -- threads ------------------------------------------------------------------------------------------------


class ThreadTransport:
    def __init__(self, record: Record, clock: VirtualClock) -> None:
        self._record = record
        self._clock = clock

    def send(self, request: Request, *, timeout: float) -> Reply:
        answer = self._record.request(request.body, header(request, "Idempotency-Key"))
        self._clock.sleep(min(answer.after, timeout))
        return reply_of(answer, timeout)

    def close(self) -> None:
        pass


def reply_of(answer: Answer, timeout: float) -> Reply:
    if answer.after > timeout:
        raise RequestTimeout("no reply in time")
    if answer.error is not None:
        raise answer.error
    return Reply(status=answer.status, headers=tuple(answer.headers.items()), body=answer.body)


def run_threads(scenario: Scenario) -> Outcome:
    with VirtualClock(scenario.draws) as clock:
        record = Record(scenario, clock.now)

        def on_loss(loss: Loss) -> None:
            record.loss(loss)
            if scenario.on_loss == "raises":
                raise RuntimeError("a callback's own bug")
            if scenario.on_loss == "blocks":
                clock.sleep(100)
            elif scenario.on_loss == "tracks":
                tracker.track("lost", list(loss.events))
            elif scenario.on_loss == "flushes":
                tracker.flush()

        def run(program: list[Action]) -> None:
            for action in program:
                clock.sleep_until(action.at)
                try:
                    match action:
                        case Track():
                            for event in action.events:
                                tracker.track(action.stream, event, auth_key=action.key)
                        case Flush():
                            record.returned(tracker.flush(action.timeout))
                        case Stop():
                            record.returned(tracker.stop(action.timeout))
                        case SetKey():
                            tracker.set_auth_key(action.stream, action.key)
                except LocalError as error:
                    record.returned(type(error).__name__)

        kept = disk_of(scenario, clock.now, clock.sleep)
        arguments = {"endpoint": ENDPOINT, "on_loss": on_loss, "transport": ThreadTransport(record, clock), **kept}
        tracker = object.__new__(atom_sync.Tracker)
        tracker._set_up(Options.read({**arguments, **scenario.options}, {}, str), clock)
        if scenario.also:
            clock.start(partial(run, list(scenario.also)), "also")
        run(list(scenario.program))
        clock.sleep_until(scenario.until)
        outcome = record.end(tracker.statistics(), clock.turns)
        tracker.stop()
        clock.sleep(GRACE)
        assert clock.others == []
        check_kept(scenario, kept, tracker.statistics())
        return outcome


# -- asyncio and trio ---------------------------------------------------------------------------------------


class TaskTransport:
    def __init__(self, record: Record) -> None:
        self._record = record

    async def send(self, request: Request, *, timeout: float) -> Reply:
        answer = self._record.request(request.body, header(request, "Idempotency-Key"))
        await anyio.sleep(min(answer.after, timeout))
        return reply_of(answer, timeout)

    async def aclose(self) -> None:
        pass


class CountTurns(trio.abc.Instrument):
    turns = 0

    def after_io_wait(self, timeout: float) -> None:
        self.turns += 1


async def run_program(scenario: Scenario, turns: Callable[[], int]) -> Outcome:
    record = Record(scenario, anyio.current_time)

    async def on_loss(loss: Loss) -> None:
        record.loss(loss)
        if scenario.on_loss == "raises":
            raise RuntimeError("a callback's own bug")
        if scenario.on_loss == "blocks":
            await anyio.sleep(100)
        elif scenario.on_loss == "tracks":
            await tracker.track("lost", list(loss.events))
        elif scenario.on_loss == "flushes":
            await tracker.flush()

    async def run(program: list[Action]) -> None:
        for action in program:
            if anyio.current_time() < action.at:
                await anyio.sleep_until(action.at)
            try:
                match action:
                    case Track():
                        for event in action.events:
                            await tracker.track(action.stream, event, auth_key=action.key)
                    case Flush():
                        record.returned(await tracker.flush(action.timeout))
                    case Stop():
                        record.returned(await tracker.stop(action.timeout))
                    case SetKey():
                        tracker.set_auth_key(action.stream, action.key)
            except LocalError as error:
                record.returned(type(error).__name__)

    kept = disk_of(scenario, anyio.current_time, lambda seconds: None)
    options = {**scenario.options, **kept}
    tracker = atom_anyio.Tracker(ENDPOINT, on_loss=on_loss, transport=TaskTransport(record), **options)
    with anyio.fail_after(10 * GRACE + scenario.until):  # a deadlock is a failure
        async with tracker, anyio.create_task_group() as group:
            group.start_soon(run, list(scenario.also))
            await run(list(scenario.program))
            await anyio.sleep_until(scenario.until)
            outcome = record.end(tracker.statistics(), turns())
        check_kept(scenario, kept, tracker.statistics())
    return outcome


def draws_from(scenario: Scenario) -> SimpleNamespace:
    draws = chain(scenario.draws, repeat(scenario.draws[-1]))
    return SimpleNamespace(random=partial(next, draws))


def run_asyncio(scenario: Scenario) -> Outcome:
    loops: list[VirtualTimeLoop] = []

    def new_loop() -> VirtualTimeLoop:
        loops.append(VirtualTimeLoop())
        return loops[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atom_anyio._tracker, "random", draws_from(scenario))
        if scenario.backlog is not None:
            patch.setattr(anyio.to_thread, "run_sync", without_threads)
        count = lambda: loops[-1].turns  # noqa: E731
        return anyio.run(run_program, scenario, count, backend_options={"loop_factory": new_loop})


def run_trio(scenario: Scenario) -> Outcome:
    counter = CountTurns()
    options = {"clock": trio.testing.MockClock(autojump_threshold=0), "instruments": [counter]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atom_anyio._tracker, "random", draws_from(scenario))
        if scenario.backlog is not None:
            patch.setattr(anyio.to_thread, "run_sync", without_threads)
        return anyio.run(run_program, scenario, lambda: counter.turns, backend="trio", backend_options=options)


# -- the driver of the documentation ------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "selectors_driver.py"


class VirtualSocket:
    """Both ends of a connection: what is written is taken at once, and an answer can be read when it is due."""

    def __init__(self, record: Record, now: Callable[[], float]) -> None:
        self._record = record
        self._now = now
        self._request = b""
        self._reply = b""
        self.readable_at = inf

    def send(self, data: memoryview) -> int:
        self._request += data
        head, _, body = self._request.partition(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if len(body) == int(headers.get(b"content-length", -1)):
            self._request = b""
            answer = self._record.request(body, headers[b"idempotency-key"].decode())
            self.readable_at = self._now() + answer.after
            self._reply = as_http(answer)
        return len(data)

    def recv(self, size: int) -> bytes:
        if self.readable_at > self._now():
            raise BlockingIOError
        reply, self._reply = self._reply, b""
        if not reply:
            raise ConnectionResetError("reset")
        self.readable_at = inf if reply.endswith(b"\r\n\r\n") or b"Length" in reply else self._now()
        return reply

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return 0

    def close(self) -> None:
        pass


def as_http(answer: Answer) -> bytes:
    if answer is GARBAGE:
        return b"220 smtp.example\r\n\r\n"
    if answer.error is not None:
        return b"HTTP/1.1 2"  # and then a reset
    lines = [f"HTTP/1.1 {answer.status} Answer", f"Content-Length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


class VirtualSelector:
    """Waits for virtual sockets by letting time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        self._registered: dict[VirtualSocket, tuple[int, Any]] = {}

    def register(self, fileobj: VirtualSocket, events: int, data: Any) -> None:
        self._registered[fileobj] = (events, data)

    def unregister(self, fileobj: VirtualSocket) -> None:
        del self._registered[fileobj]

    def select(self, timeout: float | None) -> list[tuple[Any, int]]:
        self.turns += 1
        waiting = [sock for sock, (events, _) in self._registered.items() if events & EVENT_READ]
        if not (ready := self._ready()):
            due = min([sock.readable_at for sock in waiting], default=inf)
            until = min(due, inf if timeout is None else self.now + timeout)
            assert until < inf, "everybody waits for ever"
            self.now = max(self.now, until)
            ready = self._ready()
        return ready

    def _ready(self) -> list[tuple[Any, int]]:
        ready = []
        for sock, (events, data) in self._registered.items():
            mask = events & EVENT_WRITE
            if sock.readable_at <= self.now:
                mask |= events & EVENT_READ
            if mask:
                ready.append((SimpleNamespace(fileobj=sock, data=data), mask))
        return ready

    def close(self) -> None:
        pass


@cache
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("selectors_driver", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_selectors(scenario: Scenario) -> Outcome:
    selector = VirtualSelector()
    record = Record(scenario, lambda: selector.now)

    def on_loss(loss: Loss) -> None:
        record.loss(loss)
        if scenario.on_loss == "raises":
            raise RuntimeError("a callback's own bug")
        if scenario.on_loss == "tracks":
            tracker.track("lost", list(loss.events))

    def connect(_: Origin) -> Iterator[VirtualSocket]:
        yield VirtualSocket(record, lambda: selector.now)

    def sleep_until(when: float) -> None:
        while selector.now < when:
            tracker.poll(when - selector.now)
        tracker.poll()

    tracker = example().Tracker(
        ENDPOINT,
        clock=lambda: selector.now,
        unit=draws_from(scenario).random,
        connect=connect,
        selector=selector,
        on_loss=on_loss,
        **scenario.options,
    )
    stopped = False
    for action in scenario.program:
        if not stopped:
            sleep_until(action.at)
        selector.now = max(selector.now, action.at)
        try:
            match action:
                case Track():
                    for event in action.events:
                        tracker.track(action.stream, event, auth_key=action.key)
                case Flush():
                    record.returned(tracker.flush(action.timeout))
                case Stop():
                    # It calls on_loss itself, so it keeps no part of the time for that.
                    record.returned(tracker.stop(action.timeout - min(0.25, action.timeout / 10)))
                    stopped = True
                case SetKey():
                    tracker.set_auth_key(action.stream, action.key)
        except LocalError as error:
            record.returned(type(error).__name__)
    if not stopped:
        sleep_until(scenario.until)
    outcome = record.end(tracker.statistics(), selector.turns)
    tracker.stop()
    check_conservation(tracker.statistics())
    return outcome


# -- the tests ----------------------------------------------------------------------------------------------

RUNNERS: dict[str, Callable[[Scenario], Outcome]] = {
    "threads": run_threads,
    "asyncio": run_asyncio,
    "trio": run_trio,
    "selectors": run_selectors,
}
"""Drivers by name; each runs a scenario on virtual time."""

run = cache(lambda driver, number: RUNNERS[driver](SCENARIOS[number]))


def check_conservation(statistics: Statistics) -> None:
    assert statistics.accepted == statistics.delivered + sum(statistics.lost.values())
    assert (statistics.pending, statistics.pending_bytes, statistics.in_flight) == (0, 0, 0)


CASES = [
    pytest.param(driver, number, id=f"{scenario.name}-{driver}")
    for number, scenario in enumerate(SCENARIOS)
    for driver in RUNNERS
    if driver != "selectors" or not scenario.in_background
]


@pytest.mark.parametrize(("driver", "number"), CASES)
def test_timeline(driver: str, number: int) -> None:
    """What is seen, and when, is what the scenario says."""
    scenario = SCENARIOS[number]
    seen = run(driver, number)
    assert seen.requests == list(scenario.requests)
    assert seen.returns == list(scenario.returns)
    assert seen.losses == list(scenario.losses)
    statistics = seen.statistics
    assert statistics.delivered == scenario.delivered
    assert statistics.lost == scenario.lost
    assert (statistics.pending, statistics.parked) == (scenario.pending, scenario.parked)
    assert statistics.accepted == scenario.delivered + sum(scenario.lost.values()) + scenario.pending
    assert statistics.requests == len(scenario.requests)


@pytest.mark.parametrize(("driver", "number"), CASES)
def test_same_in_all_drivers(driver: str, number: int) -> None:
    """The whole ledger is the same in each driver, down to bytes and failures."""
    assert run(driver, number).statistics == run("threads", number).statistics


@pytest.mark.parametrize(("driver", "number"), CASES)
def test_a_batch_keeps_its_bytes(driver: str, number: int) -> None:
    """What is sent under one id is the same, byte for byte, as long as its key is."""
    keys = 1 + sum(isinstance(action, SetKey) for action in SCENARIOS[number].program)
    assert all(len(bodies) <= keys for bodies in run(driver, number).bodies.values())


@pytest.mark.parametrize("driver", RUNNERS)
def test_idle_costs_nothing(driver: str) -> None:
    """A tracker with nothing to do has no timer: a day of idling wakes it no more often than a minute."""

    def turns(idle: float) -> int:
        program = [track(1, "a", 1), Flush(2), track(3, "b", 2), Flush(3.5), Flush(4 + idle)]
        scenario = Scenario("idle", program=program, until=5 + idle, requests=[])
        return RUNNERS[driver](scenario).turns

    assert turns(60.0) == turns(86_000.0)


@pytest.mark.parametrize("streams", ["a", "abc"])
@pytest.mark.parametrize("driver", RUNNERS)
def test_an_outage_of_25_seconds(driver: str, streams: str) -> None:
    """A lane whose server answers 503 for 25 s sends 8 requests at most, and is delivered when that is over.

    Full jitter gives no certainty of that: see ``test_requests_of_an_outage`` for how near it comes.
    """
    counts: Counter[int] = Counter()
    for seed in range(50):
        draws = Random(seed)
        scenario = Scenario(
            "503 for 25 s",
            options={"max_batch_events": 1},
            server=is_down(until=25),
            draws=[draws.random() for _ in range(100)],
            program=[track(0, stream, 1) for stream in streams],
            until=4000,
            requests=[],
        )
        outcome = RUNNERS[driver](scenario)
        assert outcome.statistics.delivered == len(streams)
        counts.update(sum(at < 25 and name == stream for at, name, _ in outcome.requests) for stream in streams)
    print(sorted(counts.items()))
    assert max(counts) <= 8


def test_names_are_unique() -> None:
    """Each scenario can be told from the others."""
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
