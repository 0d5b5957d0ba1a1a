"""Both clients: what they send, what they give back, what they refuse."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import anyio.from_thread
import pytest

import atom_anyio
import atom_sync
from atom_sansio import (
    AuthKey,
    ConnectionFailed,
    EventError,
    EventTooLarge,
    Reply,
    ReplyError,
    Request,
    RequestTimeout,
    Response,
)

ENDPOINT = "http://collector.example/base"
CANARY = "canary-key-77aa"
OK = Response(200, b'{"Status":"OK"}', None)


class Client(Protocol):
    """Either client, called from ordinary code."""

    requests: list[Request]

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Response: ...


class SyncFace:
    def __init__(self, stack: ExitStack, answer: Any, **options: Any) -> None:
        transport = atom_sync.MemoryTransport(answer)
        self.client = stack.enter_context(atom_sync.Client(ENDPOINT, transport=transport, **options))
        self.requests = transport.requests

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.client, name)(*args, **kwargs)


class AsyncFace:
    def __init__(self, stack: ExitStack, answer: Any, backend: str, **options: Any) -> None:
        self._portal = stack.enter_context(anyio.from_thread.start_blocking_portal(backend))
        transport = atom_anyio.MemoryTransport(answer)
        self.client = atom_anyio.Client(ENDPOINT, transport=transport, **options)
        stack.enter_context(self._portal.wrap_async_context_manager(self.client))
        self.requests = transport.requests

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._portal.call(partial(getattr(self.client, name), *args, **kwargs))


@pytest.fixture(params=["threads", "asyncio", "trio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    """Makes a client whose server answers by a script."""
    with ExitStack() as stack:
        if request.param == "threads":
            yield lambda answer=None, **options: SyncFace(stack, answer, **options)
        else:
            yield lambda answer=None, **options: AsyncFace(stack, answer, backend=request.param, **options)


def envelope(request: Request) -> dict[str, Any]:
    if request.method == "POST":
        return json.loads(request.body)
    return json.loads(base64.b64decode(parse_qs(urlsplit(request.target).query)["data"][0]))


def batch_id(request: Request) -> str:
    return dict(request.headers)["Idempotency-Key"]


class TestRequests:
    @pytest.mark.parametrize(("method", "verb"), [("POST", "POST"), ("GET", "GET"), ("post", "POST"), ("get", "GET")])
    @pytest.mark.parametrize(
        ("event", "data"),
        [({"id": 1}, '{"id":1}'), ("as it is", "as it is"), ("caf\u00e9 +/=\u2713", "caf\u00e9 +/=\u2713")],
    )
    def test_put_event(self, connect: Any, method: str, verb: str, event: Any, data: str) -> None:
        """One event goes by POST, or in the query of a GET, and its text is what is signed."""
        client = connect(auth_key="k")
        assert client("put_event", "s", event, method=method) == OK
        [request] = client.requests
        assert request.method == verb
        assert request.target.startswith("/base/?data=" if verb == "GET" else "/base/")
        assert (request.body == b"") is (verb == "GET")
        assert envelope(request) == {"table": "s", "data": data, "auth": AuthKey("k").sign(data.encode())}

    def test_put_events(self, connect: Any) -> None:
        """A batch goes to /bulk, from any iterable; strings stay strings."""
        client = connect()
        assert client("put_events", "s", iter([{"id": 1}, '{"id": 2}'])) == OK
        [request] = client.requests
        assert (request.method, request.target) == ("POST", "/base/bulk")
        assert envelope(request) == {"table": "s", "data": '[{"id":1},"{\\"id\\": 2}"]', "bulk": True}

    def test_health(self, connect: Any) -> None:
        """``health`` asks and tells."""
        client = connect([200, 503])
        assert client("health") == OK
        assert client("health") == Response(503, b"", "status 503")
        assert [(request.method, request.target) for request in client.requests] == [("GET", "/base/health")] * 2

    def test_keys(self, connect: Any) -> None:
        """A call's key wins over a stream's, which wins over the client's."""
        client = connect(auth_key="default", auth_keys={"s": "stream's"})
        for arguments, key in [
            ({"stream": "t"}, "default"),
            ({"stream": "s"}, "stream's"),
            ({"stream": "s", "auth_key": "call's"}, "call's"),
            ({"stream": "t", "auth_key": AuthKey("call's")}, "call's"),
        ]:
            client("put_event", event="e", **arguments)
            client("put_events", events=["e"], **arguments)
            assert envelope(client.requests[-2])["auth"] == AuthKey(key).sign(b"e")
            assert envelope(client.requests[-1])["auth"] == AuthKey(key).sign(b'["e"]')

    def test_ids(self, connect: Any) -> None:
        """Each call has an id of its own, so that a collector tells repetition from intent."""
        client = connect()
        for _ in range(3):
            client("put_event", "s", 1)
            client("put_events", "s", [1])
        assert len({batch_id(request) for request in client.requests}) == 6


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "response"),
        [
            (204, Response(204, b'{"Status":"OK"}', None)),
            (Reply(status=401, headers=(), body=b'"wrong key"\n'), Response(401, b'"wrong key"\n', '"wrong key"')),
            (Reply(status=302, headers=(("location", "/x"),), body=b""), Response(302, b"", "redirected to /x")),
            (500, Response(500, b"", "status 500")),
            (ConnectionFailed("refused"), Response(None, b"", "refused")),
            (RequestTimeout("too late"), Response(None, b"", "too late")),
            (ReplyError("no HTTP"), Response(None, b"", "no HTTP")),
        ],
    )
    @pytest.mark.parametrize("call", [("put_event", "s", 1), ("put_events", "s", [1]), ("health",)])
    def test_once(self, connect: Any, answer: Any, response: Response, call: Any) -> None:
        """Whatever comes of a request is given back as it is; nothing is tried again."""
        client = connect([answer])
        assert client(*call) == response
        assert len(client.requests) == 1

    def test_stale_connection(self, connect: Any) -> None:
        """A connection that died idle is forgiven once: the very same request goes again."""
        stale = ConnectionFailed("gone", stale=True)
        client = connect([stale, 200, stale, stale, stale])
        assert client("put_event", "s", 1) == OK
        assert client("put_event", "s", 2) == Response(None, b"", "gone")
        assert len(client.requests) == 4
        assert client.requests[0] == client.requests[1] != client.requests[2] == client.requests[3]

    def test_timeout(self, connect: Any) -> None:
        """``request_timeout`` reaches the transport."""
        seen = []
        client = connect(request_timeout=7)
        transport = client.client._transport
        send = transport.send

        def spy(request: Request, *, timeout: float) -> Any:
            seen.append(timeout)
            return send(request, timeout=timeout)

        transport.send = spy
        client("health")
        assert seen == [7.0]


class TestBadArguments:
    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (("put_event", "", 1), ValueError, "stream"),
            (("put_event", None, 1), TypeError, "stream"),
            (("put_event", "s", float("nan")), EventError, "event"),
            (("put_event", "s", {"a": object()}), EventError, "a"),
            (("put_events", "s", []), ValueError, "events"),
            (("put_events", "s", "text"), TypeError, "events"),
            (("put_events", "s", {"a": 1}), TypeError, "events"),
            (("put_events", "s", 1), TypeError, "events"),
            (("put_events", "s", [1, {2}]), EventError, r"events\[1\]"),
        ],
    )
    def test_refused(self, connect: Any, call: Any, error: type[Exception], words: str) -> None:
        """What is wrong is named, and nothing is sent."""
        client = connect()
        with pytest.raises(error, match=words):
            client(*call)
        assert client.requests == []

    def test_method(self, connect: Any) -> None:
        """A method is GET or POST, and a GET is not longer than servers take."""
        client = connect()
        with pytest.raises(ValueError, match="GET or POST"):
            client("put_event", "s", 1, method="PUT")
        with pytest.raises(TypeError, match="GET or POST"):
            client("put_event", "s", 1, method=None)
        with pytest.raises(EventTooLarge, match="use POST"):
            client("put_event", "s", "x" * 8000, method="GET")
        assert client.requests == []

    @pytest.mark.parametrize("key", ["", 5, "\ud800"])
    def test_key(self, connect: Any, key: Any) -> None:
        """A key that is none is refused."""
        client = connect()
        for call in (("put_event", "s", 1), ("put_events", "s", [1])):
            with pytest.raises((TypeError, ValueError), match="auth_key"):
                client(*call, auth_key=key)
        assert client.requests == []

    @pytest.mark.parametrize("make", [atom_sync.Client, atom_anyio.Client])
    def test_options(self, make: Any) -> None:
        """Options are checked when the client is made."""
        for options, error, words in [
            ({"endpoint": "ftp://x"}, ValueError, "http"),
            ({"endpoint": ENDPOINT, "request_timeout": 0}, ValueError, "request_timeout"),
            ({"endpoint": ENDPOINT, "no_such": 1}, TypeError, "no_such"),
            ({}, ValueError, "ATOM_ENDPOINT"),
        ]:
            with pytest.raises(error, match=words):
                make(**options)


def test_keys_do_not_show(connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No key is in a repr, an error, a URL, a body or a log, and a client cannot be pickled."""
    client = connect([500, ConnectionFailed("gone")], auth_key=CANARY, auth_keys={"s": CANARY})
    shown = [repr(client("put_event", "s", 1, method=method, auth_key=CANARY)) for method in ("GET", "POST")]
    shown += [repr(client.client), repr(client.client._options), repr(client.requests), caplog.text]
    shown += [repr(envelope(request)) for request in client.requests]
    shown += [request.url for request in client.requests]
    assert CANARY not in "".join(shown)
    with pytest.raises(TypeError):
        pickle.dumps(client.client)


def test_default_transport(serve: Any) -> None:
    """Without a transport of the user's, requests go over a connection that is kept."""
    server = serve(lambda peer, _: peer.serve())
    url = f"http://127.0.0.1:{server.origin().port}"
    with atom_sync.Client(url) as client:
        assert [client.health() for _ in range(2)] == [OK] * 2

    async def main() -> None:
        async with atom_anyio.Client(url) as client:
            assert [await client.health() for _ in range(2)] == [OK] * 2

    anyio.run(main)
    assert server.connections == 2
