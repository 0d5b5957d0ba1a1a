"""Property-test your own driver, or code that tracks events: inputs, and a model of a collector.

The strategies need hypothesis (``pip install hypothesis``); :class:`ModelCollector` needs nothing.

::

    @given(streams(), lists(events(), min_size=1))
    def test_everything_arrives(stream, tracked):
        collector = ModelCollector(keys=["k"])
        ...  # hand each request of yours to collector.handle()
        assert [row.line for row in collector.rows] == [encode_event(event) for event in tracked]
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ._backoff import RetryPolicy
from ._errors import ConnectionFailed, RemoteError, ReplyError, RequestTimeout
from ._messages import Reply, Request
from ._options import OnFull, Options

if TYPE_CHECKING:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
else:

    class _Strategies:
        """hypothesis.strategies, imported when first used: the collector does without."""

        def __getattr__(self, name: str) -> Any:
            try:
                from hypothesis import strategies
            except ImportError as error:
                message = "the strategies of atom_sansio.testing need hypothesis: pip install hypothesis"
                raise ImportError(message) from error
            return getattr(strategies, name)

    st = _Strategies()

__all__ = ["ModelCollector", "Row", "auth_keys", "events", "failures", "options", "replies", "streams"]


def events() -> SearchStrategy[Any]:
    """Anything that ``track`` takes: every JSON type, nested, any Unicode, integers of any size.

    Also what only Python has (tuples, ``Decimal``, keys that are no strings) and strings that hold JSON.
    """
    text = _text()
    decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40)
    large = st.integers(2**63, 10**60)
    numbers = st.integers() | large | large.map(lambda number: -number) | decimals
    scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | text
    trees = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(text, inner, max_size=4)
            | st.dictionaries(st.integers(), inner, max_size=2)
        ),
        max_leaves=12,
    )
    flat = st.recursive(st.integers() | text, lambda inner: st.dictionaries(text, inner, max_size=3), max_leaves=4)
    return (
        trees | large | flat.map(json.dumps) | st.sampled_from(['"' * 40, "\\" * 40, "\x00\x1f\x7f\u2028\n", "é€𝄞" * 9])
    )


def streams() -> SearchStrategy[str]:
    """Names that a stream may have, the longest included."""
    return st.sampled_from(["a", "cluster.schema.events", "поток", '"\\\n', "x" * 512]) | _text(1, 512)


def auth_keys() -> SearchStrategy[str | bytes]:
    """Keys as users write them.  :class:`~atom_sansio.AuthKey` takes them, and so does a collector."""
    return _text(1) | st.binary(min_size=1, max_size=80)


def options(**fixed: Any) -> SearchStrategy[Options]:
    """Tracker options whose limits are so small that a few events reach them.

    Args:
        fixed: options that are not drawn, as :meth:`~atom_sansio.Options.read` takes them.
    """
    retry = st.builds(
        RetryPolicy,
        base=st.sampled_from([0.5, 3.0]),
        cap=st.sampled_from([3.0, 1800.0]),
        max_attempts=st.none() | st.integers(1, 4),
        max_elapsed=st.none() | st.sampled_from([1.0, 60.0]),
    )
    drawn = {
        "endpoint": st.sampled_from(["http://collector.example", "https://[::1]:3000/base/"]),
        "max_batch_events": st.integers(1, 6),
        "max_batch_bytes": st.integers(1024, 2048),
        "flush_interval": st.sampled_from([0.1, 1.0, 10.0]),
        "max_pending_bytes": st.integers(2048, 8192),
        "max_pending_events": st.none() | st.integers(1, 24),
        "on_full": st.sampled_from(OnFull),
        "max_in_flight": st.integers(1, 3),
        "request_timeout": st.sampled_from([1.0, 60.0]),
        "retry": retry,
    }
    given = {name: st.just(value) for name, value in fixed.items()}
    return st.fixed_dictionaries({**drawn, **given}).map(lambda arguments: Options.read(arguments, {}, _resolve))


def replies(*statuses: int) -> SearchStrategy[Reply]:
    """What a collector, or something in front of it, may answer; any ``Retry-After``, readable or not.

    Args:
        statuses: those to choose from; any at all if left out.
    """
    told = [200, 204, 302, 400, 401, 403, 404, 408, 413, 425, 429, 500, 503]
    status = st.sampled_from(statuses) if statuses else st.sampled_from(told) | st.integers(200, 599)
    after = st.sampled_from(["0", "7", "3600", "1000000000", "-1", "soon", "", "Sun, 06 Nov 2094 08:49:37 GMT"])
    retry_after = after.map(lambda value: (("retry-after", value),))
    headers = st.just(()) | st.just((("location", "http://elsewhere.example/"),)) | retry_after
    body = st.sampled_from([b"", b'{"Status":"OK"}', b"Permission denied", b"\xff\x00\r\n"])
    return st.builds(Reply, status=status, headers=headers, body=body)


def failures() -> SearchStrategy[RemoteError]:
    """Why a request may come to no answer at all."""
    return st.one_of(
        st.booleans().map(lambda stale: ConnectionFailed("connection reset", stale=stale)),
        st.builds(RequestTimeout, st.just("no reply in time")),
        st.builds(ReplyError, st.just("no valid HTTP reply")),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One event as a collector has stored it."""

    stream: str
    text: str
    """The event's text: the element of a batch as it stood in the array; the whole ``data`` of a single one."""
    key: str | bytes | None = field(repr=False)
    """The key whose signature it came under; None if it was unsigned."""
    batch_id: str | None
    """The ``Idempotency-Key`` it came under."""

    @property
    def line(self) -> bytes:
        """The text as :func:`~atom_sansio.encode_event` gives it."""
        return self.text.encode() + b"\n"


class ModelCollector:
    """A collector in its simplest form, which shares no code with the rest of the package.

    It takes :class:`~atom_sansio.Request` objects, verifies, decodes and keeps their events in order, and
    keeps those of one ``Idempotency-Key`` once.

    Args:
        keys: any of these may sign any stream; with none, requests must not be signed.
    """

    def __init__(self, keys: Iterable[str | bytes] = ()) -> None:
        self.keys = list(keys)
        """May be changed at any time."""
        self.rows: list[Row] = []
        """What is stored, in order."""
        self.refused: list[str] = []
        """Why each refused request was refused."""
        self._stored: set[str] = set()

    def handle(self, request: Request) -> Reply:
        """Store the request's events; the answer is 200, or 401 or 400 for what is refused."""
        batch_id = dict(request.headers).get("Idempotency-Key")
        try:
            envelope = _strict(_body(request))
            stream, data = envelope["table"], envelope["data"]
            key = self._verify(data, envelope.get("auth"))
            bulk = request.target.endswith("/bulk") and envelope["bulk"] is True
            rows = [Row(stream, text, key, batch_id) for text in (_elements(data) if bulk else [data])]
        except PermissionError as error:
            return self._refuse(401, error)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            return self._refuse(400, error)
        if batch_id is None or batch_id not in self._stored:
            self.rows += rows
        if batch_id is not None:
            self._stored.add(batch_id)
        return Reply(status=200, headers=(), body=b'{"Status":"OK"}')

    def lines(self, stream: str) -> list[bytes]:
        """What is stored of *stream*, in order."""
        return [row.line for row in self.rows if row.stream == stream]

    def _verify(self, data: str, auth: str | None) -> str | bytes | None:
        if auth is None and not self.keys:
            return None
        for key in self.keys:
            secret = key.encode() if isinstance(key, str) else key
            if hmac.new(secret, data.encode(), hashlib.sha256).hexdigest() == auth:
                return key
        raise PermissionError("no key of this collector makes that signature")

    def _refuse(self, status: int, error: Exception) -> Reply:
        self.refused.append(f"{status}: {type(error).__name__}: {error}")
        return Reply(status=status, headers=(), body=str(error).encode())


def _body(request: Request) -> bytes:
    if request.method == "POST":
        return request.body
    return base64.b64decode(parse_qs(urlsplit(request.target).query)["data"][0], validate=True)


def _strict(text: bytes) -> Any:
    return _DECODER.decode(text.decode())


def _elements(data: str) -> Iterator[str]:
    """The elements of a JSON array, each as it stands there."""
    if data[0] != "[":
        raise ValueError("data is no array")
    end = 0
    while data[end] != "]" or end == 0:
        start = end + 1
        _, end = _DECODER.raw_decode(data, start)
        yield data[start:end]
        if data[end] not in ",]":
            raise ValueError("data is no array of compact JSON")
    if data[end:] != "]":
        raise ValueError("something follows the array")


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_json)


def _resolve(name: str) -> Any:
    raise ImportError(name)  # pragma: no cover - nothing is read from an environment


def _text(min_size: int = 0, max_size: int = 60) -> SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=min_size, max_size=max_size)
