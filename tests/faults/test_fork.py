"""Processes that fork while threads track: the child begins empty and works, the parent keeps what is its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from interrupted_programs import arrived, once, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BUSY = """
        class Busy:
            '''Threads that track, read and flush until it is left; each event is what only this process has.'''
            def __init__(self, tracker):
                self.tracker, self.over = tracker, False
                self.tracked = [0] * 3
                self.threads = [threading.Thread(target=self.track, args=(me,)) for me in range(3)]
                self.threads.append(threading.Thread(target=self.flush))

            def track(self, me):
                while not self.over:
                    self.tracker.track("threads", [me, self.tracked[me]])
                    self.tracked[me] += 1
                    if self.tracked[me] % 100 == 0:
                        time.sleep(0.001)

            def flush(self):
                while not self.over:
                    self.tracker.flush(0.01)
                    self.tracker.statistics()

            def __enter__(self):
                for thread in self.threads:
                    thread.start()
                while min(self.tracked) < 100:
                    time.sleep(0.001)

            def __exit__(self, *exc_info):
                self.over = True
                for thread in self.threads:
                    thread.join()
"""


def test_beside_threads(url: str) -> None:
    """Of 10 children, forked while threads track and flush, each delivers its own, by os._exit and by sys.exit."""
    script = """
        tracker = Tracker(url, flush_interval=0.05, max_batch_events=100)
        busy = Busy(tracker)
        children = []
        with busy:
            for child in range(10):
                time.sleep(0.01)
                tracker.track("parent", child)
                pid = os.fork()
                if pid == 0:
                    signal.alarm(30)  # is not inherited
                    statistics = tracker.statistics()
                    check(statistics.accepted == statistics.pending == statistics.requests == 0, statistics)
                    for n in range(25):
                        tracker.track("children", [child, n])
                    if child % 2:
                        sys.exit(0)
                    result = tracker.flush(20)
                    check(result.lost == result.pending == 0, result)
                    os._exit(0)
                children.append(pid)
        for pid in children:
            check(os.waitpid(pid, 0)[1] == 0, "a child")
        result = tracker.stop(20)
        statistics = tracker.statistics()
        check(result.lost == result.pending == 0, result)
        check(statistics.accepted == statistics.delivered == 10 + sum(busy.tracked), statistics, busy.tracked)
        print(*busy.tracked)
    """
    tracked = map(int, run(BUSY + script, url).split())
    assert arrived(url, "children") == once(*([child, n] for child in range(10) for n in range(25)))
    assert arrived(url, "parent") == once(*range(10))
    assert arrived(url, "threads") == once(*([me, n] for me, count in enumerate(tracked) for n in range(count)))


def test_pending_before(url: str) -> None:
    """What is pending in the parent when it forks, even 5 times, is sent by the parent, once."""
    script = """
        tracker = Tracker(url, flush_interval=3600.0)
        for n in range(25):
            tracker.track("parent", n)
        for child in range(5):
            if os.fork() == 0:
                tracker.track("children", child)
                sys.exit(0)
        for child in range(5):
            check(os.wait()[1] == 0, "a child")
        check(tracker.statistics().pending == 25, tracker.statistics())
    """
    run(script, url)
    assert arrived(url, "parent") == once(*range(25))
    assert arrived(url, "children") == once(*range(5))


@pytest.mark.parametrize("delay", [0, 5, 10, 20])
def test_during_the_first_request(url: str, delay: int) -> None:
    """A child that is forked just after the first event of all, when its parent loads what requests need, delivers."""
    script = """
        tracker = Tracker(url, max_batch_events=1)
        tracker.track("parent", 1)
        time.sleep(int(sys.argv[2]) / 1000)
        if os.fork() == 0:
            signal.alarm(30)
            tracker.track("child", 1)
            result = tracker.flush(10)
            check(result.delivered == 1, result)
            os._exit(0)
        check(os.wait()[1] == 0, "a child")
    """
    run(script, url, str(delay))
    assert arrived(url, "parent") == arrived(url, "child") == once(1)


def test_key_that_was_set(url: str) -> None:
    """A key that the parent has set is the child's, too."""
    script = """
        requests = MemoryTransport()
        tracker = Tracker(url, auth_key="first", transport=requests)
        tracker.set_auth_key("s", "second")
        if os.fork() == 0:
            signal.alarm(30)
            tracker.track("s", 1)
            tracker.track("t", 1)
            tracker.flush()
            os.write(1, b"\\n".join(request.body for request in requests.requests) + b"\\n")
            os._exit(0)
        check(os.wait()[1] == 0, "a child")
        tracker.track("s", 1)
        tracker.track("t", 1)
        tracker.flush()
        os.write(1, b"\\n".join(request.body for request in requests.requests))
    """
    bodies = run(script, url).splitlines()
    assert len(bodies) == 4
    assert sorted(bodies[:2]) == sorted(bodies[2:])


def test_generations(url: str) -> None:
    """A child that forks again, and so on for 5 generations, loses and doubles nothing."""
    script = """
        tracker = Tracker(url, flush_interval=0.05)
        for generation in range(5):
            tracker.track("generations", generation)
            with Busy(tracker):
                pid = os.fork()
            if pid:
                break
            signal.alarm(30)
        else:
            tracker.track("generations", "last")
        if pid:
            check(os.waitpid(pid, 0)[1] == 0, "a child")
    """
    run(BUSY.replace("[me, ", "[os.getpid(), me, ") + script, url)
    assert arrived(url, "generations") == once(*range(5), "last")
    assert set(arrived(url, "threads").values()) == {1}


def test_daemon(url: str) -> None:
    """A server that becomes a daemon by a double fork with setsid, as uWSGI does, works on with the same tracker."""
    script = """
        tracker = Tracker(url)
        tracker.track("s", "parent")
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            tracker.track("s", "session leader")
            if os.fork():
                sys.exit(0)
            signal.alarm(30)
            os.close(reading)
            workers = []
            for worker in range(4):
                pid = os.fork()
                if pid == 0:
                    signal.alarm(30)
                    for n in range(25):
                        tracker.track("workers", [worker, n])
                    sys.exit(0)
                workers.append(pid)
            for pid in workers:
                check(os.waitpid(pid, 0)[1] == 0, "a worker")
            tracker.track("s", "daemon")
            check(tracker.stop().pending == 0)
            os.write(writing, b"done")
            os._exit(0)
        os.close(writing)
        check(os.wait()[1] == 0, "the session leader")
        check(os.read(reading, 4) == b"done", "the daemon")
    """
    run(script, url)
    assert arrived(url, "s") == once("parent", "session leader", "daemon")
    assert arrived(url, "workers") == once(*([worker, n] for worker in range(4) for n in range(25)))


@pytest.mark.parametrize("how", ["process", "pool", "executor"])
def test_multiprocessing_fork(url: str, how: str) -> None:
    """Children of multiprocessing by fork deliver what they track with the parent's tracker, without flushing."""
    script = """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        context = multiprocessing.get_context("fork")
        tracker = Tracker(url, flush_interval=3600.0)
        tracker.track("parent", "before")

        def work(child):
            tracker.track("children", child)

        match sys.argv[2]:
            case "process":
                children = [context.Process(target=work, args=(child,)) for child in range(25)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                    check(child.exitcode == 0, child)
            case "pool":
                with context.Pool(4) as pool:
                    pool.map(work, range(25), chunksize=1)
                    pool.close()
                    pool.join()
            case "executor":
                with ProcessPoolExecutor(4, mp_context=context) as executor:
                    list(executor.map(work, range(25)))
        tracker.track("parent", "after")
    """
    run(script, url, how)
    assert arrived(url, "children") == once(*range(25))
    assert arrived(url, "parent") == once("before", "after")


SPAWNED = """
import sys
from multiprocessing import get_context
from atom_sync import Tracker

def work(url, child):
    tracker = Tracker(url, flush_interval=3600.0)
    for n in range(5):
        tracker.track("children", [child, n])

if __name__ == "__main__":
    tracker = Tracker(sys.argv[1])
    tracker.track("parent", 1)
    children = [get_context(sys.argv[2]).Process(target=work, args=(sys.argv[1], child)) for child in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(any(child.exitcode for child in children))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_spawn(url: str, tmp_path: Path, method: str) -> None:
    """Children of multiprocessing that are no copies of their parent deliver by trackers of their own."""
    program = tmp_path / "spawned.py"
    program.write_text(SPAWNED)
    run("", url, method, command=(sys.executable, str(program)))
    assert arrived(url, "children") == once(*([child, n] for child in range(2) for n in range(5)))
    assert arrived(url, "parent") == once(1)
