"""What it costs a program to start: imports and the first tracker, over a bare interpreter."""

from __future__ import annotations

import functools
import os
import statistics
import sys
import sysconfig
import time
from typing import Any

from .measure import interleaved, pinned
from .report import ROOT
from .rows import Row, number
from .workload import counting_sink

FIRST_USE = "import atom_sync; t = atom_sync.Tracker({url!r}{more}); t.track('stream', {{'a': 1}}); assert t.stop()"
RUNS = 5
"""Starts of each program a round."""

# As users have it installed: without what a development environment loads at every start, such as the finder of an
# editable installation, which imports half of what is to be measured.
OPTIONS = ("-S",)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])}


def _programs(url: str) -> dict[str, str]:
    return {
        "bare": "import os",  # which every start does that loads site
        "core": "import atom_sansio",
        "memory": FIRST_USE.format(url="http://127.0.0.1/", more=", transport=atom_sync.MemoryTransport"),
        "native": FIRST_USE.format(url=url, more=""),
        "standard library": "import json, hmac, socket, threading",
    }


def _start(program: str) -> tuple[float, float]:
    """CPU and wall milliseconds of an interpreter that runs *program*."""
    began = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, *OPTIONS, "-c", program], ENVIRONMENT)
    _, status, used = os.wait4(process, 0)
    wall = time.perf_counter() - began
    if status:
        raise RuntimeError(f"status {status}: {program}")
    return (used.ru_utime + used.ru_stime) * 1e3, wall * 1e3


def measure(rounds: int) -> dict[str, Any]:
    """CPU and wall milliseconds of each program, by run."""
    with pinned(), counting_sink() as sink:
        programs = _programs(sink.url)
        for program in programs.values():  # compiles what is not compiled yet
            _start(program)
        jobs = {name: functools.partial(_start, program) for name, program in programs.items()}
        return interleaved(jobs, rounds * RUNS)


def _over_bare(figures: dict[str, Any], name: str, part: int) -> float:
    more: float = statistics.median(a[part] - b[part] for a, b in zip(figures[name], figures["bare"], strict=True))
    return more


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """The starts' CPU over that of a bare one: what can be compared with another day's."""
    return {
        f"import-{name}": statistics.median(a[0] / b[0] for a, b in zip(figures[name], figures["bare"], strict=True))
        for name in ("core", "native")
    }


def rows(figures: dict[str, Any]) -> list[Row]:
    titles = {
        "core": ("CPU of `import atom_sansio`, over a bare interpreter", 30),
        "memory": ("CPU of import, a tracker in memory, an event, `stop()`, over a bare interpreter", 45),
        "native": ("the same over a socket", 45),
    }
    bare = statistics.median(cpu for cpu, _ in figures["bare"])
    standard = _over_bare(figures, "standard library", 0)
    return [
        Row(
            name=f"import-{name}",
            what=title,
            limit=f"bare {number(bare)} ms; json, hmac, socket, threading {number(standard)} ms more",
            ours=f"{number(_over_bare(figures, name, 0))} ms; wall {number(_over_bare(figures, name, 1))} ms",
            value=_over_bare(figures, name, 0),
            unit=" ms",
            target=target,
        )
        for name, (title, target) in titles.items()
    ]
