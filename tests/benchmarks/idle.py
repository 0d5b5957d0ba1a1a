"""What a tracker with nothing to do does: wake-ups and CPU of a process that sleeps beside one."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio

import atom_anyio
import atom_sync

from . import ours
from .report import ROOT
from .rows import Row
from .sink import Sink
from .workload import KEY, STREAM, WARM_UP, counting_sink

SECONDS = 12.0
"""Longer than the default flush interval."""
KINDS = ("threads", *ours.LOOPS)


def _switches() -> int:
    """How often any thread of this process gave its CPU away to wait for something."""
    total = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def _threads(url: str) -> dict[str, float]:
    with atom_sync.Tracker(url, auth_key=KEY) as tracker:
        tracker.track(STREAM, WARM_UP)
        ours.finish(tracker)
        time.sleep(0.5)
        before, cpu = _switches(), time.process_time()
        time.sleep(SECONDS)
        return {"wakeups": _switches() - before - 1, "cpu_ms": (time.process_time() - cpu) * 1e3}


async def _tasks(url: str) -> dict[str, float]:
    async with atom_anyio.Tracker(url, auth_key=KEY) as tracker:
        tracker.track_nowait(STREAM, WARM_UP)
        await ours.finish_async(tracker)
        await anyio.sleep(0.5)
        before, cpu = _switches(), time.process_time()
        await anyio.sleep(SECONDS)
        return {"wakeups": _switches() - before - 1, "cpu_ms": (time.process_time() - cpu) * 1e3}


def _start(kind: str, sink: Sink) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "tests.benchmarks.idle", kind, sink.url]
    return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE)


def measure(rounds: int) -> dict[str, Any]:
    """Wake-ups, the one of the sleeping program itself not counted, and CPU milliseconds.

    One round is enough, since what is counted is not noisy; all sleep side by side.
    """
    with counting_sink() as sink:
        processes = {kind: _start(kind, sink) for kind in KINDS}
        result = {kind: json.loads(process.communicate()[0]) for kind, process in processes.items()}
    if any(process.returncode for process in processes.values()):
        raise RuntimeError({kind: process.returncode for kind, process in processes.items()})
    return result


def rows(figures: dict[str, Any]) -> list[Row]:
    return [
        Row(
            name=f"idle-{kind}",
            what=f"wake-ups a second, empty and idle, {kind}",
            limit="0",
            ours=f"{figures[kind]['wakeups']} in {SECONDS:.0f} s, {figures[kind]['cpu_ms']:.1f} ms of CPU",
            value=figures[kind]["wakeups"] / SECONDS,
            unit="/s",
            target=0,
        )
        for kind in KINDS
    ]


if __name__ == "__main__":
    kind, url = sys.argv[1:]
    print(json.dumps(_threads(url) if kind == "threads" else ours.on(kind, functools.partial(_tasks, url))), flush=True)
    os._exit(0)
