"""The client's side of HTTP/1.1: whatever a peer sends, and however it is cut, one clear outcome."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio._errors import ConnectionFailed, LocalError, RemoteError, ReplyError
from atom_sansio._http import MAX_BODY, MAX_HEAD, MAX_REPLY, HttpConnection
from atom_sansio._messages import Origin, Reply, Request

ORIGIN = Origin("http", "collector.example", 3000)
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\nServer: Test\r\n\r\n{"Status":"OK"}'


def make_request(**changes: object) -> Request:
    fields = {"method": "POST", "origin": ORIGIN, "target": "/bulk", "headers": (), "body": b"{}"} | changes
    return Request(**fields)  # type: ignore[arg-type]  # tests pass what fits


def asked(**changes: object) -> HttpConnection:
    """A connection that awaits the reply to a request."""
    connection = HttpConnection(ORIGIN)
    connection.send(make_request(**changes))
    return connection


def feed(connection: HttpConnection, pieces: Iterable[bytes]) -> Reply | RemoteError | None:
    """What becomes of a reply that comes in *pieces*; None when more is needed."""
    try:
        for piece in pieces:
            connection.receive_data(piece)
            if (reply := connection.next_reply()) is not None:
                return reply
    except RemoteError as exc:
        return exc
    return None


def kind(outcome: object) -> object:
    """What two outcomes must have in common to count as the same."""
    return outcome if isinstance(outcome, Reply) else type(outcome)


def chunked(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


GOOD = {
    "measured": (OK, Reply(status=200, headers=(("content-length", "15"), ("server", "Test")), body=OK[-15:])),
    "empty": (
        b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
        Reply(status=503, headers=(("retry-after", "3"), ("content-length", "0")), body=b""),
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", Reply(status=204, headers=(), body=b"")),
    "no reason": (
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        Reply(status=200, headers=(("content-length", "2"),), body=b"ok"),
    ),
    "bare line feeds": (
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        Reply(status=200, headers=(("content-length", "2"),), body=b"ok"),
    ),
    "latin-1 header": (
        b"HTTP/1.1 200 OK\r\nX: caf\xe9\r\nContent-Length: 0\r\n\r\n",
        Reply(status=200, headers=(("x", "caf\xe9"), ("content-length", "0")), body=b""),
    ),
    "chunked": (
        chunked(b"abc", b"defg", extension=b";x=y", trailer=b"T: v\r\n"),
        Reply(status=200, headers=(("transfer-encoding", "chunked"),), body=b"abcdefg"),
    ),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        Reply(status=200, headers=(("content-length", "15"), ("server", "Test")), body=OK[-15:]),
    ),
    "1.0, measured": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Reply(status=200, headers=(("content-length", "2"),), body=b"ok"),
    ),
}

UNTIL_CLOSE = {
    "1.0": b"HTTP/1.0 200 OK\r\n\r\nall of it",
    "1.1": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it",
}

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "text": b"220 smtp.example ready\r\n\r\n",
    "HTTP/0.9": b"<html><p>hello</html>",
    "numbered 0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "1 without a dot": b"HTTP/1 200",
    "blank line first": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status in words": b"HTTP/1.1 two OK\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "header without a colon": b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\nok",
    "folded first header": b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "coding that is not chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "chunk size in words": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ntwo\r\nok\r\n0\r\n\r\n",
    "negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
    "endless chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 99 + b"\r\nok",
    "chunk longer than its size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok!\r\n0\r\n\r\n",
    "switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
}


class TestRequests:
    def test_the_bytes_of_a_post(self) -> None:
        """A request is written in one piece, with Host and Content-Length added to its own headers."""
        request = make_request(headers=(("Content-Type", "application/json"), ("Idempotency-Key", "7")), body=b"[1]")
        assert HttpConnection(ORIGIN).send(request) == (
            b"POST /bulk HTTP/1.1\r\nHost: collector.example:3000\r\n"
            b"Content-Type: application/json\r\nIdempotency-Key: 7\r\nContent-Length: 3\r\n\r\n[1]"
        )

    @pytest.mark.parametrize(("method", "length"), [("GET", False), ("POST", True)])
    def test_length_of_no_body(self, method: str, length: bool) -> None:
        """A GET without a body does not mention one; a POST says that it is empty."""
        data = HttpConnection(ORIGIN).send(make_request(method=method, body=b""))
        assert data.endswith(b"\r\n\r\n")
        assert (b"Content-Length: 0\r\n" in data) is length
        data = HttpConnection(ORIGIN).send(make_request(method=method, body=b"x"))
        assert data.endswith(b"\r\nContent-Length: 1\r\n\r\nx")

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            (Origin("https", "collector.example", 443), b"collector.example"),
            (Origin("http", "::1", 3000), b"[::1]:3000"),
        ],
    )
    def test_host(self, origin: Origin, host: bytes) -> None:
        """Host names the origin, without a default port and with brackets around IPv6."""
        assert b"\r\nHost: %b\r\n" % host in HttpConnection(origin).send(make_request(origin=origin))

    @pytest.mark.parametrize(
        "changes",
        [
            {"target": "/"},
            {"target": "/!~?data=%20#"},
            {"headers": (("!#$%&'*+.^_`|~0-9A-Za-z", "!  two words ~"), ("Y", "z"))},
        ],
    )
    def test_possible_requests(self, changes: dict[str, Any]) -> None:
        """Any target of visible ASCII, any token as a header's name and any words as its value are sent as they are."""
        data = HttpConnection(ORIGIN).send(make_request(**changes))
        sent = changes.get("headers", ())
        assert all(f"\r\n{name}: {value}\r\n".encode() in data for name, value in sent)
        assert data.startswith(f"POST {changes.get('target', '/bulk')} HTTP/1.1\r\n".encode())

    @pytest.mark.parametrize(
        "changes",
        [
            {"method": "PO ST"},
            {"method": ""},
            {"headers": (("", "secret"),)},
            {"headers": (("X", "secret "),)},
            {"headers": (("X", " secret"),)},
            {"headers": (("X", ""),)},
            {"target": "/secret payload"},
            {"headers": (("X", "secret\r\nInjected: yes"),)},
            {"headers": (("X", "secret \u2713"),)},
            {"headers": (("X:", "secret"),)},
            {"origin": Origin("http", "secret.example", 3000)},
        ],
    )
    def test_refused_requests(self, changes: dict[str, object]) -> None:
        """What cannot be written is a ValueError that quotes none of it, and the connection is as it was."""
        connection = HttpConnection(ORIGIN)
        with pytest.raises(ValueError, match=r"request|ascii") as caught:
            connection.send(make_request(**changes))
        assert "secret" not in str(caught.value)
        assert connection.reusable
        assert connection.send(make_request())

    def test_one_at_a_time(self) -> None:
        """A request is refused until the reply to the last is in, and a reply is refused before a request."""
        connection = HttpConnection(ORIGIN)
        with pytest.raises(LocalError):
            connection.next_reply()
        connection.send(make_request())
        with pytest.raises(LocalError):
            connection.send(make_request())
        assert isinstance(feed(connection, [OK]), Reply)
        with pytest.raises(LocalError):
            connection.next_reply()


class TestReplies:
    @pytest.mark.parametrize("name", GOOD)
    def test_good(self, name: str) -> None:
        """Each form of a reply is understood."""
        data, reply = GOOD[name]
        assert feed(asked(), [data]) == reply

    @pytest.mark.parametrize("name", UNTIL_CLOSE)
    def test_until_close(self, name: str) -> None:
        """A body without a length ends with the connection, which is of no use afterwards."""
        connection = asked()
        assert feed(connection, [UNTIL_CLOSE[name]]) is None
        reply = feed(connection, [b""])
        assert isinstance(reply, Reply)
        assert reply.body == b"all of it"
        assert not connection.reusable

    @pytest.mark.parametrize("name", MALFORMED)
    def test_malformed(self, name: str) -> None:
        """What is no HTTP/1.1 reply is a ReplyError, and nothing else can be done with the connection."""
        connection = asked()
        assert isinstance(feed(connection, [MALFORMED[name], b""]), ReplyError)
        assert not connection.reusable
        with pytest.raises(LocalError):
            connection.next_reply()

    @pytest.mark.parametrize("name", GOOD)
    def test_cut_anywhere(self, name: str) -> None:
        """A reply whose connection ends early at any byte is a broken connection, never a shorter reply."""
        data, _ = GOOD[name]
        for end in range(len(data)):
            assert isinstance(feed(asked(), [data[:end], b""] if end else [b""]), ConnectionFailed), end

    @pytest.mark.parametrize("name", UNTIL_CLOSE)
    def test_unmeasured_head_cut_anywhere(self, name: str) -> None:
        """Of a body without a length only a cut in the head can be seen."""
        data = UNTIL_CLOSE[name]
        body_at = data.index(b"\r\n\r\n") + 4
        for end in range(1, len(data)):
            outcome = feed(asked(), [data[:end], b""])
            assert isinstance(outcome, ConnectionFailed if end < body_at else Reply), end

    @pytest.mark.parametrize("data", [*(data for data, _ in GOOD.values()), *UNTIL_CLOSE.values(), *MALFORMED.values()])
    def test_split_anywhere(self, data: bytes) -> None:
        """In how many pieces a reply comes makes no difference."""
        whole = kind(feed(asked(), [data, b""]))
        assert kind(feed(asked(), [*(data[i : i + 1] for i in range(len(data))), b""])) == whole
        for at in range(1, len(data)):
            assert kind(feed(asked(), [data[:at], data[at:], b""])) == whole, at

    def test_end_before_it_is_read(self) -> None:
        """An end of the stream that is known before the reply is looked at does not hide the reply."""
        connection = asked()
        connection.receive_data(OK)
        connection.receive_data(b"")
        assert connection.next_reply() == GOOD["measured"][1]
        assert not connection.reusable

    def test_errors_are_brief(self) -> None:
        """An error shows a short printable piece of the reply at most, and chains nothing that shows more."""
        secret = b"A" * 200 + b"secret"
        start = "collector.example:3000 sent no valid HTTP reply: "
        for head, length in ((b"HTTP/1.1 2\0\n%b\r\n\r\n", 49), (b"HTTP/1.1 200 OK\r\n\x7f%b\r\n\r\n", 80)):
            error = feed(asked(), [head % secret])
            assert isinstance(error, ReplyError)
            assert "secret" not in str(error)
            assert str(error).isprintable()
            assert str(error).startswith(start)
            assert len(str(error)) == len(start) + length
            assert error.__cause__ is None
            assert error.__suppress_context__


class TestLimits:
    @staticmethod
    def head(size: int) -> bytes:
        start, end = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ", b"\r\n\r\n"
        return start + b"x" * (size - len(start) - len(end)) + end

    @staticmethod
    def pieces(data: bytes) -> list[bytes]:
        return [data[i : i + 4093] for i in range(0, len(data), 4093)]

    def test_they_are_as_documented(self) -> None:
        """64 KiB of head, 64 KiB of body, and four times as much with all that surrounds it."""
        assert (MAX_HEAD, MAX_BODY, MAX_REPLY) == (65_536, 65_536, 262_144)

    def test_head(self) -> None:
        """A head may have 64 KiB and not a byte more, in one piece or many."""
        good, bad = self.head(MAX_HEAD), self.head(MAX_HEAD + 1)
        assert isinstance(feed(asked(), [good]), Reply)
        assert isinstance(feed(asked(), self.pieces(good)), Reply)
        assert isinstance(feed(asked(), [bad]), ReplyError)
        assert isinstance(feed(asked(), self.pieces(bad)), ReplyError)

    def test_head_beside_its_body(self) -> None:
        """The body that comes along with a head does not count as head."""
        body = b"x" * MAX_BODY
        assert isinstance(feed(asked(), [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]), Reply)

    def test_endless_head(self) -> None:
        """A head that never ends is given up at 64 KiB."""
        connection = asked()
        for _ in range(MAX_HEAD // 1024):
            connection.receive_data(b"HTTP/1.1 200 OK\r\nX: ".ljust(1024, b"x"))
            assert connection.next_reply() is None
        connection.receive_data(b"x")
        with pytest.raises(ReplyError):
            connection.next_reply()

    def test_flood_of_interim_replies(self) -> None:
        """Interim replies count as head all together."""
        interim = b"HTTP/1.1 102 Processing\r\n\r\n"
        few, many = MAX_HEAD // len(interim) - 10, MAX_HEAD // len(interim) + 1
        assert isinstance(feed(asked(), [interim] * few + [OK]), Reply)
        assert isinstance(feed(asked(), [interim] * many), ReplyError)
        assert isinstance(feed(asked(), [interim * many + OK]), ReplyError)

    @pytest.mark.parametrize(
        "start", [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", b"HTTP/1.0 200 OK\r\nX: %d\r\n\r\n"]
    )
    def test_body(self, start: bytes) -> None:
        """A body may have 64 KiB and not a byte more, in one piece or many."""
        good = start % MAX_BODY + b"x" * MAX_BODY
        bad = start % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1)
        assert isinstance(feed(asked(), [good, b""]), Reply)
        assert isinstance(feed(asked(), [*self.pieces(good), b""]), Reply)
        assert isinstance(feed(asked(), [bad, b""]), ReplyError)
        assert isinstance(feed(asked(), [*self.pieces(bad), b""]), ReplyError)

    def test_chunked_body(self) -> None:
        """The same holds for the sum of chunks."""
        half = b"x" * (MAX_BODY // 2)
        assert isinstance(feed(asked(), self.pieces(chunked(half, half))), Reply)
        assert isinstance(feed(asked(), self.pieces(chunked(half, half, b"x"))), ReplyError)

    @pytest.mark.parametrize(
        "data",
        [
            chunked(*[b"x"] * 400, extension=b";" + b"e" * 1000),
            chunked(b"x", extension=b";" + b"e" * MAX_REPLY),
            chunked(trailer=b"T: " + b"t" * MAX_REPLY + b"\r\n"),
        ],
        ids=["extensions", "one extension", "trailer"],
    )
    def test_framing(self, data: bytes) -> None:
        """What surrounds a small body is bounded too, in one piece or many."""
        assert isinstance(feed(asked(), [data]), ReplyError)
        assert isinstance(feed(asked(), self.pieces(data)), ReplyError)


class TestReuse:
    def test_keep_alive(self) -> None:
        """One connection serves exchange after exchange."""
        connection = HttpConnection(ORIGIN)
        names = ("measured", "chunked", "no content", "interim", "empty", "measured")
        replies = []
        for name in names:
            assert connection.reusable
            connection.send(make_request())
            assert not connection.reusable
            replies.append(feed(connection, [GOOD[name][0]]))
        assert connection.reusable
        assert replies == [GOOD[name][1] for name in names], "a reply stays as it is"

    @pytest.mark.parametrize(
        "data",
        [
            OK + b"x",
            OK + OK,
            OK.replace(b"Server: Test", b"Connection: close"),
            GOOD["1.0, measured"][0],
            GOOD["chunked"][0] + b"\r\n",
        ],
        ids=["surplus byte", "surplus reply", "close", "1.0", "surplus line"],
    )
    def test_not_reusable(self, data: bytes) -> None:
        """A connection is not used again when the peer says so, or says more than it was asked."""
        connection = asked()
        assert isinstance(feed(connection, [data]), Reply)
        assert not connection.reusable
        with pytest.raises(LocalError):
            connection.send(make_request())

    @pytest.mark.parametrize("data", [b"", b"HTTP/1.1 408 Timeout\r\n\r\n"])
    def test_spoilt_while_idle(self, data: bytes) -> None:
        """Nor is it after anything has come in between, be it the end, or before the first request."""
        connection = HttpConnection(ORIGIN)
        connection.receive_data(data)
        assert not connection.reusable
        connection = asked()
        assert isinstance(feed(connection, [OK]), Reply)
        connection.receive_data(data)
        assert not connection.reusable

    def test_stale(self) -> None:
        """A break is stale only on a connection that has served before, and before a byte of this reply."""
        connection = HttpConnection(ORIGIN)
        assert not connection.stale
        connection.send(make_request())
        assert not connection.stale
        feed(connection, [OK])
        connection.send(make_request())
        assert connection.stale
        error = feed(connection, [b""])
        assert isinstance(error, ConnectionFailed)
        assert error.stale

    def test_not_stale(self) -> None:
        """A connection that breaks at its first reply, or within one, was not dead before."""
        error = feed(asked(), [b""])
        assert isinstance(error, ConnectionFailed)
        assert not error.stale
        for cut in (1, len(OK) - 1):
            connection = asked()
            feed(connection, [OK])
            connection.send(make_request())
            error = feed(connection, [OK[:cut], b""])
            assert isinstance(error, ConnectionFailed)
            assert not error.stale


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A reply with some bytes replaced, removed or added."""
    data = draw(st.sampled_from([data for data, _ in GOOD.values()] + [*UNTIL_CLOSE.values(), *MALFORMED.values()]))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.binary(max_size=3) | st.sampled_from([b"\r\n", b"HTTP/1.1 ", b"0"]))
        data = data[:at] + new + data[at + draw(st.integers(0, 3)) :]
    return data


@given(data=mutations() | st.binary(max_size=300), cuts=st.lists(st.integers(1, 300), max_size=8))
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    """Any bytes, cut in any way, come to the same outcome: a bounded reply or a RemoteError, never silence."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    outcome = feed(asked(), [*pieces, b""])
    assert kind(outcome) == kind(feed(asked(), [data, b""] if data else [b""]))
    assert isinstance(outcome, (Reply, RemoteError))
    if isinstance(outcome, Reply):
        assert 200 <= outcome.status <= 999
        assert all(name == name.lower() for name, _ in outcome.headers)
