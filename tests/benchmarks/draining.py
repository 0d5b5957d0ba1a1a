"""``python -m tests.benchmarks.draining GIB``: memory while a backlog of that size is filled, and then emptied.

It takes some minutes for ten, and as much of the disk, in the current directory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import atom_sync
from atom_sansio import ConnectionFailed, Reply, Request
from atom_sync.backlog import Backlog

from .workload import KEY, LARGE, STREAM

STREAMS = 10
GIBIBYTE = 1 << 30


class _Away:
    """A transport that waits for an answer until it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def send(self, request: Request, *, timeout: float) -> Reply:
        self._closed.wait(timeout)
        raise ConnectionFailed("no answer")

    def close(self) -> None:
        self._closed.set()


class _Answering:
    def send(self, request: Request, *, timeout: float) -> Reply:
        return Reply(status=200, headers=(), body=b"")

    def close(self) -> None:
        pass


def _tracker(path: str, level: str, batch: int, transport: type[atom_sync.Transport]) -> atom_sync.Tracker:
    return atom_sync.Tracker(
        "http://127.0.0.1/",
        auth_key=KEY,
        transport=transport,
        backlog=Backlog(path, level=level),
        max_batch_events=batch,
        max_pending_bytes=1 << 50,
        request_timeout=3600.0,
    )


def _report(what: str, events: int, began: float) -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024
    print(
        f"{what}: {events:,} events in {time.monotonic() - began:.0f} s, at most {peak:.0f} MiB of memory", flush=True
    )


def _fill(path: str, size: int, level: str, batch: int) -> None:
    began = time.monotonic()
    tracker = _tracker(path, level, batch, _Away)
    while tracker.statistics().pending_bytes < size:
        for n in range(1000):
            tracker.track(f"{STREAM}-{n % STREAMS}", LARGE)
    _report("filling", tracker.statistics().pending, began)
    tracker.stop(10)


def _drain(path: str, level: str, batch: int) -> None:
    began = time.monotonic()
    tracker = _tracker(path, level, batch, _Answering)
    _report("opening", tracker.statistics().pending, began)
    while tracker.statistics().pending:
        time.sleep(0.1)
    _report("draining", tracker.statistics().delivered, began)
    tracker.stop()


def main() -> None:
    """Fill in one process, drain in another."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.draining", description=__doc__)
    parser.add_argument("gib", type=float, metavar="GIB")
    parser.add_argument("--level", default="process", help="of the backlog (default process)")
    parser.add_argument("--batch", type=int, default=2000, help="max_batch_events (default 2000)")
    parser.add_argument("--step", choices=("fill", "drain"), help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "fill":
        _fill(arguments.path, int(arguments.gib * GIBIBYTE), arguments.level, arguments.batch)
    elif arguments.step == "drain":
        _drain(arguments.path, arguments.level, arguments.batch)
    else:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
            path = str(Path(directory, "events.db"))
            for step in ("fill", "drain"):
                command = [sys.executable, "-m", "tests.benchmarks.draining", *sys.argv[1:]]
                subprocess.run([*command, "--step", step, "--path", path], check=True)


if __name__ == "__main__":
    main()
