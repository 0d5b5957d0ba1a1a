"""The four things of an event loop for which anyio has no neutral name, and what ends a task in it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio

Work = Callable[..., Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Loop:
    """The event loop that a tracker lives in."""

    now: Callable[[], float]
    """The loop's clock, as ``anyio.current_time()`` reads it, without the search for the backend."""
    call_soon: Callable[[Callable[[], None]], object]
    """Have the loop call something soon; safe from any thread and from signal handlers."""

    cancelled: Callable[[], bool]
    """Whether asyncio's own ``cancel()`` was called for the running task.  Python 3.10 cannot tell, and says no."""

    protected: Callable[[Work], Work]
    """Have Ctrl-C not raised within a task's function.  trio raises it in its main task then.  asyncio knows no such
    thing, but cancels its main task at the first Ctrl-C, and raises only the next ones wherever they come."""

    @classmethod
    def running(cls) -> Loop:
        """The one this is called in.

        Raises:
            RuntimeError: there is none.
        """
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            now = trio.lowlevel.current_clock().current_time
            call_soon = trio.lowlevel.current_trio_token().run_sync_soon
            return cls(now, call_soon, lambda: False, trio.lowlevel.enable_ki_protection)
        loop = asyncio.get_running_loop()
        return cls(loop.time, loop.call_soon_threadsafe, _task_cancelled, lambda work: work)


def _task_cancelled() -> bool:
    task = asyncio.current_task()
    return sys.version_info >= (3, 11) and task is not None and task.cancelling() > 0


def task_id() -> int | None:
    """That of the task that runs in this thread, if one does."""
    try:
        return anyio.get_current_task().id
    except Exception:  # it depends on what runs instead
        return None


def interrupts(error: BaseException, task: int | None) -> bool:
    """Whether *error*, which code of the user's let through in *task*, is not that code's own affair.

    That is Ctrl-C, also in a group of errors, and what a task is closed with that is thrown away: it runs no more.
    """
    if isinstance(error, GeneratorExit):
        return task_id() != task
    inner = getattr(error, "exceptions", ())
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(inner, tuple) and any(interrupts(e, task) for e in inner)
    )
