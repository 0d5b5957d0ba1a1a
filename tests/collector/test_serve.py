"""The collector as a program, and embedded in one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from click.testing import CliRunner
from programs import envelope, program, request, texts

from atom_anyio.collector import Collector, Store, StoreFailed, _serve, read_keyring
from atom_anyio.collector._serve import listen, url_of
from atom_sansio._receive import Refused, Submission, read_submission
from atom_sync.cli import main
from atom_sync.cli._group import atom_events

CANARY = "canary-5ecret"


# As a program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program(tmp_path: Path, number: signal.Signals) -> None:
    """It says where it listens, serves, stops at a signal with exit code 0, says nothing else, and keeps its store."""
    path = tmp_path / "events.db"
    with program("--store", str(path), "--key", "s=k") as (process, url):
        assert request(url, "POST", "/", envelope("s", "1", "k"))[0] == 200
        assert request(url, "POST", "/", envelope("s", "2"))[0] == 401
        assert texts(url) == ["1"]
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0
    with Store(path) as store:
        assert [event.text for event in store.events().result().rows] == ["1"]


def test_keep_days(tmp_path: Path) -> None:
    """With --keep what is older than so many days is forgotten, and what is younger is not."""
    path = tmp_path / "events.db"
    for days, text in ((2.1, "old"), (1.9, "young")):
        with Store(path, clock=lambda days=days: time.time() - days * 86_400) as store:
            store.add(Submission(stream="s", data="", auth="", bulk=False, batch_id=text, elements=(text,))).result()
    with program("--store", str(path), "--keep", "2") as (_, url):
        assert request(url, "POST", "/", envelope("s", "new"))[0] == 200
        assert texts(url) == ["young", "new"]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_after_a_200(tmp_path: Path) -> None:
    """What was answered with 200 is there after SIGKILL, and its replay is told from a new batch."""
    arguments = ("--store", str(tmp_path / "events.db"))
    body = envelope("s", '["1", {"n": 123456789012345678901234567890}]')
    with program(*arguments) as (process, url):
        assert request(url, "POST", "/bulk", body, **{"Idempotency-Key": "b"})[0] == 200
        process.kill()
        process.wait()
    with program(*arguments) as (process, url):
        assert texts(url) == ["1", '{"n":123456789012345678901234567890}']
        assert request(url, "POST", "/bulk", body, **{"Idempotency-Key": "b"})[0] == 200
        status = request(url, "GET", "/_atom/stats")
        assert status == (200, {"stored": 2, "duplicates": 2, "rejected": 0, "requests": 2, "streams": {"s": 2}})


def test_keys_from_everywhere(tmp_path: Path) -> None:
    """Keys come from arguments, a file and the environment, and show in no output."""
    keys = tmp_path / "keys"
    keys.write_text(f"# the file's\n\n  file = not a key of this stream\nfile={CANARY}2\n", "utf-8")
    with program(
        *("--store", ":memory:", "--key", f"argument={CANARY}1", "--default-key", f"{CANARY}4"),
        *("--keys-file", str(keys)),
        ATOM_COLLECTOR_KEYS=f"environment={CANARY}3",
    ) as (process, url):
        for i, stream in enumerate(("argument", "file", "environment", "other"), 1):
            assert request(url, "POST", "/", envelope(stream, "x", f"{CANARY}{i}"))[0] == 200
            assert request(url, "POST", "/", envelope(stream, "x", CANARY))[0] == 401
        process.terminate()
        output = process.communicate(timeout=30)
        assert CANARY[:4] not in "".join(output)


def test_port_in_use() -> None:
    """A port that is taken is an error in words, with exit code 1, and no trace of a store's thread."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        result = CliRunner().invoke(atom_events, ["collector", "--port", str(port), "--store", ":memory:"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "atom-store" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--key", CANARY], "Error: key 1: must be STREAM=KEY"),
        (["--key", "s="], "Error: key 1: auth_key must not be empty"),
        (["--default-key", ""], "Error: the default key: auth_key must not be empty"),
        (["--store", "/dev/null/events.db"], "Error: "),
        (["--keep", "0"], "Invalid value for '--keep'"),
        (["--port", "65536"], "Invalid value for '--port'"),
        (["--keys-file", "/nowhere"], "Invalid value for '--keys-file'"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    """Wrong arguments are an error in words that hold no key."""
    result = CliRunner().invoke(atom_events, ["collector", "--port", "0", "--store", ":memory:", *arguments])
    assert result.exit_code in (1, 2)
    assert words in result.output
    assert CANARY[:4] not in result.output


def test_help() -> None:
    """Each command is listed, and explains itself."""
    assert "collector" in CliRunner().invoke(atom_events, ["--help"]).output
    text = CliRunner().invoke(atom_events, ["collector", "-h"]).output
    assert "ATOM_COLLECTOR_KEYS" in text


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the imports of some packages fail, and the modules that import them be imported anew."""
    for name in list(sys.modules):
        if name in names or name.startswith(("atom_anyio.collector", "atom_sync.cli._")):
            package, _, module = name.rpartition(".")
            if package:  # the import sets it there too, and it must be the old one again afterwards
                monkeypatch.setattr(f"{package}.{module}", sys.modules[name])
            monkeypatch.delitem(sys.modules, name)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "httptools"])
def test_without_the_extra_collector(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without its extra the collector says what to install, and the rest can be imported."""
    without(monkeypatch, name)
    import atom_anyio

    with pytest.raises(ImportError, match=r"pip install 'atom-events\[collector\]'"):
        import atom_anyio.collector  # noqa: F401
    from atom_sync.cli._group import atom_events

    result = CliRunner().invoke(atom_events, ["collector"])
    assert result.exit_code == 1
    assert "pip install 'atom-events[collector]'" in result.output


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_the_extra_cli(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without its extra the command line says what to install."""
    without(monkeypatch, name)
    with pytest.raises(SystemExit, match=r"pip install 'atom-events\[cli\]'"):
        main()


def test_the_entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``main`` runs the group of commands."""
    monkeypatch.setattr(sys, "argv", ["atom-events", "--version"])
    with pytest.raises(SystemExit) as info:
        main()
    assert info.value.code == 0
    assert "version" in capsys.readouterr().out


# Keys


def verifies(ring: Any, stream: str, key: str | None) -> bool:
    try:
        ring.verify(read_submission("POST", "/", (), envelope(stream, "x", key)))
    except Refused:
        return False
    return True


def test_keyring_of_entries(tmp_path: Path) -> None:
    """Keys of one stream add up, ``*`` is the default, and a key may hold ``=``, ``#`` and spaces within."""
    path = tmp_path / "keys"
    path.write_text("s=a#b = c\n*=all\n  # note=x\nseñal=llave\n", "utf-8")
    ring = read_keyring(["s=1", "s=2"], default_key="0", file=path, environment={"ATOM_COLLECTOR_KEYS": "s=3\n*=4"})
    for stream, keys in {"s": ["1", "2", "3", "a#b = c"], "señal": ["llave"], "x": ["0", "all", "4"]}.items():
        assert all(verifies(ring, stream, key) for key in keys)
        assert not verifies(ring, stream, "wrong")
    assert verifies(read_keyring(), "s", None)
    assert not verifies(read_keyring(["*=k"]), "s", None)


@pytest.mark.parametrize("line", [CANARY, f"={CANARY}", "s="], ids=["no stream", "empty stream", "empty key"])
def test_wrong_entries(tmp_path: Path, line: str) -> None:
    """An entry that is none is refused by its place, not its text."""
    path = tmp_path / "keys"
    path.write_text(f"# first\n{line}\n")
    for keywords, place in (
        ({"entries": ["a=b", line]}, "key 2: "),
        ({"file": path}, "keys, line 2: "),
        ({"environment": {"ATOM_COLLECTOR_KEYS": line}}, "ATOM_COLLECTOR_KEYS, line 1: "),
    ):
        with pytest.raises(ValueError, match=place) as info:
            read_keyring(**keywords)  # type: ignore[arg-type]
        assert CANARY[:4] not in str(info.value)


# Embedded


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"atom-store", "atom-collector"}


def test_with(tmp_path: Path) -> None:
    """In a plain block it serves from the first line, and leaves neither thread nor socket."""
    with Collector(keys={"s": ["old", "k"]}, default_key="d", store=tmp_path / "events.db") as url:
        assert ours() == {"atom-store", "atom-collector"}
        assert request(url, "POST", "/", envelope("s", "1", "k"))[0] == 200
        assert request(url, "POST", "/", envelope("other", "2", "d"))[0] == 200
        assert request(url, "POST", "/", envelope("s", "3", "d"))[0] == 401
        assert texts(url) == ["1", "2"]
    assert ours() == set()
    with pytest.raises(ConnectionRefusedError):
        request(url, "GET", "/health")
    with Store(tmp_path / "events.db") as store:
        assert store.statistics().result().stored == 2


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_async_with(anyio_backend: str) -> None:
    """In an async block it serves too, whichever loop is running."""
    async with Collector() as url:
        assert (await anyio.to_thread.run_sync(request, url, "POST", "/", envelope("s", "1")))[0] == 200
        assert await anyio.to_thread.run_sync(texts, url) == ["1"]
    assert ours() == set()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_cancelled(anyio_backend: str) -> None:
    """A block that is cancelled, or entered when that has happened, is left in order."""
    for when in ("before", "within"):
        with anyio.CancelScope() as scope:
            if when == "before":
                scope.cancel()
            async with Collector():
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert ours() == set()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_needs_no_thread_of_others(anyio_backend: str) -> None:
    """A block is entered and left though all threads that others share are taken."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    needed = []

    async def give_back() -> None:  # entering is not to be cancelled, and would hang
        await anyio.sleep(5)
        needed.append(True)
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)

    async with anyio.create_task_group() as group:
        group.start_soon(give_back)
        async with Collector():
            pass
        group.cancel_scope.cancel()
    assert not needed
    assert ours() == set()


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("where", ["listen", "_run_in_thread"])
def test_task_cancel_while_entering(monkeypatch: pytest.MonkeyPatch, where: str, times: int) -> None:
    """However often asyncio's own cancel() comes while it is entered, nothing is left of it."""
    begun, go_on = threading.Event(), threading.Event()
    function = getattr(_serve, where)

    def waits(*args: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return function(*args)

    async def program() -> None:
        async with Collector():
            pass

    async def main() -> None:
        task = asyncio.ensure_future(program())
        await asyncio.to_thread(begun.wait)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.001)
        go_on.set()
        await asyncio.wait([task])
        assert task.cancelled()

    monkeypatch.setattr(_serve, where, waits)
    asyncio.run(main())
    assert ours() == set()


def test_many_at_once() -> None:
    """Collectors in one process do not know of each other."""
    with Collector() as one, Collector() as two:
        request(one, "POST", "/", envelope("s", "1"))
        assert (texts(one), texts(two)) == (["1"], [])


def test_one_block_each() -> None:
    """A collector cannot be entered again."""
    collector = Collector()
    with collector, pytest.raises(RuntimeError, match="one block"):
        collector.__enter__()
    with pytest.raises(RuntimeError, match="one block"):
        collector.__enter__()


def test_idle_connections_do_not_hold_it() -> None:
    """Leaving the block closes connections that wait for their next request."""
    with Collector() as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b"up"
        assert connection.sock is not None
    assert connection.sock.recv(1) == b""
    connection.close()


def test_too_large_over_a_connection() -> None:
    """A body that is too large is answered, though it is not read, and the connection can be used again."""
    with Collector() as url:
        with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)) as connection:
            connection.request("POST", "/bulk", b" " * (10 * 1024 * 1024 + 1))
            reply = connection.getresponse()
            assert reply.status == 413
            reply.read()
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b"up"
        assert request(url, "GET", "/_atom/stats")[1]["rejected"] == 1


HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Host: h\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        HEAD + b"Content-Length: +1\r\n\r\nx",
        HEAD + b"Content-Length: 1_0\r\n\r\n0123456789",
        HEAD + b"Content-Length : 1\r\n\r\nx",
        HEAD + b"X: a\x00b\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 1, 1\r\n\r\nx",
        b"POST / HTTP/1.1\nHost: h\nContent-Length: 1\n\nx",
        HEAD + b"X: x\r\n x\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"X: " + b"x" * 1_000_000,
        HEAD + b"X: x\r\n" * 100_000,
    ],
    ids=lambda sent: repr(sent[-40:]),
)
def test_wrong_http(sent: bytes) -> None:
    """What is no HTTP, could be read in two ways, or has no end, is refused; the connection is closed."""
    with Collector() as url:
        host, port = urlsplit(url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):  # it was closed before all was sent
                connection.sendall(sent)
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(65536):
                    answer += data
        # What was on its way may take the answer with it.
        assert answer.startswith(b"HTTP/1.1 400 ") or (answer == b"" and len(sent) > 65536)
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert request(url, "GET", "/_atom/stats")[1]["stored"] == 0


def test_requests_in_pieces() -> None:
    """Requests are read however their bytes come: one by one, or several requests at once."""
    body = envelope("s", "x")
    whole = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    with Collector() as url:
        host, port = urlsplit(url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = b""
            for i in range(len(whole)):
                connection.sendall(whole[i : i + 1])
            connection.sendall(whole * 3)
            while answer.count(b'{"Status":"OK"}') < 4:
                answer += connection.recv(65536)
        assert texts(url) == ["x"] * 4


def test_it_cannot_listen() -> None:
    """When its address is taken, it is an OSError, and nothing is left running."""
    with listen("127.0.0.1", 0) as listener:
        collector = Collector(port=listener.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            collector.__enter__()
    assert ours() == set()


def test_it_cannot_store(tmp_path: Path) -> None:
    """When the file is no store, it is StoreFailed, and nothing is left running."""
    (tmp_path / "file").write_text("no database" * 1000)
    with pytest.raises(StoreFailed, match="file is not a database"):
        Collector(store=tmp_path / "file").__enter__()
    assert ours() == set()


def test_it_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server fails to start, its error is raised, and nothing is left running."""

    async def startup(self: object, sockets: object = None) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("uvicorn.Server.startup", startup)
    with pytest.raises(RuntimeError, match="no luck"):
        Collector().__enter__()
    assert ours() == set()


@pytest.mark.parametrize("keys", [{"s": ""}, {"s": []}])
def test_wrong_keys(keys: Any) -> None:
    """Wrong keys are refused when it is made."""
    with pytest.raises(ValueError, match=r"keys\['s'\]"):
        Collector(keys=keys)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"port": 70000}, ValueError, "port must be from 0 to 65535, not 70000"),
        ({"port": -1}, ValueError, "port must be"),
        ({"port": 10**30}, ValueError, "port must be"),
        ({"port": None}, TypeError, "port must be an int from 0 to 65535, not NoneType"),
        ({"port": True}, TypeError, "port must be"),
        ({"port": "80"}, TypeError, "port must be"),
        ({"host": None}, TypeError, "host must be a str, not NoneType"),
    ],
)
def test_wrong_addresses(options: Any, error: type[Exception], words: str) -> None:
    """An address that is none is refused when it is made, by name; the system would take some of them for others."""
    with pytest.raises(error, match=words):
        Collector(**options)


def test_it_leaves_the_loop_policy_alone() -> None:
    """Running it changes nothing about the loops that the program makes."""
    with Collector():
        assert asyncio.run(_loop()).__module__.startswith("asyncio.")


async def _loop() -> type[asyncio.AbstractEventLoop]:
    return type(asyncio.get_running_loop())


def test_urls() -> None:
    """A URL has an IPv6 address in brackets."""
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with contextlib.suppress(OSError), listen("::1", 0) as listener:  # where there is IPv6
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}/"
    with pytest.raises(socket.gaierror):
        listen("no such host", 0)
