"""Collectors in processes of their own, and requests to them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest


def request(url: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """One request over a connection of its own: status and JSON."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


def envelope(stream: str, data: str, key: str | None = None) -> bytes:
    auth = {} if key is None else {"auth": hmac.new(key.encode(), data.encode(), hashlib.sha256).hexdigest()}
    return json.dumps({"table": stream, "data": data, **auth}).encode()


def texts(url: str) -> list[str]:
    found: list[str] = []
    after: int | None = 0
    while after is not None:
        status, page = request(url, "GET", f"/_atom/events?after={after}&limit=10000")
        assert status == 200
        found += [event["text"] for event in page["events"]]
        after = page["next"]
    return found


@contextlib.contextmanager
def program(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``atom-events collector`` in a process, and the URL from its first line."""
    command = [sys.executable, "-c", "from atom_sync.cli import main; main()", "collector", "--port", "0"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    with process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("listening on http://127.0.0.1:"), process.communicate()
            assert first.endswith("/\n")
            yield process, first.split()[-1]
        finally:
            process.kill()


FORK = """
import os, sys
import atom_anyio.collector
from atom_sync.cli import main

for line in sys.stdin:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(write, 1)
        os.close(write)
        sys.argv = line.rstrip("\\n").split("\\t")
        main()
    os.close(write)
    print(child, flush=True)
    with open(read) as output:
        print(output.readline().strip(), flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


class Forks:
    """Collectors one after another, forked from a process that has imported everything: each starts in no time."""

    def __init__(self, *arguments: str) -> None:
        self._line = "\t".join(["atom-events", "collector", "--port", "0", *arguments]) + "\n"
        self._parent = subprocess.Popen(
            [sys.executable, "-c", FORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._running: int | None = None

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        with self._parent:
            self.kill()

    def _read(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline().strip()

    def fork(self) -> int:
        """Start a collector, and tell its process id."""
        assert self._running is None
        assert self._parent.stdin is not None
        self._parent.stdin.write(self._line)
        self._parent.stdin.flush()
        self._running = int(self._read())
        self._listening = False
        return self._running

    def url(self) -> str | None:
        """Where it listens, when it does; None if it was killed before."""
        self._listening = True
        return self._read().removeprefix("listening on ") or None

    def kill(self) -> None:
        """SIGKILL it, unless that has been done."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running, signal.SIGKILL)
            self.wait()

    def wait(self) -> None:
        """Wait until it is gone."""
        if not self._listening:
            self.url()
        assert self._read() == "gone"
        self._running = None


def strace(process: int, *arguments: str) -> subprocess.Popen[str]:
    """Meddle with a process's system calls, from now on."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", os.devnull, "-p", str(process), *arguments], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    if "attached" not in (first := tracer.stderr.readline()):
        tracer.kill()
        tracer.communicate()
        pytest.skip(f"no leave to trace: {first}")
    return tracer
