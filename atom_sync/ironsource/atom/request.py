"""One HTTP request to the collector."""

from __future__ import annotations

import base64
import os
from typing import Final
from urllib.parse import quote

from atom_sansio import Endpoint, EventTooLarge, RemoteError
from atom_sansio import Request as HttpRequest
from atom_sansio._request import MAX_GET_TARGET
from atom_sansio._verdict import Verdict, verdict, words
from atom_sync import Transport
from atom_sync._transport import exchange

from .config import SDK_VERSION
from .response import Response

_HEADERS: Final = (
    ("Content-Type", "application/json"),
    ("x-ironsource-atom-sdk-type", "python"),
    ("x-ironsource-atom-sdk-version", SDK_VERSION),
)


class Request:
    """An envelope and where it goes.

    Args:
        endpoint: the URL.
        data: the envelope, JSON text; see :meth:`~ironsource.atom.ironsource_atom.IronSourceAtom.create_request_data`.
        session: sends it: a transport of :mod:`atom_sync`, where the old SDK took one of another library.
        timeout: seconds for the whole exchange.

    Raises:
        TypeError, ValueError: *endpoint* is no http(s) URL.
    """

    def __init__(self, endpoint: str, data: str, session: Transport, timeout: float) -> None:
        self._url = Endpoint.parse(endpoint)
        self._path = self._url.path + ("/" if endpoint.endswith("/") or not self._url.path else "")
        self._data = data.encode()
        self._session = session
        self._timeout = timeout

    def get(self) -> Response:
        """Send it in the URL.

        Raises:
            EventTooLarge: the URL would be longer than servers take; use :meth:`post`.
        """
        target = f"{self._path}?data={quote(base64.b64encode(self._data), safe='')}"
        if len(target) > MAX_GET_TARGET:
            raise EventTooLarge(
                f"data makes a URL of {len(target)} bytes; GET takes at most {MAX_GET_TARGET}, use POST"
            )
        return self._send("GET", target, b"")

    def post(self) -> Response:
        """Send it in the body."""
        return self._send("POST", self._path, self._data)

    def _send(self, method: str, target: str, body: bytes) -> Response:
        headers = (*_HEADERS, ("Idempotency-Key", os.urandom(16).hex()))
        request = HttpRequest(method=method, origin=self._url.origin, target=target, headers=headers, body=body)
        try:
            reply = exchange(self._session, request, self._timeout)
        except RemoteError as error:
            return Response(str(error), None, 500, error)
        if verdict(reply.status) is Verdict.DELIVERED:
            return Response(None, reply.body, reply.status, reply)
        said = "" if reply.status < 400 else reply.body.decode("utf-8", "replace")
        return Response(said or words(reply), None, reply.status, reply)
