"""Where the time goes: the parts of delivery one by one, each as the least of many short runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import orjson

import atom_sync
from atom_sansio import Endpoint, HttpConnection, Options, Reply, SendRequest, TrackerCore, encode_event

from .measure import pinned
from .sink import Sink
from .workload import KEY, SMALL, STREAM, counting_sink

ENDPOINT = "http://127.0.0.1:3000/"
OK = Reply(status=200, headers=(), body=b"")
REPLY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"Status":"OK"}'


def _core(batch: int) -> TrackerCore:
    arguments = {"endpoint": ENDPOINT, "auth_key": KEY, "max_batch_events": batch}
    return TrackerCore(Options.read(arguments, {}, lambda name: None), source="benchmark")


def least(run: Callable[[], object], *, calls: int, rounds: int = 60) -> float:
    """Microseconds a call of *run*, by the fastest of *rounds*; others on the machine only ever make it slower."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            run()
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6


def of_an_event() -> dict[str, float]:
    """Parts of ``track()``."""
    lock = threading.RLock()
    core = _core(2000)
    line = encode_event(SMALL)

    def locked() -> None:
        with lock:
            pass

    def admit() -> None:
        core.track_line(STREAM, line, now=0.0)

    with atom_sync.Tracker(ENDPOINT, transport=atom_sync.MemoryTransport, flush_interval=600) as tracker:
        return {
            "orjson.dumps(event)": least(lambda: orjson.dumps(SMALL), calls=1000),
            "encode_event(event): strict, one line": least(lambda: encode_event(SMALL), calls=1000),
            "a re-entrant lock, taken and released": least(locked, calls=1000),
            "core.track_line(line): lane, budget, buffer": least(admit, calls=1000),
            "Tracker.track(event), all of it, beside its senders": least(
                lambda: tracker.track(STREAM, SMALL), calls=1000, rounds=30
            ),
        }


def of_a_batch(batch: int) -> dict[str, float]:
    """Parts of sending one full batch."""
    core = _core(batch)
    line = encode_event(SMALL)
    command: SendRequest | None = None

    def decide() -> None:
        nonlocal command
        for _ in range(batch):
            core.track_line(STREAM, line, now=0.0)
        while (it := core.next_command(now=0.0)) is not None:
            assert isinstance(it, SendRequest)
            command = it
            core.response_received(it.batch_id, OK, now=0.0, unit=0.5)
        core.next_deadline()

    def admit() -> None:
        fresh = _core(2000)
        for _ in range(batch):
            fresh.track_line(STREAM, line, now=0.0)

    both = least(decide, calls=10)
    alone = least(admit, calls=10)
    assert command is not None
    request = command.request
    connection = HttpConnection(Endpoint.parse(ENDPOINT).origin)

    def frame() -> None:
        connection.send(request)
        connection.receive_data(REPLY)
        connection.next_reply()

    data = orjson.dumps([SMALL] * batch)
    return {
        "core: cut, sign, escape, build, settle": max(both - alone, 0.0),
        "of it the least there is: escape alone": least(lambda: orjson.dumps(data.decode()), calls=50),
        "HttpConnection: one exchange without a socket": least(frame, calls=100),
    }


def exchange(sink: Sink) -> float:
    """Microseconds of ``SocketTransport.send`` against the sink, system calls and all, with 7 KB."""
    core = _core(64)
    for _ in range(64):
        core.track(STREAM, SMALL, now=0.0)
    command = core.next_command(now=0.0)
    assert isinstance(command, SendRequest)
    origin = Endpoint.parse(sink.url).origin
    request = type(command.request)(
        method="POST", origin=origin, target="/bulk", headers=command.request.headers, body=command.request.body
    )
    transport = atom_sync.SocketTransport()
    try:
        return least(lambda: transport.send(request, timeout=10), calls=100)
    finally:
        transport.close()


def show() -> None:
    """Print them all."""
    with pinned(), counting_sink() as sink:
        print("| part | us |\n| --- | ---: |")
        for name, cost in of_an_event().items():
            print(f"| {name} | {cost:.3f} |")
        for batch in (64, 1168):
            for name, cost in of_a_batch(batch).items():
                print(f"| {batch} events, {name} | {cost:.1f} |")
        print(f"| SocketTransport.send, 7 KB, sink included in the wait | {exchange(sink):.1f} |")
