"""The high-level API: events are carried to the collector in the background."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from atom_sansio import Endpoint, LocalError, Loss, LossReason, OnFull, Options, RetryPolicy
from atom_sansio._request import check_stream
from atom_sync import SocketTransport, Transport
from atom_sync._clock import Clock

from . import config
from ._callback import read_callback
from ._debug import DebugTransport, open_raw_log
from ._feeder import FeedingTracker
from ._settings import read_number
from ._text import event_text
from ._tracker import OldTracker, Refusal
from .atom_logger import get_logger
from .event_storage import EventStorage
from .ironsource_atom import read_key

_ANY_SIZE: Final = 1 << 62
"""Bytes that may be pending: the old API bounds events of a stream, and one stream never blocks another."""


class IronSourceAtomTracker:
    """Carries events to a collector from any thread, in the background.

    Events of one stream and key arrive in the order they were tracked.  Call :meth:`stop` in the end; at
    interpreter exit, and on SIGTERM and SIGINT if it was made in the main thread, that is done for you.  After a
    signal the handlers that were there before are called.

    Settings that are out of range get their default, after a warning.

    Args:
        batch_worker_count: requests at once, 1 to 1024.
        batch_pool_size: how many batches of a stream may be taken out of *event_backlog* ahead of their
            delivery, from 1 up; without an *event_backlog* nothing has to be taken out of anything.
        event_backlog: holds events until a batch is built from them, instead of the tracker's own memory.
        backlog_size: events of one stream that wait or are under way at most; 0 or less for any number.
            *event_backlog*, if there is one, sets its own limit.
        flush_interval: milliseconds, at least 1000; the age at which an event is sent though its batch is not full.
        retry_max_time: seconds, at least 120; no pause between two tries is longer.
        retry_max_count: tries of one batch, at least 1; ignored if *retry_forever*.
        batch_size: events of one request at most, 1 to 2000.
        batch_bytes_size: bytes of one request's body at most, 1024 to 524288.  An event that does not fit
            even alone goes to *callback*.
        is_debug: print what happens, unless the program's logging shows it anyway.
        debug_to_file: write each request and response to a file, without keys and signatures.
        debug_file_path: its folder.
        endpoint: URL of the collector, with or without a trailing slash.
        auth_key: signs what comes without a key of its own; empty for unsigned.
        callback: called as ``(unix_time, http_code, error_msg, sent_data)``, with the stream as a fifth argument
            if it takes one, for all that will not be delivered.  One call at a time, in a thread of its own, with
            no lock held.  *sent_data* is what :meth:`track` was called with (its text, if it has one), *http_code*
            400, where the event was not accepted; and after that the list of the texts of a batch.  *http_code* is
            the collector's, but 500 where tries or time ran out.
        retry_forever: whether a batch is tried again for as long as the collector does not take or refuse it.
        is_blocking: whether :meth:`track` waits for room in the backlog for as long as it takes.
        backlog_timeout: seconds that it waits otherwise; then the event goes to *callback*.
        request_timeout: seconds for one exchange.

    Raises:
        TypeError, ValueError: *endpoint* is no http(s) URL, *auth_key* no ``str``, or *event_backlog* no storage.
    """

    TAG: Final = "IronSourceAtomTracker"

    _new_transport: type[Transport] = SocketTransport
    """Makes what requests go through."""
    _clock: Clock | None = None
    """Where time comes from."""

    def __init__(
        self,
        batch_worker_count: int = config.BATCH_WORKER_COUNT,
        batch_pool_size: int = config.BATCH_POOL_SIZE,
        event_backlog: EventStorage | None = None,
        backlog_size: int = config.BACKLOG_SIZE,
        flush_interval: int = config.FLUSH_INTERVAL,
        retry_max_time: int = config.RETRY_MAX_TIME,
        retry_max_count: int = config.RETRY_MAX_COUNT,
        batch_size: int = config.BATCH_SIZE,
        batch_bytes_size: int = config.BATCH_BYTES_SIZE,
        is_debug: bool = False,
        debug_to_file: bool = False,
        debug_file_path: str = config.DEBUG_FILE_PATH,
        endpoint: str = config.ATOM_ENDPOINT,
        auth_key: str = "",
        callback: Callable[..., object] | None = None,
        retry_forever: bool = config.RETRY_FOREVER,
        is_blocking: bool = config.BACKLOG_BLOCKING,
        backlog_timeout: float = config.BACKLOG_TIMEOUT,
        request_timeout: float = config.REQUEST_TIMEOUT,
    ) -> None:
        try:
            key = read_key(auth_key)
        finally:
            del auth_key  # a traceback may show the locals
        logger = get_logger(debug=is_debug is True)

        def number(name: str, value: int, default: int, low: int, high: float = _ANY_SIZE) -> int:
            return read_number(logger, name, value, default, low=low, high=high)

        limit = number("backlog_size", backlog_size, config.BACKLOG_SIZE, -_ANY_SIZE)
        batch_size = number("batch_size", batch_size, config.BATCH_SIZE, 1, config.BATCH_SIZE_LIMIT)
        batch_bytes_size = number(
            "batch_bytes_size", batch_bytes_size, config.BATCH_BYTES_SIZE, 1024, config.BATCH_BYTES_SIZE_LIMIT
        )
        flush_interval = number("flush_interval", flush_interval, config.FLUSH_INTERVAL, 1000)
        retry_max_time = number("retry_max_time", retry_max_time, config.RETRY_MAX_TIME, 120)
        retry_max_count = number("retry_max_count", retry_max_count, config.RETRY_MAX_COUNT, 1)
        workers = number("batch_worker_count", batch_worker_count, config.BATCH_WORKER_COUNT, 1, 1024)
        pool_size = number("batch_pool_size", batch_pool_size, config.BATCH_POOL_SIZE, 1)
        backlog_timeout = read_number(
            logger, "backlog_timeout", backlog_timeout, float(config.BACKLOG_TIMEOUT), low=0, high=_LONGEST
        )
        request_timeout = read_number(
            logger, "request_timeout", request_timeout, float(config.REQUEST_TIMEOUT), low=0.001, high=_LONGEST
        )
        stream_limit = limit if limit > 0 else None
        self._callback = read_callback(callback, logger)
        endpoint_ = Endpoint.parse(endpoint)
        raw_log = open_raw_log(debug_file_path) if debug_to_file else None
        options = Options(
            endpoint=endpoint_,
            auth_key=key,
            max_batch_events=batch_size,
            max_batch_bytes=batch_bytes_size,
            flush_interval=flush_interval / 1000,
            max_pending_bytes=_ANY_SIZE,
            on_full=OnFull.BLOCK,
            block_timeout=None if is_blocking else backlog_timeout,
            max_in_flight=workers,
            request_timeout=request_timeout,
            retry=RetryPolicy(
                base=config.RETRY_EXPO_BACKOFF_BASE,
                cap=retry_max_time,
                max_attempts=None if retry_forever else retry_max_count,
            ),
            on_loss=self._report,
            transport=DebugTransport(self._new_transport(), logger, raw_log),
        )
        self._tracker: OldTracker
        if event_backlog is None:
            self._tracker = OldTracker(options, stream_limit, self._clock)
        else:
            for name in ("add_event", "get_event"):
                if not callable(getattr(event_backlog, name, None)):
                    kind = type(event_backlog).__name__
                    raise TypeError(f"event_backlog must be an EventStorage; {kind} has no {name}()")
            self._tracker = FeedingTracker(options, event_backlog, pool_size, stream_limit, self._clock)
        self._forget_signals: Callable[[], None] = lambda: None
        with contextlib.suppress(ValueError):  # only the main thread can have handlers
            self._forget_signals = self._tracker.catch_signals()

    def set_debug(self, is_debug: bool) -> None:
        """Print what happens, or no longer; anything but True is taken for False."""
        get_logger(debug=is_debug is True)

    def track(self, stream: str, data: object, auth_key: str = "") -> None:
        """Accept an event for delivery; never does network I/O, and never raises.

        Whatever is wrong with the arguments, or if there is no room in time, or after :meth:`stop`, the callback
        gets *data* with code 400, as it always did for data without a JSON form.

        Args:
            stream: 1 to 512 characters.
            data: a ``str``, which goes as it is, UTF-8 bytes, or anything that has a JSON form.
            auth_key: signs this event instead of the constructor's key.
        """
        try:
            check_stream(stream)
            key = read_key(auth_key)
            text = event_text(data)
        except (TypeError, ValueError) as error:
            self._tracker.refuse(stream, data, error)
            return
        try:
            self._tracker.put(stream, text, key)
        except LocalError as error:
            self._tracker.refuse(stream, text, error)

    def flush(self) -> None:
        """Have all that was tracked so far sent without waiting for full batches.  Returns at once."""
        self._tracker.flush(timeout=0)

    def stop(self) -> None:
        """Take no more events, send what waits, and report what is not delivered within five seconds.

        Stopping twice is harmless.
        """
        try:
            self._tracker.stop()
        finally:
            with contextlib.suppress(ValueError):  # not in the main thread; the handlers do no harm
                self._forget_signals()

    def _report(self, loss: Loss) -> None:
        data: object = loss.data if isinstance(loss, Refusal) else list(loss.events)
        code = _CODES.get(loss.reason) or loss.status or 400
        get_logger().error(
            "events of stream %r are lost after %d tries: %s (%d)", loss.stream, loss.attempts, loss.message, code
        )
        if self._callback is None:
            return
        try:
            self._callback(loss.time, code, loss.message, data, loss.stream)
        except Exception:
            get_logger().exception("the callback failed")


_CODES: Final = {LossReason.EXPIRED: 500, LossReason.STOPPED: 500}
"""Codes that do not come from the collector: 500 says, as it did, that the batch itself may be all right."""
_LONGEST: Final = 1_000_000.0
"""Seconds; about what threads can wait for on all systems."""
