"""The transport over httpx, for what the native one does not do: proxies, HTTP/2, client certificates."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

from atom_sansio._errors import ConnectionFailed, ReplyError, RequestTimeout
from atom_sansio._messages import Reply, Request


class HttpxTransport:
    """Sends through an ``httpx.Client``; needs the extra ``httpx``.

    httpx limits each wait, not their sum.  The sum is checked whenever a piece of a reply's body is in, so a
    server that trickles may hold a request for longer than its timeout; the native transport and the async
    twin of this one have no such gap.

    Args:
        client_options: those of ``httpx.Client``, which checks them: ``proxy``, ``http2``, ``verify``,
            ``cert``, ``trust_env`` and so on.  A ready ``transport`` among them does not survive a fork.

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
        self._options = client_options
        self._client = httpx.Client(**client_options)
        self._pid = os.getpid()
        self._inherited: list[httpx.Client] = []

    def send(self, request: Request, *, timeout: float) -> Reply:
        """See :meth:`Transport.send`.  ``ConnectionFailed.stale`` is always False: httpx does not tell."""
        import httpx

        from atom_sansio._http import MAX_BODY

        from ._connection import LONGEST_WAIT

        deadline = monotonic() + timeout
        peer = f"{request.origin.host}:{request.origin.port}"
        if self._pid != os.getpid():
            self.reset_after_fork()  # a Client, which unlike a Tracker is not told of it, was there before
        if self._client.is_closed:
            raise ConnectionFailed("the transport is closed")
        body = bytearray()
        try:
            with self._client.stream(
                request.method,
                request.url,
                # A reply that is not compressed needs no guard against one that unpacks to gigabytes.
                headers=[*request.headers, ("Accept-Encoding", "identity")],
                content=request.body,
                timeout=min(timeout, LONGEST_WAIT),
                follow_redirects=False,
            ) as response:
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise ReplyError(f"{peer} sent a reply with a body of more than {MAX_BODY} bytes")
                    if monotonic() >= deadline:
                        raise RequestTimeout(f"{peer} did not reply in time")
        except httpx.TimeoutException as exc:
            raise RequestTimeout(f"{peer} did not reply in time") from exc
        except httpx.RemoteProtocolError as exc:
            raise ReplyError(f"{peer} sent no valid HTTP reply") from exc
        except (httpx.RequestError, httpx.InvalidURL, UnicodeError) as exc:  # the last two: no host name
            raise ConnectionFailed(f"{peer}: {exc}") from exc
        headers = tuple(response.headers.multi_items())
        return Reply(status=response.status_code, headers=headers, body=bytes(body))

    def close(self) -> None:
        """Close the client; later requests fail."""
        self._client.close()

    def reset_after_fork(self) -> None:
        """Go on, in a child process, with a client of its own.

        The parent's is kept untouched: closing it takes locks that a thread of the parent may have held.
        """
        import httpx

        self._inherited.append(self._client)
        self._client = httpx.Client(**self._options)
        self._pid = os.getpid()
