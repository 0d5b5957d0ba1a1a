"""The least that Python can do for the same result: the loops that ours are held against.

Each takes ready events to the sink over one connection, without a bound, a retry, a lock or a second request in flight,
and returns the CPU seconds that the whole process spent on it, connecting not included.
"""

from __future__ import annotations

import hmac
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import cycle, islice

import anyio
import anyio.lowlevel
import orjson

from .sink import Sink
from .workload import KEY, STREAM, WARM_UP, Event

TURN = 128
"""Events after which a program on a loop gives the loop a turn."""

_KEY = KEY.encode()


def request(sink: Sink, stream: str, events: list[Event]) -> bytes:
    """One signed POST, made in the cheapest way known: serialise the list, sign, escape, join."""
    data = orjson.dumps(events)
    signature = hmac.digest(_KEY, data, "sha256").hex().encode()
    body = b'{"table":"%s","data":%s,"auth":"%s","bulk":true}' % (
        stream.encode(),
        orjson.dumps(data.decode()),
        signature,
    )
    return (
        b"POST /bulk HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (sink.port, len(body), body)
    )


def connect(sink: Sink) -> socket.socket:
    """A raw connection to *sink*."""
    connection = socket.create_connection(("127.0.0.1", sink.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def post(connection: socket.socket, data: bytes) -> None:
    """Send a whole request and read the sink's short reply."""
    connection.sendall(data)
    reply = connection.recv(65536)
    while not reply.endswith(b"}"):
        reply += connection.recv(65536)
    if reply[9:12] != b"200":
        raise RuntimeError(reply)


def one_socket(sink: Sink, events: Iterable[Event], batch: int) -> float:
    """One thread, one raw socket: two system calls a batch."""
    with connect(sink) as connection:
        post(connection, request(sink, STREAM, [WARM_UP]))
        began = time.process_time()
        source = iter(events)
        while chunk := list(islice(source, batch)):
            post(connection, request(sink, STREAM, chunk))
        return time.process_time() - began


def one_socket_over_streams(sink: Sink, events: Iterable[Event], streams: Sequence[str], batch: int) -> float:
    """The same, with the events going to *streams* in turn: a list for each."""
    with connect(sink) as connection:
        post(connection, request(sink, STREAM, [WARM_UP]))
        began = time.process_time()
        buffers: dict[str, list[Event]] = {}
        for stream, event in zip(cycle(streams), events, strict=False):
            buffer = buffers.get(stream)
            if buffer is None:
                buffer = buffers[stream] = []
            buffer.append(event)
            if len(buffer) == batch:
                post(connection, request(sink, stream, buffer))
                buffer.clear()
        for stream, buffer in buffers.items():
            if buffer:
                post(connection, request(sink, stream, buffer))
        return time.process_time() - began


def from_a_deque(sink: Sink, pending: deque[Event], batch: int) -> float:
    """:func:`one_socket`, emptying what was collected before."""

    def drain() -> Iterable[Event]:
        pop = pending.popleft
        while pending:
            yield pop()

    return one_socket(sink, drain(), batch)


async def one_stream(sink: Sink, events: Iterable[Event], batch: int) -> float:
    """A plain ``track()`` that appends, and one task that drains full batches over a raw anyio stream."""
    pending: deque[Event] = deque()
    ready = anyio.Event()
    finished = False
    async with await anyio.connect_tcp("127.0.0.1", sink.port) as connection:

        async def exchange(data: bytes) -> None:
            await connection.send(data)
            reply = await connection.receive()
            while not reply.endswith(b"}"):
                reply += await connection.receive()
            if reply[9:12] != b"200":
                raise RuntimeError(reply)

        async def drain() -> None:
            nonlocal ready
            pop = pending.popleft
            while True:
                while len(pending) >= batch or (finished and pending):
                    await exchange(request(sink, STREAM, [pop() for _ in range(min(batch, len(pending)))]))
                if finished:
                    return
                ready = anyio.Event()
                await ready.wait()

        append = pending.append

        def track(event: Event) -> None:
            append(event)
            if len(pending) >= batch and not ready.is_set():
                ready.set()

        await exchange(request(sink, STREAM, [WARM_UP]))
        async with anyio.create_task_group() as group:
            group.start_soon(drain)
            await anyio.lowlevel.checkpoint()
            began = time.process_time()
            for i, event in enumerate(events):
                track(event)
                if not i % TURN:
                    await anyio.lowlevel.checkpoint()
            finished = True
            ready.set()
        return time.process_time() - began
