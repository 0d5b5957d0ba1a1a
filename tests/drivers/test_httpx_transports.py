"""The transports over httpx: what they keep of the contract of a transport."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
import trustme

from atom_anyio._httpx import HttpxTransport as AsyncHttpxTransport
from atom_sansio._errors import ConnectionFailed, ReplyError, RequestTimeout
from atom_sansio._messages import Origin
from atom_sync._httpx import HttpxTransport


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    """httpx obeys the environment by default; the tests' servers are not behind a proxy."""
    monkeypatch.setenv("NO_PROXY", "*")


def test_request_and_reply(driver, serve, make_request) -> None:
    """The request arrives as it is, asks for no compression, and connections are kept."""
    seen: list[bytes] = []

    def script(peer, _):
        while request := peer.read_request():
            seen.append(request)
            peer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbusy")

    server = serve(script)
    with driver.open("httpx") as transport:
        for _ in range(2):
            reply = transport.send(make_request(server, body=b"[1]"))
            assert (reply.status, reply.body) == (503, b"busy")
            assert reply.header("retry-after") == "3"
    assert server.connections == 1
    head, body = seen[0].split(b"\r\n\r\n")
    assert head.startswith(b"POST /bulk?secret HTTP/1.1\r\n")
    assert b"X-Test: 1" in head
    assert b"Accept-Encoding: identity" in head
    assert b"gzip" not in head
    assert body == b"[1]"


def test_redirect(driver, serve, make_request) -> None:
    """A redirect is an answer like any other; nothing is sent to where it points."""
    elsewhere = serve(lambda peer, _: peer.serve())
    location = b"http://127.0.0.1:%d/" % elsewhere.origin().port
    server = serve(
        lambda peer, _: peer.serve(b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % location)
    )
    with driver.open("httpx") as transport:
        reply = transport.send(make_request(server))
    assert reply.status == 307
    assert reply.header("location") == location.decode()
    assert elsewhere.connections == 0


def test_refused(driver, serve, make_request) -> None:
    """A failed connection names host and port, and keeps its cause."""
    with driver.open("httpx") as transport, pytest.raises(ConnectionFailed, match=r"^127\.0\.0\.1:1: ") as caught:
        transport.send(make_request(Origin("http", "127.0.0.1", 1)))
    assert caught.value.__cause__ is not None
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("timeout", [3e6, 1e10, 1e308])
def test_more_time_than_a_system_call_takes(driver, serve, make_request, timeout) -> None:
    """A time-out of months or ages is as good as none, not an overflow in the middle of a request."""
    server = serve(lambda peer, _: peer.serve())
    with driver.open("httpx") as transport:
        assert transport.send(make_request(server), timeout=timeout).status == 200


def test_impossible_name(driver, make_request) -> None:
    """A name that cannot even be asked for is a failed connection."""
    with driver.open("httpx") as transport, pytest.raises(ConnectionFailed):
        transport.send(make_request(Origin("http", "a" * 64 + ".test", 80)))


@pytest.mark.parametrize(
    "reply",
    [
        b"220 smtp.example\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
        b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537,
    ],
    ids=["garbage", "nothing", "cut short", "too large"],
)
def test_no_acceptable_reply(driver, serve, make_request, reply) -> None:
    """What is no whole reply, or too large a one, is an error that names the server and quotes nothing."""

    def script(peer, _):
        peer.read_request()
        peer.write(reply)
        peer.close()

    server = serve(script)
    with driver.open("httpx") as transport, pytest.raises(ReplyError, match=r"^127\.0\.0\.1:\d+ ") as caught:
        transport.send(make_request(server))
    assert "smtp" not in str(caught.value)


def test_silence(driver, serve, make_request) -> None:
    """No reply by the deadline is a timeout."""
    server = serve(lambda peer, _: peer.left())
    with driver.open("httpx") as transport, pytest.raises(RequestTimeout, match=r"^127\.0\.0\.1:\d+ "):
        transport.send(make_request(server), timeout=0.05)


def test_trickle(driver, serve, make_request) -> None:
    """A body that comes byte by byte does not get more time for it."""
    done = threading.Event()

    def script(peer, _):
        peer.read_request()
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while not done.wait(0.01):
            peer.write(b"x")

    server = serve(script)
    with driver.open("httpx") as transport, pytest.raises(RequestTimeout):
        transport.send(make_request(server), timeout=0.1)
    done.set()


def test_tls(driver, serve, make_request, trusting, server_context) -> None:
    """TLS is checked as the options say: a trusted certificate passes and another fails."""
    good = serve(lambda peer, _: peer.serve(), server_context())
    bad = serve(lambda peer, _: peer.serve(), server_context(issuer=trustme.CA()))
    with driver.open("httpx", verify=trusting) as transport:
        assert transport.send(make_request(good)).status == 200
        with pytest.raises(ConnectionFailed, match="certificate"):
            transport.send(make_request(bad))


def test_closed(driver, serve, make_request) -> None:
    """Requests fail once the transport is closed."""
    server = serve(lambda peer, _: peer.serve())
    with driver.open("httpx") as transport:
        transport.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            transport.send(make_request(server))
    assert server.connections == 0


def test_reset_after_fork(serve, make_request) -> None:
    """A reset goes on with a client of the same options, on connections of its own."""
    server = serve(lambda peer, _: peer.serve())
    transport = HttpxTransport(headers={"X-Option": "kept"})
    parents = transport._client
    for _ in range(2):
        assert transport.send(make_request(server), timeout=10).status == 200
    transport.reset_after_fork()
    assert not parents.is_closed
    assert transport.send(make_request(server), timeout=10).status == 200
    assert transport._client.headers["X-Option"] == "kept"
    assert server.connections == 2
    transport.close()
    parents.close()


@pytest.mark.parametrize("transport", [HttpxTransport, AsyncHttpxTransport])
class TestOptions:
    @pytest.mark.parametrize("options", [{"timeout": 3}, {"follow_redirects": True}, {"no_such_option": 1}])
    def test_refused(self, transport: Any, options: dict[str, Any]) -> None:
        """An option that httpx does not know, or that would do nothing, is refused by name."""
        with pytest.raises(TypeError, match=next(iter(options))):
            transport(**options)

    def test_without_httpx(self, transport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without httpx the error says what to install."""
        monkeypatch.setitem(sys.modules, "httpx", None)
        with pytest.raises(ImportError, match=r"pip install 'atom-events\[httpx\]'"):
            transport()
