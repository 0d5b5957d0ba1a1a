"""The collector as an ASGI application: the wire, and reading back what came over it.

A request is answered with 200 when its events are committed.  What is refused is kept, with the reason; and
where even that cannot be stored the answer is 503, as for everything else that needs the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from atom_sansio import Keyring, Refused, answer, read_submission
from atom_sansio._receive import MAX_BODY

from ._store import Store, StoreFailed

T = TypeVar("T")

DEFAULT_LIMIT: Final = 1000
MAX_LIMIT: Final = 10_000
"""Rows of one page."""

MAX_EVENT_DEPTH: Final = 256
"""Levels of nesting up to which an event is shown as a value."""


def create_app(store: Store, keyring: Keyring, *, max_body: int = MAX_BODY) -> Starlette:
    """The collector's application; it runs on asyncio.

    Args:
        store: Where events go.  It stays open when the application ends.
        keyring: What they must be signed with.
        max_body: Bytes of a request's body; more is answered with 413.
    """
    collector = _Collector(store, keyring, max_body)
    app = Starlette(
        routes=[
            Route("/", collector.submit, methods=["GET", "POST"]),
            Route("/bulk", collector.submit, methods=["POST"]),
            Route("/health", collector.health),
            Route("/_atom/events", collector.events, methods=["GET", "DELETE"]),
            Route("/_atom/rejected", collector.rejected),
            Route("/_atom/stats", collector.stats),
        ],
        exception_handlers={HTTPException: _http_error, StoreFailed: _store_failed, ClientDisconnect: _gone},
    )
    app.router.redirect_slashes = False  # no client follows a redirect
    return app


class _Collector:
    def __init__(self, store: Store, keyring: Keyring, max_body: int) -> None:
        self._store = store
        self._keyring = keyring
        self._max_body = max_body

    async def submit(self, request: Request) -> Response:
        if request.method == "HEAD":  # comes with every GET route; this one is not for looking
            raise HTTPException(405, headers={"Allow": "GET, POST"})
        query = request.scope["query_string"]
        body = bytearray()
        try:
            await self._read_body(request, body)
            submission = read_submission(
                request.method,
                f"{request.scope['path']}?{query.decode('latin-1')}",
                request.headers.items(),
                bytes(body),
                max_body=self._max_body,
            )
            self._keyring.verify(submission)
        except Refused as refused:
            await _done(self._store.reject(refused, query if request.method == "GET" else bytes(body)))
            return _answer(refused)
        await _done(self._store.add(submission))
        return _answer()

    async def _read_body(self, request: Request, body: bytearray) -> None:
        """Read into *body*, which keeps what was read when it turns out to be too much."""
        announced = request.headers.get("content-length", "")
        too_large = Refused(413, f"the body is larger than {self._max_body} bytes")
        if announced.isdecimal() and int(announced) > self._max_body:
            raise too_large
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body:
                raise too_large

    async def health(self, request: Request) -> Response:
        await _done(self._store.statistics())
        return Response("up", media_type="text/plain")

    async def events(self, request: Request) -> Response:
        if request.method == "DELETE":
            await _done(self._store.clear())
            return _answer()
        query = _Query(request, "stream", "after", "limit")
        page = await _done(
            self._store.events(
                stream=query.text("stream"),
                after=query.number("after", 0, 0, 2**63 - 1),
                limit=query.number("limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
            )
        )
        rows = [
            {
                "id": row.id,
                "stream": row.stream,
                "event": _value(row.text),
                "text": row.text,
                "batch_id": row.batch_id,
                "received_at": row.received_at,
            }
            for row in page.rows
        ]
        return _json({"events": rows, "next": page.next})

    async def rejected(self, request: Request) -> Response:
        query = _Query(request, "after", "limit")
        page = await _done(
            self._store.rejected(
                after=query.number("after", 0, 0, 2**63 - 1),
                limit=query.number("limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
            )
        )
        rows = [
            {
                "id": row.id,
                "stream": row.stream,
                "status": row.status,
                "reason": row.reason,
                "body": row.body.decode(errors="backslashreplace"),
                "received_at": row.received_at,
            }
            for row in page.rows
        ]
        return _json({"rejected": rows, "next": page.next})

    async def stats(self, request: Request) -> Response:
        statistics = await _done(self._store.statistics())
        return _json(statistics)


class _Query:
    """The parameters of a request, none of them misspelt or given twice."""

    def __init__(self, request: Request, *names: str) -> None:
        self._values: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name not in names:
                raise HTTPException(400, f"there is no parameter {name!r}, only {', '.join(names)}")
            if name in self._values:
                raise HTTPException(400, f"{name} is given twice")
            if value:  # `stream=` asks for none in particular
                self._values[name] = value

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        value = self._values.get(name, str(default))
        # 19 digits are enough for 2**63, and more than 4300 would not convert.
        if not (value.isascii() and value.isdigit() and len(value) < 20 and lowest <= int(value) <= highest):
            raise HTTPException(400, f"{name} must be an integer from {lowest} to {highest}")
        return int(value)


async def _done(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


def _value(text: str) -> Any:
    """The event as part of a page: its JSON just as it is, or a string where it is none.

    A string also where it is JSON that would keep some readers from reading the whole page: numbers that no
    float holds, deep nesting.
    """
    try:
        orjson.loads(text)
        if text.count("[") + text.count("{") > MAX_EVENT_DEPTH:
            padding = 1024 - MAX_EVENT_DEPTH  # orjson reads 1024 levels
            orjson.loads("[" * padding + text + "]" * padding)
    except orjson.JSONDecodeError:
        return text
    return orjson.Fragment(text)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def _answer(refused: Refused | None = None) -> Response:
    reply = answer(refused)
    return Response(reply.body, reply.status, dict(reply.headers))


async def _store_failed(request: Request, error: Exception) -> Response:
    # In general words: the store's own may name files.
    return _answer(Refused(503, "the store is failing; try again later"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"Status": "error", "reason": error.detail}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to see it
