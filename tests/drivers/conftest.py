"""Loopback servers that follow a script, and one synchronous face for the transports of both drivers."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

import anyio.from_thread
import pytest
import trustme

import atom_anyio._httpx
import atom_anyio._memory
import atom_anyio._transport
import atom_sync._httpx
import atom_sync._memory
import atom_sync._transport
from atom_sansio._messages import Origin, Reply, Request

BACKENDS: dict[str, Any] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
try:
    import uvloop  # noqa: F401
except ImportError:
    del BACKENDS["uvloop"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


class Peer:
    """The server's end of one connection."""

    OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"Status":"OK"}'

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def read_head(self) -> bytes:
        """A request up to its body, byte by byte; empty when the client has left."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                return b""
            data += byte
        return data

    def read_request(self) -> bytes:
        """A whole request; empty when the client has left."""
        head = self.read_head()
        if head:
            length = next((int(x[15:]) for x in head.split(b"\r\n") if x.startswith(b"Content-Length:")), 0)
            body = b""
            while len(body) < length:
                body += self.socket.recv(65536)
            head += body
        return head

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def serve(self, reply: bytes = OK) -> None:
        """Reply to whatever comes, until the client leaves."""
        while self.read_request():
            self.write(reply)

    def left(self) -> bool:
        """Wait until the client has closed, one way or the other."""
        try:
            while self.socket.recv(65536):
                pass
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Peer, int], Any]


class Server:
    """Runs a script ``(peer, number of the connection)`` for each connection, in a thread of its own."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.connections = 0

    def origin(self, host: str = "127.0.0.1") -> Origin:
        return Origin("http" if self._context is None else "https", host, self._listener.getsockname()[1])

    def __enter__(self) -> Server:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._threads[0].join()
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for peer in self._peers:
            peer.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            self._peers.append(peer)
            thread = threading.Thread(target=self._run, args=(peer, self.connections))
            self.connections += 1
            self._threads.append(thread)
            thread.start()

    def _run(self, peer: Peer, number: int) -> None:
        try:
            if self._context is not None:
                peer.socket = self._context.wrap_socket(peer.socket, server_side=True)
            self._script(peer, number)
        except OSError:  # what a client does to its server is for the client's test to judge
            pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Server(*args, **kwargs))


class Driver:
    """A transport of either driver, called from ordinary code."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()
        self._portal: Any = None

    def __enter__(self) -> Driver:
        if self.name != "threads":
            backend, options = BACKENDS[self.name]
            self._portal = self._stack.enter_context(anyio.from_thread.start_blocking_portal(backend, dict(options)))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    @contextmanager
    def open(self, kind: str, *args: Any, **options: Any) -> Iterator[Face]:
        """The transport called *kind*: native, httpx or memory."""
        sync = {
            "native": atom_sync._transport.SocketTransport,
            "httpx": atom_sync._httpx.HttpxTransport,
            "memory": atom_sync._memory.MemoryTransport,
        }
        twin = {
            "native": atom_anyio._transport.StreamTransport,
            "httpx": atom_anyio._httpx.HttpxTransport,
            "memory": atom_anyio._memory.MemoryTransport,
        }
        classes: dict[str, Any] = sync if self._portal is None else twin
        face = Face(classes[kind](*args, **options), self._portal)
        try:
            yield face
        finally:
            face.close()


class Face:
    def __init__(self, transport: Any, portal: Any) -> None:
        self.transport = transport
        self._portal = portal

    def send(self, request: Request, *, timeout: float = 10.0) -> Reply:
        if self._portal is None:
            reply: Reply = self.transport.send(request, timeout=timeout)
        else:
            reply = self._portal.call(partial(self.transport.send, request, timeout=timeout))
        return reply

    def close(self) -> None:
        if self._portal is None:
            self.transport.close()
        else:
            self._portal.call(self.transport.aclose)


@pytest.fixture(params=["threads", *BACKENDS])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(request.param) as driver:
        yield driver


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the tests' authority and checks names."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def server_context(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Makes a server's context with a certificate for 127.0.0.1 or as told."""

    def make(*names: str, issuer: trustme.CA = authority, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        return context

    return make


@pytest.fixture
def make_request() -> Callable[..., Request]:
    def make(server: Server | Origin, **changes: Any) -> Request:
        origin = server.origin() if isinstance(server, Server) else server
        fields = {"method": "POST", "target": "/bulk?secret", "headers": (("X-Test", "1"),), "body": b"{}"}
        return Request(origin=origin, **(fields | changes))

    return make
