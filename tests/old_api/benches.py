"""Old-API objects over fakes, and a small collector of our own where bytes have to travel."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from atom_sansio import Reply, Request, RequestTimeout
from atom_sync import MemoryTransport
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker

sys.path.insert(0, str(Path(__file__).parent.parent / "drivers"))

from virtual import VirtualClock

KEY = "canary-k3y"


class FakeServer:
    """A transport that takes virtual time, and keeps when each request came.

    Args:
        clock: the time that passes.
        answer: as for :class:`atom_sync.MemoryTransport`.
        delay: seconds until the answer, or what gives them for a request.
    """

    def __init__(self, clock: VirtualClock, answer: Any = None, delay: float | Callable[[Request], float] = 0) -> None:
        self._clock = clock
        self._memory = MemoryTransport(answer)
        self._delay = delay if callable(delay) else lambda request: delay
        self.times: list[float] = []
        self.came: list[Request] = []

    @property
    def requests(self) -> list[Request]:
        return self.came

    @property
    def events(self) -> list[tuple[str, Any]]:
        """``(stream, event)`` of all that was answered 2xx."""
        return self._memory.events

    def send(self, request: Request, *, timeout: float) -> Reply:
        self.times.append(self._clock.now())
        self.came.append(request)
        delay = self._delay(request)
        if delay:
            self._clock.sleep(min(delay, timeout))
        if delay >= timeout:
            raise RequestTimeout("no reply in time")
        return self._memory.send(request, timeout=timeout)

    def close(self) -> None:
        pass


class Bench:
    """A tracker over a fake server on virtual time, and what its callback was told."""

    def __init__(self, clock: VirtualClock, answer: Any, delay: Any, settings: dict[str, Any]) -> None:
        self.clock = clock
        self.server = FakeServer(clock, answer, delay)
        self.calls: list[tuple[float, int, str, Any, str]] = []
        settings.setdefault("callback", lambda *args: self.calls.append(args))

        class Tracker(IronSourceAtomTracker):
            _clock = clock
            _new_transport = staticmethod(lambda: self.server)  # type: ignore[assignment]

        self.tracker = Tracker(**settings)

    def seen(self) -> list[Any]:
        """The events that were delivered."""
        return [event for _, event in self.server.events]


class ModelCollector:
    """Takes single events and batches over HTTP; refuses what is not signed with :data:`KEY`."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Any]] = []
        self.ports: list[int] = []
        """The client's port of each request."""
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                envelope = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.ports.append(self.client_address[1])
                expected = hmac.new(KEY.encode(), envelope["data"].encode(), hashlib.sha256).hexdigest()
                good = envelope.get("auth") == expected
                if good:
                    bulk = self.path.endswith("/bulk")
                    texts = json.loads(envelope["data"]) if bulk else [envelope["data"]]
                    model.rows += [(envelope["table"], json.loads(text)) for text in texts]
                body = b'{"Status": "Ok"}' if good else b"Permission denied"
                self.send_response(200 if good else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - overrides
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> ModelCollector:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
