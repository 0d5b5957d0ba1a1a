"""Tells the user what the core reports, without letting the user's code get in the way."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from atom_sansio import Loss, ReportLoss, ReportParked

logger = logging.getLogger("atom")


class Reporter:
    """Calls ``on_loss`` one report at a time, in a task of its own that exists only while there are any.

    A coroutine function is awaited; a plain function is called in a worker thread, so that one that blocks
    holds up later reports and nothing else.  One that raises is logged, once for each type of exception.
    """

    def __init__(self, on_loss: Callable[[Loss], object] | None, group: TaskGroup) -> None:
        self._on_loss = on_loss
        self._group = group
        self._waiting: deque[ReportLoss | ReportParked] = deque()
        self._scope: anyio.CancelScope | None = None
        self._all_told = anyio.Event()
        self._logged: set[object] = set()

    def put(self, report: ReportLoss | ReportParked) -> None:
        """Have *report* told soon."""
        self._waiting.append(report)
        if self._scope is None:
            self._scope = anyio.CancelScope(shield=True)
            self._all_told = anyio.Event()
            self._group.start_soon(self._run, self._scope, name="atom-reporter")

    async def wait(self) -> None:
        """Wait until all is told."""
        while self._scope is not None:
            await self._all_told.wait()

    def close(self) -> None:
        """Stop telling."""
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, scope: anyio.CancelScope) -> None:
        with scope:
            while self._waiting:
                try:
                    await self._tell(self._waiting.popleft())
                except Exception as error:  # whatever the callback does stays its own affair
                    self._log_once(type(error), f"on_loss raised {type(error).__name__}", error)
        self._scope = None
        self._all_told.set()

    async def _tell(self, report: ReportLoss | ReportParked) -> None:
        if isinstance(report, ReportParked):
            logger.error(
                "the collector refuses the key of stream %r (status %d); its events wait for set_auth_key()",
                report.stream,
                report.status,
            )
        elif self._on_loss is None:
            loss = report.loss
            self._log_once(
                (loss.reason, loss.status),
                f"{loss.count} events of stream {loss.stream!r} are lost ({loss.reason.value}, status {loss.status});"
                " losses of this kind are logged once, pass on_loss to see them all",
            )
        elif inspect.iscoroutinefunction(self._on_loss):
            await self._on_loss(report.loss)
        else:
            await anyio.to_thread.run_sync(self._on_loss, report.loss, abandon_on_cancel=True)

    def _log_once(self, cause: object, message: str, error: BaseException | None = None) -> None:
        if cause not in self._logged:
            self._logged.add(cause)
            logger.error(message, exc_info=error)
