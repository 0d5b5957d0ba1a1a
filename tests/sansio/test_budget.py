"""When a service fails now and then, retries are an eighth of what is sent, and eight a second."""

from __future__ import annotations

from math import inf, isclose

from atom_sansio import Options, Reply, RetryPolicy, SendRequest, TrackerCore
from atom_sansio._budget import RATE, RESERVE, SHARE, RetryBudget


def retries_at(budget: RetryBudget, now: float) -> int:
    """Spend all that there is; how many that were."""
    spent = 0
    while budget.next_at <= now:
        budget.spend(now)
        spent += 1
    return spent


def test_reserve() -> None:
    """As many retries may be made at once as are saved up at most, and then as many as time brings."""
    budget = RetryBudget()
    assert retries_at(budget, 5.0) == RESERVE
    assert isclose(budget.next_at, 5.0 + 1 / RATE)
    assert retries_at(budget, budget.next_at) == 1
    assert retries_at(budget, 1000.0) == RESERVE


def test_in_numbers() -> None:
    """Eight at once, eight a second, and one for every eight first attempts."""
    budget = RetryBudget()
    assert retries_at(budget, 5.0) == 8
    assert isclose(budget.next_at, 5.125)
    assert retries_at(budget, 5.5) == 4
    for _ in range(16):
        budget.earn()
    assert retries_at(budget, 5.5) == 2


def test_what_others_allow() -> None:
    """First attempts allow a share of a retry each, and a retry that is delivered costs nothing."""
    budget = RetryBudget()
    assert retries_at(budget, 5.0) == RESERVE
    for _ in range(round(1 / SHARE)):
        assert budget.next_at > 5.0
        budget.earn()
    assert retries_at(budget, 5.0) == 1
    budget.give_back()
    assert retries_at(budget, 5.0) == 1


def core_with(**options: object) -> TrackerCore:
    arguments = {"endpoint": "http://c", "max_batch_events": 1, "retry": RetryPolicy(base=1.0), **options}
    return TrackerCore(Options.read(arguments, {}, str), source="s")


def answer(core: TrackerCore, command: SendRequest, status: int, now: float) -> None:
    core.response_received(command.batch_id, Reply(status=status, headers=(), body=b""), now=now, unit=0.0)


def sends(core: TrackerCore, now: float) -> list[SendRequest]:
    commands = []
    while (command := core.next_command(now=now)) is not None:
        assert isinstance(command, SendRequest)
        commands.append(command)
    return commands


def test_retries_of_many_lanes() -> None:
    """Beyond the budget a retry waits for its time, and holds up nobody who has not failed."""
    core = core_with(max_in_flight=64)
    for n in range(20):
        core.track(f"s{n}", 1, now=0.0)
    failing = sends(core, 0.0)
    assert len(failing) == 20
    for command in failing:
        answer(core, command, 429, 0.0)  # an answer: the endpoint is there
    retries = sends(core, 0.0)
    assert len(retries) == RESERVE
    deadline = core.next_deadline()
    assert deadline is not None
    assert isclose(deadline, 1 / RATE)
    core.track("well", 2, now=0.0)
    assert core.next_deadline() == -inf
    [other] = sends(core, 0.0)
    answer(core, other, 200, 0.0)
    assert sends(core, 0.0) == []
    assert len(sends(core, deadline)) == 1


def test_retries_beside_others() -> None:
    """For every eight that are sent for the first time a retry goes, without a wait."""
    core = core_with(max_in_flight=64)
    for n in range(20):
        core.track(f"s{n}", 1, now=0.0)
    for command in sends(core, 0.0):
        answer(core, command, 429, 0.0)
    assert len(sends(core, 0.0)) == RESERVE
    for n in range(8):
        core.track(f"t{n}", 1, now=0.0)
    assert len(sends(core, 0.0)) == 8 + 1


def test_retries_when_the_trouble_is_over() -> None:
    """Each retry that is delivered lets another go, without a wait."""
    core = core_with(max_in_flight=64)
    for n in range(200):
        core.track(f"s{n}", 1, now=0.0)
    for _ in range(4):
        for command in sends(core, 0.0):
            answer(core, command, 429, 0.0)
    assert sends(core, 0.0) == []
    now = core.next_deadline()
    assert now is not None
    delivered = 0
    while commands := sends(core, now):
        for command in commands:
            answer(core, command, 200, now)
        delivered += len(commands)
    assert delivered == 200
    assert core.statistics().pending == 0


def test_a_lane_in_trouble_takes_its_turn() -> None:
    """Lanes that have not failed, however many are ready, do not go before one that has been ready for longer."""
    core = core_with(max_in_flight=1)
    core.track("bad", 1, now=0.0)
    core.track("well", 1, now=0.0)
    [failing] = sends(core, 0.0)
    answer(core, failing, 429, 0.0)
    [other] = sends(core, 0.0)
    for n in range(3):
        core.track(f"s{n}", 1, now=0.0)
    answer(core, other, 200, 0.0)
    assert [command.batch_id for command in sends(core, 0.0)] == [failing.batch_id]
