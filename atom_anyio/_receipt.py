"""What ``track`` gives a task that wants to know what becomes of one event."""

from __future__ import annotations

from collections import deque

import anyio

import atom_sansio
from atom_sansio import Loss, Outcome


class Receipt(atom_sansio.Receipt):
    """Follows one event until it has its outcome.

    To wait does not hurry the event; ``flush`` does.  A time-out is a cancel scope around it.
    """

    __slots__ = ("_settled", "_waiting")

    def __init__(self, settled: deque[Receipt]) -> None:
        super().__init__()
        self._settled = settled
        self._waiting: anyio.Event | None = None

    async def wait(self) -> Outcome:
        """Wait for the outcome and give it."""
        if self._waiting is None:
            self._waiting = anyio.Event()
        if self._outcome is None:  # looked at after that is there: another thread may settle it just now
            await self._waiting.wait()
        assert self._outcome is not None
        return self._outcome

    def _settle(self, outcome: Outcome, loss: Loss | None = None) -> None:
        super()._settle(outcome, loss)
        if self._waiting is not None:
            self._settled.append(self)

    def _wake(self) -> None:
        """Let go on who waits.  To be called by the loop for what is in the deque that was given."""
        if self._waiting is not None:
            self._waiting.set()
