"""The collector: the real server half before a modelled store, and what a network makes of its replies."""

from __future__ import annotations

from datetime import datetime, timezone
from random import Random

from atom_sansio import (
    ConnectionFailed,
    HttpConnection,
    Keyring,
    Refused,
    RemoteError,
    Reply,
    Request,
    Submission,
    answer,
    read_submission,
)

NO_LIMIT = 10 * 1024 * 1024
RETRY_AFTERS = ("0", "2", "7", "120", "3600", "1000000000", "-1", "soon", "", "date", "date", "date without date")


class Server:
    """What it stored outlives its restarts: 200 only after the event is stored, and a batch id once."""

    def __init__(self) -> None:
        self.keyrings: dict[str, Keyring] = {}
        """Of each stream, if there are keys."""
        self.up = True
        self.full = False
        self.max_body = NO_LIMIT
        self.broken: str | None = None
        """A stream that it fails to store."""
        self.stored: dict[str, list[int]] = {}
        """Numbers of the events by batch id."""

    def handle(
        self, request: Request, submission: Submission, numbers: list[int], poison: set[int]
    ) -> tuple[Reply, bool]:
        """The reply, and whether these events were stored now.

        *submission* is what ``read_submission`` made of that very request: it is a function of the request alone.
        """
        try:
            if len(request.body) > self.max_body:
                read_submission(request.method, request.target, request.headers, request.body, max_body=self.max_body)
            if self.keyrings:
                self.keyrings[submission.stream].verify(submission)
            if not poison.isdisjoint(numbers):
                raise Refused(400, "an event is refused", stream=submission.stream)
            if self.full or self.broken == submission.stream:
                raise Refused(503, "the store is full", stream=submission.stream)
        except Refused as refused:
            return answer(refused), False
        batch_id = submission.batch_id
        assert batch_id is not None
        new = batch_id not in self.stored
        if new:
            self.stored[batch_id] = numbers
        return answer(), new


def overloaded(rng: Random, unix_now: float) -> tuple[Reply, float]:
    """A reply that asks to come again later, and how many seconds later at least."""
    text = rng.choice(RETRY_AFTERS)
    seconds = {"2": 2.0, "7": 7.0, "120": 120.0, "3600": 3600.0, "1000000000": 3600.0}.get(text, 0.0)
    headers: tuple[tuple[str, str], ...] = (("retry-after", text),)
    if text.startswith("date"):
        whole = rng.choice((5, 600, 90_000))
        if text == "date":  # the server's clock is anywhere; only the difference counts
            server_now = rng.choice((0, 1_000_000_000, 4_000_000_000))
            headers = (("date", _date(server_now)), ("retry-after", _date(server_now + whole)))
            seconds = min(float(whole), 3600.0)
        else:
            headers = (("retry-after", _date(int(unix_now) + whole)),)
            seconds = min(max(float(int(unix_now) + whole) - unix_now, 0.0), 3600.0)
    return Reply(status=rng.choice((429, 503)), headers=headers, body=b"busy"), seconds


def _date(unix: int) -> str:
    return datetime.fromtimestamp(unix, timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")


def over_the_wire(request: Request, received: list[bytes]) -> Reply | RemoteError:
    """What a connection makes of these bytes, after which the peer is gone."""
    connection = HttpConnection(request.origin)
    connection.send(request)
    try:
        for data in [*received, b""]:
            connection.receive_data(data)
            reply = connection.next_reply()
            if reply is not None:
                return reply
    except RemoteError as error:
        return error
    return ConnectionFailed("nothing came")  # pragma: no cover - the end of the stream ends it


def half(rng: Random, reply: Reply) -> list[bytes]:
    """A reply that is cut off, in two pieces."""
    reason = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
    head = f"HTTP/1.1 {reply.status} said\r\n{reason}content-length: {len(reply.body)}\r\n\r\n"
    data = head.encode() + reply.body
    cut = rng.randrange(len(data))
    piece = rng.randrange(cut + 1)
    return [part for part in (data[:piece], data[piece:cut]) if part]


def garbage(rng: Random) -> list[bytes]:
    """What is no reply."""
    return [
        rng.choice(
            (
                b"HTTP/0.9 hello\r\n\r\n",
                b"\x15\x03\x01\x00\x02\x02F",
                b"HTTP/1.1 200 OK\r\nbad header line\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
                b"HTTP/1.1 OK 200\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
                rng.randbytes(40),
            )
        )
    ]
