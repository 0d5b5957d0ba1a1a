"""What the simulator found in the core beside a backlog, one test each."""

from __future__ import annotations

import json

from beside_backlog import make

from atom_sansio import (
    AuthKey,
    ConnectionFailed,
    Level,
    LossReason,
    Records,
    RecordState,
    Reply,
    ReportLoss,
    SendRequest,
    TrackerCore,
    UpdateBacklog,
)

K2 = AuthKey("k2")


def updated(core: TrackerCore) -> UpdateBacklog:
    """The next update, which is made."""
    command = core.next_backlog_command(now=0.0)
    assert isinstance(command, UpdateBacklog)
    core.backlog_updated()
    return command


def sends(core: TrackerCore) -> list[SendRequest]:
    """All that is to be sent now."""
    found = []
    while (command := core.next_command(now=0.0)) is not None:
        if isinstance(command, SendRequest):
            found.append(command)
    return found


def refuse(status: int) -> Reply:
    """An answer."""
    return Reply(status=status, headers=(), body=b"")


def test_a_batch_at_the_backlog_is_signed_with_the_new_key() -> None:
    """A batch that waits to be kept while the key changes is sent with the signature of the new one."""
    core = make(Level.MEMORY)
    core.track_line("a", b"1\n", now=0.0)
    core.flush(now=0.0)
    assert not sends(core)
    core.set_auth_key("a", K2, now=0.0)
    updated(core)
    (command,) = sends(core)
    body = json.loads(command.request.body)
    assert body["auth"] == K2.sign(body["data"].encode())


def test_an_event_in_memory_alone_takes_a_number() -> None:
    """Marks count events in their order, so the record that comes after one without a record is number two."""
    core = make(Level.PROCESS, on_full="raise")
    core.admit("a", b"1\n", now=0.0, waits=False)
    assert core.next_records(now=0.0) is not None
    core.records_refused("no space", now=0.0)
    core.admit("a", b"2\n", now=2.0)
    records = core.next_records(now=2.0)
    assert records is not None
    assert records.data.split()[1] == b"2"
    core.records_written(now=2.0)
    core.flush(now=2.0)
    sends(core)
    assert [mark.index for mark in updated(core).marks] == [2]


def test_who_came_while_the_last_records_were_refused_does_not_wait_for_ever() -> None:
    """After the end no pause holds, since nobody would be there after it."""
    core = make(Level.PROCESS, on_full="block")
    core.admit("a", b"1\n", now=0.0)
    assert core.next_records(now=0.0) is not None
    late = core.admit("a", b"2\n", now=0.0)
    core.abandon(now=0.0)
    core.records_refused("no space", now=0.0)
    assert isinstance(core.next_backlog_command(now=0.0), Records)
    core.records_refused("no space", now=0.0)
    assert late is not None
    assert late.state is RecordState.REFUSED
    assert core.closed


def failed_and_sent() -> tuple[TrackerCore, SendRequest]:
    """A batch that is under way, and whose update has failed, or not."""
    core = make(Level.MEMORY)
    core.track_line("a", b"1\n", now=0.0)
    core.track_line("a", b"2\n", now=0.0)
    core.flush(now=0.0)
    assert not sends(core)
    assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
    core.backlog_failed("nobody knows", now=0.0)
    (command,) = sends(core)
    return core, command


def test_what_may_be_kept_is_dropped_with_the_update_that_keeps_its_halves() -> None:
    """No crash leaves a batch and its halves, even where nobody knows whether the batch is kept."""
    core, command = failed_and_sent()
    core.response_received(command.batch_id, refuse(413), now=0.0, unit=0.5)
    update = core.next_backlog_command(now=2.0)
    assert isinstance(update, UpdateBacklog)
    assert [kept.batch_id for kept, _ in update.put] == ["s-1.1", "s-1.2"]
    assert update.drop == ("s-1",)


def test_what_may_be_kept_is_dropped_once_it_is_settled() -> None:
    """A batch that is delivered is dropped though the update that was to keep it has failed."""
    core, command = failed_and_sent()
    core.response_received(command.batch_id, refuse(200), now=0.0, unit=0.5)
    update = core.next_backlog_command(now=2.0)
    assert isinstance(update, UpdateBacklog)
    assert (update.put, update.drop) == ((), ("s-1",))


def test_closed_though_the_backlog_fails_to_the_end() -> None:
    """What is given up leaves nothing to be told to a backlog that cannot be told."""
    core, _ = failed_and_sent()
    core.abandon(now=0.0)
    for _ in range(2):
        assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
        core.backlog_failed("no space", now=0.0)
    assert isinstance(core.next_command(now=0.0), ReportLoss)
    assert core.closed


def test_a_parked_lane_takes_no_events_over_from_the_plain_one() -> None:
    """Events without a key of their own stay in order when another lane of their stream gets the same key."""
    core = make(Level.PROCESS)
    for line, key in ((b"1\n", None), (b"2\n", AuthKey("k1"))):
        core.admit("a", line, key, now=0.0)
        assert core.next_records(now=0.0) is not None
        core.records_written(now=0.0)
    core.flush(now=0.0)
    sends(core)
    updated(core)
    plain, explicit = sends(core)
    lane = core.lanes["a"]
    core.send_failed(plain.batch_id, ConnectionFailed("broken"), now=0.0, unit=0.5)
    core.response_received(explicit.batch_id, refuse(403), now=0.0, unit=0.5)
    core.set_auth_key("a", K2, now=0.0)
    assert core.lanes["a"] is lane


def test_a_flush_does_not_count_what_came_after_it() -> None:
    """What is lost at the end was tracked after a flush whose events are kept: that has lost nothing."""
    core = make(Level.MEMORY)
    core.track_line("a", b"1\n", now=0.0)
    flush = core.flush(now=0.0)
    assert not sends(core)
    updated(core)
    core.track_line("a", b"2\n", now=0.0)
    core.abandon(now=0.0)
    for _ in range(2):
        assert isinstance(core.next_backlog_command(now=0.0), UpdateBacklog)
        core.backlog_failed("no space", now=0.0)
    assert core.statistics().lost == {LossReason.STOPPED: 1}
    assert (flush.result.lost, flush.result.pending) == (0, 1)
