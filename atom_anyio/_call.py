"""A call in a worker thread that asyncio's own ``cancel()``, which no scope shields from, does not lose sight of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from ._loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Call(Generic[T]):
    """What to give to a worker thread: *call* with *args*.

    Whoever is cancelled while it waits for the thread can prevent the call or wait for its end: to make it again, or
    to go on as if it had failed, while the thread is still at it, would have two threads work on one thing.
    """

    def __init__(self, loop: Loop, call: Callable[..., T], *args: Any) -> None:
        self.call = call
        self._args = args
        self._loop = loop
        self._open = [True]  # whoever takes it decides whether the call is made
        self._given: list[T] = []
        self.error: BaseException | None = None
        """What it has raised."""
        self._ended = threading.Event()
        self._tell: Callable[[], None] | None = None

    def __call__(self) -> T:
        """Make the call."""
        if self.prevent():
            self._make()
        return self._result()

    def start(self, name: str) -> Self:
        """Have a thread of its own make the call: a daemon, so that one that hangs does not keep the process alive."""
        self.prevent()
        threading.Thread(target=self._make, name=name, daemon=True).start()
        return self

    def prevent(self) -> bool:
        """Have the call not made; False if a thread has begun with it."""
        try:
            return self._open.pop()
        except IndexError:
            return False

    async def wait(self) -> T:
        """What the call gives or raises, when the thread that has begun with it has ended."""
        ended = anyio.Event()
        self._tell = ended.set
        if not self._ended.is_set():
            await ended.wait()
        return self._result()

    async def end(self) -> T:
        """As :meth:`wait`, however often asyncio's own ``cancel()`` comes meanwhile.  For a scope that is shielded."""
        while not self._ended.is_set():
            with suppress(anyio.get_cancelled_exc_class()):
                await self.wait()
        return self._result()

    def join(self) -> None:
        """Wait, in a thread, until the one that has begun with the call has ended."""
        self._ended.wait()

    def _make(self) -> None:
        try:
            self._given.append(self.call(*self._args))
        except BaseException as error:
            self.error = error
        self._ended.set()
        if self._tell is not None:
            with suppress(RuntimeError):  # the loop has come to its end
                self._loop.call_soon(self._tell)

    def _result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._given[0]
