"""What passes between the core and others is complete when built, stays as it is, and shows no events."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any

import pytest

from atom_sansio import (
    DeadLetter,
    FlushResult,
    KeptBatch,
    Level,
    LoadBatch,
    Loss,
    LossReason,
    Mark,
    OnFull,
    Origin,
    Outcome,
    Records,
    Recovered,
    Reply,
    ReportLoss,
    ReportParked,
    Request,
    Response,
    SendRequest,
    Statistics,
    UpdateBacklog,
    _kept,
    _messages,
)
from atom_sansio._kept import KeptRecords

CANARY = b"canary\n"

ORIGIN = Origin("http", "h", 80)
REQUEST = Request(method="POST", origin=ORIGIN, target="/bulk?x=1", headers=(), body=CANARY)
LOSS = Loss(
    stream="s", lines=CANARY, count=1, reason=LossReason.REJECTED, status=400, message="no", attempts=1, time=5.0
)
BATCH = KeptBatch(batch_id="b", place=1, part=0, stream="s", fingerprint=None, events=1, size=2)
MARK = Mark(generation=1, stream="s", fingerprint=None, index=1)
LETTER = DeadLetter(letter_id="l", fingerprint=None, loss=LOSS)

MESSAGES = [
    ORIGIN,
    REQUEST,
    Reply(status=200, headers=(), body=b""),
    Response(200, b"", None),
    LOSS,
    FlushResult(delivered=1, lost=0, pending=0),
    Statistics(
        accepted=0, restored=0, delivered=0, lost={}, pending=0, pending_bytes=0, lanes=0, parked=0, in_flight=0,
        requests=0, failures=0,
    ),
    SendRequest(batch_id="b", request=REQUEST, timeout=1.0, events=1),
    ReportLoss(loss=LOSS),
    ReportParked(stream="s", status=403, message="no"),
    BATCH,
    MARK,
    LETTER,
    UpdateBacklog(put=(), drop=(), dead=(LETTER,), marks=(MARK,), forget_before=0),
    LoadBatch(batch_id="b"),
    Records(1, CANARY),
    Recovered(batches=(BATCH,), records=(), generation=0),
    KeptRecords(stream="s", fingerprint=None, lines=CANARY, marks=()),
]  # fmt: skip
each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


def test_there_are_no_others() -> None:
    """Whoever adds a message adds one here."""
    known = {
        kind
        for module in (_messages, _kept)
        for kind in vars(module).values()
        if isinstance(kind, type) and is_dataclass(kind)
    }
    assert known == {type(message) for message in MESSAGES}


@each_message
def test_shape(message: Any) -> None:
    """It holds what it has fields for, and nothing else; fields are named where there are many or alike."""
    assert not hasattr(message, "__dict__")
    positional = isinstance(message, (Origin, Response, Records))
    assert [field.kw_only for field in fields(message)] == [not positional] * len(fields(message))


@each_message
def test_it_stays_as_it_is(message: Any) -> None:
    """Nobody changes one on its way; records alone could be, since there is one for each event."""
    name = fields(message)[0].name
    if isinstance(message, Records):
        setattr(message, name, 1)
        return
    with pytest.raises(FrozenInstanceError):
        setattr(message, name, None)


@each_message
def test_it_shows_no_events(message: Any) -> None:
    """Events are in no repr, say in a traceback or a log."""
    assert "canary" not in repr(message)


def test_names() -> None:
    """What callers compare with, write and store is spelled as documented."""
    assert [level.value for level in Level] == ["memory", "process", "disk"]
    assert [reason.value for reason in LossReason] == [
        "rejected", "redirected", "too_large", "expired", "backlog_full", "stopped", "damaged",
    ]  # fmt: skip
    assert [outcome.value for outcome in Outcome] == ["delivered", "lost", "kept"]
    assert [choice.value for choice in OnFull] == ["block", "raise", "drop_newest", "drop_oldest"]


def test_recovered_without_damage() -> None:
    """Unless it says otherwise, nothing of a backlog is damaged."""
    assert Recovered(batches=(), records=(), generation=0).damaged == 0


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("http", "h", 80), "h"),
        (Origin("https", "h", 443), "h"),
        (Origin("http", "h", 443), "h:443"),
        (Origin("https", "h", 80), "h:80"),
        (Origin("http", "::1", 80), "[::1]"),
        (Origin("https", "::1", 8443), "[::1]:8443"),
    ],
)
def test_authority(origin: Origin, authority: str) -> None:
    """An address of IPv6 stands in brackets, and the port is left out where the scheme implies it."""
    assert origin.authority == authority


def test_url() -> None:
    """A request's URL is absolute, and its target stands in it as it is."""
    assert REQUEST.url == "http://h/bulk?x=1"


def test_header() -> None:
    """The first header of the name counts; None if there is none."""
    reply = Reply(status=200, headers=(("a", "1"), ("b", "2"), ("b", "3")), body=b"")
    assert [reply.header(name) for name in "abc"] == ["1", "2", None]


@pytest.mark.parametrize(("lost", "pending", "well"), [(0, 0, True), (1, 0, False), (0, 1, False), (1, 1, False)])
def test_flush_result(lost: int, pending: int, well: bool) -> None:
    """It is true if every event was delivered, however few there were."""
    assert bool(FlushResult(delivered=0, lost=lost, pending=pending)) is well


def test_events_of_a_loss() -> None:
    """Lines are decoded one by one, and integers are exact however large."""
    loss = Loss(
        stream="s", lines=b'1\n{"a":123456789012345678901234567890}\n', count=2, reason=LossReason.STOPPED, status=None,
        message="", attempts=0, time=0.0,
    )  # fmt: skip
    assert loss.events == (1, {"a": 123456789012345678901234567890})


def test_records_that_are_written() -> None:
    """They are not yet when they are given, and are the same records when they are."""
    given, written = Records(1, b"1\n"), Records(1, b"1\n")
    assert not given.appended
    written.appended = True
    assert given == written
