"""The transport over httpx, for what the native one does not do: proxies, HTTP/2, client certificates."""

from __future__ import annotations

from typing import Any

import anyio

from atom_sansio._errors import ConnectionFailed, ReplyError, RequestTimeout
from atom_sansio._messages import Reply, Request


class HttpxTransport:
    """Sends through an ``httpx.AsyncClient``; needs the extra ``httpx``.

    Args:
        client_options: those of ``httpx.AsyncClient``, which checks them: ``proxy``, ``http2``, ``verify``,
            ``cert``, ``trust_env`` and so on.

    Raises:
        ImportError: httpx is not installed.
        TypeError: httpx knows no such option; or it is ``timeout``, which each request brings with it, or
            ``follow_redirects``: events are not handed to an address nobody chose.
    """

    def __init__(self, **client_options: Any) -> None:
        try:
            import httpx
        except ImportError as exc:
            raise ImportError("HttpxTransport needs httpx: pip install 'atom-events[httpx]'") from exc
        for name in ("timeout", "follow_redirects"):
            if name in client_options:
                raise TypeError(f"{name} is not an option of HttpxTransport")
        self._client = httpx.AsyncClient(**client_options)

    async def send(self, request: Request, *, timeout: float) -> Reply:
        """See :meth:`Transport.send`.  ``ConnectionFailed.stale`` is always False: httpx does not tell."""
        import httpx

        from atom_sansio._http import MAX_BODY

        peer = f"{request.origin.host}:{request.origin.port}"
        if self._client.is_closed:
            raise ConnectionFailed("the transport is closed")
        body = bytearray()
        try:
            with anyio.fail_after(timeout) as scope:
                async with self._client.stream(
                    request.method,
                    request.url,
                    # A reply that is not compressed needs no guard against one that unpacks to gigabytes.
                    headers=[*request.headers, ("Accept-Encoding", "identity")],
                    content=request.body,
                    timeout=None,
                    follow_redirects=False,
                ) as response:
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > MAX_BODY:
                            scope.cancel()  # leaving the loop instead would leave httpx's generators open
        except TimeoutError as exc:
            raise RequestTimeout(f"{peer} did not reply in time") from exc
        except httpx.RemoteProtocolError as exc:
            raise ReplyError(f"{peer} sent no valid HTTP reply") from exc
        except (httpx.RequestError, httpx.InvalidURL, UnicodeError) as exc:  # the last two: no host name
            raise ConnectionFailed(f"{peer}: {_reason(exc)}") from exc
        if len(body) > MAX_BODY:
            raise ReplyError(f"{peer} sent a reply with a body of more than {MAX_BODY} bytes")
        headers = tuple(response.headers.multi_items())
        return Reply(status=response.status_code, headers=headers, body=bytes(body))

    async def aclose(self) -> None:
        """Close the client; later requests fail."""
        await self._client.aclose()


def _reason(exc: BaseException) -> str:
    """The first words in a chain of exceptions: trio's own say nothing, and httpcore hides what is behind them."""
    while not str(exc) and (before := exc.__cause__ or exc.__context__) is not None:
        exc = before
    return str(exc)
