"""The documentation's third driver, on loopback and on virtual time."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import BufferedIOBase
from typing import Any

import pytest
import selectors_driver as driver
from fake_network import OK, FakeNetwork

from atom_sansio import BacklogFull, Loss, LossReason, TrackerClosed


def read_request(stream: BufferedIOBase) -> tuple[bytes, bytes]:
    """Head and body; both empty when the client has left."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b"", b""
        head += line
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    return head, stream.read(length)


def events_of(body: bytes) -> list[Any]:
    return list(json.loads(json.loads(body)["data"]))


class Handler(socketserver.StreamRequestHandler):
    """One connection, numbered from 0, handed to the server's script."""

    server: Server

    def handle(self) -> None:
        with self.server.lock:
            number = self.server.connections
            self.server.connections += 1
        with suppress(OSError):  # a client that leaves in the middle is for its test to judge
            self.server.script(self, number)

    def serve(self, requests: int | None = None, reply: bytes = OK) -> None:
        while requests is None or requests > 0:
            head, body = read_request(self.rfile)
            if not head:
                return
            self.server.note(head, body)
            self.wfile.write(reply)
            requests = None if requests is None else requests - 1

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Server(socketserver.ThreadingTCPServer):
    """Runs a script for each connection in a thread of its own, and keeps the requests."""

    def __init__(self, script: Callable[[Handler, int], None] = lambda peer, number: peer.serve()) -> None:
        self.script = script
        self.lock = threading.Lock()
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.001,)).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def note(self, head: bytes, body: bytes) -> None:
        with self.lock:
            self.requests.append((head, body))

    def events(self) -> list[Any]:
        return [event for _, body in self.requests for event in events_of(body)]

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Starts servers and trackers; stops the trackers first."""
    with ExitStack() as servers, ExitStack() as trackers:

        def start(kind: Any, *args: Any, **options: Any) -> Any:
            made = kind(*args, **options)
            if isinstance(made, Server):
                return servers.enter_context(made)
            trackers.callback(made.stop, 0.0)
            return made

        yield start


@pytest.fixture
def virtual(start: Callable[..., Any]) -> Callable[..., Any]:
    """A tracker on a network in memory; every draw is one half."""

    def make(network: FakeNetwork, **options: Any) -> Any:
        return start(
            driver.Tracker,
            "http://memory/",
            clock=network.clock,
            unit=lambda: 0.5,
            connect=network.connect,
            selector=network.selector,
            **options,
        )

    return make


# -- loopback -----------------------------------------------------------------------------------------


def test_events_arrive_in_order(start: Any) -> None:
    """Everything tracked arrives once, in order, in batches within the bound."""
    server = start(Server)
    tracker = start(driver.Tracker, server.url, max_batch_events=7)
    for i in range(100):
        tracker.track("clicks", {"id": i})
    result = tracker.flush()
    assert result
    assert result.delivered == 100
    assert server.events() == [{"id": i} for i in range(100)]
    assert len(server.requests) == 15


def test_one_connection_serves_many_requests(start: Any) -> None:
    """A connection that was left in good order is used again."""
    server = start(Server)
    tracker = start(driver.Tracker, server.url)
    for i in range(5):
        tracker.track("clicks", i)
        assert tracker.flush()
    assert server.connections == 1


def test_lanes_are_in_flight_at_once(start: Any) -> None:
    """Four lanes have a request each on its way: the server answers none before it has all four."""
    barrier = threading.Barrier(4)

    def script(peer: Handler, number: int) -> None:
        head, body = read_request(peer.rfile)
        peer.server.note(head, body)
        barrier.wait(10)
        peer.wfile.write(OK)

    server = start(Server, script)
    tracker = start(driver.Tracker, server.url, max_in_flight=4)
    for stream in "abcd":
        tracker.track(stream, stream)
    assert tracker.flush(20.0).delivered == 4
    assert sorted(server.events()) == ["a", "b", "c", "d"]
    assert server.connections == 4


def test_large_bodies_are_written_in_pieces(start: Any) -> None:
    """A body larger than the socket's buffer arrives whole."""
    server = start(Server)
    tracker = start(driver.Tracker, server.url, max_batch_bytes=512 * 1024)
    texts = [letter * 400_000 for letter in "abcdef"]
    for text in texts:
        tracker.track("clicks", text)
    assert tracker.flush(20.0)
    assert server.events() == texts


def test_a_reply_before_the_request_is_read_counts(start: Any) -> None:
    """A collector that answers 413 to the head alone is heard, and the batch is sent in halves."""

    def script(peer: Handler, number: int) -> None:
        if number:
            peer.serve()
            return
        line = peer.rfile.readline()
        assert line.startswith(b"POST /bulk")
        peer.wfile.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        peer.connection.shutdown(socket.SHUT_WR)
        while peer.rfile.read1(65536):
            pass

    server = start(Server, script)
    tracker = start(driver.Tracker, server.url, max_batch_bytes=512 * 1024)
    for i in range(4):
        tracker.track("clicks", {"id": i, "filler": "x" * 120_000})
    assert tracker.flush(20.0).delivered == 4
    assert [event["id"] for event in server.events()] == [0, 1, 2, 3]
    assert [len(events_of(body)) for _, body in server.requests] == [2, 2]


@pytest.mark.parametrize("cut", [0, 5, 30, len(OK) - 1])
@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_is_tried_again(start: Any, cut: int, reset: bool) -> None:
    """Whatever part of a reply came before the end, the identical request goes again."""

    def script(peer: Handler, number: int) -> None:
        if number:
            peer.serve()
            return
        peer.server.note(*read_request(peer.rfile))
        peer.wfile.write(OK[:cut])
        if reset:
            peer.reset()

    server = start(Server, script)
    tracker = start(driver.Tracker, server.url, unit=lambda: 0.0)
    tracker.track("clicks", {"id": 1})
    assert tracker.flush(20.0)
    assert len(server.requests) == 2
    assert server.requests[0] == server.requests[1]
    assert tracker.statistics().failures == 1


def test_a_connection_closed_while_idle_costs_nothing(start: Any) -> None:
    """When the collector has closed an idle connection, the next request takes another."""
    closed = threading.Event()

    def script(peer: Handler, number: int) -> None:
        peer.serve(1)
        peer.connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    server = start(Server, script)
    tracker = start(driver.Tracker, server.url)
    for i in range(3):
        tracker.track("clicks", i)
        assert tracker.flush(20.0)
        assert closed.wait(10)
        closed.clear()
    assert server.events() == [0, 1, 2]
    assert server.connections == 3


def test_the_next_address_is_tried(start: Any) -> None:
    """An address that refuses the connection does not keep the request from the next one."""
    server = start(Server)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        refusing = unused.getsockname()[1]

    def connect(origin: Any) -> Iterator[socket.socket]:
        for port in (refusing, origin.port):
            yield from driver.connect(type(origin)("http", "127.0.0.1", port))

    tracker = start(driver.Tracker, server.url, connect=connect)
    tracker.track("clicks", 1)
    assert tracker.flush()
    assert tracker.statistics().failures == 0


def test_a_refused_connection_is_a_failure(start: Any) -> None:
    """Where nobody listens the events wait, and stop() reports them lost."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    lost: list[Loss] = []
    tracker = start(driver.Tracker, f"http://127.0.0.1:{port}/", on_loss=lost.append, unit=lambda: 0.999)
    tracker.track("clicks", 1)
    assert tracker.flush(0.0).pending == 1
    while not tracker.statistics().failures:
        tracker.poll(10.0)
    assert tracker.stop(0.0).lost == 1
    assert [loss.reason for loss in lost] == [LossReason.STOPPED]


def test_a_name_that_is_none_is_a_failure(start: Any) -> None:
    """A host that cannot be looked up counts as a failed request, not as an exception."""
    tracker = start(driver.Tracker, "http://a..b/")
    tracker.track("clicks", 1)
    tracker.flush(0.0)
    assert tracker.statistics().failures == 1


def test_all_addresses_of_a_name_are_used(start: Any) -> None:
    """``localhost`` reaches a server on 127.0.0.1, whether or not it also means ::1."""
    server = start(Server)
    tracker = start(driver.Tracker, server.url.replace("127.0.0.1", "localhost"))
    tracker.track("clicks", 1)
    assert tracker.flush()


# -- virtual time ---------------------------------------------------------------------------------------


def test_an_old_event_is_sent_without_a_flush(virtual: Any) -> None:
    """Polling sends a lane when its oldest event reaches the flush interval, and not before."""
    network = FakeNetwork()
    tracker = virtual(network, flush_interval=10.0)
    tracker.track("clicks", 1)
    tracker.poll(9.0)
    assert (network.now, network.requests) == (9.0, [])
    tracker.poll(9.0)
    while tracker.statistics().pending:
        tracker.poll(9.0)
    assert [time for time, _ in network.requests] == [10.0]


def test_a_request_without_a_reply_ends_at_its_deadline(virtual: Any) -> None:
    """After request_timeout the socket is closed and the same bytes go again after the pause."""
    network = FakeNetwork(lambda request, number: None if number == 1 else (0.0, OK))
    tracker = virtual(network, request_timeout=60.0)
    tracker.track("clicks", 1)
    assert tracker.flush(100.0)
    # base 3 s, doubled once, times one half
    assert [time for time, _ in network.requests] == [0.0, 63.0]
    assert network.requests[0][1] == network.requests[1][1]
    assert [sock.closed for sock in network.sockets] == [True, False]


def test_pauses_grow_and_heed_the_collector(virtual: Any) -> None:
    """A busy collector is asked again after full jitter or its Retry-After, whichever is longer."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    patient = b"HTTP/1.1 429 Slow\r\nRetry-After: 100\r\nContent-Length: 0\r\n\r\n"
    answers = [busy, busy, patient, OK]
    network = FakeNetwork(lambda request, number: (0.0, answers[number - 1]))
    tracker = virtual(network)
    tracker.track("clicks", 1)
    assert tracker.flush(1000.0)
    assert [time for time, _ in network.requests] == [0.0, 3.0, 9.0, 109.0]
    assert len(network.sockets) == 1


def test_a_slow_lane_does_not_hold_up_another(virtual: Any) -> None:
    """While one lane's request is open for half a minute, another lane sends again and again."""
    network = FakeNetwork(lambda request, number: (30.0 if b'"slow"' in request else 1.0, OK))
    tracker = virtual(network, max_batch_events=1)
    tracker.track("slow", 0)
    for i in range(10):
        tracker.track("quick", i)
    assert tracker.flush(60.0)
    assert network.now == 30.0
    assert [time for time, request in network.requests if b'"quick"' in request] == [float(i) for i in range(10)]


def test_flush_returns_at_its_deadline(virtual: Any) -> None:
    """A flush that the collector keeps waiting says what is pending, at the time it was given."""
    network = FakeNetwork(lambda request, number: (30.0, OK))
    tracker = virtual(network)
    tracker.track("clicks", 1)
    result = tracker.flush(5.0)
    assert (network.now, result.pending, bool(result)) == (5.0, 1, False)
    assert tracker.flush(60.0).delivered == 1
    assert network.now == 30.0


def test_stop_reports_what_was_not_confirmed(virtual: Any) -> None:
    """stop() ends at its deadline, tells on_loss, closes all sockets, and takes no more events."""
    lost: list[Loss] = []
    network = FakeNetwork(lambda request, number: None)
    tracker = virtual(network, on_loss=lost.append)
    tracker.track("clicks", 1)
    assert tracker.stop(5.0).lost == 1
    assert network.now == 5.0
    assert [(loss.reason, loss.attempts, loss.events) for loss in lost] == [(LossReason.STOPPED, 1, (1,))]
    assert all(sock.closed for sock in network.sockets)
    assert network.selector.closed
    with pytest.raises(TrackerClosed):
        tracker.track("clicks", 2)
    assert tracker.stop()
    tracker.poll(1.0)
    assert network.now == 5.0


def test_a_full_backlog_blocks_until_there_is_room(virtual: Any) -> None:
    """With on_full="block", track() polls until a request has made room, or until block_timeout."""
    network = FakeNetwork(lambda request, number: (2.0, OK) if number == 1 else None)
    tracker = virtual(network, max_pending_events=1, flush_interval=1.0, block_timeout=10.0)
    tracker.track("clicks", 1)
    tracker.track("clicks", 2)
    assert network.now == 2.0, "the first was sent at once, to make room"
    with pytest.raises(BacklogFull):
        tracker.track("clicks", 3)
    assert network.now == 12.0


def test_a_full_backlog_raises_if_asked_to(virtual: Any) -> None:
    """With on_full="raise", track() raises at once."""
    network = FakeNetwork()
    tracker = virtual(network, max_pending_events=1, on_full="raise")
    tracker.track("clicks", 1)
    with pytest.raises(BacklogFull):
        tracker.track("clicks", 2)
    assert (network.now, network.requests) == (0.0, [])


def test_a_refused_key_parks_the_lane(virtual: Any, caplog: pytest.LogCaptureFixture) -> None:
    """After a 401 the events wait for another key, which signs them anew; no key is logged."""
    refused = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
    network = FakeNetwork(lambda request, number: (0.0, refused if number == 1 else OK))
    tracker = virtual(network, auth_key="canary-old")
    tracker.track("clicks", 1, auth_key="canary-own")
    assert tracker.flush(5.0).pending == 1
    assert tracker.statistics().parked == 1
    tracker.set_auth_key("clicks", "canary-new")
    assert tracker.flush(5.0)
    first, second = (json.loads(request.partition(b"\r\n\r\n")[2])["auth"] for _, request in network.requests)
    assert first != second
    assert "clicks" in caplog.text
    assert "canary" not in caplog.text


def test_a_callback_that_raises_harms_only_itself(virtual: Any, caplog: pytest.LogCaptureFixture) -> None:
    """on_loss may raise and may track: the driver logs the one and sends the other."""
    rejected = b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"
    network = FakeNetwork(lambda request, number: (0.0, rejected if number == 1 else OK))

    def on_loss(loss: Loss) -> None:
        tracker.track("losses", loss.count)
        raise RuntimeError("on purpose")

    tracker = virtual(network, on_loss=on_loss)
    tracker.track("clicks", 1)
    assert tracker.flush(5.0).lost == 1
    assert tracker.flush(5.0).delivered == 1
    assert "on purpose" in caplog.text


def test_losses_are_logged_without_a_callback(virtual: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Without on_loss, a loss is in the log."""
    network = FakeNetwork(lambda request, number: (0.0, b"HTTP/1.1 302 No\r\nContent-Length: 0\r\n\r\n"))
    tracker = virtual(network)
    tracker.track("clicks", 1)
    assert tracker.flush(5.0).lost == 1
    assert "1 events of stream 'clicks' are lost" in caplog.text


def test_garbage_is_a_failure(virtual: Any) -> None:
    """What is no HTTP closes the connection, and the batch goes again on another."""
    network = FakeNetwork(lambda request, number: (0.0, b"garbage\r\n\r\n" if number == 1 else OK))
    tracker = virtual(network)
    tracker.track("clicks", 1)
    assert tracker.flush(60.0)
    assert len(network.sockets) == 2


@pytest.mark.parametrize("options", [{"endpoint": "https://127.0.0.1/"}, {"transport": object}])
def test_what_this_driver_cannot_do_is_refused(options: dict[str, Any]) -> None:
    """TLS and transports are refused when the tracker is built."""
    with pytest.raises(ValueError, match="endpoint must begin with http://"):
        driver.Tracker(**{"endpoint": "http://127.0.0.1/", **options})
