"""One request at a time, answered at once: no batching, no retries."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from atom_sansio import CLIENT_OPTIONS, AuthKey, ClientCore, ConnectionFailed, RemoteError, Request, Response

from ._environment import read_options
from ._transport import open_transport

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from atom_sansio import ClientOptions


class Client:
    """Sends events in the calling task and gives back the collector's answer.

    Safe to share between tasks.  Connections are kept and used again; cancelled requests close theirs.

    Args:
        endpoint: URL of the collector; the environment's ``ATOM_ENDPOINT`` if left out.
        options: ``auth_key``, ``auth_keys``, ``request_timeout``, ``transport``; see
            :class:`atom_sansio.Options`.

    Raises:
        TypeError, ValueError: an option is wrong; the message names it, its value and its range.
    """

    def __init__(self, endpoint: str | None = None, **options: Unpack[ClientOptions]) -> None:
        self._options = read_options(endpoint, options, only=CLIENT_OPTIONS)
        self._transport = open_transport(self._options.transport)
        self._core = ClientCore(self._options, source=os.urandom(16).hex())

    async def put_event(
        self, stream: str, event: object, *, method: str = "POST", auth_key: str | AuthKey | None = None
    ) -> Response:
        """Send one event; a ``str`` goes as it is, anything else as its JSON text.

        Args:
            stream: 1 to 512 characters.
            event: see :func:`atom_sansio.encode_event`.
            method: ``POST``, or ``GET``, whose URL takes about 5 KiB of event.
            auth_key: signs this event instead of the stream's or the client's key.

        Returns:
            The answer; without one, ``status`` is None and ``error`` says what happened.

        Raises:
            EventError, TypeError, ValueError: an argument is wrong; nothing was sent.
        """
        auth_key = None if auth_key is None else AuthKey.of(auth_key)  # a traceback may show the locals
        return await self._send(self._core.put_event(stream, event, method=method, auth_key=auth_key))

    async def put_events(
        self, stream: str, events: Iterable[object], *, auth_key: str | AuthKey | None = None
    ) -> Response:
        """Send a batch in one request; strings stay strings, values stay values.

        Args:
            stream: 1 to 512 characters.
            events: at least one; see :func:`atom_sansio.encode_event`.
            auth_key: signs this batch instead of the stream's or the client's key.

        Returns:
            The answer; without one, ``status`` is None and ``error`` says what happened.

        Raises:
            EventError, TypeError, ValueError: an argument is wrong; nothing was sent.
        """
        auth_key = None if auth_key is None else AuthKey.of(auth_key)  # a traceback may show the locals
        return await self._send(self._core.put_events(stream, events, auth_key=auth_key))

    async def health(self) -> Response:
        """Ask the collector whether it is up."""
        return await self._send(self._core.health())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, request: Request) -> Response:
        try:
            try:
                reply = await self._transport.send(request, timeout=self._options.request_timeout)
            except ConnectionFailed as error:
                if not error.stale:
                    raise
                # The peer had closed an idle connection; the request's id keeps it from counting twice.
                reply = await self._transport.send(request, timeout=self._options.request_timeout)
        except RemoteError as error:
            return Response(None, b"", str(error))
        return self._core.response(reply)
