"""The collector as a process whose store fails: 503, nothing by halves, and work again when the trouble is over."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from programs import envelope, program, request, strace, texts

pytestmark = pytest.mark.thorough

MIB = 1024 * 1024


def send(url: str, batch_id: str, events: list[str], key: str | None = None) -> tuple[int, str | None]:
    """Status and Retry-After of a batch's answer."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)) as connection:
        body = envelope("s", json.dumps(events), key)
        connection.request("POST", "/bulk", body, {"Idempotency-Key": batch_id})
        reply = connection.getresponse()
        reply.read()
        return reply.status, reply.getheader("retry-after")


def health(url: str) -> tuple[int, str | None]:
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)) as connection:
        connection.request("GET", "/health")
        reply = connection.getresponse()
        reply.read()
        return reply.status, reply.getheader("retry-after")


UP = (200, None)
FAILING = (503, "5")


def said(process: subprocess.Popen[str]) -> list[str]:
    """Stop it, and tell what it has said but for the first line."""
    process.terminate()
    output, errors = process.communicate(timeout=30)
    assert output == ""
    assert process.returncode == 0
    return errors.splitlines()


def is_failing(lines: list[str], times: int = 1) -> bool:
    """Whether each trouble, and its end, was logged in one line."""
    ends = [("is failing" in line, "works again" in line) for line in lines]
    return ends == [(True, False), (False, True)] * times


# A full file system


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no leave to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system(small: Path) -> None:
    """On a full file system batches are refused whole, what was confirmed is read, and room is enough to go on."""
    event = "x" * 1000
    (small / "other").write_bytes(bytes(MIB // 2))
    with program("--store", str(small / "events.db")) as (process, url):
        confirmed = []
        for number in range(100):
            answer = send(url, f"{number}", [f"{number}-{i}-{event}" for i in range(30)])
            if answer != UP:
                break
            confirmed.append(number)
        assert answer == FAILING
        assert confirmed
        assert health(url) == FAILING  # though there may be room for less
        stored = [f"{number}-{i}-{event}" for number in confirmed for i in range(30)]
        assert texts(url) == stored
        for _ in range(3):
            assert send(url, "next", [event] * 30) == FAILING
        assert texts(url) == stored
        (small / "other").unlink()
        assert health(url) == UP
        assert send(url, "next", [event] * 30) == UP
        assert send(url, "next", [event] * 30) == UP
        assert texts(url) == [*stored, *[event] * 30]
        print(f"{len(confirmed)} batches confirmed before it was full")
        assert is_failing(said(process))


# A failing file system


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_write_errors(tmp_path: Path) -> None:
    """While no write to a file works, nothing is stored; when they do again, so does the collector."""
    import resource

    with program("--store", str(tmp_path / "events.db")) as (process, url):
        assert send(url, "before", ["1"]) == UP
        for number in range(3):
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            assert send(url, f"{number}", ["2", "3"]) == FAILING
            assert send(url, "before", ["1"]) == FAILING  # a replay is counted
            assert health(url) == FAILING
            assert request(url, "GET", "/_atom/stats")[1]["stored"] == 1 + 2 * number
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
            assert health(url) == UP
            assert send(url, f"{number}", ["2", "3"]) == UP
        assert texts(url) == ["1", *["2", "3"] * 3]
        assert is_failing(said(process), 3)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(("calls", "error"), [("fdatasync,fsync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC")])
def test_io_errors(tmp_path: Path, calls: str, error: str) -> None:
    """When the sync or the write that a confirmation waits for fails, it is 503 and not 200."""
    path = tmp_path / "events.db"
    with program("--store", str(path)) as (process, url):
        assert send(url, "before", ["1"]) == UP
        with strace(process.pid, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}") as tracer:
            for number in range(3):
                assert send(url, f"{number}", ["2", "3"]) == FAILING
            assert health(url) == FAILING
            assert texts(url) == ["1"]
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
        assert health(url) == UP
        for number in range(3):
            assert send(url, f"{number}", ["2", "3"]) == UP
        assert texts(url) == ["1", *["2", "3"] * 3]
        assert is_failing(said(process))
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_locked(tmp_path: Path) -> None:
    """While another process holds the lock, writing is refused and reading goes on."""
    path = tmp_path / "events.db"
    with program("--store", str(path)) as (process, url), contextlib.closing(sqlite3.connect(path)) as other:
        assert send(url, "before", ["1"]) == UP
        other.execute("BEGIN IMMEDIATE")
        assert send(url, "b", ["2", "3"]) == FAILING
        assert health(url) == FAILING
        assert texts(url) == ["1"]
        other.rollback()
        assert health(url) == UP
        assert send(url, "b", ["2", "3"]) == UP
        assert texts(url) == ["1", "2", "3"]
        assert is_failing(said(process))


def test_a_read_only_file_system(small: Path) -> None:
    """Where nothing can be written it does not start, and says why in one line; what was stored is not lost."""
    path = small / "events.db"
    with program("--store", str(path)) as (process, url):
        assert send(url, "b", ["1"]) == UP
        assert said(process) == []
    command = [sys.executable, "-c", "from atom_sync.cli import main; main()", "collector", "--store", str(path)]
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 1
    assert result.stderr == f"Error: [Errno 30] Read-only file system: '{path}'\n"
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    with program("--store", str(path)) as (_, url):
        assert send(url, "b", ["1"]) == UP
        assert texts(url) == ["1"]


# Replays


def replay(urls: list[str], connections: int) -> list[tuple[int, str | None]]:
    """The answers to one batch that comes over many connections at once."""
    body = envelope("s", json.dumps([f"{i}" for i in range(10)]))
    ready = threading.Barrier(connections)
    answers: list[tuple[int, str | None]] = []

    def one(url: str) -> None:
        with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
            connection.connect()
            ready.wait()
            connection.request("POST", "/bulk", body, {"Idempotency-Key": "b"})
            reply = connection.getresponse()
            reply.read()
            answers.append((reply.status, reply.getheader("retry-after")))

    threads = [threading.Thread(target=one, args=(urls[i % len(urls)],)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_replays(tmp_path: Path) -> None:
    """Of 100 replays over 100 connections one is stored; after a restart, and in a second collector, none."""
    path = tmp_path / "events.db"
    with program("--store", str(path)) as (_, url):
        assert replay([url], 100) == [UP] * 100
        counts = request(url, "GET", "/_atom/stats")[1]
        assert counts == {"stored": 10, "duplicates": 990, "rejected": 0, "requests": 100, "streams": {"s": 10}}
    with program("--store", str(path)) as (_, one), program("--store", str(path)) as (_, two):
        assert replay([one, two], 100) == [UP] * 100
        assert request(one, "GET", "/_atom/stats")[1]["duplicates"] == 1990
        assert texts(one) == texts(two) == [f"{i}" for i in range(10)]


def test_replays_to_two_collectors(tmp_path: Path) -> None:
    """Of 100 replays to two collectors with one new file one is stored."""
    path = tmp_path / "events.db"
    with program("--store", str(path)) as (_, one), program("--store", str(path)) as (_, two):
        assert replay([one, two], 100) == [UP] * 100
        counts = request(two, "GET", "/_atom/stats")[1]
        assert counts == {"stored": 10, "duplicates": 990, "rejected": 0, "requests": 100, "streams": {"s": 10}}
