"""What ``is_debug`` and ``debug_to_file`` show of each exchange: never a key, a signature or, in the log, an event."""

from __future__ import annotations

import base64
import json
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from atom_sansio import RemoteError, Reply
from atom_sansio import Request as HttpRequest
from atom_sync import Transport

from . import config
from .atom_logger import get_logger


def open_raw_log(folder: str) -> logging.Logger:
    """The logger that writes to ``atom-raw.{day}-{month}.json`` in *folder*, or in the default one, after an error,
    if that is no folder to write to."""
    logger = get_logger()
    if not (isinstance(folder, (str, os.PathLike)) and Path(folder).is_dir() and os.access(folder, os.W_OK | os.R_OK)):
        logger.error("debug_file_path is no folder to read from and write to; %s is taken", config.DEBUG_FILE_PATH)
        folder = config.DEBUG_FILE_PATH
    today = datetime.now().astimezone()
    name = f"atom-raw.{today.day}-{today.month}.json"
    return get_logger("AtomRawLogger", file_name=str(Path(folder) / name))


class DebugTransport:
    """Another transport, and a note of each exchange in *logger* and, if there is one, in *raw_log*.

    A file gets two lines of JSON for each exchange, ``{"request": {...}}`` and ``{"response": {...}}``, with
    the same ``id``.
    """

    def __init__(self, transport: Transport, logger: logging.Logger, raw_log: logging.Logger | None) -> None:
        self._transport = transport
        self._logger = logger
        self._raw_log = raw_log

    def send(self, request: HttpRequest, *, timeout: float) -> Reply:
        """See :meth:`atom_sync.Transport.send`."""
        exchange_id = str(uuid4())
        path = urlsplit(request.target).path
        self._write("request", exchange_id, data=_envelope(request), headers=dict(request.headers))
        try:
            reply = self._transport.send(request, timeout=timeout)
        except RemoteError as error:
            self._logger.warning("%s %s: no answer: %s", request.method, path, error)
            self._write("response", exchange_id, body=str(error), code=None, headers={})
            raise
        level = logging.DEBUG if reply.status < 300 else logging.WARNING
        self._logger.log(level, "%s %s: status %d", request.method, path, reply.status)
        self._write("response", exchange_id, body=_body(reply), code=reply.status, headers=dict(reply.headers))
        return reply

    def close(self) -> None:
        """See :meth:`atom_sync.Transport.close`."""
        self._transport.close()

    def reset_after_fork(self) -> None:
        """Have the other transport forget what belongs to the parent process."""
        reset = getattr(self._transport, "reset_after_fork", None)
        if reset is not None:
            reset()

    def _write(self, what: str, exchange_id: str, **content: Any) -> None:
        if self._raw_log is not None:
            now = datetime.now().astimezone().isoformat()
            self._raw_log.info(json.dumps({what: {"id": exchange_id, f"{what}Time": now, **content}}))


def _envelope(request: HttpRequest) -> dict[str, Any]:
    """The envelope of *request* without its signature."""
    body = request.body
    if request.method == "GET":
        body = base64.b64decode(parse_qs(urlsplit(request.target).query)["data"][0])
    envelope: dict[str, Any] = json.loads(body)
    envelope.pop("auth", None)
    return envelope


def _body(reply: Reply) -> Any:
    """A reply's body as its JSON value, or as text where it is none."""
    text = reply.body.decode("utf-8", "replace")
    try:
        return json.loads(text, parse_constant=str)  # NaN goes in as a word, or it would come out as one
    except (ValueError, RecursionError):
        return text
