"""What a transport is, and the native one: a pool of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio

from atom_sansio._errors import ConnectionFailed, RequestTimeout
from atom_sansio._messages import Origin, Reply, Request
from atom_sansio._shown import shown

if TYPE_CHECKING:
    import ssl

    from ._connection import Connection


class Transport(Protocol):
    """What brings a request to its origin and the reply back.  Several tasks call it at once."""

    async def send(self, request: Request, *, timeout: float) -> Reply:
        """The reply to *request*, whatever its status; no redirect is followed and nothing retried.

        Args:
            request: what to send.
            timeout: seconds for all of it, connecting included.

        Raises:
            ConnectionFailed: no connection could be made, or it broke.
            RequestTimeout: the time was up first.
            ReplyError: what came is no HTTP reply, or over a limit.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what is kept for later requests; those under way come to their end."""
        ...


def open_transport(given: Any) -> Transport:
    """The transport that the option *given* stands for: itself, or what it makes when called; None for the native.

    Raises:
        TypeError: that is no transport, or one for the threads of ``atom_sync``.
    """
    transport = StreamTransport() if given is None else given() if callable(given) else given
    for name in ("send", "aclose"):
        if not callable(getattr(transport, name, None)):
            kind = type(transport).__name__
            raise TypeError(f"transport must have the methods send and aclose; {kind} has no {name}")
    return cast(Transport, transport)


class StreamTransport:
    """HTTP/1.1 over anyio's streams, TLS included.  Connections are kept and used again, in one event loop.

    Args:
        ssl_context: for https; by default ``ssl.create_default_context()``, made when first needed.
        max_idle: how many idle connections are kept at most.
        idle_timeout: seconds after which an idle connection is not used again.  Some routers forget
            a silent connection after some minutes and then swallow what is sent on it.

    Raises:
        TypeError: *ssl_context* is no ``ssl.SSLContext``.
        ValueError: *max_idle* or *idle_timeout* is no number from 0 up.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, max_idle: int = 16, idle_timeout: float = 60.0
    ) -> None:
        if isinstance(max_idle, bool) or not isinstance(max_idle, int) or max_idle < 0:
            raise ValueError(f"max_idle must be an int from 0 up, not {shown(max_idle)}")
        if isinstance(idle_timeout, bool) or not isinstance(idle_timeout, (int, float)) or not idle_timeout >= 0:
            raise ValueError(f"idle_timeout must be seconds from 0 up, not {shown(idle_timeout)}")
        if ssl_context is not None:
            import ssl

            if not isinstance(ssl_context, ssl.SSLContext):
                raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(ssl_context).__name__}")
        self._ssl_context = ssl_context
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._closed = False
        self._idle: list[Connection] = []  # the one used last is the last

    async def send(self, request: Request, *, timeout: float) -> Reply:
        """See :meth:`Transport.send`.  ``ConnectionFailed.stale`` tells of a connection that died idle.

        When it is cancelled, the connection is closed; whether the request arrived is unknown.
        """
        connection = await self._acquire(request.origin)
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + timeout):
                return await connection.exchange(request)
            raise RequestTimeout(f"{connection.peer} did not reply in time")
        finally:
            await self._release(connection)

    async def aclose(self) -> None:
        """Close idle connections now, and those in use when they have served; later requests fail."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.aclose()

    async def _acquire(self, origin: Origin) -> Connection:
        if self._closed:
            raise ConnectionFailed("the transport is closed")
        while (connection := next((each for each in reversed(self._idle) if each.origin == origin), None)) is not None:
            self._idle.remove(connection)
            if connection.usable(self._idle_timeout):
                return connection
            await connection.aclose()
        return self._connection(origin)

    def _connection(self, origin: Origin) -> Connection:
        from ._connection import Connection  # and with it h11: not before it is needed

        return Connection(origin, self._tls)

    async def _release(self, connection: Connection) -> None:
        if connection.reusable and not self._closed:
            self._idle.append(connection)
            if len(self._idle) <= self._max_idle:
                return
            connection = self._idle.pop(0)
        await connection.aclose()

    async def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            import ssl

            # It reads files for some 20 ms.
            self._ssl_context = await anyio.to_thread.run_sync(ssl.create_default_context)
        return self._ssl_context
