"""The three things of an event loop for which anyio has no neutral name."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loop:
    """The event loop that a tracker lives in."""

    now: Callable[[], float]
    """The loop's clock, as ``anyio.current_time()`` reads it, without the search for the backend."""
    call_soon: Callable[[Callable[[], None]], object]
    """Have the loop call something soon; safe from any thread and from signal handlers."""

    cancelled: Callable[[], bool]
    """Whether asyncio's own ``cancel()`` was called for the running task.  Python 3.10 cannot tell, and says no."""

    @classmethod
    def running(cls) -> Loop:
        """The one this is called in.

        Raises:
            RuntimeError: there is none.
        """
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            call_soon = trio.lowlevel.current_trio_token().run_sync_soon
            return cls(trio.lowlevel.current_clock().current_time, call_soon, lambda: False)
        loop = asyncio.get_running_loop()
        return cls(loop.time, loop.call_soon_threadsafe, _task_cancelled)


def _task_cancelled() -> bool:
    task = asyncio.current_task()
    return sys.version_info >= (3, 11) and task is not None and task.cancelling() > 0
