"""Under gevent, which puts greenlets in the place of threads."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
from interrupted_programs import Program, arrived, once, run

pytest.importorskip("gevent")

PATCH = """
from gevent import monkey
monkey.patch_all()
import gevent, itertools, os, sys, threading, time
from atom_sync import Tracker
url = sys.argv[1]
def check(condition, *why):
    if not condition:
        print("wrong:", *why, file=sys.stderr, flush=True)
        os._exit(99)
"""


def patched(script: str) -> tuple[str, ...]:
    return (sys.executable, "-W", "ignore", "-c", PATCH + dedent(script))


def run_patched(script: str, url: str) -> None:
    run("", url, command=patched(script))


def test_greenlets(url: str) -> None:
    """100 greenlets that track, flush and wait for room lose nothing, and each keeps its order."""
    run_patched(
        """
        tracker = Tracker(url, flush_interval=0.05, max_batch_events=50, max_pending_events=200)

        def work(me):
            for n in range(50):
                tracker.track("s", [me, n])
                if n % 10 == me % 10:
                    gevent.sleep(0)
                if n == 25:
                    check(tracker.flush(20).pending == 0)

        gevent.joinall([gevent.spawn(work, me) for me in range(100)], raise_error=True)
        check(tracker.flush(20).pending == 0)
        statistics = tracker.statistics()
        check(statistics.accepted == statistics.delivered == 5000, statistics)
        """,
        url,
    )
    seen = arrived(url)
    assert seen == once(*([me, n] for me in range(100) for n in range(50)))
    for me in range(100):
        assert [event[1] for event in seen if event[0] == me] == list(range(50))


def test_others_go_on(url: str) -> None:
    """While one greenlet waits for a flush, others run."""
    run_patched(
        """
        import socket
        listener = socket.create_server(("127.0.0.1", 0))
        tracker = Tracker(f"http://127.0.0.1:{listener.getsockname()[1]}/", on_loss=lambda loss: None)
        tracker.track("s", 1)
        waiting = gevent.spawn(tracker.flush, 0.5)
        turns = 0
        while not waiting.ready():
            gevent.sleep(0.001)
            turns += 1
        check(turns > 10, turns)
        check(waiting.value.pending == 1, waiting.value)
        tracker.stop(0.1)
        """,
        url,
    )


def test_exit(url: str) -> None:
    """What is pending at the end is delivered."""
    run_patched("tracker = Tracker(url)\nfor n in range(25): tracker.track('s', n)", url)
    assert arrived(url) == once(*range(25))


@pytest.mark.parametrize("pause", [0, 0.1, 0.3])
def test_fork(url: str, pause: float) -> None:
    """A child, in which the senders of its parent are still there, begins empty, delivers, and sends nothing twice."""
    script = f"""
        tracker = Tracker(url, flush_interval=0.2)
        for n in range(25):
            tracker.track("parent", n)
        gevent.sleep({pause})
        pid = os.fork()
        if pid == 0:
            check(tracker.statistics().accepted == 0, tracker.statistics())
            for n in range(25):
                tracker.track("child", n)
                gevent.sleep(0.02)
            check(tracker._idle >= 0, tracker._idle)
            check(tracker._senders > 0, tracker._senders)
            sys.exit(0)
        check(os.waitpid(pid, 0)[1] == 0)
    """
    with Program("", url, command=patched(script)) as program:
        code, _, err = program.end()
    assert code == 0, err
    # Of itself, threading tells of a greenlet that ends in a child that it does not know any more.
    assert "atom-sender:" not in err
    assert arrived(url, "parent") == arrived(url, "child") == once(*range(25))
