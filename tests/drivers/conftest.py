"""One synchronous face for the transports of both drivers, and what their tests need besides."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import anyio.from_thread
import pytest
import trustme
from scripted_servers import Server

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
