"""The core beside a backlog where no driver or simulator leads reliably."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf
from types import FrameType

import pytest

from atom_sansio import (
    AuthKey,
    BacklogFull,
    ConnectionFailed,
    KeptBatch,
    KeptRecords,
    Level,
    LoadBatch,
    LocalError,
    LossReason,
    Mark,
    OnFull,
    Options,
    Outcome,
    Receipt,
    Record,
    Records,
    RecordState,
    Recovered,
    Reply,
    ReportLoss,
    ReportParked,
    RetryPolicy,
    SendRequest,
    TrackerClosed,
    TrackerCore,
    UpdateBacklog,
)
from atom_sansio import _keeper as keeper_module
from atom_sansio._records import read_records

K1 = AuthKey("k1")


def make(level: Level | None, *, recovered: Recovered | None = None, **options: object) -> TrackerCore:
    """A core beside a backlog."""
    given = {"endpoint": "http://c", "auth_key": "k0", "flush_interval": 10.0, **options}
    core = TrackerCore(Options.read(given, {}, str), source="s", level=level)
    if recovered is not None:
        core.restore(recovered, now=0.0)
    return core


def sends(core: TrackerCore) -> list[SendRequest]:
    """All that is to be sent now."""
    found = []
    while (command := core.next_command(now=0.0)) is not None:
        assert isinstance(command, SendRequest)
        found.append(command)
    return found


def kept(events: int, *, place: int = 1, fingerprint: str | None = AuthKey("k0").fingerprint) -> KeptBatch:
    """A batch that a backlog holds."""
    return KeptBatch(
        batch_id=f"old-{place}",
        place=place,
        part=0,
        stream="a",
        fingerprint=fingerprint,
        events=events,
        size=2 * events,
    )


def restored(events: int, **kwargs: object) -> Recovered:
    """What a backlog holds that has one batch."""
    return Recovered(batches=(kept(events, **kwargs),), records=(), generation=0)  # type: ignore[arg-type]  # passed on


def test_nothing_to_keep_without_a_backlog() -> None:
    """A core without one has nothing for it to do, ever."""
    core = make(None)
    core.track("a", 1, now=0.0)
    assert core.next_backlog_command(now=inf) is None
    assert core.next_backlog_deadline() is None
    assert core.next_records(now=inf) is None
    assert core.last_record is None
    assert not core.writes_records


def test_records_put_off() -> None:
    """What its writer never came to write comes again at once, under the same numbers."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0)
    records = core.next_records(now=0.0)
    assert records is not None
    core.records_put_off()
    assert core.next_records(now=0.0) == records


def test_a_handler_that_raises() -> None:
    """Wherever a signal handler raises in the keeping of events, the core goes on; none is kept or sent twice for it.

    Those two that others wait for are accepted; of the one whose call is left nobody says whether it is.
    """
    n = 0
    raised = True
    while raised:
        n += 1
        core = make(Level.PROCESS)
        core.admit("a", b"1\n", now=0.0)
        first = core.next_records(now=0.0)
        assert first is not None
        written = [first.data]
        core.records_written(now=0.0)
        for line in (b"2\n", b"3\n"):
            core.admit("a", line, now=0.0)
        count = 0

        def profile(frame: FrameType, event: str, arg: object) -> None:
            nonlocal count
            if event == "call" and "atom_sansio" in frame.f_code.co_filename:
                count += 1
                if count == n:  # noqa: B023
                    raise KeyboardInterrupt

        done = False
        sys.setprofile(profile)
        try:
            records = core.next_records(now=0.0)
            assert records is not None
            written.append(records.data)
            done = True
            core.records_written(now=0.0)
            done = False
            _, records = core.admit_quickly("a", b"4\n", now=0.0)
            assert records is not None
            written.append(records.data)
            done = True
            core.records_written(now=0.0)
            raised = False
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        if core.writes_records:
            if done:
                core.records_written(now=0.0)
            else:
                core.records_put_off()
        assert not core.busy
        while (records := core.next_records(now=0.0)) is not None:
            written.append(records.data)
            core.records_written(now=0.0)
        core.admit("a", b"5\n", now=0.0)
        records = core.next_records(now=0.0)
        assert records is not None
        written.append(records.data)
        core.records_written(now=0.0)
        core.flush(now=0.0)
        assert sends(core) == []
        update = core.next_backlog_command(now=0.0)
        assert isinstance(update, UpdateBacklog)
        [(_, lines)] = update.put
        events = lines.split()
        assert events in ([b"1", b"2", b"3", b"4", b"5"], [b"1", b"2", b"3", b"5"])
        statistics = core.statistics()
        assert statistics.accepted == statistics.pending == len(events)
        # What a start after a crash would find is what is not in the batch: nothing.
        marks = {mark.index for mark in update.marks}
        left, damaged = read_records([(1, b"".join(written))], update.marks)
        assert (left, damaged, marks) == ([], [], {len(events)})


def test_written_but_not_entered() -> None:
    """Where records_written() was left by an exception, putting the records off accepts them instead."""
    core = holding()
    record = core.admit("a", b"2\n", now=0.0)
    assert record is not None
    assert core.next_records(now=0.0) is not None
    core._admission.enter = raises  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        core.records_written(now=0.0)
    del core._admission.enter
    assert core.writes_records
    assert not core.take_back(record)
    core.records_put_off()
    assert record.state is RecordState.ACCEPTED
    assert not core.writes_records
    assert core.next_records(now=0.0) is None
    assert core.statistics().accepted == 2


def raises(record: object) -> float:
    raise KeyboardInterrupt


def test_what_may_not_interrupt() -> None:
    """What a handler or a finaliser may not call says so, and changes nothing."""
    core = holding()
    core._busy = True
    for call in (lambda: core.records_written(now=0.0), core.next_backlog_deadline, lambda: core.flush(now=0.0)):
        with pytest.raises(LocalError, match="only track"):
            call()
    core._busy = False
    assert core.statistics().accepted == 1


def test_draining_while_the_disk_takes_nothing() -> None:
    """What was accepted is not lost while a stop still has time: the disk may take it yet."""
    core = make(Level.PROCESS, on_full="block")
    core.track("a", 1, now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_refused("full", now=0.0)
    core.close(now=0.0)
    assert core.next_command(now=0.0) is None
    assert core.next_records(now=2.0) is not None
    core.records_refused("full", now=2.0)
    assert not core.statistics().lost
    assert core.next_records(now=4.0) is not None
    core.records_written(now=4.0)
    assert core.statistics().pending == 1


def test_a_key_that_comes_while_records_are_written() -> None:
    """It holds from then on, once what is being written, which says the old one, is written."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.set_auth_key("a", K1, now=0.0)
    core.records_written(now=0.0)
    core.admit("a", b"2\n", now=0.0)
    records = core.next_records(now=0.0)
    assert records is not None
    assert K1.fingerprint.encode() in records.data


def test_a_batch_that_cannot_be_read() -> None:
    """It is lost with that reason and no event, and the next one of its lane is sent."""
    core = make(Level.MEMORY, recovered=Recovered(batches=(kept(2), kept(3, place=2)), records=(), generation=0))
    flush = core.flush(now=0.0)
    assert core.next_command(now=0.0) is None
    assert core.next_backlog_deadline() == -inf
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")
    core.batch_unreadable("old-1", "a page is damaged", now=0.0)
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportLoss)
    assert (report.loss.reason, report.loss.message) == (LossReason.DAMAGED, "a page is damaged")
    assert (report.loss.count, report.loss.lines) == (2, b"")
    assert core.next_command(now=0.0) is None
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-2")
    core.batch_loaded("old-2", b"1\n2\n3\n")
    assert [command.batch_id for command in sends(core)] == ["old-2"]
    assert (flush.result.lost, flush.result.pending) == (2, 3)


def test_a_batch_that_cannot_be_read_now() -> None:
    """It is asked for again after a pause, in which it is in nobody's way, and its lane's order holds."""
    batches = kept(2), kept(3, place=2), replace(kept(1, place=3), stream="b")
    core = make(Level.MEMORY, recovered=Recovered(batches=batches, records=(), generation=0), max_in_flight=1)
    for now in (0.0, 1.0):
        assert core.next_command(now=now) is None
        assert core.next_backlog_command(now=now) == LoadBatch(batch_id="old-1")
        core.batch_not_loaded("old-1", now=now)
        if not now:
            assert core.next_command(now=0.0) is None
            assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-3")
            core.batch_loaded("old-3", b"1\n")
            [command] = sends(core)
            core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.5)
            update = core.next_backlog_command(now=0.0)
            assert isinstance(update, UpdateBacklog)
            assert update.drop == ("old-3",)
            core.backlog_updated()
        assert core.next_command(now=now + 0.9) is None
        assert core.next_backlog_command(now=now + 0.9) is None
        assert core.next_deadline() == now + 1.0
    assert core.next_command(now=2.0) is None
    assert core.next_backlog_command(now=2.0) == LoadBatch(batch_id="old-1")
    core.batch_loaded("old-1", b"1\n2\n")
    assert [command.batch_id for command in sends(core)] == ["old-1"]
    assert core.statistics().lost == {}


def test_a_batch_that_cannot_be_read_until_the_end() -> None:
    """It stays where it is, and nobody asks for it any more."""
    core = make(Level.MEMORY, recovered=restored(2))
    flush = core.close(now=0.0)
    assert core.next_command(now=0.0) is None
    assert isinstance(core.next_backlog_command(now=0.0), LoadBatch)
    core.batch_not_loaded("old-1", now=0.0)
    assert not core.closed
    core.abandon(now=0.5)
    assert core.closed
    assert flush.result.pending == 2
    assert core.next_command(now=1.0) is None
    assert core.next_backlog_command(now=1.0) is None
    assert (core.next_deadline(), core.next_backlog_deadline()) == (None, None)


def test_a_batch_that_cannot_be_read_during_an_outage() -> None:
    """It does not take the place of the one that is sent to see whether the endpoint is there again."""
    old = [replace(kept(1, place=place), stream=stream) for place, stream in enumerate("abc", 1)]
    core = make(Level.MEMORY, recovered=Recovered(batches=tuple(old), records=(), generation=0))
    for n in (1, 2):
        assert core.next_command(now=0.0) is None
        core.batch_loaded(f"old-{n}", b"1\n")
        [command] = sends(core)
        core.response_received(command.batch_id, Reply(status=503, headers=(), body=b""), now=0.0, unit=0.5)
    probe_at = core.next_deadline()
    assert probe_at is not None
    assert core.next_command(now=probe_at) is None
    core.batch_not_loaded("old-3", now=probe_at)
    again = core.next_command(now=probe_at)
    assert isinstance(again, SendRequest)
    assert again.batch_id == "old-1"


def test_answers_for_batches_that_are_gone() -> None:
    """What a backlog says of a batch after the end says nothing any more."""
    core = make(Level.MEMORY, recovered=restored(2))
    core.flush(now=0.0)
    assert core.next_command(now=0.0) is None
    assert isinstance(core.next_backlog_command(now=0.0), LoadBatch)
    core.abandon(now=0.0)
    core.batch_loaded("old-1", b"1\n2\n")
    core.batch_unreadable("old-1", "too late", now=0.0)
    core.batch_not_loaded("old-1", now=0.0)
    assert core.next_command(now=0.0) is None


def test_damaged_records() -> None:
    """They count as accepted in an earlier life and lost in this."""
    core = make(Level.PROCESS, recovered=Recovered(batches=(), records=(), generation=0, damaged=3))
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportLoss)
    assert (report.loss.reason, report.loss.count) == (LossReason.DAMAGED, 3)
    statistics = core.statistics()
    assert (statistics.restored, statistics.accepted, statistics.lost) == (3, 3, {LossReason.DAMAGED: 3})


def test_another_batch_waits_while_one_is_kept() -> None:
    """An update lets go on whom it concerned, and nobody else."""
    core = make(Level.MEMORY)
    core.track("a", 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.track("b", 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    core.backlog_updated()
    assert len(sends(core)) == 1
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    assert len(sends(core)) == 1


def test_the_oldest_is_dropped_in_memory_level() -> None:
    """What is dropped for want of room was never kept, and is not kept on its way out."""
    core = make(Level.MEMORY, on_full="drop_oldest", max_pending_events=2)
    for event in range(3):
        core.track("a", event, now=0.0)
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportLoss)
    assert report.loss.events == (0,)
    assert core.statistics().pending == 2


def test_the_oldest_is_dropped_for_one_with_a_record() -> None:
    """A lane that has lost its only event for the next one of its own stays to take that."""
    core = make(Level.PROCESS, on_full="drop_oldest", max_pending_events=1)
    for line in (b"1\n", b"2\n"):
        assert core.admit("a", line, now=0.0) is not None
        assert core.next_records(now=0.0) is not None
        assert core.records_written(now=0.0), "a driver must look again, for what was dropped"
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportLoss)
    assert report.loss.lines == b"1\n"
    assert core.statistics().pending == 1
    core.flush(now=0.0)
    assert sends(core) == []
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert [lines for _, lines in update.put] == [b"2\n"]
    assert [mark.index for mark in update.marks] == [2]


def test_no_room_for_one_with_a_record() -> None:
    """Without room and with ``drop_newest`` there is no record, and no harm."""
    core = make(Level.PROCESS, on_full="drop_newest", max_pending_events=1)
    receipt = Receipt()
    assert core.admit("a", b"1\n", now=0.0) is not None
    assert core.admit("a", b"2\n", now=0.0, receipt=receipt) is None
    assert receipt.outcome is Outcome.LOST


@pytest.mark.parametrize("on_full", OnFull)
def test_a_pause_after_the_disk_failed(on_full: OnFull) -> None:
    """What comes in it is refused or dropped at once, or waits knowing why."""
    core = make(Level.PROCESS, on_full=on_full)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    if on_full is OnFull.RAISE:
        with pytest.raises(BacklogFull, match="no space"):
            core.admit("a", b"2\n", now=0.5)
        return
    record = core.admit("a", b"2\n", now=0.5)
    if on_full is OnFull.BLOCK:
        assert record is not None
        assert "no space" in record.trouble
        return
    assert record is None
    assert core.statistics().lost == {LossReason.BACKLOG_FULL: 2}


@pytest.mark.parametrize("written", [True, False])
def test_receipts_of_what_is_left(*, written: bool) -> None:
    """What is left in the backlog is kept once it is written there, or else lost; what was settled stays so."""
    core = make(Level.MEMORY, max_batch_events=1)
    first, second = Receipt(), Receipt()
    for line, receipt in ((b"1\n", first), (b"2\n", second)):
        core.track_line("a", line, now=0.0, receipt=receipt)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    [command] = sends(core)
    core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.5)
    core.abandon(now=0.0)
    assert (first.outcome, second.outcome) == (Outcome.DELIVERED, None)
    while core.next_backlog_command(now=0.0) is not None:
        core.backlog_updated() if written else core.backlog_failed("no space left", now=0.0)
    assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.KEPT if written else Outcome.LOST)


def test_receipts_of_what_there_are_records_of() -> None:
    """It is kept already, whatever becomes of the backlog's other half."""
    core = make(Level.PROCESS)
    receipt = Receipt()
    core.admit("a", b"1\n", now=0.0, receipt=receipt)
    core.next_records(now=0.0)
    core.records_written(now=0.0)
    core.abandon(now=0.0)
    assert receipt.outcome is Outcome.KEPT


def test_receipts_of_what_is_kept_already() -> None:
    """Where nothing more is to be written it is kept at once."""
    core = make(Level.MEMORY, max_batch_events=1)
    receipt = Receipt()
    core.track_line("a", b"1\n", now=0.0, receipt=receipt)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    core.abandon(now=0.0)
    assert receipt.outcome is Outcome.KEPT


def test_a_receipt_that_nobody_holds_when_all_is_left() -> None:
    """It costs nothing then either; nor does a flush that nobody waits for."""
    core = make(Level.MEMORY)
    core.track_line("a", b"1\n", now=0.0, receipt=Receipt())
    core.flush(now=0.0)
    core.abandon(now=0.0)
    assert core.statistics().pending == 1


class Interrupted(AuthKey):
    """A key whose signature a signal handler interrupts."""

    def __init__(self, handler: Callable[[], object]) -> None:
        super().__init__("k0")
        self.handler = handler

    def sign(self, data: bytes) -> str:
        """Sign, and be interrupted."""
        self.handler()
        return super().sign(data)


@pytest.mark.parametrize("unheard", [False, True])
def test_an_event_with_a_record_that_interrupts(*, unheard: bool) -> None:
    """A signal handler's event has its record written once the call that it interrupts is done."""
    seen = []
    key = Interrupted(lambda: seen.append(core.admit("b", b"2\n", now=0.0, waits=not unheard)))
    core = make(Level.PROCESS, auth_key=key)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_written(now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    assert len(sends(core)) == 1
    assert seen == [None]
    record = core.last_record
    assert record is not None
    assert record.line == b"2\n"


class Read(AuthKey):
    """A key that a signal handler interrupts when somebody looks which it is."""

    handler: Callable[[], object] | None = None

    @property
    def fingerprint(self) -> str:
        """What tells keys apart."""
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return super().fingerprint


def test_an_event_that_interrupts_one_with_a_record() -> None:
    """It is taken up when the other is taken in, behind it."""
    core = make(Level.PROCESS)
    key = Read("k1")
    key.handler = lambda: core.admit("b", b"2\n", now=0.0)
    first = core.admit("a", b"1\n", key, now=0.0)
    assert first is not None
    last = core.last_record
    assert last is not None
    assert (first.line, last.line) == (b"1\n", b"2\n")


def test_a_record_that_is_being_written() -> None:
    """It cannot be taken back any more."""
    core = make(Level.PROCESS)
    record = core.admit("a", b"1\n", now=0.0)
    assert record is not None
    assert core.next_records(now=0.0) is not None
    assert not core.take_back(record)
    core.records_written(now=0.0)
    assert core.statistics().accepted == 1


def test_records_beyond_a_batch() -> None:
    """An event that does not fit any more begins another batch."""
    core = make(Level.PROCESS, max_batch_bytes=4000)
    for name in "abc":
        core.admit("a", event(name, 1500), now=0.0)
    assert core.next_records(now=0.0) is not None
    assert core.records_written(now=0.0)
    assert sends(core) == []
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert [kept.events for kept, _ in update.put] == [2]


def quickly(core: TrackerCore, line: bytes, now: float = 0.0) -> bytes | None:
    """The record of an event that is taken in at once."""
    record, records = core.admit_quickly("a", line, now=now)
    if record is None or records is None:
        assert record is None
        assert records is None
        return None
    assert record.state is RecordState.WRITING
    assert not record.waits
    return records.data


def holding(**options: object) -> TrackerCore:
    """A core whose stream holds an event."""
    core = make(Level.PROCESS, **options)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_written(now=0.0)
    return core


def test_quickly() -> None:
    """What is written is what would be written otherwise, and the event is accepted as soon as it is."""
    core, other = holding(), holding()
    other.admit("a", b"2\n", now=0.0)
    records = other.next_records(now=0.0)
    assert records is not None
    assert quickly(core, b"2\n") == records.data
    assert core.statistics().accepted == 1
    assert not core.records_written(now=0.0)
    assert core.statistics() == replace(other.statistics(), accepted=2, pending=2, pending_bytes=4)


def test_quickly_into_another_batch() -> None:
    """An event whose stream got another key since the last one begins a batch of its own."""
    core = holding()
    core.set_auth_key("a", K1, now=0.0)
    record, _ = core.admit_quickly("a", b"2\n", now=0.0)
    assert record is not None
    core.flush(now=0.0)
    core.records_written(now=0.0)
    core.flush(now=0.0)
    puts = []
    for _ in range(2):
        sent = sends(core)
        update = core.next_backlog_command(now=0.0)
        assert isinstance(update, UpdateBacklog)
        puts += [(kept.fingerprint, lines) for kept, lines in update.put]
        core.backlog_updated()
        for request in sent or sends(core):
            core.response_received(request.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.0)
    assert puts == [(AuthKey("k0").fingerprint, b"1\n"), (K1.fingerprint, b"2\n")]


def test_quickly_refused() -> None:
    """A disk that does not take it is told of as ever, and what comes in the pause does not come in quickly."""
    core = holding(on_full="raise")
    record, _ = core.admit_quickly("a", b"2\n", now=0.0)
    assert record is not None
    record.waits = True
    core.records_refused("no space", now=0.0)
    assert record.state is RecordState.REFUSED
    assert quickly(core, b"3\n") is None
    record, _ = core.admit_quickly("a", b"4\n", now=5.0)
    assert record is None, "the disk has not said yet that it is well"
    assert core.statistics().accepted == 1


def test_quickly_put_off() -> None:
    """What nobody came to write is given again."""
    core = holding()
    _, records = core.admit_quickly("a", b"2\n", now=0.0)
    assert records is not None
    core.records_put_off()
    assert core.next_records(now=0.0) == records


def test_not_quickly() -> None:
    """Whatever is in the way leaves the event to the long way: nothing was done."""
    unkept = make(None)
    unkept.track("a", 1, now=0.0)
    assert quickly(unkept, b"2\n") is None
    assert quickly(make(Level.PROCESS), b"1\n") is None, "a stream that is not known"
    writing = holding()
    assert quickly(writing, b"2\n") is not None
    assert quickly(writing, b"3\n") is None
    assert quickly(holding(max_pending_events=1), b"2\n") is None
    full = holding(max_batch_bytes=1024, max_pending_bytes=1024)
    assert quickly(full, b'"' + b"x" * 1020 + b'"\n') is None, "no room"
    assert quickly(holding(max_batch_bytes=1024), b'"' + b"x" * 900 + b'"\n') is None, "may not fit into a request"
    closed = holding()
    closed.close(now=0.0)
    assert quickly(closed, b"2\n") is None
    assert holding().admit_quickly([], b"2\n", now=0.0) == (None, None)  # type: ignore[arg-type]


def test_quickly_to_the_last_byte() -> None:
    """What fits into a request however it is escaped, which doubles it, comes in quickly."""
    for more, taken in ((0, True), (1, False)):
        core = holding(max_batch_bytes=1024)
        room = (1024 - core.lanes["a"].envelope) // 2
        assert (quickly(core, event("x", room + more)) is not None) is taken


def test_the_room_of_what_comes_quickly() -> None:
    """An event takes its room before its record is written; one that does not come in quickly takes none."""
    core = holding(max_pending_events=3, on_full="raise")
    assert quickly(core, b"2\n") is not None
    for _ in range(2):
        assert quickly(core, b"3\n") is None
    assert core.admit("a", b"3\n", now=0.0) is not None
    with pytest.raises(BacklogFull):
        core.admit("a", b"4\n", now=0.0)


def test_an_event_that_interrupts_one_that_comes_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken up behind it; no other call may interrupt."""
    core = holding()
    recording = core._recording
    assert recording is not None
    take = recording.take_alone

    def take_alone(record: Record) -> Records | None:
        with pytest.raises(LocalError):
            core.flush(now=0.0)
        assert core.admit("b", b"3\n", now=0.0, waits=False) is None
        return take(record)

    monkeypatch.setattr(recording, "take_alone", take_alone)
    assert quickly(core, b"2\n") is not None
    record = core.last_record
    assert record is not None
    assert record.line == b"3\n"


def test_an_event_that_interrupts_the_end_of_a_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken up at once; no other call may interrupt, nor may one look when it is to come back."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    enter = core._admission.enter

    def interrupted(record: Record) -> float:
        for call in (lambda: core.records_written(now=0.0), core.next_backlog_deadline):
            with pytest.raises(LocalError, match=r"^only track\(\)"):
                call()
        core.admit("b", b"2\n", now=0.0, waits=False)
        return enter(record)

    monkeypatch.setattr(core._admission, "enter", interrupted)
    core.records_written(now=0.0)
    record = core.last_record
    assert record is not None
    assert record.line == b"2\n"
    assert core.statistics().accepted == 1


def test_quickly_while_busy() -> None:
    """What interrupts a call does not come in quickly."""
    found = []
    key = Interrupted(lambda: found.append(quickly(core, b"2\n")))
    core = make(Level.PROCESS, auth_key=key)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_written(now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    core.admit("a", b"3\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_written(now=0.0)
    assert len(sends(core)) == 1
    assert found == [None]


def test_admit_after_the_end() -> None:
    """A stopped core takes no events with records either."""
    core = make(Level.PROCESS)
    core.close(now=0.0)
    with pytest.raises(TrackerClosed):
        core.admit("a", b"1\n", now=0.0)


def test_lanes_whose_key_is_missing() -> None:
    """What was kept under a key that was not given waits for it, is told of, and goes when an event brings it."""
    core = make(Level.MEMORY, recovered=restored(1, fingerprint=K1.fingerprint))
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportParked)
    assert report.message == f"events that were kept wait for the key {K1.fingerprint}, which was not given"
    assert core.track("a", 2, K1, now=0.0)
    assert not core.track("a", 3, K1, now=0.0)
    assert core.next_command(now=0.0) is None
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")
    core.batch_loaded("old-1", b"1\n")
    [command] = sends(core)
    core.send_failed(command.batch_id, ConnectionFailed("gone"), now=0.0, unit=0.5)
    assert core.statistics().pending == 3


def spilling() -> TrackerCore:
    """A core that holds next to nothing in memory, and drops the oldest events for new ones."""
    options = {"max_batch_events": 1, "on_full": "drop_oldest", "max_pending_bytes": 4000, "max_batch_bytes": 4000}
    given = {"endpoint": "http://c", **options}
    return TrackerCore(Options.read(given, {}, str), source="s", level=Level.MEMORY, window=0)


def losses(core: TrackerCore) -> list[str]:
    """The first byte of each event that is lost."""
    found = []
    while isinstance(command := core.next_command(now=0.0), ReportLoss):
        found.append(command.loss.lines[1:2].decode())
    return found


def event(name: str, size: int) -> bytes:
    """A string of *size* bytes, and its line break."""
    return b'"%s"\n' % (name.encode() * (size - 3))


def test_the_oldest_batches_are_dropped() -> None:
    """Of those that wait in the backlog alone as many as a new event needs."""
    core = spilling()
    for name in "abc":
        core.track_line("a", event(name, 1000), now=0.0)
    core.track_line("a", event("d", 2500), now=0.0)
    assert losses(core) == ["a", "b"]


def test_what_was_sent_is_not_dropped() -> None:
    """A batch that may have arrived is no longer the oldest."""
    core = spilling()
    for name in "abcd":
        core.track_line("a", event(name, 1000), now=0.0)
    assert losses(core) == []
    while isinstance(core.next_backlog_command(now=0.0), UpdateBacklog):
        core.backlog_updated()
    command = core.next_command(now=0.0)
    assert isinstance(command, SendRequest)
    core.track_line("a", event("e", 1000), now=0.0)
    assert losses(core) == [""], "in the backlog alone"
    core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.5)
    assert core.statistics().delivered == 1


def test_a_flush_of_what_the_disk_does_not_take() -> None:
    """It is not done, since it cannot say that all is well, and ends with the tracker."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    flush = core.flush(now=0.0)
    assert not flush.done
    assert flush.result.pending == 1
    core.abandon(now=0.0)
    assert flush.done
    assert not flush.result


@pytest.mark.parametrize("status", [200, 422])
def test_a_flush_of_what_the_disk_takes_later(status: int) -> None:
    """It hears of those events too, and of no others."""
    core = make(Level.PROCESS, max_batch_events=1)
    core.admit("a", b"1\n", now=0.0, waits=False)
    core.next_records(now=0.0)
    core.records_refused("no space", now=0.0)
    flush, gone = core.flush(now=0.0), core.flush(now=0.0)
    del gone
    core.admit("a", b"2\n", now=0.0, waits=False)
    assert core.next_records(now=2.0) is not None
    core.records_written(now=2.0)
    for _ in range(2):
        while core.next_command(now=2.0) is not None:  # a report of what was lost before
            pass
        core.next_backlog_command(now=2.0)
        core.backlog_updated()
        [command] = sends(core)
        core.response_received(command.batch_id, Reply(status=status, headers=(), body=b""), now=2.0, unit=0.5)
        assert flush.done
    assert (flush.result.delivered, flush.result.lost) == ((1, 0) if status == 200 else (0, 1))


def test_a_flush_of_what_the_disk_never_takes() -> None:
    """It hears of those that are lost when all ends."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0, waits=False)
    core.next_records(now=0.0)
    core.records_refused("no space", now=0.0)
    flush = core.close(now=0.0)
    core.abandon(now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    assert (flush.result.delivered, flush.result.lost, flush.result.pending) == (0, 1, 0)


def test_what_is_at_the_backlog_counts_as_in_flight() -> None:
    """No more batches are made than may be sent."""
    core = make(Level.MEMORY, max_in_flight=1)
    for stream in "ab":
        core.track(stream, 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert core.next_deadline() is None, "the backlog's answer is what must come"
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert [kept.stream for kept, _ in update.put] == ["a"]


def test_nothing_is_loaded_at_the_end() -> None:
    """What was to be loaded stays where it is, and what comes of it all the same is ignored."""
    core = make(Level.MEMORY, recovered=restored(2))
    assert core.next_command(now=0.0) is None
    core.abandon(now=0.0)
    assert core.next_backlog_deadline() is None
    assert core.next_backlog_command(now=0.0) is None
    core.batch_loaded("old-1", b"1\n2\n")
    core.batch_unreadable("old-1", "gone", now=0.0)
    assert core.closed
    assert core.statistics().pending == 2


def test_sent_though_not_kept() -> None:
    """While the backlog fails nobody waits for it."""
    core = make(Level.MEMORY)
    for stream in "ab":
        core.track(stream, 1, now=0.0)
        core.flush(now=0.0)
        if stream == "a":
            assert sends(core) == []
            assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
            core.backlog_failed("no space", now=0.0)
        assert len(sends(core)) == 1


def test_what_is_delivered_is_dropped() -> None:
    """The backlog need not keep a batch that has arrived."""
    core = make(Level.MEMORY)
    core.track("a", 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    [command] = sends(core)
    core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.5)
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert update.drop == (command.batch_id,)


@pytest.mark.parametrize("status", [503, 401])
def test_let_go_while_it_cannot_be_sent(status: int) -> None:
    """What is kept need not be in memory during a pause, or while its key is refused; it is loaded after that."""
    options = Options.read({"endpoint": "http://c", "auth_key": "k0"}, {}, str)
    core = TrackerCore(options, source="s", level=Level.MEMORY, window=0)
    core.track("a", 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    [command] = sends(core)
    core.response_received(command.batch_id, Reply(status=status, headers=(), body=b""), now=0.0, unit=0.0)
    if status == 401:
        assert isinstance(core.next_command(now=0.0), ReportParked)
        core.set_auth_key("a", K1, now=0.0)
    assert sends(core) == []
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id=command.batch_id)


def test_what_is_loaded_waits_for_that() -> None:
    """An update of others does not let it go."""
    core = make(Level.MEMORY, recovered=restored(2))
    assert sends(core) == []
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")
    core.track("b", 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    assert len(sends(core)) == 1
    assert core.next_backlog_command(now=0.0) is None


def test_one_batch_of_many_is_loaded() -> None:
    """It is the next one, and goes back to the backlog alone when it cannot be sent and memory is short."""
    options = Options.read({"endpoint": "http://c", "auth_key": "k0"}, {}, str)
    core = TrackerCore(options, source="s", level=Level.MEMORY, window=0)
    core.restore(Recovered(batches=(kept(2), kept(3, place=2)), records=(), generation=0), now=0.0)
    for _ in range(2):
        assert sends(core) == []
        assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")
        core.batch_loaded("old-1", b"1\n2\n")
        [command] = sends(core)
        assert (command.batch_id, command.events) == ("old-1", 2)
        core.response_received("old-1", Reply(status=503, headers=(), body=b""), now=0.0, unit=0.0)


def test_given_up_before_what_waits() -> None:
    """A batch whose attempts are used up is lost, and what waits behind it goes on after the pause."""
    core = make(Level.MEMORY, retry=RetryPolicy(max_attempts=1))
    core.track("a", 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    [command] = sends(core)
    core.track("a", 2, now=0.0)
    core.send_failed(command.batch_id, ConnectionFailed("gone"), now=0.0, unit=0.5)
    assert isinstance(core.next_command(now=0.0), ReportLoss)
    assert core.next_deadline() == 3.0


def test_who_has_to_look_again() -> None:
    """Whoever tracks an event that has a record does: it is to be written."""
    core = make(Level.PROCESS)
    assert core.track("a", 1, now=0.0) is True
    assert core.next_records(now=0.0) is not None
    assert core.records_put_off() is True
    assert core.next_records(now=0.0) is not None
    assert core.track("a", 2, now=0.0) is True
    assert core.records_written(now=0.0) is True, "sooner than never, and another one to be written"
    assert core.next_records(now=0.0) is not None
    assert core.track("a", 3, now=0.0) is True
    assert core.records_written(now=0.0) is True, "another one to be written"
    assert core.next_records(now=0.0) is not None
    assert core.records_written(now=0.0) is False


def test_who_has_to_look_again_for_a_key() -> None:
    """A record with the key that kept events have waited for lets these be sent."""
    core = make(Level.PROCESS, recovered=restored(1, fingerprint=K1.fingerprint))
    assert isinstance(core.next_command(now=0.0), ReportParked)
    core.admit("a", b"2\n", K1, now=0.0)
    assert core.next_records(now=0.0) is not None
    assert core.records_written(now=0.0) is True
    assert core.next_command(now=0.0) is None
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")


def test_an_interrupting_event_with_a_record_that_cannot_be() -> None:
    """It is refused at once, as it would be otherwise."""
    core = make(Level.PROCESS)
    core._busy = True
    with pytest.raises(TypeError, match="auth_key must be an AuthKey"):
        core.admit("a", b"1\n", "text", now=0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stream"):
        core.admit("", b"1\n", now=0.0)


def test_the_room_of_what_the_disk_does_not_take() -> None:
    """What is dropped when its record was refused, or in the pause after that, leaves its room to others."""
    core = make(Level.PROCESS, on_full="drop_newest", max_pending_events=1)
    record = core.admit("a", b"1\n", now=0.0)
    assert record is not None
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    assert record.state is RecordState.ACCEPTED, "and lost"
    for now in (0.25, 0.5):
        assert core.admit("a", b"2\n", now=now) is None
    assert core.admit("a", b"3\n", now=5.0) is not None
    report = core.next_command(now=5.0)
    assert isinstance(report, ReportLoss)
    assert report.loss.message == "the backlog cannot be written: no space"
    assert core.statistics().lost == {LossReason.BACKLOG_FULL: 3}


def test_taken_back() -> None:
    """An event that is not written yet may be, and then has never been; its room is free again."""
    core = make(Level.PROCESS, on_full="raise", max_pending_events=1, max_pending_bytes=4000, max_batch_bytes=4000)
    for _ in range(3):
        record = core.admit("a", event("x", 3000), now=0.0)
        assert record is not None
        assert core.take_back(record) is True
        assert core.take_back(record) is False
        assert record.state is RecordState.REFUSED
    statistics = core.statistics()
    assert (statistics.accepted, statistics.pending, statistics.pending_bytes) == (0, 0, 0)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("on_full", ["raise", "drop_newest"])
def test_all_that_are_refused_together(on_full: str, *, waits: bool) -> None:
    """Who waits hears of it or is dropped; of others ``raise`` keeps in memory what it cannot refuse any more."""
    core = make(Level.PROCESS, on_full=on_full)
    records = [core.admit("a", line, now=0.0, waits=waits) for line in (b"1\n", b"2\n")]
    assert core.next_records(now=0.0) is not None
    assert core.statistics().pending_bytes == 0
    core.records_refused("no space", now=0.0)
    state = RecordState.REFUSED if waits and on_full == "raise" else RecordState.ACCEPTED
    assert [record and record.state for record in records] == [state, state]
    statistics = core.statistics()
    held = 2 if on_full == "raise" and not waits else 0
    assert (statistics.pending, statistics.pending_bytes) == (held, 2 * held)
    assert statistics.lost == ({LossReason.BACKLOG_FULL: 2} if on_full == "drop_newest" else {})


@pytest.mark.parametrize("on_full", ["raise", "drop_newest", "block"])
def test_refused_after_the_end(on_full: str) -> None:
    """Those that nobody waits for are lost, others refused, whatever ``on_full`` says."""
    core = make(Level.PROCESS, on_full=on_full)
    unheard, waiting = (core.admit("a", b"1\n", now=0.0, waits=waits) for waits in (False, True))
    assert core.next_records(now=0.0) is not None
    core.abandon(now=0.0)
    core.records_refused("no space", now=0.0)
    assert waiting is not None
    assert unheard is not None
    assert (unheard.state, waiting.state) == (RecordState.ACCEPTED, RecordState.REFUSED)
    statistics = core.statistics()
    assert (statistics.accepted, statistics.lost) == (1, {LossReason.STOPPED: 1})


@pytest.mark.parametrize("end", [lambda core: core.records_refused("no space", now=0.0), TrackerCore.records_put_off])
def test_a_key_that_comes_while_records_are_not_written(end: Callable[[TrackerCore], object]) -> None:
    """It holds when the writing has come to nothing, as when it has come to something."""
    core = make(Level.PROCESS, on_full="block")
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.set_auth_key("a", K1, now=0.0)
    end(core)
    records = core.next_records(now=5.0)
    assert records is not None
    assert K1.fingerprint.encode() in records.data


def test_put_off_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal handler has kept from being entered is accepted then, and a driver must look again for it."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None

    def raises(record: Record) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core._admission, "enter", raises)
        with pytest.raises(KeyboardInterrupt):
            core.records_written(now=0.0)
    assert core.records_put_off() is True
    assert not core.writes_records
    assert core.statistics().accepted == 1


def test_when_there_is_something_for_the_backlog() -> None:
    """The sooner of records and batches; records count only where nobody else looks after them."""
    core = make(Level.PROCESS, on_full="block")
    core.track("a", 1, now=0.0)
    assert core.next_backlog_deadline() == -inf
    assert core.next_backlog_deadline(records=False) is None
    assert core.next_backlog_command(now=0.0, records=False) is None
    assert isinstance(core.next_backlog_command(now=0.0), Records)
    assert core.next_backlog_deadline() is None
    core.records_written(now=0.0)
    core.track("b", 1, now=0.0)
    assert isinstance(core.next_backlog_command(now=0.0), Records)
    core.records_refused("no space", now=0.5)
    assert core.next_backlog_deadline() == 1.5
    assert core.next_backlog_deadline(records=False) is None
    core.flush(now=0.5)
    assert sends(core) == []
    assert core.next_backlog_deadline() == -inf
    assert core.next_backlog_deadline(records=False) == -inf
    assert isinstance(core.next_backlog_command(now=0.5), UpdateBacklog)
    core.backlog_failed("no space", now=0.75)
    assert core.next_backlog_deadline() == 1.5
    assert core.next_backlog_deadline(records=False) == 1.75


def test_a_generation_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is made batches, to be kept, and the next records begin another."""
    monkeypatch.setattr(keeper_module, "GENERATION_SIZE", 100)
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_written(now=0.0)
    assert core.next_backlog_deadline(records=False) is None
    _, records = core.admit_quickly("a", event("x", 100), now=0.0)
    assert records is not None
    assert core.records_written(now=0.0) is True
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert [(kept.stream, kept.events) for kept, _ in update.put] == [("a", 2)]
    assert update.forget_before == 2
    core.admit("a", b"3\n", now=0.0)
    records = core.next_records(now=0.0)
    assert records is not None
    assert records.generation == 2


def test_a_generation_that_is_full_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """None begins after it: with the last record there is nothing left to be done."""
    monkeypatch.setattr(keeper_module, "GENERATION_SIZE", 1)
    core = make(Level.PROCESS)
    record = core.admit("a", b"1\n", now=0.0)
    assert record is not None
    assert core.next_records(now=0.0) is not None
    core.abandon(now=0.0)
    assert not core.closed
    assert core.records_written(now=0.0) is True
    assert core.closed
    assert record.state is RecordState.ACCEPTED
    statistics = core.statistics()
    assert (statistics.accepted, statistics.pending, statistics.pending_bytes) == (1, 1, 2)
    assert core.next_backlog_command(now=0.0) is None


def test_records_in_the_pause_at_the_end() -> None:
    """Who stops does not wait for the end of a pause to write what is left."""
    core = make(Level.PROCESS, on_full="block")
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    core.abandon(now=0.0)
    assert core.next_backlog_deadline() == -inf
    assert core.next_records(now=0.0) is not None


def test_closed_when_all_is_kept() -> None:
    """What is left in the backlog has to be told to it first; a flush then has nothing to wait for."""
    core = make(Level.MEMORY)
    core.track("a", 1, now=0.0)
    core.abandon(now=0.0)
    assert core.statistics().lanes == 0
    assert core.flush(now=0.0).done
    assert not core.closed
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    assert not core.closed
    core.backlog_updated()
    assert core.closed


def test_closed_when_all_is_told() -> None:
    """A key that is missing is told of though the tracker has stopped."""
    core = make(Level.MEMORY, recovered=restored(1, fingerprint=K1.fingerprint))
    assert core.next_deadline() == -inf
    core.abandon(now=0.0)
    assert core.next_backlog_command(now=0.0) is None
    assert not core.closed
    assert isinstance(core.next_command(now=0.0), ReportParked)
    assert core.closed


def test_closed_when_all_is_written() -> None:
    """With records a stop that has nothing to wait for ends as well, and leaves what has records where it is."""
    core = make(Level.PROCESS)
    core.close(now=0.0)
    assert core.next_command(now=0.0) is None
    assert core.closed
    core = holding()
    core.abandon(now=0.0)
    assert core.next_backlog_command(now=0.0) is None
    assert core.closed


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_what_has_no_record_at_the_end(fails: int) -> None:
    """It is kept as a batch; at the second try if need be, or lost if the backlog does not take that either."""
    core = make(Level.PROCESS, on_full="raise")
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    core.abandon(now=0.0)
    for n in range(1, 3):
        update = core.next_backlog_command(now=0.0)
        assert isinstance(update, UpdateBacklog)
        assert [lines for _, lines in update.put] == [b"1\n"]
        if n > fails:
            core.backlog_updated()
            break
        core.backlog_failed("no space", now=0.0)
    if fails < 2:
        assert core.next_command(now=0.0) is None
    else:
        report = core.next_command(now=0.0)
        assert isinstance(report, ReportLoss)
        words = "not delivered when the tracker stopped, and the backlog cannot be written: no space"
        assert (report.loss.reason, report.loss.message) == (LossReason.STOPPED, words)
    assert core.closed


def test_restored_records() -> None:
    """They are pending, and kept as batches before they are sent; records go on in the next generation."""
    fingerprint = AuthKey("k0").fingerprint
    mark = Mark(generation=4, stream="a", fingerprint=fingerprint, index=2)
    records = KeptRecords(stream="a", fingerprint=fingerprint, lines=b"1\n2\n", marks=(mark,))
    core = make(Level.PROCESS, recovered=Recovered(batches=(), records=(records,), generation=4))
    statistics = core.statistics()
    assert (statistics.restored, statistics.pending, statistics.pending_bytes) == (2, 2, 4)
    assert sends(core) == []
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert ([lines for _, lines in update.put], update.marks) == ([b"1\n2\n"], (mark,))
    core.backlog_updated()
    assert [command.events for command in sends(core)] == [2]
    core.admit("a", b"3\n", now=0.0)
    written = core.next_records(now=0.0)
    assert written is not None
    assert written.generation == 5


def test_restored_without_a_key() -> None:
    """What was never signed waits for no key."""
    core = make(Level.MEMORY, recovered=restored(1, fingerprint=None), auth_key=None)
    assert sends(core) == []
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")


@pytest.mark.parametrize(("key", "used"), [(AuthKey("k0"), "k1"), (AuthKey("call"), "call")])
def test_restored_and_another_key(key: AuthKey, used: str) -> None:
    """What had its stream's key gets the new one, what came with a key of its own keeps that."""
    recovered = restored(1, fingerprint=key.fingerprint)
    core = make(Level.MEMORY, recovered=recovered, auth_keys={"b": "call"})
    core.set_auth_key("a", K1, now=0.0)
    assert sends(core) == []
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")
    core.batch_loaded("old-1", b"1\n")
    [command] = sends(core)
    body = json.loads(command.request.body)
    assert body["auth"] == AuthKey(used).sign(body["data"].encode())
