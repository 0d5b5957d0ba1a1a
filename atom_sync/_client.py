"""One request at a time, answered at once: no batching, no retries."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from atom_sansio import CLIENT_OPTIONS, AuthKey, ClientCore, RemoteError, Request, Response

from ._environment import read_options
from ._transport import exchange, open_transport

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from atom_sansio import ClientOptions


class Client:
    """Sends events on the caller's thread and gives back the collector's answer.

    Safe to share between threads.  Connections are kept and used again.

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

    def put_event(
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
        return self._send(self._core.put_event(stream, event, method=method, auth_key=auth_key))

    def put_events(self, stream: str, events: Iterable[object], *, auth_key: str | AuthKey | None = None) -> Response:
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
        return self._send(self._core.put_events(stream, events, auth_key=auth_key))

    def health(self) -> Response:
        """Ask the collector whether it is up."""
        return self._send(self._core.health())

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: Request) -> Response:
        try:
            reply = exchange(self._transport, request, self._options.request_timeout)
        except RemoteError as error:
            return Response(None, b"", str(error))
        return self._core.response(reply)
