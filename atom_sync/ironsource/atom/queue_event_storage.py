"""An event storage in memory."""

from __future__ import annotations

import threading
from queue import Empty, Queue

from .event import Event
from .event_storage import EventStorage


class QueueEventStorage(EventStorage):
    """One bounded queue for each stream.

    Args:
        queue_size: events that each stream may have; 0 or less for any number.
        block: whether ``add_event`` waits for room for as long as it takes.
        timeout: seconds that it waits otherwise; None or 0 for not at all.
    """

    def __init__(self, queue_size: int, block: bool = True, timeout: float | None = None) -> None:
        super().__init__()
        self._queue_size = queue_size
        self._timeout = None if block else timeout or 0
        self._lock = threading.Lock()
        self._events: dict[str, Queue[Event]] = {}

    def add_event(self, event_object: Event) -> None:
        """Store *event_object*.

        Raises:
            queue.Full: there was no room in time.
        """
        with self._lock:  # and not while it waits: other streams may have room
            queue = self._events.setdefault(event_object.stream, Queue(self._queue_size))
        queue.put(event_object, timeout=self._timeout)

    def get_event(self, stream: str) -> Event | None:
        """Take out the oldest event of *stream*; None if there is none.  Never waits."""
        queue = self._events.get(stream)
        try:
            return None if queue is None else queue.get_nowait()
        except Empty:
            return None

    def remove_event(self, stream: str) -> Event | None:
        """The same as :meth:`get_event`."""
        return self.get_event(stream)

    def is_empty(self) -> bool:
        """Whether no stream has an event."""
        return all(queue.empty() for queue in tuple(self._events.values()))
