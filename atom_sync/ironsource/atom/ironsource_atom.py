"""The low-level API: one request at a time, answered at once."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable
from typing import Final

from atom_sansio import AuthKey, Endpoint
from atom_sansio._request import check_stream
from atom_sync import SocketTransport, Transport

from . import config
from ._debug import DebugTransport, open_raw_log
from ._settings import read_number
from ._text import event_text, events_text
from .atom_logger import get_logger
from .request import Request
from .response import Response


class IronSourceAtom:
    """Sends events on the caller's thread and gives back the collector's answer.  Safe to share between threads.

    Args:
        is_debug: print what happens, unless the program's logging shows it anyway.
        endpoint: URL of the collector, with or without a trailing slash.
        auth_key: signs what comes without a key of its own; empty for unsigned.
        request_timeout: seconds for one exchange.
        debug_to_file: write each request and response to a file, without keys and signatures.
        debug_file_path: its folder.

    Raises:
        TypeError, ValueError: *endpoint* is no http(s) URL, or *auth_key* no ``str``.  Other settings that are
            out of range get their default, after a warning.
    """

    TAG: Final = "IronSourceAtom"

    _new_transport: type[Transport] = SocketTransport
    """Makes what requests go through."""

    def __init__(
        self,
        is_debug: bool = False,
        endpoint: str = config.ATOM_ENDPOINT,
        auth_key: str = "",
        request_timeout: float = config.REQUEST_TIMEOUT,
        debug_to_file: bool = False,
        debug_file_path: str = config.DEBUG_FILE_PATH,
    ) -> None:
        try:
            self._auth_key = read_key(auth_key)
        finally:
            del auth_key  # a traceback may show the locals
        self._url = str(Endpoint.parse(endpoint))
        self._endpoint = endpoint
        self.set_debug(is_debug)
        self._timeout = read_number(
            self._logger, "request_timeout", request_timeout, float(config.REQUEST_TIMEOUT), low=0.001
        )
        raw_log = open_raw_log(debug_file_path) if debug_to_file else None
        self._transport = DebugTransport(self._new_transport(), self._logger, raw_log)
        self._pid = os.getpid()
        weakref.finalize(self, self._transport.close)  # the old API has no close()

    def set_debug(self, is_debug: bool) -> None:
        """Print what happens, or no longer; anything but True is taken for False."""
        self._logger = get_logger(debug=is_debug is True)

    def get_auth(self) -> str:
        """The key given to the constructor."""
        return "" if self._auth_key is None else self._auth_key._key.decode()

    def put_event(self, stream: str, data: object, method: str = "POST", auth_key: str = "") -> Response:
        """Send one event: a ``str`` as it is, bytes as the UTF-8 they are, anything else as its JSON text.

        Args:
            stream: 1 to 512 characters.
            data: the event; falsy ones are events, too.
            method: ``GET`` in either case; anything else means ``POST``.
            auth_key: signs this event instead of the constructor's key.

        Raises:
            EventError, TypeError, ValueError: an argument is wrong; nothing was sent.
        """
        key = self._key(auth_key)
        del auth_key  # a traceback may show the locals
        if not isinstance(method, str):
            raise TypeError(f"method must be the str GET or POST, not {type(method).__name__}")
        request = self._request(self._url, self.create_request_data(stream, key, data))
        return request.get() if method.upper() == "GET" else request.post()

    def put_events(self, stream: str, data: Iterable[object], auth_key: str = "") -> Response:
        """Send a batch in one request; strings stay strings, values stay values.

        Args:
            stream: 1 to 512 characters.
            data: a list of at least one event.
            auth_key: signs this batch instead of the constructor's key.

        Raises:
            EventError, TypeError, ValueError: an argument is wrong; nothing was sent.
        """
        key = self._key(auth_key)
        del auth_key  # a traceback may show the locals
        if isinstance(data, (str, bytes, dict)) or not isinstance(data, Iterable):
            raise TypeError(f"data must be a list of events, not {type(data).__name__}")
        events = list(data)
        if not events:
            raise ValueError("data must hold at least one event")
        text = events_text(events)
        envelope = self.create_request_data(stream, key, text, batch=True)
        return self._request(f"{self._url}bulk", envelope).post()

    @staticmethod
    def create_request_data(stream: str, auth_key: str | AuthKey | None, data: object, batch: bool = False) -> str:
        """The envelope around *data*, as JSON text; unsigned if *auth_key* is empty.

        Raises:
            EventError, TypeError, ValueError: an argument is wrong.
        """
        key = read_key(auth_key)
        del auth_key  # a traceback may show the locals
        text = event_text(data)
        envelope: dict[str, object] = {"table": check_stream(stream), "data": text}
        if key is not None:
            envelope["auth"] = key.sign(text.encode())
        if batch:
            envelope["bulk"] = True
        return json.dumps(envelope)

    def _key(self, auth_key: str) -> AuthKey | None:
        return read_key(auth_key) or self._auth_key

    def _request(self, url: str, envelope: str) -> Request:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._transport.reset_after_fork()
        return Request(url, envelope, self._transport, self._timeout)


def read_key(auth_key: str | AuthKey | None) -> AuthKey | None:
    """The key that *auth_key* spells; None for none, that is, if it is empty or None.

    Raises:
        TypeError, ValueError: it spells no key.
    """
    try:
        return None if auth_key is None or auth_key == "" else AuthKey.of(auth_key)
    finally:
        del auth_key  # a traceback may show the locals
