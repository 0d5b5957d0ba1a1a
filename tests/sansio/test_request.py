"""Requests on the wire, against the recorded ones and by the letter."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import SDK_VERSION, AuthKey, Endpoint, EventError, EventTooLarge, EventTypeError, Request, encode_event
from atom_sansio._request import (
    MAX_GET_TARGET,
    MAX_STREAM_LENGTH,
    check_stream,
    envelope_size,
    event_request,
    events_request,
    health_request,
    quote,
)
from atom_sansio.testing import ModelCollector, auth_keys, events, streams

ENDPOINT = Endpoint.parse("http://collector.example/base/")
KEY = AuthKey("k3y-Secret")
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "old_sdks.json").read_text("utf-8"))


def put_event(event: Any, key: AuthKey | None = KEY, *, stream: str = "s", method: str = "POST") -> Request:
    return event_request(ENDPOINT, stream, event, key, method=method, event_id="id-1")


def put_events(events: Any, key: AuthKey | None = KEY, *, stream: str = "s") -> Request:
    return events_request(ENDPOINT, stream, events, key, batch_id="id-1")


@pytest.mark.parametrize(
    ("text", "auth"),
    [
        ('{"id": 1, "event_name": "test"}', "0dbcde8a7e855341481b507a20bc33685761458ab9195411a7d465fabbf8847b"),
        (
            '{"t": "ção ✓", "u": "http://a/b?c=d&e=f<>"}',
            "0155df5c712293122c470752e8f9f80b306749e437b33808d39dc46d6b3da157",
        ),
    ],
)
def test_check_values_of_single_events(text: str, auth: str) -> None:
    """A text is sent and signed as all eight old SDKs did."""
    assert json.loads(put_event(text).body) == {"table": "s", "data": text, "auth": auth}


@pytest.mark.parametrize(
    ("batch", "text", "auth"),
    [
        (
            ['{"id": 1}', '{"id": 2}'],
            '["{\\"id\\": 1}","{\\"id\\": 2}"]',
            "2b3ea8873ffbface0306b3d1e30c8e9a3c6f089f65a407862c8edb30acf7d51b",
        ),
        (
            [{"id": 1}, {"id": 2}],
            '[{"id":1},{"id":2}]',
            "980fec5e69de38d675ada25a5376581d29327b8c59701490954ef830db73da9d",
        ),
    ],
)
def test_check_values_of_batches(batch: list[Any], text: str, auth: str) -> None:
    """Batches of strings are sent and signed as Go, PHP, Node and JS did, objects as Node, JS and Ruby."""
    assert json.loads(put_events(batch).body) == {"table": "s", "data": text, "auth": auth, "bulk": True}


SINGLE = [v for v in VECTORS if v["path"] == "/" and v["signature"] and v["auth_key"] and v["method"] == "POST"]


@pytest.mark.parametrize("vector", SINGLE, ids=lambda vector: vector["name"])
def test_recorded(vector: dict[str, Any]) -> None:
    """The text that an old SDK sent is signed by us as by it, in an envelope of the same meaning."""
    request = put_event(vector["data_field"], AuthKey(vector["auth_key"]), stream=vector["stream"])
    sent = json.loads(vector["body_raw"])
    ours = json.loads(request.body)
    assert (ours["table"], ours["data"], ours["auth"]) == (sent["table"], sent["data"], vector["signature"])


def test_bytes_of_a_single_event() -> None:
    """The whole request, byte for byte; without a key there is no auth, and the endpoint's path comes first."""
    request = put_event({"id": 1}, None)
    assert request.body == b'{"table":"s","data":"{\\"id\\":1}"}'
    assert (request.method, request.target) == ("POST", "/base/")
    assert request.url == "http://collector.example/base/"
    assert request.headers == (
        ("Content-Type", "application/json"),
        ("x-ironsource-atom-sdk-type", "python"),
        ("x-ironsource-atom-sdk-version", SDK_VERSION),
        ("Idempotency-Key", "id-1"),
    )


def test_version() -> None:
    """A request tells the version of the distribution that it comes from."""
    assert importlib.metadata.version("atom-events") == SDK_VERSION


def test_bytes_of_a_batch() -> None:
    """Likewise for a batch, also of one and of a mixture."""
    request = put_events(iter([{"id": 1}, "x", 2**64]), None)
    assert request.body == b'{"table":"s","data":"[{\\"id\\":1},\\"x\\",18446744073709551616]","bulk":true}'
    assert (request.method, request.target) == ("POST", "/base/bulk")
    assert ("Idempotency-Key", "id-1") in request.headers
    assert put_events([1], None).body == b'{"table":"s","data":"[1]","bulk":true}'


def test_health() -> None:
    """A health check has no body and no id."""
    request = health_request(ENDPOINT)
    assert (request.method, request.target, request.body) == ("GET", "/base/health", b"")
    assert "Idempotency-Key" not in dict(request.headers)


@given(streams(), events().filter(lambda event: event != ""), auth_keys(), st.sampled_from(["POST", "GET", "get"]))
def test_any_event(stream: str, event: Any, key: str | bytes, method: str) -> None:
    """A model that shares no code with us verifies the request and reads the very text of the event."""
    collector = ModelCollector([key])
    try:
        request = put_event(event, AuthKey(key), stream=stream, method=method)
    except EventTooLarge:
        assert method != "POST"
        return
    assert request.method == method.upper()
    assert collector.handle(request).status == 200, collector.refused
    text = event if isinstance(event, str) else encode_event(event).decode()[:-1]
    assert [(row.stream, row.text) for row in collector.rows] == [(stream, text)]


@given(streams(), st.lists(events(), min_size=1, max_size=5), auth_keys() | st.none())
def test_any_batch(stream: str, batch: list[Any], key: str | bytes | None) -> None:
    """A batch arrives as it was given, in order, signed or not; its size is what was reckoned with."""
    collector = ModelCollector([] if key is None else [key])
    request = put_events(batch, None if key is None else AuthKey(key), stream=stream)
    assert collector.handle(request).status == 200, collector.refused
    lines = [encode_event(event) for event in batch]
    assert collector.lines(stream) == lines
    size = envelope_size(stream) + len(quote(b",".join(line[:-1] for line in lines)))
    assert len(request.body) == size - 2 - (0 if key else 74)


def test_get() -> None:
    """A GET carries the same envelope in its query, percent-encoded base64, and no body."""
    request = put_event({"id": ">>>???"}, method="GET")
    url = urlsplit(request.target)
    assert (request.method, url.path, request.body) == ("GET", "/base/", b"")
    assert set(url.query) & set("+/ ") == set()
    assert base64.b64decode(parse_qs(url.query)["data"][0]) == put_event({"id": ">>>???"}).body


def test_longest_get() -> None:
    """A GET over 8000 bytes of target is refused with a way out, since its event would be lost on the way."""
    room = MAX_GET_TARGET - len(put_event("x", method="GET").target)
    endpoint = Endpoint.parse("http://collector.example/base" + "x" * room)
    longest = event_request(endpoint, "s", "x", KEY, method="GET", event_id="id-1")
    assert len(longest.target) == 8000
    longer = Endpoint.parse("http://collector.example/base" + "x" * (room + 1))
    with pytest.raises(EventTooLarge, match=r"URL of 8001 bytes"):
        event_request(longer, "s", "x", KEY, method="GET", event_id="id-1")
    with pytest.raises(EventTooLarge, match=r"URL of \d+ bytes; GET takes at most 8000, use POST"):
        put_event("x" * 6000, method="GET")


@pytest.mark.parametrize("falsy", [{}, [], 0, False, None])
def test_falsy_events(falsy: Any) -> None:
    """An event that is false is an event."""
    assert json.loads(put_event(falsy).body)["data"] == json.dumps(falsy)


def test_an_empty_text() -> None:
    """The wire takes an empty text for a missing one, so it is refused here."""
    with pytest.raises(EventError, match="empty str"):
        put_event("")


@pytest.mark.parametrize("falsy", [{}, [], 0, False, "", None])
def test_falsy_events_of_a_batch(falsy: Any) -> None:
    """In a batch an empty text is an event too."""
    assert json.loads(json.loads(put_events([falsy]).body)["data"]) == [falsy]


@pytest.mark.parametrize(
    ("stream", "error", "message"),
    [
        (None, TypeError, "stream must be a str, not NoneType"),
        (b"s", TypeError, "stream must be a str, not bytes"),
        ([], TypeError, "stream must be a str, not list"),
        ("", ValueError, "stream must have 1 to 512 characters, not 0"),
        ("x" * (MAX_STREAM_LENGTH + 1), ValueError, "stream must have 1 to 512 characters, not 513"),
        ("\ud800", ValueError, "stream holds a lone surrogate"),
    ],
)
def test_bad_stream(stream: Any, error: type[Exception], message: str) -> None:
    """What can name no stream is refused by whatever takes one."""
    for refuse in (check_stream, lambda s: put_event(1, stream=s), lambda s: put_events([1], stream=s)):
        with pytest.raises(error, match=message):
            refuse(stream)


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("PUT", ValueError, "method must be GET or POST, not 'PUT'"),
        ("", ValueError, "method must be GET or POST, not ''"),
        (None, TypeError, "method must be the str GET or POST, not NoneType"),
    ],
)
def test_bad_method(method: Any, error: type[Exception], message: str) -> None:
    """Only GET and POST are methods of the protocol."""
    with pytest.raises(error, match=message):
        put_event(1, method=method)


@pytest.mark.parametrize("batch", ["ab", b"ab", bytearray(b"ab"), {"a": 1}, MappingProxyType({}), 5, None])
def test_what_is_no_batch(batch: Any) -> None:
    """What could be iterated over but is no list of events is refused by its type."""
    with pytest.raises(TypeError, match=f"events must be a list of events, not {type(batch).__name__}"):
        put_events(batch)


def test_empty_batch() -> None:
    """A batch holds an event at least."""
    with pytest.raises(ValueError, match="events must hold at least one event"):
        put_events(())


@pytest.mark.parametrize(("bad", "error"), [(b"x", EventTypeError), (float("nan"), EventError)])
def test_bad_event_in_a_batch(bad: Any, error: type[Exception]) -> None:
    """A bad event is named by its place, with the error it has alone."""
    with pytest.raises(error, match=r"^events\[2\]: event is ") as caught:
        put_events([1, 2, bad])
    assert type(caught.value) is error
