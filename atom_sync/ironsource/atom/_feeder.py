"""The tracker underneath a custom ``event_backlog``, which holds events until a batch is built from them."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from math import inf

from atom_sansio import AuthKey, BacklogFull, Flush, FlushResult, Level, Options, TrackerClosed, encode_event
from atom_sync._clock import Clock
from atom_sync._tracker import _check_timeout

from ._text import event_text
from ._tracker import OldCore, OldTracker
from .atom_logger import get_logger
from .event import Event
from .event_storage import EventStorage


@dataclass(slots=True, eq=False)
class _Stream:
    """What is known of a stream's events in the storage."""

    deadline: float
    """When a batch is to be taken though it will not be full."""
    events: int = 0
    """How many were put in and not taken out.  Fewer than none if there were others before."""
    flushing: int = 0
    """How many of these are to go without waiting for a full batch."""
    not_before: float = -inf
    """When to ask again, after the storage has failed."""

    def due(self, batch_events: int) -> float:
        """When to take a batch."""
        full = self.events >= batch_events
        # With none known to be left there may still be others: only an answer of None says that there are none.
        return max(self.not_before, -inf if full or self.flushing > 0 or self.events <= 0 else self.deadline)


class FeedingTracker(OldTracker):
    """Puts events into a storage, and takes them out when their stream can send: no event is copied before.

    One thread does the taking.  It waits for outcomes and for what ``put`` and ``flush`` tell it.  A forked child
    goes without the storage, since nobody can tell whether it is a copy of the parent's or the same one.

    Args:
        options: of the modern tracker.
        storage: holds the events.
        batches_ahead: how many batches of a stream may be out of the storage and not yet delivered.
        stream_limit: see :class:`OldTracker`; counts in a forked child alone.
        clock: where time comes from.
    """

    def __init__(
        self,
        options: Options,
        storage: EventStorage,
        batches_ahead: int,
        stream_limit: int | None,
        clock: Clock | None,
    ) -> None:
        self._storage: EventStorage | None = storage
        self._ahead = (batches_ahead - 1) * options.max_batch_events
        super().__init__(options, stream_limit, clock)

    def _begin(self) -> None:
        super()._begin()
        self._streams: dict[str, _Stream] = {}  # those that may have events in the storage; the next is the first
        self._keys: dict[str, AuthKey] = {}  # by fingerprint
        self._latest_key: dict[str, AuthKey | None] = {}  # by stream
        self._feeding = False  # whether there is the thread
        self._news = False  # for the thread; a finaliser that tracks may bring some just before it waits
        self._moving = False  # whether it has events in its hands
        self._closing = False  # takes no more events
        self._closed = False  # takes none out of the storage, either

    def _begin_in_child(self) -> None:
        self._storage = None
        super()._begin_in_child()

    def _new_core(self, level: Level | None) -> OldCore:
        limit = self._stream_limit
        if self._storage is not None:
            self._stream_limit = None  # the storage is the limit
        try:
            return super()._new_core(level)
        finally:
            self._stream_limit = limit

    # -- what callers ask -----------------------------------------------------------------------------

    def put(self, stream: str, text: str, key: AuthKey | None) -> None:
        """Put an event into the storage.

        Raises:
            BacklogFull: the storage raised.
            TrackerClosed: after :meth:`stop`.
        """
        if self._storage is None:
            super().put(stream, text, key)
            return
        event = Event(stream, text)
        event.key_id = "" if key is None else key.fingerprint
        with self._lock:
            if self._closing:
                raise TrackerClosed("the tracker was stopped and takes no more events")
            if key is not None:
                self._keys[key.fingerprint] = key
            self._latest_key[stream] = key
        try:
            self._storage.add_event(event)
        except Exception as error:
            raise BacklogFull(f"event_backlog.add_event raised {type(error).__name__}: {error}") from error
        with self._lock:
            now = self._clock.now()
            state = self._streams.get(stream)
            if state is None:
                state = self._streams[stream] = _Stream(now + self._options.flush_interval)
                news = True
            else:
                news = state.events + 1 == self._options.max_batch_events
            state.events += 1
            if news:
                self._wake_feeder()

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """See :meth:`Tracker.flush`; the result counts what is out of the storage, the rest follows."""
        with self._lock:
            self._flush_storage()
        return super().flush(timeout)

    def stop(self, timeout: float = 5.0) -> FlushResult:
        """See :meth:`Tracker.stop`; what there is no time to send stays in the storage.

        A fifth of *timeout* is kept for what is then on its way.
        """
        until = self._clock.now() + _check_timeout(timeout)
        cut = until - timeout / 5
        self._close()
        if not self._feeding:  # the interpreter shuts down and starts no more threads
            self._move_all(cut)
        with self._lock:
            while self._streams and not self._closed and self._clock.now() < cut:
                self._clock.wait(self._room, cut)
            self._closed = True
            self._clock.notify_all(self._room)
            while self._moving and self._clock.now() < until:
                self._clock.wait(self._room, until)
            left = sum(max(state.events, 0) for state in self._streams.values())
            self._streams.clear()
        if left:
            get_logger().warning("the tracker stopped with %d events in its event_backlog", left)
        return super().stop(max(0.0, until - self._clock.now()))

    def _close(self) -> Flush:
        """Close for callers; for the storage only when that is done with."""
        with self._lock:
            if self._closed or self._storage is None:
                return super()._close()
            self._closing = True
            self._flush_storage()
            return self._core.flush(now=self._clock.now())

    # -- the thread -----------------------------------------------------------------------------------

    def _flush_storage(self) -> None:
        for state in self._streams.values():
            state.flushing = state.events
        self._wake_feeder()

    def _wake_feeder(self) -> None:
        self._news = True
        if self._feeding:
            self._clock.notify_all(self._room)
        elif self._streams:
            try:
                self._clock.start(self._feed, "atom-backlog")
            except RuntimeError:  # the interpreter shuts down; stop() knows
                return
            self._feeding = True

    def _feed(self) -> None:
        lock = self._lock  # in a forked child there is another one, and this thread is not there
        while (stream := self._next_stream()) is not None:
            self._move_batch(stream)
        with lock:
            self._feeding = False

    def _next_stream(self) -> str | None:
        """Wait for a stream that is due and can send; None when there is nothing more to take."""
        with self._lock:
            while not self._closed:
                self._news = False
                now = self._clock.now()
                until = inf
                for stream, state in self._streams.items():
                    due = state.due(self._options.max_batch_events)
                    if due > now:
                        until = min(until, due)
                    elif self._core.pending_of(stream) <= self._ahead:
                        self._streams[stream] = self._streams.pop(stream)  # the others first, next time
                        self._moving = True
                        return stream
                if not self._news:
                    self._clock.wait(self._room, None if until == inf else until)
            return None

    def _move_batch(self, stream: str) -> None:
        """Take events out of the storage until they make a batch or there are no more, and have them sent."""
        for _ in range(self._options.max_batch_events):
            if not self._move_event(stream):
                break
        with self._lock:
            state = self._streams.get(stream)
            now = self._clock.now()
            if state is not None and state.deadline <= now:
                state.deadline = now + self._options.flush_interval
            self._moving = False
            self._core.flush(now=now)  # all that is out of the storage is due
            super()._wake()
            self._clock.notify_all(self._room)

    def _move_event(self, stream: str) -> bool:
        """Take one event out of the storage; return whether there may be more."""
        assert self._storage is not None
        with self._lock:
            state = self._streams.get(stream)
            if self._closed or state is None:
                return False
            expected = state.events
        try:
            event = self._storage.get_event(stream)
        except queue.Empty:
            event = None
        except Exception as error:
            get_logger().error("event_backlog.get_event raised %s", type(error).__name__, exc_info=True)
            with self._lock:
                state.not_before = self._clock.now() + self._options.flush_interval
            return False
        with self._lock:
            if event is None:
                if expected > 0:
                    get_logger().error("event_backlog has none of %d events of stream %r", expected, stream)
                state.events -= max(expected, 0)
                state.flushing = 0
                if state.events <= 0:
                    self._streams.pop(stream, None)
                return False
            state.events -= 1
            state.flushing -= 1
        self._accept(stream, event)
        return True

    def _accept(self, stream: str, event: Event) -> None:
        try:
            text = event_text(event.data)
            line = encode_event(text)
            with self._lock:
                key_id = getattr(event, "key_id", None)
                key = None if key_id == "" else self._keys.get(key_id or "", self._latest_key.get(stream))
                if self._core.track_line(stream, line, key, now=self._clock.now()):
                    self._wake()
        except Exception as error:
            # Whatever came out of the storage is in nobody else's hands any more.
            self.refuse(stream, getattr(event, "data", event), error)

    def _move_all(self, until: float) -> None:
        for stream in tuple(self._streams):
            while stream in self._streams and self._clock.now() < until:
                self._move_batch(stream)
