"""The collector as an ASGI application: what takes submissions, and reading back what came.

While the store fails the answer is 503, to a submission as to everything else that needs the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from atom_sansio import Keyring, Refused
from atom_sansio._receive import MAX_BODY

from ._keys import LiveKeyring
from ._store import Store, StoreFailed
from ._submissions import Submissions, done, response

DEFAULT_LIMIT: Final = 1000
MAX_LIMIT: Final = 10_000
"""Rows of one page."""

MAX_EVENT_DEPTH: Final = 256
"""Levels of nesting up to which an event is shown as a value."""


def create_app(store: Store, keyring: Keyring | LiveKeyring, *, max_body: int = MAX_BODY) -> Starlette:
    """The collector's application; it runs on asyncio, on one loop.

    Args:
        store: Where events go.  It stays open when the application ends.
        keyring: What they must be signed with.
        max_body: Bytes of a request's body; more is answered with 413.
    """
    submissions = Submissions(store, keyring, max_body)
    stored = _Stored(store)
    app = Starlette(
        routes=[
            Route("/", submissions, methods=["GET", "POST"]),
            Route("/bulk", submissions, methods=["POST"]),
            Route("/health", stored.health),
            Route("/_atom/events", stored.events, methods=["GET", "DELETE"]),
            Route("/_atom/rejected", stored.rejected),
            Route("/_atom/stats", stored.stats),
        ],
        exception_handlers={HTTPException: _http_error, StoreFailed: _store_failed, ClientDisconnect: _gone},
    )
    app.router.redirect_slashes = False  # no client follows a redirect
    return app


class _Stored:
    """What the store has, as JSON."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def health(self, request: Request) -> Response:
        await done(self._store.check())
        return Response("up", media_type="text/plain")

    async def events(self, request: Request) -> Response:
        if request.method == "DELETE":
            await done(self._store.clear())
            return response()
        query = _Query(request, "stream", "after", "limit")
        page = await done(
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
        page = await done(
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
        statistics = await done(self._store.statistics())
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


async def _store_failed(request: Request, error: Exception) -> Response:
    # In general words: the store's own may name files.
    return response(Refused(503, "the store is failing; try again later"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"Status": "error", "reason": error.detail}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to see it
