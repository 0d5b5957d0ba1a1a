"""What ``track`` gives a task that wants to know what becomes of one event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import atom_sansio
from atom_sansio import Outcome


class Receipt(atom_sansio.Receipt):
    """Follows one event until it has its outcome.

    To wait does not hurry the event; ``flush`` does.  A time-out is a cancel scope around it.
    """

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[Receipt], Awaitable[None]]) -> None:
        super().__init__()
        self._wait = wait

    async def wait(self) -> Outcome:
        """Wait for the outcome and give it."""
        await self._wait(self)
        assert self.outcome is not None
        return self.outcome
