"""One connection of the native transport: a socket under an absolute deadline, and its protocol."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from atom_sansio._errors import ConnectionFailed, RequestTimeout
from atom_sansio._http import HttpConnection
from atom_sansio._messages import Origin, Reply, Request

if TYPE_CHECKING:
    import ssl

_READ: Final = 16 * 1024
"""Bytes asked for at once; most replies have less than 200."""

LONGEST_WAIT: Final = 1_000_000.0
"""Seconds of one wait at most, 11 days: poll() takes milliseconds in a C int and raises OverflowError past 24."""


class Connection:
    """One socket to *origin*; the first exchange connects it.  *tls* gives the context where there is TLS."""

    def __init__(self, origin: Origin, tls: Callable[[], ssl.SSLContext]) -> None:
        self.origin = origin
        self._tls = tls
        self._http = HttpConnection(origin)
        self._socket: socket.socket | None = None
        self._wait_for_reply: Callable[[float], bool]
        self._would_block: tuple[type[OSError], ...] = (BlockingIOError,)
        self._buffered: Callable[[], int] = int  # bytes that TLS has read already; nothing without it
        self._written = False
        self._used_at = 0.0

    @property
    def reusable(self) -> bool:
        """Whether the last exchange left it in good order."""
        return self._socket is not None and self._http.reusable and self._written

    def usable(self, idle_timeout: float) -> bool:
        """Whether a request may be sent now: the peer has said nothing since the last, not even goodbye."""
        if self._socket is None:
            return True
        # Any byte at all is one too many, with TLS too.
        return monotonic() - self._used_at < idle_timeout and not self._wait_for_reply(0)

    def exchange(self, request: Request, deadline: float) -> Reply:
        """Send *request* and wait for its reply, both before *deadline*, which is in monotonic seconds."""
        data = self._http.send(request)
        self._written = False
        try:
            if self._socket is None:
                self._socket = self._connect(deadline)
            try:
                spoken = self._write(self._socket, data, deadline)
            except TimeoutError:
                raise
            except OSError:
                spoken = False  # there may be a reply all the same; else reading fails too
            if not spoken:
                self._read(self._socket, deadline)
            while (reply := self._http.next_reply()) is None:
                self._read(self._socket, deadline)
        except OSError as exc:
            peer = f"{self.origin.host}:{self.origin.port}"
            if isinstance(exc, TimeoutError) and exc.errno is None:  # with one it is the kernel's verdict
                raise RequestTimeout(f"{peer} did not reply in time") from exc
            raise ConnectionFailed(f"{peer}: {exc.strerror or exc}", stale=self._http.stale) from exc
        self._used_at = monotonic()
        return reply

    def close(self) -> None:
        """Close the socket, without TLS's farewell: HTTP says itself where a reply ends."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write(self, sock: socket.socket, data: bytes, deadline: float) -> bool:
        """Write all of *data*, or less if the peer speaks first; return whether it did.

        A server may refuse a request before it has read all of it, then stop reading or close.  (When it
        closes at once, over TLS, its words may be lost: OpenSSL reads nothing after a failed write.)
        """
        view = memoryview(data)
        while True:
            try:
                sent = sock.send(view)
            except self._would_block:
                sent = 0
            view = view[sent:]
            if not view:
                self._written = True
                return False
            _waiter(sock, _READABLE | _WRITABLE)(_left(deadline))
            with suppress(*self._would_block):
                self._http.receive_data(sock.recv(_READ))
                return True

    def _read(self, sock: socket.socket, deadline: float) -> None:
        """Read what comes next of the reply."""
        if not self._buffered():
            self._wait_for_reply(_left(deadline))
        try:
            data = sock.recv(_READ)
        except self._would_block:
            return
        self._http.receive_data(data)

    def _connect(self, deadline: float) -> socket.socket:
        sock = _connect(self.origin, deadline)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.origin.scheme == "https":
                import ssl

                self._would_block = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
                sock = self._tls().wrap_socket(
                    sock,
                    server_hostname=self.origin.host,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,  # or anyone on the way could cut a reply short unnoticed
                )
                sock.settimeout(_left(deadline))
                sock.do_handshake()
                self._buffered = sock.pending
            # From here on it never blocks: to give it a timeout before each operation is a system call each.
            sock.settimeout(0)
            self._wait_for_reply = _waiter(sock, _READABLE)
        except BaseException:
            sock.close()
            raise
        return sock


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, LONGEST_WAIT)


_READABLE: Final = 1
_WRITABLE: Final = 2


def _waiter(sock: socket.socket, what: int) -> Callable[[float], bool]:
    """What waits until *sock* can be read or written, whichever of them *what* says, or for so many seconds.

    It says whether the socket can.
    """
    if sys.platform == "win32":  # pragma: no cover
        read, write = [sock] if what & _READABLE else [], [sock] if what & _WRITABLE else []
        return lambda seconds: any(select.select(read, write, [], seconds))
    poll = select.poll()  # select() on Unix does not take descriptors above 1023
    poll.register(sock, (select.POLLIN if what & _READABLE else 0) | (select.POLLOUT if what & _WRITABLE else 0))
    return lambda seconds: bool(poll.poll(seconds * 1000))


def _connect(origin: Origin, deadline: float) -> socket.socket:
    addresses = _resolve(origin, deadline)
    while True:
        family, kind, proto, _, address = addresses.pop(0)
        sock = socket.socket(family, kind, proto)
        try:
            # An address that swallows everything must leave time for the others.
            sock.settimeout(_left(deadline) / (len(addresses) + 1))
            sock.connect(address)
        except BaseException as exc:
            sock.close()
            if not addresses or not isinstance(exc, OSError):
                raise
        else:
            return sock


def _resolve(origin: Origin, deadline: float) -> list[tuple[Any, ...]]:
    """The addresses of *origin*, as getaddrinfo() gives them.

    It takes no time limit, so a name is looked up in a thread, which is left behind when time is up.
    """

    def look_up(flags: int = 0) -> list[tuple[Any, ...]]:
        return [*socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=flags)]

    def answer() -> None:
        try:
            answers.put(look_up())
        except UnicodeError as exc:
            answers.put(OSError(f"no host name: {exc}"))
        except OSError as exc:
            answers.put(exc)

    try:
        return look_up(socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name, then
    answers: SimpleQueue[list[tuple[Any, ...]] | OSError] = SimpleQueue()
    try:
        Thread(target=answer, name="atom-resolver", daemon=True).start()
    except RuntimeError:  # there are no new threads while the interpreter shuts down
        answer()
    try:
        found = answers.get(timeout=_left(deadline))
    except Empty:
        raise TimeoutError from None
    if isinstance(found, OSError):
        raise found
    return found
