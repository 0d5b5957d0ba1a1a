"""Tells the user what the core reports, without letting the user's code get in the way."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from atom_sansio import Loss, LossReason, ReportLoss
from atom_sansio._logged import Report, cause_and_words, causes_and_words, too_slow

from ._log import log
from ._loop import Loop, interrupts, task_id

logger = logging.getLogger("atom")

MAX_HELD = 16 * 1024 * 1024
"""Bytes of lost events that wait to be told.  A callback that is slower than losses come must not fill memory."""


class Reporter:
    """Calls ``on_loss`` one report at a time, in a task of its own that exists only while there are any.

    A coroutine function is awaited; another function is called in a worker thread, so that one that blocks
    holds up later reports and nothing else, and what it returns is awaited if that can be.  One that raises is
    logged, once for each type of exception.
    """

    def __init__(self, on_loss: Callable[[Loss], object] | None, group: TaskGroup, loop: Loop) -> None:
        self._on_loss = on_loss
        self._group = group
        self._loop = loop
        self._limiter = anyio.CapacityLimiter(1)  # not the one that others share, which may be used up
        self._waiting: deque[Report] = deque()
        self._scope: anyio.CancelScope | None = None
        self._teller: int | None = None  # the task that calls on_loss
        self._all_told = anyio.Event()
        self._held = 0
        self._untold = 0
        self._logged: set[object] = set()

    def put(self, report: Report) -> None:
        """Have *report* told soon."""
        if self._held + _size(report) > MAX_HELD:
            self._untold += 1
            return
        self._held += _size(report)
        self._waiting.append(report)
        if self._scope is None:
            self._scope = anyio.CancelScope(shield=True)
            self._all_told = anyio.Event()
            self._group.start_soon(self._run, self._scope, name="atom-reporter")

    async def wait(self) -> None:
        """Wait until all is told, unless ``on_loss`` itself asks."""
        while self._scope is not None and self._teller != task_id():
            await self._all_told.wait()

    def close(self) -> None:
        """Stop telling: what ``on_loss`` does not return from at once is logged.  One that asks itself goes on."""
        if self._scope is not None and self._teller != task_id():
            self._scope.cancel()

    def log_rest(self) -> None:
        """Log what was not told, by cause; if there is an ``on_loss``, how many it has not returned from."""
        waiting = [self._drop() for _ in range(len(self._waiting))]
        for cause, words in causes_and_words(waiting, on_loss=self._on_loss is not None):
            self._log_once(cause, words)
        untold, self._untold = self._untold, 0
        if untold:
            self.log(too_slow(untold))

    async def _run(self, scope: anyio.CancelScope) -> None:
        self._teller = task = task_id()
        with scope:
            while self._waiting:
                try:
                    await self._tell(self._waiting[0])
                # Whatever the callback does stays its own affair; that it raises what cancels a task, too.
                except BaseException as error:
                    if interrupts(error, task):
                        raise
                    if scope.cancel_called or self._loop.cancelled():
                        break
                    self._log_once(type(error), f"on_loss raised {type(error).__name__}", error)
                self._drop()
        self.log_rest()  # it was closed, or asyncio's own cancel() has hit it
        self._scope = self._teller = None
        self._all_told.set()

    def _drop(self) -> Report:
        report = self._waiting.popleft()
        self._held -= _size(report)
        return report

    async def _tell(self, report: Report) -> None:
        if self._on_loss is None or not isinstance(report, ReportLoss):
            self._log_once(*cause_and_words(report))
        elif inspect.iscoroutinefunction(self._on_loss):
            await self._on_loss(report.loss)
        else:
            call = partial(_call, self._on_loss, report.loss)
            given, error = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
            if error is not None:
                raise error
            if inspect.isawaitable(given):
                await given

    def _log_once(self, cause: object, message: str, error: BaseException | None = None) -> None:
        if cause not in self._logged:
            self._logged.add(cause)
            self.log(message, error)

    def log(self, message: str, error: BaseException | None = None) -> None:
        """Log *message*, whatever handlers of the user's do."""
        log(logger, logging.ERROR, message, error)


def _call(on_loss: Callable[[Loss], object], loss: Loss) -> tuple[object, BaseException | None]:
    """What it gives and what it raises: not every exception gets from a thread into a task as it is."""
    try:
        return on_loss(loss), None
    except BaseException as error:
        return None, error


def _size(report: Report) -> int:
    """Of the bytes that ``MAX_HELD`` bounds.  What a stop loses comes once, and was within the budget until then."""
    if not isinstance(report, ReportLoss) or report.loss.reason is LossReason.STOPPED:
        return 0
    return len(report.loss.lines)
