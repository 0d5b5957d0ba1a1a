"""What is measured: the tightest honest loops, and ours.  Each takes events to the sink and is done then."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

import anyio
import anyio.lowlevel
import orjson

import atom_anyio
import atom_sync

from .sink import Sink

STREAM = "bench.public.events"
KEY = "0123456789abcdef0123456789abcdef"
SMALL = {"id": 123, "event_name": "PYTHON_SDK_TRACKER_EXAMPLE", "string_value": "0.7312345", "ts": 1700000000.123}
"""99 bytes as JSON."""
NEEDLE = '\\"event_name\\"'

Events = list[dict[str, Any]]
_KEY = KEY.encode()


def _body(events: Events) -> bytes:
    data = orjson.dumps(events)
    signature = hmac.digest(_KEY, data, "sha256").hex().encode()
    return b'{"table":"%s","data":%s,"auth":"%s","bulk":true}' % (
        STREAM.encode(),
        orjson.dumps(data.decode()),
        signature,
    )


def _head(sink: Sink, body: bytes) -> bytes:
    return (
        b"POST /bulk HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (sink.port, len(body))
    )


def limit(sink: Sink, events: Events, batch: int) -> None:
    """One thread, ready dicts, one raw socket: serialise, sign, escape, two system calls."""
    with socket.create_connection(("127.0.0.1", sink.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source = iter(events)
        while chunk := list(islice(source, batch)):
            body = _body(chunk)
            connection.sendall(_head(sink, body) + body)
            reply = connection.recv(65536)
            while not reply.endswith(b"}"):
                reply += connection.recv(65536)
            if reply[9:12] != b"200":
                raise RuntimeError(reply)


async def limit_async(sink: Sink, events: Events, batch: int) -> None:
    """The same over a raw anyio stream."""
    async with await anyio.connect_tcp("127.0.0.1", sink.port) as connection:
        source = iter(events)
        while chunk := list(islice(source, batch)):
            body = _body(chunk)
            await connection.send(_head(sink, body) + body)
            reply = await connection.receive()
            while not reply.endswith(b"}"):
                reply += await connection.receive()
            if reply[9:12] != b"200":
                raise RuntimeError(reply)


def threads(sink: Sink, events: Events, batch: int) -> None:
    """``atom_sync.Tracker``: one thread tracks, the driver's send."""
    with atom_sync.Tracker(sink.url, auth_key=KEY, max_batch_events=batch) as tracker:
        track = tracker.track
        for event in events:
            track(STREAM, event)
        if not tracker.flush(60):
            raise RuntimeError(tracker.statistics())


async def tasks(sink: Sink, events: Events, batch: int) -> None:
    """``atom_anyio.Tracker``: the program gives the loop a turn after every 128 events."""
    async with atom_anyio.Tracker(sink.url, auth_key=KEY, max_batch_events=batch) as tracker:
        track = tracker.track_nowait
        for i, event in enumerate(events):
            track(STREAM, event)
            if not i & 127:
                await anyio.lowlevel.checkpoint()
        if not await tracker.flush(60):
            raise RuntimeError(tracker.statistics())


def on(backend: str, loop: Callable[[Sink, Events, int], Awaitable[None]]) -> Callable[[Sink, Events, int], None]:
    """*loop* run by itself on asyncio, uvloop or trio."""
    options = {"use_uvloop": True} if backend == "uvloop" else {}
    name = "trio" if backend == "trio" else "asyncio"

    def run(sink: Sink, events: Events, batch: int) -> None:
        anyio.run(loop, sink, events, batch, backend=name, backend_options=options)

    return run
