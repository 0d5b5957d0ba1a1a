"""The tracker underneath: that of :mod:`atom_sync`, with the old API's rules where they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from atom_sansio import (
    AuthKey,
    BacklogFull,
    LaneState,
    Level,
    Loss,
    LossReason,
    Options,
    Receipt,
    ReportLoss,
    TrackerCore,
    Verdict,
    encode_event,
)
from atom_sansio import verdict as modern_verdict
from atom_sansio._lane import Lane
from atom_sansio._tracker import in_turn
from atom_sync import Tracker
from atom_sync._clock import Clock
from atom_sync._signals import stop_on_signals


def verdict(status: int) -> Verdict:
    """What a status means to programs of the old SDK: 4xx is final for the whole batch.

    But 408, 425 and 429 say that the batch may come again, so it does.
    """
    meaning = modern_verdict(status)
    return Verdict.REJECTED if meaning in (Verdict.PARK, Verdict.ISOLATE, Verdict.SPLIT) else meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Loss):
    """The loss of an event that was not even accepted."""

    data: object = field(repr=False)
    """What ``track`` was called with, or its text if it has one."""


T = TypeVar("T")

_SLACK: Final = 64
"""Streams that may be remembered beyond twice those with events, before the others are forgotten."""


@dataclass(slots=True)
class _Stream:
    """What has to be known of a stream to bound it."""

    keys: dict[AuthKey | None, None] = field(default_factory=dict, repr=False)
    """What its pending events are signed with; some may have none left."""
    room: int = 0
    """How many more events there is surely room for; when it runs out, it is counted anew."""


class OldCore(TrackerCore):
    """A core with the old rules: *stream_limit* events of one stream may be pending, or any number if None."""

    def __init__(self, options: Options, *, source: str, unix_offset: float, stream_limit: int | None) -> None:
        super().__init__(options, source=source, unix_offset=unix_offset, verdict=verdict)
        self._stream_limit = stream_limit
        self._streams: dict[str, _Stream] = {}  # those with events pending; some may have none left

    def track_line(
        self,
        stream: str,
        line: bytes,
        auth_key: AuthKey | None = None,
        *,
        now: float,
        receipt: Receipt | None = None,
    ) -> bool:
        """See :meth:`TrackerCore.track_line`.

        Raises:
            BacklogFull: the stream has as many events pending as it may have.
        """
        if self.busy:
            return super().track_line(stream, line, auth_key, now=now, receipt=receipt)  # and here again later
        state = self._streams.get(stream)
        if state is None:
            state = self._add_stream(stream)
        if self._stream_limit is not None and state.room <= 0:
            state.room = self._stream_limit - self.pending_of(stream)
            if state.room <= 0:
                raise BacklogFull(f"the backlog of stream {stream!r} is full: {self._stream_limit} events are pending")
        look_again = super().track_line(stream, line, auth_key, now=now, receipt=receipt)
        state.room -= 1
        state.keys[auth_key or self._options.auth_key] = None
        return look_again

    @in_turn
    def send_now(self, stream: str) -> None:
        """Have what waits of *stream* sent without waiting for full batches.  What is under way comes first."""
        for lane in self._lanes_of(stream):
            if lane.state is LaneState.FILLING:
                self._schedule.make_due(lane)

    def pending_of(self, stream: str) -> int:
        """Events of *stream* without an outcome."""
        return sum(lane.pending for lane in self._lanes_of(stream))

    def _lanes_of(self, stream: str) -> list[Lane]:
        state = self._streams.get(stream)
        if state is None:
            return []
        lanes = {key: lane for key in state.keys if (lane := self._schedule.find(stream, key)) is not None}
        state.keys = dict.fromkeys(lanes)
        return list(lanes.values())

    def _add_stream(self, stream: str) -> _Stream:
        if len(self._streams) > 2 * len(self._schedule) + _SLACK:
            self._streams = {name: state for name, state in self._streams.items() if self._lanes_of(name)}
        return self._streams.setdefault(stream, _Stream())


class OldTracker(Tracker):
    """A tracker with the old rules; it knows nothing of custom storages.

    Args:
        options: of the modern tracker.
        stream_limit: events of one stream that may be pending; None for any number.
        clock: where time comes from.
    """

    _core: OldCore

    def __init__(self, options: Options, stream_limit: int | None, clock: Clock | None) -> None:
        self._stream_limit = stream_limit
        self._set_up(options, clock)

    def _new_core(self, level: Level | None) -> OldCore:
        return OldCore(
            self._options,
            source=self._clock.unique(),
            unix_offset=self._clock.unix_offset(),
            stream_limit=self._stream_limit,
        )

    def put(self, stream: str, text: str, key: AuthKey | None) -> None:
        """Accept an event; see :meth:`Tracker.track`.  Each is counted, so none is taken in without the lock."""
        self._decide(stream, encode_event(text), key, False)

    def _take_when_there_is_room(self, stream: str, take: Callable[[], T]) -> T:
        # A backlog smaller than a batch is full before the batch is, and nobody else would make room soon.
        self._core.send_now(stream)
        self._wake()
        return super()._take_when_there_is_room(stream, take)

    def catch_signals(self) -> Callable[[], None]:
        """:meth:`Tracker.handle_signals`; return what takes the handlers away again."""
        return stop_on_signals(self.stop, self._interrupted, self._clock)

    def refuse(self, stream: str, data: object, error: Exception) -> None:
        """Report that *data* was not accepted."""
        loss = Refusal(
            stream=stream,
            lines=b"",
            count=1,
            reason=LossReason.BACKLOG_FULL if isinstance(error, BacklogFull) else LossReason.REJECTED,
            status=None,
            message=str(error),
            attempts=0,
            time=self._clock.now() + self._clock.unix_offset(),
            data=data,
        )
        with self._lock:
            self._reporter.put(ReportLoss(loss=loss))
        self._reporter.tell()
