"""A third driver: one thread, many requests in flight, the standard library's selectors.

Events, batches, signatures, retries and HTTP are the core's; here are a clock, sockets and a wait.  Nothing
runs in the background: the program calls :meth:`Tracker.poll` from a loop of its own.  There is no TLS,
and the look-up of a host's name blocks.
"""

from __future__ import annotations

import errno
import logging
import os
import pkgutil
import random
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from math import inf
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector
from typing import TYPE_CHECKING

import atom_sansio as atom

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger("atom")


def connect(origin: atom.Origin) -> Iterator[socket.socket]:
    """Non-blocking sockets that begin to connect to *origin*, one for each of its addresses."""
    for family, kind, proto, _, address in socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.connect_ex(address) in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            yield sock
        else:
            sock.close()


class Connection:
    """One socket and its protocol.  Its exchanges yield what to wait for, and are sent what is ready."""

    def __init__(self, origin: atom.Origin, sockets: Iterator[socket.socket]) -> None:
        self.peer = f"{origin.host}:{origin.port}"
        self.socket: socket.socket | None = None
        self._sockets = sockets
        self._http = atom.HttpConnection(origin)
        self._written = False

    def begin(self, command: atom.SendRequest, now: float) -> None:
        """Take up a request; ``steps`` goes through it."""
        self.command = command
        self.deadline = now + command.timeout
        self.steps = self._exchange(command.request)

    def _exchange(self, request: atom.Request) -> Generator[int, int, atom.Reply]:
        unsent = memoryview(self._http.send(request))
        self._written = False
        try:
            sock = self.socket or (yield from self._open())
            # The reply is looked for from the start: a collector may refuse a request it has not read whole.
            while (reply := self._http.next_reply()) is None:
                ready = yield EVENT_READ | (EVENT_WRITE if unsent else 0)
                if ready & EVENT_WRITE:
                    try:
                        unsent = unsent[sock.send(unsent) :]
                        self._written = not unsent
                    except BlockingIOError:
                        pass
                    except OSError:
                        unsent = memoryview(b"")  # reading tells why
                if ready & EVENT_READ:
                    with suppress(BlockingIOError):
                        self._http.receive_data(sock.recv(16 * 1024))
        except (OSError, UnicodeError) as error:
            raise atom.ConnectionFailed(f"{self.peer}: {error}", stale=self._http.stale) from error
        return reply

    def _open(self) -> Generator[int, int, socket.socket]:
        error = errno.EADDRNOTAVAIL
        for sock in self._sockets:
            self.socket = sock
            yield EVENT_WRITE
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                return sock
            self.close()
        raise OSError(error, os.strerror(error))

    def reusable(self) -> bool:
        """Whether another request may follow: the last was written and answered, and nothing came since."""
        if self.socket is None or not self._written or not self._http.reusable:
            return False
        try:
            self.socket.recv(1)  # any byte is one too many, and the end is the end
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Tracker:
    """Carries events to a collector whenever :meth:`poll`, :meth:`flush` or :meth:`stop` is called.

    Args:
        endpoint: URL of the collector; the environment's ``ATOM_ENDPOINT`` if left out.
        clock: gives monotonic seconds.
        unit: gives draws from [0, 1).
        connect: gives sockets to an origin, see :func:`connect`.
        selector: waits for these sockets.
        options: see :class:`atom_sansio.Options`; ``transport`` is not among them.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        unit: Callable[[], float] = random.random,
        connect: Callable[[atom.Origin], Iterator[socket.socket]] = connect,
        selector: BaseSelector | None = None,
        **options: Unpack[atom.TrackerOptions],
    ) -> None:
        self._options = atom.Options.read({"endpoint": endpoint, **options}, os.environ, pkgutil.resolve_name)
        if self._options.transport is not None or self._options.endpoint.origin.scheme != "http":
            raise ValueError("endpoint must begin with http://, and transport be left out: this driver is one")
        self._clock, self._unit, self._connect = clock, unit, connect
        self._selector = selector or DefaultSelector()
        self._active: list[Connection] = []
        self._idle: list[Connection] = []
        offset = time.time() - clock()
        self._core = atom.TrackerCore(self._options, source=os.urandom(16).hex(), unix_offset=offset)

    def track(self, stream: str, event: object, *, auth_key: str | atom.AuthKey | None = None) -> None:
        """Accept *event*.  Polls only while there is no room for it and ``on_full`` is ``block``."""
        key = None if auth_key is None else atom.AuthKey.of(auth_key)
        timeout = self._options.block_timeout
        until = inf if timeout is None else self._clock() + timeout
        while True:
            try:
                self._core.track(stream, event, key, now=self._clock())
            except atom.BacklogFull:
                if self._options.on_full is not atom.OnFull.BLOCK or self._clock() >= until:
                    raise
                self.poll(until - self._clock())
            else:
                return

    def poll(self, timeout: float = 0.0) -> None:
        """Do what is due; if there is nothing, wait for it, but no longer than *timeout* seconds."""
        self._obey()
        if self._core.closed:
            return
        times = [self._clock() + timeout, *(connection.deadline for connection in self._active)]
        if (deadline := self._core.next_deadline()) is not None:
            times.append(deadline)
        until = min(times)
        for key, ready in self._selector.select(None if until == inf else max(0.0, until - self._clock())):
            self._selector.unregister(key.fileobj)
            self._step(key.data, ready)
        now = self._clock()
        for connection in [connection for connection in self._active if connection.deadline <= now]:
            assert connection.socket is not None
            self._selector.unregister(connection.socket)
            self._end(connection, atom.RequestTimeout(f"{connection.peer} did not reply in time"))
        self._obey()

    def flush(self, timeout: float = 5.0) -> atom.FlushResult:
        """Send what is pending without waiting for full batches; return what became of it within *timeout*."""
        until = self._clock() + timeout
        return self._follow(self._core.flush(now=self._clock()), until).result

    def stop(self, timeout: float = 5.0) -> atom.FlushResult:
        """Take no more events, send what is pending, and report as lost what is not confirmed in time."""
        until = self._clock() + timeout
        flush = self._follow(self._core.close(now=self._clock()), until)
        if not flush.done:
            self._core.abandon(now=self._clock())
        self._obey()
        for connection in (*self._active, *self._idle):
            connection.close()
        self._active, self._idle = [], []
        self._selector.close()
        return flush.result

    def statistics(self) -> atom.Statistics:
        """The ledger as it stands."""
        return self._core.statistics()

    def set_auth_key(self, stream: str, auth_key: str | atom.AuthKey) -> None:
        """Sign *stream* with another key from now on; if the collector had refused the old one, go on."""
        self._core.set_auth_key(stream, atom.AuthKey.of(auth_key), now=self._clock())

    def _follow(self, flush: atom.Flush, until: float) -> atom.Flush:
        self.poll()
        while not flush.done and self._clock() < until:
            self.poll(until - self._clock())
        return flush

    def _obey(self) -> None:
        while (command := self._core.next_command(now=self._clock())) is not None:
            if isinstance(command, atom.SendRequest):
                self._begin(command)
            else:
                self._tell(command)

    def _begin(self, command: atom.SendRequest) -> None:
        while self._idle and not self._idle[-1].reusable():
            self._idle.pop().close()
        origin = command.request.origin
        connection = self._idle.pop() if self._idle else Connection(origin, self._connect(origin))
        connection.begin(command, self._clock())
        self._active.append(connection)
        self._step(connection, None)

    def _step(self, connection: Connection, ready: int | None) -> None:
        try:
            interest = connection.steps.send(ready)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            self._end(connection, end.value)
        except atom.RemoteError as error:
            self._end(connection, error)
        else:
            assert connection.socket is not None
            self._selector.register(connection.socket, interest, connection)

    def _end(self, connection: Connection, outcome: atom.Reply | atom.RemoteError) -> None:
        self._active.remove(connection)
        batch_id, now, unit = connection.command.batch_id, self._clock(), self._unit()
        if isinstance(outcome, atom.RemoteError):
            self._core.send_failed(batch_id, outcome, now=now, unit=unit)
        else:
            self._core.response_received(batch_id, outcome, now=now, unit=unit)
        if isinstance(outcome, atom.Reply) and connection.reusable():
            self._idle.append(connection)
        else:
            connection.close()

    def _tell(self, report: atom.ReportLoss | atom.ReportParked) -> None:
        if isinstance(report, atom.ReportParked):
            logger.error("the key of stream %r is refused (status %d)", report.stream, report.status)
        elif self._options.on_loss is None:
            logger.error("%d events of stream %r are lost", report.loss.count, report.loss.stream)
        else:
            try:
                self._options.on_loss(report.loss)
            except Exception:
                logger.exception("on_loss raised")
