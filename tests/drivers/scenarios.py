"""What trackers do, as data: what the program and the server do, and what is then seen when.

Every driver runs every scenario on virtual time and must show the very same (``test_scenarios.py``).  Times are
seconds since the start.  Unless a scenario says otherwise, a server answers 200 after 0.1 s, every random draw
is 0.5 and the options are the defaults: 10 s of ``flush_interval``, ``RetryPolicy(base=3, cap=1800)``, so that
the pause after the n-th failure in a row is 3, 6, 12, 24 ... seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, TypeAlias

from atom_sansio import (
    ConnectionFailed,
    FlushResult,
    Level,
    RemoteError,
    ReplyError,
    RetryPolicy,
)

# -- what the program does ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """Track *events* to *stream*, one call each.  Not before *at*, and after what stands before it."""

    at: float
    stream: str
    events: tuple[Any, ...]
    key: str | None = None


@dataclass(frozen=True)
class Flush:
    at: float
    timeout: float = 5.0


@dataclass(frozen=True)
class Stop:
    at: float
    timeout: float = 5.0


@dataclass(frozen=True)
class SetKey:
    at: float
    stream: str
    key: str


Action: TypeAlias = "Track | Flush | Stop | SetKey"


def track(at: float, stream: str, *events: Any, key: str | None = None) -> Track:
    return Track(at, stream, events, key)


# -- what the server does -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """*status*, or *error* in place of a reply, *after* so many seconds."""

    status: int = 200
    after: float = 0.1
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: RemoteError | None = None


OK = Answer()
HANGS = Answer(after=inf)
GARBAGE = Answer(error=ReplyError("this is no HTTP"))
RESET = Answer(error=ConnectionFailed("the peer reset the connection"))
STALE = Answer(error=ConnectionFailed("the peer had closed the connection", stale=True))


def answer(status: int, after: float = 0.1, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, after, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@dataclass(frozen=True)
class Seen:
    """A request, as the server sees it."""

    time: float
    stream: str
    events: tuple[Any, ...]
    batch_id: str
    body: bytes

    @classmethod
    def read(cls, time: float, body: bytes, batch_id: str) -> Seen:
        envelope = json.loads(body)
        return cls(time, envelope["table"], tuple(json.loads(envelope["data"])), batch_id, body)


Server: TypeAlias = "Mapping[str, Sequence[Answer]] | Callable[[Seen], Answer]"
"""Answers by stream, used up one by one and OK after that, or a rule."""


def refuses(*guilty: Any) -> Callable[[Seen], Answer]:
    """400 to every request that holds one of *guilty*."""
    return lambda seen: answer(400) if any(event in guilty for event in seen.events) else OK


def is_down(until: float, status: int = 503) -> Callable[[Seen], Answer]:
    """*status* to every request before *until*."""
    return lambda seen: answer(status) if seen.time < until else OK


# -- what the disk does -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keeps:
    """A backlog of *level*, whose disk takes nothing from one time to another, and some time for the rest."""

    level: Level = Level.PROCESS
    fails: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """From when until when, by method."""
    takes: Mapping[str, float] = field(default_factory=dict)
    """Seconds, by method."""


# -- what is seen -------------------------------------------------------------------------------------------

Request: TypeAlias = "tuple[float, str, list[Any]]"
"""When it was begun, the stream, the events.  At equal times in order of the streams' names."""
Return: TypeAlias = "tuple[float, FlushResult | str]"
"""When flush or stop returned, and what; or when a call raised, and the exception's name."""
Lost: TypeAlias = "tuple[float, str, list[Any], str]"
"""When ``on_loss`` was called; stream, events, reason."""


def result(delivered: int = 0, lost: int = 0, pending: int = 0) -> FlushResult:
    return FlushResult(delivered=delivered, lost=lost, pending=pending)


@dataclass(frozen=True)
class Scenario:
    name: str
    """A sentence that says what is true."""
    program: Sequence[Action]
    until: float
    """When to look at the ledger."""
    requests: Sequence[Request]
    also: Sequence[Action] = ()
    """What a second thread or task does."""
    options: Mapping[str, Any] = field(default_factory=dict)
    server: Server = field(default_factory=dict)
    draws: Sequence[float] = (0.5,)
    on_loss: Literal["records", "raises", "blocks", "tracks", "flushes"] = "records"
    """What the callback does after it has recorded its call: to block takes 100 s, to track goes to "lost"."""
    returns: Sequence[Return] = ()
    losses: Sequence[Lost] = ()
    delivered: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    parked: int = 0
    backlog: Keeps | None = None
    kept: Sequence[Any] | None = None
    """Events that are in the backlog when all is over; None for all that are pending."""
    in_background: bool = False
    """Whether it needs a driver that works behind the program's back and keeps connections."""


def keeps(level: str = "process", **takes: float) -> Keeps:
    return Keeps(Level(level), takes=takes)


def fails(method: str, start: float, end: float, level: str = "process", **takes: float) -> Keeps:
    return Keeps(Level(level), fails={method: (start, end)}, takes=takes)


def _retries(stream: str, *times: float) -> list[Request]:
    return [(time, stream, [1]) for time in times]


SCENARIOS: list[Scenario] = [
    # -- when a batch is sent
    Scenario(
        "a full batch is sent at once",
        options={"max_batch_events": 3},
        program=[track(1, "a", 1, 2, 3, 4)],
        until=5,
        requests=[(1.0, "a", [1, 2, 3])],
        delivered=3,
        pending=1,
    ),
    Scenario(
        "a batch that is full in bytes is sent at once",
        options={"max_batch_bytes": 1024},
        program=[track(1, "a", "x" * 400, "y" * 400, "z" * 400)],
        until=5,
        requests=[(1.0, "a", ["x" * 400, "y" * 400])],
        delivered=2,
        pending=1,
    ),
    Scenario(
        "an event is sent when it is flush_interval old, with what came after it",
        program=[track(1, "a", 1), track(4, "a", 2), track(12, "a", 3)],
        until=30,
        requests=[(11.0, "a", [1, 2]), (22.0, "a", [3])],
        delivered=3,
    ),
    Scenario(
        "each stream has an age of its own",
        program=[track(1, "a", 1), track(3, "b", 2), track(5, "a", 3)],
        until=30,
        requests=[(11.0, "a", [1, 3]), (13.0, "b", [2])],
        delivered=3,
    ),
    Scenario(
        "events with keys of their own go in batches of their own",
        options={"auth_key": "k"},
        program=[track(1, "a", 1, 2), track(1, "a", 3, key="other"), track(1, "a", 4), Flush(2)],
        until=3,
        requests=[(2.0, "a", [1, 2, 4]), (2.0, "a", [3])],
        returns=[(2.1, result(4))],
        delivered=4,
    ),
    Scenario(
        "flush sends at once and returns when all is confirmed",
        program=[track(1, "a", 1), track(1, "b", 2), Flush(2), Flush(3)],
        until=5,
        requests=[(2.0, "a", [1]), (2.0, "b", [2])],
        returns=[(2.1, result(2)), (3.0, result())],
        delivered=2,
    ),
    Scenario(
        "flush with no time starts the sending and says what is pending",
        program=[track(1, "a", 1), Flush(2, timeout=0)],
        until=5,
        requests=[(2.0, "a", [1])],
        returns=[(2.0, result(pending=1))],
        delivered=1,
    ),
    Scenario(
        "flush returns by its deadline, and a later one finds the rest",
        server={"a": [answer(200, after=8)]},
        program=[track(1, "a", 1), Flush(2), Flush(7)],
        until=20,
        requests=[(2.0, "a", [1])],
        returns=[(7.0, result(pending=1)), (10.0, result(1))],
        delivered=1,
    ),
    Scenario(
        "what is tracked during a flush is not waited for",
        server={"a": [answer(200, after=3)]},
        program=[track(1, "a", 1), Flush(2)],
        also=[track(3, "a", 2), track(3, "b", 3)],
        until=10,
        requests=[(2.0, "a", [1])],
        returns=[(5.0, result(1))],
        delivered=1,
        pending=2,
        in_background=True,
    ),
    # -- order and parallelism
    Scenario(
        "a lane has one request in flight at most, so that its order holds",
        options={"max_batch_events": 2},
        server={"a": [answer(200, after=1), answer(200, after=2), answer(200, after=3)]},
        program=[track(1, "a", 1, 2, 3, 4, 5, 6, 7)],
        until=7.5,
        requests=[(1.0, "a", [1, 2]), (2.0, "a", [3, 4]), (4.0, "a", [5, 6])],
        delivered=6,
        pending=1,
    ),
    Scenario(
        "while a request is away events gather, and a failed batch goes before them",
        options={"max_batch_events": 2},
        server={"a": [answer(503, after=1)]},
        program=[track(1, "a", 1, 2), track(1.5, "a", 3, 4)],
        until=20,
        requests=[(1.0, "a", [1, 2]), (5.0, "a", [1, 2]), (5.1, "a", [3, 4])],
        delivered=4,
    ),
    Scenario(
        "lanes are sent side by side, max_in_flight at once",
        options={"max_in_flight": 2},
        server=lambda _: answer(200, after=1),
        program=[*(track(1, stream, 1) for stream in "abcde"), Flush(2)],
        until=10,
        requests=[(2.0, "a", [1]), (2.0, "b", [1]), (3.0, "c", [1]), (3.0, "d", [1]), (4.0, "e", [1])],
        returns=[(5.0, result(5))],
        delivered=5,
    ),
    Scenario(
        "a lane that fails delays no other",
        options={"max_batch_events": 1},
        server=lambda seen: answer(500) if seen.stream == "bad" else OK,
        program=[track(1, "bad", 1), *(track(at, "good", at) for at in (1.5, 4, 6, 9))],
        until=12,
        requests=[
            (1.0, "bad", [1]),
            (1.5, "good", [1.5]),
            (4.0, "good", [4]),
            (4.1, "bad", [1]),
            (6.0, "good", [6]),
            (9.0, "good", [9]),
            (10.2, "bad", [1]),
        ],
        delivered=4,
        pending=1,
    ),
    Scenario(
        "a lane that hangs delays no other",
        options={"max_batch_events": 1},
        server={"a": [HANGS]},
        program=[track(1, "a", 1), track(2, "b", 2), track(3, "b", 3)],
        until=70,
        requests=[(1.0, "a", [1]), (2.0, "b", [2]), (3.0, "b", [3]), (64.0, "a", [1])],
        delivered=3,
    ),
    # -- retries
    Scenario(
        "a busy server is asked again after full jitter that doubles, with the identical bytes",
        options={"max_batch_events": 1},
        server={"a": [answer(status) for status in (500, 408, 425, 429)]},
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 4.1, 10.2, 22.3, 46.4),
        delivered=1,
    ),
    Scenario(
        "the pause is a draw times the ceiling",
        options={"max_batch_events": 1, "retry": RetryPolicy(base=2, cap=10)},
        server={"a": [answer(503)] * 4},
        draws=[0.25, 0.0, 0.75, 0.5],
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 2.1, 2.2, 9.8, 14.9),
        delivered=1,
    ),
    Scenario(
        "Retry-After in seconds is a minimum",
        options={"max_batch_events": 1},
        server={"a": [answer(503, retry_after="20"), answer(503, retry_after="1")]},
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 21.1, 27.2),
        delivered=1,
    ),
    Scenario(
        "Retry-After as a date is held against the server's own clock",
        options={"max_batch_events": 1},
        server={
            "a": [
                answer(
                    429,
                    retry_after="Wed, 01 Jan 2020 00:01:00 GMT",
                    date="Wed, 01 Jan 2020 00:00:30 GMT",
                )
            ]
        },
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 31.1),
        delivered=1,
    ),
    Scenario(
        "Retry-After is never obeyed for more than an hour",
        options={"max_batch_events": 1},
        server={"a": [answer(503, retry_after="99999999999")]},
        program=[track(1, "a", 1)],
        until=4000,
        requests=_retries("a", 1.0, 3601.1),
        delivered=1,
    ),
    Scenario(
        "a reset connection and what is no HTTP are retried",
        options={"max_batch_events": 1},
        server={"a": [RESET, GARBAGE]},
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 4.1, 10.2),
        delivered=1,
    ),
    Scenario(
        "a connection that died idle is forgiven once, without a pause",
        options={"max_batch_events": 1},
        server={"a": [OK, STALE, STALE, OK]},
        program=[track(1, "a", 0), track(2, "a", 1)],
        until=60,
        requests=[(1.0, "a", [0]), (2.0, "a", [1]), (2.1, "a", [1]), (5.2, "a", [1])],
        delivered=2,
        in_background=True,  # the third driver makes new connections, which cannot be stale
    ),
    Scenario(
        "a server that hangs is given up after request_timeout, and asked again",
        options={"max_batch_events": 1, "request_timeout": 7.0},
        server={"a": [HANGS]},
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 11.0),
        delivered=1,
    ),
    Scenario(
        "after max_attempts the batch is lost and the next goes after the pause",
        options={"max_batch_events": 1, "retry": RetryPolicy(max_attempts=2)},
        server={"a": [answer(500), answer(500)]},
        program=[track(1, "a", 1), track(1, "a", 2)],
        until=60,
        requests=[(1.0, "a", [1]), (4.1, "a", [1]), (10.2, "a", [2])],
        losses=[(4.2, "a", [1], "expired")],
        delivered=1,
        lost={"expired": 1},
    ),
    Scenario(
        "after max_elapsed the batch is lost",
        options={"max_batch_events": 1, "retry": RetryPolicy(max_elapsed=8.0)},
        server=lambda _: answer(500),
        program=[track(1, "a", 1)],
        until=60,
        requests=_retries("a", 1.0, 4.1, 10.2),
        losses=[(10.3, "a", [1], "expired")],
        lost={"expired": 1},
    ),
    Scenario(
        "when two lanes fail there is one probe at a time, and after the first answer all flows",
        options={"max_batch_events": 1},
        server=is_down(until=20),
        program=[track(at, stream, 1) for at, stream in ((1, "a"), (2, "b"), (3, "c"), (4, "d"))],
        until=120,
        requests=[
            (1.0, "a", [1]),
            (2.0, "b", [1]),
            (5.1, "c", [1]),
            (11.2, "d", [1]),
            (23.3, "a", [1]),
            (23.4, "b", [1]),
            (23.4, "c", [1]),
            (23.4, "d", [1]),
        ],
        delivered=4,
    ),
    Scenario(
        "10,000 s of outage lose nothing, and what gathered goes out in order when it is over",
        options={"max_batch_events": 2, "retry": RetryPolicy(base=3, cap=1000)},
        server=is_down(until=10_000),
        program=[track(at, "a", at) for at in (1, 2, 3, 4, 5000)],
        until=11_000,
        requests=[
            # Pauses of 3, 6, 12 ... 384 s and then of half the cap, each after 0.1 s.
            *((time, "a", [1, 2]) for time in (2.0, 5.1, 11.2, 23.3, 47.4, 95.5, 191.6, 383.7)),
            *((round(767.8 + n * 500.1, 6), "a", [1, 2]) for n in range(20)),
            (10269.8, "a", [3, 4]),
            (10269.9, "a", [5000]),
        ],
        delivered=5,
    ),
    # -- refusals
    Scenario(
        "a refused batch is cut in two until only the guilty event is lost",
        server=refuses(3),
        program=[track(1, "a", 1, 2, 3, 4), Flush(2)],
        until=5,
        requests=[
            (2.0, "a", [1, 2, 3, 4]),
            (2.1, "a", [1, 2]),
            (2.2, "a", [3, 4]),
            (2.3, "a", [3]),
            (2.4, "a", [4]),
        ],
        returns=[(2.5, result(3, lost=1))],
        losses=[(2.4, "a", [3], "rejected")],
        delivered=3,
        lost={"rejected": 1},
    ),
    Scenario(
        "a batch that is too large goes in halves, and a lone event that is too large is lost",
        server=lambda seen: answer(413) if len(seen.events) > 2 or "huge" in seen.events else OK,
        program=[track(1, "a", 1, 2, 3, 4, "huge"), Flush(2)],
        until=5,
        requests=[
            (2.0, "a", [1, 2, 3, 4, "huge"]),
            (2.1, "a", [1, 2]),
            (2.2, "a", [3, 4, "huge"]),
            (2.3, "a", [3]),
            (2.4, "a", [4, "huge"]),
            (2.5, "a", [4]),
            (2.6, "a", ["huge"]),
        ],
        returns=[(2.7, result(4, lost=1))],
        losses=[(2.7, "a", ["huge"], "too_large")],
        delivered=4,
        lost={"too_large": 1},
    ),
    Scenario(
        "a redirect is not followed; its events are lost",
        server={"a": [answer(308, location="http://elsewhere.example/bulk")]},
        program=[track(1, "a", 1, 2), Flush(2)],
        until=5,
        requests=[(2.0, "a", [1, 2])],
        returns=[(2.1, result(lost=2))],
        losses=[(2.1, "a", [1, 2], "redirected")],
        lost={"redirected": 2},
    ),
    Scenario(
        "a refused key parks its lane and no other, until there is another key",
        options={"auth_key": "old", "max_batch_events": 1},
        server={"a": [answer(401)]},
        program=[track(1, "a", 1, 2), track(2, "b", 3), SetKey(50, "a", "new")],
        until=60,
        requests=[(1.0, "a", [1]), (2.0, "b", [3]), (50.0, "a", [1]), (50.1, "a", [2])],
        delivered=3,
    ),
    Scenario(
        "a parked lane keeps its events",
        options={"auth_key": "old", "max_batch_events": 1},
        server={"a": [answer(403)]},
        program=[track(1, "a", 1, 2), Flush(2, timeout=3)],
        until=10_000,
        requests=[(1.0, "a", [1])],
        returns=[(5.0, result(pending=2))],
        pending=2,
        parked=1,
    ),
    Scenario(
        "a key that was replaced while it was being refused does not park the lane",
        options={"auth_key": "old", "max_batch_events": 1},
        server={"a": [answer(401, after=1)]},
        program=[track(1, "a", 1), SetKey(1.5, "a", "new")],
        until=60,
        requests=[(1.0, "a", [1]), (2.0, "a", [1])],
        delivered=1,
    ),
    # -- when there is no room
    Scenario(
        "on_full=raise: what does not fit is refused, and what waits is sent at once to make room",
        options={"max_pending_events": 2, "on_full": "raise"},
        program=[track(1, "a", 1, 2, 3), track(12, "a", 4)],
        until=30,
        requests=[(1.0, "a", [1, 2]), (22.0, "a", [4])],
        returns=[(1.0, "BacklogFull")],
        delivered=3,
    ),
    Scenario(
        "on_full=block: what does not fit waits for room",
        options={"max_pending_events": 2},
        program=[track(1, "a", 1, 2, 3, 4), Flush(1)],
        until=30,
        requests=[(1.0, "a", [1, 2]), (1.1, "a", [3, 4])],
        returns=[(1.2, result(2))],
        delivered=4,
    ),
    Scenario(
        "on_full=block: what waits in vain is refused after block_timeout",
        options={"max_pending_events": 1, "block_timeout": 4.0},
        server={"a": [answer(200, after=10)]},
        program=[track(1, "a", 1, 2), track(12, "a", 3)],
        until=30,
        requests=[(1.0, "a", [1]), (22.0, "a", [3])],
        returns=[(5.0, "BacklogFull")],
        delivered=2,
    ),
    Scenario(
        "on_full=block: what waits when the tracker is stopped is refused at once",
        options={"max_pending_events": 1},
        server={"a": [answer(200, after=3)]},
        program=[track(1, "a", 1, 2)],
        also=[Stop(3)],
        until=30,
        requests=[(1.0, "a", [1])],
        returns=[(3, "TrackerClosed"), (4.0, result(1))],
        delivered=1,
        in_background=True,
    ),
    Scenario(
        "on_full=drop_newest: what does not fit is lost",
        options={"max_pending_events": 2, "on_full": "drop_newest"},
        program=[track(1, "a", 1, 2, 3)],
        until=30,
        requests=[(1.0, "a", [1, 2])],
        losses=[(1.0, "a", [3], "backlog_full")],
        delivered=2,
        lost={"backlog_full": 1},
    ),
    Scenario(
        "on_full=drop_oldest: what waits for longest is lost, whatever its stream",
        options={"max_pending_events": 2, "on_full": "drop_oldest"},
        program=[track(1, "a", 1), track(2, "b", 2), track(3, "c", 3), track(4, "c", 4)],
        until=30,
        requests=[(13.0, "c", [3, 4])],
        losses=[(3.0, "a", [1], "backlog_full"), (4.0, "b", [2], "backlog_full")],
        delivered=2,
        lost={"backlog_full": 2},
    ),
    # -- stop
    Scenario(
        "stop sends what is pending and returns when that is confirmed",
        program=[track(1, "a", 1, 2), track(1, "b", 3), Stop(2), track(3, "a", 4), Stop(4), Flush(5)],
        until=10,
        requests=[(2.0, "a", [1, 2]), (2.0, "b", [3])],
        returns=[(2.1, result(3)), (3.0, "TrackerClosed"), (4.0, result()), (5.0, result())],
        delivered=3,
    ),
    Scenario(
        "stop does not wait for the end of a pause; what is left is lost and reported within its time",
        options={"max_batch_events": 1},
        server=lambda _: answer(503, retry_after="600"),
        program=[track(1, "a", 1, 2), Stop(2)],
        until=60,
        requests=[(1.0, "a", [1])],
        returns=[(6.75, result(lost=2))],
        losses=[(6.75, "a", [1], "stopped"), (6.75, "a", [2], "stopped")],
        lost={"stopped": 2},
    ),
    Scenario(
        "stop retries while it has time",
        options={"max_batch_events": 1},
        server={"a": [answer(503)]},
        program=[track(1, "a", 1), Stop(2)],
        until=60,
        requests=[(1.0, "a", [1]), (4.1, "a", [1])],
        returns=[(4.2, result(1))],
        delivered=1,
    ),
    Scenario(
        "stop does not wait for a server that hangs",
        options={"max_batch_events": 1},
        server={"a": [HANGS]},
        program=[track(1, "a", 1), track(2, "b", 2), Stop(3, timeout=1)],
        until=100,
        requests=[(1.0, "a", [1]), (2.0, "b", [2])],
        returns=[(3.9, result(lost=1))],
        losses=[(3.9, "a", [1], "stopped")],
        delivered=1,
        lost={"stopped": 1},
    ),
    Scenario(
        "when stop gives up, who waits for the outcome hears it at once",
        server={"a": [HANGS]},
        program=[track(1, "a", 1), Flush(2, timeout=60)],
        also=[Stop(3, timeout=1)],
        until=100,
        requests=[(2.0, "a", [1])],
        returns=[(3.9, result(lost=1)), (3.9, result(lost=1))],
        losses=[(3.9, "a", [1], "stopped")],
        lost={"stopped": 1},
        in_background=True,
    ),
    Scenario(
        "who waits for room when the tracker is stopped is not kept waiting until that gives up",
        options={"max_pending_events": 1},
        server={"a": [HANGS]},
        program=[track(1, "a", 1, 2)],
        also=[Stop(3, timeout=1)],
        until=100,
        requests=[(1.0, "a", [1])],
        returns=[(3, "TrackerClosed"), (3.9, result(lost=1))],
        losses=[(3.9, "a", [1], "stopped")],
        lost={"stopped": 1},
        in_background=True,
    ),
    Scenario(
        "stop without time reports at once",
        options={"max_batch_events": 1, "auth_key": "k"},
        server={"a": [answer(401)]},
        program=[track(1, "a", 1), Stop(3, timeout=0)],
        until=100,
        requests=[(1.0, "a", [1])],
        returns=[(3.0, result(lost=1))],
        losses=[(3.0, "a", [1], "stopped")],
        lost={"stopped": 1},
    ),
    # -- callbacks
    Scenario(
        "losses are told one by one, in the order they were decided",
        options={"max_batch_events": 2},
        server={"a": [answer(404, after=3)], "b": [answer(404, after=2)], "c": [answer(404, after=1)]},
        program=[track(1, stream, 1) for stream in "abc"] + [Flush(2)],
        until=10,
        requests=[(2.0, "a", [1]), (2.0, "b", [1]), (2.0, "c", [1])],
        returns=[(5.0, result(lost=3))],
        losses=[(3.0, "c", [1], "rejected"), (4.0, "b", [1], "rejected"), (5.0, "a", [1], "rejected")],
        lost={"rejected": 3},
    ),
    Scenario(
        "a callback that raises harms nothing",
        options={"max_batch_events": 1},
        server=refuses(1, 2),
        on_loss="raises",
        program=[track(1, "a", 1, 2, 3)],
        until=10,
        requests=[(1.0, "a", [1]), (1.1, "a", [2]), (1.2, "a", [3])],
        losses=[(1.1, "a", [1], "rejected"), (1.2, "a", [2], "rejected")],
        delivered=1,
        lost={"rejected": 2},
    ),
    Scenario(
        "a callback that blocks holds up later reports and nothing else",
        options={"max_batch_events": 1},
        server=refuses(1, 2),
        on_loss="blocks",
        program=[track(1, "a", 1, 2, 3), Flush(2)],
        until=150,
        requests=[(1.0, "a", [1]), (1.1, "a", [2]), (1.2, "a", [3])],
        returns=[(2.0, result())],
        losses=[(1.1, "a", [1], "rejected"), (101.1, "a", [2], "rejected")],
        delivered=1,
        lost={"rejected": 2},
        in_background=True,
    ),
    Scenario(
        "stop does not wait for a callback that blocks longer than its time",
        options={"max_batch_events": 1},
        server=refuses(1),
        on_loss="blocks",
        program=[track(1, "a", 1), Stop(2)],
        until=50,
        requests=[(1.0, "a", [1])],
        returns=[(7.0, result())],
        losses=[(1.1, "a", [1], "rejected")],
        lost={"rejected": 1},
        in_background=True,
    ),
    Scenario(
        "a callback may track",
        options={"max_batch_events": 1},
        server=refuses(1),
        on_loss="tracks",
        program=[track(1, "a", 1)],
        until=10,
        requests=[(1.0, "a", [1]), (1.1, "lost", [[1]])],
        losses=[(1.1, "a", [1], "rejected")],
        delivered=1,
        lost={"rejected": 1},
    ),
    Scenario(
        "a callback may flush",
        options={"max_batch_events": 2},
        server={"a": [answer(404, after=2), answer(404)]},
        on_loss="flushes",
        program=[track(1, "a", 1, 2), track(2, "b", 3)],
        until=10,
        requests=[(1.0, "a", [1, 2]), (3.0, "a", [1]), (3.1, "a", [2]), (3.1, "b", [3])],
        losses=[(3.1, "a", [1], "rejected")],
        delivered=2,
        lost={"rejected": 1},
        in_background=True,
    ),
    # -- with a backlog
    *(
        Scenario(
            f"a disk that is well changes nothing; {level}",
            options={"max_batch_events": 3},
            backlog=keeps(level),
            program=[track(1, "a", 1, 2, 3, 4), track(2, "b", 5), Flush(3), Stop(4)],
            until=5,
            requests=[(1.0, "a", [1, 2, 3]), (3.0, "a", [4]), (3.0, "b", [5])],
            returns=[(3.1, result(2)), (4.0, result())],
            delivered=5,
            kept=[],
            in_background=True,
        )
        for level in ("memory", "process", "disk")
    ),
    Scenario(
        "a record is written before track returns, and a batch is kept before it is sent",
        backlog=keeps(append=0.5, update=2.0),
        program=[track(1, "a", 1, 2), Flush(1)],
        until=10,
        requests=[(4.0, "a", [1, 2])],
        returns=[(4.1, result(2))],
        delivered=2,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "at level memory track does not wait for the disk",
        backlog=keeps("memory", update=2.0),
        program=[track(1, "a", 1, 2), Flush(1)],
        until=10,
        requests=[(3.0, "a", [1, 2])],
        returns=[(3.1, result(2))],
        delivered=2,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "who tracks while the disk is busy waits for that and for one write of its own",
        backlog=keeps("process", append=1.0),
        program=[track(1, "a", 1), Flush(2)],
        also=[track(1.5, "b", 2), Flush(1.5)],
        until=10,
        requests=[(2.0, "a", [1]), (3.0, "b", [2])],
        returns=[(2.1, result(1)), (3.1, result(1))],
        delivered=2,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "block: what the disk refuses is tried every second until it is taken, and track waits",
        backlog=fails("append", 0, 4),
        program=[track(1.5, "a", 1), track(1.5, "a", 2), Flush(1.5)],
        until=10,
        requests=[(4.5, "a", [1, 2])],
        returns=[(4.6, result(2))],
        delivered=2,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "block: what the disk refuses for block_timeout is refused, and the next is taken",
        options={"block_timeout": 3.25},
        backlog=fails("append", 0, 4.5),
        program=[track(1, "a", 1), track(4.25, "a", 2), Flush(4.5)],
        until=10,
        requests=[(5.0, "a", [2])],
        returns=[(4.25, "BacklogFull"), (5.1, result(1))],
        delivered=1,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "block: what waits behind a write that takes longer than block_timeout is refused, what is written is not",
        options={"block_timeout": 0.5},
        backlog=keeps(append=3.0),
        program=[track(1, "a", 1), Flush(4)],
        also=[track(1.5, "b", 2)],
        until=10,
        requests=[(4.0, "a", [1])],
        returns=[(2.0, "BacklogFull"), (4.1, result(1))],
        delivered=1,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "block: a disk that is busy for a tenth of a second is no trouble, however short block_timeout is",
        options={"block_timeout": 0.0},
        backlog=keeps(append=0.09),
        program=[track(1, "a", 1), Flush(2)],
        also=[track(1.01, "a", 2)],
        until=10,
        requests=[(2.0, "a", [1, 2])],
        returns=[(2.1, result(2))],
        delivered=2,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "block: a slow disk is no refusal, however short block_timeout is",
        options={"block_timeout": 0.5},
        backlog=keeps(append=3.0),
        program=[track(1, "a", 1), Flush(1)],
        until=10,
        requests=[(4.0, "a", [1])],
        returns=[(4.1, result(1))],
        delivered=1,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "raise: what the disk refuses is refused at once, and so is what comes in the pause",
        options={"on_full": "raise"},
        backlog=fails("append", 0, 1.5),
        program=[track(1, "a", 1), track(1.5, "a", 2), track(2, "a", 3), Flush(2)],
        until=10,
        requests=[(2.0, "a", [3])],
        returns=[(1.0, "BacklogFull"), (1.5, "BacklogFull"), (2.1, result(1))],
        delivered=1,
        kept=[],
        in_background=True,
    ),
    *(
        Scenario(
            f"{on_full}: what the disk refuses is lost and told, and so is what comes in the pause",
            options={"on_full": on_full},
            backlog=fails("append", 0, 1.5),
            program=[track(1, "a", 1), track(1.5, "a", 2), track(2, "a", 3), Flush(2)],
            until=10,
            requests=[(2.0, "a", [3])],
            returns=[(2.1, result(1))],
            losses=[(1.0, "a", [1], "backlog_full"), (1.5, "a", [2], "backlog_full")],
            delivered=1,
            lost={"backlog_full": 2},
            kept=[],
            in_background=True,
        )
        for on_full in ("drop_newest", "drop_oldest")
    ),
    Scenario(
        "raise: what waits behind a write for more than a second is refused, what is written is not",
        options={"on_full": "raise"},
        backlog=keeps(append=3.0),
        program=[track(1, "a", 1), Flush(4)],
        also=[track(1.5, "b", 2)],
        until=10,
        requests=[(4.0, "a", [1])],
        returns=[(2.5, "BacklogFull"), (4.1, result(1))],
        delivered=1,
        kept=[],
        in_background=True,
    ),
    *(
        Scenario(
            f"{on_full}: what waits behind a write for more than a second is lost and told",
            options={"on_full": on_full},
            backlog=keeps(append=3.0),
            program=[track(1, "a", 1), Flush(4)],
            also=[track(1.5, "b", 2), track(1.5, "b", 3)],
            until=10,
            requests=[(4.0, "a", [1])],
            returns=[(4.1, result(1))],
            losses=[(2.5, "b", [2], "backlog_full"), (3.5, "b", [3], "backlog_full")],
            delivered=1,
            lost={"backlog_full": 2},
            kept=[],
            in_background=True,
        )
        for on_full in ("drop_newest", "drop_oldest")
    ),
    Scenario(
        "what cannot be kept is sent all the same, and dropped when the disk is well",
        options={"max_batch_events": 1},
        backlog=fails("update", 0, 10),
        program=[track(1, "a", 1, 2), Flush(1)],
        until=30,
        requests=[(1.0, "a", [1]), (1.1, "a", [2])],
        returns=[(1.2, result(2))],
        delivered=2,
        kept=[],
        in_background=True,
    ),
    *(
        Scenario(
            f"stop leaves in the backlog what a hanging server did not confirm; {level}",
            options={"max_batch_events": 2},
            server={"a": [HANGS]},
            backlog=keeps(level),
            program=[track(1, "a", 1, 2, 3), track(2, "b", 4), Stop(3, timeout=1), Stop(4)],
            until=100,
            requests=[(1.0, "a", [1, 2]), (3.0, "b", [4])],
            returns=[(3.9, result(1, pending=3)), (4.0, result(pending=3))],
            delivered=1,
            pending=3,
            kept=[1, 2, 3],
            in_background=True,
        )
        for level in ("memory", "process", "disk")
    ),
    Scenario(
        "stop without time leaves all in the backlog",
        backlog=keeps("memory"),
        program=[track(1, "a", 1, 2), Stop(3, timeout=0)],
        until=100,
        requests=[],
        returns=[(3.0, result(pending=2))],
        pending=2,
        kept=[1, 2],
        in_background=True,
    ),
    Scenario(
        "stop with a disk that takes nothing: what is in memory alone is lost, and told",
        options={"max_batch_events": 1},
        server={"a": [HANGS]},
        backlog=fails("update", 0, 1000, level="memory"),
        program=[track(1, "a", 1, 2), Stop(3, timeout=1)],
        until=100,
        requests=[(1.0, "a", [1])],
        returns=[(3.9, result(lost=2))],
        losses=[(3.9, "a", [1], "stopped"), (3.9, "a", [2], "stopped")],
        lost={"stopped": 2},
        kept=[],
        in_background=True,
    ),
    Scenario(
        "stop with a disk that takes no batches: what has a record is left",
        options={"max_batch_events": 1},
        server={"a": [HANGS]},
        backlog=fails("update", 0, 1000),
        program=[track(1, "a", 1, 2), Stop(3, timeout=1)],
        until=100,
        requests=[(1.0, "a", [1])],
        returns=[(3.9, result(pending=2))],
        pending=2,
        kept=[1, 2],
        in_background=True,
    ),
    Scenario(
        "stop while track waits for a disk that takes nothing: that is refused",
        backlog=fails("append", 0, 1000),
        program=[track(1, "a", 1)],
        also=[Stop(3, timeout=1)],
        until=100,
        requests=[],
        returns=[(3.0, "BacklogFull"), (3.0, result())],
        kept=[],
        in_background=True,
    ),
    Scenario(
        "stop while an update is under way waits for it, and leaves the rest",
        options={"max_batch_events": 1},
        server={"a": [HANGS]},
        backlog=keeps("memory", update=0.8),
        program=[track(1, "a", 1), track(1.5, "a", 2), Stop(2, timeout=2), Stop(2)],
        until=100,
        requests=[(1.8, "a", [1])],
        returns=[(4.6, result(pending=2)), (4.6, result(pending=2))],
        pending=2,
        kept=[1, 2],
        in_background=True,
    ),
    Scenario(
        "full batches are kept several at a time, and then sent one after another without waiting for the disk",
        options={"max_batch_events": 1},
        backlog=keeps("memory", update=0.8),
        program=[track(1, "a", 1), track(1.5, "a", 2, 3, 4)],
        until=10,
        requests=[(1.8, "a", [1]), (2.7, "a", [2]), (2.8, "a", [3]), (2.9, "a", [4])],
        delivered=4,
        kept=[],
        in_background=True,
    ),
    Scenario(
        "an event that its server refuses for good is lost, and not kept",
        options={"max_batch_events": 2},
        server=refuses(1),
        backlog=keeps(),
        program=[track(1, "a", 1, 2), Flush(2)],
        until=10,
        requests=[(1.0, "a", [1, 2]), (1.1, "a", [1]), (1.2, "a", [2])],
        returns=[(2.0, result())],
        losses=[(1.2, "a", [1], "rejected")],
        delivered=1,
        lost={"rejected": 1},
        kept=[],
        in_background=True,
    ),
]
