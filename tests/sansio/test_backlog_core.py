"""The core beside a backlog, where no driver or simulator leads reliably."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import pytest
from beside_backlog import event, kept, make, sends

from atom_sansio import (
    AuthKey,
    ConnectionFailed,
    Level,
    LoadBatch,
    LossReason,
    Options,
    Outcome,
    Receipt,
    Records,
    Recovered,
    Reply,
    ReportLoss,
    ReportParked,
    RetryPolicy,
    SendRequest,
    TrackerCore,
    UpdateBacklog,
)

K1 = AuthKey("k1")
OK = Reply(status=200, headers=(), body=b"")


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
    for number in range(3):
        core.track("a", number, now=0.0)
    report = core.next_command(now=0.0)
    assert isinstance(report, ReportLoss)
    assert report.loss.events == (0,)
    assert core.statistics().pending == 2


def test_full_batches_are_kept_together() -> None:
    """One update keeps what is full, which is sent without asking again, and dropped together a moment later."""
    core = make(Level.MEMORY, max_batch_events=1)
    for number in range(3):
        core.track("a", number, now=0.0)
    assert sends(core) == []
    update = core.next_backlog_command(now=0.0)
    assert isinstance(update, UpdateBacklog)
    assert [lines for _, lines in update.put] == [b"0\n", b"1\n", b"2\n"]
    core.backlog_updated()
    for number, drop_at in enumerate((2.1, 2.1, -inf)):
        [command] = sends(core)
        core.response_received(command.batch_id, OK, now=2.0 + number, unit=0.5)
        assert core.next_backlog_deadline() == drop_at
        assert drop_at == -inf or core.next_backlog_command(now=drop_at - 0.01) is None
    update = core.next_backlog_command(now=4.0)
    assert isinstance(update, UpdateBacklog)
    assert len(update.drop) == 3


def test_what_is_delivered_before_the_end_is_dropped_then() -> None:
    """At the end nothing waits for more to be dropped with."""
    core = make(Level.MEMORY, max_batch_events=1)
    core.track("a", 1, now=0.0)
    core.track("a", 2, now=0.0)
    assert sends(core) == []
    assert core.next_backlog_command(now=0.0) is not None
    core.backlog_updated()
    [command] = sends(core)
    core.response_received(command.batch_id, OK, now=2.0, unit=0.5)
    assert core.next_backlog_command(now=2.0) is None
    core.abandon(now=2.0)
    update = core.next_backlog_command(now=2.0)
    assert isinstance(update, UpdateBacklog)
    assert update.drop == (command.batch_id,)
    core.backlog_updated()
    assert core.closed


@pytest.mark.parametrize("written", [True, False])
def test_receipts_of_what_is_left(*, written: bool) -> None:
    """What is left in the backlog is kept once it is written there, or else lost; what was settled stays so."""
    core = make(Level.MEMORY, max_batch_events=1)
    first, second = Receipt(), Receipt()
    core.track_line("a", b"1\n", now=0.0, receipt=first)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    core.track_line("a", b"2\n", now=0.0, receipt=second)
    [command] = sends(core)
    core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=0.0, unit=0.5)
    core.abandon(now=0.0)
    assert (first.outcome, second.outcome) == (Outcome.DELIVERED, None)
    while core.next_backlog_command(now=0.0) is not None:
        core.backlog_updated() if written else core.backlog_failed("no space left", now=0.0)
    assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.KEPT if written else Outcome.LOST)


def test_receipts_of_what_was_kept_before_the_backlog_failed() -> None:
    """It is kept all the same, and what was not is lost."""
    core = make(Level.MEMORY, max_batch_events=1)
    kept, lost = Receipt(), Receipt()
    core.track_line("a", b"1\n", now=0.0, receipt=kept)
    assert sends(core) == []
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_updated()
    core.track_line("b", b"2\n", now=0.0, receipt=lost)
    core.abandon(now=0.0)
    for _ in range(2):
        assert (kept.outcome, lost.outcome) == (None, None)
        assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
        core.backlog_failed("no space left", now=0.0)
    assert (kept.outcome, lost.outcome) == (Outcome.KEPT, Outcome.LOST)


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


def test_who_has_to_look_again_for_a_key() -> None:
    """A record with the key that kept events have waited for lets these be sent."""
    core = make(Level.PROCESS, recovered=restored(1, fingerprint=K1.fingerprint))
    assert isinstance(core.next_command(now=0.0), ReportParked)
    core.admit("a", b"2\n", K1, now=0.0)
    assert core.next_records(now=0.0) is not None
    assert core.records_written(now=0.0) is True
    assert core.next_command(now=0.0) is None
    assert core.next_backlog_command(now=0.0) == LoadBatch(batch_id="old-1")


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
