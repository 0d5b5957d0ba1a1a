"""How a program with a backlog may end, fork or be cancelled: its events are delivered, or the next start does it.

With ``ATOM_FAULTS_EVERY`` set, at every level; without it, at the default one.
"""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from interrupted_programs import Program, arrived, dead, delivered_next, hanging, once, posix, run, run_each
from trackers import ASKED_FOR

from atom_anyio.collector import Collector

SLOW_MACHINE = 10.0
"""Seconds that an end may take at most where all is slow; two are promised."""

LEVELS = ["memory", "process", "disk"] if ASKED_FOR else ["process"]

SERVERS: dict[str, Callable[[], AbstractContextManager[str]]] = {"live": Collector, "dead": dead, "hanging": hanging}


class Cases:
    """A server and a backlog of its own for each of some programs, which run at once: they wait for most of the time.

    Args:
        names: of the cases; their first word is the name of the server.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._backlogs = {name: folder / f"{name}.db" for name in names}
        self._stack = ExitStack()

    def __enter__(self) -> Cases:
        self.urls = {name: self._stack.enter_context(SERVERS[name.split()[0]]()) for name in self._backlogs}
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def arguments(self, *more: str) -> dict[str, tuple[str, ...]]:
        """Of each program: the URL, the backlog, *more*, and the words of the case after the first."""
        return {name: (url, str(self._backlogs[name]), *more, *name.split()[1:]) for name, url in self.urls.items()}

    def check(self, expected: Counter[Any]) -> None:
        """What is expected has arrived at a live server; the next start delivers it where the server is not."""
        for name, url in self.urls.items():
            if name.startswith("live"):
                assert arrived(url) == expected, name
            left = delivered_next(self._backlogs[name])
            assert left == (once() if name.startswith("live") else expected), name


ENDS = {
    "return": "",
    "exit": "sys.exit(0)",
    "exception": "raise SystemExit('as planned')",
    "in a thread": "threading.Thread(target=sys.exit).start()",
    "flushing": "threading.Thread(target=tracker.flush, daemon=True).start()",
}

TRACK = """
from atom_sync.backlog import Backlog
tracker = Tracker(url, backlog=Backlog(sys.argv[2], level=sys.argv[3]))
for n in range(25): tracker.track("s", n)
"""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("level", LEVELS)
def test_without_flush(url: str, tmp_path: Path, level: str, end: str) -> None:
    """A program that just ends has delivered all of its 25 events, and leaves none."""
    backlog = tmp_path / "events.db"
    with Program(TRACK + ENDS[end], url, str(backlog), level) as program:
        code, _, err = program.end()
    assert (code, err) == ((1, "as planned\n") if end == "exception" else (0, ""))
    assert arrived(url) == once(*range(25))
    assert delivered_next(backlog) == once()


@pytest.mark.parametrize("level", LEVELS)
def test_no_server(tmp_path: Path, level: str) -> None:
    """With a dead or hanging server it ends in two seconds, and the next start delivers all 25."""
    script = """
        import atexit
        atexit.register(lambda: print(time.monotonic(), flush=True))  # runs after the tracker's
        exec(TRACK)
        atexit.register(lambda: print(time.monotonic(), flush=True))  # runs before the tracker's
    """
    script = f"TRACK = {TRACK!r}\n" + "\n".join(map(str.strip, script.splitlines()))
    with Cases(tmp_path, ["dead", "hanging"]) as cases:
        for server, out in run_each(script, cases.arguments(level)).items():
            before, after = map(float, out.split())
            print(f"{after - before:.3f} s to end at level {level} with a {server} server")
            assert after - before < SLOW_MACHINE
        cases.check(once(*range(25)))


@posix
def test_signals(tmp_path: Path) -> None:
    """A signal with handle_signals(): all 25 are delivered, by this program or by the next."""
    script = TRACK + "tracker.handle_signals()\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)"
    signals = {f"{server} {signal_.name}": signal_ for server in SERVERS for signal_ in (signal.SIGTERM, signal.SIGINT)}
    with Cases(tmp_path, signals) as cases, ExitStack() as stack:
        arguments = cases.arguments("process")
        programs = {name: stack.enter_context(Program(script, *arguments[name])) for name in arguments}
        for name, program in programs.items():
            assert program.line() == "ready"
            program.process.send_signal(signals[name])
        for name, program in programs.items():
            code, _, err = program.end()
            assert code == -signals[name], name
            assert "Traceback" not in err or signals[name] == signal.SIGINT, name
        cases.check(once(*range(25)))


@posix
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("server", ["live", "dead"])
def test_fork(tmp_path: Path, server: str, level: str) -> None:
    """5 of a forked child and 5 of its parent are sent once each, and before and after the fork makes no difference."""
    script = """
        from atom_sync.backlog import Backlog
        tracker = Tracker(url, backlog=Backlog(sys.argv[2], level=sys.argv[3]), flush_interval=3600.0)
        for n in range(5):
            tracker.track("s", ["before", n])
        if os.fork() == 0:
            signal.alarm(30)  # is not inherited
            for n in range(5):
                tracker.track("s", ["child", n])
            check(tracker.statistics().accepted == 5, tracker.statistics())
            sys.exit(0)
        for n in range(5):
            tracker.track("s", ["after", n])
        check(os.wait()[1] == 0, "the child")
        check(tracker.statistics().accepted == 10, tracker.statistics())
    """
    with Cases(tmp_path, [server]) as cases:
        run_each(script, cases.arguments(level))
        cases.check(once(*([who, n] for who in ("before", "child", "after") for n in range(5))))


@posix
def test_double_fork(url: str, tmp_path: Path) -> None:
    """A daemon, made by a double fork, and its workers deliver their own; so does who has started it."""
    script = """
        from atom_sync.backlog import Backlog
        tracker = Tracker(url, backlog=Backlog(sys.argv[2]), flush_interval=3600.0)
        tracker.track("s", "parent")
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.alarm(30)
            workers = []
            for worker in range(3):
                pid = os.fork()
                if pid == 0:
                    signal.alarm(30)
                    for n in range(5):
                        tracker.track("s", [worker, n])
                    sys.exit(0)
                workers.append(pid)
            for pid in workers:
                check(os.waitpid(pid, 0)[1] == 0, "a worker")
            tracker.track("s", "daemon")
            tracker.stop()
            os.write(writing, b"done")
            os._exit(0)
        check(os.wait()[1] == 0, "the session leader")
        check(os.read(reading, 4) == b"done", "the daemon")
    """
    backlog = tmp_path / "events.db"
    run(script, url, str(backlog))
    assert arrived(url) == once("parent", "daemon", *([worker, n] for worker in range(3) for n in range(5)))
    assert delivered_next(backlog) == once()


@posix
@pytest.mark.parametrize("child_tracks", ["before", "after"])
def test_parent_killed(url: str, tmp_path: Path, child_tracks: str) -> None:
    """A parent is killed while its child lives: the next start has what was its own, and the child goes on."""
    script = """
        from atom_sync.backlog import Backlog
        tracker = Tracker(url, backlog=Backlog(sys.argv[2]), flush_interval=3600.0)
        for n in range(5):
            tracker.track("s", ["parent", n])
        go_on, let_go_on = os.pipe()
        tracked, tell_tracked = os.pipe()
        if os.fork() == 0:
            signal.alarm(30)
            if sys.argv[3] == "before":
                tracker.track("s", ["child", 0])
            os.write(tell_tracked, b"x")
            os.close(let_go_on)
            sys.stdin.read()
            tracker.track("s", ["child", 1])
            check(tracker.stop(20).pending == 0, "the child")  # a flush may leave it to be sent again
            print("child done", flush=True)
            os._exit(0)
        os.read(tracked, 1)
        print("ready", flush=True)
        while True:
            time.sleep(60)
    """
    backlog = tmp_path / "events.db"
    with Program(script, url, str(backlog), child_tracks, stdin=subprocess.PIPE) as program:
        assert program.line() == "ready"
        program.process.kill()
        program.process.wait()
        assert delivered_next(backlog) == once(*(["parent", n] for n in range(5)))
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert program.line() == "child done"
        program.process.stdin = None
    children = [["child", 0], ["child", 1]] if child_tracks == "before" else [["child", 1]]
    assert arrived(url) == once(*children)
    assert delivered_next(backlog) == once()


@posix
@pytest.mark.parametrize("names", [["live process"], ["live pool"], ["dead process", "dead pool"]], ids=", ".join)
def test_multiprocessing(tmp_path: Path, names: list[str]) -> None:
    """Children of multiprocessing by fork: what each tracked arrives once, now or after the next start."""
    script = """
        import multiprocessing
        from atom_sync.backlog import Backlog
        context = multiprocessing.get_context("fork")
        tracker = Tracker(url, backlog=Backlog(sys.argv[2]), flush_interval=3600.0)
        tracker.track("s", "before")

        def work(child):
            tracker.track("s", child)

        if sys.argv[3] == "process":
            children = [context.Process(target=work, args=(child,)) for child in range(5)]
            for child in children:
                child.start()
            for child in children:
                child.join()
                check(child.exitcode == 0, child)
        else:
            with context.Pool(3) as pool:
                pool.map(work, range(5), chunksize=1)
                pool.close()
                pool.join()
        tracker.track("s", "after")
    """
    with Cases(tmp_path, names) as cases:  # what must be delivered in two seconds, by itself
        run_each(script, cases.arguments(), takes=30.0)
        cases.check(once("before", *range(5), "after"))


BACKENDS = ["asyncio", "trio"]

CANCELLED = """
import anyio, atom_anyio
from atom_sync.backlog import Backlog

async def main():
    backlog = Backlog(sys.argv[2], level=sys.argv[3])
    with anyio.CancelScope() as scope:
        async with atom_anyio.Tracker(url, backlog=backlog, flush_interval=0.05) as tracker:
            for n in range(25):
                await tracker.track("s", n)
            print(time.monotonic(), flush=True)
            scope.deadline = anyio.current_time() + 0.5
            await anyio.sleep(60)
    print(time.monotonic(), flush=True)

anyio.run(main, backend=sys.argv[4])
"""


@pytest.mark.parametrize("level", LEVELS)
def test_cancelled(tmp_path: Path, level: str) -> None:
    """A program that is cancelled with a dead or hanging server leaves all 25 to the next start."""
    with Cases(tmp_path, [f"{server} {backend}" for server in ("dead", "hanging") for backend in BACKENDS]) as cases:
        for name, out in run_each(CANCELLED, cases.arguments(level), takes=10.0).items():
            began, ended = map(float, out.split())
            print(f"{ended - began - 0.5:.3f} s to end at level {level}: {name}")
            assert ended - began < 5.5 + SLOW_MACHINE
        cases.check(once(*range(25)))
