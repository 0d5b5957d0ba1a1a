"""Every state with every input: a declared state, or an error and no change."""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Any

import pytest

from atom_sansio import (
    LANE_TRANSITIONS,
    TRACKER_TRANSITIONS,
    LaneInput,
    LaneState,
    LocalError,
    Options,
    Reply,
    SendRequest,
    TrackerCore,
    TrackerInput,
    TrackerState,
)
from atom_sansio._lane import Lane
from atom_sansio._state import advance

TABLES: list[tuple[Any, type[Enum], type[Enum]]] = [
    (TRACKER_TRANSITIONS, TrackerState, TrackerInput),
    (LANE_TRANSITIONS, LaneState, LaneInput),
]
WORDS: dict[str, dict[str, str]] = {
    "open": {"track": "open", "flush": "open", "close": "draining", "abandon": "closed"},
    "draining": {"flush": "draining", "close": "draining", "all settled": "closed", "abandon": "closed"},
    "closed": {"flush": "closed", "close": "closed", "abandon": "closed"},
    "filling": {"due": "ready", "no key": "parked"},
    "ready": {"send": "in flight", "ask the backlog": "at the backlog"},
    "in flight": {"settled": "filling", "failed": "backing off", "key refused": "parked"},
    "backing off": {"due": "ready"},
    "parked": {"new key": "ready"},
    "at the backlog": {"backlog done": "ready", "failed": "backing off"},
}
"""The design, in the words that messages and diagrams use."""
SWEEP = [(table, *pair) for table, states, inputs in TABLES for pair in product(states, inputs)]


@pytest.mark.parametrize(("table", "state", "input_"), SWEEP)
def test_sweep(table: Any, state: Any, input_: Any) -> None:
    """What a table has leads to the state it names; what it has not is refused in words that name both."""
    if (state, input_) in table:
        assert advance(table, state, input_) is table[state, input_]
        assert isinstance(table[state, input_], type(state))
    else:
        with pytest.raises(LocalError, match=f"^{input_.value} is not possible while {state.value}$"):
            advance(table, state, input_)


def test_the_design() -> None:
    """Both tables say what the design says, and no more."""
    found: dict[str, dict[str, str]] = {}
    for table, _, _ in TABLES:
        for (state, input_), after in table.items():
            found.setdefault(state.value, {})[input_.value] = after.value
    assert found == WORDS


@pytest.mark.parametrize("state", LaneState)
@pytest.mark.parametrize("input_", LaneInput)
def test_lane(state: LaneState, input_: LaneInput) -> None:
    """A lane follows its table and stays as it is where the table says nothing."""
    lane = Lane("s", None, state=state)
    try:
        lane.fire(input_)
    except LocalError:
        assert lane.state is state
        assert (state, input_) not in LANE_TRANSITIONS
    else:
        assert lane.state is LANE_TRANSITIONS[state, input_]


@pytest.mark.parametrize(("table", "states", "inputs"), TABLES)
def test_every_state_and_input_is_used(table: Any, states: Any, inputs: Any) -> None:
    """No state is out of reach, and no input is for nothing."""
    assert {input_ for _, input_ in table} == set(inputs)
    assert {state for state, _ in table} | set(table.values()) == set(states)


def test_a_tracker_only_comes_nearer_to_closed() -> None:
    """No input leads back to a state before."""
    order = list(TrackerState)
    for (state, _), after in TRACKER_TRANSITIONS.items():
        assert order.index(after) >= order.index(state)


def test_closing_is_always_possible() -> None:
    """Whatever state a tracker is in, flush, close and abandon are harmless."""
    for state in TrackerState:
        for input_ in (TrackerInput.FLUSH, TrackerInput.CLOSE, TrackerInput.ABANDON):
            assert (state, input_) in TRACKER_TRANSITIONS


def test_what_is_asked_while_closing_does_not_end_it() -> None:
    """A tracker that is flushed and closed again while it closes goes on until all is settled."""
    core = TrackerCore(Options.read({"endpoint": "http://h/"}, {}, lambda name: None), source="s")
    core.track("s", 1, now=0.0)
    core.close(now=0.0)
    core.flush(now=0.0)
    core.close(now=0.0)
    assert not core.closed
    command = core.next_command(now=0.0)
    assert isinstance(command, SendRequest)
    core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.0)
    assert core.next_command(now=0.0) is None
    assert core.closed
