"""A transport that does not send more than so many events a second."""

from __future__ import annotations

import threading
import time

import orjson

from atom_sansio import ConnectionFailed, RemoteError, Reply, Request, element_texts
from atom_sync import Transport


class Paced:
    """Sends by *transport*, whole batches, with pauses between them, and knows what came of the last one.

    Args:
        rate: events a second at most, on average; None for no limit.
    """

    def __init__(self, transport: Transport, rate: float | None) -> None:
        self._transport = transport
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._hurried = threading.Event()
        self._pausing = 0
        self.trouble = ""
        """What came of the last attempt, if it was no delivery."""

    @property
    def pausing(self) -> bool:
        """Whether a request waits for its time."""
        return self._pausing > 0

    def send(self, request: Request, *, timeout: float) -> Reply:
        """The reply, after a pause that does not count as part of *timeout*."""
        if self._rate is not None:
            self._pause(_events(request), self._rate)
        try:
            reply = self._transport.send(request, timeout=timeout)
        except RemoteError as error:
            self.trouble = str(error)
            raise
        self.trouble = "" if 200 <= reply.status < 300 else f"status {reply.status}"
        return reply

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def hurry(self) -> None:
        """Let what waits for its time fail, and pause no more: the tracker stops."""
        self._hurried.set()

    def _pause(self, events: int, rate: float) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + events / rate
            self._pausing += 1
        try:
            if self._hurried.wait(min(begin - now, threading.TIMEOUT_MAX)):
                raise ConnectionFailed("not sent: it was not its time yet")
        finally:
            with self._lock:
                self._pausing -= 1


def _events(request: Request) -> int:
    """How many there are in a batch, which is JSON within JSON."""
    try:
        return len(element_texts(orjson.loads(request.body)["data"]))  # orjson does not read all numbers
    except ValueError:  # an event that was handed in as text and is no JSON: the collector is to say so
        return 1
