"""The core beside a backlog where no driver or simulator leads reliably."""

from __future__ import annotations

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
    Level,
    LoadBatch,
    LocalError,
    LossReason,
    OnFull,
    Options,
    Outcome,
    Receipt,
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


def test_answers_for_batches_that_are_gone() -> None:
    """What a backlog says of a batch after the end says nothing any more."""
    core = make(Level.MEMORY, recovered=restored(2))
    core.flush(now=0.0)
    assert core.next_command(now=0.0) is None
    assert isinstance(core.next_backlog_command(now=0.0), LoadBatch)
    core.abandon(now=0.0)
    core.batch_loaded("old-1", b"1\n2\n")
    core.batch_unreadable("old-1", "too late", now=0.0)
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


def test_receipts_of_what_is_left() -> None:
    """Of one that is lost already nothing changes when the rest is left in the backlog."""
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
    assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.KEPT)


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
    assert K1.fingerprint in report.message
    core.track("a", 2, K1, now=0.0)
    assert core.next_command(now=0.0) is None
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")
    core.batch_loaded("old-1", b"1\n")
    [command] = sends(core)
    core.send_failed(command.batch_id, ConnectionFailed("gone"), now=0.0, unit=0.5)
    assert core.statistics().pending == 2


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
    core.abandon(now=0.0)
    assert flush.done
    assert not flush.result


def test_what_is_at_the_backlog_counts_as_in_flight() -> None:
    """No more batches are made than may be sent."""
    core = make(Level.MEMORY, max_in_flight=1)
    for stream in "ab":
        core.track(stream, 1, now=0.0)
    core.flush(now=0.0)
    assert sends(core) == []
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
