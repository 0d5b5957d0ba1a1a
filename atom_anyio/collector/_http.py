"""uvicorn's quick HTTP protocol, as strict as its h11 one."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's head up to which the next ones are waited for; h11 has about the same limit."""


class StrictProtocol(HttpToolsProtocol):
    """Refuses a head that has no end, which httptools would keep for ever, and one that does not name one host.

    How long a message is, httptools (llhttp) takes more strictly than h11: no two lengths, no bare line feeds.
    """

    _head: int | None = None
    """How much of an unfinished head there is; None within a body and between requests."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        self._head = None
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("there must be one Host")  # httptools makes it an error of the parser
        super().on_headers_complete()
