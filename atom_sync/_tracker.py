"""The tracker for threads."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from atom_sansio import (
    AuthKey,
    BacklogCommand,
    BacklogFull,
    Command,
    Flush,
    FlushResult,
    Intake,
    Level,
    LocalError,
    OnFull,
    Options,
    RecordState,
    Reply,
    ReportLoss,
    ReportParked,
    SendRequest,
    Statistics,
    TrackerCore,
    TrackerState,
)
from atom_sansio._answer import answer, failure
from atom_sansio._logged import BacklogSays
from atom_sansio._request import check_stream
from atom_sansio._shown import shown

from . import _exit
from ._clock import LOOK_AGAIN, Clock
from ._environment import read_options
from ._late_imports import whole_imports
from ._receipt import Receipt
from ._reporter import Reporter, log
from ._signals import stop_on_signals
from ._transport import open_transport

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from atom_sansio import TrackerOptions
    from atom_sansio._tracker import Interrupting

    from ._keeping import Keeping

_REFUSED = RecordState.REFUSED  # since to look up a member of an enumeration takes as long as a call does

CLOSE_TIME = 1.0
"""Seconds that even a ``stop`` without time has to leave the rest in the backlog.  A disk that is well takes less."""

REPORT_TIME = 0.25
"""Seconds of a ``stop`` at most that are kept for telling ``on_loss`` what could not be sent."""

_OPENING: Final = "only track() may interrupt what opens the backlog, as from a signal handler or a finaliser"

T = TypeVar("T")


class Tracker(Intake[Receipt]):
    """Carries events to a collector from any thread, in the background.

    Events of one stream and key arrive in the order they were tracked.  Leave it as a context manager or
    call :meth:`stop`; at interpreter exit that is done for you, within two seconds.

    Args:
        endpoint: URL of the collector; the environment's ``ATOM_ENDPOINT`` if left out.
        options: see :class:`atom_sansio.Options`.

    Raises:
        TypeError, ValueError: an option is wrong; the message names it, its value and its range.
        BacklogError: the backlog cannot be opened, since the disk is full, say; the message says why.  In a forked
            child its first :meth:`track` opens it, and raises this; the next one tries again.
    """

    def __init__(self, endpoint: str | None = None, **options: Unpack[TrackerOptions]) -> None:
        self._set_up(read_options(endpoint, options))

    def _set_up(self, options: Options, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or Clock()
        self._now = self._clock.now
        self._new_keys: dict[str, AuthKey] = {}  # for a forked child, which signs as its parent does
        self._transport = open_transport(options.transport)
        if options.backlog is not None:
            _load_backlog()
        self._begin()
        try:
            self._opened()
            _exit.live.add(self)
        except BaseException:  # Ctrl-C, say, when it is at work already
            if hasattr(self, "_core"):
                self.stop(0)
            raise

    def _begin(self) -> None:
        """Be as when it was built, but for the core, which :meth:`_open` makes."""
        # Re-entrant, since track() may run in a signal handler or a finaliser that interrupts track().
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # senders wait for it
        self._room = threading.Condition(self._lock)  # a blocked track waits for it; there may be some at each outcome
        self._done = threading.Condition(self._lock)  # flush and stop wait for it
        self._followed: list[Flush | Receipt] = []
        self._senders = self._idle = 0
        self._sender_threads: set[int] = set()
        self._woken = False
        self._reporter = Reporter(self._options.on_loss, self._lock, self._clock)
        self._keeping: Keeping | None = None
        self._opening = False  # whether there is no core yet, but a call that makes it
        self._aside: deque[Interrupting] = deque()  # events that have interrupted that, and are not taken up yet
        self._aside_bytes = 0

    def _opened(self, *, kept: bool = True) -> TrackerCore:
        """The core; a forked child that had none until now opens the backlog, unless nothing is to be *kept*.

        What a signal handler or a finaliser tracks meanwhile is taken up, in its order, once the core is there; should
        the backlog not open, by the next call that needs the core.

        Raises:
            BacklogError: the backlog cannot be opened.
            LocalError: this call has interrupted that.
        """
        # No __getattr__ does this, with which any attribute takes longer, also those that track() looks at; so it does
        # once somebody has asked for our __dict__.
        try:
            core = self._core
        except AttributeError:
            pass
        else:
            if not self._aside:
                return core
        said: list[tuple[int, str]] = []
        try:
            with self._lock:
                if self._opening:
                    raise LocalError(_OPENING)
                self._opening = True
                try:
                    if not hasattr(self, "_core"):
                        self._open(kept=kept, log=lambda level, words: said.append((level, words)))
                    some = self._keeping is not None or bool(self._aside)
                    self._core.take_up(self._aside)
                    self._aside_bytes = 0
                finally:
                    self._opening = False
                if some:
                    self._work_came()
                return self._core
        finally:
            if said:  # not under the lock, which who has a logging handler's may wait for
                from .backlog._backlog import log_at_once

                for level, words in said:
                    log_at_once(level, words)

    def _set_aside(self, stream: str, line: bytes, key: AuthKey | None, receipt: Receipt | None) -> bool:
        """Whether this call has interrupted one that makes the core, which takes the event up then."""
        with self._lock:
            if not self._opening:
                return False
            check_stream(stream)
            if line:
                size, events = self._aside_bytes + len(line), len(self._aside) + 1
                if size > self._options.max_pending_bytes or events > (self._options.max_pending_events or inf):
                    raise BacklogFull("the backlog is being opened, and there is no room for what comes meanwhile")
                self._aside_bytes = size
                self._aside.append((stream, line, key, self._now(), receipt))
                _exit.stop_at_exit()
            return True

    def _open(self, *, kept: bool, log: Callable[[int, str], object]) -> None:
        backlog = None
        if kept and self._options.backlog is not None:
            from .backlog import open_backlog  # see _load_backlog()

            backlog = open_backlog(self._options.backlog, log)
        keeping = None
        try:
            core = self._new_core(None if backlog is None else backlog.level)
            if backlog is not None:
                from ._keeping import Keeping

                core.restore(backlog.recover(), now=self._clock.now())
                lock = self._lock  # in a child that a handler forks in a call of that there is another one
                keeping = Keeping(
                    core,
                    backlog,
                    lock,
                    self._clock,
                    lambda: self._work_came() if lock is self._lock else None,
                    block_timeout=self._options.block_timeout,
                    may_wait=lambda: lock is self._lock and self._may_wait(),
                    tell=lambda words: self._tell(words) if lock is self._lock else None,
                )
        except BaseException:
            if backlog is not None:
                backlog.close()
            raise
        # Without a call, in which a handler might raise; the core last, since others look for it without the lock.
        self._keeping, self._lanes, self._late, self._core = keeping, core.lanes, core.late, core

    def _new_core(self, level: Level | None) -> TrackerCore:
        clock = self._clock
        core = TrackerCore(self._options, source=clock.unique(), unix_offset=clock.unix_offset(), level=level)
        for stream, key in self._new_keys.items():
            core.set_auth_key(stream, key, now=clock.now())
        return core

    # -- what users call ------------------------------------------------------------------------------

    track = Intake._take

    def _decide(self, stream: str, line: bytes, auth_key: str | AuthKey | None, receipt: bool) -> Receipt | None:
        key = None if auth_key is None else AuthKey.of(auth_key)
        given = Receipt(partial(self._wait_for, self._lock)) if receipt else None
        try:
            core = self._core if not self._aside else None
        except AttributeError:
            core = None
        if core is None:
            if self._set_aside(stream, line, key, given):
                return given
            core = self._opened()
        keeping = self._keeping
        if keeping is not None and keeping.records and line:
            try:
                record = keeping.put(stream, line, key, given)
            except BacklogFull:
                record = keeping.put(stream, line, key, given, partial(self._take_in, stream))
            if record is not None and record.state is _REFUSED and keeping is self._keeping:
                raise BacklogFull(record.trouble)  # or a handler forked in it: then the event is the parent's
            if not self._senders and keeping is self._keeping:
                with self._lock:
                    self._wake()
            return given
        with self._lock:
            try:
                try:
                    look = core.track_line(stream, line, key, now=self._now(), receipt=given)
                except BacklogFull:
                    look = self._take_in(
                        stream, lambda: core.track_line(stream, line, key, now=self._now(), receipt=given)
                    )
                if look:
                    self._look_again()
                elif not self._senders:  # the last attempt to start one failed
                    self._wake()
                if not self._senders and not core.busy:
                    core.decide_next(stream)  # so that it is tried again with the next event
            except (LocalError, TypeError, ValueError):
                raise
            except BaseException:  # a signal handler's: the event may be in, and nobody know that it is to be sent
                self._look_again()
                raise
        return given

    def _wait_for(self, lock: threading.RLock, receipt: Receipt, timeout: float | None) -> None:
        if lock is not self._lock:
            raise LocalError("the event was tracked before a fork; only the parent learns what becomes of it")
        until = inf if timeout is None else self._clock.now() + _check_timeout(timeout)
        with self._lock:
            if self._opening and not hasattr(self, "_core"):  # which cannot go on before this call ends
                raise LocalError(_OPENING)
            self._follow(receipt, until)

    def _take_in(self, stream: str, take: Callable[[], T]) -> T:
        """What *take* gives, which takes an event of *stream* in, when there is room."""
        with self._lock:
            try:
                return take()
            except BacklogFull:
                self._wake()  # what waits may be sent now, full batch or not, and kept
                if self._keeping is not None:
                    self._keeping.look()
                if not self._may_wait() or (self._keeping is not None and self._keeping.serves()):
                    raise
                return self._take_when_there_is_room(stream, take)

    def _may_wait(self) -> bool:
        # A sender that tracks, by a finaliser or a logging handler, must not wait for itself.
        return self._options.on_full is OnFull.BLOCK and threading.get_ident() not in self._sender_threads

    def _tell(self, words: str) -> None:
        with self._lock:
            self._reporter.put(BacklogSays(words))
        self._reporter.tell()

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """Send what is pending without waiting for full batches, and wait for it.

        Args:
            timeout: seconds, at least 0.

        Returns:
            What became of those events within *timeout*.
        """
        until = self._clock.now() + _check_timeout(timeout)
        self._opened()  # not under the lock, see there
        with self._lock:
            if self._keeping is not None:
                self._keeping.wait_written(until)
            flush = self._opened().flush(now=self._clock.now())
            if not flush.done:
                self._wake()
            self._follow(flush, until)
            return flush.result

    def stop(self, timeout: float = 5.0) -> FlushResult:
        """Take no more events, send what is pending, and report as lost what is not confirmed in time.

        With a backlog nothing is lost: what is not confirmed is left there, for the next tracker that has it.
        A request in flight or a pause after a failure does not hold it up.  Stopping twice is harmless.

        Args:
            timeout: seconds, at least 0; up to 0.25 of them are kept for calling ``on_loss``.

        Returns:
            What became of the events that were pending.
        """
        until = self._clock.now() + _check_timeout(timeout)
        cut = until - min(REPORT_TIME, timeout / 10)
        flush = self._send_rest(cut)
        self._give_up_rest()
        self._finish(max(until, self._now() + CLOSE_TIME), cut)
        told = self._reporter.wait(until)
        if told:  # or the end of the interpreter looks at it again
            _exit.live.discard(self)
        try:
            self._transport.close()
        except Exception as error:
            log(f"the transport raised {type(error).__name__} when it was closed", error)
        return flush.result

    def _send_rest(self, cut: float) -> Flush:
        """Take no more events, and send what is pending until *cut*."""
        with self._lock:
            if self._keeping is not None:
                self._keeping.wait_written(cut)
        flush = self._close()
        if not flush.done:
            self._reporter.prepare()
        if not self._senders:  # the interpreter shuts down and starts no more threads
            self._run(until=cut)
        with self._lock:
            self._follow(flush, cut)
        return flush

    def _give_up_rest(self) -> None:
        """What is not confirmed by now is left in the backlog, or lost."""
        with self._lock:
            self._core.abandon(now=self._clock.now())
            self._clock.notify_all(self._work)
            self._notify_progress()
            if self._keeping is not None:
                self._keeping.look()

    def _finish(self, until: float, cut: float, *, at_exit: bool = False) -> None:
        """Have what is left written until *until*, and what is lost reported."""
        try:
            if self._keeping is not None:
                self._keeping.finish(until)
        finally:
            if at_exit and self._keeping is not None:  # though Ctrl-C has cut it short: nobody comes after this
                with self._lock:
                    self._keeping.give_up()
            self._run(until=cut)  # all that is left are reports

    def _close(self) -> Flush:
        with self._lock:
            core = self._opened(kept=False)  # a forked child that needed none makes no file to close it
            flush = core.close(now=self._clock.now())
            self._wake()
            self._clock.notify_all(self._room)  # there will never be any for who waits for it
            return flush

    def _follow(self, flush: Flush | Receipt, until: float) -> None:
        """Wait for the outcome of all that *flush* follows, but not past *until*."""
        self._followed.append(flush)
        try:
            while not flush.done and self._clock.now() < until:
                self._clock.wait(self._done, min(until, self._clock.now() + LOOK_AGAIN))
        finally:
            self._followed.remove(flush)

    def statistics(self) -> Statistics:
        """The ledger as it stands: what was accepted, delivered, lost and why, and is pending."""
        self._opened()  # not under the lock, see there
        with self._lock:
            return self._opened().statistics()

    def set_auth_key(self, stream: str, auth_key: str | AuthKey) -> None:
        """Sign *stream* with another key from now on; if the collector had refused the old one, go on."""
        auth_key = AuthKey.of(auth_key)  # a traceback may show the locals
        self._opened()  # not under the lock, see there
        with self._lock:
            self._opened().set_auth_key(stream, auth_key, now=self._clock.now())
            self._new_keys[stream] = auth_key
            self._wake()

    def handle_signals(self) -> None:
        """Stop on SIGTERM and SIGINT, then act as would have been done before.

        Call it in the main thread; the handlers that were there are called afterwards.

        Raises:
            ValueError: not in the main thread.
        """
        stop_on_signals(self.stop, self._interrupted, self._clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__name__}"
        core = getattr(self, "_core", None)
        if core is not None:
            return f"<{name} {core.state.value} {self._options.endpoint}>"
        if hasattr(self, "_lanes"):  # in a forked child, whose file is not opened to be shown
            return f"<{name} {TrackerState.OPEN.value} {self._options.endpoint}>"
        return f"<{name} unfinished>"  # half built, as a traceback may show it

    # -- senders --------------------------------------------------------------------------------------

    def _run(self, until: float | None = None) -> None:
        """What a sender does: the next thing, until there is nothing left to do or *until* is reached."""
        while (command := self._next_command(until)) is not None:
            self._perform(command, until)

    def _next_command(self, until: float | None) -> Command | BacklogCommand | None:
        lock = self._lock
        with lock:
            while True:
                if lock is not self._lock:  # a child was forked, and greenlets of gevent are there too
                    return None
                self._woken = False
                now = self._clock.now()
                command: Command | BacklogCommand | None = self._core.next_command(now=now)
                deadline = self._core.next_deadline()
                if self._keeping is not None:
                    self._keeping.look()
                    if self._keeping.alone and command is None:
                        command = self._keeping.next_command()
                        deadline = _earlier(deadline, self._core.next_backlog_deadline())
                if command is not None or self._core.closed or (until is not None and now >= until):
                    break
                earlier = _earlier(deadline, until)
                self._idle += 1
                try:
                    if not self._woken:  # by a finaliser that has run in this thread since, and tracks
                        self._clock.wait(self._work, earlier)
                finally:
                    if lock is self._lock:
                        self._idle -= 1
            if isinstance(command, (ReportLoss, ReportParked)):
                self._reporter.put(command)  # under the lock: a thread that is gone at the end takes none along
            if deadline is not None:
                self._wake()  # somebody else looks after the rest meanwhile
            elif command is None and self._core.closed:
                self._clock.notify_all(self._work)  # all may end
            return command

    def _perform(self, command: Command | BacklogCommand, until: float | None) -> None:
        if not isinstance(command, SendRequest):
            if isinstance(command, (ReportLoss, ReportParked)):
                self._reporter.tell()
            else:
                assert self._keeping is not None
                self._keeping.perform(command)
            return
        timeout = command.timeout if until is None else min(command.timeout, until - self._clock.now())
        interrupt: BaseException | None = None
        try:
            outcome = answer(self._transport.send(command.request, timeout=timeout))
        except BaseException as error:  # a transport of the user's may raise anything
            outcome = failure(error)
            if until is not None and not isinstance(error, Exception):
                interrupt = error  # Ctrl-C, say, of who called stop(), in whose thread this is
        unit = self._clock.unit()
        with self._lock:
            now = self._clock.now()
            if isinstance(outcome, Reply):
                self._core.response_received(command.batch_id, outcome, now=now, unit=unit)
            else:
                self._core.send_failed(command.batch_id, outcome, now=now, unit=unit)
            self._notify_progress()
            if self._keeping is not None:
                self._keeping.look()
        if interrupt is not None:
            raise interrupt

    def _work_came(self) -> None:
        """Have senders look again, and whoever else may be concerned.  Called under the lock."""
        if self._core.closed:  # they wait no more
            self._clock.notify_all(self._work)
        self._look_again()

    def _look_again(self) -> None:
        """Something was accepted, and an older event may have been dropped for it."""
        self._wake()
        self._notify_progress()
        if self._keeping is not None:
            self._keeping.look()

    def _notify_progress(self) -> None:
        """Let go on who waits for what has happened now.  To wake the others would cost more than the core's part."""
        self._clock.notify_all(self._room)
        if self._followed and any(flush.done for flush in self._followed):
            self._clock.notify_all(self._done)

    def _wake(self) -> None:
        """Have a sender look for work: an idle one, or one more if there may be more."""
        self._woken = True
        if self._idle:
            self._clock.notify(self._work)
        elif self._senders < self._options.max_in_flight:
            _exit.stop_at_exit()
            # The interpreter shuts down, and stop() knows; or there are too many, and the next event tries again.
            with contextlib.suppress(RuntimeError):
                self._clock.start(self._sender, "atom-sender")
                self._senders += 1

    def _sender(self) -> None:
        lock = self._lock  # in a forked child there is another one
        self._sender_threads.add(threading.get_ident())
        try:
            self._run()
        finally:
            self._sender_threads.discard(threading.get_ident())
            with lock:
                if lock is self._lock:
                    self._senders -= 1

    def _take_when_there_is_room(self, stream: str, take: Callable[[], T]) -> T:
        timeout = self._options.block_timeout
        until = None if timeout is None else self._clock.now() + timeout
        while True:
            look_again = self._clock.now() + LOOK_AGAIN
            self._clock.wait(self._room, look_again if until is None else min(until, look_again))
            try:
                return take()
            except BacklogFull:
                if until is not None and self._clock.now() >= until:
                    raise

    # -- signals, fork, exit --------------------------------------------------------------------------

    def _time_after_sending(self) -> float:
        """Seconds at interpreter exit that are not for sending."""
        if self._keeping is None:
            return min(REPORT_TIME, _exit.TIMEOUT / 10)
        return min(_exit.KEEP_TIME, _exit.TIMEOUT / 2)

    def _end(self, cut: float) -> None:
        """What :meth:`stop` begins with; if Ctrl-C cuts it short, what is left is given up all the same."""
        try:
            self._send_rest(cut)
        finally:
            self._give_up_rest()

    def _interrupted(self) -> bool:
        """Whether a signal handler that asks this has interrupted a call of its own thread."""
        # Anywhere under the lock: between finding no room and waiting for some a stop() would go unheard.
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # as threading.Condition asks
        if owned or self._keeping is None:
            return owned
        with self._lock:
            return self._keeping.serves()  # as one that waits for its record, too, which it may have to write itself

    def _begin_in_child(self) -> None:
        keeping = self._keeping
        self._lanes, self._late = {}, deque()
        with contextlib.suppress(AttributeError):
            del self._core
        self._begin()
        if keeping is not None:
            keeping.leave_to_parent()
        if self._options.backlog is None:
            self._opened()
        # A file of its own is opened when the child first needs one: most children track nothing.
        reset = getattr(self._transport, "reset_after_fork", None)
        if reset is not None:
            reset()


def _load_backlog() -> None:
    """Load what a tracker with a backlog needs, and no other; not under its lock, see :mod:`._late_imports`."""
    with whole_imports():
        from . import _keeping, backlog  # noqa: F401


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, at least 0, not {type(timeout).__name__}")
    if not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be from 0 to {threading.TIMEOUT_MAX:.0f} seconds, not {shown(timeout)}")
    return timeout


def _earlier(deadline: float | None, until: float | None) -> float | None:
    return until if deadline is None else deadline if until is None else min(deadline, until)
