"""Virtual time for threads and for asyncio: hours pass in milliseconds, and always in the same order.

Trio brings its own, ``MockClock(autojump_threshold=0)``.  All three begin at 0, where floats are finest, and
are for in-memory transports only: nobody tells the kernel that time has passed.
"""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from atom_sync._clock import Clock

PATIENCE = 20.0
"""Real seconds after which a test that hangs fails."""


class Deadlock(AssertionError):
    """Everybody waits and nobody has a deadline."""


class _Ended(BaseException):
    """Unwinds a thread that still waits when its clock is closed."""


class _Thread:
    def __init__(self, name: str) -> None:
        self.name = name
        self.go = threading.Semaphore(0)
        self.waits_for: threading.Condition | threading.Lock | None = None
        self.until: float | None = None
        self.real: threading.Thread | None = None


class VirtualClock(Clock):
    """A clock that jumps to the next deadline when all threads wait.

    Threads take turns: one runs until it waits or ends, then the one that has been able to run for longest.
    So they never race, and a run can be repeated.  Leaving it as a context manager ends what still waits.

    Args:
        draws: what :meth:`unit` gives, one by one; the last one for ever.
    """

    def __init__(self, draws: Iterable[float] = (0.5,)) -> None:
        draws = list(draws)
        self._draws = chain(draws, repeat(draws[-1]))
        self._time = 0.0
        self._main = self._running = _Thread("main")
        self._ready: deque[_Thread] = deque()
        self._waiting: list[_Thread] = []  # the one that waits for longest is the first
        self._deadlocked = False
        self._closing = False
        self.turns = 0
        """How many times a thread went on after it had waited."""
        self.started: list[str] = []
        """Names of the threads that were started."""
        self.no_more_threads = False
        """Whether the interpreter shuts down."""

    # -- what the driver asks for ---------------------------------------------------------------------

    def now(self) -> float:
        return self._time

    def unix_offset(self) -> float:
        return 1_000_000_000.0

    def unit(self) -> float:
        return next(self._draws)

    def unique(self) -> str:
        return "virtual"

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        me = self._running
        me.waits_for, me.until = condition, until
        self._waiting.append(me)
        # As Condition.wait() does it: a re-entrant lock may be held more than once.
        saved = condition._release_save()  # type: ignore[attr-defined]
        try:
            self._switch(me)
        finally:
            condition._acquire_restore(saved)  # type: ignore[attr-defined]

    def wait_at(self, gate: threading.Lock, until: float) -> None:
        if gate.locked():  # or it was opened before
            me = self._running
            me.waits_for, me.until = gate, until
            self._waiting.append(me)
            self._switch(me)

    def open(self, gate: threading.Lock) -> None:
        super().open(gate)
        for thread in [thread for thread in self._waiting if thread.waits_for is gate]:
            self._make_ready(thread)

    def notify(self, condition: threading.Condition) -> None:
        for thread in [thread for thread in self._waiting if thread.waits_for is condition][:1]:
            self._make_ready(thread)

    def notify_all(self, condition: threading.Condition) -> None:
        for thread in [thread for thread in self._waiting if thread.waits_for is condition]:
            self._make_ready(thread)

    def start(self, target: Callable[[], None], name: str) -> None:
        if self.no_more_threads:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        thread = _Thread(name)

        def run() -> None:
            thread.go.acquire()
            try:
                if not self._closing:
                    target()
            except _Ended:
                pass
            finally:
                self._running = self._next()
                self._running.go.release()

        thread.real = threading.Thread(target=run, name=name, daemon=True)
        thread.real.start()
        self.started.append(name)
        self._ready.append(thread)

    # -- what a test asks for -------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass, and whoever has something to do in it."""
        self._sleep_until(self._time + seconds)

    def sleep_until(self, when: float) -> None:
        """:meth:`sleep`, to a point in time; not at all if that has passed."""
        if when > self._time:
            self._sleep_until(when)

    @property
    def others(self) -> list[str]:
        """Names of the threads that have not ended, the caller's left out."""
        return [thread.name for thread in (*self._waiting, *self._ready)]

    def __enter__(self) -> VirtualClock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._closing = True
        while self._waiting or self._ready:
            thread = self._waiting.pop() if self._waiting else self._ready.popleft()
            self._running = thread
            thread.go.release()
            assert self._main.go.acquire(timeout=PATIENCE), f"{thread.name} does not end"
            assert thread.real is not None
            thread.real.join(PATIENCE)

    # -- turns ----------------------------------------------------------------------------------------

    def _sleep_until(self, when: float) -> None:
        me = self._running
        me.waits_for, me.until = None, when
        self._waiting.append(me)
        self._switch(me)

    def _switch(self, me: _Thread) -> None:
        if self._closing:
            self._waiting.remove(me)
            raise _Ended
        following = self._next()
        if following is not me:
            self._running = following
            following.go.release()
            acquired = me.go.acquire(timeout=PATIENCE if me is self._main else None)
            assert acquired, f"{self._running.name} neither waits nor ends"
        if self._closing:
            raise _Ended
        self.turns += 1
        if me is self._main and self._deadlocked:
            self._deadlocked = False
            raise Deadlock(f"at {self._time} s everybody waits for ever: main, {', '.join(self.others)}")

    def _make_ready(self, thread: _Thread) -> None:
        self._waiting.remove(thread)
        self._ready.append(thread)

    def _next(self) -> _Thread:
        if self._closing:
            return self._main
        if not self._ready:
            deadline = min((each.until for each in self._waiting if each.until is not None), default=None)
            if deadline is None:
                self._deadlocked = True
                self._make_ready(self._main)
            else:
                self._time = max(self._time, deadline)
                for thread in list(self._waiting):
                    if thread.until is not None and thread.until <= self._time:
                        self._make_ready(thread)
        return self._ready.popleft()


class _JumpingSelector:
    """Looks for what is ready and never waits for it, unless only another thread can help."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = self._selector.select(0 if timeout is not None else PATIENCE)
        if not ready:
            if timeout is None:
                raise Deadlock("the loop waits for ever")
            self._jump(timeout)
        return ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time passes only when there is nothing to do, and then at once."""

    def __init__(self) -> None:
        self._now = 0.0
        self.turns = 0
        """How many times it woke up."""
        super().__init__(_JumpingSelector(self._pass))  # type: ignore[arg-type]  # it has all that is used

    def time(self) -> float:
        return self._now

    def _pass(self, seconds: float) -> None:
        self.turns += 1
        self._now += seconds

    # How early a timer may run.  The system's 1 ns would let one run whose time has not come, and which then
    # waits for the rest, during which no time passes here.
    @property
    def _clock_resolution(self) -> float:
        return math.ulp(self._now)

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        pass


@cache
def _folder(file: str) -> str:
    """The name of the folder that *file* is in; of some files for each of very many calls."""
    return Path(file).parent.name


@contextmanager
def interrupting(n: int, action: Callable[[], None], *, package: str = "atom_sync") -> Iterator[Callable[[], int]]:
    """Call *action* at the n-th call or return in the code of *package* and the core; gives their number.

    What earlier tests left is not collected meanwhile: that a generator of theirs is closed is a call, too, which
    comes anywhere, also where a loop on virtual time has looked for what wakes it and is about to jump.
    """
    count = 0
    over = False

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        if not over and _folder(frame.f_code.co_filename) in (package, "atom_sansio"):
            count += 1
            if count == n:
                print(f"interrupted {frame.f_code.co_name}, line {frame.f_lineno}, at a {event}")
                action()

    collects = gc.isenabled()
    gc.disable()
    sys.setprofile(profile)
    threading.setprofile(profile)
    try:
        yield lambda: count
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # of threads to come only
        over = True
        if collects:
            gc.enable()


CORE_CALLS = {
    "track_line",
    "flush",
    "close",
    "abandon",
    "next_command",
    "next_deadline",
    "response_received",
    "send_failed",
    "set_auth_key",
    "statistics",
}
"""What drivers call of the core."""


class Guarded:
    """A core that notices when a driver calls it without its lock."""

    def __init__(self, core: Any, lock: Any) -> None:
        self._core = core
        self._lock = lock
        self.calls: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._core, name)
        if callable(value):
            assert self._lock._is_owned(), f"{name}() is called without the lock"
            self.calls.add(name)
        return value
