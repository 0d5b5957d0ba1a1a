"""What the low-level calls return."""

from __future__ import annotations

from atom_sansio import RemoteError, Reply


class Response:
    """The answer to one request.

    Args:
        error: None after a 2xx, else the server's words, or what went wrong on the way.
        data: the body of a 2xx, else None.
        status: the HTTP status.  500 if no answer came, whether the connection broke or time was up: callers
            try again from 500 up and give up below, and what was not answered may not have arrived.
        raw_response: the whole reply, whatever its status, or the exception that came in its place
            (:class:`~atom_sansio.RequestTimeout` if time was up).
    """

    def __init__(
        self,
        error: str | None,
        data: bytes | None,
        status: int,
        raw_response: Reply | RemoteError | None = None,
    ) -> None:
        self.error = error
        self.data = data
        self.status = status
        self.raw_response = raw_response
