"""Which lanes hold events, how each is found, and whose turn it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from ._lane import Lane
from ._sign import AuthKey
from ._state import LANE_TRANSITIONS, LaneInput, LaneState, advance

_Turns = deque[tuple[int, Lane]]
"""Lanes that are ready, by when they became so."""

_SLACK: Final = 64
"""Entries that a heap may hold beyond twice those that count, before the others are cleared out."""


class Schedule:
    """The lanes that hold events, each FILLING, READY at its turn, away (in flight or parked) or on a timer.

    A lane is here from its first event to its last, so a stream that is silent costs nothing.  Every step
    costs the same however many lanes there are, but for timers, which cost a logarithm.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, None] = {}  # in the order they got their first event
        self._by_address: dict[tuple[str, str | None], Lane] = {}
        self.by_stream: dict[str, Lane] = {}
        """Lanes of events that come without a key of their own; ``track`` looks here first."""
        self._ready = _Turns()  # of lanes that have not failed lately
        self._retries = _Turns()
        self._timers: list[tuple[float, int, Lane]] = []
        self._order = count()  # equal times are told apart by age, and lanes are never compared
        self._some_fill = False  # whether a lane may be FILLING

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes))

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._lanes

    # -- addresses ------------------------------------------------------------------------------------

    def find(self, stream: str, key: AuthKey | None) -> Lane | None:
        """The lane of that stream and key, if it holds events."""
        return self._by_address.get((stream, None if key is None else key.fingerprint))

    def at(self, address: tuple[str, str | None]) -> Lane | None:
        """The lane of that stream and fingerprint, if it holds events."""
        return self._by_address.get(address)

    def add(self, lane: Lane) -> None:
        """The lane holds its first event."""
        self._lanes[lane] = None
        self._by_address.setdefault(lane.address, lane)
        self.unpin(lane)

    def unpin(self, lane: Lane) -> None:
        """Let events without a key of their own find the lane, unless it is for those with one."""
        if not lane.pinned and lane in self._lanes:
            self.by_stream[lane.stream] = lane

    def rekey(self, lane: Lane, key: AuthKey, *, take_over: bool = False) -> None:
        """Sign the lane with *key* from now on.

        If that key has a lane already, both go on side by side, and what comes with that key goes to the other;
        or, to *take_over*, to this one, unless what comes without a key goes to the other.
        """
        self._forget_address(lane)
        lane.rekey(key)
        if take_over:
            plain = self.by_stream.get(lane.stream)
            if not lane.pinned or plain is None or plain.address != lane.address:  # else that one goes on, in order
                self._by_address[lane.address] = lane
        else:
            self._by_address.setdefault(lane.address, lane)
        self.unpin(lane)

    def remove(self, lane: Lane) -> None:
        """The lane holds nothing more."""
        lane.close_inlet()  # which gives back what it was lent
        lane.timer = None
        del self._lanes[lane]
        self._forget_address(lane)

    def _forget_address(self, lane: Lane) -> None:
        if self._by_address.get(lane.address) is lane:
            del self._by_address[lane.address]
        if self.by_stream.get(lane.stream) is lane:
            del self.by_stream[lane.stream]

    # -- turns ----------------------------------------------------------------------------------------

    def arm(self, lane: Lane, when: float) -> None:
        """Make the lane ready at *when*; this replaces an earlier such time."""
        if len(self._timers) > 2 * len(self._lanes) + _SLACK:
            self._timers = [(at.timer, next(self._order), at) for at in self._lanes if at.timer is not None]
            heapify(self._timers)
        lane.timer = when
        self._some_fill |= lane.state is LaneState.FILLING
        heappush(self._timers, (when, next(self._order), lane))

    def make_ready(self, lane: Lane, input_: LaneInput = LaneInput.DUE) -> None:
        """Let the lane send at its turn."""
        state = advance(LANE_TRANSITIONS, lane.state, input_)
        turns = self._retries if lane.attempt else self._ready
        turn = (next(self._order), lane)
        # Without a call in between, in which a signal handler might raise: all of it is done, or nothing.
        turns += (turn,)
        lane.timer = None
        lane.state = state

    def make_due(self, lane: Lane) -> None:
        """Let all that waits in the lane be sent at its turn, without waiting for more."""
        lane.make_due()
        if lane.state is LaneState.FILLING:
            if lane.closed:
                self.make_ready(lane)
            else:  # it is empty: a signal handler has raised before its first event was in it
                self.remove(lane)

    def make_all_due(self) -> None:
        """The same for every lane that waits for more; again and again it costs nothing."""
        if self._some_fill:
            self._some_fill = False
            for lane in self:
                if lane.state is LaneState.FILLING:
                    self.make_due(lane)

    def take_timed(self, now: float) -> Lane | None:
        """A lane that has its time, which is over then, or None."""
        while self._timers and self._timers[0][0] <= now:
            when, _, lane = heappop(self._timers)
            if lane.timer == when:
                lane.timer = None
                return lane
        return None

    def next_timer(self) -> float | None:
        """When :meth:`take_timed` has a lane to give, or None for never."""
        while self._timers and self._timers[0][2].timer != self._timers[0][0]:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def make_next(self, lane: Lane) -> None:
        """Let the lane, which was at the backlog at its turn, send before all others."""
        lane.fire(LaneInput.BACKLOG_DONE)
        (self._retries if lane.attempt else self._ready).appendleft((-next(self._order), lane))

    def take(self) -> Lane | None:
        """The lane that has been ready for longest; off its queue it goes."""
        if not self._retries:
            return self.take_unfailed()
        ready, retries = self._first(self._ready), self._first(self._retries)
        if ready is None or (retries is not None and retries < ready):
            return self.take_retry()
        return self.take_unfailed()

    def has_unfailed(self) -> bool:
        """Whether a lane is ready that has not failed lately."""
        return bool(self._ready) and self._first(self._ready) is not None

    def take_unfailed(self) -> Lane | None:
        """Of the ready lanes that have not failed lately the first; off its queue it goes."""
        while self._ready:
            lane = self._ready.popleft()[1]
            if lane in self._lanes:  # or it was emptied while it waited for its turn
                return lane
        return None

    def has_retry(self) -> bool:
        """Whether a lane is ready that has failed lately."""
        return bool(self._retries) and self._first(self._retries) is not None

    def take_retry(self) -> Lane | None:
        """Of the ready lanes that have failed lately the first; off its queue it goes."""
        return None if self._first(self._retries) is None else self._retries.popleft()[1]

    def _first(self, turns: _Turns) -> int | None:
        while turns and turns[0][1] not in self._lanes:  # emptied while it waited for its turn
            turns.popleft()
        return turns[0][0] if turns else None


class Ages:
    """Finds the oldest waiting event, for ``on_full="drop_oldest"``."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Lane]] = []
        self._limit = _SLACK
        self._order = count()

    def add(self, lane: Lane, since: float) -> None:
        """The lane has a new inlet."""
        if len(self._heap) > self._limit:
            # Those of segments that wait behind a lane's first will count when their turn comes.
            self._heap = list({entry[::2]: entry for entry in self._heap if _may_wait(entry)}.values())
            heapify(self._heap)
            self._limit = 2 * len(self._heap) + _SLACK
        heappush(self._heap, (since, next(self._order), lane))

    def oldest(self) -> Lane | None:
        """The lane whose waiting events began to wait first, or None when none wait.

        What is in a batch may have been sent already, so it does not count as waiting.
        """
        while self._heap:
            if _waits(self._heap[0]):
                return self._heap[0][2]
            heappop(self._heap)
        return None


def _may_wait(entry: tuple[float, int, Lane]) -> bool:
    since, _, lane = entry
    return lane.since is not None and lane.since <= since


def _waits(entry: tuple[float, int, Lane]) -> bool:
    since, _, lane = entry
    return lane.since == since
