"""Runs every peer by turns, each in a process of its own, and makes the rows of the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.sink import Sink

from .environments import (
    LIMIT,
    PEERS,
    SCRIPTS,
    Peer,
    PeerFailedError,
    default_cache,
    environment,
    interpreter,
    last_line,
)

REPLY = '{"code":200,"status":1}'
"""What amplitude and mixpanel take for success; the others look at the status line."""
TIMEOUT = 300
"""Seconds for one process."""

Row = dict[str, Any]


def compare(
    rounds: int,
    events: int,
    only: str | None = None,
    *,
    cache: Path | None = None,
    cpu: int = 0,
    burst: int = 100_000,
    bursts: int = 3,
) -> list[Row]:
    """Measure ours and the peers, beside the limit loop in each round.

    Args:
        rounds: how often each is run for its CPU, in an order drawn anew each time.
        events: events a run; quick ones take more of them and slow ones fewer, as ``PEERS`` says.
        only: measure only those whose name holds this, and the limit loop.
        cache: folder of the virtual environments; :func:`default_cache` if left out.
        cpu: the one that client and sink share while CPU is measured.  Bursts and memory are not bound to it.
        burst: events of a burst at default settings.
        bursts: how many there are; what one loses depends much on who else uses the machine.

    Returns:
        One dictionary each, the limit loop's first, with these keys, ``None`` where there is no figure:

        - ``name``; ``version``, none for ours; ``events``, how many a run; ``error``, why there are no figures.
        - Medians of the rounds, microseconds: ``cpu_us`` and ``harness_us`` an event, ``net_us``, which is their
          difference, ``call_median_us`` and ``call_p99_us``.
        - ``ratio``: median of ``net_us`` to that of the limit loop in the same round.
        - ``pending_bytes``: resident memory an event while the server does not answer.
        - ``burst``: a dictionary of ``asked``; ``accepted``, those that the caller was not told to be refused;
          ``arrived``; ``lost``, which is ``asked`` less ``arrived``; all of the burst with the median loss.  Then
          ``least`` and ``most``, what the others lost.
    """
    peers = [LIMIT, *(peer for peer in PEERS if only is None or only in peer.name)]
    rows = {peer.name: _empty(peer, events) for peer in peers}
    programs: dict[str, Path] = {}
    for peer in peers:
        with _told(rows[peer.name]):
            programs[peer.name] = interpreter(peer, cache or default_cache())

    def ready(mode: str) -> list[Peer]:
        return [peer for peer in peers if mode in peer.modes and rows[peer.name]["error"] is None]

    runs: dict[str, list[Row]] = defaultdict(list)
    with _pinned(cpu), _sinks(peers) as sinks:
        for _ in range(rounds):
            for peer in random.sample(ready("cpu"), k=len(ready("cpu"))):
                with _told(rows[peer.name]):
                    result = _counted(peer, programs, "cpu", rows[peer.name]["events"], sinks)
                    if not result["asked"] == result["accepted"] == result["arrived"]:
                        raise PeerFailedError("{arrived} of {asked} events arrived".format_map(result))
                    runs[peer.name].append(result)
    for peer in ready("cpu"):
        rows[peer.name] |= _medians(runs[peer.name], runs[LIMIT.name])
    with _sinks(peers) as sinks:
        for peer in ready("burst"):
            with _told(rows[peer.name]):
                results = [_counted(peer, programs, "burst", burst, sinks) for _ in range(bursts)]
                rows[peer.name]["burst"] = _middle(results)
    for peer in ready("memory"):
        with _told(rows[peer.name]), _silent_server() as port:
            result = _run(peer, programs[peer.name], "memory", rows[peer.name]["events"], port)
            rows[peer.name]["pending_bytes"] = result["pending_bytes"]
    return list(rows.values())


def _empty(peer: Peer, events: int) -> Row:
    figures = ("cpu_us", "harness_us", "net_us", "ratio", "call_median_us", "call_p99_us", "pending_bytes", "burst")
    row: Row = {"name": peer.name, "version": peer.version, "events": round(events * peer.share), "error": None}
    return row | dict.fromkeys(figures)


@contextmanager
def _told(row: Row) -> Iterator[None]:
    """One peer's failure is its row's, not the end of the comparison."""
    try:
        yield
    except PeerFailedError as error:
        row["error"] = str(error)


@contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    """On one CPU, with all processes that are started meanwhile: on two, a round trip is mostly wake-ups."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _sinks(peers: Collection[Peer]) -> Iterator[dict[str, Sink]]:
    with ExitStack() as stack:
        yield {needle: stack.enter_context(Sink(needle, REPLY)) for needle in {peer.needle for peer in peers}}


@contextmanager
def _silent_server() -> Iterator[int]:
    """The port of a server that lets everyone connect and never reads a byte."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield server.getsockname()[1]


def _counted(peer: Peer, programs: dict[str, Path], mode: str, events: int, sinks: dict[str, Sink]) -> Row:
    sink = sinks[peer.needle]
    sink.reset()
    result = _run(peer, programs[peer.name], mode, events, sink.port)
    delivered = result["delivered"]
    return result | {"arrived": sink.stats()["events"] if delivered is None else delivered}


def _run(peer: Peer, program: Path, mode: str, events: int, port: int) -> Row:
    script = [program, SCRIPTS / peer.script, mode, str(events), *peer.options]
    # Not a pipe: some peers say on standard error of each event that their queue is full.
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                [*script, "--url", f"http://127.0.0.1:{port}/"],
                env=environment(peer),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerFailedError(f"{peer.script} {mode} took more than {TIMEOUT} s") from error
        if done.returncode:
            errors.seek(0)
            raise PeerFailedError(f"{peer.script} {mode} ended with {done.returncode}: {last_line(errors.read())}")
    result: Row = json.loads(done.stdout.splitlines()[-1])
    if result["strangers"]:
        raise PeerFailedError(f"it asked for {', '.join(result['strangers'])}")
    return result


def _medians(runs: list[Row], limits: list[Row]) -> Row:
    keys = ("cpu_us", "harness_us", "call_median_us", "call_p99_us")
    row = {key: statistics.median(run[key] for run in runs) if runs[0][key] is not None else None for key in keys}
    net = [run["cpu_us"] - run["harness_us"] for run in runs]
    row["net_us"] = statistics.median(net)
    if len(limits) == len(net):  # else the limit loop failed, and its row says so
        row["ratio"] = statistics.median(cost / least["cpu_us"] for cost, least in zip(net, limits, strict=True))
    return row


def _middle(bursts: list[Row]) -> Row:
    each = [{key: run[key] for key in ("asked", "accepted", "arrived")} for run in bursts]
    for counts in each:
        counts["lost"] = counts["asked"] - counts["arrived"]
    each.sort(key=lambda counts: counts["lost"])
    return each[len(each) // 2] | {"least": each[0]["lost"], "most": each[-1]["lost"]}


def table(rows: list[Row]) -> str:
    """The *rows* of :func:`compare` in Markdown."""
    lines = [
        "| | version | call median us | p99 us | CPU us an event | net | x limit "
        "| bytes pending | lost of a burst | least to most | unnoticed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["error"]:
            lines.append(f"| {row['name']} | {row['version'] or ''} | not measured: {row['error']} |")
            continue
        burst = row["burst"]
        cells = [
            row["name"],
            row["version"] or "",
            _figure(row["call_median_us"], 2),
            _figure(row["call_p99_us"], 1),
            _figure(row["cpu_us"], 2),
            _figure(row["net_us"], 2),
            _figure(row["ratio"], 1),
            _figure(row["pending_bytes"], 0),
            f"{burst['lost']:,} of {burst['asked']:,}" if burst else "",
            f"{burst['least']:,} to {burst['most']:,}" if burst else "",
            f"{burst['accepted'] - burst['arrived']:,}" if burst else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers", description="What users would pick instead, by the same harness."
    )
    parser.add_argument("--only", help="those whose name holds this, and the limit loop")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--events", type=int, default=20_000, help="events a run; some take a multiple (default 20000)")
    parser.add_argument("--burst", type=int, default=100_000, help="events of a burst (default 100000)")
    parser.add_argument("--bursts", type=int, default=3, help="bursts of each (default 3)")
    parser.add_argument("--cpu", type=int, default=0, help="the one CPU for client and sink (default 0)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for virtual environments")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    rows = compare(
        given.rounds,
        given.events,
        given.only,
        cache=given.cache,
        cpu=given.cpu,
        burst=given.burst,
        bursts=given.bursts,
    )
    print(f"CPython {platform.python_version()}, {platform.machine()}, median of {given.rounds} rounds\n")
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if any(row["error"] for row in rows):
        raise SystemExit(1)
