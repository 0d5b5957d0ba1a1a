"""The tracker for threads."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from atom_sansio import (
    AuthKey,
    BacklogFull,
    Command,
    ConnectionFailed,
    Flush,
    FlushResult,
    Intake,
    OnFull,
    Options,
    RemoteError,
    Reply,
    SendRequest,
    Statistics,
    TrackerCore,
)
from atom_sansio._shown import shown

from ._clock import Clock
from ._environment import read_options
from ._late_imports import whole_imports
from ._reporter import Reporter
from ._signals import stop_on_signals
from ._transport import open_transport

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from atom_sansio import TrackerOptions

EXIT_TIMEOUT = 2.0
"""Seconds that all trackers together may take at interpreter exit."""

REPORT_TIME = 0.25
"""Seconds of a ``stop`` at most that are kept for telling ``on_loss`` what could not be sent."""

_live: WeakSet[Tracker] = WeakSet()


class Tracker(Intake):
    """Carries events to a collector from any thread, in the background.

    Events of one stream and key arrive in the order they were tracked.  Leave it as a context manager or
    call :meth:`stop`; at interpreter exit that is done for you, within two seconds.

    Args:
        endpoint: URL of the collector; the environment's ``ATOM_ENDPOINT`` if left out.
        options: see :class:`atom_sansio.Options`.

    Raises:
        TypeError, ValueError: an option is wrong; the message names it, its value and its range.
    """

    def __init__(self, endpoint: str | None = None, **options: Unpack[TrackerOptions]) -> None:
        self._set_up(read_options(endpoint, options))

    def _set_up(self, options: Options, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or Clock()
        self._now = self._clock.now
        self._new_keys: dict[str, AuthKey] = {}  # for a forked child, which signs as its parent does
        self._transport = open_transport(options.transport)
        self._begin()
        _live.add(self)

    def _begin(self) -> None:
        """Start empty: when built, and again in a forked child, whose parent keeps what was there."""
        # Re-entrant, since track() may run in a signal handler or a finaliser that interrupts track().
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # senders wait for it
        self._room = threading.Condition(self._lock)  # a blocked track waits for it; there may be some at each outcome
        self._done = threading.Condition(self._lock)  # flush and stop wait for it
        self._followed: list[Flush] = []
        self._senders = self._idle = 0
        self._sender_threads: set[int] = set()
        self._woken = False
        self._reporter = Reporter(self._options.on_loss, self._clock)
        self._core = self._new_core()
        for stream, key in self._new_keys.items():
            self._core.set_auth_key(stream, key, now=self._clock.now())
        self._lanes, self._late = self._core.lanes, self._core.late

    def _new_core(self) -> TrackerCore:
        return TrackerCore(self._options, source=self._clock.unique(), unix_offset=self._clock.unix_offset())

    # -- what users call ------------------------------------------------------------------------------

    track = Intake._take

    def _decide(self, stream: str, line: bytes, auth_key: str | AuthKey | None) -> None:
        key = None if auth_key is None else AuthKey.of(auth_key)
        with self._lock:
            try:
                if self._core.track_line(stream, line, key, now=self._now()):
                    self._wake()
                    self._notify_progress()  # an older event may have been dropped for this one
                elif not self._senders:  # the last attempt to start one failed
                    self._wake()
            except BacklogFull:
                self._wake()  # what waits may be sent now, full batch or not
                # A sender that tracks, by a finaliser or a logging handler, must not wait for itself.
                if self._options.on_full is not OnFull.BLOCK or threading.get_ident() in self._sender_threads:
                    raise
                self._track_when_there_is_room(stream, line, key)

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """Send what is pending without waiting for full batches, and wait for it.

        Args:
            timeout: seconds, at least 0.

        Returns:
            What became of those events within *timeout*.
        """
        until = self._clock.now() + _check_timeout(timeout)
        with self._lock:
            flush = self._core.flush(now=self._clock.now())
            if not flush.done:
                self._wake()
            self._follow(flush, until)
            return flush.result

    def stop(self, timeout: float = 5.0) -> FlushResult:
        """Take no more events, send what is pending, and report as lost what is not confirmed in time.

        A request in flight or a pause after a failure does not hold it up.  Stopping twice is harmless.

        Args:
            timeout: seconds, at least 0; up to 0.25 of them are kept for calling ``on_loss``.

        Returns:
            What became of the events that were pending.
        """
        until = self._clock.now() + _check_timeout(timeout)
        cut = until - min(REPORT_TIME, timeout / 10)
        flush = self._close()
        if not flush.done:
            self._reporter.prepare()
        if not self._senders:  # the interpreter shuts down and starts no more threads
            self._run(until=cut)
        with self._lock:
            self._follow(flush, cut)
            if not flush.done:
                self._core.abandon(now=self._clock.now())
            self._clock.notify_all(self._work)
            self._notify_progress()
        self._run(until=cut)  # all that is left are reports
        self._reporter.wait(until)
        self._transport.close()
        _live.discard(self)
        return flush.result

    def _close(self) -> Flush:
        with self._lock:
            flush = self._core.close(now=self._clock.now())
            self._wake()
            return flush

    def _follow(self, flush: Flush, until: float) -> None:
        """Wait for the outcome of all that *flush* follows, but not past *until*."""
        self._followed.append(flush)
        try:
            while not flush.done and self._clock.now() < until:
                self._clock.wait(self._done, until)
        finally:
            self._followed.remove(flush)

    def statistics(self) -> Statistics:
        """The ledger as it stands: what was accepted, delivered, lost and why, and is pending."""
        with self._lock:
            return self._core.statistics()

    def set_auth_key(self, stream: str, auth_key: str | AuthKey) -> None:
        """Sign *stream* with another key from now on; if the collector had refused the old one, go on."""
        auth_key = AuthKey.of(auth_key)  # a traceback may show the locals
        with self._lock:
            self._core.set_auth_key(stream, auth_key, now=self._clock.now())
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
        try:
            return f"<{name} {self._core.state.value} {self._options.endpoint}>"
        except AttributeError:  # half built, as a traceback may show it
            return f"<{name} unfinished>"

    # -- senders --------------------------------------------------------------------------------------

    def _run(self, until: float | None = None) -> None:
        """What a sender does: the next thing, until there is nothing left to do or *until* is reached."""
        while (command := self._next_command(until)) is not None:
            self._perform(command, until)

    def _next_command(self, until: float | None) -> Command | None:
        lock = self._lock
        with lock:
            while True:
                if lock is not self._lock:  # a child was forked, and greenlets of gevent are there too
                    return None
                self._woken = False
                now = self._clock.now()
                command = self._core.next_command(now=now)
                deadline = self._core.next_deadline()
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
            if deadline is not None:
                self._wake()  # somebody else looks after the rest meanwhile
            return command

    def _perform(self, command: Command, until: float | None) -> None:
        if not isinstance(command, SendRequest):
            self._reporter.put(command)
            return
        timeout = command.timeout if until is None else min(command.timeout, until - self._clock.now())
        outcome: object
        try:
            given: Any = self._transport.send(command.request, timeout=timeout)
            outcome = given
        except RemoteError as error:
            outcome = error
        except BaseException as error:  # a transport of the user's may raise anything
            outcome = ConnectionFailed(f"the transport raised {type(error).__name__}: {error}")
        if not isinstance(outcome, (Reply, RemoteError)):
            outcome = ConnectionFailed(f"the transport gave a {type(outcome).__name__} for a Reply")
        with self._lock:
            now, unit = self._clock.now(), self._clock.unit()
            if isinstance(outcome, Reply):
                self._core.response_received(command.batch_id, outcome, now=now, unit=unit)
            else:
                self._core.send_failed(command.batch_id, outcome, now=now, unit=unit)
            self._notify_progress()

    def _notify_progress(self) -> None:
        """Let go on who waits for what has happened now.  To wake the others would cost more than the core's part."""
        self._clock.notify_all(self._room)
        if any(flush.done for flush in self._followed):
            self._clock.notify_all(self._done)

    def _wake(self) -> None:
        """Have a sender look for work: an idle one, or one more if there may be more."""
        self._woken = True
        if self._idle:
            self._clock.notify(self._work)
        elif self._senders < self._options.max_in_flight:
            _stop_at_exit()
            with contextlib.suppress(RuntimeError):  # the interpreter shuts down; stop() knows
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

    def _track_when_there_is_room(self, stream: str, line: bytes, key: AuthKey | None) -> None:
        timeout = self._options.block_timeout
        until = None if timeout is None else self._clock.now() + timeout
        while True:
            self._clock.wait(self._room, until)
            now = self._clock.now()
            try:
                if self._core.track_line(stream, line, key, now=now):
                    self._wake()
            except BacklogFull:
                if until is not None and now >= until:
                    raise
            else:
                return

    # -- signals, fork, exit --------------------------------------------------------------------------

    def _interrupted(self) -> bool:
        """Whether a signal handler that asks this has interrupted a call of its own thread."""
        # Anywhere under the lock: between finding no room and waiting for some a stop() would go unheard.
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # as threading.Condition asks

    def _begin_in_child(self) -> None:
        self._begin()
        reset = getattr(self._transport, "reset_after_fork", None)
        if reset is not None:
            reset()


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, at least 0, not {type(timeout).__name__}")
    if not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be from 0 to {threading.TIMEOUT_MAX:.0f} seconds, not {shown(timeout)}")
    return timeout


def _earlier(deadline: float | None, until: float | None) -> float | None:
    return until if deadline is None else deadline if until is None else min(deadline, until)


_exit_registered_in: int | None = None


def _stop_at_exit() -> None:
    """Have :func:`_stop_all` called when this process ends, once, however many trackers it has."""
    global _exit_registered_in
    if _exit_registered_in == os.getpid():
        return
    if _exit_registered_in is None:
        atexit.register(_stop_all)
    _exit_registered_in = os.getpid()
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        # A child of multiprocessing ends without atexit, but with its own finalisers.
        with whole_imports():
            from multiprocessing.util import Finalize

        Finalize(None, _stop_all, exitpriority=0)


def _stop_all() -> None:
    """At interpreter exit: stop every tracker, all within ``EXIT_TIMEOUT`` since all send at once."""
    trackers = list(_live)
    until = time.monotonic() + EXIT_TIMEOUT
    for tracker in trackers:
        tracker._reporter.exit()
        tracker._close()
    for tracker in trackers:
        tracker.stop(max(0.0, until - time.monotonic()))


def _begin_all_in_child() -> None:
    for tracker in list(_live):
        tracker._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all_in_child)
