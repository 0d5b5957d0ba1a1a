"""What a custom ``event_backlog`` stores."""

from __future__ import annotations


class Event:
    """One event on its way through an :class:`~ironsource.atom.event_storage.EventStorage`.

    Args:
        stream: the stream's name.
        data: what is sent, a ``str``.
    """

    def __init__(self, stream: str, data: object) -> None:
        self.stream = stream
        self.data = data
        self.key_id: str | None = None
        """Fingerprint of the key that ``track`` was called with, empty for none; never the key itself.

        An event that comes back without it, from a store that keeps only the two above, is signed with the
        key that its stream was last tracked with.
        """
