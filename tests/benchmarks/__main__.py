"""``python -m tests.benchmarks``: prints the table of docs/performance.md."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import statistics
import time
from collections import defaultdict

from .loops import NEEDLE, SMALL, limit, limit_async, on, tasks, threads
from .parts import show
from .sink import Sink

ROWS = {
    "threads": (threads, limit),
    "anyio on asyncio": (on("asyncio", tasks), on("asyncio", limit_async)),
    "anyio on trio": (on("trio", tasks), on("trio", limit_async)),
}


def measure(rounds: int, count: int, batches: list[int], only: str) -> None:
    events = [dict(SMALL, id=i) for i in range(count)]
    rows = {name: pair for name, pair in ROWS.items() if only in name}
    cpu: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with Sink(NEEDLE) as sink:
        jobs = [(name, part, batch) for name in rows for part in ("ours", "limit") for batch in batches]
        for _ in range(rounds):
            random.shuffle(jobs)
            for name, part, batch in jobs:
                run = rows[name][part == "limit"]
                sink.reset()
                gc.collect()
                before = time.process_time()
                run(sink, events, batch)
                spent = time.process_time() - before
                arrived = sink.stats()["events"]
                if arrived != count:
                    raise SystemExit(f"{name}, {part}, {batch} a batch: {arrived} of {count} events arrived")
                cpu[name, part, batch].append(spent / count * 1e6)
    print(f"| driver | batch | ours, us CPU an event | limit | ratio (median of {rounds}) |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in rows:
        for batch in batches:
            ours, least = cpu[name, "ours", batch], cpu[name, "limit", batch]
            ratio = statistics.median(a / b for a, b in zip(ours, least, strict=True))
            print(
                f"| {name} | {batch} | {statistics.median(ours):.3f} | {statistics.median(least):.3f} | {ratio:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--events", type=int, default=128_000, help="events a run (default 128000)")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 2000], help="events a batch (default 64 2000)")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--parts", action="store_true", help="the parts one by one instead")
    parser.add_argument("--cpu", type=int, default=0, help="the one CPU for client and sink (default 0)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.cpu})
    print(f"CPython {platform.python_version()}, {platform.machine()}, client and sink on one CPU\n")
    if arguments.parts:
        with Sink(NEEDLE) as sink:
            show(sink)
        return
    measure(arguments.rounds, arguments.events, arguments.batch, arguments.only)


if __name__ == "__main__":
    main()
