"""Servers that answer what they should not, too much, too slowly or not at all, on real sockets.

Whatever a server does, the client ends each attempt in bounded time and memory, and the batch is either settled or
sent again: the identical bytes, on another connection.  With the first good answer all is delivered.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from random import Random
from typing import Any, Final, TypeAlias

import pytest
import trustme
from interrupted_programs import PATIENCE, wait_until
from scripted_servers import Peer, Server
from trackers import DRIVERS, open_tracker, when_asked_for

import atom_anyio
import atom_sync
from atom_sansio import Loss, LossReason, RetryPolicy

AT_ONCE: Final = RetryPolicy(base=1e-6, cap=1e-6)
FOR_EVER: Final = 10 * PATIENCE
"""A request's time where nothing may depend on it."""
SOON: Final = 0.25
"""A request's time where it has to run out."""
KEY: Final = "canary-5ecret"

pytestmark = when_asked_for

Act: TypeAlias = Callable[[Peer], object]


class Misbehaving:
    """Does *act* in place of the first answer; all others are good ones."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.seen: list[tuple[int, bytes]] = []
        """Number of the connection, and request."""
        self.left = threading.Event()
        """The client has closed the connection of the first request."""

    def script(self, peer: Peer, number: int) -> None:
        try:
            while request := peer.read_request():
                self.seen.append((number, request))
                if len(self.seen) > 1:
                    peer.write(peer.OK)
                else:
                    self._act(peer)
        finally:
            if number == 0:
                self.left.set()


@contextmanager
def misbehaving(act: Act) -> Iterator[tuple[str, Misbehaving]]:
    server = Misbehaving(act)
    with Server(server.script) as running:
        yield f"http://{running.origin().authority}/", server


def says(*pieces: bytes) -> Act:
    """Write *pieces*, and wait for what the client does."""

    def act(peer: Peer) -> None:
        for piece in pieces:
            peer.write(piece)

    return act


def says_and_closes(reply: bytes) -> Act:
    def act(peer: Peer) -> None:
        peer.write(reply)
        peer.close()

    return act


def never_ends(start: bytes, piece: bytes) -> Act:
    def act(peer: Peer) -> None:
        peer.write(start)
        while True:  # until the client closes
            peer.write(piece)

    return act


def trickles(start: bytes, piece: bytes) -> Act:
    """Have one more byte, again and again, each well in time."""

    def act(peer: Peer) -> None:
        peer.write(start)
        while True:
            for byte in piece:
                peer.write(bytes([byte]))
                time.sleep(SOON / 20)

    return act


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(100 << 20), 9)  # 100 KB that are 100 MB
SMALL_BOMB = gzip.compress(bytes(40 << 20), 9)
assert len(SMALL_BOMB) < 64 * 1024 < len(BOMB)


def with_body(status: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


BAD: Final[dict[str, Act]] = {
    # What is known to be wrong as soon as it is there, though the server waits with the connection open.
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "HTTP/2.0": says(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "HTTP/0.9 by name": says(b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "a status of two digits": says(b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    "a status of four digits": says(b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    "a status of letters": says(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
    "101 unasked": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
    "a header without a colon": says(HEAD + b"no header\r\n\r\n"),
    "a space before the colon": says(HEAD + b"Content-Length : 0\r\n\r\n"),
    "NUL in a header": says(HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"),
    "two lengths": says(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a list of lengths": says(HEAD + b"Content-Length: 1, 2\r\n\r\nab"),
    "a negative length": says(HEAD + b"Content-Length: -1\r\n\r\n"),
    "a length with a sign": says(HEAD + b"Content-Length: +2\r\n\r\nab"),
    "a hexadecimal length": says(HEAD + b"Content-Length: 0x2\r\n\r\nab"),
    "a chunk size that is none": says(CHUNKED + b"zz\r\n"),
    "a negative chunk size": says(CHUNKED + b"-1\r\n"),
    "a chunk size without end": says(CHUNKED + b"f" * 30 + b"\r\n"),
    "a chunk longer than its size": says(CHUNKED + b"1\r\nabcdef\r\n0\r\n\r\n"),
    "a transfer coding that is unknown": says(HEAD + b"Transfer-Encoding: gzip\r\n\r\n"),
    # What is too much.
    "a body over the limit": says(with_body(b"200 OK", bytes(64 * 1024 + 1))),
    "a compressed body over the limit": says(with_body(b"200 OK", BOMB, b"Content-Encoding: gzip")),
    "1xx without end": never_ends(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "102 with headers without end": never_ends(b"", b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n" * 100),
    "a status line without end": never_ends(b"HTTP/1.1 200 ", b"x" * 4096),
    "a header line without end": never_ends(HEAD + b"X: ", b"x" * 4096),
    "headers without end": never_ends(HEAD, b"X: y\r\n" * 1000),
    "empty lines without end": never_ends(b"", b"\r\n" * 1000),
    "a body without end": never_ends(HEAD + b"\r\n", bytes(4096)),
    "chunks without end": never_ends(CHUNKED, b"1\r\nx\r\n" * 1000),
    "a chunk's extension without end": never_ends(CHUNKED + b"1;", b"x" * 4096),
    "trailers without end": never_ends(CHUNKED + b"0\r\n", b"X: y\r\n" * 1000),
    "random bytes without end": never_ends(b"", Random(1).randbytes(65536)),
    # What the end of the connection cuts off, or gives a meaning.
    "half a status line": says_and_closes(b"HTTP/1.1 2"),
    "half a head": says_and_closes(HEAD + b"Content-Le"),
    "half a body": says_and_closes(HEAD + b"Content-Length: 10\r\n\r\nhalf"),
    "half a chunk": says_and_closes(CHUNKED + b"5\r\nhe"),
    "no last chunk": says_and_closes(CHUNKED + b"5\r\nhello\r\n"),
    "only an interim reply": says_and_closes(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "HTTP/0.9": says_and_closes(b"<html>it works</html>\n"),
    "TLS": says_and_closes(b"\x15\x03\x01\x00\x02\x02\x46"),
    "HTTP/2": says_and_closes(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
    "NULs": says_and_closes(bytes(1000)),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("driver", DRIVERS)
def test_no_answer(driver: str, name: str) -> None:
    """What is no HTTP reply, or too large a one, is retried at once: the same bytes, on another connection."""
    with misbehaving(BAD[name]) as (url, server):
        losses: list[Loss] = []
        options = {"auth_key": KEY, "retry": AT_ONCE, "request_timeout": FOR_EVER, "on_loss": losses.append}
        with open_tracker(driver, url, **options) as tracker:
            tracker.track("s", 1)
            assert tracker.flush(PATIENCE / 2)
            assert server.left.wait(PATIENCE)
            tracker.track("s", 2)
            assert tracker.flush(PATIENCE / 2)
            statistics = tracker.statistics()
    (first, bad), (second, again), (third, other) = server.seen
    assert bad == again != other
    assert (first, second, third) == (0, 1, 1)
    assert (statistics.accepted, statistics.delivered, statistics.failures) == (2, 2, 1)
    assert losses == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_memory(driver: str) -> None:
    """None of these takes more than some hundred KB, however much the server says."""
    names = [name for name in BAD if "without end" in name or "limit" in name]
    test_no_answer(driver, names[0])  # what is imported and kept
    tracemalloc.start()
    try:
        for name in names:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            test_no_answer(driver, name)
            peak = tracemalloc.get_traced_memory()[1] - before
            print(f"{peak / 1024:.0f} KiB for {name}")
            assert peak < 2 << 20
    finally:
        tracemalloc.stop()


GOOD: Final = with_body(b"200 OK", b"{}")
ODD: Final[dict[str, tuple[Act, bool]]] = {
    "interim replies": (says(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 103 Early Hints\r\n\r\n", GOOD), True),
    "no body": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), True),
    "an error in the body": (says(with_body(b"200 OK", b'{"Status": "error", "failed": [0]}')), True),
    "several answers in one": (says(with_body(b"207 Multi-Status", b'[{"status": 500}]')), True),
    "a compressed body": (says(with_body(b"200 OK", SMALL_BOMB, b"Content-Encoding: gzip")), True),
    "a body up to the limit": (says(with_body(b"200 OK", bytes(64 * 1024))), True),
    "a body to the end of the connection": (says_and_closes(HEAD + b"\r\nok"), False),
    "HTTP/1.0": (says(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), False),
    "more than its length": (says(with_body(b"200 OK", b"{}") + b"surplus"), False),
    "a second reply": (says(with_body(b"200 OK", b"{}") + with_body(b"400 Bad Request", b"no")), False),
    "a body where there is none": (says(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody"), False),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("driver", DRIVERS)
def test_odd_answer(driver: str, name: str) -> None:
    """A 2xx is a delivery, whatever comes with it; a connection on which more comes is not used again.

    The protocol has no answer for a part of a batch, so what the body says about that changes nothing.
    """
    act, reused = ODD[name]
    with (
        misbehaving(act) as (url, server),
        open_tracker(driver, url, retry=AT_ONCE, request_timeout=FOR_EVER) as tracker,
    ):
        for n in range(2):
            tracker.track("s", n)
            assert tracker.flush(PATIENCE / 2)
        statistics = tracker.statistics()
    assert (statistics.accepted, statistics.delivered, statistics.failures) == (2, 2, 0)
    assert [number for number, _ in server.seen] == [0, 0 if reused else 1]


@pytest.mark.parametrize("driver", DRIVERS)
def test_flipped_bits(driver: str) -> None:
    """Whatever bit of its replies is flipped, an event is delivered, refused or sent again, and the books balance."""
    reply = with_body(b"200 OK", b'{"Status":"OK"}', b"Content-Type: application/json")
    flips = [(byte, 1 << bit) for byte in range(len(reply)) for bit in range(8) if (byte + bit) % 2]
    left = iter(flips)
    answered: set[bytes] = set()

    def script(peer: Peer, number: int) -> None:
        while request := peer.read_request():
            answer = bytearray(reply)
            if request not in answered and (flip := next(left, None)) is not None:
                answered.add(request)
                answer[flip[0]] ^= flip[1]
                peer.write(bytes(answer))
                peer.socket.shutdown(socket.SHUT_WR)
                peer.left()
                return
            peer.write(bytes(answer))

    losses: list[Loss] = []
    with Server(script) as server:
        url = f"http://{server.origin().authority}/"
        with open_tracker(
            driver, url, retry=AT_ONCE, request_timeout=FOR_EVER, on_loss=losses.append, max_batch_events=1
        ) as tracker:
            for n in range(len(flips)):
                tracker.track("s", n)
                assert tracker.flush(PATIENCE / 2).pending == 0
            statistics = tracker.statistics()
    print(f"{len(flips)} flips, {statistics.failures} retried, {statistics.lost} lost")
    lost = sum(statistics.lost.values())
    assert statistics.accepted == len(flips) == statistics.delivered + lost
    assert statistics.failures > len(flips) / 10
    assert set(statistics.lost) == {LossReason.REDIRECTED}  # 200 is one bit away from 300
    assert sum(loss.count for loss in losses) == lost


SLOW: Final[dict[str, Act]] = {
    "silence": says(),
    "silence in the status line": says(b"HTTP/1.1 2"),
    "silence in the head": says(HEAD + b"X: "),
    "silence in the body": says(HEAD + b"Content-Length: 2\r\n\r\n{"),
    "a status line byte by byte": trickles(b"HTTP/1.1 200 ", b"x"),
    "headers byte by byte": trickles(HEAD, b"X: y\r\n"),
    "a body byte by byte": trickles(HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
    "chunks byte by byte": trickles(CHUNKED, b"1\r\nx\r\n"),
    "interim replies byte by byte": trickles(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("driver", DRIVERS)
def test_slow_answer(driver: str, name: str) -> None:
    """A request's time is for all of it: that there is always one more byte in time gains none."""
    with (
        misbehaving(SLOW[name]) as (url, server),
        open_tracker(driver, url, retry=AT_ONCE, request_timeout=SOON) as tracker,
    ):
        tracker.track("s", 1)
        begun = time.monotonic()
        assert tracker.flush(PATIENCE / 2)
        took = time.monotonic() - begun
        assert server.left.wait(PATIENCE)
        statistics = tracker.statistics()
    (first, bad), (second, again), *_ = server.seen
    assert SOON <= took < SOON + 5.0  # of a busy machine
    assert bad == again
    assert first != second
    assert statistics.delivered == 1
    assert statistics.failures >= 1  # more where a busy machine took its time, too


@pytest.mark.parametrize("driver", DRIVERS)
def test_stalled_write(driver: str) -> None:
    """A server that does not read is given up too, in the midst of the request; the next one gets all of it."""
    event = "x" * 500_000
    received: list[int] = []
    whole: list[bytes] = []

    def script(peer: Peer, number: int) -> None:
        if number == 0:
            assert given_up.wait(PATIENCE)
            received.append(sum(map(len, iter(lambda: peer.socket.recv(65536), b""))))
        while request := peer.read_request():
            whole.append(request)
            peer.write(peer.OK)
            given_up.set()

    given_up = threading.Event()
    with Server(script, narrow=True) as server:
        url = f"http://{server.origin().authority}/"
        with open_tracker(driver, url, retry=AT_ONCE, request_timeout=1.0, max_batch_bytes=512 * 1024) as tracker:
            tracker.track("s", event)
            assert tracker.flush(PATIENCE / 2)
            statistics = tracker.statistics()
        wait_until(lambda: received, "what was sent of the first request is read")
    assert received[0] < len(event)
    assert len(whole[0]) > len(event)
    assert (statistics.delivered, statistics.lost) == (1, {})
    assert statistics.failures >= 1


@pytest.mark.parametrize("driver", DRIVERS)
def test_hanging_requests(driver: str) -> None:
    """However many streams there are, a hanging server has max_in_flight connections at most, of as many threads."""
    lock = threading.Lock()
    open_now = most = 0
    answers = threading.Event()
    threads: set[int] = set()

    def script(peer: Peer, number: int) -> None:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        threads.add(sum(thread.name == "atom-sender" for thread in threading.enumerate()))
        while peer.read_request():
            if not answers.is_set():
                peer.left()
                break
            peer.write(peer.OK)
        with lock:
            open_now -= 1

    with Server(script) as server:
        url = f"http://{server.origin().authority}/"
        with open_tracker(driver, url, retry=AT_ONCE, request_timeout=SOON, max_in_flight=3) as tracker:
            for n in range(50):
                tracker.track(f"s{n}", n)
            tracker.flush(2 * SOON)
            before = tracker.statistics()
            answers.set()
            assert tracker.flush(PATIENCE / 2)
            statistics = tracker.statistics()
    print(f"{server.connections} connections, {most} at once; {before}")
    assert most <= 6  # some may not have been seen off when the next one comes
    assert max(threads) <= 3
    assert before.in_flight <= 3
    assert (before.delivered, statistics.delivered, statistics.lost) == (0, 50, {})


BUSY: Final = [408, 425, 429, 500, 502, 503, 504, 599, 600, 999]
ASKS: Final[dict[str, Callable[[], str]]] = {
    "seconds": lambda: "1",
    "none": lambda: "0",
    "a date": lambda: formatdate(time.time() + 2, usegmt=True),  # without fractions: one second at least
    "a date of long ago": lambda: "Sun, 06 Nov 1994 08:49:37 GMT",
    "an obsolete date of long ago": lambda: "Sunday, 06-Nov-94 08:49:37 GMT",
    "negative": lambda: "-100",
    "a fraction": lambda: "100.5",
    "an exponent": lambda: "1e9",
    "a sign": lambda: "+1000",
    "words": lambda: "when the moon is full",
    "no ASCII digits": lambda: "\xb2\xb3",
    "empty": lambda: "",
    "a date that is none": lambda: "Sun, 99 Nov 2994 08:49:37 GMT",
    "very long": lambda: "10" * 1000 + "x",
}
AGES: Final[dict[str, str]] = {
    "10^9": "1000000000",
    "10^500": "1" + "0" * 500,
    "a far date": "Sun, 06 Nov 2994 08:49:37 GMT",
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_busy(driver: str) -> None:
    """Each status that says "later" is retried, not before the time that Retry-After asks for if that can be read."""
    seen: dict[bytes, list[tuple[float, bytes]]] = {}
    streams = [f"{status} {ask}" for status in BUSY for ask in [*ASKS, *AGES]]

    def script(peer: Peer, number: int) -> None:
        while request := peer.read_request():
            stream = request.partition(b'"table":"')[2].partition(b'"')[0]
            attempts = seen.setdefault(stream, [])
            attempts.append((time.monotonic(), request))
            if len(attempts) == 1:
                status, _, ask = stream.decode().partition(" ")
                value = ASKS[ask]() if ask in ASKS else AGES[ask]
                header = b"Retry-After: " + value.encode("latin-1")
                peer.write(with_body(status.encode() + b" Busy", b"", header))
            else:
                peer.write(peer.OK)

    losses: list[Loss] = []
    with Server(script) as server:
        url = f"http://{server.origin().authority}/"
        options = {"retry": AT_ONCE, "request_timeout": FOR_EVER, "on_loss": losses.append, "auth_key": KEY}
        with open_tracker(driver, url, **options) as tracker:
            for stream in streams:
                tracker.track(stream, 1)
            held = len(BUSY) * len(AGES)
            tracker.flush(0)
            wait_until(lambda: tracker.statistics().pending == held, "all others are delivered")
            result = tracker.stop(0.5)
            statistics = tracker.statistics()
    gaps = {}
    for stream in streams:
        attempts = seen[stream.encode()]
        held_back = stream.partition(" ")[2] in AGES
        assert len(attempts) == (1 if held_back else 2), stream
        if not held_back:
            (first, bad), (second, again) = attempts
            assert bad == again, stream
            gaps[stream] = second - first
    least = {ask: min(gap for stream, gap in gaps.items() if stream.partition(" ")[2] == ask) for ask in ASKS}
    print({ask: round(gap, 3) for ask, gap in least.items()})
    assert least["seconds"] >= 1.0
    assert least["a date"] >= 0.9  # since the server's clock, which is looked at a bit later, counts
    assert server.connections <= 4  # a connection is as good after such an answer as after any other
    assert (result.lost, statistics.lost) == (held, {LossReason.STOPPED: held})
    assert {loss.status for loss in losses} == set(BUSY)


@pytest.mark.parametrize("transport", ["native", "httpx"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_redirects(driver: str, transport: str) -> None:
    """Where a redirect points to sees no byte of ours; its events are lost, with a report that says where to."""
    seen: list[bytes] = []

    def redirect(peer: Peer, number: int) -> None:
        while request := peer.read_request():
            stream = request.partition(b'"table":"')[2].partition(b'"')[0]
            if stream == b"good":
                peer.write(peer.OK)
            else:
                peer.write(with_body(stream + b" Elsewhere", b"", b"Location: " + target.encode()))

    losses: list[Loss] = []
    module = atom_sync if driver == "threads" else atom_anyio
    with ExitStack() as stack:
        second = stack.enter_context(Server(lambda peer, _: seen.append(peer.socket.recv(1))))
        target = f"http://{second.origin().authority}/bulk"
        first = stack.enter_context(Server(redirect))
        options = {"retry": AT_ONCE, "on_loss": losses.append, "auth_key": KEY}
        if transport == "httpx":
            options["transport"] = lambda: module.HttpxTransport(trust_env=False)
        tracker = stack.enter_context(open_tracker(driver, f"http://{first.origin().authority}/", **options))
        statuses = [300, 301, 302, 303, 305, 307, 308]
        for status in statuses:
            tracker.track(str(status), {"status": status})
        tracker.track("good", 1)
        result = tracker.flush(PATIENCE / 2)
        tracker.stop(5)
        assert (result.delivered, result.lost, result.pending) == (1, len(statuses), 0)
        assert second.connections == 0
    assert seen == []
    assert {(loss.stream, loss.reason, loss.status, loss.message) for loss in losses} == {
        (str(status), LossReason.REDIRECTED, status, f"redirected to {target}") for status in statuses
    }


@pytest.mark.parametrize("driver", DRIVERS)
def test_refusals(driver: str) -> None:
    """A refused key waits for another, a refused event is found and reported, what is too large is halved."""
    bodies: list[bytes] = []

    def script(peer: Peer, number: int) -> None:
        while request := peer.read_request():
            body = request.partition(b"\r\n\r\n")[2]
            bodies.append(body)
            if b'"key"' in body and len([each for each in bodies if b'"key"' in each]) == 1:
                peer.write(with_body(b"401 Unauthorized", b"no"))
            elif b"guilty" in body:
                peer.write(with_body(b"400 Bad Request", b"no"))
            elif body.count(b"large") > 1:
                peer.write(with_body(b"413 Too Large", b"no"))
            else:
                peer.write(peer.OK)

    losses: list[Loss] = []
    with Server(script) as server:
        url = f"http://{server.origin().authority}/"
        with open_tracker(driver, url, retry=AT_ONCE, on_loss=losses.append, auth_key=KEY) as tracker:
            tracker.track("key", 1)
            assert tracker.flush(0.1).pending == 1
            wait_until(lambda: tracker.statistics().parked, "the key is refused")
            tracker.set_auth_key("key", "another")
            assert tracker.flush(PATIENCE / 2)
            for n in range(8):
                tracker.track("400", "guilty" if n == 5 else n)
                tracker.track("413", f"large {n}")
            result = tracker.flush(PATIENCE / 2)
            tracker.stop(5)
    assert server.connections <= 4
    assert (result.delivered, result.lost, result.pending) == (15, 1, 0)
    assert [(loss.reason, loss.events) for loss in losses] == [(LossReason.REJECTED, ("guilty",))]
    refused, accepted = bodies[:2]
    assert refused != accepted  # signed anew, and otherwise the same
    assert refused.partition(b'"auth"')[0] == accepted.partition(b'"auth"')[0]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
    return context


def obsolete(context: ssl.SSLContext) -> ssl.SSLContext:
    """Speak TLS 1.0 and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


TLS: Final[dict[str, tuple[Callable[[trustme.CA, Peer], object], float]]] = {
    "TLS 1.0": (
        lambda ca, peer: obsolete(server_context(ca)).wrap_socket(peer.socket, server_side=True).recv(1),
        FOR_EVER,
    ),
    "another name": (
        lambda ca, peer: server_context(ca, "127.0.0.2").wrap_socket(peer.socket, server_side=True).recv(1),
        FOR_EVER,
    ),
    "self-signed": (
        lambda ca, peer: server_context(trustme.CA()).wrap_socket(peer.socket, server_side=True).recv(1),
        FOR_EVER,
    ),
    "plain text": (lambda ca, peer: peer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), FOR_EVER),
    "plain text after our hello": (lambda ca, peer: (peer.socket.recv(65536), peer.write(GOOD)), FOR_EVER),
    "closed at once": (lambda ca, peer: peer.close(), FOR_EVER),
    "closed in the midst": (lambda ca, peer: (peer.socket.recv(65536), peer.close()), FOR_EVER),
    "silence": (lambda ca, peer: peer.left(), SOON),
}


@pytest.mark.parametrize("name", TLS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_tls(driver: str, name: str, authority: trustme.CA) -> None:
    """Where TLS cannot be trusted nothing is said; the error names the server, and the next good one gets all."""
    act, timeout = TLS[name]
    plain: list[bytes] = []

    def script(peer: Peer, number: int) -> None:
        if number == 0:
            try:
                said = act(authority, peer)
            finally:
                answered.set()
            if isinstance(said, bytes):
                plain.append(said)
            peer.left()
            return
        peer.socket = good.wrap_socket(peer.socket, server_side=True)
        peer.serve()

    good = server_context(authority)
    answered = threading.Event()
    losses: list[Loss] = []
    module = atom_sync.SocketTransport if driver == "threads" else atom_anyio.StreamTransport
    with Server(script) as server:
        host = server.origin().authority
        options = {
            "auth_key": KEY,
            "request_timeout": timeout if timeout is FOR_EVER else 2.0,
            "retry": RetryPolicy(base=1e-6, cap=1e-6, max_attempts=1),
            "on_loss": losses.append,
            "transport": lambda: module(ssl_context=trusting(authority)),
        }
        with open_tracker(driver, f"https://{host}/", **options) as tracker:
            tracker.track("s", "secret event")
            assert tracker.flush(PATIENCE / 2).lost == 1
            tracker.track("s", 2)
            assert tracker.flush(PATIENCE / 2)
        assert answered.wait(PATIENCE)
    assert not any(plain)
    (loss,) = losses
    assert loss.reason is LossReason.EXPIRED
    assert loss.message.startswith(host)
    assert KEY not in loss.message
    assert "secret" not in loss.message


def test_tls_1_0_is_there(authority: trustme.CA) -> None:
    """The obsolete server of the test above can be spoken to by who wants that."""
    words: list[bytes] = []

    def script(peer: Peer, number: int) -> None:
        peer.socket = obsolete(server_context(authority)).wrap_socket(peer.socket, server_side=True)
        words.append(peer.socket.recv(1))

    with Server(script) as server, socket.create_connection(("127.0.0.1", server.origin().port)) as sock:
        try:
            secure = obsolete(trusting(authority)).wrap_socket(sock, server_hostname="127.0.0.1")
        except ssl.SSLError as error:
            pytest.skip(f"this OpenSSL has no TLS 1.0: {error}")
        secure.sendall(b"x")
        secure.close()
    assert words == [b"x"]
