"""What is sent to the collector: read, verified, stored, and then answered.

A request is answered with 200 when its events are committed.  What is refused is kept, with the reason; and
where even that cannot be stored, :class:`StoreFailed` is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from atom_sansio import Keyring, Refused, Submission, answer, read_submission

from ._keys import LiveKeyring
from ._store import Store
from ._tables import Outcome

T = TypeVar("T")


class Submissions:
    """An ASGI application for ``POST /``, ``POST /bulk`` and ``GET /``.

    It is no function of a Request that gives a Response: making those, and reading through them, costs as much
    as reading 64 events and checking their signature.
    """

    def __init__(self, store: Store, keyring: Keyring | LiveKeyring, max_body: int) -> None:
        self._store = store
        self._keyring = keyring
        self._max_body = max_body
        self._turn = _Turn(store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        query: bytes = scope["query_string"]
        if method == "HEAD":  # comes with every GET route; this one is not for looking
            raise HTTPException(405, headers={"Allow": "GET, POST"})
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        body = bytearray()
        try:
            await self._read_body(headers, receive, body)
            submission = read_submission(
                method, f"{scope['path']}?{query.decode('latin-1')}", headers, bytes(body), max_body=self._max_body
            )
            self._keyring.verify(submission)
            await self._turn.add(submission)
        except Refused as refused:
            await done(self._store.reject(refused, query if method == "GET" else bytes(body)))
            await response(refused)(scope, receive, send)
        else:
            await send(_OK_START)
            await send(_OK_BODY)

    async def _read_body(self, headers: list[tuple[str, str]], receive: Receive, body: bytearray) -> None:
        """Read into *body*, which keeps what was read when it turns out to be too much."""
        announced = dict(headers).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_body:
            raise self._too_large()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise self._too_large()
            more = message.get("more_body", False)

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self._max_body} bytes")


class _Turn:
    """The submissions that come in one turn of the loop: handed to the store together, and back together.

    One by one, each would wake the store's thread, and that thread the loop; and the two would fight for the
    interpreter's lock while the loop still has requests to read, for commits of one or two requests each.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._submissions: list[Submission] = []
        self._waiters: list[asyncio.Future[None]] = []

    async def add(self, submission: Submission) -> None:
        """Return when *submission* is committed, or was so before.

        Raises:
            Refused: its batch id is taken, with status 422.
            StoreFailed: it is not, and nothing else of this turn is.
        """
        loop = asyncio.get_running_loop()
        if not self._submissions:
            loop.call_soon(self._hand_over)
        waiter = loop.create_future()
        self._submissions.append(submission)
        self._waiters.append(waiter)
        await waiter

    def _hand_over(self) -> None:
        submissions, self._submissions = self._submissions, []
        waiters, self._waiters = self._waiters, []
        try:
            stored = asyncio.wrap_future(self._store.add_all(submissions))
        except Exception as error:  # the store is closed; whatever it is, those who wait must hear of it
            _settle(waiters, [error] * len(waiters))
        else:
            stored.add_done_callback(partial(_stored, submissions, waiters))


def _stored(
    submissions: Sequence[Submission], waiters: Sequence[asyncio.Future[None]], stored: asyncio.Future[list[Outcome]]
) -> None:
    error = stored.exception()
    if error is not None:
        _settle(waiters, [error] * len(waiters))
    else:
        _settle(waiters, [_refusal(it, outcome) for it, outcome in zip(submissions, stored.result(), strict=True)])


def _refusal(submission: Submission, outcome: Outcome) -> Refused | None:
    """A batch id with other events than before is a mistake that an answer of 200 would make a loss in silence.

    The status is that of the draft on Idempotency-Key (draft-ietf-httpapi-idempotency-key-header, section 2.7).
    The trackers here take it as they do 400: they split the batch, and its halves come under new ids.
    """
    if outcome is not Outcome.CONFLICT:
        return None
    reason = "the Idempotency-Key is that of a batch with other events"
    return Refused(422, reason, stream=submission.stream, events=len(submission.elements))


def _settle(waiters: Sequence[asyncio.Future[None]], errors: Sequence[BaseException | None]) -> None:
    for waiter, error in zip(waiters, errors, strict=True):
        if waiter.done():  # its task was cancelled
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


async def done(future: Future[T]) -> T:
    """The result of the store's *future*."""
    return await asyncio.wrap_future(future)


def response(refused: Refused | None = None) -> Response:
    """What a client is told."""
    reply = answer(refused)
    return Response(reply.body, reply.status, dict(reply.headers))


_OK: Final = response()
_OK_START: Final[Message] = {"type": "http.response.start", "status": _OK.status_code, "headers": _OK.raw_headers}
_OK_BODY: Final[Message] = {"type": "http.response.body", "body": _OK.body}
"""The answer that nearly all get, made once."""
