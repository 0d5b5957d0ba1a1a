"""What may happen when, to a tracker and to each of its lanes: two flat tables.

The rules they keep:

- Whatever is not in a table is impossible: :func:`advance` raises and nothing changes.
- A tracker that closes only ever comes nearer to closed.  Closing twice is harmless.
- A lane has at most one batch in flight, so the order of its events holds.
- A failed batch goes back to the front of its own lane and of no other.  A lane leaves BACKING_OFF and
  PARKED only by what it waits for: its time, or another key.

A lane is one (stream, key) pair.  It is FILLING while what waits in it makes no full batch and is not yet
due; READY when it may be sent, at its turn; then IN_FLIGHT.  Where there is a backlog, its batch is AT_BACKLOG
before that, to be kept or to be loaded.  It exists only while it holds events, so an empty lane has no state.
Sizes, ages and attempts decide which input fires (``_tracker.py``); what an input does is decided here alone,
and the diagrams in the documentation are drawn from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

from ._errors import LocalError


class _Symbol(Enum):
    """An enum that is hashed by identity, since a table is looked up many times a batch."""

    __hash__ = object.__hash__


class TrackerState(_Symbol):
    """Of the whole tracker."""

    OPEN = "open"
    DRAINING = "draining"
    """Takes no more events; sends what it holds without waiting for full batches."""
    CLOSED = "closed"


class TrackerInput(_Symbol):
    """What happens to a tracker."""

    TRACK = "track"
    FLUSH = "flush"
    CLOSE = "close"
    ALL_SETTLED = "all settled"
    ABANDON = "abandon"


TRACKER_TRANSITIONS: Final[Mapping[tuple[TrackerState, TrackerInput], TrackerState]] = {
    (TrackerState.OPEN, TrackerInput.TRACK): TrackerState.OPEN,
    (TrackerState.OPEN, TrackerInput.FLUSH): TrackerState.OPEN,
    (TrackerState.OPEN, TrackerInput.CLOSE): TrackerState.DRAINING,
    (TrackerState.OPEN, TrackerInput.ABANDON): TrackerState.CLOSED,
    (TrackerState.DRAINING, TrackerInput.FLUSH): TrackerState.DRAINING,
    (TrackerState.DRAINING, TrackerInput.CLOSE): TrackerState.DRAINING,
    (TrackerState.DRAINING, TrackerInput.ALL_SETTLED): TrackerState.CLOSED,
    (TrackerState.DRAINING, TrackerInput.ABANDON): TrackerState.CLOSED,
    (TrackerState.CLOSED, TrackerInput.FLUSH): TrackerState.CLOSED,
    (TrackerState.CLOSED, TrackerInput.CLOSE): TrackerState.CLOSED,
    (TrackerState.CLOSED, TrackerInput.ABANDON): TrackerState.CLOSED,
}


class LaneState(_Symbol):
    """Of one lane that holds events."""

    FILLING = "filling"
    READY = "ready"
    IN_FLIGHT = "in flight"
    BACKING_OFF = "backing off"
    PARKED = "parked"
    AT_BACKLOG = "at the backlog"


class LaneInput(_Symbol):
    """What happens to a lane."""

    DUE = "due"
    """A full batch, an old event, a flush, or the rest of a split batch asks to be sent."""
    SEND = "send"
    SETTLED = "settled"
    """The batch in flight was delivered, lost or split."""
    FAILED = "failed"
    """It came to no answer, or was told to come again; or the backlog cannot read it now."""
    REFUSED_KEY = "key refused"
    NEW_KEY = "new key"
    ASK_BACKLOG = "ask the backlog"
    """The batch has to be kept, or loaded, before it is sent."""
    BACKLOG_DONE = "backlog done"
    """That was done, or failed."""
    NO_KEY = "no key"
    """A backlog held its events, and the key that is to sign them has not been given again."""


LANE_TRANSITIONS: Final[Mapping[tuple[LaneState, LaneInput], LaneState]] = {
    (LaneState.FILLING, LaneInput.DUE): LaneState.READY,
    (LaneState.READY, LaneInput.SEND): LaneState.IN_FLIGHT,
    (LaneState.IN_FLIGHT, LaneInput.SETTLED): LaneState.FILLING,
    (LaneState.IN_FLIGHT, LaneInput.FAILED): LaneState.BACKING_OFF,
    (LaneState.IN_FLIGHT, LaneInput.REFUSED_KEY): LaneState.PARKED,
    (LaneState.BACKING_OFF, LaneInput.DUE): LaneState.READY,
    (LaneState.PARKED, LaneInput.NEW_KEY): LaneState.READY,
    (LaneState.FILLING, LaneInput.NO_KEY): LaneState.PARKED,
    (LaneState.READY, LaneInput.ASK_BACKLOG): LaneState.AT_BACKLOG,
    (LaneState.AT_BACKLOG, LaneInput.BACKLOG_DONE): LaneState.READY,
    (LaneState.AT_BACKLOG, LaneInput.FAILED): LaneState.BACKING_OFF,
}

_State = TypeVar("_State", TrackerState, LaneState)
_Input = TypeVar("_Input", TrackerInput, LaneInput)


def advance(transitions: Mapping[tuple[_State, _Input], _State], state: _State, input_: _Input) -> _State:
    """The state after *input_*.

    Raises:
        LocalError: that cannot happen in *state*.
    """
    try:
        return transitions[state, input_]
    except KeyError:
        raise LocalError(f"{input_.value} is not possible while {state.value}") from None
