"""Programs of their own for the tests of faults, and what of their events arrived."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from atom_sync import MemoryTransport, Tracker

PATIENCE = 60.0
"""Real seconds after which a program that hangs is killed, and its test fails."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

PRELUDE = f"""
import itertools, os, signal, sys, threading, time
if hasattr(signal, "alarm"):
    signal.alarm({PATIENCE:.0f})  # nothing is left behind, whatever happens to who started it
from atom_sync import MemoryTransport, Tracker
url = sys.argv[1]

def check(condition, *why):
    if not condition:
        print("wrong:", *why, file=sys.stderr, flush=True)
        os._exit(99)

"""


class Program:
    """An interpreter of its own that runs *script*; leaving it as a context manager ends it.

    Its coverage is not measured: that slows it down where time is what matters, and has locks that a fork may hold.
    """

    def __init__(self, script: str, *arguments: str, command: tuple[str, ...] | None = None, **options: Any) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        # Since 3.12 a fork beside threads warns, rightly.
        run = (sys.executable, "-W", "ignore:This process", "-c", PRELUDE + textwrap.dedent(script))
        self.process = subprocess.Popen(
            [*(command or run), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, **options.pop("environment", {})},
            **options,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line: str = self.process.stdout.readline().rstrip("\n")
        return line

    def end(self, timeout: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for its end: exit code and what it has printed on stdout and on stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


def run(script: str, *arguments: str, takes: float = 0.0, **options: Any) -> str:
    """Run *script*, which must end well and complain about nothing; give what it printed."""
    with Program(script, *arguments, **options) as program:
        code, out, err = program.end(PATIENCE + takes)
    assert (code, err) == (0, ""), f"exit code {code}\n{err}"
    return out


def run_each(script: str, cases: dict[str, tuple[str, ...]], *, takes: float = 0.0) -> dict[str, str]:
    """:func:`run` *script* with the arguments of each of *cases*, all at once."""
    printed = {}
    with ExitStack() as stack:
        programs = {name: stack.enter_context(Program(script, *arguments)) for name, arguments in cases.items()}
        for name, program in programs.items():
            code, printed[name], err = program.end(PATIENCE + takes)
            assert (code, err) == (0, ""), f"{name}: exit code {code}\n{err}"
    return printed


def arrived(url: str, stream: str | None = None, *, resent: bool = False) -> Counter[Any]:
    """How many times each event has arrived at the collector at *url*.

    It stores a batch once whose id it has seen, so unless *resent* nothing may have been sent twice under one id
    either.
    """
    texts: Counter[Any] = Counter()
    after = 0
    while after is not None:
        of_stream = "" if stream is None else f"&stream={stream}"
        page = _get(f"{url}_atom/events?limit=1000&after={after}{of_stream}")
        texts.update(_hashable(event["event"]) for event in page["events"])
        after = page["next"]
    assert resent or stats(url)["duplicates"] == 0
    return texts


def stats(url: str) -> dict[str, Any]:
    """The collector's own counts."""
    counts: dict[str, Any] = _get(f"{url}_atom/stats")
    return counts


def once(*events: Any) -> Counter[Any]:
    """What :func:`arrived` gives when each of *events* has arrived once."""
    return Counter(map(_hashable, events))


def delivered_next(backlog: Path) -> Counter[Any]:
    """What the next start delivers: how many times each event."""
    transport = MemoryTransport()
    tracker = Tracker("http://127.0.0.1:1/", backlog=backlog, transport=transport)
    result = tracker.flush(PATIENCE)
    tracker.stop()
    assert (result.lost, result.pending) == (0, 0)
    return once(*(event for _, event in transport.events))


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Look again and again until *condition* holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.01)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
        return json.load(reply)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@contextmanager
def dead() -> Iterator[str]:
    """The address of a server that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@contextmanager
def hanging() -> Iterator[str]:
    """The address of a server that takes connections and never reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
