"""Tells the user what the core reports, without letting the user's code get in the way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from atom_sansio import Loss, LossReason, ReportLoss
from atom_sansio._logged import Report, cause_and_words, causes_and_words, too_slow

from ._clock import Clock
from ._late_imports import whole_imports

MAX_HELD = 16 * 1024 * 1024
"""Bytes of lost events that wait to be told.  A callback that is slower than losses come must not fill memory."""


class Reporter:
    """Calls ``on_loss`` one report at a time, in a thread of its own that exists only while there are any.

    So a callback that blocks holds up later reports and nothing else; one that raises is logged, once for
    each type of exception; one that tracks or flushes finds no lock held.

    Args:
        lock: that of the core.  With a lock of its own a finaliser that tracks while its thread has that, and a sender
            that has the core's and puts a report, would wait for each other for ever.
    """

    def __init__(self, on_loss: Callable[[Loss], object] | None, lock: threading.RLock, clock: Clock) -> None:
        self._on_loss = on_loss
        self._clock = clock
        self._waiting: deque[Report] = deque()
        self._changed = threading.Condition(lock)
        self._running = False
        self._teller: int | None = None  # the thread that calls on_loss
        self._mute = False  # whether on_loss is called no more, unless a thread is at it
        self._held = 0
        self._untold = 0
        self._logged: set[object] = set()

    def put(self, report: Report) -> None:
        """Have *report* told once :meth:`tell` is called; to be called under the lock."""
        if self._held + _size(report) > MAX_HELD:
            self._untold += 1
            return
        self._held += _size(report)
        self._waiting.append(report)

    def tell(self) -> None:
        """Have told soon what was put.  Where no thread can be started any more, it is told at once."""
        with self._changed:
            if self._running or self._mute:
                return
            self._running = True
        try:
            self._clock.start(self._run, "atom-reporter")
        except RuntimeError:
            self._run()

    def prepare(self) -> None:
        """Have at hand what there may be no time for in the end: an import takes longer than is left then."""
        with whole_imports():
            import logging  # noqa: F401

    def exit(self) -> None:
        """The interpreter ends and may start no thread (3.12): a callback that may block is not called without."""
        try:
            self._clock.start(_nothing, "atom-reporter")
        except RuntimeError:
            self._mute = self._on_loss is not None

    def wait(self, until: float) -> bool:
        """Wait until all is told, but not past *until*, or if ``on_loss`` itself asks; return whether it is."""
        with self._changed:
            while (
                self._teller != threading.get_ident()
                and (self._running or (self._waiting and not self._mute))
                and self._clock.now() < until
            ):
                self._clock.wait(self._changed, until)
            return not (self._running or self._waiting)

    def give_up(self) -> None:
        """The interpreter ends before ``on_loss`` has returned from these: log how many they are, by cause.

        One that it was just called with is among them.  Nobody can know whether it came to its first line.
        """
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
            untold, self._untold = self._untold, 0
        for cause, words in causes_and_words(waiting, on_loss=self._on_loss is not None):
            self._log_once(cause, words)
        if untold:
            log(too_slow(untold))

    def _run(self) -> None:
        self._teller = threading.get_ident()
        while (report := self._next()) is not None:
            try:
                self._tell(report)
            except BaseException as error:  # whatever the callback does stays its own affair
                self._log_once(type(error), f"on_loss raised {type(error).__name__}", error)
            with self._changed:
                self._held -= _size(report)
                if self._waiting:  # or it was given up
                    self._waiting.popleft()

    def _next(self) -> Report | None:
        while True:
            with self._changed:
                if self._waiting:
                    return self._waiting[0]
                untold, self._untold = self._untold, 0
                if not untold:
                    self._running = False
                    self._teller = None
                    self._clock.notify_all(self._changed)
                    return None
            log(too_slow(untold))

    def _tell(self, report: Report) -> None:
        on_loss = self._on_loss
        if on_loss is not None and isinstance(report, ReportLoss):
            on_loss(report.loss)
        else:
            self._log_once(*cause_and_words(report))

    def _log_once(self, cause: object, message: str, error: BaseException | None = None) -> None:
        if cause not in self._logged:
            log(message, error)
            self._logged.add(cause)  # not before: the end of the interpreter may leave this thread where it is


def log(message: str, error: BaseException | None = None) -> None:
    """Log *message*, whatever handlers of the user's do."""
    with whole_imports():
        import logging  # not before there is something to log: most programs never see that

    logger = logging.getLogger("atom")
    try:
        logger.error(message, exc_info=error)
    except BaseException:
        # A handler of the user's, which is a callback like another: the next report is to be told all the same.  What
        # was to be logged is shown as logging shows what goes wrong in its own handlers.
        record = logger.makeRecord("atom", logging.ERROR, __file__, 0, message, (), None)
        with suppress(Exception):  # as where stderr is closed
            logging.Handler().handleError(record)


def _size(report: Report) -> int:
    """Of the bytes that ``MAX_HELD`` bounds.  What a stop loses comes once, and was within the budget until then."""
    if not isinstance(report, ReportLoss) or report.loss.reason is LossReason.STOPPED:
        return 0
    return len(report.loss.lines)


def _nothing() -> None: ...
