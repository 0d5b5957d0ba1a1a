"""The two things of an event loop for which anyio has no neutral name."""

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

    @classmethod
    def running(cls) -> Loop:
        """The one this is called in.

        Raises:
            RuntimeError: there is none.
        """
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            return cls(trio.lowlevel.current_clock().current_time, trio.lowlevel.current_trio_token().run_sync_soon)
        loop = asyncio.get_running_loop()
        return cls(loop.time, loop.call_soon_threadsafe)
