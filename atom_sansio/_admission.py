"""Which lane an event goes to, whether there is room for it, and when there is something to do for it."""

from __future__ import annotations

from math import inf
from typing import Final

from ._cut import escaped_size
from ._errors import BacklogFull, EventTooLarge
from ._inlet import NO_INLET, Inlet
from ._lane import Batch, Lane
from ._ledger import Ledger
from ._losses import Losses
from ._messages import LossReason
from ._options import OnFull, Options
from ._request import check_stream
from ._schedule import Ages, Schedule
from ._sign import AuthKey
from ._state import LaneState

_LEAST_LENT: Final = 8192
"""Bytes that a lane is lent of the budget with its first event, if there is plenty; with more, more."""

_MIN_LEARNED_BYTES: Final = 1024
"""A collector that refuses bodies for their size is not sent smaller ones than this on its word."""

_NO_ROOM: Final = "the pending budget has no room"


class Admission:
    """Takes in the events that an :class:`Intake` leaves to be decided about."""

    def __init__(self, options: Options, schedule: Schedule, ledger: Ledger, losses: Losses) -> None:
        self._options = options
        self._schedule = schedule
        self._ledger = ledger
        self._losses = losses
        self._keys = dict(options.auth_keys)
        self._some_unused = False  # whether a lane may have been lent more than it uses
        self._ages = Ages() if options.on_full is OnFull.DROP_OLDEST else None
        self.max_bytes = options.max_batch_bytes
        """Of a batch's body; lower once the collector said 413."""

    def learn_max_bytes(self, refused: int) -> None:
        """The collector takes no body of *refused* bytes."""
        self.max_bytes = max(_MIN_LEARNED_BYTES, min(self.max_bytes, refused // 2))

    def set_key(self, stream: str, key: AuthKey) -> None:
        """Sign what comes for *stream* without a key of its own with *key*."""
        self._keys[stream] = key

    def accept(self, stream: str, line: bytes, auth_key: AuthKey | None, now: float) -> float:
        """Take an event in; return when there is something to do for it, minus infinity for now, infinity for never.

        Raises:
            EventTooLarge, BacklogFull, TypeError, ValueError: see :meth:`TrackerCore.track`; nothing was accepted.
        """
        lane = self._lane(stream, auth_key)
        size = len(line)
        sure_size = (self._options.max_batch_bytes - lane.envelope) // 2  # fits however it is escaped
        if size > sure_size:
            self._check_size(lane, line)
        when = inf
        full_size = lane.full_size(self.max_bytes)
        if lane.inlet.lines and len(lane.inlet.lines) + size > full_size:
            when = self._close_full(lane)
        if not self._ledger.has_room(size):
            self._take_back_unused()
            if not self._ledger.has_room(size):
                when = -inf
                if not self._make_room(lane, line, now):
                    return when
        inlet = lane.inlet
        if inlet is NO_INLET:
            inlet = lane.inlet = Inlet(self._ledger, stream, now)
            when = min(when, self._begin_to_wait(lane, now))
        inlet.max_size = 0  # nobody else appends to it just now
        max_events = self._options.max_batch_events
        want_bytes = full_size if lane.closed else min(full_size, max(_LEAST_LENT, 2 * (len(inlet.lines) + size)))
        self._ledger.lend(inlet, size, want_bytes=want_bytes, want_events=max_events)
        inlet.append(line)
        if inlet.lent_bytes > len(inlet.lines) or inlet.lent_events > inlet.events:
            self._some_unused = True
        if inlet.events >= max_events or len(inlet.lines) >= full_size:
            return min(when, self._close_full(lane))
        inlet.max_events = min(inlet.lent_events, max_events - 1)  # the last of a batch comes here
        inlet.max_size = min(inlet.lent_bytes, full_size, len(inlet.lines) + sure_size)
        return when

    def _lane(self, stream: str, auth_key: AuthKey | None) -> Lane:
        """The lane of an event; a new one is scheduled once it holds the event."""
        check_stream(stream)
        check_key(auth_key)
        if auth_key is None and stream in self._schedule.by_stream:
            return self._schedule.by_stream[stream]
        key = auth_key or self._keys.get(stream, self._options.auth_key)
        lane = self._schedule.find(stream, key) or Lane(stream, key, pinned=True)
        if auth_key is None:
            lane.pinned = False
            self._schedule.unpin(lane)
        return lane

    def _check_size(self, lane: Lane, line: bytes) -> None:
        size = lane.envelope + escaped_size(line)
        if size > self._options.max_batch_bytes:
            raise EventTooLarge(
                f"event needs a request of {size} bytes; max_batch_bytes allows {self._options.max_batch_bytes}"
            )

    def _begin_to_wait(self, lane: Lane, now: float) -> float:
        """The lane has a new inlet; return when it is to be sent though it does not get full."""
        if self._ages is not None:
            self._ages.add(lane)
        if lane.state is not LaneState.FILLING:
            return inf
        self._schedule.add(lane)
        if lane.closed:  # their time comes first
            return inf
        deadline = now + self._options.flush_interval
        self._schedule.arm(lane, deadline)
        return deadline

    def _close_full(self, lane: Lane) -> float:
        """The lane has another full batch; return whether it may be sent now and could not before."""
        lane.close_inlet(full=True)
        if lane.state is not LaneState.FILLING:
            return inf
        self._schedule.make_ready(lane)
        return -inf

    # -- room -----------------------------------------------------------------------------------------

    def _take_back_unused(self) -> None:
        """Let inlets keep only as much of the budget as they use; again and again it costs nothing."""
        if not self._some_unused:
            return
        self._some_unused = False
        for lane in self._schedule:
            if lane.inlet.max_size > 0:
                lane.inlet.max_size = 0
                self._ledger.take_back(lane.inlet, used_bytes=len(lane.inlet.lines), used_events=lane.inlet.count())

    def _make_room(self, lane: Lane, line: bytes, now: float) -> bool:
        """Whether *line* may be accepted after all; False when it was dropped.

        Raises:
            BacklogFull: neither, and ``on_full`` leaves that to the caller.
        """
        while self._ages and (victim := self._ages.oldest()):
            oldest = Batch("", victim.cut_oldest(), 1)
            self._losses.lose(victim, oldest, LossReason.BACKLOG_FULL, None, _NO_ROOM, now=now, after=victim.batched)
            if victim.since is None:
                victim.close_inlet()  # the next event begins to wait anew, and nobody may append to a lane that is gone
                if victim.empty and victim is not lane:
                    self._schedule.remove(victim)
            if self._ledger.has_room(len(line)):
                return True
        if lane.empty and lane in self._schedule:
            self._schedule.remove(lane)
        self._schedule.make_all_due()  # to wait for more has no point, since more has no room
        if self._options.on_full in (OnFull.BLOCK, OnFull.RAISE):
            events, size = self._ledger.pending, self._ledger.pending_bytes
            raise BacklogFull(f"{_NO_ROOM}: {events} events, {size} bytes are pending")
        self._losses.lose_at_once(lane.stream, line, LossReason.BACKLOG_FULL, _NO_ROOM, now=now)
        return False


def check_key(auth_key: object) -> None:
    """Raise TypeError unless *auth_key* is an AuthKey or None."""
    if not (auth_key is None or isinstance(auth_key, AuthKey)):
        raise TypeError(f"auth_key must be an AuthKey, not {type(auth_key).__name__}")
