"""One synchronous face for the trackers of both drivers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import atom_anyio
import atom_sync
from atom_sansio import FlushResult, Statistics

DRIVERS = ["threads", "asyncio", "trio"]

ASKED_FOR = "ATOM_FAULTS_EVERY" in os.environ

when_asked_for = pytest.mark.skipif(not ASKED_FOR, reason="takes a minute, and several while coverage is measured")
"""For tests with ``ATOM_FAULTS_EVERY=1``: every how many of the faults that come in hundreds are tried."""


class TaskTracker:
    """A tracker of an event loop, called from ordinary code."""

    def __init__(self, portal: BlockingPortal, tracker: atom_anyio.Tracker) -> None:
        self._portal = portal
        self._tracker = tracker

    def track(self, stream: str, event: Any) -> None:
        self._portal.call(self._tracker.track, stream, event)

    def flush(self, timeout: float) -> FlushResult:
        return self._portal.call(self._tracker.flush, timeout)

    def stop(self, timeout: float) -> FlushResult:
        return self._portal.call(self._tracker.stop, timeout)

    def set_auth_key(self, stream: str, auth_key: str) -> None:
        self._portal.call(self._tracker.set_auth_key, stream, auth_key)

    def statistics(self) -> Statistics:
        return self._portal.call(self._tracker.statistics)


@contextmanager
def open_tracker(driver: str, url: str, **options: Any) -> Iterator[Any]:
    """A tracker of *driver*; leaving it stops it."""
    if driver == "threads":
        with atom_sync.Tracker(url, **options) as tracker:
            yield tracker
    else:
        with (
            start_blocking_portal(driver) as portal,
            portal.wrap_async_context_manager(atom_anyio.Tracker(url, **options)) as tasks,
        ):
            yield TaskTracker(portal, tasks)
