"""The server's half: what a client has submitted, and what it is told.

Tolerant of what the eight old SDKs really send, and of nothing else: ``table`` or ``stream``; ``auth``
absent, empty or a signature; ``bulk`` absent, a boolean or its name; a batch's elements strings, values or
both; GET in either base64 alphabet, wrapped, unpadded, with spaces where there was ``+``, or as plain JSON.
The source is the requests recorded in ``tests/vectors``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

from ._elements import element_texts
from ._errors import AtomError
from ._messages import Reply
from ._request import check_stream

MAX_BODY: Final = 10 * 1024 * 1024
"""Bytes of a request's body; one more is answered with 413."""

MAX_BATCH_ID_LENGTH: Final = 512
"""Characters of an ``Idempotency-Key``."""

RETRY_AFTER: Final = 5
"""Seconds after which a client is asked to come back when nothing can be stored."""


class Refused(AtomError):
    """A request that is not taken, with what to tell the client.

    Attributes:
        status: 400 it is wrong, 401 its signature is, 413 it is too large, 503 it cannot be stored now.
        reason: Why, in words that quote nothing of it.
        stream: The stream it was for, if that could be read.
        events: How many events it held; 1 where that could not be read.
    """

    def __init__(self, status: int, reason: str, *, stream: str | None = None, events: int = 1) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.stream = stream
        self.events = events


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What one request asks to be stored.  Not verified yet: that is :meth:`Keyring.verify`."""

    stream: str
    data: str = field(repr=False)
    """The very text that is signed."""
    auth: str = field(repr=False)
    """The signature as it was sent; empty when there was none."""
    bulk: bool
    batch_id: str | None
    """The ``Idempotency-Key``: the same over all repetitions of a request."""
    elements: tuple[str, ...] = field(repr=False)
    """The text of each event: a string's own text, any other element's compact JSON."""


def read_submission(
    method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes = b"", *, max_body: int = MAX_BODY
) -> Submission:
    """Read one request: ``POST /``, ``POST /bulk`` or ``GET /?data=``.

    Args:
        method: ``GET`` or ``POST``.
        target: Path and query as they were sent; only the path's end matters.
        headers: Names in any case.
        body: The whole body.
        max_body: How many bytes of it are taken.

    Raises:
        Refused: it cannot be taken, with status 400 or 413.
    """
    if len(body) > max_body:
        raise Refused(413, f"the body is larger than {max_body} bytes")
    path, _, query = target.partition("?")
    envelope = _read_envelope(_envelope_in(query) if method == "GET" else body)
    stream = _stream(envelope)
    try:
        data = _text(envelope, "data")
        if not data:
            raise ValueError("data is missing or empty")
        auth = _text(envelope, "auth")
        bulk = _flag(envelope, "bulk") or path.endswith("/bulk")
        return Submission(
            stream=stream,
            data=data,
            auth=auth,
            bulk=bulk,
            batch_id=_batch_id(headers),
            elements=tuple(element_texts(data)) if bulk else (data,),
        )
    except ValueError as error:
        raise Refused(400, str(error), stream=stream) from None


def answer(refused: Refused | None = None) -> Reply:
    """The reply to a request that was stored, or that was *refused*.

    Old SDKs look at the status alone; the body of a success is the one that their tests had.
    """
    content_type = ("content-type", "application/json")
    if refused is None:
        return Reply(status=200, headers=(content_type,), body=b'{"Status":"OK"}')
    headers = (content_type, ("retry-after", str(RETRY_AFTER))) if refused.status == 503 else (content_type,)
    body = orjson.dumps({"Status": "error", "reason": refused.reason})
    return Reply(status=refused.status, headers=headers, body=body)


def _envelope_in(query: str) -> bytes:
    """The envelope in a GET's query."""
    values = [value for name, _, value in (part.partition("=") for part in query.split("&")) if name == "data"]
    if len(values) != 1 or not values[0]:
        raise Refused(400, "the query must have one data parameter" if values else "data is missing or empty")
    value = unquote_to_bytes(values[0])
    if value.lstrip().startswith(b"{"):  # the iOS SDK does not encode it
        return value
    # Both alphabets; a "+" that was not percent-encoded has become a space in some proxies.
    value = value.translate(bytes.maketrans(b"-_ ", b"+/+"), b"\r\n=")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise Refused(400, "the data parameter is not base64") from None


def _read_envelope(body: bytes) -> dict[str, Any]:
    try:
        envelope = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the envelope is not JSON: {error}") from None
    if type(envelope) is not dict:
        raise Refused(400, "the envelope is not a JSON object")
    try:
        written = orjson.dumps(envelope)
    except TypeError:
        raise Refused(400, "the envelope is nested too deeply") from None
    # Of a repeated name the last value would win here, and perhaps the first elsewhere.  What is written back
    # equal has none, and most envelopes are.
    if written != body:
        json.loads(body.decode(), object_pairs_hook=_unique, parse_int=len, parse_float=len)
    return envelope


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise Refused(400, "the envelope repeats a name")


def _stream(envelope: dict[str, Any]) -> str:
    names = [envelope[field] for field in ("table", "stream") if field in envelope]
    if not names:
        raise Refused(400, "table is missing")
    if names[0] != names[-1]:
        raise Refused(400, "table and stream differ")
    try:
        return check_stream(names[0])
    except (TypeError, ValueError) as error:
        raise Refused(400, str(error)) from None


def _text(envelope: dict[str, Any], name: str) -> str:
    value = envelope.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise ValueError(f"{name} must be a string, not a JSON {_KINDS[type(value)]}")
    return value


def _flag(envelope: dict[str, Any], name: str) -> bool:
    value = envelope.get(name, False)
    if value is True or value == "true":  # the logstash and beats configurations send a string
        return True
    if value is False or value == "false":
        return False
    raise ValueError(f"{name} must be true or false")


def _batch_id(headers: Iterable[tuple[str, str]]) -> str | None:
    ids = {value for name, value in headers if name.lower() == "idempotency-key"}
    if len(ids) > 1:
        raise ValueError("there are two values of Idempotency-Key")
    batch_id = ids.pop() if ids else ""
    if len(batch_id) > MAX_BATCH_ID_LENGTH:
        raise ValueError(f"Idempotency-Key is longer than {MAX_BATCH_ID_LENGTH} characters")
    return batch_id or None


_KINDS: Final = {int: "number", float: "number", bool: "boolean", list: "array", dict: "object"}
