"""What a pending event and a stream keep of memory, measured in fresh processes."""

from __future__ import annotations

import functools
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

import atom_sync

from .held import Held
from .measure import interleaved
from .rows import Row, number
from .workload import KEY, LARGE, SMALL, STREAM, Event

SIZES = {"small": (SMALL, 200_000), "large": (LARGE, 40_000)}
STREAMS = 10_000
ROOT = Path(__file__).parents[2]


def _events(like: Event, count: int) -> Iterator[Event]:
    """Distinct events that nobody else keeps."""
    text = orjson.dumps(like)
    for i in range(count):
        event: Event = orjson.loads(text)
        event["id"] = 100 + i % 900  # all of one length
        yield event


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _in_this_process(what: str) -> dict[str, float]:
    """Bytes that one more pending event, or one more stream with an event, takes; and the least for it."""
    like, count = SIZES.get(what, (SMALL, STREAMS))
    streams = [STREAM] * count if what in SIZES else [f"bench.public.stream{i}" for i in range(count)]
    held = Held(atom_sync.MemoryTransport())
    tracker = atom_sync.Tracker("http://127.0.0.1/", auth_key=KEY, transport=held)
    # Whatever is taken once is taken now: imports, threads, a request in flight, room for events that pass by.
    for event in _events(like, 4000):
        tracker.track(STREAM, event)
    held.reached.wait()
    for _ in _events(like, count):
        pass
    before = _resident()
    least = 0
    for stream, event in zip(streams, _events(like, count), strict=True):
        tracker.track(stream, event)
        least += len(orjson.dumps(event)) + 1
    taken = _resident() - before
    if tracker.statistics().pending != count + 4000:
        raise RuntimeError(f"not everything is pending: {tracker.statistics()}")
    return {"taken": taken / count, "least": least / count}


def _in_a_fresh_process(what: str) -> dict[str, float]:
    program = [sys.executable, "-m", "tests.benchmarks.memory", what]
    result: dict[str, float] = json.loads(subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return result


def measure(rounds: int, kinds: tuple[str, ...] = (*SIZES, "streams")) -> dict[str, Any]:
    """Bytes taken and the least bytes, by kind and round."""
    return interleaved({kind: functools.partial(_in_a_fresh_process, kind) for kind in kinds}, min(rounds, 3))


def rows(figures: dict[str, Any]) -> list[Row]:
    titles = {"small": "memory a pending event, 99 bytes", "large": "memory a pending event, 1 KiB"}
    result = []
    for kind, title in titles.items():
        if kind in figures:
            taken = statistics.median(each["taken"] for each in figures[kind])
            least = statistics.median(each["least"] for each in figures[kind])
            result.append(
                Row(
                    name=f"memory-{kind}",
                    what=title,
                    limit=f"its bytes + 1: {number(least)} B",
                    ours=f"{number(taken)} B",
                    value=taken / least,
                    target=1.25,
                )
            )
    if "streams" in figures:
        more = statistics.median(each["taken"] - each["least"] for each in figures["streams"])
        result.append(
            Row(
                name="memory-stream",
                what=f"memory a stream, of {STREAMS:,} with an event each",
                limit="the event's bytes + 1, not counted",
                ours=f"{number(more)} B",
                value=more,
                unit=" B",
                target=1024,
            )
        )
    return result


if __name__ == "__main__":
    print(json.dumps(_in_this_process(sys.argv[1])), flush=True)
    os._exit(0)  # nothing of this is to be sent
