"""One connection of the native transport: a stream and its protocol."""

from __future__ import annotations

import os
import select
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from atom_sansio._errors import ConnectionFailed, RemoteError
from atom_sansio._http import HttpConnection
from atom_sansio._messages import Origin, Reply, Request

# A TLS stream that has to write while it reads, which is rare, may find the writer at work.
_BROKEN: Final = (OSError, anyio.BrokenResourceError, anyio.BusyResourceError)


class Connection:
    """One stream to *origin*; the first exchange connects it.  *tls* gives the context where there is TLS."""

    def __init__(self, origin: Origin, tls: Callable[[], Awaitable[ssl.SSLContext]]) -> None:
        self.origin = origin
        self.peer = f"{origin.host}:{origin.port}"
        self._tls = tls
        self._http = HttpConnection(origin)
        self._stream: ByteStream | None = None
        self._socket: socket.socket
        self._at_once = 0  # bytes that the send buffer was last known to take
        self._written = False
        self._used_at = 0.0

    @property
    def reusable(self) -> bool:
        """Whether the last exchange left it in good order."""
        return self._stream is not None and self._http.reusable and self._written

    def usable(self, idle_timeout: float) -> bool:
        """Whether a request may be sent now: the peer has said nothing since the last, not even goodbye."""
        return anyio.current_time() - self._used_at < idle_timeout and _silent(self._socket)

    async def exchange(self, request: Request) -> Reply:
        """Send *request* and wait for its reply.

        A request that the send buffer cannot hold is read beside while it is written: a server may refuse it
        before it has read all of it, and what such a reply says is lost on asyncio once writing has failed.
        """
        data = self._http.send(request)
        self._written = False
        if self._stream is None:
            self._stream = await self._connect()
            self._socket = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
        if len(data) > self._at_once:
            self._at_once = _send_buffer(self._socket)
        if len(data) <= self._at_once:
            await self._write(self._stream, data)
            reply = await self._read(self._stream)
        else:
            outcome: Reply | RemoteError
            async with anyio.create_task_group() as group:
                group.start_soon(self._write, self._stream, data)
                try:
                    outcome = await self._read(self._stream)
                except RemoteError as exc:  # as it is, not in an exception group
                    outcome = exc
                group.cancel_scope.cancel()
            if isinstance(outcome, RemoteError):
                raise outcome
            reply = outcome
        self._used_at = anyio.current_time()
        return reply

    async def aclose(self) -> None:
        """Close the stream at once, whatever is cancelled.

        TLS's farewell is left out: HTTP says itself where a reply ends.
        """
        if self._stream is not None:
            stream = self._stream.transport_stream if isinstance(self._stream, TLSStream) else self._stream
            self._stream = None
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _connect(self) -> ByteStream:
        host, port = self.origin.host, self.origin.port
        try:
            if self.origin.scheme == "http":
                return await anyio.connect_tcp(host, port)
            # Standard-compatible, or anyone on the way could cut a reply short unnoticed.
            context = await self._tls()
            return await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=True)
        except _BROKEN as exc:
            raise self._failure(exc) from exc

    async def _write(self, stream: ByteStream, data: bytes) -> None:
        try:
            await stream.send(data)
        except _BROKEN:
            pass  # there may be a reply all the same; else reading fails too
        else:
            self._written = True

    async def _read(self, stream: ByteStream) -> Reply:
        while (reply := self._http.next_reply()) is None:
            try:
                data = await stream.receive()
            except anyio.EndOfStream:
                data = b""
            except _BROKEN as exc:
                raise self._failure(exc) from exc
            self._http.receive_data(data)
        return reply

    def _failure(self, exc: BaseException) -> ConnectionFailed:
        cause = exc.__cause__ or exc  # anyio's own exceptions say nothing
        reason = str(cause) or "the connection broke"
        if isinstance(cause, OSError):
            if cause.errno is None or isinstance(cause, (ssl.SSLError, socket.gaierror)):
                reason = cause.strerror or reason
            else:  # asyncio words the system's errors in its own way
                reason = os.strerror(cause.errno)
        return ConnectionFailed(f"{self.peer}: {reason}", stale=self._http.stale)


def _send_buffer(sock: socket.socket) -> int:
    """Bytes that the send buffer, which is empty after a reply, takes at once: nobody has to wait for them.

    Linux lets the buffer grow with what the connection carries.  It counts what the packets take up in memory,
    of which it reckons half for what is in them.
    """
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2


def _silent(sock: socket.socket) -> bool:
    """Whether nothing is there to be read; the streams do not look before they are asked to read."""
    if sys.platform == "win32":  # pragma: no cover
        return not select.select([sock], [], [], 0)[0]
    poll = select.poll()  # select() on Unix does not take descriptors above 1023
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)
