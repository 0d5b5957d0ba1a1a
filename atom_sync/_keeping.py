"""What a tracker has to do with its backlog: to write records while ``track`` waits, and all the rest beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Final, Protocol

from atom_sansio import (
    AuthKey,
    BacklogCommand,
    BatchUnreadable,
    Level,
    LoadBatch,
    Receipt,
    Record,
    Records,
    RecordState,
    TrackerCore,
    UpdateBacklog,
)
from atom_sansio._recording import BUSY, WELL

from ._clock import LOOK_AGAIN, Clock

_ACCEPTED: Final = RecordState.ACCEPTED
"""To look up a member of an enumeration takes as long as a call does, and this is for each event."""

PATIENCE: Final = 1e-3
"""Seconds that a call waits at most for others that shared a sync with it the last time, to share the next one."""

TOO_SLOW: Final = "it does not answer, and may have some of them all the same"


class OpenBacklog(Protocol):
    """What a backlog gives when it is opened; see :class:`atom_sync.backlog.OpenBacklog`."""

    level: Level

    @property
    def append(self) -> Callable[[Records], None]: ...
    def update(self, update: UpdateBacklog) -> None: ...
    def load(self, batch_id: str) -> bytes: ...
    def said(self) -> Iterable[str]: ...
    def close(self) -> None: ...
    def leave_to_parent(self) -> None: ...


class _Call:
    """A call of ``track`` that waits for its record.

    Each waits for itself, and needs no lock to go on: to wake all whenever something is written would let them run into
    each other.
    """

    __slots__ = ("alone_at", "gate", "thread", "until", "wake")

    gate: threading.Lock
    """What it waits at; another each time, since one may be opened for more than one reason."""

    def __init__(self, thread: int, until: float | None = None) -> None:
        self.thread = thread
        self.until = until
        """When it waits no more for a disk that does not take its record, or that is busy with others."""
        self.alone_at: float | None = None
        """When it waits no more for others that may write with it."""
        self.wake = inf
        """When it looks again though nobody wakes it."""


class Keeping:
    """Does what the core asks of *backlog*.

    A call that interrupts another of its own thread, as from a signal handler or a finaliser, neither writes nor waits:
    what it interrupts may hold the lock, or be writing itself.

    Args:
        lock: that of the core.
        work_came: called under *lock* when senders must look again.
        block_timeout: seconds that a record may wait for a disk that does not take it.
        may_wait: says whether the call of ``track`` that asks may wait for that.
        tell: called without *lock*, with what the user is to be told of the backlog.
    """

    def __init__(
        self,
        core: TrackerCore,
        backlog: OpenBacklog,
        lock: threading.RLock,
        clock: Clock,
        work_came: Callable[[], None],
        *,
        block_timeout: float | None,
        may_wait: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        self._core = core
        self._backlog = backlog
        self._lock = lock
        self._clock = clock
        self._now = clock.now
        self._work_came = work_came
        self._block_timeout = block_timeout
        self._may_wait = may_wait
        self._tell = tell
        self._troubles: set[str] = set()  # with the writing of records, that were told
        self._spare_time = 0.0 if block_timeout is None else max(0.0, WELL - block_timeout)
        self._asked = threading.Condition(lock)  # the worker waits for it
        self._calls: dict[Record, _Call] = {}
        self._written = threading.Condition(lock)  # who waits for all to be written waits for it
        self._waiting = 0  # of these
        self._writer: int | None = None  # the thread that writes for all who wait
        self._worker: int | None = None  # the thread that does all the rest; 0 for one that has not begun yet
        self._woken = False  # since the worker looked
        self._rests_until = inf  # when it looks again by itself, while it waits
        # What each thread does, be it the worker or, without one, a sender.
        self._at_work: dict[int, BacklogCommand] = {}
        self._finished = self._given_up = self._closing = self._closed = self._left = False
        self._shares = backlog.level is Level.DISK  # syncs, which take longer than all else
        self._company = 1  # calls that are likely to come by soon: so many have just come
        self._patience = 0.0
        self._host: int | None = None  # the thread that waits for the others, and for no longer than that
        self.alone = False
        """Whether the interpreter shuts down and starts no worker, so that :meth:`perform` is for who sends."""
        self.records = backlog.level is not Level.MEMORY
        """Whether there is a record for each event."""

    # -- what track() does ----------------------------------------------------------------------------

    def interrupted(self) -> bool:
        """Whether a signal handler or finaliser that asks this has interrupted a call of its own thread."""
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # as threading.Condition asks
        return owned or threading.get_ident() in (self._writer, self._worker)

    def serves(self) -> bool:
        """Whether others may wait for the thread that asks this, so that it must not wait for them."""
        me = threading.get_ident()
        mine = (call for call in self._calls.values() if call.thread == me)  # one that this interrupts
        return me in (self._writer, self._worker) or me in self._at_work or any(mine)

    def put(
        self,
        stream: str,
        line: bytes,
        key: AuthKey | None,
        receipt: Receipt | None,
        take_in: Callable[[Callable[[], Record | None]], Record | None] | None = None,
    ) -> Record | None:
        """Take an event in and have it written.  One call writes for all that wait then: they share a sync's cost.

        Those that have just shared one come again together, if they do at all, and what the first of them would write
        at once, alone, the others would wait for.  So it waits for them, as long as a sync takes at most.

        Args:
            take_in: calls what it is given when there is room; called under the lock.  A call that interrupts another
                does not wait for that: to let the lock go would let others in where the other has not come to its end.

        Returns:
            None if the event was dropped, or if the call that this one interrupts writes it, or the worker.  Else it is
            ``ACCEPTED``; or ``REFUSED``, if it was not written in time.

        Raises:
            BacklogFull: there is no room.
        """
        interrupts = self.interrupted()
        me = threading.get_ident()
        call: _Call | None = None
        record: Record | None = None
        records: Records | None = None
        try:
            while True:
                with self._lock:
                    if record is None:
                        at_once = self._writer is None and self._company == 1 and not interrupts
                        if at_once and key is None and receipt is None:
                            record, records = self._core.admit_quickly(stream, line, now=self._now())
                        if record is None:
                            if take_in is None or interrupts:
                                record = self._admit(stream, line, key, receipt)
                            else:  # there was no room, and to wait for that takes of the same time
                                call = _Call(me, self._until(self._now()))
                                record = take_in(partial(self._admit, stream, line, key, receipt))
                            if record is None or interrupts:
                                self._work_came()
                                return None
                        record.waits = True  # not before: if this was left meanwhile, nobody would write it
                    if records is None:
                        if call is None:
                            call = _Call(me)
                        if record.pending and not self._awaits_company(record, call):
                            records = self._next_records()
                    if records is not None:
                        self._writer = me
                    else:
                        assert call is not None
                        if not record.pending or not self._may_wait_on(record, call):
                            self._calls.pop(record, None)
                            return record
                if records is None:
                    assert call is not None
                    self._clock.wait_at(call.gate, call.wake)
                    if record.state is _ACCEPTED:  # whoever has written it needs the lock more than this
                        return record
                    continue
                trouble: str | None = None
                began = self._now() if self._shares else 0.0
                try:
                    self._backlog.append(records)
                    records.appended = True  # as our own backlog has said itself, before a handler might raise
                except OSError as error:
                    if error.errno is None or records.appended:  # a handler's own, such as a TimeoutError
                        raise
                    trouble = _words(error)
                with self._lock:
                    self._appended(trouble)
                    self._writer = records = None
                    if self._shares:
                        self._company = self._present(record) if trouble is None else 1
                        self._patience = min(self._now() - began, PATIENCE)
                    woken = self._end_writing() if self._calls or self._waiting or self._finished else ()
                for other in woken:
                    self._clock.open(other.gate)
                if trouble is not None:
                    self._tell_trouble(trouble)
                if record.state is _ACCEPTED:
                    return record
        except BaseException:  # Ctrl-C, say, or a time limit, wherever it comes
            with self._lock:
                if self._writer == me and not interrupts:
                    if records is not None and records.appended and self._core.writes_records:
                        self._core.records_written(now=self._now())
                    self._writer = None
                self._put_off()
                if record is not None:
                    self._calls.pop(record, None)
                    if not self._core.take_back(record):
                        record.waits = False
                self._work_came()
                woken = self._end_writing()
            for other in woken:
                self._clock.open(other.gate)
            raise

    def _admit(self, stream: str, line: bytes, key: AuthKey | None, receipt: Receipt | None) -> Record | None:
        return self._core.admit(stream, line, key, now=self._now(), waits=False, receipt=receipt)

    def _next_records(self) -> Records | None:
        if self._writer is not None:
            return None
        self._put_off()
        return self._core.next_records(now=self._now())

    def _present(self, record: Record) -> int:
        """How many calls wait, with that of *record*."""
        return len(self._calls) + (record not in self._calls)

    def _awaits_company(self, record: Record, call: _Call) -> bool:
        """Whether *call* is to wait until those come by that wrote with it the last time."""
        if self._present(record) >= self._company:
            return False
        if self._host not in (None, call.thread):
            return True
        self._host = call.thread
        now = self._now()
        if call.alone_at is None:
            call.alone_at = now + self._patience
        return now < call.alone_at

    def _until(self, now: float) -> float:
        if not self._may_wait():
            return now + BUSY
        return inf if self._block_timeout is None else now + self._block_timeout

    def _put_off(self) -> None:
        """See that records come again which were given to a call that was left before it could say so."""
        if self._writer is None and self._core.writes_records and self._core.records_put_off():
            self._work_came()

    def _end_writing(self) -> list[_Call]:
        """Give the calls that may go on; of those that must wait on, one, which writes for the rest."""
        woken = []
        writer: _Call | None = None
        self._host = None
        for record, call in list(self._calls.items()):
            if not record.pending:
                del self._calls[record]
                woken.append(call)
            elif record.trouble:
                woken.append(call)
            else:
                writer = call  # the last: an earlier one may be interrupted by it, and cannot go on before
        if writer is not None:
            woken.insert(0, writer)
        if self._waiting:
            self._clock.notify_all(self._written)
        if self._finished:
            self._ask()  # to close
        return woken

    def _may_wait_on(self, record: Record, call: _Call) -> bool:
        """Whether *call* is to wait for something to happen to *record*; if not, that is taken back."""
        now = self._now()
        if call.until is None:
            call.until = self._until(now)
        retry: float | None = None
        if record.trouble:
            until = call.until
            late = now >= until or not self._may_wait()
            retry = self._core.next_backlog_deadline()
        else:
            until = call.until + self._spare_time
            late = now >= until and self._writer is not None
        if late and self._core.record_late(record, now=now):
            self._work_came()  # there is room for others
            return False
        call.wake = now + LOOK_AGAIN
        for when in (until, call.alone_at, retry):
            if when is not None and now < when < call.wake:
                call.wake = when
        call.gate = self._clock.gate()
        self._calls[record] = call
        return True

    def _wait_written(self, until: float) -> None:
        self._waiting += 1
        try:
            self._clock.wait(self._written, min(until, self._now() + LOOK_AGAIN))
        finally:
            self._waiting -= 1

    # -- what others do -------------------------------------------------------------------------------

    def wait_written(self, until: float) -> None:
        """Wait for the records of calls that did not wait for them, but not past *until*; called under the lock."""
        record = self._core.last_record
        mine = self.alone or self._writer == threading.get_ident()
        while record is not None and record.pending and not (record.trouble or mine) and self._now() < until:
            self._wait_written(until)

    def look(self) -> None:
        """Have done what the core asks for now; to be called under the lock."""
        # While this interrupts the core nobody can say; the worker will see.
        if not self._core.busy:
            deadline = self._core.next_backlog_deadline(records=self._unheard)
            if deadline is None or deadline >= self._rests_until:
                return
        self._ask()

    def _ask(self) -> None:
        self._woken = True
        if self._worker is not None:
            self._clock.notify(self._asked)
            return
        self._worker = 0
        try:
            self._clock.start(self._work, "atom-backlog")
            self.alone = False
        except BaseException as error:
            self._worker = None
            if not isinstance(error, RuntimeError):
                raise  # a signal handler's, and the thread may have been started or not
            self.alone = True  # the interpreter shuts down and starts no more threads

    def finish(self, until: float) -> None:
        """Have all that is left done, now that the core is closed, and the backlog closed.

        A disk that takes longer than *until* is left to the worker.  What it is not known to have by then is lost.
        """
        with self._lock:
            self._finished = True
            self._ask()  # though there may be nothing to do but to close, in which a disk may hang as well
        while self.alone and (command := self.next_command()) is not None:
            self.perform(command)
        with self._lock:
            others = self._worker is not None and self._worker != threading.get_ident()
            while (self._closing or others or not self._idle) and not self._closed and self._now() < until:
                if self._writer == threading.get_ident():  # a handler stops what it interrupts
                    return
                self._wait_written(until)
            if others or not self._idle:
                self.give_up()
                return
        self._close()

    def give_up(self) -> None:
        """Take what is not written by now for lost: nobody waits for the disk any more, or would hear of it."""
        if self._given_up or self._closed:
            return
        self._given_up = True
        under_way = any(isinstance(command, UpdateBacklog) for command in self._at_work.values())
        while under_way or self._core.next_backlog_command(now=self._now(), records=False) is not None:
            self._core.backlog_failed(TOO_SLOW, now=self._now())
            under_way = False
        if self._unheard:  # whoever waits for a record of his own hears what becomes of it, whenever that is
            if self._core.writes_records:
                self._core.records_put_off()
            while self._core.next_records(now=inf) is not None:
                self._core.records_refused(TOO_SLOW, now=self._now())
            for call in self._calls.values():
                self._clock.open(call.gate)
        self._work_came()

    def next_command(self) -> BacklogCommand | None:
        """What is to be done for the core now."""
        with self._lock:
            return self._next_work()

    def _next_work(self) -> BacklogCommand | None:
        self._put_off()
        command = self._core.next_backlog_command(now=self._now(), records=self._unheard)
        if command is not None:
            self._at_work[threading.get_ident()] = command
            if isinstance(command, Records):
                self._writer = threading.get_ident()
        return command

    @property
    def _unheard(self) -> bool:
        """Whether there are records that nobody waits for, who would write them."""
        return self._core.last_record is not None

    def leave_to_parent(self) -> None:
        """In a forked child: the backlog is the parent's."""
        self._left = True
        self._backlog.leave_to_parent()

    # -- the worker -----------------------------------------------------------------------------------

    def _work(self) -> None:
        with self._lock:
            if self._worker:  # there is another: _ask() was left when it had started this one
                return
            self._worker = threading.get_ident()
            self.alone = False
        while (command := self._next()) is not None:
            self.perform(command)
        self._close()

    def _next(self) -> BacklogCommand | None:
        with self._lock:
            while not self._left:
                self._woken = False
                self._rests_until = inf  # what a finaliser brings from here on is to be looked at before the wait
                command = self._next_work()
                if command is not None:
                    return command
                deadline = self._core.next_backlog_deadline(records=self._unheard)
                if self._finished and self._idle:
                    break
                self._rests_until = inf if deadline is None else deadline
                if not self._woken:  # by a finaliser that has run in this thread since, and tracks
                    self._clock.wait(self._asked, deadline)
            return None

    @property
    def _idle(self) -> bool:
        return self._writer is None and not self._at_work and self._core.next_backlog_deadline() is None

    def _close(self) -> None:
        with self._lock:
            if self._closing or self._left:
                return
            self._closing = True
        try:
            self._backlog.close()
        finally:
            with self._lock:
                self._closed = True
                self._clock.notify_all(self._written)
            self._listen()

    def perform(self, command: BacklogCommand) -> None:
        """Do it, tell the core, and let go on who waits for that."""
        lines = b""
        error: BaseException | None = None
        try:
            match command:
                case Records():  # of somebody who interrupted another call, or that the disk did not take before
                    self._backlog.append(command)
                case UpdateBacklog():
                    self._backlog.update(command)
                case LoadBatch():
                    lines = self._backlog.load(command.batch_id)
        except BaseException as raised:
            error = raised
        with self._lock:
            self._at_work.pop(threading.get_ident(), None)  # no sooner and no later than the core knows what came of it
            self._done(command, lines, error)
            woken = self._end_writing()
        for call in woken:
            self._clock.open(call.gate)
        if isinstance(command, Records) and error is not None and not command.appended:
            self._tell_trouble(_words(error))
        self._listen()
        if error is not None and not isinstance(error, Exception):
            raise error

    def _done(self, command: BacklogCommand, lines: bytes, error: BaseException | None) -> None:
        now = self._now()
        match command:
            case Records():
                self._appended(None if error is None or command.appended else _words(error))
                self._writer = None
                return
            case UpdateBacklog():
                if self._given_up:
                    return
                if error is None:
                    self._core.backlog_updated()
                else:
                    self._core.backlog_failed(_words(error), now=now)
            case LoadBatch():
                if error is None:
                    self._core.batch_loaded(command.batch_id, lines)
                elif isinstance(error, BatchUnreadable):
                    self._core.batch_unreadable(command.batch_id, _words(error), now=now)
                else:  # which may pass
                    self._core.batch_not_loaded(command.batch_id, now=now)
        self._work_came()

    def _tell_trouble(self, trouble: str) -> None:
        if not self._left and trouble not in self._troubles:  # in a child that a handler forks it is the parent's
            self._troubles.add(trouble)
            self._tell(f"records of the backlog cannot be written, and are tried again: {trouble}")

    def _listen(self) -> None:
        """Have the user told what the backlog says."""
        for words in self._backlog.said():
            self._tell(words)

    def _appended(self, trouble: str | None) -> None:
        if not self._core.writes_records:  # they were given up meanwhile
            return
        if trouble is not None:
            self._core.records_refused(trouble, now=self._now())
            self._work_came()
        elif self._core.records_written(now=self._now()):
            self._work_came()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
