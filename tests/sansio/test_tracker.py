"""The tracker's decisions, scenario by scenario."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from atom_sansio import (
    AuthKey,
    BacklogFull,
    Command,
    ConnectionFailed,
    EventTooLarge,
    LocalError,
    Loss,
    LossReason,
    Options,
    Outcome,
    Receipt,
    Reply,
    ReportLoss,
    ReportParked,
    RequestTimeout,
    RetryPolicy,
    SendRequest,
    TrackerClosed,
    TrackerCore,
    TrackerState,
    Verdict,
    encode_event,
)

UNIX = 1_000_000.0


def unresolved(name: str) -> Any:
    raise AssertionError(name)


class Tracker:
    """A core with a clock and shorthands."""

    def __init__(self, *, verdict: Callable[[int], Verdict] | None = None, **options: Any) -> None:
        self.options = Options.read({"endpoint": "http://h/", **options}, {}, unresolved)
        more = {} if verdict is None else {"verdict": verdict}
        self.core = TrackerCore(self.options, source="s", unix_offset=UNIX, **more)
        self.now = 0.0

    def track(self, event: Any, stream: str = "a", key: AuthKey | None = None) -> bool:
        return self.core.track(stream, event, key, now=self.now)

    def pull(self) -> list[Command]:
        commands = []
        while (command := self.core.next_command(now=self.now)) is not None:
            commands.append(command)
        return commands

    def sent(self) -> list[SendRequest]:
        """The requests that are due now; nothing else may be."""
        commands = self.pull()
        assert all(isinstance(command, SendRequest) for command in commands), commands
        return commands  # type: ignore[return-value]

    def send(self) -> SendRequest:
        (command,) = self.sent()
        return command

    def losses(self) -> list[Loss]:
        return [command.loss for command in self.pull() if isinstance(command, ReportLoss)]

    def answer(self, command: SendRequest, status: int = 200, unit: float = 0.5, **headers: str) -> None:
        reply = Reply(status=status, headers=tuple((k.replace("_", "-"), v) for k, v in headers.items()), body=b"words")
        self.core.response_received(command.batch_id, reply, now=self.now, unit=unit)

    def fail(self, command: SendRequest, *, stale: bool = False, unit: float = 0.5) -> None:
        error = ConnectionFailed("reset", stale=stale)
        self.core.send_failed(command.batch_id, error, now=self.now, unit=unit)

    def flush(self) -> Any:
        return self.core.flush(now=self.now)

    def key(self, stream: str, key: str | AuthKey) -> None:
        self.core.set_auth_key(stream, AuthKey.of(key), now=self.now)

    def ledger(self) -> tuple[int, int, int, int]:
        it = self.core.statistics()
        return it.accepted, it.delivered, sum(it.lost.values()), it.pending


def envelope(command: SendRequest) -> dict[str, Any]:
    it: dict[str, Any] = json.loads(command.request.body)
    return it


def events(command: SendRequest) -> list[Any]:
    it: list[Any] = json.loads(envelope(command)["data"])
    assert len(it) == command.events
    return it


def signed_with(command: SendRequest) -> str | None:
    it = envelope(command)
    if "auth" not in it:
        return None
    text = it["data"].encode()
    return next(name for name in ("default", "stream", "call", "new") if AuthKey(name).sign(text) == it["auth"])


class TestTriggers:
    def test_number(self) -> None:
        """A lane is sent as soon as it holds max_batch_events, and track says that there is something to do."""
        t = Tracker(max_batch_events=3)
        assert [t.track(n) for n in range(3)] == [True, False, True]
        command = t.send()
        assert events(command) == [0, 1, 2]
        assert command.timeout == 60.0
        assert command.request.target == "/bulk"
        assert t.core.next_deadline() is None

    def test_size(self) -> None:
        """A lane is sent as soon as it holds as many bytes as a body may have; what is over waits."""
        t = Tracker(max_batch_bytes=1024, auth_key="default")
        while not (ready := t.track("x" * 100)) or t.core.next_deadline() != -inf:
            pass
        assert ready
        command = t.send()
        assert 1024 - 106 < len(command.request.body) <= 1024
        assert t.core.statistics().pending > command.events

    def test_a_rest_waits_for_its_own_time(self) -> None:
        """What is left of more than a batch is sent with what comes after it, at its own age."""
        t = Tracker(max_batch_bytes=1024, flush_interval=10.0)
        quotes = '"' * 100  # twice as long when escaped, which the first batch has to find out
        t.track(quotes)
        t.now = 1.0
        while t.core.next_deadline() != -inf:
            t.track(quotes)
        command = t.send()
        t.now = 5.0
        t.answer(command)
        assert t.core.next_deadline() == 10.0
        assert not t.track("new"), "nothing is to be done sooner than before"
        assert t.core.next_deadline() == 10.0
        t.now = 10.0
        sizes = []
        while commands := t.sent():
            (command,) = commands
            sizes.append(command.events)
            t.answer(command)
        assert t.core.statistics().pending == 0
        assert t.ledger()[1] > sum(sizes)

    def test_age(self) -> None:
        """A lane is sent at the very time its oldest event is flush_interval old, not before."""
        t = Tracker(flush_interval=0.1)
        t.now = 12345.678
        assert t.track(1)
        deadline = t.core.next_deadline()
        assert deadline == 12345.678 + 0.1
        t.now += 0.05
        assert not t.track(2), "nothing is to be done sooner than before"
        t.now = deadline - 1e-9
        assert t.pull() == []
        t.now = deadline
        assert events(t.send()) == [1, 2]

    def test_whose_time_is_sooner(self) -> None:
        """A track says that there is something to do if that is sooner than what one before it has said."""
        t = Tracker(flush_interval=10.0)
        assert t.track(1, "a")
        assert not t.track(1, "b"), "not sooner, at the same time"
        t.now = 1.0
        assert not t.track(1, "c")
        assert t.core.next_deadline() == 10.0
        assert not t.track(1, "d")

    def test_one_event_is_a_batch(self) -> None:
        """With max_batch_events=1 each event is sent at once."""
        t = Tracker(max_batch_events=1)
        assert t.track("x")
        assert events(t.send()) == ["x"]

    def test_what_came_meanwhile(self) -> None:
        """Events that came during a request wait for their own time, or go at once as a full batch."""
        t = Tracker(max_batch_events=2, flush_interval=10.0)
        for n in (1, 2):
            t.track(n)
        first = t.send()
        t.now = 3.0
        assert not t.track(3)
        t.answer(first)
        assert t.pull() == []
        assert t.core.next_deadline() == 13.0
        t.track(4)
        second = t.send()
        for n in (5, 6, 7):
            assert not t.track(n), "a lane in flight has nothing to say"
        t.answer(second)
        third = t.send()
        assert events(third) == [5, 6]

    def test_flush(self) -> None:
        """A flush sends what is there, and follows just that."""
        t = Tracker()
        for stream in "ab":
            t.track(1, stream)
        flush = t.flush()
        a, b = t.sent()
        t.track(2)
        t.answer(a)
        assert (flush.done, flush.result.delivered, flush.result.pending) == (False, 1, 1)
        t.answer(b, 302)
        assert flush.done
        assert (flush.result.delivered, flush.result.lost, flush.result.pending) == (1, 1, 0)
        assert t.core.statistics().pending == 1
        assert t.flush().result.pending == 1

    def test_flush_of_nothing(self) -> None:
        """With nothing pending a flush is done."""
        assert Tracker().flush().done

    def test_flush_of_a_full_batch_that_is_cut(self) -> None:
        """What a full batch turns out to be too small for, when its events are escaped, is flushed too."""
        t = Tracker(max_batch_events=4, max_batch_bytes=1024)
        for _ in range(4):
            t.track("")
        for event in ("", "", '"' * 150, '"' * 150):
            t.track(event)
        t.core.flush(now=t.now)
        sent = []
        while t.core.statistics().pending:
            command = t.send()
            sent.append(len(events(command)))
            t.answer(command, 200)
        assert sent == [4, 3, 1]

    def test_flush_during_a_request(self) -> None:
        """What waits behind a request is sent right after it when a flush has asked for it."""
        t = Tracker()
        t.track(1)
        t.flush()
        first = t.send()
        t.track(2)
        flush = t.flush()
        t.track(3)
        assert t.pull() == []
        t.answer(first)
        second = t.send()
        assert events(second) == [2, 3]
        t.answer(second)
        assert flush.result.delivered == 2

    def test_an_event_is_encoded_when_it_is_tracked(self) -> None:
        """What is changed afterwards does not change what is sent."""
        t = Tracker()
        event = {"items": [1]}
        t.track(event)
        event["items"].append(2)
        t.flush()
        assert events(t.send()) == [{"items": [1]}]

    def test_what_did_not_fit(self) -> None:
        """What a full batch turned out to have no room for waits for its time, and what comes then joins it."""
        t = Tracker(max_batch_bytes=1024, flush_interval=10.0)
        count = 0
        while t.core.next_deadline() != float("-inf"):
            count += 1
            t.track("\\" * 30 + str(count))
        first = t.send()
        assert first.events < count
        t.now = 5.0
        t.answer(first)
        assert t.sent() == []
        assert not t.track("more")
        assert t.sent() == []
        t.now = 10.0
        assert events(t.send())[0] == "\\" * 30 + str(first.events + 1)


class TestLanes:
    def test_order_and_one_in_flight(self) -> None:
        """One lane has one request at a time, in the order of its events."""
        t = Tracker(max_batch_events=2)
        for n in range(6):
            t.track(n)
        seen = []
        for _ in range(3):
            command = t.send()
            seen += events(command)
            t.answer(command)
        assert seen == list(range(6))
        assert t.pull() == []

    def test_max_in_flight(self) -> None:
        """At most max_in_flight requests at once; the next lane's turn comes with an answer."""
        t = Tracker(max_in_flight=2, max_batch_events=1)
        for stream in "abcd":
            t.track(1, stream)
        first, second = t.sent()
        assert t.core.statistics().in_flight == 2
        assert t.core.next_deadline() is None, "an answer is what must come"
        t.answer(second)
        third = t.send()
        assert [envelope(c)["table"] for c in (first, second, third)] == ["a", "b", "c"]

    def test_a_driver_may_pull_once(self) -> None:
        """The deadline is minus infinity while there is more to do."""
        t = Tracker(max_batch_events=1)
        for stream in "ab":
            t.track(1, stream)
        assert isinstance(t.core.next_command(now=0.0), SendRequest)
        assert t.core.next_deadline() == -inf
        assert isinstance(t.core.next_command(now=0.0), SendRequest)
        assert t.core.next_deadline() is None

    @pytest.mark.parametrize(
        ("options", "call", "used"),
        [
            ({}, None, None),
            ({}, "call", "call"),
            ({"auth_key": "default"}, None, "default"),
            ({"auth_key": "default", "auth_keys": {"a": "stream"}}, None, "stream"),
            ({"auth_key": "default", "auth_keys": {"b": "stream"}}, None, "default"),
            ({"auth_key": "default", "auth_keys": {"a": "stream"}}, "call", "call"),
        ],
    )
    def test_which_key(self, options: dict[str, Any], call: str | None, used: str | None) -> None:
        """A key per call wins over one per stream, and that over the default."""
        t = Tracker(max_batch_events=1, **options)
        t.track(1, key=None if call is None else AuthKey(call))
        assert signed_with(t.send()) == used

    def test_keys_have_lanes_of_their_own(self) -> None:
        """Events of one stream under two keys are two batches; under the same key, however given, one."""
        t = Tracker(auth_key="default")
        t.track(1, key=AuthKey("call"))
        t.track(2)
        t.track(3, key=AuthKey("default"))
        t.track(4, key=AuthKey("call"))
        t.flush()
        first, second = t.sent()
        assert (signed_with(first), events(first)) == ("call", [1, 4])
        assert (signed_with(second), events(second)) == ("default", [2, 3])

    def test_a_key_per_call_that_is_the_default(self) -> None:
        """A lane that began with a key per call takes events without one, if that is their key as well."""
        t = Tracker(auth_key="default")
        t.track(1, key=AuthKey("default"))
        t.track(2)
        t.track(3)
        t.flush()
        assert events(t.send()) == [1, 2, 3]

    @pytest.mark.parametrize("stream", ["", None, 5, [], "x" * 513, "\ud800"])
    def test_bad_stream(self, stream: Any) -> None:
        """What names no stream is refused by that name, and nothing is accepted, also in an interrupting call."""
        t = Tracker()
        for key in (None, AuthKey("k")):
            with pytest.raises((TypeError, ValueError), match="stream"):
                t.core.track(stream, 1, key, now=0.0)
        t.core._busy = True
        with pytest.raises((TypeError, ValueError), match="stream"):
            t.core.track(stream, 1, now=0.0)
        t.core._busy = False
        assert t.ledger() == (0, 0, 0, 0)
        assert t.core.statistics().lanes == 0

    def test_the_longest_stream(self) -> None:
        """An envelope that leaves no room is told as an event that is too large."""
        t = Tracker(max_batch_bytes=1024)
        with pytest.raises(EventTooLarge, match=r"event needs a request of \d+ bytes; max_batch_bytes allows 1024"):
            t.track(1, "\x01" * 512)

    def test_a_long_queue(self) -> None:
        """However much waits, full batches leave in order, and nothing is left behind or moved to the front."""
        t = Tracker(max_batch_bytes=2048, max_batch_events=30)
        tracked = [("x" * (n % 97), n)[n % 2] for n in range(3000)]
        for event in tracked:
            t.track(event)
        t.flush()
        arrived: list[Any] = []
        sizes: list[int] = []
        while commands := t.sent():
            (command,) = commands
            arrived += events(command)
            sizes.append(command.events)
            t.answer(command)
        assert arrived == tracked
        assert max(sizes) <= 30
        assert sorted(sizes)[len(sizes) // 10] > 20, "all but a few are full"
        assert t.core.statistics().lanes == 0

    def test_a_queue_behind_a_smaller_limit(self) -> None:
        """What waits in full batches is cut anew when the collector turns out to take smaller ones."""
        t = Tracker(max_batch_bytes=8192)
        tracked = [str(n) * 50 for n in range(600)]
        for event in tracked:
            t.track(event)
        t.answer(t.send(), 413)
        arrived: list[Any] = []
        while commands := t.sent():
            (command,) = commands
            assert len(command.request.body) <= 8192 / 2 + 400
            arrived += events(command)
            t.answer(command)
            t.flush()
        assert arrived == tracked


class TestKeys:
    def test_only_keys(self) -> None:
        """What is no AuthKey is refused by name, by whichever way it comes, and nothing is half done."""
        t = Tracker()
        for wrong in ("text", b"bytes", 7):
            with pytest.raises(TypeError, match="auth_key must be an AuthKey, not "):
                t.core.track("a", 1, wrong, now=0.0)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="auth_key must be an AuthKey, not "):
                t.core.set_auth_key("a", wrong, now=0.0)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not None"):
            t.core.set_auth_key("a", None, now=0.0)  # type: ignore[arg-type]
        t.core._busy = True
        with pytest.raises(TypeError, match="auth_key must be an AuthKey, not "):
            t.core.track("a", 1, "text", now=0.0)  # type: ignore[arg-type]
        t.core._busy = False
        assert t.ledger() == (0, 0, 0, 0)

    def refused(self, **options: Any) -> tuple[Tracker, SendRequest]:
        t = Tracker(max_batch_events=1, **{"auth_key": "default", **options})
        t.track(1)
        return t, t.send()

    @pytest.mark.parametrize("status", [401, 403])
    def test_parked(self, status: int) -> None:
        """A refused key parks the lane, is reported, and holds up nobody else."""
        t, command = self.refused()
        t.answer(command, status)
        assert t.pull() == [ReportParked(stream="a", status=status, message="words")]
        t.track(2)
        t.track(3, "b")
        other = t.send()
        assert envelope(other)["table"] == "b"
        t.answer(other)
        assert t.core.next_deadline() is None
        statistics = t.core.statistics()
        assert (statistics.parked, statistics.pending, statistics.failures) == (1, 2, 0)

    def test_unparked(self) -> None:
        """A new key sends the same events under the same id, signed anew, at once."""
        t, command = self.refused()
        t.answer(command, 401)
        t.pull()
        t.key("b", "new")
        assert t.pull() == []
        t.key("a", "new")
        again = t.send()
        assert (again.batch_id, events(again), signed_with(again)) == (command.batch_id, [1], "new")
        t.answer(again)
        t.track(2)
        assert signed_with(t.send()) == "new", "later events have it too"

    def test_unparked_afresh(self) -> None:
        """With the new key pauses begin as short as ever."""
        t, command = self.refused()
        t.fail(command)
        t.now = 3.0
        t.answer(t.send(), 401)
        t.pull()
        t.key("a", "new")
        t.fail(t.send())
        assert t.core.next_deadline() == 6.0

    def test_what_is_to_be_told(self) -> None:
        """A refused key or a loss is something to do at once, and no more once it was pulled."""
        t, command = self.refused()
        t.answer(command, 401)
        assert t.core.next_deadline() == -inf
        assert isinstance(t.core.next_command(now=0.0), ReportParked)
        assert t.core.next_deadline() is None
        t.track(2, "b")
        t.answer(t.send(), 400)
        assert t.core.next_deadline() == -inf
        assert isinstance(t.core.next_command(now=0.0), ReportLoss)
        assert t.core.next_deadline() is None

    def test_what_was_refused(self) -> None:
        """At the end the batch that was sent says what it was refused with, and the one behind it that it was not."""
        t = Tracker(max_batch_events=2)
        for n in (1, 2):
            t.track(n)
        t.answer(t.send(), 400)
        t.answer(t.send(), 401)
        t.pull()
        t.core.abandon(now=0.0)
        assert [(loss.events, loss.status) for loss in t.losses()] == [((1,), 401), ((2,), None)]

    def test_new_key_before_the_refusal(self) -> None:
        """A 401 for a key that has been replaced meanwhile is no refusal of the new one."""
        t, command = self.refused()
        t.key("a", "new")
        t.answer(command, 401)
        again = t.send()
        assert signed_with(again) == "new"
        t.answer(again, 401)
        assert [type(c) for c in t.pull()] == [ReportParked]

    def test_first_key(self) -> None:
        """Unsigned events that were refused go on with the first key that the stream gets, within the limit."""
        t = Tracker(max_batch_bytes=1024, max_batch_events=100)
        while len(t.core._schedule) == 0 or t.core.next_deadline() != -inf:
            t.track("x" * 20)
        command = t.send()
        t.answer(command, 401)
        t.pull()
        t.key("a", "new")
        again = t.send()
        assert signed_with(again) == "new"
        assert len(command.request.body) < len(again.request.body) <= 1024

    def test_a_key_per_call_stays(self) -> None:
        """A stream's new key does not replace one that came with the events, unless that was refused."""
        t = Tracker(auth_key="default")
        t.track(1, key=AuthKey("call"))
        t.track(2)
        t.key("a", "new")
        t.flush()
        pinned, plain = t.sent()
        assert (signed_with(pinned), signed_with(plain)) == ("call", "new")
        t.answer(pinned, 403)
        t.answer(plain, 403)
        assert len(t.pull()) == 2
        t.key("a", "stream")
        assert [signed_with(command) for command in t.sent()] == ["stream", "stream"]

    def test_two_lanes_of_one_key(self) -> None:
        """Lanes that come to the same key go on side by side and lose nothing."""
        t = Tracker(auth_key="default", max_in_flight=1)
        t.track(1, key=AuthKey("new"))
        t.track(2)
        t.key("a", "new")
        t.track(3)
        t.track(4, key=AuthKey("new"))
        t.flush()
        first = t.send()
        assert events(first) == [1, 4]
        t.answer(first)
        t.track(5, key=AuthKey("new"))
        second = t.send()
        assert events(second) == [2, 3]
        t.answer(second)
        t.track(6)
        t.flush()
        assert events(t.send()) == [5, 6]

    def test_bad_stream(self) -> None:
        """A key for what is no stream is refused."""
        with pytest.raises(TypeError, match="stream must be a str"):
            Tracker().key(None, "k")  # type: ignore[arg-type]


class TestFailures:
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599, 199])
    def test_retried(self, status: int) -> None:
        """A passing fault: the same bytes under the same id, after the drawn part of a doubling ceiling."""
        t = Tracker(max_batch_events=1)
        t.track({"n": 1})
        first = t.send()
        expected = 0.0
        for attempt in range(1, 12):
            t.answer(first, status)
            expected = t.now + 0.5 * min(1800.0, 3.0 * 2**attempt)
            assert t.core.next_deadline() == expected
            t.now = expected - 0.001
            assert t.pull() == []
            t.now = expected
            assert t.send() == first
        t.answer(first)
        assert t.ledger() == (1, 1, 0, 0)
        assert t.core.statistics().failures == 11
        assert t.core.statistics().requests == 12

    def test_no_answer(self) -> None:
        """A broken connection or a timeout is treated alike."""
        t = Tracker(max_batch_events=1)
        t.track(1)
        first = t.send()
        t.fail(first)
        assert t.core.next_deadline() == 3.0
        t.now = 3.0
        assert t.send() == first
        t.core.send_failed(first.batch_id, RequestTimeout("late"), now=t.now, unit=0.0)
        assert t.send() == first, "a draw of 0 is no pause"

    @pytest.mark.parametrize(("value", "pause"), [("7", 7.0), ("1", 3.0), ("9999", 3600.0), ("-5", 3.0), ("soon", 3.0)])
    def test_retry_after(self, value: str, pause: float) -> None:
        """What the server asks for is a minimum, and no more than an hour."""
        t = Tracker(max_batch_events=1)
        t.track(1)
        t.answer(t.send(), 503, retry_after=value)
        assert t.core.next_deadline() == pause

    def test_retry_after_a_date(self) -> None:
        """A date is held against Unix time, which is the driver's now and an offset."""
        t = Tracker(max_batch_events=1)
        t.track(1)
        t.now = 5.0
        t.answer(t.send(), 429, unit=0.0, retry_after="Mon, 12 Jan 1970 13:47:45 GMT")
        assert t.core.next_deadline() == 5.0 + 1_000_065 - (UNIX + 5.0)

    def test_pauses_hold_against_flush(self) -> None:
        """A flush does not cut a pause short."""
        t = Tracker(max_batch_events=1)
        t.track(1)
        t.fail(t.send())
        t.flush()
        assert t.pull() == []
        assert t.core.next_deadline() == 3.0

    @pytest.mark.parametrize("limit", [1, 2, 5])
    def test_max_attempts(self, limit: int) -> None:
        """A batch is sent max_attempts times, then lost with the last answer's words; the next starts afresh."""
        t = Tracker(max_batch_events=1, retry=RetryPolicy(max_attempts=limit))
        t.track("x")
        t.track("y")
        for attempt in range(1, limit + 1):
            command = t.send()
            assert events(command) == ["x"]
            t.answer(command, 500, unit=0.0)
            assert t.core.statistics().requests == attempt
        loss, following = t.pull()
        assert isinstance(loss, ReportLoss)
        assert loss.loss == Loss(
            stream="a",
            lines=b'"x"\n',
            count=1,
            reason=LossReason.EXPIRED,
            status=500,
            message="words",
            attempts=limit,
            time=UNIX,
        )
        assert isinstance(following, SendRequest)
        assert events(following) == ["y"]

    def test_a_pause_outlives_its_batch(self) -> None:
        """The batch after one that was given up waits for as long, at least as the server asked, and grows on."""
        t = Tracker(max_batch_events=1, retry=RetryPolicy(max_attempts=1))
        for text in "xyz":
            t.track(text)
        t.answer(t.send(), 503, retry_after="50")
        assert [loss.events for loss in t.losses()] == [("x",)]
        assert t.core.next_deadline() == 50.0
        t.now = 50.0
        t.fail(t.send(), unit=0.5)
        assert [loss.events for loss in t.losses()] == [("y",)]
        assert t.core.next_deadline() == 50.0 + 0.5 * 3.0 * 2**2

    def test_pauses_start_afresh(self) -> None:
        """After a batch that was delivered the next one's first pause is as short as the first one's."""
        t = Tracker(max_batch_events=1)
        for text in "xy":
            t.track(text)
        t.fail(t.send())
        assert t.core.next_deadline() == 3.0
        t.now = 3.0
        t.answer(t.send())
        t.fail(t.send())
        assert t.core.next_deadline() == 6.0

    def test_halves_start_afresh(self) -> None:
        """What a batch had failed with before it was split is not held against the innocent half."""
        t = Tracker(max_batch_events=2, retry=RetryPolicy(max_attempts=2, max_elapsed=100.0))
        t.track("x")
        t.track("y")
        t.answer(t.send(), 503, unit=0.0)
        t.now = 99.0
        t.answer(t.send(), 400)
        for text in "xy":
            command = t.send()
            assert events(command) == [text]
            t.now += 50.0
            t.answer(command, 503, unit=0.0)
            t.answer(t.send())
        assert t.ledger() == (2, 2, 0, 0)

    def test_max_elapsed(self) -> None:
        """A batch is given up at the failure at which max_elapsed seconds have passed, not a moment before."""
        t = Tracker(max_batch_events=1, retry=RetryPolicy(max_elapsed=10.0))
        t.now = 100.0
        t.track(1)
        command = t.send()
        t.now = 109.999
        t.fail(command, unit=0.0)
        command = t.send()
        t.now = 110.0
        t.fail(command)
        (loss,) = t.losses()
        assert (loss.reason, loss.status, loss.message, loss.attempts) == (LossReason.EXPIRED, None, "reset", 2)
        assert loss.time == UNIX + 110.0
        assert t.core.statistics().lanes == 0

    def test_max_elapsed_since_the_very_beginning(self) -> None:
        """It counts from when the batch was sent first, be that at a clock's zero."""
        t = Tracker(max_batch_events=1, retry=RetryPolicy(max_elapsed=10.0))
        t.track(1)
        command = t.send()
        for t.now, lost in ((9.5, 0), (10.0, 1)):
            t.fail(command, unit=0.0)
            commands = t.pull()
            assert sum(isinstance(each, ReportLoss) for each in commands) == lost

    def test_stale(self) -> None:
        """A connection that was closed while idle costs no pause, once; the second in a row does."""
        t = Tracker(max_batch_events=1)
        t.track(1)
        first = t.send()
        t.fail(first, stale=True)
        assert t.send() == first
        t.fail(first, stale=True)
        assert t.pull() == []
        assert t.core.next_deadline() == 3.0
        t.now = 3.0
        assert t.send() == first
        t.fail(first, stale=True)
        assert t.send() == first
        t.answer(first, 500)
        t.now = 100.0
        t.send()
        t.fail(first, stale=True)
        assert t.send() == first
        assert t.core.statistics().failures == 5

    def test_a_stale_probe(self) -> None:
        """A probe that meets a stale connection goes again at once, since nothing was learned."""
        t = Tracker(max_batch_events=1)
        for stream in "abc":
            t.track(1, stream)
        first, second, third = t.sent()
        t.fail(first)
        t.fail(second)
        t.fail(third, stale=True)
        assert t.pull() == []
        assert t.core.next_deadline() == 3.0, "that is when the next probe may go"
        t.now = 3.0
        assert t.send() == third

    def test_late_and_unknown(self) -> None:
        """An outcome for a batch that has one, or that never was, changes nothing."""
        t = Tracker(max_batch_events=1)
        t.track(1)
        command = t.send()
        t.answer(command)
        before = t.core.statistics()
        t.answer(command, 500)
        t.fail(command)
        t.core.send_failed("nonsense", RequestTimeout(""), now=0.0, unit=0.0)
        assert t.core.statistics() == before
        assert t.pull() == []


class TestRefusals:
    def batch(self, *items: Any, **options: Any) -> tuple[Tracker, SendRequest]:
        t = Tracker(**options)
        for item in items:
            t.track(item)
        t.flush()
        return t, t.send()

    @pytest.mark.parametrize("status", [400, 404, 405, 410, 422])
    @pytest.mark.parametrize("guilty", range(5))
    def test_only_the_guilty_one_is_lost(self, status: int, guilty: int) -> None:
        """A refused batch is bisected, in order, until the one refused event is alone."""
        t, command = self.batch(*range(5))
        t.track("after")
        t.flush()
        seen, ids = [], set()
        while True:
            assert command.batch_id not in ids
            ids.add(command.batch_id)
            if guilty in events(command):
                t.answer(command, status)
            else:
                seen += events(command)
                t.answer(command)
            commands = t.pull()
            for lost in commands:
                if isinstance(lost, ReportLoss):
                    assert (lost.loss.events, lost.loss.reason) == ((guilty,), LossReason.REJECTED)
                    assert (lost.loss.status, lost.loss.message) == (status, "words")
            requests = [c for c in commands if isinstance(c, SendRequest)]
            if not requests:
                break
            (command,) = requests
        assert seen == [n for n in range(5) if n != guilty] + ["after"]
        assert t.core.statistics().lost == {LossReason.REJECTED: 1}

    def test_too_large(self) -> None:
        """After a 413 the batch goes in halves, later batches are no larger, and a lone event is lost."""
        t, command = self.batch(*["x" * 400] * 10)
        t.answer(command, 413)
        first = t.send()
        assert first.events == 5
        t.answer(first)
        second = t.send()
        t.answer(second)
        for _ in range(20):
            t.track("y" * 400)
        later = t.send()
        assert len(later.request.body) <= len(command.request.body) // 2
        while later.events > 1:
            t.answer(later, 413)
            later = t.send()
        t.answer(later, 413)
        (loss, *_) = t.losses()
        assert (loss.reason, loss.status, loss.count, loss.message) == (LossReason.TOO_LARGE, 413, 1, "words")

    def test_learning_has_a_limit(self) -> None:
        """Small bodies that are refused for their size teach nothing, or batches would end at one event."""
        t, command = self.batch(*range(20), max_batch_bytes=2048)
        assert len(command.request.body) < 1024
        t.answer(command, 413)
        while t.core.statistics().pending:
            for half in t.sent():
                t.answer(half)
        for n in range(20):
            t.track(n)
        t.flush()
        assert t.send().events == 20

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
    def test_redirect(self, status: int) -> None:
        """A redirect is never followed: the batch is lost as a whole, with where it pointed."""
        t, command = self.batch(1, 2)
        t.answer(command, status, location="http://evil/")
        (loss,) = t.losses()
        assert (loss.reason, loss.message, loss.events) == (LossReason.REDIRECTED, "redirected to http://evil/", (1, 2))

    def test_another_verdict(self) -> None:
        """With a verdict of its own a caller can have a refusal be final for the whole batch."""
        t = Tracker(verdict=lambda status: Verdict.REJECTED if status == 400 else Verdict.DELIVERED)
        for n in (1, 2):
            t.track(n)
        t.flush()
        t.answer(t.send(), 400)
        (loss,) = t.losses()
        assert (loss.reason, loss.events) == (LossReason.REJECTED, (1, 2))

    def test_retry_within_halves(self) -> None:
        """A half that meets a passing fault waits, and its other half behind it."""
        t, command = self.batch(1, 2)
        t.answer(command, 400)
        first = t.send()
        t.answer(first, 503)
        assert t.pull() == []
        t.now = 3.0
        assert t.send() == first
        t.answer(first)
        assert events(t.send()) == [2]


class TestBreaker:
    def failing(self, lanes: str = "ab") -> Tracker:
        t = Tracker(max_batch_events=1, retry=RetryPolicy(base=1.0, cap=100.0))
        for stream in lanes:
            t.track(1, stream)
        for command in t.sent():
            t.fail(command, unit=0.5)
        return t

    def test_one_failing_lane_delays_no_other(self) -> None:
        """While one lane fails, others go at once, as many as may."""
        t = self.failing("a")
        for _ in range(10):
            for stream in "bcd":
                t.track(1, stream)
            commands = t.sent()
            assert len(commands) == 3
            for command in commands:
                t.answer(command)
            t.now = t.core.next_deadline() or 0.0
            t.fail(t.send(), unit=0.5)

    def test_one_probe_at_a_time(self) -> None:
        """When two lanes have failed, one request goes at a time, with a pause between, a fresh lane's first."""
        t = self.failing()
        for stream in "cd":
            t.track(1, stream)
        assert t.pull() == []
        assert t.core.next_deadline() == 1.0
        t.now = 1.0
        probe = t.send()
        assert envelope(probe)["table"] == "c"
        assert t.core.next_deadline() is None, "an answer is what must come"
        t.fail(probe, unit=0.5)
        t.now = 2.0
        assert t.pull() == [], "the lane's own pause is over, the endpoint's is not"
        assert t.core.next_deadline() == 1.0 + 0.5 * 4
        t.now = 3.0
        probe = t.send()
        assert envelope(probe)["table"] == "d"
        t.answer(probe, 404)
        t.losses()
        assert t.core.statistics().in_flight == 3, "any answer below 500 lets all go on"

    @pytest.mark.parametrize(("status", "at_once"), [(499, 2), (500, 0), (599, 0)])
    def test_which_answers_are_failures(self, status: int, at_once: int) -> None:
        """An endpoint that answers two lanes with 500 or more is in trouble; with anything less it is not."""
        t = Tracker(max_batch_events=1)
        for stream in "ab":
            t.track(1, stream)
        for command in t.sent():
            t.answer(command, status)
        for stream in "cd":
            t.track(1, stream)
        assert sum(isinstance(command, SendRequest) for command in t.pull()) == at_once

    def test_a_probe_of_those_that_failed(self) -> None:
        """With no other lane it is one of these that tries again, at the endpoint's time."""
        t = self.failing()
        t.now = 1.0
        t.fail(t.send(), unit=0.5)
        assert t.pull() == [], "the other lane's own pause is over, the endpoint's is not"
        assert t.core.next_deadline() == 3.0
        t.now = 3.0
        t.answer(t.send())
        assert len(t.sent()) == 1

    def test_a_failing_stream_that_is_given_up(self) -> None:
        """One stream whose batches fail and are given up, one after another, is still one stream."""
        t = Tracker(max_batch_events=1, retry=RetryPolicy(max_attempts=1))
        for n in range(5):
            t.track(n)
            t.fail(t.send())
            assert len(t.losses()) == 1
        t.track(1, "b")
        assert len(t.sent()) == 1


class TestFull:
    def test_block_and_raise(self) -> None:
        """With no room the caller is told, nothing changes, and there is room again after an outcome."""
        for policy in ("block", "raise"):
            t = Tracker(max_pending_events=2, on_full=policy)
            t.track(1)
            t.track(2)
            for stream in "ab":
                with pytest.raises(BacklogFull, match="no room: 2 events, 4 bytes are pending"):
                    t.track(3, stream)
            assert t.ledger() == (2, 0, 0, 2)
            assert t.core.statistics().lanes == 1
            t.flush()
            t.answer(t.send())
            t.track(3)
            assert t.ledger() == (3, 2, 0, 1)

    def test_bytes(self) -> None:
        """Bytes are exact: what fits to the last byte is taken."""
        t = Tracker(max_batch_bytes=1024, max_pending_bytes=1024, on_full="raise")
        line = encode_event("x" * 253)
        assert len(line) == 256
        for _ in range(4):
            t.track("x" * 253)
        assert t.core.statistics().pending_bytes == 1024
        with pytest.raises(BacklogFull):
            t.track(1)

    def test_drop_newest(self) -> None:
        """The new event is accepted and lost, and reported."""
        t = Tracker(max_pending_events=1, on_full="drop_newest")
        assert t.track("old")
        assert t.track("new"), "there is a loss to report"
        assert t.core.next_deadline() == -inf
        (loss,) = t.losses()
        assert (loss.events, loss.reason, loss.attempts, loss.status) == (("new",), LossReason.BACKLOG_FULL, 0, None)
        assert t.ledger() == (2, 0, 1, 1)

    def test_drop_oldest(self) -> None:
        """The events that have waited longest make room, whatever their lane; an emptied lane is gone."""
        t = Tracker(max_pending_events=3, on_full="drop_oldest")
        for now, (stream, event) in enumerate([("a", 1), ("b", 2), ("b", 3)]):
            t.now = now
            t.track(event, stream)
        assert t.track(4, "c")
        assert t.track(5, "b")
        assert [(loss.stream, loss.events) for loss in t.losses()] == [("a", (1,)), ("b", (2,))]
        assert t.core.statistics().lanes == 2
        t.flush()
        b, c = t.sent()
        assert (events(b), events(c)) == ([3, 5], [4])

    def test_drop_oldest_of_its_own(self) -> None:
        """A lane whose only event makes room for the next goes on, at the new event's age."""
        t = Tracker(max_pending_events=1, on_full="drop_oldest", flush_interval=10.0)
        t.track(1)
        t.now = 4.0
        assert t.track(2)
        assert [loss.events for loss in t.losses()] == [(1,)]
        assert t.core.next_deadline() == 14.0
        t.flush()
        t.track(3)
        assert [events(c) for c in t.pull() if isinstance(c, SendRequest)] == [[3]]

    def test_drop_oldest_spares_what_was_sent(self) -> None:
        """What is in a batch may have arrived, so it makes no room; with nothing else the new event is lost."""
        t = Tracker(max_pending_events=2, on_full="drop_oldest", max_batch_events=2)
        t.track(1)
        t.track(2)
        command = t.send()
        t.track(3)
        (loss,) = t.losses()
        assert loss.events == (3,)
        t.answer(command)
        assert t.ledger() == (3, 2, 1, 0)

    def test_drop_oldest_of_a_lane_that_is_gone_for_it(self) -> None:
        """Even with all that waits dropped there may be no room; then nothing is left behind."""
        t = Tracker(max_batch_bytes=1024, max_pending_bytes=1024, on_full="drop_oldest")
        for _ in range(2):
            t.track("x" * 300, "b")
        t.flush()
        command = t.send()
        t.track("small")
        t.track("y" * 600)
        assert [loss.events for loss in t.losses()] == [("small",), ("y" * 600,)]
        assert t.core.statistics().lanes == 1
        t.answer(command)
        assert t.ledger() == (4, 2, 2, 0)

    def test_drop_oldest_of_many(self) -> None:
        """However many segments wait, the oldest event is the one that is dropped."""
        t = Tracker(max_batch_events=1, max_pending_events=70, max_in_flight=1, on_full="drop_oldest")
        t.track("in flight", "b")
        t.send()
        for n in range(75):
            t.now = float(n)
            t.track(n)
        assert [loss.events for loss in t.losses()] == [(n,) for n in range(6)]

    def test_drop_oldest_behind_a_batch(self) -> None:
        """A lane whose waiting events were all dropped behind its batch begins to wait anew."""
        t = Tracker(max_pending_events=3, on_full="drop_oldest")
        t.track(0)
        t.flush()
        t.send()
        dropped = []
        for n, stream in enumerate("abbaaaaa", start=1):
            t.now = float(n)
            t.track(n, stream)
            dropped += [event for loss in t.losses() for event in loss.events]
        assert dropped == [1, 2, 3, 4, 5, 6]

    def test_flush_and_drop_oldest(self) -> None:
        """What is dropped behind a request is not taken for what the request carries."""
        t = Tracker(max_pending_events=3, on_full="drop_oldest")
        t.track(1)
        t.track(2)
        flush = t.flush()
        command = t.send()
        for n in range(3, 8):
            t.track(n)
        assert not flush.done
        t.answer(command)
        assert (flush.result.delivered, flush.result.lost) == (2, 0)

    def test_too_large(self) -> None:
        """An event that fits into no request is refused at once, also when it would fit unescaped."""
        t = Tracker(max_batch_bytes=1024)
        t.track("x" * 850)
        for event in ("x" * 1000, '"' * 300):
            with pytest.raises(EventTooLarge):
                t.track(event)
        assert t.ledger() == (1, 0, 0, 1)

    @pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "raise"])
    def test_too_large_while_full(self, policy: str) -> None:
        """What is too large is so whether or not there is room, and drops nothing."""
        t = Tracker(max_batch_bytes=1024, max_pending_bytes=1024, max_pending_events=1, on_full=policy)
        t.track(1)
        with pytest.raises(EventTooLarge):
            t.track("x" * 5000)
        assert t.ledger() == (1, 0, 0, 1)


class TestInterrupted:
    """A key whose signature is interrupted stands for a signal handler, since signing is in the middle of a call."""

    def interrupted(self, handler: Callable[[Tracker], object], **options: Any) -> Tracker:
        class Key(AuthKey):
            def sign(self, text: bytes) -> str:
                handler(t)
                return super().sign(text)

        t = Tracker(auth_keys={"a": Key("k")}, **options)
        t.track("first")
        t.flush()
        return t

    def test_set_aside(self) -> None:
        """An event that interrupts a call is accepted when that ends, and its driver is told to look again."""

        def handler(t: Tracker) -> None:
            assert t.core.busy
            assert t.track("within", "b")
            assert t.core.statistics().accepted == 1

        t = self.interrupted(handler)
        t.send()
        assert not t.core.busy
        assert t.ledger() == (2, 0, 0, 2)
        t.flush()
        assert events(t.send()) == ["within"]

    def test_again(self) -> None:
        """Each call takes up what has interrupted it, whether or not one before it did so."""
        t = self.interrupted(lambda t: t.track("within", "b"), max_batch_events=1)
        for count in (2, 4):
            (command,) = (each for each in t.sent() if envelope(each)["table"] == "a")
            assert t.core.statistics().accepted == count
            t.answer(command)
            t.track("next")

    def test_before_there_was_a_core(self) -> None:
        """What came before, and while that is taken up, is accepted in its order; what cannot be is reported."""
        t = Tracker(max_pending_events=2)
        receipts = [Receipt() for _ in range(3)]
        early = deque(("a", b"%d\n" % n, None, 0.0, receipts[n]) for n in range(3))
        t.core.take_up(early)
        assert not early
        assert t.core.next_deadline() == -inf
        report, command = t.pull()
        assert isinstance(report, ReportLoss)
        assert (report.loss.events, report.loss.reason) == ((2,), LossReason.BACKLOG_FULL)
        assert isinstance(command, SendRequest)
        assert events(command) == [0, 1]
        t.answer(command)
        assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.DELIVERED, Outcome.LOST]
        assert t.ledger() == (3, 2, 1, 0)

    def test_many(self) -> None:
        """A handler may track as many events as it likes, in order."""
        t = self.interrupted(lambda t: [t.track(n, "b") for n in range(5000)], max_batch_events=2000)
        seen = [command for command in t.sent() if envelope(command)["table"] == "b"]
        assert t.core.statistics().pending == 5001
        while seen:
            command = seen.pop()
            start = 5000 - (t.core.statistics().pending - 1)
            assert events(command)[0] == start
            t.answer(command)
            t.flush()
            seen = t.sent()
        assert t.core.statistics().delivered == 5000

    @pytest.mark.parametrize(
        ("options", "event", "reason"),
        [
            ({"max_pending_events": 1, "on_full": "raise"}, 1, LossReason.BACKLOG_FULL),
            ({"max_pending_events": 1, "on_full": "block"}, 1, LossReason.BACKLOG_FULL),
            ({"max_pending_events": 1, "on_full": "drop_newest"}, 1, LossReason.BACKLOG_FULL),
            ({"max_batch_bytes": 1024}, "x" * 2000, LossReason.TOO_LARGE),
        ],
    )
    def test_what_cannot_be_taken(self, options: dict[str, Any], event: Any, reason: LossReason) -> None:
        """Whoever brought it has gone, so it is accepted, lost and reported."""
        t = self.interrupted(lambda t: t.track(event, "b"), **options)
        commands = t.pull()
        [loss] = [c.loss for c in commands if isinstance(c, ReportLoss)]
        assert loss.reason is reason
        assert ("max_batch_bytes" if reason is LossReason.TOO_LARGE else "no room") in loss.message
        assert t.core.statistics().lost == {reason: 1}
        assert t.ledger() == (2, 0, 1, 1)

    def test_after_close(self) -> None:
        """After close an interrupting event is lost, with its reason."""
        t = self.interrupted(lambda t: t.track("late", "b"))
        t.core.close(now=0.0)
        request, report = t.pull()
        assert isinstance(request, SendRequest)
        assert isinstance(report, ReportLoss)
        assert (report.loss.reason, report.loss.events) == (LossReason.STOPPED, ("late",))
        assert report.loss.message == "the tracker was stopped and takes no more events"
        t.answer(request)
        assert t.ledger() == (2, 1, 1, 0)

    def test_only_track_may(self) -> None:
        """Any other call that interrupts is refused, and harms nothing."""
        refused = []

        def handler(t: Tracker) -> None:
            for call in (
                t.flush,
                t.pull,
                lambda: t.core.close(now=0.0),
                lambda: t.core.abandon(now=0.0),
                lambda: t.key("a", "k"),
                t.core.next_deadline,
            ):
                with pytest.raises(LocalError, match=r"^only track\(\) may interrupt"):
                    call()
                refused.append(call)

        t = self.interrupted(handler)
        t.answer(t.send())
        assert len(refused) == 6
        assert t.ledger() == (1, 1, 0, 0)

    def test_while_the_deadline_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An event that comes while the deadline is reckoned is not forgotten by it."""
        t = Tracker()
        reckon = t.core._schedule.next_timer

        def next_timer() -> float | None:
            monkeypatch.undo()
            it = reckon()
            t.track(1)
            return it

        monkeypatch.setattr(t.core._schedule, "next_timer", next_timer)
        assert t.core.next_deadline() == -inf
        assert t.pull() == []
        assert t.core.next_deadline() == 10.0

    def test_during_a_track(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A track that another one interrupts: both are accepted, and the one that filled a batch says so."""
        t = Tracker(max_batch_events=2, max_pending_events=3)
        t.track(1, "b")
        check = t.core._admission._begin_to_wait

        def begin_to_wait(*args: Any) -> float:
            monkeypatch.undo()
            assert t.track(2, "b")
            with pytest.raises(LocalError):
                t.flush()
            return check(*args)

        monkeypatch.setattr(t.core._admission, "_begin_to_wait", begin_to_wait)
        t.track(3, "c")
        assert events(t.send()) == [1, 2]
        assert t.ledger() == (3, 0, 0, 3)

    def test_statistics(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A snapshot that is interrupted adds up all the same."""
        t = Tracker()
        ledger = t.core._ledger
        read = ledger.lost_by_reason

        def lost_by_reason() -> Any:
            t.track(1)
            return read()

        monkeypatch.setattr(type(ledger), "lost_by_reason", lambda self: lost_by_reason())
        statistics = t.core.statistics()
        assert statistics.accepted == statistics.delivered + sum(statistics.lost.values()) + statistics.pending


class TestEnd:
    def test_close(self) -> None:
        """After close nothing more is taken; what is there is sent, and then it is closed."""
        t = Tracker()
        t.track(1)
        flush = t.core.close(now=0.0)
        assert t.core.state is TrackerState.DRAINING
        for key in (None, AuthKey("k")):
            with pytest.raises(TrackerClosed, match=r"^the tracker was stopped and takes no more events"):
                t.track(2, key=key)
        command = t.send()
        assert not t.core.closed
        t.answer(command)
        assert t.pull() == []
        assert t.core.closed
        assert bool(flush.result)
        assert t.core.next_deadline() is None

    def test_closed_for_good(self) -> None:
        """Closing or flushing again is harmless, and a new key opens nothing."""
        t = Tracker(auth_key="default")
        t.track(1)
        t.core.close(now=0.0)
        t.key("a", "new")
        with pytest.raises(TrackerClosed):
            t.track(2)
        assert not t.core.close(now=0.0).done
        assert not t.flush().done
        t.answer(t.send())
        t.pull()
        assert t.core.state is TrackerState.CLOSED
        assert t.core.close(now=0.0).done
        assert t.flush().done
        t.core.abandon(now=0.0)
        with pytest.raises(TrackerClosed):
            t.track(2)

    def test_close_of_nothing(self) -> None:
        """With nothing pending it is closed at the next pull."""
        t = Tracker()
        assert t.core.close(now=0.0).done
        assert t.pull() == []
        assert t.core.closed

    def test_abandon(self) -> None:
        """What has no outcome is lost, told apart by whether it had been sent, and late answers do not count."""
        t = Tracker(max_batch_events=2)
        for n in range(5):
            t.track(n)
        for n in range(2):
            t.track(n, "b")
        t.answer(t.sent()[1], 400)
        t.pull()
        flush = t.flush()
        t.now = 3.0
        t.core.abandon(now=t.now)
        assert t.core.state is TrackerState.CLOSED
        assert not t.core.closed, "there are losses to report"
        losses = t.losses()
        assert [(loss.stream, loss.events, loss.attempts, loss.message) for loss in losses] == [
            ("a", (0, 1), 1, "sent, but not confirmed when the tracker stopped"),
            ("a", (2, 3, 4), 0, "not sent when the tracker stopped"),
            ("b", (0,), 2, "sent, but not confirmed when the tracker stopped"),
            ("b", (1,), 1, "sent, but not confirmed when the tracker stopped"),
        ]
        assert {(loss.reason, loss.time) for loss in losses} == {(LossReason.STOPPED, UNIX + 3.0)}
        assert t.core.closed
        assert (flush.result.lost, flush.result.pending) == (7, 0)
        before = t.core.statistics()
        assert before.lanes == 0
        for batch_id in ("s-1", "s-2", "s-2.1"):
            t.core.response_received(batch_id, Reply(status=200, headers=(), body=b""), now=3.0, unit=0.0)
        assert t.core.statistics() == before
        assert t.core.next_deadline() is None

    def test_what_the_trouble_was(self) -> None:
        """What is given up with the tracker tells what its last attempt came to."""
        t = Tracker(max_batch_events=1)
        for stream in "abc":
            t.track(1, stream)
        refused, busy, gone = t.sent()
        t.answer(refused, 401)
        t.answer(busy, 503)
        t.fail(gone)
        t.pull()
        t.core.abandon(now=0.0)
        assert [(loss.status, loss.message) for loss in t.losses()] == [
            (401, "not delivered when the tracker stopped; the last attempt: words"),
            (503, "not delivered when the tracker stopped; the last attempt: words"),
            (None, "not delivered when the tracker stopped; the last attempt: reset"),
        ]

    def test_times_without_an_offset(self) -> None:
        """A core that was not told what Unix seconds are reports times as they are given to it."""
        core = TrackerCore(Options.read({"endpoint": "http://h/"}, {}, unresolved), source="s")
        core.track("a", 1, now=2.0)
        core.abandon(now=3.0)
        command = core.next_command(now=3.0)
        assert isinstance(command, ReportLoss)
        assert command.loss.time == 3.0

    def test_no_event_or_key_in_a_repr(self) -> None:
        """Neither commands nor losses show what was tracked, or a key."""
        t = Tracker(auth_key="canary-key", max_batch_events=1)
        t.track("canary-event")
        command = t.send()
        t.core.abandon(now=0.0)
        shown = repr(command) + repr(t.losses()) + repr(t.core.statistics()) + repr(t.options)
        assert "canary" not in shown
