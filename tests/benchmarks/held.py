"""A transport that waits: events pile up behind it until they are let go."""

from __future__ import annotations

import threading

import atom_sync
from atom_sansio import Reply, Request


class Held:
    """Sends nothing until :meth:`release`, then everything through *inner*."""

    def __init__(self, inner: atom_sync.Transport) -> None:
        self._inner = inner
        self._released = threading.Event()
        self.reached = threading.Event()
        """Set as soon as a request waits."""

    def release(self) -> None:
        """Let go what waits and what comes."""
        self._released.set()

    def send(self, request: Request, *, timeout: float) -> Reply:
        self.reached.set()
        self._released.wait()
        return self._inner.send(request, timeout=timeout)

    def close(self) -> None:
        self._inner.close()
