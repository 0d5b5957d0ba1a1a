"""Stop on SIGTERM and SIGINT, then act as would have been done before."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ._clock import Clock


def stop_on_signals(stop: Callable[[], object], interrupted: Callable[[], bool], clock: Clock) -> Callable[[], None]:
    """Put a handler before those that are there; return what takes it away again.

    When it is called it puts those back, calls *stop*, and hands the signal on to them, whatever *stop*
    raises.  If *interrupted* says that the signal came in the middle of a call that *stop* must not cut
    into, a thread does so, which can wait for the end of that call, and then sends the signal again.  Where no
    thread can be started the signal is handed on at once, without *stop*: better than that it ends nothing.

    Raises:
        ValueError: not in the main thread; nothing was changed.
    """
    previous: dict[int, Any] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        before = previous[signum]
        signal.signal(signum, signal.SIG_DFL if before is None else before)

        def stop_and_send_again() -> None:
            try:
                stop()
            finally:
                os.kill(os.getpid(), signum)

        def hand_on() -> None:
            if callable(before):
                before(signum, frame)
            elif before == signal.SIG_DFL:
                os.kill(os.getpid(), signum)

        if not interrupted():
            try:
                stop()
            finally:
                hand_on()
            return
        try:
            clock.start(stop_and_send_again, "atom-signal")
        except RuntimeError:
            if threading.main_thread().is_alive():  # else the interpreter shuts down: all is being stopped, and ends
                hand_on()

    def undo() -> None:
        for signum, before in previous.items():
            if signal.getsignal(signum) is handle:  # else somebody has put one before it, who may call it
                signal.signal(signum, signal.SIG_DFL if before is None else before)

    for signum in (signal.SIGTERM, signal.SIGINT):
        previous[signum] = signal.getsignal(signum)  # before the handler can be called
        signal.signal(signum, handle)
    return undo
