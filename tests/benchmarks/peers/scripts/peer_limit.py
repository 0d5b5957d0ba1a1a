"""The least that Python can do: ready events on one raw socket."""

from __future__ import annotations

import argparse
import gc
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import harness

from tests.benchmarks.limits import one_socket as limit
from tests.benchmarks.workload import SMALL

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["cpu"])
    parser.add_argument("events", type=int)
    parser.add_argument("--url", required=True)
    parser.add_argument("batch", type=int)
    given = parser.parse_args()
    events = [dict(SMALL, id=i) for i in range(given.events)]
    sink = SimpleNamespace(port=urlsplit(given.url).port)
    limit(sink, events[: harness.WARM_UP], given.batch)
    gc.collect()
    began = time.process_time()
    limit(sink, events, given.batch)
    spent = time.process_time() - began
    asked = given.events + harness.WARM_UP
    harness.report(
        {
            "asked": asked,
            "accepted": asked,
            "delivered": None,
            "cpu_us": spent / given.events * 1e6,
            "harness_us": 0.0,
            "call_median_us": None,
            "call_p99_us": None,
            "strangers": [],
        }
    )
