"""For tests of programs that send events: a transport that keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio.lowlevel

from atom_sansio._memory import Answer, Recorder
from atom_sansio._messages import JSON, Reply, Request


class MemoryTransport:
    """Answers by a script and keeps every request; no socket is opened.

    Args:
        answer: nothing, and every request is answered 200; a sequence of answers, used up one by one,
            then 200; or a function of the :class:`~atom_sansio.Request` that gives the answer.  An answer
            is a status, a :class:`~atom_sansio.Reply` or an exception to be raised.

    Raises:
        TypeError, ValueError: *answer* is none of these; the message says what is wrong.
    """

    def __init__(self, answer: Sequence[Answer] | Callable[[Request], Answer] | None = None) -> None:
        self._recorder = Recorder(answer)

    @property
    def requests(self) -> list[Request]:
        """Every request, in the order of arrival, however it was answered."""
        return self._recorder.requests

    @property
    def events(self) -> list[tuple[str, JSON]]:
        """``(stream, event)`` of everything answered 2xx, in order, as a collector would show it."""
        return self._recorder.events

    async def send(self, request: Request, *, timeout: float) -> Reply:
        """The answer that is due; *timeout* is ignored, since no time passes."""
        await anyio.lowlevel.checkpoint()
        return self._recorder.reply(request)

    async def aclose(self) -> None:
        """Nothing is open; what was kept stays."""
