"""``python -m tests.simulation``: run the simulator, from one seed on, for some time."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .world import EVENTS, Failure, World

EPILOG = """
A failure prints the seed, the step, the hash of the trace and the last steps.  The same seed with the same --events
and the same interpreter does the same again, to the byte.

--bugs puts each planted bug of tests/simulation/bugs into a copy of the core and says how soon it is found.
"""


def main() -> int:
    """Return the exit status: 1 after a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__, epilog=EPILOG)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the next ones follow (default 0)")
    parser.add_argument("--minutes", type=float, help="for how long; without it, that one seed alone")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"of one run at most (default {EVENTS})")
    parser.add_argument("--bugs", nargs="*", metavar="NAME", help="find all planted bugs, or these")
    arguments = parser.parse_args()
    if arguments.bugs is not None:
        from .bugs import find_all

        return find_all(arguments.bugs)
    began = time.perf_counter()
    until = began + 60 * (arguments.minutes or 0)
    seed = arguments.seed
    total: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    while True:
        try:
            outcome = World(seed, events=arguments.events).run()
        except Failure as failure:
            print(failure)
            return 1
        lost.update(outcome.lost)
        total.update(
            runs=1,
            events=outcome.events,
            requests=outcome.requests,
            steps=outcome.steps,
            delivered=outcome.delivered,
            crashed=outcome.crashed,
            duplicates=outcome.duplicates,
        )
        total["virtual hours"] += outcome.seconds / 3600  # type: ignore[assignment]
        if arguments.minutes is None:
            print(outcome)
            break
        seed += 1
        if time.perf_counter() >= until:
            break
    took = time.perf_counter() - began
    print(
        f"seeds {arguments.seed} to {seed}, {took:.1f} s, {60e-6 * total['events'] / took:.2f} million events a minute"
    )
    print(", ".join(f"{name} {number:,.0f}" for name, number in total.items()))
    print("lost:", ", ".join(f"{name} {number:,}" for name, number in sorted(lost.items())) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
