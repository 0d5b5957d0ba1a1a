"""Stop on SIGTERM and SIGINT, then act as would have been done before."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ._clock import Clock


def stop_on_signals(stop: Callable[[], object], interrupted: Callable[[], bool], clock: Clock) -> None:
    """Put a handler before those that are there.

    When it is called it puts those back, calls *stop*, and hands the signal on to them.  If *interrupted*
    says that the signal came in the middle of a call that *stop* must not cut into, the signal is sent
    again instead, which reaches this thread when that call has gone on.

    Raises:
        ValueError: not in the main thread; nothing was changed.
    """
    previous: dict[int, Any] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        if interrupted():
            with contextlib.suppress(RuntimeError):  # no thread can be started: the process ends anyway
                clock.start(lambda: os.kill(os.getpid(), signum), "atom-signal")
            return
        before = previous[signum]
        signal.signal(signum, signal.SIG_DFL if before is None else before)
        stop()
        if callable(before):
            before(signum, frame)
        elif before == signal.SIG_DFL:
            os.kill(os.getpid(), signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        previous[signum] = signal.signal(signum, handle)
