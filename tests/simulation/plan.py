"""What one run is like: which faults it has and how many, which options the tracker, which load.

Swarm testing: a run that has every fault at once reaches little, since the one hides the other.  So each draws which
kinds are on at all, and each kind that is on draws its own rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from atom_sansio import Level, OnFull, RetryPolicy

NETWORK = (
    "refused",  # no connection
    "reset before",  # the request is lost, and the client knows at once
    "vanish",  # the request is lost, and nobody says so
    "reset after",  # stored, but the reply is lost
    "reply vanishes",
    "half reply",
    "garbage before",
    "garbage after",
    "duplicate",
    "slow",  # so slow that it may arrive after the client gave up
    "stale before",  # the connection had been idle, and was closed meanwhile
    "stale after",
    "overloaded",  # 429 and 503, with Retry-After in all forms
    "error",  # other answers that ask to come again
    "redirect",
    "too large",  # 413 by something in front of the collector
    "not found",
    "forbidden",
)
"""What may become of a request on its way."""

EVENTS = (
    "crash",
    "server restart",
    "store full",
    "rotate",
    "revoke",
    "set key",
    "limit",
    "flush",
    "close",
    "abandon",
    "bad event",
    "power loss",
    "full disk",
    "stop on full disk",
    "disk errors",
    "slow disk",
    "damage",
    "other keys",
)
"""What else may happen, each at moments of its own."""


@dataclass(slots=True)
class Plan:
    """All that is drawn before a run begins."""

    options: dict[str, Any]
    streams: list[str]
    signed: bool
    """Whether there are keys."""
    network: dict[str, float]
    """Share of requests by what becomes of them; the rest gets through."""
    events: dict[str, float]
    """How often each happens in a fault phase, on average."""
    explicit: float
    """Share of bursts that come with a key of their own."""
    interrupts: float
    """Share of calls that are interrupted."""
    pull_one: float
    """Share of pulls that stop after one command, as when several senders take turns."""
    burst: int
    """Events at once at most."""
    shapes: list[float]
    """Weights."""
    gap: float
    """Seconds between bursts on average."""
    seconds: float
    """How long the fault phase lasts."""
    max_events: int
    level: Level | None
    """Of the backlog, if there is one."""
    real: bool
    """Whether it is the real one, on a RAM disk."""
    window: int
    memory: int
    generation_size: int
    """Bytes of records."""
    slack: int
    """Of the keeper's queue."""
    slow_writes: float
    """Share of writes of records that take some time."""
    callers: int
    """Events at most that are tracked at once and share a write."""
    quick: bool
    """Whether who tracks writes its record itself, as with threads; else it is written later, as in an event loop."""
    per_request: int
    """Events that go into a request, by the limits; a request costs as much time as a hundred events and more."""
    nowait: float
    """Share of bursts in an event loop that do not wait for their records."""
    max_requests: int
    max_poison: int = 40


def draw(rng: Random, *, events: int, shapes: int) -> Plan:
    """A plan for about *events* events at most."""
    batch_bytes: int = rng.choice((1024, 2048, 8192, 65536, 131072, 131072, 524288))
    pending_bytes = max(batch_bytes, rng.choice((2048, 16384, 262144, 1 << 26, 1 << 26, 1 << 26, 1 << 26)))
    base = rng.choice((0.1, 0.5, 3.0))
    options = {
        "endpoint": rng.choice(("http://collector.example", "http://[::1]:3000/base/")),
        "max_batch_events": rng.choice((1, 2, 5, 50, 500, 2000, 2000, 2000)),
        "max_batch_bytes": batch_bytes,
        "flush_interval": rng.choice((0.05, 1.0, 10.0, 60.0)),
        "max_pending_bytes": pending_bytes,
        "max_pending_events": rng.choice((None, None, None, None, None, None, 1, 10, 100, 5000)),
        "on_full": rng.choice((*OnFull, OnFull.RAISE)),  # what comes of it when a disk fails is the most intricate
        "max_in_flight": rng.choice((1, 2, 4, 8)),
        "request_timeout": rng.choice((1.0, 10.0, 60.0)),
        "retry": RetryPolicy(
            base=base,
            cap=rng.choice((3.0, 60.0, 1800.0)),
            max_attempts=rng.choice((None, None, None, 1, 2, 5)),
            max_elapsed=rng.choice((None, None, None, 1.0, 60.0)),
        ),
    }
    names = ["clicks", "поток", '"quoted\\"', "cluster.schema.events", "e", "f"]
    many = [f"stream-{i}" for i in range(40)] if rng.random() < 0.05 else []
    weights = [1.0 if rng.random() < 0.5 else 0.0 for _ in range(shapes)]
    weights[0] = 3.0
    weights[-1] *= 0.01
    weights[-2] *= 10 ** rng.uniform(-3, -1)
    weights[-3] *= 0.1
    faulty = rng.random() < 0.9
    per_request = min(options["max_batch_events"], max(1, batch_bytes // 200))
    cheap = per_request >= 50 and pending_bytes >= 262144 and (options["max_pending_events"] or 5000) >= 5000
    if not cheap:  # an event takes as much time as ten of the others
        events = min(events, 1000)
    burst = rng.choice((1, 10, 100, 1000, 2000, 8000) if not cheap else (10, 1000, 4000, 8000, 8000))
    seconds = rng.choice((20.0, 200.0, 2000.0))
    level = rng.choice((None, None, Level.MEMORY, Level.PROCESS, Level.PROCESS, Level.DISK))
    real = level is not None and rng.random() < 0.08
    kinds = EVENTS if level is not None else EVENTS[: EVENTS.index("power loss")]
    if real:
        kinds = (*kinds[: kinds.index("power loss")], "other keys")
    return Plan(
        options=options,
        streams=names[: rng.randint(1, len(names))] + many,
        signed=rng.random() < 0.8,
        network={name: 10 ** rng.uniform(-2.5, -0.6) for name in NETWORK if faulty and rng.random() < 0.35},
        events={
            name: rng.choice((0.5, 2.0, 8.0))
            for name in kinds
            if faulty and rng.random() < (0.8 if name == "disk errors" else 0.4)
        },
        level=level,
        real=real,
        window=rng.choice((0, 3000, 100_000, 1 << 25)),
        memory=batch_bytes * rng.choice((2, 10, 1 << 20)),
        generation_size=rng.choice((2000, 50_000, 1 << 25)),
        slack=rng.choice((2, 1024)),
        slow_writes=rng.choice((0.0, 0.1, 0.5)),
        callers=rng.choice((1, 10, 200)),
        explicit=rng.choice((0.0, 0.1, 0.4)),
        interrupts=rng.choice((0.0, 0.01, 0.1)),
        pull_one=rng.choice((0.0, 0.2, 0.9)),
        burst=min(burst, 40 * per_request),
        per_request=per_request,
        max_requests=250 if cheap else 100,
        shapes=weights,
        gap=seconds / rng.choice((30, 100, 400)),
        seconds=seconds,
        max_events=events,
        quick=rng.random() < 0.5,
        nowait=rng.choice((0.0, 0.2, 0.8)),
    )
