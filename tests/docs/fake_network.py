"""A network in memory on virtual time: what the selectors driver takes from the system, replaced."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from typing import Any, TypeAlias

from atom_sansio import Origin

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"Status":"OK"}'

Answer: TypeAlias = tuple[float, bytes | OSError] | None
"""Seconds after the request, and what is read then: bytes, ``b""`` for the end, or an error.  None for nothing."""


class FakeNetwork:
    """Answers each whole request by *answer*, given the request's bytes and its number.

    Hand ``clock``, ``connect`` and ``selector`` to the driver.  ``requests`` holds (time, bytes) pairs.
    """

    def __init__(self, answer: Callable[[bytes, int], Answer] = lambda request, number: (0.0, OK)) -> None:
        self.now = 0.0
        self.answer = answer
        self.requests: list[tuple[float, bytes]] = []
        self.sockets: list[FakeSocket] = []
        self.selector = FakeSelector(self)

    def clock(self) -> float:
        return self.now

    def connect(self, origin: Origin) -> Iterator[Any]:
        sock = FakeSocket(self)
        self.sockets.append(sock)
        yield sock


class FakeSocket:
    def __init__(self, network: FakeNetwork) -> None:
        self._network = network
        self._received = b""
        self.due: list[tuple[float, bytes | OSError]] = []
        self.closed = False

    def fileno(self) -> int:
        return -1 if self.closed else id(self)

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return 0

    def send(self, data: bytes) -> int:
        taken = bytes(data[:1000])  # a socket takes as much as it likes
        self._received += taken
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if blank and len(body) == int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]):
            network = self._network
            network.requests.append((network.now, self._received))
            answer = network.answer(self._received, len(network.requests))
            self._received = b""
            if answer is not None:
                self.due.append((network.now + answer[0], answer[1]))
        return len(taken)

    def recv(self, size: int) -> bytes:
        if not self.due or self.due[0][0] > self._network.now:
            raise BlockingIOError
        _, data = self.due.pop(0)
        if isinstance(data, OSError):
            raise data
        return data

    def close(self) -> None:
        self.closed = True


class FakeSelector(BaseSelector):
    """Never waits: when nothing is ready it moves the clock to what comes first."""

    def __init__(self, network: FakeNetwork) -> None:
        self._network = network
        self._keys: dict[Any, SelectorKey] = {}
        self.closed = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        assert fileobj not in self._keys
        self._keys[fileobj] = SelectorKey(fileobj, 0, events, data)
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        ready = self._ready()
        if not ready:
            due = [key.fileobj.due[0][0] for key in self._keys.values() if key.fileobj.due]  # type: ignore[union-attr]
            times = due if timeout is None else [*due, self._network.now + timeout]
            assert times, "this would wait for ever"
            self._network.now = max(self._network.now, min(times))
            ready = self._ready()
        return ready

    def close(self) -> None:
        self.closed = True

    def _ready(self) -> list[tuple[SelectorKey, int]]:
        ready = []
        for key in self._keys.values():
            due = key.fileobj.due  # type: ignore[union-attr]
            events = key.events & (EVENT_WRITE | (EVENT_READ if due and due[0][0] <= self._network.now else 0))
            if events:
                ready.append((key, events))
        return ready
