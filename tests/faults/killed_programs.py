"""Programs that are killed while they have a backlog, what they were told meanwhile, and what becomes of their events.

Run as a program this is a fork server: it imports everything once, and each line on stdin has it fork a child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import calls

from atom_anyio import MemoryTransport as AnyioMemory
from atom_anyio import Tracker as AnyioTracker
from atom_sansio import ConnectionFailed, Origin, Reply, Request, RetryPolicy, _keeper
from atom_sansio._tracker import TrackerCore
from atom_sansio.testing import ModelCollector
from atom_sync import MemoryTransport, Tracker
from atom_sync.backlog import Backlog, DeadLetters

PATIENCE = 60
"""Real seconds after which a program that hangs is killed, and its test fails."""

THREADS = 3
EVENTS = 10
"""Of each thread."""
POISON = 5
"""The number of the events that a choosy collector refuses."""

Event = tuple[int, int, int, int]
"""Run, tracker, thread and number."""


# -- the programs -------------------------------------------------------------------------------------


class Told:
    """How many events of each tracker and thread the program was told are accepted; outlives it."""

    def __init__(self, directory: Path, run: int) -> None:
        fd = os.open(directory / f"told-{run}", os.O_RDWR | os.O_CREAT)
        os.truncate(fd, 8 * 2 * THREADS)
        self._counts = memoryview(mmap.mmap(fd, 8 * 2 * THREADS)).cast("q")
        os.close(fd)

    def accepted(self, tracker: int, thread: int, count: int) -> None:
        self._counts[tracker * THREADS + thread] = count


class WrittenDown(Told):
    """Writes into files of the backlog's directory, in the order of all that is written there."""

    def __init__(self, directory: Path, run: int) -> None:
        self._accepted = os.open(directory / "accepted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._delivered = os.open(directory / "delivered", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._peer = Peer("failing")
        self._run = run

    def accepted(self, tracker: int, thread: int, count: int) -> None:
        os.write(self._accepted, json.dumps([self._run, tracker, thread, count - 1]).encode() + b"\n")

    def answer(self, request: Request) -> Reply | Exception:
        """As a collector that stores and answers, or stores and does not answer, or is not there."""
        stored = len(self._peer.collector.rows)
        reply, _ = self._peer.handle(request)
        rows = self._peer.collector.rows[stored:]
        if rows:
            events = [json.loads(row.text)["event"] for row in rows]
            os.write(self._delivered, json.dumps([rows[0].batch_id, events]).encode() + b"\n")
        return reply or ConnectionFailed("cut off")


def options(plan: dict[str, Any]) -> dict[str, Any]:
    """How the trackers of a program are made."""
    return {
        "endpoint": plan["url"],
        "backlog": Backlog(Path(plan["directory"]) / "events.db", level=plan["level"]),
        "auth_key": "main",
        "auth_keys": {"b": "other"},
        "max_batch_events": 3,
        "flush_interval": 0.02,
        "max_in_flight": 2,
        "request_timeout": 10.0,
        "retry": RetryPolicy(base=0.005, cap=0.01),
        "on_loss": lambda loss: None,
        "transport": plan.get("transport"),
    }


def _event(plan: dict[str, Any], tracker: int, thread: int, n: int) -> tuple[str, dict[str, Any], str | None]:
    """Two streams and four keys."""
    own = "own" if n % 5 == 4 else None
    return "ab"[n % 2], {"event": [plan["run"], tracker, thread, n], "n": n}, own


def threads(plan: dict[str, Any], told: Told) -> None:
    """Several threads track at once, with one tracker or two that have the same backlog."""
    trackers = [Tracker(**options(plan)) for _ in range(plan.get("trackers", 1))]

    def work(thread: int) -> None:
        for n in range(EVENTS):
            for number, tracker in enumerate(trackers):
                stream, event, own = _event(plan, number, thread, n)
                tracker.track(stream, event, auth_key=own)
                told.accepted(number, thread, n + 1)

    workers = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(1, THREADS)]
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
    for tracker in trackers:
        tracker.flush(plan.get("flush", 0.3))
        tracker.stop(0.1)


def tasks(plan: dict[str, Any], told: Told) -> None:
    """Several tasks of a loop track at once."""
    import anyio

    async def main() -> None:
        async with AnyioTracker(**options(plan)) as tracker:

            async def work(thread: int) -> None:
                for n in range(EVENTS):
                    stream, event, own = _event(plan, 0, thread, n)
                    await tracker.track(stream, event, auth_key=own)
                    told.accepted(0, thread, n + 1)

            async with anyio.create_task_group() as workers:
                for thread in range(THREADS):
                    workers.start_soon(work, thread)
            await tracker.flush(plan.get("flush", 0.3))
            await tracker.stop(0.1)

    anyio.run(main, backend=plan.get("backend", "asyncio"))


def _child(plan: dict[str, Any], counted: memoryview) -> None:
    signal.alarm(PATIENCE)
    _keeper.GENERATION_SIZE = plan.get("generation", _keeper.GENERATION_SIZE)  # type: ignore[misc]
    TrackerCore.__init__.__kwdefaults__["window"] = plan.get("window", _keeper.WINDOW)
    directory = Path(plan["directory"])
    if plan.get("written_down"):
        calls.write_down(directory / "calls")
        told: Told = (written := WrittenDown(directory, plan["run"]))
        plan["transport"] = (AnyioMemory if plan["program"] == "tasks" else MemoryTransport)(written.answer)
    else:
        told = Told(directory, plan["run"])
        calls.kill(plan["at"], halfway=plan["halfway"])
    {"threads": threads, "tasks": tasks}[plan["program"]](plan, told)
    counted[0] = calls.count()


def serve() -> None:
    """Fork a child for each plan on stdin, and tell how it ended and how many calls it made, if it lived."""
    counted = memoryview(mmap.mmap(-1, 8)).cast("q")
    for backend in ("asyncio", "trio"):
        importlib.import_module(f"anyio._backends._{backend}")
    for line in sys.stdin:
        counted[0] = 0
        child = os.fork()
        if not child:
            code = 1
            try:
                _child(json.loads(line), counted)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, counted[0]]), flush=True)


class ForkServer:
    """Runs programs of this module one after another, each in a process that is there in no time."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, **calls.environment()},
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def run(self, **plan: Any) -> int | None:
        """How many calls the program made; None if it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()
        code, counted = json.loads(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"{plan} ended with {code}"
        return counted if code == 0 else None


# -- what becomes of the events -----------------------------------------------------------------------


class Peer:
    """A collector of one program and of those after it, which answers as it is told."""

    def __init__(self, answers: str) -> None:
        self.collector = ModelCollector(["main", "other", "own"])
        self._answers = answers
        self._lock = threading.Lock()
        self._requests = 0
        self._bodies: dict[str, bytes] = {}
        self.altered: list[str] = []
        """Ids of batches that came again with other events."""

    def handle(self, request: Request) -> tuple[Reply | None, bool]:
        """The answer, if there is one, and whether the connection is to be closed."""
        with self._lock:
            self._requests += 1
            number = self._requests
            batch_id = dict(request.headers)["Idempotency-Key"]
            if self._bodies.setdefault(batch_id, request.body) != request.body:
                self.altered.append(batch_id)
            match self._answers:
                case "dead":
                    return _status(503), False
                case "failing" if number % 6 in (1, 4):
                    return _status(503), False
                case "failing" if number % 6 == 2:
                    return None, True
                case "failing" if number % 6 == 3:
                    self.collector.handle(request)
                    return None, True
                case "choosy" if f'\\"n\\":{POISON}}}'.encode() in request.body:
                    return _status(400), False
                case "choosy" if request.body.count(b"event") > 2:
                    return _status(413), False
            return self.collector.handle(request), False

    def get_well(self) -> None:
        """From now on take everything that is not poisoned."""
        with self._lock:
            self._answers = "choosy" if self._answers == "choosy" else "good"


def _status(status: int) -> Reply:
    return Reply(status=status, headers=(), body=b"no")


class Network:
    """A server for all the peers, each under a path of its own."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                if len(body) < length or not body:  # it was killed halfway
                    self.close_connection = True
                    return
                request = Request(
                    method="POST",
                    origin=Origin("http", "127.0.0.1", 80),
                    target=self.path,
                    headers=(("Idempotency-Key", self.headers["Idempotency-Key"]),),
                    body=body,
                )
                peer = network.peers.get(self.path.split("/")[1])
                # It may be over with before the last request of a program that was killed is read.
                reply, self.close_connection = (None, True) if peer is None else peer.handle(request)
                if reply is not None:
                    self.send_response(reply.status)
                    self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # it was killed
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Network:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, name: str, answers: str) -> str:
        """A peer; its URL."""
        self.peers[name] = Peer(answers)
        return f"http://127.0.0.1:{self._server.server_port}/{name}/"


def told(directory: Path) -> dict[tuple[int, int, int], int]:
    """How many events of each run, tracker and thread were accepted."""
    found = {}
    for file in directory.glob("told-*"):
        counts = memoryview(file.read_bytes()).cast("q")
        for place, count in enumerate(counts):
            found[int(file.name[5:]), place // THREADS, place % THREADS] = count
    return found


def start_again(directory: Path, peer: Peer, level: str) -> None:
    """Have another tracker deliver what the backlog holds; there must be nothing left but dead letters."""
    peer.get_well()
    transport = MemoryTransport(lambda request: peer.handle(request)[0] or _status(503))
    plan = {"url": "http://collector.example/", "directory": str(directory), "level": level}
    tracker = Tracker(**{**options(plan), "transport": transport})
    for stream in "ab":
        tracker.track(stream, {"event": [-1, 0, 0, "ab".index(stream)], "n": -1}, auth_key="own")
    result = tracker.flush(PATIENCE)
    statistics = tracker.statistics()
    tracker.stop(PATIENCE)
    assert result.pending == 0, statistics
    assert statistics.pending == statistics.parked == 0, statistics
    with DeadLetters(directory / "events.db") as letters:
        assert letters.pending == (0, 0)


def check(directory: Path, peer: Peer, *, lossless: bool = True) -> int:
    """Compare what arrived with what was accepted; return how many events that were."""
    accepted = told(directory)
    arrived: Counter[Event] = Counter()
    sequences: dict[tuple[str, Any, tuple[int, int, int]], list[int]] = defaultdict(list)
    for row in peer.collector.rows:
        run, tracker, thread, n = json.loads(row.text)["event"]
        arrived[run, tracker, thread, n] += 1
        sequences[row.stream, row.key, (run, tracker, thread)].append(n)
    dead = []
    for file in directory.glob("events.db*"):
        if file.name.removeprefix("events.db").removeprefix(".").isdecimal() or file.name == "events.db":
            with DeadLetters(file) as letters:
                dead += [event for letter in letters for event in letter.values()]
                assert {reason for _, reason, _ in letters.damaged} <= {"it has no end"}
    for event in dead:
        arrived[tuple(event["event"])] += 1
        assert event["n"] == POISON, event
    assert not list(directory.glob("*damaged*"))
    assert not peer.altered
    assert not peer.collector.refused, peer.collector.refused
    expected = {(*place, n) for place, count in accepted.items() for n in range(count)}
    lost = expected - arrived.keys()
    assert not lost or not lossless, f"lost: {sorted(lost)}"
    twice = {event: count for event, count in arrived.items() if count > 1}
    assert not twice, f"twice: {twice}"
    # The next one of each may have been taken in, and not been told.
    begun = {(*place, count) for place, count in accepted.items()} | {(-1, 0, 0, 0), (-1, 0, 0, 1)}
    invented = arrived.keys() - expected - begun
    assert not invented, f"never tracked: {invented}"
    for place, numbers in sequences.items():
        assert numbers == sorted(numbers), f"out of order: {place}: {numbers}"
    return len(expected)


if __name__ == "__main__":
    serve()
