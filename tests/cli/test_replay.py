"""``atom-events replay`` and ``send --backlog``: what was lost for good, or could not be sent, is sent again."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.request import urlopen

import orjson
import pytest
from click.testing import CliRunner, Result

from atom_anyio.collector import Collector
from atom_sansio import ConnectionFailed, FlushResult, Loss, LossReason, Reply, Request
from atom_sansio._messages import Origin
from atom_sync import MemoryTransport, Tracker
from atom_sync.backlog import Backlog, DeadLetters
from atom_sync.cli import _replay
from atom_sync.cli._group import atom_events
from atom_sync.cli._paced import Paced
from atom_sync.cli._sendoff import Losses, SendOff

KEY = "canary-key-7f3a"
OTHER_KEY = "canary-key-91bc"
KEYS = {"ATOM_AUTH_KEYS": json.dumps({"clicks": KEY}), "OTHER": OTHER_KEY}
PROGRAM = [sys.executable, "-c", "from atom_sync.cli import main; main()"]


@pytest.fixture
def collector() -> Iterator[str]:
    with Collector(keys={"clicks": KEY}) as url:
        yield url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Dead letters: clicks 1 and 3 and views 1; pending: later 1 and 2."""
    path = tmp_path / "events.db"
    with tracker(path, refusing) as it:
        for n in (1, 2, 3):
            it.track("clicks", {"id": n, "bad": n % 2})
        it.track("views", {"id": 1, "bad": 1})
        it.flush(30)
        assert sum(it.statistics().lost.values()) == 3
    leave(path, "later", {"id": 1}, {"id": 2})
    return path


def tracker(path: Path, answer: Any, **options: Any) -> Tracker:
    options = {"auth_keys": {"clicks": KEY}, "on_loss": str, **options}
    return Tracker("http://x/", backlog=path, transport=MemoryTransport(answer), **options)


def leave(path: Path, stream: str, *events: object, **options: Any) -> None:
    with tracker(path, [503] * 99, **options) as it:
        for event in events:
            it.track(stream, event)
        it.stop(0)


def refusing(request: Request) -> int | Reply:
    events = json.loads(json.loads(request.body)["data"])
    bad = any(event["bad"] for event in events)
    return Reply(status=400, headers=(), body=b"bad \x1b[31m") if bad else 200


def run(file: Path, url: str, *arguments: str, **environment: str) -> Result:
    result = CliRunner().invoke(
        atom_events, ["replay", str(file), "--endpoint", url, *arguments], env={**KEYS, **environment}
    )
    assert KEY not in result.output
    assert OTHER_KEY not in result.output
    assert "\x1b" not in result.output
    return result


def stored(url: str) -> list[tuple[str, int, str]]:
    with urlopen(f"{url}_atom/events?limit=10000") as answer:
        return [(row["stream"], row["event"]["id"], row["batch_id"]) for row in json.load(answer)["events"]]


def state(file: Path) -> tuple[int, int]:
    """Events that are dead, and that are pending."""
    with DeadLetters(file) as letters:
        return sum(letter.events for letter in letters), sum(each.events for each in letters.waiting())


def test_all_is_sent_again(file: Path, collector: str) -> None:
    """Dead letters and what is pending arrive, under their old ids, and nothing is left."""
    with DeadLetters(file) as letters:
        ids = {letter.letter_id for letter in letters}
    result = run(file, collector)
    assert result.exit_code == 0, result.output
    assert "5 of 5 events delivered in 4 requests" in result.output
    rows = stored(collector)
    assert sorted((stream, n) for stream, n, _ in rows) == [
        ("clicks", 1), ("clicks", 3), ("later", 1), ("later", 2), ("views", 1),
    ]  # fmt: skip
    assert {batch_id for stream, _, batch_id in rows if stream != "later"} == ids
    assert state(file) == (0, 0)
    again = run(file, collector)
    assert (again.exit_code, "0 of 0 events delivered" in again.output) == (0, True)


def test_the_filters_choose(file: Path, collector: str) -> None:
    """Dead letters that the filters do not let through stay; what is pending is sent all the same."""
    result = run(file, collector, "--stream", "clicks", "--match", '"id":3')
    assert result.exit_code == 0, result.output
    assert sorted((stream, n) for stream, n, _ in stored(collector)) == [("clicks", 3), ("later", 1), ("later", 2)]
    assert state(file) == (2, 0)


def test_a_dry_run_changes_nothing(file: Path, collector: str) -> None:
    """It shows what would be sent, by stream and key, and says which key is missing."""
    result = run(file, collector, "--dry-run", "--stream", "clicks", ATOM_AUTH_KEYS="{}")
    assert result.exit_code == 0
    words = "would send 2 pending events and 0 events of dead letters, but not 2 events whose key was not given\n"
    assert result.output.startswith(words)
    rows = [line.split() for line in result.output.splitlines()]
    assert [row[2:] for row in rows if row[:1] == ["clicks"]] == [["(not", "given)", "0", "2"]]
    assert ["later", "unsigned", "2", "0"] in rows
    assert stored(collector) == []
    assert state(file) == (3, 2)


def test_a_dry_run_with_nothing_to_send(tmp_path: Path) -> None:
    """Where there is nothing, it says so."""
    Backlog(tmp_path / "b").open().close()
    result = run(tmp_path / "b", "http://127.0.0.1:9/", "--dry-run")
    assert result.output == "would send 0 pending events and 0 events of dead letters\n"


def test_what_is_refused_again_is_dead_again(file: Path, collector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a dead letter with the new reason, and the exit status says so."""
    monkeypatch.setattr(_replay, "open_transport", lambda given: MemoryTransport(still_bad))
    result = run(file, collector)
    assert result.exit_code == 1
    assert "0 of 5 events delivered" in result.output
    assert "5 lost, rejected with status 422: still bad" in result.output
    with DeadLetters(file) as letters:
        assert {(letter.status, letter.message) for letter in letters} == {(422, "still bad")}
    assert state(file) == (5, 0)


def still_bad(request: Request) -> Reply:
    return Reply(status=422, headers=(), body=b"still bad \x1b")


def test_many_causes_do_not_flood() -> None:
    """Of very many causes those are told that most events were lost for."""
    losses = Losses()
    for n in range(50):
        losses(
            Loss(
                stream="s", lines=b"", count=n, reason=LossReason.REJECTED, status=None, message=f"no {n}",
                attempts=1, time=0.0,
            )
        )  # fmt: skip
    assert len(losses.lines()) == 21
    assert losses.lines()[0] == "49 lost, rejected: no 49"
    assert losses.lines()[-1] == "and more, for 30 other causes"


def test_a_dead_collector_loses_nothing(file: Path) -> None:
    """What cannot be delivered is pending then, for the next tracker."""
    result = run(file, "http://127.0.0.1:9/", "--timeout", "0.05")
    assert result.exit_code == 1
    assert "0 of 5 events delivered" in result.output
    assert f"5 events left in {file}" in result.output
    assert state(file) == (0, 5)


def test_a_key_that_is_not_given(file: Path, collector: str) -> None:
    """Letters whose key there is none of stay as they are, and are named."""
    result = run(file, collector, ATOM_AUTH_KEYS="")
    assert result.exit_code == 1
    assert "3 of 3 events delivered" in result.output
    assert "2 events of stream clicks stay dead: the key " in result.output
    assert state(file) == (2, 0)


def test_pending_events_whose_key_is_not_given(
    tmp_path: Path, collector: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They wait, the rest is delivered, it ends as soon as nothing else is left, and says which option has the key."""
    file = tmp_path / "events.db"
    leave(file, "clicks", {"id": 1})
    leave(file, "views", {"id": 2})
    caplog.clear()
    result = run(file, collector, ATOM_AUTH_KEYS="")
    assert result.exit_code == 1
    assert "gave up: all that is left waits for another key" in result.output
    assert "1 of 2 events delivered" in result.output
    assert "1 event left in" in result.output
    assert state(file) == (0, 1)
    [record] = caplog.records
    assert (
        "events of stream 'clicks' wait for --auth-key-env or ATOM_AUTH_KEYS, with --sign-again for another key:"
        in record.getMessage()
    )
    assert record.getMessage().endswith("; further streams whose key is refused are not logged")


def test_another_key(tmp_path: Path, collector: str) -> None:
    """With --sign-again the key that is given now signs what was signed with another, dead or pending."""
    file = tmp_path / "events.db"
    with tracker(file, refusing, auth_keys={"clicks": OTHER_KEY}) as it:
        it.track("clicks", {"id": 1, "bad": 1})
        it.flush(30)
        assert sum(it.statistics().lost.values()) == 1
    leave(file, "clicks", {"id": 2}, auth_keys={})
    leave(file, "clicks", {"id": 3}, auth_keys={"clicks": OTHER_KEY})
    refused = run(file, collector, "--auth-key-env", "OTHER", ATOM_AUTH_KEYS="")
    assert "gave up: all that is left waits for another key" in refused.output
    assert state(file) == (0, 3)
    assert run(file, collector, "--sign-again", "--dry-run").exit_code == 0
    result = run(file, collector, "--sign-again", ATOM_AUTH_KEYS="", ATOM_AUTH_KEY=KEY)
    assert result.exit_code == 0, result.output
    assert sorted(n for _, n, _ in stored(collector)) == [1, 2, 3]


def test_a_tracker_that_is_running(file: Path, collector: str) -> None:
    """While a tracker has the file nothing is done, and it is named."""
    with tracker(file, None):
        result = run(file, collector)
    assert result.exit_code == 1
    assert f"events.db is in use by process {os.getpid()}; replay when that has ended" in result.output
    assert state(file)[0] == 3


def test_a_letter_that_is_not_there(file: Path, collector: str) -> None:
    """It is an error, and nothing is sent; a real one beside it changes nothing."""
    for more in ([], ["--dry-run"]):
        result = run(file, collector, "--letter", "1", "--letter", "999", *more)
        assert (result.exit_code, result.output) == (1, "Error: there is no dead letter 999\n")
    assert stored(collector) == []
    assert state(file) == (3, 2)


def test_a_file_that_cannot_be_opened(file: Path, collector: str) -> None:
    """It says why, and not that anything will end."""
    lock = file.with_name(f"{file.name}-lock")
    lock.unlink()
    lock.mkdir()
    result = run(file, collector)
    assert result.exit_code == 1
    assert "cannot be opened" in result.output
    assert "when that has ended" not in result.output


def test_a_numbered_file_that_is_in_use(file: Path, collector: str) -> None:
    """It is left to its tracker; one that is free is emptied."""
    with tracker(file, None), tracker(file, refusing) as second, tracker(file, refusing) as third:
        second.track("views", {"id": 22, "bad": 1})
        third.track("views", {"id": 33, "bad": 1})
        second.flush(30)
        third.flush(30)
        third.stop()
        opened = Backlog(file.with_name("events.db.2"))
        assert opened.files == [opened.path]
    with tracker(file, None):
        pass
    held = Backlog(file.with_name("events.db.2")).open()
    try:
        result = run(file, collector)
    finally:
        held.close()
    assert "events.db.2 is in use, and left to the tracker that has it" in result.output
    assert result.exit_code == 0
    assert {n for stream, n, _ in stored(collector) if stream == "views"} == {1, 33}
    assert state(file.with_name("events.db.2")) == (1, 0)


def test_many_letters(tmp_path: Path, collector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters are revived some at a time."""
    monkeypatch.setattr(_replay, "AT_ONCE", 2)
    file = tmp_path / "events.db"
    with tracker(file, refusing) as it:
        for n in range(5):
            it.track("views", {"id": n, "bad": 1})
        it.flush(30)
    assert run(file, collector).exit_code == 0
    assert sorted(n for _, n, _ in stored(collector)) == list(range(5))


@pytest.mark.parametrize("number", ["1e400", "7" * 5000, "NaN"])
def test_rate_of_any_number(tmp_path: Path, collector: str, number: str) -> None:
    """Numbers that no float holds do not keep a batch from being counted; what is no JSON is for the collector."""
    path = tmp_path / "events.db"
    leave(path, "later", orjson.Fragment(f'{{"n": {number}}}'), {"n": 1})
    result = run(path, collector, "--rate", "1000")
    delivered = 1 if number == "NaN" else 2
    assert f"{delivered} of 2 events delivered" in result.output
    assert result.exit_code == 2 - delivered


def test_rate(file: Path, collector: str) -> None:
    """With a rate there are pauses between batches, however short the time-out is."""
    began = time.monotonic()
    result = run(file, collector, "--rate", "8", "--timeout", "0.25")
    assert result.exit_code == 0, result.output
    assert time.monotonic() - began >= 3 / 8  # of four batches with five events the last may have two


def test_a_pause_can_be_cut_short() -> None:
    """What waits for its time fails when the tracker stops, and is not sent."""
    transport = MemoryTransport()
    paced = Paced(transport, 1e-12)
    body = json.dumps({"data": "[1,2]"}).encode()
    request = Request(method="POST", origin=None, target="/", headers=(), body=body)  # type: ignore[arg-type]
    assert not paced.pausing
    paced._free_at = float("inf")
    failed: list[Exception] = []

    def send() -> None:
        try:
            paced.send(request, timeout=1.0)
        except ConnectionFailed as error:
            failed.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    while not paced.pausing:
        pass
    paced.hurry()
    thread.join()
    assert len(failed) == 1
    assert transport.requests == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--endpoint", "ftp://x/"], "endpoint must begin with http"),
        (["--auth-key-env", "NO_SUCH"], "NO_SUCH holds no key"),
        (["--rate", "0"], "0.0 is not in the range"),
        (["--rate", "inf"], "inf is not finite"),
    ],
)
def test_bad_arguments(file: Path, arguments: list[str], words: str) -> None:
    """What is wrong is named, and nothing is done."""
    result = run(file, "http://127.0.0.1:9/", *arguments)
    assert result.exit_code != 0
    assert words in result.output
    assert state(file) == (3, 2)


def test_a_bad_transport(file: Path) -> None:
    """A transport of the environment that is none is named; what was revived is pending."""
    result = run(file, "http://127.0.0.1:9/", ATOM_TRANSPORT="builtins:dict")
    assert result.exit_code == 1
    assert "transport must have the methods send and close" in result.output
    assert sum(state(file)) == 5


def test_a_damaged_file(file: Path, collector: str) -> None:
    """What can be read of it is sent, as the next tracker would do; until then it cannot be shown, and that is said."""
    damaged = bytearray(file.read_bytes())
    damaged[:100] = b"x" * 100
    file.write_bytes(damaged)
    for command in (["backlog", str(file)], ["replay", str(file), "--endpoint", collector, "--dry-run"]):
        shown = CliRunner().invoke(atom_events, command)
        assert shown.exit_code == 1
        assert "mends it, or atom-events replay" in shown.output
    result = run(file, collector, "--letter", "99")
    assert (result.exit_code, "there is no dead letter 99" in result.output) == (1, True)
    result = run(file, collector)
    assert result.exit_code == 0, result.output
    assert len(stored(collector)) == 5


def test_why_nothing_was_delivered(file: Path) -> None:
    """What came of the last attempt is said of what is left."""
    result = run(file, "http://127.0.0.1:9/", "--timeout", "0.5")
    assert result.exit_code == 1
    assert "for the next tracker that has it; the last attempt: " in result.output
    assert "refused" in result.output
    transport = Paced(MemoryTransport([503, 200]), None)
    for trouble in ("status 503", ""):
        request = Request(method="POST", origin=Origin("http", "x", 80), target="/", headers=(), body=b"{}")
        transport.send(request, timeout=1.0)
        assert transport.trouble == trouble


def test_several_keys_that_become_one(tmp_path: Path) -> None:
    """What is signed again with one key is shown as one."""
    file = tmp_path / "events.db"
    for key in ("k1", "k2"):
        leave(file, "clicks", {"id": 1}, auth_keys={"clicks": key})
    result = run(file, "http://127.0.0.1:9/", "--sign-again", "--dry-run")
    assert result.exit_code == 0
    assert result.output.count("clicks") == 1
    assert "would send 2 pending events" in result.output


def test_what_is_no_backlog(tmp_path: Path) -> None:
    """A file of another kind is left as it is."""
    (tmp_path / "other").write_text("text")
    result = run(tmp_path / "other", "http://127.0.0.1:9/")
    assert result.exit_code == 1
    assert "is not a database" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_ctrl_c_loses_nothing(file: Path) -> None:
    """Ctrl-C ends it with 130 and no traceback, and every event is dead or pending."""
    with Collector() as url:
        with Popen(
            [*PROGRAM, "replay", str(file), "--endpoint", url, "--rate", "0.01"],
            stderr=PIPE,
            env={**os.environ, **KEYS},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            assert process.stderr is not None
            while not stored(url):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read().decode()
            assert process.wait(30) == 130
        assert "Traceback" not in errors
        delivered = len(stored(url))
    assert f"{delivered} of 5 events delivered" in errors
    assert delivered + sum(state(file)) == 5


def test_ctrl_c_before_anything_is_sent(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while letters are looked for loses nothing either, and lets the file go."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_replay, "_revive", interrupted)
    assert run(file, "http://127.0.0.1:9/").exit_code == 130
    assert state(file) == (3, 2)
    Backlog(file).open(numbered=False).close()


@pytest.mark.parametrize("during", ["see_off", "stop"])
def test_ctrl_c_at_other_times(file: Path, monkeypatch: pytest.MonkeyPatch, during: str) -> None:
    """Ctrl-C while delivery is awaited, and while the tracker stops, is told like any other."""
    stop: Callable[..., FlushResult] = Tracker.stop

    def interrupted(self: object, *_: float) -> None:
        monkeypatch.setattr(Tracker, "stop", stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"see_off": (SendOff, "see_off"), "stop": (Tracker, "stop")}[during], interrupted)
    result = run(file, "http://127.0.0.1:9/", "--timeout", "0.05")
    assert result.exit_code == 130
    assert f"5 events left in {file}" in result.output
    assert state(file) == (0, 5)


# -- send --backlog -----------------------------------------------------------------------------------------


def send(url: str, backlog: Path, data: bytes, *arguments: str) -> Result:
    return CliRunner().invoke(
        atom_events,
        ["send", "-", "--stream", "views", "--endpoint", url, "--backlog", str(backlog), *arguments],
        input=io.BufferedReader(io.BytesIO(data)),
    )


def test_sends_with_a_backlog(tmp_path: Path, collector: str) -> None:
    """What a first run could not deliver is delivered by the next one, which says so."""
    backlog = tmp_path / "backlog.db"
    failed = send("http://127.0.0.1:9/", backlog, b'{"id":1}\n{"id":2}\n', "--timeout", "0.05")
    assert failed.exit_code == 1
    assert "0 of 2 events delivered" in failed.output
    assert f"2 events left in {backlog}\n" in failed.output
    assert "lost" not in failed.output
    result = send(collector, backlog, b'{"id":3}\n')
    assert result.exit_code == 0, result.output
    assert f"3 of 3 events delivered in 2 requests, 2 of them from {backlog}" in result.output
    assert sorted(n for _, n, _ in stored(collector)) == [1, 2, 3]


def test_sends_with_a_bad_backlog(tmp_path: Path) -> None:
    """A backlog that cannot be opened is named."""
    result = send("http://127.0.0.1:9/", tmp_path / "no" / "such", b"1\n")
    assert result.exit_code == 1
    assert "cannot be opened" in result.output


def test_says_which_file_has_what_is_left(tmp_path: Path) -> None:
    """Where the file is no backlog, or a tracker has it, that is a numbered one."""
    backlog = tmp_path / "backlog.db"
    backlog.write_text("notes")
    foreign = send("http://127.0.0.1:9/", backlog, b'{"id":1}\n', "--timeout", "0.05")
    assert f"1 event left in {backlog}.2\n" in foreign.output
    assert backlog.read_text() == "notes"
