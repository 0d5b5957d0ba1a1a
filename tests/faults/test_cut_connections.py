"""A connection that is cut after byte N, for every N of the request and every N of the reply."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import pytest
from interrupted_programs import PATIENCE, arrived, stats
from scripted_servers import Peer, Server
from trackers import DRIVERS, open_tracker, when_asked_for

from atom_anyio import StreamTransport
from atom_anyio.collector import Collector
from atom_sansio import RetryPolicy, Statistics
from atom_sync import SocketTransport

EVERY: Final = int(os.environ.get("ATOM_FAULTS_EVERY", "1"))
"""Every how many bytes there is a cut; 1 for all of them."""

pytestmark = when_asked_for

AT_ONCE: Final = RetryPolicy(base=1e-6, cap=1e-6)

KEY: Final = "the key"

TRANSPORTS: Final = {"threads": SocketTransport, "asyncio": StreamTransport, "trio": StreamTransport}

Plan: TypeAlias = Callable[[str, int, int], "int | None"]
"""Of ``request`` or ``reply``, its size and the number of the attempt, from 1, to where it is cut."""


class Cutter:
    """Stands before a collector, and cuts connections.  Where it cuts a reply, the events have been stored.

    Args:
        upstream: The collector's URL.
        way: ``closed`` with FIN, ``reset`` with RST, or ``half-closed``: no more is said, but still listened to.
        plan: Where to cut, or None to pass on.
    """

    def __init__(self, upstream: str, way: str, plan: Plan) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._way = way
        self._plan = plan
        self._lock = threading.Lock()
        self.cuts = Counter[str]()
        """How many there were of the request, of the reply, and how many of these after the whole reply."""
        self.requests: dict[bytes, list[bytes]] = {}
        """What was sent under each batch id."""

    def script(self, peer: Peer, number: int) -> None:
        """What is done with each connection."""
        with socket.create_connection(self._upstream, timeout=PATIENCE) as sock:
            collector = Peer(sock)
            while request := peer.read_request():
                batch_id = next(line for line in request.split(b"\r\n") if line.startswith(b"Idempotency-Key: "))
                with self._lock:
                    attempts = self.requests.setdefault(batch_id, [])
                    attempts.append(request)
                cut = self._cut("request", request, len(attempts))
                if cut is not None:
                    collector.write(request[:cut])
                    self._end(collector)
                    self._end(peer)
                    return
                collector.write(request)
                reply = collector.read_request()
                cut = self._cut("reply", reply, len(attempts))
                if cut is not None:
                    peer.write(reply[:cut])
                    self._end(peer)
                    return
                peer.write(reply)

    def _cut(self, what: str, data: bytes, attempt: int) -> int | None:
        with self._lock:
            cut = self._plan(what, len(data), attempt)
            if cut is not None:
                self.cuts[what] += 1
                self.cuts["whole"] += what == "reply" and cut == len(data)
            return cut

    def _end(self, peer: Peer) -> None:
        if self._way == "closed":
            peer.close()
        elif self._way == "reset":
            peer.reset()
        else:
            peer.socket.shutdown(socket.SHUT_WR)
            peer.left()
            peer.close()


class Everywhere:
    """Cuts once for each batch: the first one's request before its first byte, the next one's after that, and so on
    to the cut behind the last byte; then it is the turn of the replies."""

    def __init__(self) -> None:
        self._what = "request"
        self._cut = 0
        self.done = False

    def __call__(self, what: str, size: int, attempt: int) -> int | None:
        if self.done or what != self._what or attempt > 1:
            return None
        cut = min(self._cut, size)  # ids and lengths grow by a digit now and then
        self._cut = min(cut + EVERY, size)
        if cut == size:
            self.done = what == "reply"
            self._what, self._cut = "reply", 0
        return cut


@contextmanager
def cutting(way: str, plan: Plan) -> Iterator[tuple[str, Cutter, str]]:
    """The address of a cutter, the cutter, and the address of the collector behind it."""
    with Collector(default_key=KEY) as url:
        cutter = Cutter(url, way, plan)
        with Server(cutter.script) as server:
            yield f"http://{server.origin().authority}/", cutter, url


def check(cutter: Cutter, collector: str, statistics: Statistics, events: int) -> None:
    """Each event was stored once, however often it was sent; every attempt was the same; the books balance."""
    assert arrived(collector, resent=True) == dict.fromkeys(range(events), 1)
    stored = stats(collector)
    cuts = cutter.cuts["request"] + cutter.cuts["reply"]
    print(f"{cutter.cuts['request']} cuts of requests, {cutter.cuts['reply']} of replies; {stored}")
    assert stored["rejected"] == 0
    assert all(len(set(requests)) == 1 for requests in cutter.requests.values())
    assert (statistics.accepted, statistics.delivered, statistics.pending) == (events, events, 0)
    assert statistics.lost == {}
    # After a whole reply there is no failure, but the next request may go to a connection that is just being closed.
    assert cuts - cutter.cuts["whole"] <= statistics.failures <= cuts
    assert statistics.requests == events + statistics.failures


@pytest.mark.parametrize(("way", "max_idle"), [("closed", 16), ("reset", 0), ("half-closed", 16)])
@pytest.mark.parametrize("driver", DRIVERS)
def test_cut(driver: str, way: str, max_idle: int) -> None:
    """Wherever a request or its reply is cut, its event is sent again under the same id, and stored once."""
    plan = Everywhere()
    transport = partial(TRANSPORTS[driver], max_idle=max_idle)
    with cutting(way, plan) as (url, cutter, collector):
        events = 0
        with open_tracker(driver, url, auth_key=KEY, retry=AT_ONCE, transport=transport) as tracker:
            while not plan.done:
                tracker.track("s", events)
                events += 1
                result = tracker.flush(PATIENCE / 2)
                assert (result.delivered, result.lost, result.pending) == (1, 0, 0), cutter.cuts
            statistics = tracker.statistics()
        check(cutter, collector, statistics, events)
        # Of a request that was passed on whole nobody knows whether it was stored.
        unheard = cutter.cuts["reply"] - cutter.cuts["whole"]
        assert unheard <= stats(collector)["duplicates"] <= unheard + 1
    assert events == cutter.cuts["request"] + cutter.cuts["reply"]
    assert events > 400 / EVERY


@pytest.mark.parametrize("driver", DRIVERS)
def test_cut_side_by_side(driver: str) -> None:
    """The same when the first attempts of many batches, several in flight at once, are cut anywhere."""
    draws = Random(6)

    def plan(what: str, size: int, attempt: int) -> int | None:
        return draws.randrange(size) if attempt <= 5 and draws.random() < 0.5 else None

    with cutting("reset", plan) as (url, cutter, collector):
        with open_tracker(driver, url, auth_key=KEY, retry=AT_ONCE, max_batch_events=1, max_in_flight=8) as tracker:
            for n in range(60):
                tracker.track(f"s{n % 20}", n)
            assert tracker.flush(PATIENCE / 2), cutter.cuts
            statistics = tracker.statistics()
        check(cutter, collector, statistics, 60)
    assert sum(cutter.cuts.values()) > 60
