"""What a custom ``event_backlog`` has to be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .event import Event


class EventStorage(ABC):
    """Holds events between ``track`` and the building of their batch.

    Methods are called from several threads at once.  What they raise is reported to the tracker's callback
    or its log, and harms nothing else.
    """

    def __init__(self) -> None:  # noqa: B027 - subclasses written for the old SDK call it
        pass

    @abstractmethod
    def add_event(self, event_object: Event) -> None:
        """Store *event_object* behind those of its stream.  It may block, or raise to refuse it."""

    @abstractmethod
    def get_event(self, stream: str) -> Event | None:
        """Take out the oldest event of *stream*; None if there is none."""

    @abstractmethod
    def remove_event(self, stream: str) -> Event | None:
        """Take out the oldest event of *stream*; the tracker itself never calls this."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing is stored."""
