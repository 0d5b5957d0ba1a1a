"""What becomes of trackers that nobody has stopped: at interpreter exit, and in a forked child."""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

from ._reporter import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._tracker import Tracker

TIMEOUT = 2.0
"""Seconds that all trackers together may take at interpreter exit."""

KEEP_TIME = 1.0
"""Seconds of these that are kept, where there is a backlog, for leaving in it what is not sent by then."""

live: WeakSet[Tracker] = WeakSet()
"""All trackers that are not stopped."""

_registered_in: int | None = None


def stop_at_exit() -> None:
    """Have :func:`_stop_all` called when this process ends, once, however many trackers it has."""
    global _registered_in
    if _registered_in == os.getpid():
        return
    if _registered_in is None:
        atexit.register(_stop_all)
    _registered_in = os.getpid()
    # Not there yet while another thread loads it, which a child of multiprocessing has done.
    parent_process = getattr(sys.modules.get("multiprocessing.process"), "parent_process", None)
    if parent_process is not None and parent_process() is not None:
        # A child of multiprocessing ends without atexit, but with its own finalisers.  It has loaded what makes them.
        sys.modules["multiprocessing.util"].Finalize(None, _stop_all, exitpriority=0)


def _stop_all() -> None:
    """At interpreter exit: stop every tracker, all within ``TIMEOUT``.

    All send at once, and then all write to their backlogs at once, so that none waits for the server or the disk of
    another.  A transport's ``close()`` may raise or block, so all are heard before the first is called.
    """
    # Copied in one step: other threads may go on, and make or stop one.
    found = [reference() for reference in list(live.data)]  # type: ignore[attr-defined]  # there since Python 2.7
    # A forked child may not have needed its core.
    trackers = [tracker for tracker in found if tracker is not None and (hasattr(tracker, "_core") or tracker._aside)]
    until = time.monotonic() + TIMEOUT
    cuts = {tracker: until - tracker._time_after_sending() for tracker in trackers}
    trackers.sort(key=cuts.__getitem__)
    steps: tuple[Callable[[Tracker], object], ...] = (
        lambda tracker: tracker._reporter.exit(),
        lambda tracker: tracker._close(),
        lambda tracker: tracker._end(cuts[tracker]),
        lambda tracker: tracker._finish(until, cuts[tracker], at_exit=True),
        lambda tracker: tracker._reporter.wait(until),
        lambda tracker: tracker._reporter.give_up(),
        lambda tracker: tracker._transport.close(),
    )
    interrupt: BaseException | None = None
    for step in steps:
        for tracker in trackers:
            try:
                step(tracker)
            except Exception as error:
                log(f"to stop a tracker raised {type(error).__name__}", error)
            except BaseException as error:  # Ctrl-C, say: this takes no longer than it would have
                interrupt = error
    if interrupt is not None:
        raise interrupt


def begin_all_in_child() -> None:
    """Let each tracker begin anew, in a child that was just forked."""
    for tracker in list(live):
        try:
            tracker._begin_in_child()
        except Exception as error:  # a transport's own, say, which is no reason for the others to go on as the parent's
            log(f"a tracker in a forked child raised {type(error).__name__}", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=begin_all_in_child)
