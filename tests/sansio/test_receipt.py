"""A receipt follows its event, and no other, through whatever happens to its lane."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from atom_sansio import (
    EventTooLarge,
    Level,
    LossReason,
    OnFull,
    Options,
    Outcome,
    Receipt,
    Recovered,
    Reply,
    ReportLoss,
    SendRequest,
    TrackerCore,
    encode_event,
)


def core_with(level: Level | None = None, **options: Any) -> TrackerCore:
    core = TrackerCore(Options.read({"endpoint": "http://c", **options}, {}, str), source="s", level=level)
    if level is not None:
        core.restore(Recovered(batches=(), records=(), generation=0), now=0.0)
    return core


def track(core: TrackerCore, *values: object) -> list[Receipt]:
    receipts = [Receipt() for _ in values]
    for value, receipt in zip(values, receipts, strict=True):
        core.track_line("s", encode_event(value), now=0.0, receipt=receipt)
    return receipts


def send(core: TrackerCore) -> SendRequest:
    while True:
        command = core.next_command(now=0.0)
        if isinstance(command, SendRequest):
            return command
        assert command is not None


def answer(core: TrackerCore, command: SendRequest, status: int) -> None:
    core.response_received(command.batch_id, Reply(status=status, headers=(), body=b"why"), now=0.0, unit=0.0)


def outcomes(receipts: list[Receipt]) -> list[str | None]:
    return [None if receipt.outcome is None else receipt.outcome.value for receipt in receipts]


def test_batches_and_splits() -> None:
    """Each event's own outcome, also where a batch is bisected; a loss comes with its reason."""
    core = core_with(max_batch_events=4)
    receipts = track(core, 1, 2, 3, 4, 5)
    core.flush(now=0.0)
    answer(core, send(core), 400)
    answer(core, send(core), 200)
    assert outcomes(receipts) == ["delivered", "delivered", None, None, None]
    answer(core, send(core), 400)
    answer(core, send(core), 400)
    assert outcomes(receipts) == ["delivered", "delivered", "lost", None, None]
    answer(core, send(core), 200)
    answer(core, send(core), 200)
    assert outcomes(receipts) == ["delivered", "delivered", "lost", "delivered", "delivered"]
    loss = receipts[2].loss
    assert loss is not None
    assert (loss.reason, loss.status, loss.message, loss.events) == (LossReason.REJECTED, 400, "why", (3,))
    assert receipts[0].loss is None
    assert receipts[0].done
    assert repr(receipts[2]) == "<atom_sansio._flush.Receipt lost>"


def test_among_others() -> None:
    """Events without a receipt count as well; one that nobody holds does no harm."""
    core = core_with()
    core.track("s", 0, now=0.0)
    [first] = track(core, 1)
    core.track("s", 2, now=0.0)
    track(core, 3)
    gc.collect()
    [last] = track(core, 4)
    assert repr(first) == "<atom_sansio._flush.Receipt no outcome yet>"
    core.flush(now=0.0)
    answer(core, send(core), 200)
    assert outcomes([first, last]) == ["delivered", "delivered"]


def test_many() -> None:
    """Those that are done are forgotten."""
    core = core_with(max_batch_events=2)
    receipts = track(core, *range(40))
    [lane] = core.lanes.values()
    for _ in range(10):
        answer(core, send(core), 200)
    assert outcomes(receipts) == ["delivered"] * 20 + [None] * 20
    assert len(lane.flushes) == 20


@pytest.mark.parametrize("on_full", [OnFull.DROP_NEWEST, OnFull.DROP_OLDEST])
def test_dropped(on_full: OnFull) -> None:
    """A receipt says that its event was dropped for want of room, the oldest or the newest."""
    core = core_with(on_full=on_full, max_pending_events=2)
    receipts = track(core, 1, 2, 3)
    newest = on_full is OnFull.DROP_NEWEST
    assert outcomes(receipts) == ([None, None, "lost"] if newest else ["lost", None, None])
    loss = receipts[2 if newest else 0].loss
    assert loss is not None
    assert loss.reason is LossReason.BACKLOG_FULL


def test_stopped() -> None:
    """Without a backlog what is left at the end is lost."""
    core = core_with()
    receipts = track(core, 1)
    core.abandon(now=0.0)
    assert outcomes(receipts) == ["lost"]


def test_interrupting() -> None:
    """An event that comes in the middle of a call has its receipt taken along; so has one that is refused then."""
    core = core_with(max_batch_bytes=1024)
    receipts = [Receipt(), Receipt()]
    core._busy = True
    core.track_line("s", encode_event(1), now=0.0, receipt=receipts[0])
    core.track_line("s", encode_event("x" * 1100), now=0.0, receipt=receipts[1])
    core._busy = False
    core.flush(now=0.0)
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportLoss)
    assert outcomes(receipts) == [None, "lost"]
    with pytest.raises(EventTooLarge):
        track(core, "x" * 1100)
    core.flush(now=0.0)
    answer(core, send(core), 200)
    assert outcomes(receipts) == ["delivered", "lost"]


@pytest.mark.parametrize("level", Level)
def test_kept(level: Level) -> None:
    """With a backlog what is left at the end is kept, in batches or records, written before or after the end."""
    core = core_with(level)
    receipts = track(core, 1)
    if level is not Level.MEMORY:
        core.next_records(now=0.0)
        core.records_written(now=0.0)
        receipts += track(core, 2)
        core.next_records(now=0.0)
    core.abandon(now=0.0)
    if level is not Level.MEMORY:
        assert outcomes(receipts) == ["kept", None]
        core.records_written(now=0.0)
    else:
        assert outcomes(receipts) == [None]
        assert core.next_backlog_command(now=0.0) is not None
        core.backlog_updated()
    assert outcomes(receipts) == ["kept"] * len(receipts)
    assert {receipt.outcome for receipt in receipts} == {Outcome.KEPT}
