"""``track`` from a signal handler that interrupts ``track``, ``flush`` and everything else, for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from interrupted_programs import PATIENCE, Program, arrived, delivered_next, once, posix, run, stats, wait_until

from atom_sync._clock import Clock

SECONDS = float(os.environ.get("ATOM_FAULTS_SECONDS", "2"))
"""How long a storm lasts; 60 by hand."""


@posix
@pytest.mark.parametrize("level", ["", "process", pytest.param("disk", marks=pytest.mark.thorough)])
def test_storm(url: str, tmp_path: Path, level: str) -> None:
    """With SIGALRM every 50 us, whose handler tracks, each event of the program and of the handler arrives once."""
    script = """
        from atom_sync.backlog import Backlog
        seconds, path, level = float(sys.argv[2]), sys.argv[3], sys.argv[4]
        backlog = Backlog(path, level=level) if level else None
        tracker = Tracker(url, flush_interval=0.05, max_batch_events=100, request_timeout=10.0, backlog=backlog)
        signals, numbers = itertools.count(), itertools.count()
        depth = deepest = 0

        def handler(signum, frame):  # which interrupts itself, too
            global depth, deepest
            if next(signals) % 2 and depth < 50:
                signal.setitimer(signal.ITIMER_REAL, 50e-6)
            depth += 1
            deepest = max(depth, deepest)
            tracker.track("handler", next(numbers))
            depth -= 1
            signal.setitimer(signal.ITIMER_REAL, 50e-6)  # what was interrupted gets on, however slow the machine is

        signal.signal(signal.SIGALRM, handler)
        end = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, 50e-6)
        n = flushes = 0
        while time.monotonic() < end:
            tracker.track("main", n)
            n += 1
            if n % 50 == 0:
                tracker.flush(0)
            if n % 1000 == 0:
                result = tracker.flush(30)
                check(result.lost == result.pending == 0, result)
                flushes += 1
                statistics = tracker.statistics()
                check(statistics.accepted == statistics.delivered + statistics.pending, statistics)
        signal.signal(signal.SIGALRM, lambda signum, frame: None)  # for the one that may just be on its way
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        result = tracker.stop(30)
        statistics = tracker.statistics()
        handled = next(numbers)
        check(result.lost == result.pending == 0, result)
        check(statistics.accepted == statistics.delivered == n + handled, n, handled, statistics)
        check(statistics.pending == statistics.pending_bytes == statistics.lanes == 0, statistics)
        print(n, handled, flushes, deepest)
    """
    path = tmp_path / "events.db"
    n, handled, flushes, deepest = map(int, run(script, url, str(SECONDS), str(path), level, takes=SECONDS).split())
    print(f"{n} events of the program, {handled} of the handler, up to {deepest} deep; {flushes} flushes")
    assert n >= 100
    assert deepest > 1
    assert handled >= 100
    assert arrived(url, "main") == dict.fromkeys(range(n), 1)
    assert arrived(url, "handler") == dict.fromkeys(range(handled), 1)
    assert not level or delivered_next(path) == once()


@posix
def test_suspended(url: str) -> None:
    """A process that is suspended until all its timers are over goes on with one request a stream."""
    script = """
        tracker = Tracker(url, flush_interval=2.0)
        for n in range(100):
            tracker.track(f"stream {n % 10}", n)
        os.kill(os.getpid(), signal.SIGSTOP)  # by itself: on a busy machine another program might be too late
        result = tracker.flush(30) if sys.stdin.readline() == "go on\\n" else None
        print(result)
    """
    with Program(script, url, stdin=subprocess.PIPE) as program:
        _, status = os.waitpid(program.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        time.sleep(2.0)
        assert arrived(url) == once()
        program.process.send_signal(signal.SIGCONT)
        wait_until(lambda: arrived(url) == once(*range(100)), "all had arrived")
        assert stats(url)["requests"] == 10
        program.process.stdin.write("go on\n")
        program.process.stdin.flush()
        assert program.line() == "FlushResult(delivered=0, lost=0, pending=0)"


def _interrupted(call: Callable[[], object], n: int, action: Callable[[], object]) -> bool:
    """Make *call*, with *action* before the n-th step within ``Condition.notify``; whether there is one.

    In a thread of its own, which nothing but this traces.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if frame.f_code is not threading.Condition.notify.__code__:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        if count == n and event == "opcode":
            action()
        return trace

    def run() -> None:
        sys.settrace(trace)
        call()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    return count >= n


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="CPython 3.12.1 traces no instructions at first, or crashes"
)
@pytest.mark.parametrize("waiters", [1, 2, 3])
@pytest.mark.parametrize("notify", [Clock.notify, Clock.notify_all])
def test_notify_interrupts_notify(notify: Any, waiters: int) -> None:
    """Wherever one wake-up interrupts another, none fails, and together they wake all that they should.

    Of two of one thread each that is one: both may wake the same, which takes what there is and wakes the next.
    """
    least = waiters if notify is Clock.notify_all else 1
    n = 0
    while True:
        n += 1
        condition = threading.Condition(threading.RLock())
        waiting = threading.Semaphore(0)
        woken = []

        def wait() -> None:
            with condition:  # noqa: B023 - called before the next round
                waiting.release()  # noqa: B023
                woken.append(condition.wait(PATIENCE))  # noqa: B023

        threads = [threading.Thread(target=wait) for _ in range(waiters)]
        for thread in threads:
            thread.start()
            waiting.acquire(timeout=PATIENCE)

        def wake() -> None:
            with condition:  # noqa: B023
                notify(Clock(), condition)  # noqa: B023

        interrupted = _interrupted(wake, n, lambda: notify(Clock(), condition))  # noqa: B023
        if interrupted:
            wait_until(lambda: len(woken) >= least, "they had been woken")  # noqa: B023
        with condition:
            condition.notify_all()
        for thread in threads:
            thread.join(PATIENCE)
        assert woken == [True] * waiters
        if not interrupted:
            break
    assert n > 20
