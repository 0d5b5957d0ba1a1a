"""The quick half of ``track``: how most events get into the core without a lock, a clock or a decision."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, overload

from ._encode import QUICKLY, encode_event, encode_quickly
from ._flush import Receipt
from ._inlet import Inlet
from ._lane import Lane
from ._sign import AuthKey

R = TypeVar("R", bound=Receipt)


class Intake(Generic[R]):
    """What trackers for users inherit their ``track`` from.

    An event without a key of its own, of a stream whose lane is open and has been lent enough of the pending
    budget, is appended right here, which is safe from any thread, signal handler and finaliser (see ``_inlet.py``).
    For all others the driver's :meth:`_decide` is called, which hands them to the core under its lock.

    It is one function, written out: each call within it would cost a tenth of what the whole does, and so would
    an argument that is only taken by name.
    """

    _lanes: Mapping[str, Lane]
    """The core's ``lanes``."""
    _late: deque[Inlet]
    """The core's ``late``."""

    if TYPE_CHECKING:

        @overload
        def _take(self, stream: str, event: object, auth_key: str | AuthKey | None = None) -> None: ...
        @overload
        def _take(
            self, stream: str, event: object, auth_key: str | AuthKey | None = None, *, receipt: Literal[False]
        ) -> None: ...
        @overload
        def _take(
            self, stream: str, event: object, auth_key: str | AuthKey | None = None, *, receipt: Literal[True]
        ) -> R: ...
        @overload
        def _take(
            self, stream: str, event: object, auth_key: str | AuthKey | None = None, *, receipt: bool
        ) -> R | None: ...

    def _take(
        self, stream: str, event: object, auth_key: str | AuthKey | None = None, receipt: bool | None = None
    ) -> R | None:
        """Accept *event* for delivery to *stream*; never does network I/O.

        Args:
            stream: 1 to 512 characters.
            event: a ``str``, which is passed through unchanged, or any value that has a JSON form.
            auth_key: signs this event instead of the stream's or the tracker's key.
            receipt: whether to give something to wait on for what becomes of this very event.

        Raises:
            EventError: the event cannot be sent; nothing was accepted.
            BacklogFull: there is no room, and ``on_full`` neither drops nor lets this call wait.
            TrackerClosed: after ``stop``.
            BacklogError: the backlog, which a forked child opens with its first call, cannot be opened; nothing was
                accepted.
            TypeError, ValueError: *stream* or *auth_key* cannot be one.
        """
        try:
            line = encode_quickly(event, None, QUICKLY)
            inlet = self._lanes[stream].inlet
        except (TypeError, KeyError):
            auth_key = _hidden(auth_key)
            return self._decide(stream, encode_event(event), auth_key, bool(receipt))
        # orjson writes NaN as null, so only a line that holds a null can hide one.  (Of all ways to look for it
        # this is the quickest: `in` and find() cost twice as much on so short a text.)
        if line.replace(b"null", b"") is not line:
            auth_key = _hidden(auth_key)
            line = encode_event(event)
        lines = inlet.lines
        events = inlet.events
        if events >= inlet.max_events or len(lines) + len(line) > inlet.max_size or auth_key is not receipt:  # type: ignore[comparison-overlap]
            # The last asks two things at once, since nearly always both are None.
            if auth_key is not None:
                auth_key = _hidden(auth_key)
            return self._decide(stream, line, auth_key, receipt is not None and bool(receipt))
        inlet.events = events + 1
        lines += line
        # Since we looked it may have been closed, perhaps without this event, or what it was lent taken back.
        if inlet.max_size <= 0:
            self._late.append(inlet)
            self._decide(stream, b"", None, False)
        return None

    def _decide(self, stream: str, line: bytes, auth_key: str | AuthKey | None, receipt: bool) -> R | None:
        """Hand *line*, which is empty if it was taken in already, to :meth:`TrackerCore.track_line`."""
        raise NotImplementedError


def _hidden(auth_key: str | AuthKey | None) -> AuthKey | None:
    """The key in a form that does not show in tracebacks, which may have the locals."""
    return None if auth_key is None else AuthKey.of(auth_key)
