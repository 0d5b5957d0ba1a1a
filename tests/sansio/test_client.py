"""The low-level client but for its I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atom_sansio import CLIENT_OPTIONS, AuthKey, ClientCore, Options, Reply, Response


def core(**options: Any) -> ClientCore:
    def unresolved(name: str) -> Any:
        raise AssertionError(name)

    return ClientCore(Options.read({"endpoint": "http://h/", **options}, {}, unresolved), source="c")


def auth(body: bytes) -> str | None:
    signature: str | None = json.loads(body).get("auth")
    return signature


def test_ids() -> None:
    """Each request that stores something has an id of its own, which begins with the source."""
    it = core()
    requests = [
        it.put_event("s", 1, method="POST", auth_key=None),
        it.put_events("s", [1], auth_key=None),
        it.put_event("s", 1, method="GET", auth_key=None),
    ]
    assert [dict(request.headers)["Idempotency-Key"] for request in requests] == ["c-1", "c-2", "c-3"]
    assert it.health().target == "/health"


@pytest.mark.parametrize(
    ("options", "explicit", "used"),
    [
        ({}, None, None),
        ({}, "call", "call"),
        ({"auth_key": "default"}, None, "default"),
        ({"auth_key": "default", "auth_keys": {"other": "o"}}, None, "default"),
        ({"auth_key": "default", "auth_keys": {"s": "stream"}}, None, "stream"),
        ({"auth_keys": {"s": "stream"}}, None, "stream"),
        ({"auth_key": "default", "auth_keys": {"s": "stream"}}, "call", "call"),
    ],
)
def test_which_key(options: dict[str, Any], explicit: str | None, used: str | None) -> None:
    """A key per call wins over one per stream, and that over the default."""
    it = core(**options)
    key = AuthKey(explicit) if explicit else None
    single = it.put_event("s", "x", method="POST", auth_key=key)
    batch = it.put_events("s", ["x"], auth_key=key)
    assert auth(single.body) == (AuthKey(used).sign(b"x") if used else None)
    assert auth(batch.body) == (AuthKey(used).sign(b'["x"]') if used else None)


def test_options() -> None:
    """A client has these options and no others, whichever driver it is of."""
    assert CLIENT_OPTIONS == ("endpoint", "auth_key", "auth_keys", "request_timeout", "transport")


@pytest.mark.parametrize("stream", [None, [], {}, b"s"])
def test_bad_stream(stream: Any) -> None:
    """What is no stream is refused by that name, also if it cannot be looked up."""
    for put in (
        lambda: core().put_event(stream, 1, method="POST", auth_key=None),
        lambda: core().put_events(stream, [1], auth_key=None),
        lambda: core().put_event(stream, 1, method="POST", auth_key=AuthKey("k")),
    ):
        with pytest.raises(TypeError, match=f"stream must be a str, not {type(stream).__name__}"):
            put()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [(200, b"OK", None), (204, b"", None), (400, b"no data", "no data"), (503, b"", "status 503")],
)
def test_response(status: int, body: bytes, error: str | None) -> None:
    """The caller gets the answer as it is, with the server's words unless it is a 2xx."""
    reply = Reply(status=status, headers=(), body=body)
    assert core().response(reply) == Response(status, body, error)


def test_redirect() -> None:
    """A redirect is an answer that is no success."""
    reply = Reply(status=302, headers=(("location", "http://e/"),), body=b"")
    assert core().response(reply) == Response(302, b"", "redirected to http://e/")
