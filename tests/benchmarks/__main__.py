"""``python -m tests.benchmarks``: what delivery costs, as a table against the limits and the targets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import peers, regressions, report
from .delivery import sink_cost
from .rows import Row
from .topics import TOPICS

ROUNDS = 5
PEER_EVENTS = 20_000
EPILOG = f"""
topics: {", ".join(TOPICS)}

--write replaces the generated parts of docs/performance.md for which there are figures: the table and what
belongs to it when no topic is missing, the peers and their plot when they were measured.
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=TOPICS, metavar="TOPIC", help="measure only these topics")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--peers", action="store_true", help="also measure what users would pick instead")
    parser.add_argument("--load", type=Path, metavar="FILE", help="start from these figures, and add what is asked for")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its plots")
    parser.add_argument("--check", action="store_true", help="a short run against the recorded ratios, instead")
    parser.add_argument("--record", action="store_true", help="record the ratios for --check, instead")
    parser.add_argument("--parts", action="store_true", help="print the parts of delivery one by one, instead")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    if arguments.check:
        return regressions.check()
    if arguments.record:
        regressions.record()
        return 0
    if arguments.parts:
        from . import parts

        parts.show()
        return 0
    run: dict[str, Any] = json.loads(arguments.load.read_text()) if arguments.load else {"figures": {}}
    for name in arguments.only or (() if arguments.load else TOPICS):
        began = time.monotonic()
        run["figures"][name] = TOPICS[name].measure(arguments.rounds)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    run.setdefault("circumstances", report.circumstances(_command(arguments)))
    if arguments.peers:
        run["figures"]["peers"] = peers.compare(arguments.rounds, PEER_EVENTS)
    _show(run)
    if arguments.json:
        arguments.json.write_text(json.dumps(run, indent=1) + "\n")
    if arguments.write:
        _write(run)
    return 0


def _command(arguments: argparse.Namespace) -> list[str]:
    """The arguments that decide what is measured, to be shown beside the figures."""
    only = ["--only", *arguments.only] if arguments.only else []
    rounds = ["--rounds", str(arguments.rounds)] if arguments.rounds != ROUNDS else []
    return [*only, *rounds, *(["--peers"] if arguments.peers else []), *(["--write"] if arguments.write else [])]


def _rows(figures: dict[str, Any]) -> Iterable[Row]:
    return (row for name, topic in TOPICS.items() if name in figures for row in topic.rows(figures[name]))


def _details(figures: dict[str, Any]) -> str:
    """What some topics show below the table."""
    shown = (
        topic.details(figures[name]) for name, topic in TOPICS.items() if name in figures and hasattr(topic, "details")
    )
    return "\n\n".join(shown)


def _show(run: dict[str, Any]) -> None:
    figures = run["figures"]
    print(report.preamble(run["circumstances"]))
    print(f"\n{report.table(_rows(figures))}")
    if "delivery" in figures:
        print(f"\n{sink_cost(figures['delivery'])}")
    print(f"\n{_details(figures)}")
    if "peers" in figures:
        print(f"\n{peers.table(figures['peers'])}")


def _write(run: dict[str, Any]) -> None:
    figures = run["figures"]
    blocks = {}
    if all(name in figures for name in TOPICS):
        parts = (report.preamble(run["circumstances"]), report.table(_rows(figures)), sink_cost(figures["delivery"]))
        blocks["table"] = "\n\n".join(parts)
        blocks["details"] = _details(figures)
    if "peers" in figures:
        blocks["peers"] = f"{peers.table(figures['peers'])}\n\n![CPU an event, against peers](plots/peers.svg)"
    if not blocks:
        raise SystemExit("nothing is complete enough to be written")
    from .plots import draw  # needs the extra "bench"

    for path in [report.write(blocks), *draw(figures)]:
        print(f"wrote {path.relative_to(report.ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
