"""Running the collector: for good, as a program, or for as long as a block lasts.

The socket is bound and listening before uvicorn starts, so the address is known at once and connections that
come early wait their turn; nobody has to try until it is up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from os import PathLike
from types import FrameType, TracebackType
from typing import Final

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette

from atom_anyio._call import Call
from atom_anyio._loop import Loop
from atom_sansio import Keyring
from atom_sansio._shown import shown
from atom_sansio._verify import Keys

from ._app import create_app
from ._http import StrictProtocol
from ._keys import LiveKeyring
from ._store import Store

KEEP_ALIVE: Final = 75
"""Seconds that an idle connection is kept: longer than any usual flush interval of a client."""

GRACE: Final = 5
"""Seconds that requests have to be answered in when the collector is stopped."""


class Collector:
    """A collector in a thread of this process; its address is what the block gets.

    ::

        with Collector(keys={"clicks": "k"}) as url: ...
        async with Collector(keys={"clicks": "k"}) as url: ...  # asyncio or trio

    After the block its thread, socket and store are closed, and requests that had come in are answered.  It
    serves one block.

    Args:
        keys: ``{stream: key or keys}``, see :class:`~atom_sansio.Keyring`.
        default_key: The key or keys of all other streams; without it they take anything.
        store: Path of the SQLite file; ``":memory:"`` forgets everything at the end.
        host: Address to listen on.
        port: 0 lets the system choose one.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: the address is taken, or the file cannot be made.
        StoreFailed: the file is no store.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, Keys] | None = None,
        default_key: Keys | None = None,
        store: str | PathLike[str] = ":memory:",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        try:
            self._keyring = Keyring(keys, default=default_key)
        finally:
            del keys, default_key  # a traceback may show the locals
        if not isinstance(host, str):
            raise TypeError(f"host must be a str, not {type(host).__name__}")
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int from 0 to 65535, not {type(port).__name__}")
        if not 0 <= port <= 65535:  # the system would take it modulo 65536
            raise ValueError(f"port must be from 0 to 65535, not {shown(port)}")
        self._path = store
        self._address = (host, port)
        self._entered = False

    def __enter__(self) -> str:
        if self._entered:
            raise RuntimeError("a Collector serves one block; make another one")
        self._entered = True
        self._store = Store(self._path)
        try:
            listener = listen(*self._address)
        except BaseException:
            self._store.close()
            raise
        started: Future[None] = Future()
        self._server = _server(create_app(self._store, self._keyring), lambda: started.set_result(None))
        self._thread = threading.Thread(
            target=_run_in_thread, args=(self._server, listener, started), name="atom-collector", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._stop()
            raise
        return url_of(listener)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    async def __aenter__(self) -> str:
        call = Call(Loop.running(), self.__enter__)
        with anyio.CancelScope(shield=True):  # it takes no time worth giving up
            try:
                # Not the limiter that others share, which may be used up.
                url = await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))
            except anyio.get_cancelled_exc_class():  # asyncio's own cancel(), which comes through the shield
                if not call.prevent():
                    await call.end()
                    await self._stop_in_thread()
                raise
        return url

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stop_in_thread()

    async def _stop_in_thread(self) -> None:
        call = Call(Loop.running(), self._stop).start("atom-collector-stop")
        try:
            await call.wait()
        except anyio.get_cancelled_exc_class():
            await call.end()
            raise

    def _stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._store.close()


def serve(
    store: Store, keyring: Keyring | LiveKeyring, *, host: str, port: int, on_listening: Callable[[str], object]
) -> None:
    """Run the collector until SIGTERM or SIGINT, then answer what has come in and return.

    To be called in the main thread.

    Args:
        store: Stays open.
        keyring: What submissions must be signed with.  A :class:`LiveKeyring` is read again at SIGHUP, where
            there is that signal.
        host: Address to listen on.
        port: 0 lets the system choose one.
        on_listening: Called with the URL when connections are taken.

    Raises:
        OSError: the address is taken.
    """
    with listen(host, port) as listener:
        server = _server(create_app(store, keyring), lambda: on_listening(url_of(listener)))

        def stop(number: int, frame: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn puts its own handlers in front of these while it runs, and when it has stopped it raises
        # what it caught for the ones that were there before: the default ones would end the process by the signal.
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        # Without keys to be read again, SIGHUP means what it does to others: that the terminal is gone.
        if isinstance(keyring, LiveKeyring) and hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: server.soon(keyring.reload))
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on *host*, which is a name or an address of IPv4 or IPv6."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # So that a restart need not wait for the old connections' last packets; Windows means another thing by it.
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Where the listening socket is reached, with a slash at the end."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ipaddress.ip_address(host).version == 6 else f"http://{host}:{port}/"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_started()

    def soon(self, work: Callable[[], object]) -> None:
        """Have *work* done by the loop: for a signal's handler, which may have interrupted anything."""
        if self._loop is not None:  # else nothing has begun that it could disturb, nor the signal been asked for
            self._loop.call_soon_threadsafe(work)


def _server(app: Starlette, on_started: Callable[[], object]) -> _Server:
    config = uvicorn.Config(
        app,
        http=StrictProtocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,  # logging belongs to the program
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config, on_started)


def _run_in_thread(server: _Server, listener: socket.socket, started: Future[None]) -> None:
    with listener:
        try:
            # Not server.run(), which in some versions sets the event loop policy of the whole process.
            asyncio.run(server.serve(sockets=[listener]))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
