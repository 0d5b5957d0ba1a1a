"""What a transport is, and the native one: a pool of connections."""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, cast

from atom_sansio._errors import ConnectionFailed
from atom_sansio._messages import Origin, Reply, Request
from atom_sansio._shown import shown

from ._late_imports import whole_imports

if TYPE_CHECKING:
    import ssl

    from ._connection import Connection


class Transport(Protocol):
    """What brings a request to its origin and the reply back.  Several threads call it at once."""

    def send(self, request: Request, *, timeout: float) -> Reply:
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

    def close(self) -> None:
        """Let go of what is kept for later requests; those under way come to their end."""
        ...


def open_transport(given: Any) -> Transport:
    """The transport that the option *given* stands for: itself, or what it makes when called; None for the native.

    Raises:
        TypeError: that is no transport, or one for the event loops of ``atom_anyio``.
    """
    transport = SocketTransport() if given is None else given() if callable(given) else given
    for name in ("send", "close"):
        if not callable(getattr(transport, name, None)):
            kind = type(transport).__name__
            raise TypeError(f"transport must have the methods send and close; {kind} has no {name}")
    return cast(Transport, transport)


def exchange(transport: Transport, request: Request, timeout: float) -> Reply:
    """:meth:`Transport.send`, and once more if an idle connection turned out to be dead.

    The peer had closed that connection; the request's id keeps it from counting twice all the same.
    """
    try:
        return transport.send(request, timeout=timeout)
    except ConnectionFailed as error:
        if not error.stale:
            raise
        return transport.send(request, timeout=timeout)


class SocketTransport:
    """HTTP/1.1 over sockets, TLS included.  Connections are kept and used again.

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
        self._process = os.getpid()
        # Re-entrant, since a signal handler that stops a tracker may interrupt close() at the end of a stop().
        self._lock = threading.RLock()
        self._idle: list[Connection] = []  # the one used last is the last
        self._busy: set[Connection] = set()

    def send(self, request: Request, *, timeout: float) -> Reply:
        """See :meth:`Transport.send`.  ``ConnectionFailed.stale`` tells of a connection that died idle."""
        deadline = monotonic() + timeout
        connection = self._acquire(request.origin)
        try:
            return connection.exchange(request, deadline)
        finally:
            self._release(connection)

    def close(self) -> None:
        """Close idle connections now, and those in use when they have served; later requests fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def reset_after_fork(self) -> None:
        """Forget, in a child process, what belongs to its parent.

        Descriptors are closed without a word to the peer: the connections live on in the parent.
        """
        self._process = os.getpid()
        self._lock = threading.RLock()  # a thread that does not exist here may have held it
        inherited = [*self._idle, *self._busy]
        self._idle = []
        self._busy = set()
        for connection in inherited:
            connection.close()

    def _acquire(self, origin: Origin) -> Connection:
        if self._process != os.getpid():  # two processes on one connection would read each other's replies
            self.reset_after_fork()
        while True:
            with self._lock:
                if self._closed:
                    raise ConnectionFailed("the transport is closed")
                connection = next((idle for idle in reversed(self._idle) if idle.origin == origin), None)
                if connection is not None:
                    self._idle.remove(connection)
                    self._busy.add(connection)
            if connection is None:
                connection = self._connection(origin)  # may import, so not under the lock
                with self._lock:
                    self._busy.add(connection)
            if connection.usable(self._idle_timeout):
                return connection
            connection.close()
            self._release(connection)

    def _connection(self, origin: Origin) -> Connection:
        with whole_imports():  # not before they are needed
            import encodings.idna  # noqa: F401 - which getaddrinfo() and ssl load by themselves

            from ._connection import Connection  # and with it h11 and socket

            if origin.scheme == "https":
                import ssl  # noqa: F401

        return Connection(origin, self._tls)

    def _release(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
            if connection.reusable and not self._closed:
                self._idle.append(connection)
                if len(self._idle) <= self._max_idle:
                    return
                connection = self._idle.pop(0)
        connection.close()

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._ssl_context is None:
                import ssl

                self._ssl_context = ssl.create_default_context()
            return self._ssl_context
