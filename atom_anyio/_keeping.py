"""What a tracker has to do with its backlog, all in worker threads: the loop never waits for a disk."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from atom_sansio import (
    BacklogCommand,
    BacklogFull,
    BatchUnreadable,
    Level,
    LoadBatch,
    Record,
    Records,
    RecordState,
    TrackerCore,
    UpdateBacklog,
)
from atom_sansio._recording import BUSY, WELL

from ._call import Call
from ._loop import Loop, task_id

if TYPE_CHECKING:
    from atom_sync.backlog import OpenBacklog

T = TypeVar("T")

TOO_SLOW: Final = "it does not answer"
CUT_OFF: Final = "the program was interrupted"

CLOSE_TIME: Final = 1.0
"""Seconds that even a ``stop`` without time has to leave the rest in the backlog.  A disk that is well takes less."""


class Keeping:
    """Does what the core asks of *backlog*: one task writes records, another does all the rest.

    Args:
        lock: that of the core.
        group: where the tasks run.
        work_came: called when senders must look again.
        tell: called with what the user is to be told of the backlog.
    """

    def __init__(
        self,
        core: TrackerCore,
        backlog: OpenBacklog,
        lock: threading.RLock,
        loop: Loop,
        group: TaskGroup,
        work_came: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        self._core = core
        self._backlog = backlog
        self._lock = lock
        self._loop = loop
        self._work_came = work_came
        self._tell = tell
        self._troubles: set[str] = set()  # with the writing of records, that were told
        self._limiter = anyio.CapacityLimiter(2)  # not the one that others share, which may be used up
        self._asked = [anyio.Event(), anyio.Event()]  # for each task
        self._rests_until = [math.inf, math.inf]  # when each looks again by itself, while it waits
        self._written = anyio.Event()  # something was done
        self._group = group
        self._protected = loop.protected(self._work)
        self._scopes: list[anyio.CancelScope | None] = [None, None]  # of each task, while there is one
        self._left = {0, 1}  # tasks that are not done
        self._at_work = 0
        self._finished = False
        self._interrupted: dict[int | None, BaseException] = {}  # what has hit tasks while threads worked for them
        self._in_hand: BacklogCommand | None = None  # the one that is not about records
        self._given_up = False
        self._abandoned: list[Call[Any]] = []  # threads are at it still
        self._closed = False
        self.records = backlog.level is not Level.MEMORY
        """Whether there is a record for each event."""
        self._start()

    def look(self) -> None:
        """Have done what the core asks for now.  The loop may call this outside of any task."""
        with self._lock:
            deadline = self._core.next_backlog_deadline()
        for event, rests_until in zip(self._asked, self._rests_until, strict=True):
            if deadline is not None and deadline < rests_until:
                event.set()

    def _start(self) -> None:
        """Start what does not run: asyncio's own ``cancel()`` ends a task early, or before it has begun.

        Ctrl-C ends one, too, and with it the program, in which those that wait for the disk still need it.  They start
        it again: a new task that asyncio cancels with all others before it has begun would be of no use.
        """
        if self._given_up:
            return
        if self._scopes[0] is None and 0 in self._left:
            self._group.start_soon(self._protected, 0, self._next_records, name="atom-records")
        if self._scopes[1] is None and 1 in self._left:
            self._group.start_soon(self._protected, 1, self._next_command, name="atom-backlog")

    async def settle(self, record: Record, until: float, *, may_wait: bool) -> None:
        """Wait until *record* is written.

        When cancelled, it takes the record back.  One that is being written just then comes to its end first, and
        may have been accepted.  What a scope's cancellation does then is left to the next checkpoint; asyncio's own
        ``cancel()`` comes once, so it is raised though the event was accepted.

        Raises:
            BacklogFull: it is not written by *until*, or ``on_full`` does not let this call wait.  Where it is to drop
                events, this one is dropped instead.
        """
        now = self._loop.now()
        until_idle = max(until, now + WELL) if may_wait else now + BUSY
        try:
            while record.state is not RecordState.ACCEPTED:
                self._start()
                if record.state is RecordState.REFUSED:
                    raise BacklogFull(record.trouble)
                if record.trouble:
                    deadline = until if may_wait else -math.inf
                else:
                    # Past that, where nothing is being written it is just about to be; but others may go first.
                    behind = self._core.writes_records or self._loop.now() < until_idle
                    deadline = until_idle if behind else self._loop.now() + WELL
                if self._loop.now() >= deadline and self._take_back(record, late=True):
                    continue
                # What is being written is not to be called off.
                writing = record.state is RecordState.WRITING
                with anyio.CancelScope(deadline=math.inf if writing else deadline, shield=writing):
                    await self._written.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                while record.state is RecordState.WRITING:
                    await self._written.wait()
            self._take_back(record)
            cancelled_again = anyio.current_effective_deadline() == -math.inf
            if record.state is RecordState.REFUSED or not cancelled_again:
                raise

    async def wait_written(self) -> None:
        """Wait for the records of calls that did not wait for them, unless the disk does not take them."""
        record = self._core.last_record
        while record is not None and record.pending and not record.trouble:
            self._start()
            await self._written.wait()

    async def finish(self, until: float) -> None:
        """Have all that is left done, now that the core is closed, and the backlog closed.

        A disk that takes longer than *until* is left alone.  The backlog is closed when what is under way there has
        come to its end: then others can have it, though this process goes on.
        """
        self._finished = True
        for event in self._asked:
            event.set()
        with anyio.CancelScope(deadline=max(until, self._loop.now() + CLOSE_TIME), shield=True):
            while not self._given_up and (self._left or self._scopes != [None, None]):
                self._start()
                await self._written.wait()
        self._given_up = True
        for scope in self._scopes:
            if scope is not None:
                scope.cancel()
        with anyio.CancelScope(shield=True):
            while self._scopes != [None, None]:
                await self._written.wait()
        if not self._closed:
            self._closed = True
            with suppress(RuntimeError):  # no thread can be started any more: the process ends
                Call(self._loop, self._close_late).start("atom-backlog")
        with self._lock:
            while (command := self._core.next_backlog_command(now=math.inf, records=False)) is not None:
                if isinstance(command, UpdateBacklog):
                    self._core.backlog_failed(TOO_SLOW, now=self._loop.now())
            if self._core.writes_records:
                self._core.records_put_off()
            while self._core.next_records(now=math.inf) is not None:
                self._core.records_refused(TOO_SLOW, now=self._loop.now())
        self._work_came()  # receipts of what was refused have their outcome
        self._notify()

    def _close_late(self) -> None:
        for call in self._abandoned:
            call.join()
        if all(call.call != self._backlog.close for call in self._abandoned):
            self._backlog.close()

    def _take_back(self, record: Record, *, late: bool = False) -> bool:
        with self._lock:
            taken = self._core.record_late(record, now=self._loop.now()) if late else self._core.take_back(record)
        if taken:
            self._work_came()  # there is room again
        return taken

    def _next_records(self, now: float) -> BacklogCommand | None:
        with self._lock:
            return self._core.next_records(now=now)

    def _next_command(self, now: float) -> BacklogCommand | None:
        with self._lock:
            self._in_hand = self._core.next_backlog_command(now=now, records=False)
            return self._in_hand

    def _put_off(self, task: int) -> None:
        """Have done again what the core has given *task*, which has come to its end before it could say so."""
        with self._lock:
            if task == 0 and self._core.writes_records:
                self._core.records_put_off()
            elif task == 1:
                command, self._in_hand = self._in_hand, None
                if isinstance(command, LoadBatch):
                    self._core.batch_not_loaded(command.batch_id, now=self._loop.now())
                elif command is not None:
                    self._core.backlog_failed(TOO_SLOW if self._given_up else CUT_OFF, now=self._loop.now())

    async def _work(self, task: int, next_: Callable[[float], BacklogCommand | None]) -> None:
        if self._given_up or self._scopes[task] is not None or task not in self._left:
            return  # it was started twice before it could run
        # Shielded, so that what was accepted is kept though the program is cancelled; finish() ends it.
        scope = self._scopes[task] = anyio.CancelScope(shield=True)
        try:
            with scope:
                while (command := await self._next(task, next_)) is not None:
                    await self._perform(command)
                    self._raise_interrupt()
                self._left.discard(task)
                if not self._left:
                    await self._in_thread(self._backlog.close)
                    self._closed = True
                    self._listen()
                    self._raise_interrupt()
        except anyio.get_cancelled_exc_class():
            pass  # raised, it would cancel the whole group
        finally:  # whoever waits for what this had in hand is not to wait for ever
            self._interrupted.pop(task_id(), None)
            self._scopes[task] = None
            self._put_off(task)
            self._notify()
        self._start()

    def _raise_interrupt(self) -> None:
        """Raise what has hit this task while a thread worked for it."""
        if self._interrupted and (error := self._interrupted.pop(task_id(), None)) is not None:
            raise error

    async def _next(self, task: int, next_: Callable[[float], BacklogCommand | None]) -> BacklogCommand | None:
        now = self._loop.now()
        while (command := next_(now)) is None:
            with self._lock:
                deadline = self._core.next_backlog_deadline(records=not task)
                ended = self._finished and not self._at_work and self._core.next_backlog_deadline() is None
            if ended:
                return None
            self._asked[task] = anyio.Event()
            if deadline is None or deadline <= now:  # what was due then is for the other task
                deadline = math.inf
            self._rests_until[task] = deadline
            with anyio.CancelScope(deadline=deadline):
                await self._asked[task].wait()
            now = self._loop.now()
        if task:  # the other may have waited for this one, which may take long, to take what was due
            self._asked[0].set()
        return command

    async def _perform(self, command: BacklogCommand) -> None:
        self._at_work += 1
        try:
            match command:
                case Records():
                    await self._append(command)
                case UpdateBacklog():
                    await self._update(command)
                case LoadBatch():
                    await self._load(command)
        finally:
            self._at_work -= 1
            self._work_came()
            self._notify()
        self._listen()

    def _listen(self) -> None:
        """Have the user told what the backlog says."""
        for words in self._backlog.said():
            self._tell(words)

    def _notify(self) -> None:
        self._written.set()
        self._written = anyio.Event()
        if self._finished:
            for event in self._asked:
                event.set()

    async def _append(self, records: Records) -> None:
        trouble = ""
        try:
            await self._in_thread(self._backlog.append, records)
        except Exception as error:
            trouble = _words(error)
        with self._lock:
            if trouble:
                self._core.records_refused(trouble, now=self._loop.now())
            else:
                self._core.records_written(now=self._loop.now())
        if trouble and trouble not in self._troubles:
            self._troubles.add(trouble)
            self._tell(f"records of the backlog cannot be written, and are tried again: {trouble}")

    async def _update(self, update: UpdateBacklog) -> None:
        trouble = ""
        try:
            await self._in_thread(self._backlog.update, update)
        except Exception as error:
            trouble = _words(error)
        with self._lock:
            self._in_hand = None
            if trouble:
                self._core.backlog_failed(trouble, now=self._loop.now())
            else:
                self._core.backlog_updated()

    async def _load(self, command: LoadBatch) -> None:
        lines: bytes | None = None
        unreadable = ""
        try:
            lines = await self._in_thread(self._backlog.load, command.batch_id)
        except BatchUnreadable as error:
            unreadable = _words(error)
        except Exception:
            lines = None  # which may pass
        with self._lock:
            self._in_hand = None
            if unreadable:
                self._core.batch_unreadable(command.batch_id, unreadable, now=self._loop.now())
            elif lines is None:
                self._core.batch_not_loaded(command.batch_id, now=self._loop.now())
            else:
                self._core.batch_loaded(command.batch_id, lines)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        while True:
            call = Call(self._loop, function, *args)
            wait: Callable[[], Awaitable[T]]
            wait = partial(anyio.to_thread.run_sync, call, abandon_on_cancel=True, limiter=self._limiter)
            while True:
                try:
                    return await wait()
                except BaseException as error:
                    if error is call.error and not isinstance(error, Exception):
                        raise RuntimeError(f"it raised {type(error).__name__}") from error  # and is to end no task
                    if not isinstance(error, (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit)):
                        raise
                    if self._given_up:
                        if not call.prevent():
                            self._abandoned.append(call)
                        raise
                    # This comes to its end first.  Of several, what ends the program counts.
                    if isinstance(error, anyio.get_cancelled_exc_class()):
                        self._interrupted.setdefault(task_id(), error)
                    else:
                        self._interrupted[task_id()] = error
                    if call.prevent():
                        break
                    wait = call.wait


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
