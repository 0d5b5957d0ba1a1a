"""The client's side of one HTTP/1.1 connection: requests to bytes, bytes to replies.

h11 is the parser of replies and the state machine.  What is added is what a client needs that does not trust its peer:

- everything is bounded, so that no reply costs more memory or work than the limits below;
- a reply comes out the same however its bytes were cut on their way;
- what went wrong is told apart: a connection that broke, or a reply that is none.

One exchange is ``send``, then ``receive_data`` for whatever arrives until ``next_reply`` gives the reply.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from ._errors import ConnectionFailed, LocalError, RemoteError, ReplyError
from ._messages import Origin, Reply, Request

MAX_HEAD: Final = 64 * 1024
"""Bytes of a reply before its body, interim (1xx) replies included."""

MAX_BODY: Final = 64 * 1024
"""Bytes of a reply's body."""

MAX_REPLY: Final = 4 * 64 * 1024
"""Bytes of a reply as they come, so that chunks of one byte with long extensions come to an end too."""

_HEAD: Final = re.compile(
    r"[A-Z]+ /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [!-~]+(?: +[!-~]+)*\r\n)+\r\n", re.ASCII
)
"""A request's head as it may be sent: tokens and visible ASCII (RFC 9110, 5)."""

_STAND_IN: Final = h11.Request(method="POST", target="/", headers=[("Host", "stand-in")])
"""Tells h11 that a request was sent.  Of the request it needs no more to read the reply, and to build and check
the real one there costs as much as to read the reply; its bytes are written here instead."""

_STAND_IN_END: Final = h11.EndOfMessage()
"""Tells h11 that all of it was sent."""

_EXCERPT: Final = 80
"""Characters of a parser's complaint that are passed on: it may quote the reply, which may quote us."""


class HttpConnection:
    """One connection to *origin*, without its socket; exchanges follow one another, never overlap.

    After any error the connection is of no more use: close it.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._peer = f"{origin.host}:{origin.port}"
        self._host = f"Host: {origin.authority}"
        # The limits here are exact, while h11's depends on how the bytes were cut.
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_REPLY)
        self._idle = True
        self._awaited = False
        self._served = False
        self._eof = False
        self._received = 0
        self._head: h11.Response | None = None
        self._body = bytearray()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: none is under way, and the peer neither left nor talks on."""
        return self._idle and not self._eof

    @property
    def stale(self) -> bool:
        """Whether a break now means, most likely, that the peer had closed the connection while it was idle.

        That is: an earlier request was served, and of the present reply not a byte has come.
        """
        return self._served and not self._received

    def send(self, request: Request) -> bytes:
        """The bytes of *request*, all to be written; Host and Content-Length are added.

        A reply may come before all is written (a 413, say).  So a driver whose writing fails reads on
        as far as it can, then closes.

        Raises:
            LocalError: the connection is not ``reusable``.
            ValueError: *request* is for another origin, or has a character where HTTP does not allow it.
        """
        if not self.reusable:
            raise LocalError("a request can be sent only on an open connection, after the reply to the last")
        if request.origin != self._origin:
            raise ValueError(f"request.origin must be that of the connection, {self._peer}")
        lines = [f"{request.method} {request.target} HTTP/1.1", self._host]
        lines += [f"{name}: {value}" for name, value in request.headers]
        if request.body or request.method != "GET":  # RFC 9110, 8.6
            lines.append(f"Content-Length: {len(request.body)}")
        lines += ("", "")
        head = "\r\n".join(lines)
        # The count tells a line break of ours from one that came with a value.
        if not _HEAD.fullmatch(head) or head.count("\n") != len(lines) - 1:
            # In general words: the target of a GET holds the event.
            raise ValueError("request has a method, target or header that HTTP does not allow")
        self._idle = False
        self._awaited = True
        self._received = 0
        self._head = None
        self._body.clear()
        self._h11.send(_STAND_IN)
        self._h11.send(_STAND_IN_END)
        return head.encode("ascii") + request.body

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent; ``b""`` says that it closed its side.  Then call ``next_reply``."""
        if data:
            self._idle = False  # nobody has asked
            self._received += len(data)
            self._h11.receive_data(data)
        else:
            self._eof = True

    def next_reply(self) -> Reply | None:
        """The final reply to the request, or None while it is not whole; interim ones (1xx) are passed over.

        Raises:
            LocalError: no request was sent since the last reply or error.
            ConnectionFailed: the peer closed its side before the reply was whole.
            ReplyError: what came is no HTTP/1.1 reply, or is over a limit.
        """
        if not self._awaited:
            raise LocalError("there is no request to be replied to")
        try:
            return self._advance()
        except RemoteError:
            self._awaited = False
            raise

    def _advance(self) -> Reply | None:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                # Not chained, for the same reason that it is cut short.
                raise ReplyError(f"{self._peer} sent no valid HTTP reply: {str(exc)[:_EXCERPT]}") from None
            if event is h11.NEED_DATA:
                self._check_size(self._received)
                if not self._eof:
                    return None
                event = self._end_of_stream()
            # Not isinstance(), which asks the abstract base class of h11's events and takes its time.
            if type(event) is h11.Response:
                if event.http_version not in (b"1.1", b"1.0"):
                    raise ReplyError(f"{self._peer} replied in a version of HTTP that is not 1.1")
                self._check_consumed()
                self._head = event
            elif type(event) is h11.Data:
                if len(self._body) + len(event.data) > MAX_BODY:
                    raise ReplyError(f"{self._peer} sent a reply with a body of more than {MAX_BODY} bytes")
                self._body += event.data
            elif type(event) is h11.EndOfMessage:
                return self._finish()

    def _end_of_stream(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """What the end of the stream means where h11 wants more: the end of an unmeasured body, or a break.

        h11 learns of the end only here, or else what is malformed could not be told from what is cut off.
        """
        if self._head is None:
            start = self._h11.trailing_data[0][:7]
            if start != b"HTTP/1."[: len(start)]:
                raise ReplyError(f"{self._peer} sent no valid HTTP reply")
            raise ConnectionFailed(f"{self._peer} closed the connection before its reply", stale=self.stale)
        self._h11.receive_data(b"")
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            raise ConnectionFailed(f"{self._peer} closed the connection in the middle of its reply") from exc

    def _finish(self) -> Reply:
        assert self._head is not None
        self._check_consumed()
        self._awaited = False
        self._served = True
        if self._h11.their_state is h11.DONE:  # and so is ours: all was sent
            self._idle = not self._h11.trailing_data[0]
            self._h11.start_next_cycle()
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in self._head.headers]
        return Reply(status=self._head.status_code, headers=tuple(headers), body=bytes(self._body))

    def _check_consumed(self) -> None:
        """This reply's own bytes are within their limit; those behind it are not its own."""
        if self._received > MAX_HEAD:  # else there is no need to count them
            self._check_size(self._received - len(self._h11.trailing_data[0]))

    def _check_size(self, size: int) -> None:
        limit = MAX_HEAD if self._head is None else MAX_REPLY
        if size > limit:
            raise ReplyError(f"{self._peer} sent a reply of more than {limit} bytes")
