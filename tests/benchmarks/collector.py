"""The collector: how many events a second it stores, and where its CPU goes.

``python -m tests.benchmarks.collector``: the program ``atom-events collector`` runs in a process of its own, with a
store on disk and a key, and a small C program sends it signed batches of 64 events.  A round counts only if a wrong
signature is refused, and afterwards the file has each event exactly once, under its batch id.

Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import http.client
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from uvicorn.server import ServerState

from atom_anyio.collector import Store, _tables, create_app
from atom_anyio.collector._http import StrictProtocol
from atom_sansio import Keyring, Submission, read_submission

STREAM = "bench.public.events"
KEY = "0123456789abcdef0123456789abcdef"
EVENT = {"id": 123, "event_name": "PYTHON_SDK_TRACKER_EXAMPLE", "string_value": "0.7312345", "ts": 1700000000.123}
"""99 bytes as JSON."""
BATCH = 64
CONNECTIONS = 16

LOOPS = {
    "uvloop": "from atom_sync.cli import main; main()",
    "asyncio": "import sys; sys.modules['uvloop'] = None; from atom_sync.cli import main; main()",
}
"""uvicorn takes uvloop where it is installed."""


def collector(rounds: int = 5, *, batches: int = 1500, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Medians of *rounds* interleaved runs on each loop, and the CPU of the parts, all in us an event but the rates."""
    loops = [loop for loop in LOOPS if loop == "asyncio" or importlib.util.find_spec(loop)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = folder / "load"
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O2", "-o", program, Path(__file__).with_name("load.c")], check=True
        )
        requests = [_request(number, _events(number)) for number in range(batches)]
        (folder / "requests").write_bytes(b"".join(b"%d\n%b" % (len(request), request) for request in requests))
        runs: dict[str, list[dict[str, float]]] = {loop: [] for loop in loops}
        for _ in range(rounds):
            for loop in loops:
                runs[loop].append(_run(folder, program, LOOPS[loop], batches, connections))
        parts = _parts(requests[:320], folder)
    result: dict[str, Any] = {"batch": BATCH, "batches": batches, "connections": connections, "rounds": rounds}
    for loop in loops:
        result[loop] = {name: statistics.median(run[name] for run in runs[loop]) for name in runs[loop][0]}
        result[loop]["best_per_second"] = max(run["per_second"] for run in runs[loop])
        result[loop]["least_cpu"] = min(run["cpu"] for run in runs[loop])
    rest = result[loops[0]]["cpu"] - sum(parts.values())
    result["parts"] = {**parts, "the rest: sockets, the loop, hand-over between threads": rest}
    return result


def _events(number: int) -> list[str]:
    """The texts of the events of one batch."""
    return [orjson.dumps({**EVENT, "id": number * BATCH + i}).decode() for i in range(BATCH)]


def _request(number: int, texts: Sequence[str], key: str = KEY) -> bytes:
    data = f"[{','.join(texts)}]".encode()
    body = b'{"table":"%b","data":%b,"auth":"%b","bulk":true}' % (
        STREAM.encode(),
        orjson.dumps(data.decode()),
        hmac.digest(key.encode(), data, "sha256").hex().encode(),
    )
    head = (
        "POST /bulk HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "x-ironsource-atom-sdk-type: python\r\nx-ironsource-atom-sdk-version: 2.0.0\r\n"
        f"Idempotency-Key: {_batch_id(number)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _batch_id(number: int) -> str:
    return f"{number:036d}"


# One run


def _run(folder: Path, load: Path, code: str, batches: int, connections: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        store = Path(name) / "events.db"
        with _program(code, store) as (pid, port):
            _check_refusal(port)
            before = _cpu(pid)
            output = subprocess.run(
                [load, str(port), folder / "requests", str(connections), "1"], stdout=subprocess.PIPE, check=True
            ).stdout
            after = _cpu(pid)
            stats = _get(port, "/_atom/stats")
        loaded = json.loads(output)
        events = batches * BATCH
        if loaded["ok"] != batches or (stats["stored"], stats["duplicates"], stats["rejected"]) != (events, 0, BATCH):
            raise RuntimeError(f"not all was stored: {loaded}, {stats}")
        _check_file(store, batches)
    by_thread = {thread: after[thread] - before.get(thread, 0.0) for thread in after}
    on_loop = by_thread.pop(pid)
    return {
        "per_second": events / loaded["wall"],
        "cpu": (on_loop + sum(by_thread.values())) / events * 1e6,
        "loop_thread": on_loop / events * 1e6,
        "store_thread": sum(by_thread.values()) / events * 1e6,
        "load": loaded["cpu"] / events * 1e6,
    }


@contextlib.contextmanager
def _program(code: str, store: Path) -> Iterator[tuple[int, int]]:
    """The collector's process and port."""
    command = [sys.executable, "-c", code, "collector", "--port", "0", "--store", str(store)]
    environment = {**os.environ, "ATOM_COLLECTOR_KEYS": f"*={KEY}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        finally:
            process.terminate()


def _cpu(pid: int) -> dict[int, float]:
    """Seconds of CPU of each thread; the first has the process's number."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


def _get(port: int, path: str) -> Any:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def _check_refusal(port: int) -> None:
    """Signatures are verified."""
    body = _request(0, _events(0), "another key").partition(b"\r\n\r\n")[2]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/bulk", body)
        if (status := connection.getresponse().status) != 401:
            raise RuntimeError(f"a wrong signature was answered with {status}")


def _check_file(path: Path, batches: int) -> None:
    """Each event is in the file once, under its batch id, and nothing else is."""
    with Store(path) as store:
        found: list[tuple[str, str, str | None]] = []
        after: int | None = 0
        while after is not None:
            page = store.events(after=after, limit=10_000).result()
            found += ((row.stream, row.text, row.batch_id) for row in page.rows)
            after = page.next
    sent = [(STREAM, text, _batch_id(number)) for number in range(batches) for text in _events(number)]
    if sorted(found, key=str) != sorted(sent, key=str):
        raise RuntimeError("the file has other events than were sent")


# The parts


class _Pipe(asyncio.Transport):
    """A connection that leads nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Nothing:
    """An application that reads a request and answers it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"15")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"Status":"OK"}'})


class _NoStore:
    """Has stored everything already."""

    def add_all(self, submissions: Sequence[Submission]) -> Future[list[bool]]:
        future: Future[list[bool]] = Future()
        future.set_result([True] * len(submissions))
        return future


async def _serve(app: Any, requests: Sequence[bytes]) -> None:
    """Take *requests* over many connections at once, without sockets."""
    config = uvicorn.Config(
        app, http=StrictProtocol, ws="none", interface="asgi3", lifespan="off", log_config=None, access_log=False
    )
    config.load()
    state = ServerState()
    connections = [StrictProtocol(config, state, {}) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.connection_made(_Pipe())
    for start in range(0, len(requests), CONNECTIONS):
        for connection, request in zip(connections, requests[start : start + CONNECTIONS], strict=False):
            connection.data_received(request)
        while state.tasks:  # noqa: ASYNC110 - each turn counts, and nothing else is to be waited for
            await asyncio.sleep(0)
    for connection in connections:
        connection._unset_keepalive_if_required()


def _parts(requests: Sequence[bytes], folder: Path) -> dict[str, float]:
    """CPU of each part by itself, us an event, by the fastest of some runs."""
    keyring = Keyring(default=KEY)
    heads = [request.partition(b"\r\n\r\n") for request in requests]
    bodies = [body for _, _, body in heads]
    headers = [[tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")[1:]] for head, _, _ in heads]

    def read() -> list[Submission]:
        return [
            read_submission("POST", "/bulk", pairs, body)  # type: ignore[arg-type]
            for pairs, body in zip(headers, bodies, strict=True)
        ]

    submissions = read()

    def verify() -> None:
        for submission in submissions:
            keyring.verify(submission)

    def least(run: Callable[[], object], rounds: int = 15) -> float:
        return min(_thread_time(run) for _ in range(rounds)) / len(requests) / BATCH * 1e6

    def serve(app: Any) -> float:
        return least(lambda: asyncio.run(_serve(app, requests)))

    routes = [Route("/", _Nothing(), methods=["GET", "POST"]), Route("/bulk", _Nothing(), methods=["POST"])]
    http_alone = serve(_Nothing())
    routed = serve(Starlette(routes=routes))
    app = serve(create_app(_NoStore(), keyring))  # type: ignore[arg-type]
    json_, signature = least(read), least(verify)
    sql, commit = _store_parts(submissions, folder)
    return {
        "HTTP: uvicorn and httptools": http_alone,
        "Starlette's middleware and routes": routed - http_alone,
        "JSON: read_submission": json_,
        "signature: Keyring.verify": signature,
        "the application's own steps, and colder caches": app - routed - json_ - signature,
        f"SQL: the statements for {CONNECTIONS} requests": sql,
        f"commit of {CONNECTIONS} requests, with the sync": commit,
    }


def _store_parts(submissions: Sequence[Submission], folder: Path) -> tuple[float, float]:
    """SQL and commit, in transactions of as many requests as there are connections."""
    figures = []
    for _ in range(5):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            db = _tables.open_database(f"{name}/events.db", busy_timeout=1)
            sql = commit = 0.0
            for start in range(0, len(submissions), CONNECTIONS):
                db.execute("BEGIN IMMEDIATE")
                sql += _thread_time(partial(_tables.add, db, submissions[start : start + CONNECTIONS], 1.5))
                commit += _thread_time(partial(db.execute, "COMMIT"))
            db.close()
        figures.append((sql, commit))
    sql, commit = min(figures, key=sum)
    return sql / len(submissions) / BATCH * 1e6, commit / len(submissions) / BATCH * 1e6


def _thread_time(run: Callable[[], object]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began


def show(result: dict[str, Any]) -> None:
    """Print the result as tables."""
    print(
        f"{result['batch']} events a batch, {result['connections']} connections, median of {result['rounds']} rounds\n"
    )
    print("| loop | stored, verified events/s | best round | CPU us/event | loop's thread | store's thread | load |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for loop in LOOPS:
        if it := result.get(loop):
            print(
                f"| {loop} | {it['per_second']:,.0f} | {it['best_per_second']:,.0f} | {it['cpu']:.2f} "
                f"| {it['loop_thread']:.2f} | {it['store_thread']:.2f} | {it['load']:.2f} |"
            )
    print("\n| where the CPU goes | us/event | |\n| --- | ---: | ---: |")
    total = sum(result["parts"].values())
    for name, cost in result["parts"].items():
        print(f"| {name} | {cost:.2f} | {cost / total:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--batches", type=int, default=1500, help="batches a round (default 1500)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="each has one request in flight")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    result = collector(arguments.rounds, batches=arguments.batches, connections=arguments.connections)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
