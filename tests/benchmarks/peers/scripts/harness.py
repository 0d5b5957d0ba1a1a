"""What every script here shares: make events, hand each to a peer's call, and say what that took.

A script runs in the peer's own virtual environment, so this needs nothing but the standard library::

    python peer_x.py cpu 20000 --url http://127.0.0.1:3000/

It prints one line of JSON and ends.  ``cpu`` gives the queue room for all events; ``burst`` leaves the peer's
settings alone; ``memory`` talks to a server that never answers.
"""

from __future__ import annotations

import argparse
import array
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARM_UP = 500
"""Events before the measured ones: connections, threads and late imports are not what an event costs."""
FLUSH_TIMEOUT = 60.0
"""Seconds; for those peers whose flush has a time-out."""
HERE = {"127.0.0.1", "localhost", "", None}

Event = dict[str, Any]


@dataclass
class Peer:
    """How to use one library."""

    track: Callable[[Event], object]
    """Takes one event; ``False`` says that it was refused and the caller knows."""
    flush: Callable[[], object]
    """Returns when no event is pending any more."""
    delivered: Callable[[], int] | None = None
    """Events confirmed so far, where no sink can count them."""


@dataclass
class Setting:
    """What a script is to connect to."""

    url: str
    """The sink, with a slash at its end."""
    room: int | None
    """Events that must fit into the queue; ``None`` for the peer's own bound."""
    mode: str
    options: list[str]
    """What else the table of peers says for this row."""

    @property
    def host(self) -> str:
        """The address without scheme and path."""
        return self.url.removeprefix("http://").rstrip("/")


def drive(track: Callable[[Event], object], calls: array.array[int]) -> int:
    """Call *track* with as many events as *calls* has places for their times; returns how many were refused."""
    clock = time.perf_counter_ns
    refused = 0
    for i in range(len(calls)):
        event = {
            "id": i,
            "event_name": "PYTHON_SDK_TRACKER_EXAMPLE",
            "string_value": "0.7312345",
            "ts": 1700000000.123,
        }
        began = clock()
        kept = track(event)
        calls[i] = clock() - began
        if kept is False:
            refused += 1
    return refused


def _times(count: int) -> array.array[int]:
    return array.array("q", bytes(8 * count))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu(connect: Callable[[Setting], Peer], setting: Setting, count: int) -> dict[str, Any]:
    calls = _times(count)
    drive(lambda event: None, _times(WARM_UP))
    began = time.process_time()
    drive(lambda event: None, calls)
    harness = time.process_time() - began
    peer = connect(setting)
    refused = drive(peer.track, _times(WARM_UP))
    peer.flush()
    gc.collect()
    began = time.process_time()
    refused += drive(peer.track, calls)
    peer.flush()
    spent = time.process_time() - began
    order = sorted(calls)
    return {
        "asked": count + WARM_UP,
        "accepted": count + WARM_UP - refused,
        "delivered": peer.delivered() if peer.delivered else None,
        "cpu_us": spent / count * 1e6,
        "harness_us": harness / count * 1e6,
        "call_median_us": order[count // 2] / 1e3,
        "call_p99_us": order[count * 99 // 100] / 1e3,
    }


def _burst(connect: Callable[[Setting], Peer], setting: Setting, count: int) -> dict[str, Any]:
    peer = connect(setting)
    refused = drive(peer.track, _times(count))
    peer.flush()
    return {
        "asked": count,
        "accepted": count - refused,
        "delivered": peer.delivered() if peer.delivered else None,
    }


def _memory(connect: Callable[[Setting], Peer], setting: Setting, count: int) -> dict[str, Any]:
    calls, warm_up = _times(count), _times(WARM_UP)
    drive(lambda event: None, calls)  # its pages are in memory before we look
    peer = connect(setting)
    drive(peer.track, warm_up)
    time.sleep(0.2)  # the first request is under way
    gc.collect()
    before = _resident()
    refused = drive(peer.track, calls)
    gc.collect()
    return {
        "asked": count,
        "accepted": count - refused,
        "pending_bytes": (_resident() - before) / count,
    }


def _watch(strangers: set[str]) -> None:
    """Note every address off this machine that Python code asks for."""

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "socket.getaddrinfo":
            host = arguments[0]
        elif name == "socket.connect" and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        if (host.decode() if isinstance(host, bytes) else host) not in HERE:
            strangers.add(str(host))

    sys.addaudithook(hook)


def main(connect: Callable[[Setting], Peer]) -> None:
    """Measure what *connect* returns, as the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["cpu", "burst", "memory"])
    parser.add_argument("events", type=int)
    parser.add_argument("--url", required=True)
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    strangers: set[str] = set()
    if given.mode != "cpu":  # the hook costs a little at each system call
        _watch(strangers)
    room = None if given.mode == "burst" else 2 * (given.events + WARM_UP)
    setting = Setting(url=given.url, room=room, mode=given.mode, options=given.options)
    measure = {"cpu": _cpu, "burst": _burst, "memory": _memory}[given.mode]
    report(measure(connect, setting, given.events) | {"strangers": sorted(strangers)})


def report(result: dict[str, Any]) -> None:
    """Print *result* and end at once, without the peer's exit hooks: all is flushed, or is never to be."""
    print(json.dumps(result), flush=True)
    os._exit(0)
