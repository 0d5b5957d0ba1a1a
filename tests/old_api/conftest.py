"""What the tests of the old API share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from benches import Bench, ModelCollector, VirtualClock

from atom_sync import MemoryTransport
from ironsource.atom.ironsource_atom import IronSourceAtom


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock(draws=[0.999]) as clock:
        yield clock


@pytest.fixture
def bench(clock: VirtualClock) -> Iterator[Callable[..., Bench]]:
    """Makes benches; their trackers are stopped in the end."""
    made: list[Bench] = []

    def make(*, answer: Any = None, delay: Any = 0, **settings: Any) -> Bench:
        made.append(Bench(clock, answer, delay, settings))
        return made[-1]

    yield make
    for each in reversed(made):
        each.tracker.stop()


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    """No test leaves a signal handler behind."""
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.fixture
def low() -> Callable[..., tuple[IronSourceAtom, MemoryTransport]]:
    """Makes low-level objects over a transport in memory."""

    def make(answer: Any = None, **settings: Any) -> tuple[IronSourceAtom, MemoryTransport]:
        transport = MemoryTransport(answer)

        class Atom(IronSourceAtom):
            _new_transport = staticmethod(lambda: transport)  # type: ignore[assignment]

        return Atom(**settings), transport

    return make


@pytest.fixture
def collector() -> Iterator[ModelCollector]:
    with ModelCollector() as collector:
        yield collector
