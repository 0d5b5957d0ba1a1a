"""The native transports of both drivers against real sockets: same script, same outcome."""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import anyio
import pytest
import trustme

import atom_anyio
import atom_sync
from atom_anyio._transport import StreamTransport
from atom_sansio._errors import ConnectionFailed, ReplyError, RequestTimeout
from atom_sansio._messages import Origin, Reply
from atom_sync._transport import SocketTransport

BIG = b"x" * (8 << 20)
"""More than the buffers of both ends hold, so that writing it waits for the server to read."""


class TestExchange:
    def test_request_and_reply(self, driver, serve, make_request) -> None:
        """The request arrives as it is, and the reply comes back whole."""
        seen: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def script(peer, _):
            seen.put(peer.read_request())
            for byte in (
                b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwait\r\n0\r\n\r\n"
            ):
                peer.write(bytes([byte]))

        server = serve(script)
        with driver.open("native") as transport:
            reply = transport.send(make_request(server, body=b"x" * 100_000))
        assert reply == Reply(
            status=429, headers=(("retry-after", "7"), ("transfer-encoding", "chunked")), body=b"wait"
        )
        head, body = seen.get().split(b"\r\n\r\n")
        assert head.startswith(b"POST /bulk?secret HTTP/1.1\r\nHost: 127.0.0.1:")
        assert body == b"x" * 100_000

    def test_until_close(self, driver, serve, make_request) -> None:
        """A body without a length is read until the server closes."""

        def script(peer, _):
            peer.read_request()
            peer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
            peer.close()

        server = serve(script)
        with driver.open("native") as transport:
            assert [transport.send(make_request(server)).body for _ in range(2)] == [b"all of it"] * 2
        assert server.connections == 2

    @pytest.mark.parametrize(
        "reply", [b"220 smtp.example\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"x" * 99_999]
    )
    def test_no_acceptable_reply(self, driver, serve, make_request, reply) -> None:
        """What is no reply, or too large a one, is an error that names the server and nothing else."""
        server = serve(lambda peer, _: peer.serve(reply))
        with driver.open("native") as transport:
            for _ in range(2):
                with pytest.raises(ReplyError, match=r"^127\.0\.0\.1:\d+ ") as caught:
                    transport.send(make_request(server))
                assert "secret" not in str(caught.value)
        assert server.connections == 2

    # A request that was not written whole ends its connection by itself.
    @pytest.mark.parametrize(
        ("body", "header"), [(b"x" * 100_000, b"Connection: close\r\n"), (BIG, b"")], ids=["fits", "waits"]
    )
    def test_early_refusal(self, driver, serve, make_request, body, header) -> None:
        """A refusal that comes before the body was read is taken, though its bytes wait and writing the rest fails."""

        def script(peer, _):
            peer.read_head()
            peer.write(b"HTTP/1.1 413 Too Large\r\n" + header + b"Content-Length: 3\r\n\r\nbig")
            peer.close()  # with most of the body unread: the client's next write is answered by a reset

        server = serve(script)
        with driver.open("native") as transport:
            for _ in range(2):
                reply = transport.send(make_request(server, body=body))
                assert (reply.status, reply.body) == (413, b"big")
        assert server.connections == 2

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_body_that_nobody_reads(self, driver, serve, make_request, trusting, server_context, tls) -> None:
        """A reply is taken even when the server neither reads the rest of the body nor closes."""

        def script(peer, _):
            peer.read_head()
            peer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            done.wait(10)

        done = threading.Event()
        server = serve(script, server_context() if tls else None)
        with driver.open("native", ssl_context=trusting) as transport:
            assert [transport.send(make_request(server, body=BIG)).status for _ in range(2)] == [401, 401]
        done.set()
        assert server.connections == 2


class TestReuse:
    def test_keep_alive(self, driver, serve, make_request) -> None:
        """Five requests, small and large, take one connection."""
        server = serve(lambda peer, _: peer.serve())
        with driver.open("native") as transport:
            for size in (2, 1000, 100_000, 2, 100_000):
                assert transport.send(make_request(server, body=b"x" * size)).status == 200
        assert server.connections == 1

    def test_origins_are_kept_apart(self, driver, serve, make_request) -> None:
        """A connection serves its own origin only."""
        servers = [serve(lambda peer, _: peer.serve()) for _ in range(2)]
        with driver.open("native") as transport:
            for server in servers * 2:
                transport.send(make_request(server))
        assert [server.connections for server in servers] == [1, 1]

    @pytest.mark.parametrize(
        "reply",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nsurplus",
        ],
    )
    def test_not_reused(self, driver, serve, make_request, reply) -> None:
        """A connection is given up after a reply that says so, or that goes on after its end."""
        server = serve(lambda peer, _: peer.serve(reply))
        with driver.open("native") as transport:
            for _ in range(2):
                transport.send(make_request(server))
        assert server.connections == 2

    @pytest.mark.parametrize("farewell", ["close", "reset", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
    def test_closed_while_idle(self, driver, serve, make_request, farewell) -> None:
        """A connection that the server has closed, or written to, since the last reply is not used again."""
        said = threading.Event()

        def script(peer, _):
            peer.read_request()
            peer.write(peer.OK)
            replied.wait(10)
            if isinstance(farewell, bytes):
                peer.write(farewell)
                said.set()
                peer.left()
            else:
                getattr(peer, farewell)()
                said.set()

        server = serve(script)
        with driver.open("native") as transport:
            for _ in range(3):
                replied = threading.Event()
                assert transport.send(make_request(server)).status == 200
                said.clear()
                replied.set()
                assert said.wait(10)
        assert server.connections == 3

    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_stale(self, driver, serve, make_request, end) -> None:
        """A connection that breaks before a byte of a later reply is reported as stale."""

        def script(peer, _):
            peer.read_request()
            peer.write(peer.OK)
            peer.read_request()
            getattr(peer, end)()

        server = serve(script)
        with driver.open("native") as transport:
            transport.send(make_request(server))
            with pytest.raises(ConnectionFailed) as caught:
                transport.send(make_request(server))
            assert caught.value.stale
            assert transport.send(make_request(server)).status == 200
        assert server.connections == 2

    @pytest.mark.parametrize("options", [{"max_idle": 0}, {"idle_timeout": 0}])
    def test_none_kept(self, driver, serve, make_request, options) -> None:
        """Connections can be had for one request each."""
        server = serve(lambda peer, _: peer.serve())
        with driver.open("native", **options) as transport:
            for _ in range(2):
                transport.send(make_request(server))
        assert server.connections == 2

    def test_at_most_so_many_kept(self, driver, serve, make_request) -> None:
        """Connections beyond max_idle are closed when they have served, the one unused for longest first."""
        together = threading.Barrier(3, timeout=10)
        closed = threading.Semaphore(0)

        def script(peer, _):
            peer.read_request()
            together.wait()
            peer.write(peer.OK)
            peer.serve()
            closed.release()

        server = serve(script)
        with driver.open("native", max_idle=1) as transport, ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(transport.send, make_request(server)) for _ in range(3)]:
                assert future.result().status == 200
            assert closed.acquire(timeout=10)
            assert closed.acquire(timeout=10)
            transport.send(make_request(server))
            assert server.connections == 3
            assert not closed.acquire(blocking=False)

    @pytest.mark.parametrize(
        "options",
        [
            {"max_idle": -1},
            {"max_idle": 1.5},
            {"max_idle": True},
            {"idle_timeout": -1},
            {"idle_timeout": float("nan")},
            {"idle_timeout": "1"},
            {"idle_timeout": True},
            {"ssl_context": True},
            {"ssl_context": "ca.pem"},
        ],
    )
    @pytest.mark.parametrize("transport", [SocketTransport, StreamTransport])
    def test_bad_options(self, transport, options) -> None:
        """A wrong option is refused by name, and not when the first request fails for it."""
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            transport(**options)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (atom_sync.Tracker, atom_anyio.MemoryTransport),
        (atom_sync.Client, atom_anyio.MemoryTransport()),
        (atom_anyio.Tracker, atom_sync.MemoryTransport),
        (atom_anyio.Client, atom_sync.MemoryTransport()),
        *((module.Tracker, wrong) for module in (atom_sync, atom_anyio) for wrong in (object, dict, lambda: None)),
    ],
)
def test_no_transport(make, wrong) -> None:
    """The other driver's transport, and what makes none, are refused when the tracker or client is built."""
    with pytest.raises(TypeError, match=r"^transport must have the methods send and a?close; \w+ has no "):
        make("http://collector.example/", transport=wrong)


class TestFailures:
    def test_refused(self, driver, make_request) -> None:
        """A refused connection names host and port, keeps its cause and shows nothing of the request."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with driver.open("native") as transport, pytest.raises(ConnectionFailed) as caught:
            transport.send(make_request(Origin("http", "127.0.0.1", port)))
        assert str(caught.value) == f"127.0.0.1:{port}: Connection refused"
        assert isinstance(caught.value.__cause__, OSError)
        assert not caught.value.stale

    @pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"])
    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_broken(self, driver, serve, make_request, reply, end) -> None:
        """A connection that breaks before or within its first reply is a failure that is not stale."""

        def script(peer, _):
            peer.read_request()
            peer.write(reply)
            getattr(peer, end)()

        server = serve(script)
        with driver.open("native") as transport, pytest.raises(ConnectionFailed, match=r"^127\.0\.0\.1:\d+") as caught:
            transport.send(make_request(server))
        assert not caught.value.stale

    def test_broken_while_writing(self, driver, serve, make_request) -> None:
        """So is one that breaks while a body is being written, when no reply has come."""

        def script(peer, _):
            peer.read_head()
            peer.reset()

        server = serve(script)
        with driver.open("native") as transport, pytest.raises(ConnectionFailed):
            transport.send(make_request(server, body=BIG))

    def test_silence(self, driver, serve, make_request) -> None:
        """No reply by the deadline is a timeout, and the connection is closed."""
        left = threading.Event()

        def script(peer, _):
            peer.read_request()
            if peer.left():
                left.set()

        server = serve(script)
        with driver.open("native") as transport:
            with pytest.raises(RequestTimeout, match=r"^127\.0\.0\.1:\d+ "):
                transport.send(make_request(server), timeout=0.05)
            assert left.wait(10)

    def test_trickle(self, driver, serve, make_request) -> None:
        """A server that always has one more byte does not get more time for it."""
        done = threading.Event()

        def script(peer, _):
            peer.read_request()
            peer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not done.wait(0.01):
                peer.write(b"x")

        server = serve(script)
        with driver.open("native") as transport, pytest.raises(RequestTimeout):
            transport.send(make_request(server), timeout=0.1)
        done.set()

    def test_stalled_write(self, driver, serve, make_request) -> None:
        """A server that does not read a body is given up at the deadline too."""
        done = threading.Event()
        server = serve(lambda peer, _: done.wait(10))
        with driver.open("native") as transport, pytest.raises(RequestTimeout):
            transport.send(make_request(server, body=BIG), timeout=0.05)
        done.set()

    @pytest.mark.parametrize("timeout", [3e6, 1e10, 1e308])
    def test_more_time_than_a_system_call_takes(self, driver, serve, make_request, timeout) -> None:
        """A time-out of months or ages is as good as none, not an overflow in the middle of a request."""
        server = serve(lambda peer, _: peer.serve())
        with driver.open("native") as transport:
            assert transport.send(make_request(server), timeout=timeout).status == 200

    def test_no_time(self, driver, serve, make_request) -> None:
        """A request whose time is up already fails like any other."""
        server = serve(lambda peer, _: peer.serve())
        with driver.open("native") as transport, pytest.raises(RequestTimeout):
            transport.send(make_request(server), timeout=0)


@pytest.mark.parametrize("driver", ["threads", "asyncio", "trio"], indirect=True)  # uvloop resolves names by itself
class TestNames:
    @pytest.fixture
    def names(self, monkeypatch) -> dict[str, Any]:
        """What the resolver says: addresses, an exception, or a function to be called."""
        known: dict[str, Any] = {}
        real = socket.getaddrinfo

        def getaddrinfo(host, port, *args, **kwargs):
            name = host.decode() if isinstance(host, bytes) else host
            if name not in known:
                return real(host, port, *args, **kwargs)
            if kwargs.get("flags", 0) & socket.AI_NUMERICHOST or (len(args) > 3 and args[3] & socket.AI_NUMERICHOST):
                raise socket.gaierror(socket.EAI_NONAME, "not numeric")
            answer = known[name]() if callable(known[name]) else known[name]
            if isinstance(answer, Exception):
                raise answer
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in answer]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return known

    def test_next_address(self, driver, serve, make_request, names) -> None:
        """When a name has several addresses, one that refuses is passed over."""
        names["two.test"] = ["127.0.0.2", "127.0.0.1"]
        server = serve(lambda peer, _: peer.serve())
        with driver.open("native") as transport:
            assert transport.send(make_request(server.origin("two.test"))).status == 200

    def test_no_address_works(self, driver, make_request, names) -> None:
        """When all of them refuse, the connection has failed."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        names["two.test"] = ["127.0.0.2", "127.0.0.1"]
        with driver.open("native") as transport, pytest.raises(ConnectionFailed, match=rf"^two\.test:{port}: "):
            transport.send(make_request(Origin("http", "two.test", port)))

    def test_unknown(self, driver, make_request, names) -> None:
        """A name without an address is a failed connection."""
        names["none.test"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        words = r"^none\.test:80: Name or service not known$"
        with driver.open("native") as transport, pytest.raises(ConnectionFailed, match=words) as caught:
            transport.send(make_request(Origin("http", "none.test", 80)))
        assert isinstance(caught.value.__cause__, socket.gaierror)

    def test_impossible(self, driver, make_request) -> None:
        """So is a name that cannot even be asked for."""
        with driver.open("native") as transport, pytest.raises(ConnectionFailed):
            transport.send(make_request(Origin("http", "a" * 64 + ".test", 80)))

    def test_slow_resolver(self, driver, make_request, names) -> None:
        """The deadline holds while a name is being looked up."""
        answer = threading.Event()
        names["slow.test"] = lambda: answer.wait(10) and ["127.0.0.1"]
        try:
            with driver.open("native") as transport, pytest.raises(RequestTimeout):
                transport.send(make_request(Origin("http", "slow.test", 80)), timeout=0.05)
        finally:
            answer.set()

    def test_no_threads_left(self, driver, serve, make_request, names, monkeypatch) -> None:
        """While the interpreter shuts down, when no thread can be started, a name is looked up all the same."""

        class Refused(threading.Thread):
            def start(self) -> None:
                raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr("atom_sync._connection.Thread", Refused)
        names["late.test"] = ["127.0.0.1"]
        server = serve(lambda peer, _: peer.serve())
        with driver.open("native") as transport:
            assert transport.send(make_request(server.origin("late.test"))).status == 200


class TestTLS:
    def test_keep_alive(self, driver, serve, make_request, trusting, server_context) -> None:
        """Requests over TLS, small and large, share a connection too."""
        server = serve(lambda peer, _: peer.serve(), server_context())
        with driver.open("native", ssl_context=trusting) as transport:
            for size in (2, 300_000, 2):
                assert transport.send(make_request(server, body=b"x" * size)).status == 200
        assert server.connections == 1

    def test_default_context(self, driver, serve, make_request, trusting, server_context, monkeypatch) -> None:
        """Without a context the default one is made, once."""
        made = []
        monkeypatch.setattr(ssl, "create_default_context", lambda: made.append(trusting) or trusting)
        server = serve(lambda peer, _: peer.serve(), server_context())
        with driver.open("native", max_idle=0) as transport:
            assert not made
            for _ in range(2):
                transport.send(make_request(server))
        assert len(made) == 1
        assert server.connections == 2

    @pytest.mark.parametrize("fault", ["wrong host", "expired", "unknown authority"])
    def test_distrusted(self, driver, serve, make_request, trusting, server_context, fault) -> None:
        """A certificate that does not hold fails the request before a byte of it is sent."""
        context = {
            "wrong host": lambda: server_context("other.example"),
            "expired": lambda: server_context(not_after=datetime(2020, 1, 1, tzinfo=timezone.utc)),
            "unknown authority": lambda: server_context(issuer=trustme.CA()),
        }[fault]()
        seen = []
        server = serve(lambda peer, _: seen.append(peer.read_request()), context)
        words = r"^127\.0\.0\.1:\d+: .*certificate"
        with (
            driver.open("native", ssl_context=trusting) as transport,
            pytest.raises(ConnectionFailed, match=words) as caught,
        ):
            transport.send(make_request(server))
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert "secret" not in str(caught.value)
        assert not any(seen)

    def test_no_tls_there(self, driver, serve, make_request, trusting) -> None:
        """A server that does not speak TLS is a failed connection."""
        server = serve(lambda peer, _: (peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), peer.left()))
        origin = Origin("https", "127.0.0.1", server.origin().port)
        with driver.open("native", ssl_context=trusting) as transport, pytest.raises(ConnectionFailed):
            transport.send(make_request(origin))

    def test_closed_in_the_handshake(self, driver, serve, make_request, trusting) -> None:
        """So is one that hangs up during the handshake."""
        server = serve(lambda peer, _: (peer.socket.recv(1), peer.close()))
        origin = Origin("https", "127.0.0.1", server.origin().port)
        with driver.open("native", ssl_context=trusting) as transport, pytest.raises(ConnectionFailed):
            transport.send(make_request(origin))

    def test_handshake_without_end(self, driver, serve, make_request, trusting) -> None:
        """The deadline holds during the handshake."""
        server = serve(lambda peer, _: peer.left())
        origin = Origin("https", "127.0.0.1", server.origin().port)
        with driver.open("native", ssl_context=trusting) as transport, pytest.raises(RequestTimeout):
            transport.send(make_request(origin), timeout=0.05)

    def test_cut_short(self, driver, serve, make_request, trusting, server_context) -> None:
        """The end of a connection is no end of a body unless TLS vouches for it."""

        def script(peer, _):
            peer.read_request()
            peer.write(b"HTTP/1.0 200 OK\r\n\r\npart of i")
            peer.close()  # without close_notify

        server = serve(script, server_context())
        with driver.open("native", ssl_context=trusting) as transport, pytest.raises(ConnectionFailed):
            transport.send(make_request(server))


class TestClose:
    def test_close(self, driver, serve, make_request) -> None:
        """Closing ends idle connections, and those in use when they have served; later requests fail."""
        asked, answer, left = threading.Event(), threading.Event(), threading.Semaphore(0)

        def script(peer, number):
            peer.read_request()
            if number == 1:
                asked.set()
                answer.wait(10)
            peer.write(peer.OK)
            if peer.left():
                left.release()

        server = serve(script)
        with driver.open("native") as transport, ThreadPoolExecutor(1) as pool:
            transport.send(make_request(server))
            # A second origin for the same server, so that the idle connection stays idle.
            other = make_request(server.origin("localhost"))
            future = pool.submit(transport.send, other)
            assert asked.wait(10)
            transport.close()
            assert left.acquire(timeout=10)
            answer.set()
            assert future.result().status == 200
            assert left.acquire(timeout=10)
            with pytest.raises(ConnectionFailed, match="closed"):
                transport.send(make_request(server))


class TestFork:
    def test_reset(self, serve, make_request) -> None:
        """After a reset nothing of before is used, were even the lock held, and the transport works."""
        server = serve(lambda peer, _: peer.serve())
        transport = SocketTransport()
        transport.send(make_request(server), timeout=10)
        busy = transport._acquire(server.origin("busy.test"))
        transport._lock.acquire()
        transport.reset_after_fork()
        assert transport.send(make_request(server), timeout=10).status == 200
        assert server.connections == 2
        transport._release(busy)
        transport.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_fork(self, serve, make_request, trusting, server_context) -> None:
        """Parent and child go on after a fork, each on connections of its own, without anybody's help."""
        server = serve(lambda peer, _: peer.serve(), server_context())
        transport = SocketTransport(ssl_context=trusting)
        transport.send(make_request(server), timeout=10)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                transport.send(make_request(server), timeout=10)
                transport.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert transport.send(make_request(server), timeout=10).status == 200
        transport.close()
        assert server.connections == 2


@pytest.mark.anyio
class TestCancellation:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("body", [b"{}", BIG], ids=["reading", "writing"])
    async def test_cancelled(self, serve, make_request, trusting, server_context, body, tls) -> None:
        """A cancelled exchange closes its connection at once, and the transport goes on."""
        asked, left = threading.Event(), threading.Event()

        def script(peer, number):
            if number == 0:
                peer.read_head()
                asked.set()
                if peer.left():
                    left.set()
            else:
                peer.serve()

        server = serve(script, server_context() if tls else None)
        transport = StreamTransport(ssl_context=trusting)
        async with anyio.create_task_group() as group:

            async def send() -> None:
                await transport.send(make_request(server, body=body), timeout=10)

            group.start_soon(send)
            assert await anyio.to_thread.run_sync(asked.wait, 10)
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(left.wait, 10)
        assert (await transport.send(make_request(server), timeout=10)).status == 200
        await transport.aclose()
        assert server.connections == 2

    async def test_cancelled_before(self, serve, make_request) -> None:
        """In a scope that is cancelled already nothing is sent."""
        seen = []
        server = serve(lambda peer, _: seen.append(peer.read_request()))
        transport = StreamTransport()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await transport.send(make_request(server), timeout=10)
        assert scope.cancelled_caught
        await transport.aclose()
        assert not any(seen)


def test_a_close_that_interrupts_a_close() -> None:
    """A signal handler that stops a tracker whose stop() is just closing the connections comes to its end."""
    transport = atom_sync.SocketTransport()

    def interrupted() -> None:
        with transport._lock:  # as in the midst of close()
            transport.close()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
