"""The low-level client but for its I/O: what it sends, and what its callers get back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Final, TypedDict

from ._messages import Reply, Request, Response
from ._options import Options
from ._request import check_stream, event_request, events_request, health_request
from ._sign import AuthKey
from ._verdict import Verdict, verdict, words


class ClientOptions(TypedDict, total=False):
    """The keyword options of both drivers' ``Client``; see :class:`Options` for what each means."""

    auth_key: str | bytes | AuthKey | None
    auth_keys: Mapping[str, str | bytes | AuthKey]
    request_timeout: float
    transport: Any


CLIENT_OPTIONS: Final = ("endpoint", *ClientOptions.__annotations__)
"""Names of the options that a ``Client`` has."""


class ClientCore:
    """Builds a client's requests and reads its replies.

    Args:
        options: only what :class:`ClientOptions` names is looked at.
        source: what request ids begin with; must be unique to this client.
    """

    def __init__(self, options: Options, *, source: str) -> None:
        self._options = options
        self._ids = (f"{source}-{n}" for n in count(1))

    def put_event(self, stream: str, event: object, *, method: str, auth_key: AuthKey | None) -> Request:
        """See :func:`~atom_sansio._request.event_request`."""
        key = self._key(stream, auth_key)
        return event_request(self._options.endpoint, stream, event, key, method=method, event_id=next(self._ids))

    def put_events(self, stream: str, events: Iterable[object], *, auth_key: AuthKey | None) -> Request:
        """See :func:`~atom_sansio._request.events_request`."""
        key = self._key(stream, auth_key)
        return events_request(self._options.endpoint, stream, events, key, batch_id=next(self._ids))

    def health(self) -> Request:
        """``GET /health``."""
        return health_request(self._options.endpoint)

    def response(self, reply: Reply) -> Response:
        """What the caller gets: the answer as it is, and the error in words unless it is a 2xx."""
        delivered = verdict(reply.status) is Verdict.DELIVERED
        return Response(reply.status, reply.body, None if delivered else words(reply))

    def _key(self, stream: str, auth_key: AuthKey | None) -> AuthKey | None:
        return auth_key or self._options.auth_keys.get(check_stream(stream), self._options.auth_key)
