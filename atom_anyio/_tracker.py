"""The tracker for asyncio and trio."""

from __future__ import annotations

import math
import os
import random
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Literal, overload

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from atom_sansio import (
    AuthKey,
    BacklogFull,
    Command,
    Flush,
    FlushResult,
    Intake,
    Level,
    LocalError,
    OnFull,
    Record,
    RemoteError,
    Reply,
    SendRequest,
    Statistics,
    TrackerCore,
    encode_event,
)
from atom_sansio._answer import answer, failure
from atom_sansio._logged import BacklogSays
from atom_sansio._shown import shown
from atom_sansio._state import TrackerState

from ._call import Call
from ._environment import read_options
from ._loop import Loop, interrupts, task_id
from ._receipt import Receipt
from ._reporter import Reporter
from ._transport import open_transport

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from atom_sansio import TrackerOptions
    from atom_sync.backlog import OpenBacklog

    from ._keeping import Keeping

REPORT_TIME = 0.25
"""Seconds of a ``stop`` at most that are kept for telling ``on_loss`` what could not be sent."""

_INTERRUPTIONS = 10
"""How often what must be done at the end is begun again, should it be cancelled or Ctrl-C come once more."""

CLOSE_TIME = 1.0
"""Seconds that a transport has to close, whatever time is left."""


class Tracker(Intake[Receipt]):
    """Carries events to a collector in the background of an event loop.

    An async context manager; leaving it stops it, also under an exception or cancellation, within five
    seconds, or a second more for a backlog or a transport that is slow to close.  Events of one stream and key
    arrive in the order they were tracked.

    Args:
        endpoint: URL of the collector; the environment's ``ATOM_ENDPOINT`` if left out.
        options: see :class:`atom_sansio.Options`.

    Raises:
        TypeError, ValueError: an option is wrong; the message names it, its value and its range.
    """

    def __init__(self, endpoint: str | None = None, **options: Unpack[TrackerOptions]) -> None:
        self._options = read_options(endpoint, options)
        self._transport = open_transport(self._options.transport)
        # Re-entrant, since track_nowait() may run in a signal handler or a finaliser that interrupts it.
        self._lock = threading.RLock()
        self._core: TrackerCore | None = None
        self._entering = False
        self._keeping: Keeping | None = None
        self._lanes, self._late = {}, deque()

    async def __aenter__(self) -> Self:
        if self._core is not None or self._entering:
            raise LocalError("a tracker is entered once")
        self._entering = True
        try:
            self._loop = Loop.running()
            backlog, core = await self._open()
        except BaseException:
            self._entering = False
            raise
        self._idle: deque[anyio.Event] = deque()  # one for each sender that waits for work
        self._room = anyio.Event()  # a blocked track waits for it
        self._done = anyio.Event()  # flush and stop wait for it
        self._followed: list[Flush] = []
        self._settled: deque[Receipt] = deque()  # those that somebody waits for
        self._senders = 0
        self._scopes: set[anyio.CancelScope] = set()
        self._group = await anyio.create_task_group().__aenter__()
        self._reporter = Reporter(self._options.on_loss, self._group, self._loop)
        self._core = core
        self._lanes, self._late = core.lanes, core.late
        if backlog is not None:
            from ._keeping import Keeping  # not before it is needed

            self._keeping = Keeping(core, backlog, self._lock, self._loop, self._group, self._look_again, self._tell)
        self._start_sender()
        try:
            with anyio.CancelScope(shield=True):
                await checkpoint()  # a task that asyncio cancels before it has begun takes the whole group with it
        except BaseException as error:  # asyncio's own cancel()
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        try:
            try:
                with anyio.CancelScope(shield=True):
                    await self.stop()
            except BaseException:  # asyncio's own cancel(), a second Ctrl-C
                self._abandon()
                for _ in range(_INTERRUPTIONS):
                    if await self._clean_up():
                        break
                self._group.cancel_scope.shield = True
                await self._group.__aexit__(None, None, None)
                raise
            if isinstance(error, anyio.get_cancelled_exc_class()):
                return await self._group.__aexit__(kind, error, where)
            # The block's own error is none of the group's business, which would wrap it in another.
            await self._group.__aexit__(None, None, None)
            return None
        finally:
            self._reporter.log_rest()

    def _abandon(self) -> None:
        """Let nothing be sent any more: what has no outcome is lost, or stays in the backlog."""
        with self._lock:
            self._entered.abandon(now=self._loop.now())
        for scope in self._scopes:
            scope.cancel()
        self._notify_progress()

    async def _clean_up(self) -> bool:
        """What :meth:`stop` did not come to, in little time; return whether it was not interrupted once more."""
        try:
            with anyio.CancelScope(shield=True):
                self._report()
                if self._keeping is not None:
                    await self._keeping.finish(self._loop.now())
                    self._report()
                self._reporter.close()
                await self._close_transport(self._loop.now())
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt):
            return False
        return True

    async def _close_transport(self, until: float) -> None:
        """Close it, by *until* or in little time.  What it raises changes nothing for the events, and is logged."""
        with anyio.CancelScope(deadline=max(until, self._loop.now() + CLOSE_TIME)) as scope:
            try:
                await self._transport.aclose()
            except (Exception, anyio.get_cancelled_exc_class()) as error:
                # A transport may let through what it has cancelled a task of its own with.
                asked_for = (
                    scope.cancel_called or self._loop.cancelled() or anyio.current_effective_deadline() == -math.inf
                )
                if not isinstance(error, Exception) and (asked_for or sys.version_info < (3, 11)):
                    raise
                self._reporter.log(f"the transport raised {type(error).__name__} when it was closed", error)

    def _report(self) -> None:
        """Have the rest of the reports told."""
        while (report := self._pull()[0]) is not None:
            assert not isinstance(report, SendRequest)  # it is closed
            self._reporter.put(report)

    # -- what users call ------------------------------------------------------------------------------

    track_nowait = Intake._take

    def _decide(self, stream: str, line: bytes, auth_key: str | AuthKey | None, receipt: bool) -> Receipt | None:
        key = None if auth_key is None else AuthKey.of(auth_key)
        given = Receipt(self._settled) if receipt else None
        with self._lock:
            try:
                if self._records:
                    self._entered.admit(stream, line, key, now=self._loop.now(), waits=False, receipt=given)
                    self._loop.call_soon(self._look_again)
                elif self._entered.track_line(stream, line, key, now=self._loop.now(), receipt=given):
                    self._loop.call_soon(self._look_again)
            except BacklogFull:
                self._loop.call_soon(self._make_room)
                raise
        return given

    @overload
    async def track(self, stream: str, event: object, *, auth_key: str | AuthKey | None = None) -> None: ...
    @overload
    async def track(
        self, stream: str, event: object, *, auth_key: str | AuthKey | None = None, receipt: Literal[False]
    ) -> None: ...
    @overload
    async def track(
        self, stream: str, event: object, *, auth_key: str | AuthKey | None = None, receipt: Literal[True]
    ) -> Receipt: ...
    @overload
    async def track(
        self, stream: str, event: object, *, auth_key: str | AuthKey | None = None, receipt: bool
    ) -> Receipt | None: ...

    async def track(
        self, stream: str, event: object, *, auth_key: str | AuthKey | None = None, receipt: bool = False
    ) -> Receipt | None:
        """:meth:`track_nowait`, but wait while the backlog is full and ``on_full`` is ``block``.

        With a backlog, it also waits until the event is as safe as the backlog's level says, which
        :meth:`track_nowait` leaves to be done in a moment.

        When it is cancelled and raises that, the event was not accepted, but for one case: asyncio's own
        ``cancel()``, and with it ``asyncio.timeout`` and ``asyncio.TaskGroup``, while the record is being written.
        Then it may have been; ``statistics()`` counts it if it was.

        Raises:
            BacklogFull: there was no room within ``block_timeout``, or ``on_full`` is ``raise``.
        """
        auth_key = None if auth_key is None else AuthKey.of(auth_key)  # a traceback may show the locals
        await checkpoint()  # before the event is accepted: what is cancelled after that would seem not to be
        timeout = self._options.block_timeout
        until = math.inf if timeout is None else anyio.current_time() + timeout
        while True:
            try:
                record, given = self._admit(stream, event, auth_key, receipt)
            except BacklogFull:
                if self._options.on_full is not OnFull.BLOCK or anyio.current_time() >= until:
                    raise
            else:
                break
            with anyio.CancelScope(deadline=until):
                await self._room.wait()
        if record is not None and self._keeping is not None:
            await self._keeping.settle(record, until, may_wait=self._options.on_full is OnFull.BLOCK)
        return given

    def _admit(
        self, stream: str, event: object, auth_key: str | AuthKey | None, receipt: bool
    ) -> tuple[Record | None, Receipt | None]:
        """Accept *event*, but for the record that it may need first."""
        if not self._records:
            if receipt:
                return None, self.track_nowait(stream, event, auth_key, receipt=True)
            self.track_nowait(stream, event, auth_key)  # with receipt=False this would not be quick
            return None, None
        given = Receipt(self._settled) if receipt else None
        line = encode_event(event)
        key = None if auth_key is None else AuthKey.of(auth_key)
        with self._lock:
            try:
                record = self._entered.admit(stream, line, key, now=self._loop.now(), receipt=given)
            except BacklogFull:
                self._loop.call_soon(self._make_room)
                raise
            self._loop.call_soon(self._look_again)
            return record, given

    async def flush(self, timeout: float = 5.0) -> FlushResult:
        """Send what is pending without waiting for full batches, and wait for it.

        Args:
            timeout: seconds, at least 0.

        Returns:
            What became of those events within *timeout*.
        """
        until = anyio.current_time() + _check_timeout(timeout)
        await self._wait_written(until)
        with self._lock:
            flush = self._entered.flush(now=self._loop.now())
        self._wake()
        await self._follow(flush, until)
        return flush.result

    async def stop(self, timeout: float = 5.0) -> FlushResult:
        """Take no more events, send what is pending, and report as lost what is not confirmed in time.

        With a backlog nothing is lost: what is not confirmed is left there, for the next tracker that has it.
        A request in flight or a pause after a failure does not hold it up.  Stopping twice is harmless, and
        so is cancelling it: leaving the context stops again.  It may take a second more than *timeout* to leave
        events in a backlog, and another to close the transport.

        Args:
            timeout: seconds, at least 0; up to 0.25 of them are kept for calling ``on_loss``.

        Returns:
            What became of the events that were pending.
        """
        until = anyio.current_time() + _check_timeout(timeout)
        core = self._entered
        await self._wait_written(until)
        with self._lock:
            flush = core.close(now=self._loop.now())
        self._notify_progress()  # there will never be room for who waits for it
        # Ctrl-C may have ended the last sender, or asyncio cancelled all before they had begun.
        if not self._scopes and core.state is not TrackerState.CLOSED:
            self._start_sender()
        self._wake()
        await self._follow(flush, until - min(REPORT_TIME, timeout / 10))
        self._abandon()  # if there is nothing left of these events, others may still be waiting for records
        if self._keeping is not None:
            await self._keeping.finish(until)
        self._report()
        with anyio.CancelScope(deadline=until):
            await self._reporter.wait()
        self._reporter.close()
        await self._close_transport(until)
        return flush.result

    async def _follow(self, flush: Flush, until: float) -> None:
        """Wait for the outcome of all that *flush* follows, but not past *until*."""
        self._followed.append(flush)
        try:
            with anyio.CancelScope(deadline=until):
                while not flush.done:
                    await self._done.wait()
        finally:
            self._followed.remove(flush)

    def statistics(self) -> Statistics:
        """The ledger as it stands: what was accepted, delivered, lost and why, and is pending."""
        with self._lock:
            return self._entered.statistics()

    def set_auth_key(self, stream: str, auth_key: str | AuthKey) -> None:
        """Sign *stream* with another key from now on; if the collector had refused the old one, go on."""
        auth_key = AuthKey.of(auth_key)  # a traceback may show the locals
        with self._lock:
            self._entered.set_auth_key(stream, auth_key, now=self._loop.now())
            self._loop.call_soon(self._wake)

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__name__}"
        try:
            state = "new" if self._core is None else self._core.state.value
            return f"<{name} {state} {self._options.endpoint}>"
        except AttributeError:  # half built, as a traceback may show it
            return f"<{name} unfinished>"

    @property
    def _records(self) -> bool:
        """Whether there is a record for each event."""
        return self._keeping is not None and self._keeping.records

    async def _wait_written(self, until: float) -> None:
        """Wait for the records of what was tracked, but not past *until*."""
        if self._records and self._keeping is not None:
            with anyio.CancelScope(deadline=until):
                await self._keeping.wait_written()

    def _new_core(self, level: Level | None = None) -> TrackerCore:
        offset = time.time() - self._loop.now()
        return TrackerCore(self._options, source=os.urandom(16).hex(), unix_offset=offset, level=level)

    async def _open(self) -> tuple[OpenBacklog | None, TrackerCore]:
        """The core, with what there is in the backlog, of which there may be much: a thread goes through that."""
        if self._options.backlog is None:
            return None, self._new_core()
        from atom_sync.backlog import open_backlog  # not before one is asked for

        def open_and_restore() -> tuple[OpenBacklog, TrackerCore]:
            backlog = open_backlog(self._options.backlog)
            try:
                core = self._new_core(backlog.level)
                core.restore(backlog.recover(), now=self._loop.now())
            except BaseException:
                backlog.close()
                raise
            return backlog, core

        call = Call(self._loop, open_and_restore)
        with anyio.CancelScope(shield=True):  # or nobody would close what was opened
            try:
                # Not the limiter that others share, which may be used up.
                opened = await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))
            except anyio.get_cancelled_exc_class():  # asyncio's own cancel(), which comes through the shield
                if not call.prevent():
                    backlog, _ = await call.end()
                    await Call(self._loop, backlog.close).start("atom-backlog").end()
                raise
        return opened

    @property
    def _entered(self) -> TrackerCore:
        if self._core is None:
            raise LocalError("enter the tracker first: async with Tracker(...) as tracker")
        return self._core

    # -- senders --------------------------------------------------------------------------------------

    async def _run(self, scope: anyio.CancelScope) -> None:
        """What a sender does: the next thing, until there is nothing left to do."""
        task = task_id()
        while (command := await self._next_command()) is not None:
            await self._perform(command, scope, task)
            if self._loop.cancelled():
                break

    def _pull(self) -> tuple[Command | None, float | None]:
        with self._lock:
            pulled = self._entered.next_command(now=self._loop.now()), self._entered.next_deadline()
        if self._keeping is not None:
            self._keeping.look()
        return pulled

    async def _next_command(self) -> Command | None:
        core = self._entered
        while True:
            command, deadline = self._pull()
            if command is not None or core.state is TrackerState.CLOSED:  # what is to be told then, stop() looks for
                break
            work = anyio.Event()
            self._idle.append(work)
            try:
                with anyio.CancelScope(deadline=math.inf if deadline is None else deadline):
                    await work.wait()
            finally:
                if not work.is_set():
                    self._idle.remove(work)
        # Somebody else looks after the rest meanwhile; while one is idle, _wake() need not start any.
        if command is not None and not self._idle and self._senders < self._options.max_in_flight:
            self._start_sender()
        elif deadline is not None:
            self._wake()
        return command

    async def _perform(self, command: Command, scope: anyio.CancelScope, task: int | None) -> None:
        if not isinstance(command, SendRequest):
            self._reporter.put(command)
            return
        interrupt: BaseException | None = None
        try:
            outcome = answer(await self._transport.send(command.request, timeout=command.timeout))
        except RemoteError as error:
            outcome = failure(error)
        # A transport of the user's may raise anything; what cancels a task, too.
        except BaseException as error:
            if interrupts(error, task):
                if isinstance(error, GeneratorExit):
                    raise
                interrupt = error  # stop() sends the batch again
            elif scope.cancel_called:  # it is cut off, whatever it makes of that
                return
            outcome = failure(error)
        now, unit = self._loop.now(), random.random()  # noqa: S311 - spreads retries, keeps no secret
        with self._lock:
            if isinstance(outcome, Reply):
                self._entered.response_received(command.batch_id, outcome, now=now, unit=unit)
            else:
                self._entered.send_failed(command.batch_id, outcome, now=now, unit=unit)
        self._notify_progress()
        if self._keeping is not None:
            self._keeping.look()
        if interrupt is not None:
            raise interrupt

    def _wake(self) -> None:
        """Have an idle sender look for work.  The loop may call this outside of any task."""
        if self._idle:
            self._idle.popleft().set()

    def _make_room(self) -> None:
        """There was none for an event: what waits may be sent now, full batch or not, and kept."""
        self._wake()  # and nobody else: who waits for room would ask for it again at once
        if self._keeping is not None:
            self._keeping.look()

    def _tell(self, words: str) -> None:
        self._reporter.put(BacklogSays(words))

    def _look_again(self) -> None:
        """Something was accepted, and an older event may have been dropped for it."""
        self._wake()
        self._notify_progress()
        if self._keeping is not None:
            self._keeping.look()

    def _start_sender(self) -> None:
        self._senders += 1
        self._group.start_soon(self._sender, name="atom-sender")

    def _notify_progress(self) -> None:
        """Let go on who waits for what has happened now."""
        if self._room.statistics().tasks_waiting:
            self._room.set()
            self._room = anyio.Event()
        if any(flush.done for flush in self._followed):
            self._done.set()
            self._done = anyio.Event()
        while self._settled:
            self._settled.popleft()._wake()

    async def _sender(self) -> None:
        # Shielded, so that what is in flight when the program is cancelled can still be confirmed by stop().
        with anyio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                await self._run(scope)
            except anyio.get_cancelled_exc_class():
                if scope.cancel_called:
                    raise
                # asyncio's own cancel() ends this sender, but raised it would cancel the whole group.
            finally:
                self._scopes.discard(scope)
                self._senders -= 1
            # Another takes over, unless this was the end.
            if self._idle:
                self._wake()
            elif self._senders < self._options.max_in_flight and self._entered.state is not TrackerState.CLOSED:
                self._start_sender()


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, at least 0, not {type(timeout).__name__}")
    if not 0 <= timeout <= threading.TIMEOUT_MAX:  # as with threads; infinity would be no deadline
        raise ValueError(f"timeout must be from 0 to {threading.TIMEOUT_MAX:.0f} seconds, not {shown(timeout)}")
    return timeout
