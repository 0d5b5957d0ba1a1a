"""What passes between the core, its drivers and their users: frozen, complete when built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias, Union

from ._kept import LoadBatch, Records, UpdateBacklog

JSON: TypeAlias = "Union[str, int, float, bool, list[JSON], tuple[JSON, ...], Mapping[str, JSON], None]"
"""What an event may be.  Other types that are taken are listed at :func:`~atom_sansio.encode_event`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections go: one key of a connection pool."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """A name or an address; an IPv6 address without its brackets."""
    port: int

    @property
    def authority(self) -> str:
        """``host[:port]`` as the Host header and URLs have it; a default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request, ready to be put on a wire by any transport."""

    method: str
    origin: Origin
    target: str
    """Path and query, ASCII, beginning with ``/``."""
    headers: tuple[tuple[str, str], ...]
    """All but Host and Content-Length, which follow from the rest.  No key is among them."""
    body: bytes = field(repr=False)

    @property
    def url(self) -> str:
        """The absolute URL, for transports that want one."""
        return f"{self.origin.scheme}://{self.origin.authority}{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One whole HTTP reply."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    """At most 64 KiB."""

    def header(self, name: str) -> str | None:
        """The first header called *name* (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Response:
    """What :class:`Client` methods give back."""

    status: int | None
    """The HTTP status; None when no answer came."""
    body: bytes
    """The answer's body, at most 64 KiB; empty when no answer came."""
    error: str | None
    """None after a 2xx, else the server's own words or what went wrong on the way."""


class LossReason(str, Enum):
    """Why events were lost."""

    REJECTED = "rejected"
    """The collector refused the event itself (4xx)."""
    REDIRECTED = "redirected"
    """The collector answered with a redirect, which is never followed."""
    TOO_LARGE = "too_large"
    """The collector refused even a lone event for its size (413)."""
    EXPIRED = "expired"
    """The retry policy's ``max_attempts`` or ``max_elapsed`` was reached."""
    BACKLOG_FULL = "backlog_full"
    """``on_full`` said to drop."""
    STOPPED = "stopped"
    """The tracker was stopped before delivery could be confirmed."""
    DAMAGED = "damaged"
    """The backlog held them, and they cannot be read any more; what is left of them is set aside there."""


class Outcome(str, Enum):
    """What became of an event that a receipt was asked for."""

    DELIVERED = "delivered"
    LOST = "lost"
    KEPT = "kept"
    """The tracker was stopped before that; the event is in the backlog, for the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Events that will not be delivered, and why.  Handed to ``on_loss``."""

    stream: str
    lines: bytes = field(repr=False)
    """The events as they were encoded, one line of JSON each, in the order they were tracked.  Empty if they were
    in the backlog alone, and dropped there or damaged."""
    count: int
    """How many events there are."""
    reason: LossReason
    status: int | None
    """The status of the last answer, if there was one."""
    message: str
    """The server's words, or ours."""
    attempts: int
    """How many times the events had been sent."""
    time: float
    """When it was decided, in Unix seconds."""

    @property
    def events(self) -> tuple[JSON, ...]:
        """The events as JSON values, decoded at each access; integers are exact whatever their size."""
        import json  # not before it is needed: it takes a third as long to import as the whole core

        return tuple(json.loads(line) for line in self.lines.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushResult:
    """What became of the events that had been accepted when ``flush`` or ``stop`` was called."""

    delivered: int
    lost: int
    pending: int
    """Not decided when the time was up.  After ``stop`` these are in the backlog, and sent by the next tracker that
    has it; without a backlog there are none, since what is left is lost."""

    def __bool__(self) -> bool:
        """Whether every one of them was delivered."""
        return not self.lost and not self.pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The ledger: ``accepted == delivered + sum(lost.values()) + pending``, at every instant."""

    accepted: int
    """By ``track``, or by an earlier tracker that left them in the backlog."""
    restored: int
    """Those that were in the backlog when this tracker began."""
    delivered: int
    lost: Mapping[LossReason, int]
    """Events by reason; reasons that never happened are absent."""
    pending: int
    """Events waiting, in flight or between retries."""
    pending_bytes: int
    """Their size as JSON, a separator each included, wherever they are; what ``max_pending_bytes`` bounds."""
    lanes: int
    """(stream, key) pairs that hold events now."""
    parked: int
    """Lanes that wait for ``set_auth_key`` after a 401 or 403."""
    in_flight: int
    """Requests without an outcome yet."""
    requests: int
    """Requests handed to the transport so far."""
    failures: int
    """Requests that came to no answer or were told to come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest:
    """Send *request*, then report the outcome under the same *batch_id*.

    The outcome is one call of ``response_received`` or ``send_failed``.
    """

    batch_id: str
    request: Request
    timeout: float
    """Seconds allowed for the whole exchange, connection included."""
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLoss:
    """Tell the user's ``on_loss``, outside of any lock."""

    loss: Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportParked:
    """Tell the user that the collector refuses a stream's key; its events wait for ``set_auth_key``."""

    stream: str
    status: int | None
    """That of the answer.  None if nothing was sent: the backlog holds events of a key that was not given again."""
    message: str
    """The server's words, or ours."""


Command: TypeAlias = Union[SendRequest, ReportLoss, ReportParked]
"""Drivers end their match with ``assert_never``."""

BacklogCommand: TypeAlias = Union[Records, UpdateBacklog, LoadBatch]
"""Likewise, for what has a backlog as its object."""
