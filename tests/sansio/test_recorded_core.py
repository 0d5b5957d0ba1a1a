"""The core where each event has a record, where no driver or simulator leads reliably."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf
from types import FrameType

import pytest
from beside_backlog import event, make, sends

from atom_sansio import (
    AuthKey,
    BacklogFull,
    KeptRecords,
    Level,
    LocalError,
    LossReason,
    Mark,
    OnFull,
    Outcome,
    Receipt,
    Record,
    Records,
    RecordState,
    Recovered,
    Reply,
    ReportLoss,
    SendRequest,
    TrackerClosed,
    TrackerCore,
    UpdateBacklog,
)
from atom_sansio import _keeper as keeper_module
from atom_sansio._records import read_records

K1 = AuthKey("k1")


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
        assert core.next_backlog_deadline() == -inf
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


@pytest.mark.parametrize("quickly", [False, True])
def test_room_for_a_call_that_is_left(quickly: bool) -> None:
    """Wherever a signal handler raises in taking an event in, room is kept for what is in the queue, and nothing else.

    So it is in taking one back.
    """
    n = 0
    raised = True
    while raised:
        n += 1
        core = make(Level.PROCESS)
        if quickly:
            core.admit("a", b"1\n", now=0.0)
            assert core.next_records(now=0.0) is not None
            core.records_written(now=0.0)
        count = 0

        def profile(frame: FrameType, event: str, arg: object) -> None:
            nonlocal count
            if event in ("call", "c_return") and "atom_sansio" in frame.f_code.co_filename:
                count += 1
                if count == n:  # noqa: B023
                    raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            if quickly:
                core.admit_quickly("a", b"2\n", now=0.0)
            else:
                record = core.admit("a", b"2\n", now=0.0)
                assert record is not None
                assert core.take_back(record)
            raised = False
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert core._recording is not None
        queue, ledger = core._recording._queue, core._ledger
        assert (ledger.reserved_events, ledger.reserved_bytes) == (len(queue), 2 * len(queue))
    assert n > 10


def test_flushed_before_it_is_written() -> None:
    """An event that a flush follows is sent as soon as its record is written, though that takes more than one try."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    flush = core.flush(now=0.0)
    core.records_refused("full", now=0.0)
    assert core.next_records(now=1.0) is not None
    assert core.records_written(now=1.0)
    assert core.next_deadline() == -inf
    core.next_command(now=1.0)
    core.next_backlog_command(now=1.0)
    core.backlog_updated()
    [sent] = sends(core)
    core.response_received(sent.batch_id, Reply(status=200, headers=(), body=b""), now=1.0, unit=0.5)
    assert flush.done


def test_flushed_before_it_is_written_beside_others() -> None:
    """The driver is told to look again, though it was to look at something else before that lane's own time."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    core.flush(now=0.0)
    core._told_deadline = 5.0
    assert core.records_written(now=0.0)


def test_flushed_and_dropped() -> None:
    """An event that was dropped after an exception had left records_written() is sent no more."""
    core = make(Level.PROCESS, on_full="drop_oldest", max_pending_events=1)
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    flush = core.flush(now=0.0)
    core._schedule.make_due = raises  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        core.records_written(now=0.0)
    del core._schedule.make_due
    core.admit("b", b"2\n", now=0.0)
    assert flush.done
    core.records_put_off()
    assert not core.writes_records
    assert core.next_records(now=0.0) is not None
    assert core.statistics().lost == {LossReason.BACKLOG_FULL: 1}


def test_flushed_and_left() -> None:
    """Where all has ended meanwhile the event stays where it is written."""
    core = make(Level.PROCESS)
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    flush = core.flush(now=0.0)
    core.abandon(now=0.0)
    core.records_written(now=0.0)
    assert flush.result.pending == 1
    assert len(core._schedule) == 0


def test_flushed_and_in_memory_alone() -> None:
    """What the disk has refused, and nobody can be told of, is sent for a flush all the same."""
    core = make(Level.PROCESS, on_full="raise")
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    core.flush(now=0.0)
    core.records_refused("full", now=0.0)
    assert core.next_deadline() == -inf
    assert (core.statistics().pending, core._ledger.pending, core._ledger.reserved_events) == (1, 1, 0)


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


def test_receipts_of_what_there_are_records_of() -> None:
    """It is kept already, whatever becomes of the backlog's other half."""
    core = make(Level.PROCESS)
    receipt = Receipt()
    core.admit("a", b"1\n", now=0.0, receipt=receipt)
    core.next_records(now=0.0)
    core.records_written(now=0.0)
    core.abandon(now=0.0)
    assert receipt.outcome is Outcome.KEPT


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
        while not isinstance(command := core.next_command(now=2.0), SendRequest):
            if command is None:  # or it is a report of what was lost before
                assert core.next_backlog_command(now=2.0) is not None
                core.backlog_updated()
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


@pytest.mark.parametrize("on_full", ["block", "raise", "drop_newest", "drop_oldest"])
def test_late(on_full: str) -> None:
    """An event that waits for too long is refused or lost, as ``on_full`` says; one that is being written is not."""
    core = make(Level.PROCESS, on_full=on_full, max_pending_events=2)
    written = core.admit("a", b"1\n", now=0.0)
    receipt = Receipt()
    assert core.next_records(now=0.0) is not None
    waiting = core.admit("a", b"2\n", now=0.0, receipt=receipt)
    assert written is not None
    assert waiting is not None
    assert core.record_late(written, now=1.0) is False
    for late in (True, False):
        assert core.record_late(waiting, now=1.0) is late
    core.records_written(now=1.0)
    assert written.state is RecordState.ACCEPTED
    assert waiting.trouble == "the backlog has been busy with other records for too long"
    statistics = core.statistics()
    assert (statistics.pending, statistics.pending_bytes) == (1, 2)
    assert core.admit("a", b"3\n", now=1.0) is not None, "its room is free"
    assert core.statistics().lost == statistics.lost
    if not on_full.startswith("drop"):
        assert waiting.state is RecordState.REFUSED
        assert (statistics.accepted, statistics.lost, receipt.outcome) == (1, {}, None)
        return
    assert waiting.state is RecordState.ACCEPTED, "and lost"
    assert (statistics.accepted, statistics.lost) == (2, {LossReason.BACKLOG_FULL: 1})
    assert receipt.outcome is Outcome.LOST
    report = core.next_command(now=1.0)
    assert isinstance(report, ReportLoss)
    assert (report.loss.events, report.loss.message) == ((2,), waiting.trouble)


def test_late_since_the_disk_is_full() -> None:
    """Then that is what is said of it."""
    core = make(Level.PROCESS)
    record = core.admit("a", b"1\n", now=0.0)
    assert record is not None
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    assert core.record_late(record, now=0.5)
    assert record.trouble == "the backlog cannot be written: no space"


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
