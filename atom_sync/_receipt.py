"""What ``track`` gives a thread that wants to know what becomes of one event."""

from __future__ import annotations

from collections.abc import Callable

import atom_sansio
from atom_sansio import Outcome


class Receipt(atom_sansio.Receipt):
    """Follows one event until it has its outcome.

    To wait does not hurry the event; ``flush`` does.
    """

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[Receipt, float | None], None]) -> None:
        super().__init__()
        self._wait = wait

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the outcome.

        Args:
            timeout: seconds, at least 0; None waits as long as it takes.

        Returns:
            The outcome; None if there is none within *timeout*.

        Raises:
            LocalError: the event was tracked before a fork and had no outcome then.  It is the parent's, which alone
                learns of that.
        """
        if not self.done:
            self._wait(self, timeout)
        return self.outcome
