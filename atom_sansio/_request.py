"""The requests of the Atom protocol: envelope, signature, headers.

Source of the wire rules: the retired service's HTTP page and the requests recorded from its SDKs
(``tests/vectors``).  The text of ``data`` is signed exactly as the receiver decodes it, before it is escaped
into the envelope; nothing else is signed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote as quote_url

import orjson

from ._encode import encode_event
from ._endpoint import Endpoint
from ._errors import EventError, EventTooLarge
from ._messages import Request
from ._sign import AuthKey

SDK_VERSION: Final = "2.0.0"
"""Of this client, as the collector sees it."""

_HEADERS: Final = (
    ("Content-Type", "application/json"),
    ("x-ironsource-atom-sdk-type", "python"),
    ("x-ironsource-atom-sdk-version", SDK_VERSION),
)

MAX_STREAM_LENGTH: Final = 512
"""Characters of a stream's name."""

MAX_GET_TARGET: Final = 8000
"""Bytes of a GET's path and query: what RFC 9110, 4.1 asks every server to take, and most take no more."""


def check_stream(stream: object) -> str:
    """*stream* if it can name one, else TypeError or ValueError."""
    if not isinstance(stream, str):
        raise TypeError(f"stream must be a str, not {type(stream).__name__}")
    if not 1 <= len(stream) <= MAX_STREAM_LENGTH:
        raise ValueError(f"stream must have 1 to {MAX_STREAM_LENGTH} characters, not {len(stream)}")
    try:
        stream.encode()
    except UnicodeEncodeError:
        raise ValueError("stream holds a lone surrogate, which UTF-8 does not have") from None
    return stream


def envelope(stream: str, text: bytes, data: bytes, key: AuthKey | None, *, bulk: bool) -> bytes:
    """The body of a request: *text*, which is signed, goes in as *data*, which is :func:`quote` of it."""
    auth = b"" if key is None else b',"auth":"%s"' % key.sign(text).encode()
    return b"".join((_HEAD % orjson.dumps(stream), data, auth, _BULK if bulk else b"}"))


def envelope_size(stream: str) -> int:
    """Bytes of a bulk envelope around its escaped events, the array's brackets included.

    With room for a signature in any case, since a batch may get its first key between two attempts.
    """
    auth = len(b',"auth":""') + 64  # hex digits of SHA-256
    return len(_HEAD % orjson.dumps(stream)) + len(b'"[]"') + auth + len(_BULK)


_HEAD: Final = b'{"table":%s,"data":'
_BULK: Final = b',"bulk":true}'


def quote(text: bytes) -> bytes:
    """*text*, which is UTF-8, as a JSON string."""
    return orjson.dumps(text.decode())


def bulk_request(endpoint: Endpoint, body: bytes, batch_id: str) -> Request:
    """``POST /bulk``; the id lets a collector store the batch once however often it is sent."""
    return Request(
        method="POST",
        origin=endpoint.origin,
        target=f"{endpoint.path}/bulk",
        headers=(*_HEADERS, ("Idempotency-Key", batch_id)),
        body=body,
    )


def event_request(
    endpoint: Endpoint, stream: str, event: object, key: AuthKey | None, *, method: str, event_id: str
) -> Request:
    """One event by POST or GET; a ``str`` is sent as it is, any other value as its JSON text.

    Raises:
        EventError: see :func:`encode_event`.
        EventTooLarge: a GET whose URL would be over ``MAX_GET_TARGET`` bytes.
        TypeError, ValueError: *stream* or *method* is wrong.
    """
    check_stream(stream)
    if not isinstance(method, str):
        raise TypeError(f"method must be the str GET or POST, not {type(method).__name__}")
    if method.upper() not in ("GET", "POST"):
        raise ValueError(f"method must be GET or POST, not {method!r}")
    line = encode_event(event)
    if isinstance(event, str) and not event:
        raise EventError("event is an empty str, which a request for one event cannot carry")
    text = event.encode() if isinstance(event, str) else line[:-1]
    body = envelope(stream, text, quote(text), key, bulk=False)
    target = f"{endpoint.path}/"
    if method.upper() == "GET":
        target += "?data=" + quote_url(base64.b64encode(body), safe="")
        if len(target) > MAX_GET_TARGET:
            raise EventTooLarge(
                f"event makes a URL of {len(target)} bytes; GET takes at most {MAX_GET_TARGET}, use POST"
            )
        body = b""
    headers = (*_HEADERS, ("Idempotency-Key", event_id))
    return Request(method=method.upper(), origin=endpoint.origin, target=target, headers=headers, body=body)


def events_request(
    endpoint: Endpoint, stream: str, events: Iterable[object], key: AuthKey | None, *, batch_id: str
) -> Request:
    """A batch by ``POST /bulk``; strings stay strings and values stay values, in any mixture.

    Raises:
        TypeError: *events* is a str, bytes or a mapping, or cannot be iterated over.
        ValueError: *events* is empty.
        EventError: see :func:`encode_event`; the message says which.
    """
    if isinstance(events, (str, bytes, bytearray, Mapping)) or not isinstance(events, Iterable):
        raise TypeError(f"events must be a list of events, not {type(events).__name__}")
    lines = []
    for i, event in enumerate(events):
        try:
            lines.append(encode_event(event))
        except ValueError as error:
            raise type(error)(f"events[{i}]: {error}") from error
    if not lines:
        raise ValueError("events must hold at least one event")
    text = array_text(b"".join(lines))
    body = envelope(check_stream(stream), text, quote(text), key, bulk=True)
    return bulk_request(endpoint, body, batch_id)


def health_request(endpoint: Endpoint) -> Request:
    """``GET /health``."""
    return Request(method="GET", origin=endpoint.origin, target=f"{endpoint.path}/health", headers=_HEADERS, body=b"")


def array_text(lines: bytes) -> bytes:
    """The JSON array of some encoded lines.  A line break cannot occur inside one."""
    return b"".join((b"[", memoryview(lines.replace(b"\n", b","))[:-1], b"]"))
