"""The command line, run as its users run it, against a real collector."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

from atom_anyio.collector import Collector
from atom_sansio import FlushResult, OnFull, Options
from atom_sync import Tracker
from atom_sync.cli._demo import _compare, _Row
from atom_sync.cli._group import atom_events

KEY = "canary-key-7f3a"
ENVIRONMENT = {"EVENTS_KEY": KEY}
PROGRAM = [sys.executable, "-c", "from atom_sync.cli import main; main()"]


@pytest.fixture
def collector() -> Iterator[str]:
    with Collector(keys={"commits": KEY}) as url:
        yield url


def send(url: str, *arguments: str, stdin: bytes | None = None, stream: str = "commits") -> Result:
    options = ["--stream", stream, "--endpoint", url, "--auth-key-env", "EVENTS_KEY"]
    source = None if stdin is None else io.BufferedReader(io.BytesIO(stdin))  # as a real standard input is
    result = CliRunner().invoke(atom_events, ["send", *arguments, *options], input=source, env=ENVIRONMENT)
    assert KEY not in result.output
    return result


def stored(url: str) -> list[dict[str, Any]]:
    with urlopen(f"{url}_atom/events?limit=10000") as answer:
        rows: list[dict[str, Any]] = json.load(answer)["events"]
        return rows


def test_demo_succeeds() -> None:
    """The demo's events arrive equal through every driver, and it exits with 0."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(atom_events, ["demo"])
    assert result.exit_code == 0, result.output
    for word in ("threads", "asyncio", "trio", "Every event was stored once"):
        assert word in result.output


def test_demo_takes_nothing_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog that the environment names stays as it is; no other option and no proxy that it names is in the way."""
    backlog = tmp_path / "events.db"
    kept = send("http://127.0.0.1:9/", "-", "--timeout", "0.05", "--backlog", str(backlog), stdin=b"1\n2\n", stream="s")
    assert f"2 events left in {backlog}" in kept.output
    monkeypatch.setattr("atom_sync.cli._demo._read_events", lambda: [{"id": 1}, {"id": 2}])
    for option in dataclasses.fields(Options):
        monkeypatch.setenv(f"ATOM_{option.name.upper()}", "no such value")
    monkeypatch.setenv("ATOM_BACKLOG", str(backlog))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(atom_events, ["demo"])
    assert result.exit_code == 0, (result.output, result.exception)
    found = CliRunner().invoke(atom_events, ["backlog", str(backlog)])
    assert f"{backlog}: 2 events pending" in found.output


def test_demo_reports_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is not what was sent makes the demo exit with 1 and say which."""
    monkeypatch.setattr(
        "atom_sync.cli._demo._read_back", lambda url, stream: iter([_Row(event={"id": 0}, text='{"id":0}')])
    )
    result = CliRunner(env={"COLUMNS": "200"}).invoke(atom_events, ["demo"])
    assert result.exit_code == 1
    assert "320 sent, 1 stored" in result.output
    assert "event 1: sent" in result.output


@pytest.mark.parametrize(
    ("event", "row", "same"),
    [
        ("[1, 2", _Row("[1, 2", "[1, 2"), True),
        ('{"a":1}', _Row({"a": 1}, '{"a":1}'), True),
        (1, _Row(True, "true"), False),
        ({"a": 10**30}, _Row({"a": 10**30}, '{"a":1000000000000000000000000000000}'), True),
        ({"a": 10**30}, _Row({"a": 1e30}, '{"a":1e30}'), False),
        ([1], _Row([2], "[2]"), False),
    ],
)
def test_comparison(event: Any, row: _Row, same: bool) -> None:
    """Strings are compared by their text, everything else by value and kind."""
    assert (not list(_compare("s", [event], [row]))) is same


def test_sends_a_file(collector: str, tmp_path: Path) -> None:
    """Every line arrives as it stands, in order: numbers beyond 64 bits, 1.10, strings, repeated names."""
    lines = ['{"id": 1}', '{"n":123456789012345678901234567890, "x": 1.10}', '"{\\"id\\": 3}"', "7", '{"a":1,"a":2}']
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(lines) + "\n\n")
    result = send(collector, str(file))
    assert result.exit_code == 0, result.output
    assert "5 of 5 events delivered in 1 request\n" in result.output
    assert [row["text"] for row in stored(collector)] == [
        '{"id":1}',
        '{"n":123456789012345678901234567890,"x":1.10}',
        '{"id": 3}',
        "7",
        '{"a":1,"a":2}',
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_sends_standard_input(collector: str, packed: bool) -> None:
    """A dash is standard input, packed or not."""
    data = b'{"id":1}\n{"id":2}'
    result = send(collector, "-", stdin=gzip.compress(data) if packed else data)
    assert result.exit_code == 0, result.output
    assert [row["event"] for row in stored(collector)] == [{"id": 1}, {"id": 2}]


def test_sends_a_packed_file(collector: str, tmp_path: Path) -> None:
    """A gzip file is unpacked, whatever its name."""
    file = tmp_path / "events"
    file.write_bytes(gzip.compress(b'{"id":1}\n' * 700))
    assert send(collector, str(file)).exit_code == 0
    assert len(stored(collector)) == 700


def test_reports_bad_lines(collector: str) -> None:
    """Bad lines are named by number and left out; the rest arrives; the exit status says that there were some."""
    result = send(collector, "-", stdin=b'{"id":1}\nnope\n{"x":NaN}\n\xff\n1 2\n1,2\n"\\ud800"\n{"id":2}\n')
    assert result.exit_code == 1
    for number in (2, 3, 4, 5, 6, 7):
        assert f"line {number}: " in result.output
    assert "2 of 8 events delivered" in result.output
    assert [row["event"] for row in stored(collector)] == [{"id": 1}, {"id": 2}]


def test_many_bad_lines_do_not_flood(collector: str) -> None:
    """Of very many bad lines the first twenty are shown."""
    result = send(collector, "-", stdin=b"nope\n" * 500)
    assert result.exit_code == 1
    assert result.output.count("line ") == 20
    assert "further problems are not shown" in result.output


def test_a_damaged_gzip_is_reported(collector: str) -> None:
    """What could be unpacked is sent, and the damage is reported."""
    result = send(collector, "-", stdin=gzip.compress(os.urandom(1000).hex().encode())[:-20])
    assert result.exit_code == 1
    assert "cannot read -" in result.output


def test_a_refused_key_gives_up(collector: str) -> None:
    """A wrong key ends it at once, with the reason and without the key."""
    result = send(collector, "-", stdin=b'{"id":1}\n')
    assert result.exit_code == 0
    other = CliRunner().invoke(
        atom_events,
        ["send", "-", "--stream", "commits", "--endpoint", collector],
        input=io.BufferedReader(io.BytesIO(b'{"id":2}\n')),
    )
    assert other.exit_code == 1
    assert "gave up: all that is left waits for another key" in other.output
    assert "1 lost, stopped" in other.output


def test_a_dead_collector_gives_up() -> None:
    """Where nobody listens it ends after the time-out and reports the loss."""
    result = send("http://127.0.0.1:9/", "-", "--timeout", "0.05", stdin=b'{"id":1}\n')
    assert result.exit_code == 1
    assert "0 of 1 event delivered" in result.output
    assert "1 lost, stopped" in result.output


def test_a_full_backlog_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing moves and there is no room it ends after the time-out, and says at which line."""
    monkeypatch.setenv("ATOM_MAX_PENDING_EVENTS", "2")
    result = send("http://127.0.0.1:9/", "-", "--timeout", "0.05", stdin=b'{"id":1}\n' * 5)
    assert result.exit_code == 1
    assert "gave up at line 3, for which there was no room for 0.05 s (" in result.output
    assert "); this line and what follows are not sent\n" in result.output
    assert "2 lost, stopped" in result.output


@pytest.mark.parametrize("policy", [policy.value for policy in OnFull])
def test_a_file_waits_for_room(collector: str, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """However much there is of it all arrives, whatever the environment says of events for which there is no room."""
    monkeypatch.setenv("ATOM_MAX_PENDING_EVENTS", "2")
    monkeypatch.setenv("ATOM_ON_FULL", policy)
    result = send(collector, "-", stdin=b'{"id":1}\n' * 50)
    assert result.exit_code == 0, result.output
    assert "50 of 50 events delivered" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stream", "s", "--endpoint", "ftp://x/"], "endpoint must begin with http"),
        (["--stream", "", "--endpoint", "http://x/"], "stream must have 1 to 512 characters"),
        (["--stream", "s", "--endpoint", "http://x/", "--auth-key-env", "NO_SUCH"], "NO_SUCH holds no key"),
        (["--stream", "s", "--endpoint", "http://x/", "--timeout", "0"], "0.0 is not in the range"),
        (["--stream", "s", "--endpoint", "http://x/", "--timeout", "nan"], "'--timeout': nan is not finite"),
        (["--stream", "s", "--endpoint", "http://x/", "--timeout", "inf"], "'--timeout': inf is not finite"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str) -> None:
    """What is wrong is named, and the exit status is not 0."""
    result = CliRunner().invoke(atom_events, ["send", "-", *arguments], input=io.BufferedReader(io.BytesIO(b"1")))
    assert result.exit_code != 0
    assert words in result.output


def test_ctrl_c_stops_cleanly(collector: str) -> None:
    """Ctrl-C sends what was read, says how much, and leaves no traceback."""
    with Popen(
        [*PROGRAM, "send", "-", "--stream", "other", "--endpoint", collector],
        stdin=PIPE,
        stderr=PIPE,
        env={**os.environ, "ATOM_MAX_BATCH_EVENTS": "1", "ATOM_FLUSH_INTERVAL": "600"},
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"id":1}\n' * 2)
        process.stdin.flush()
        while len(stored(collector)) < 2:  # the program is reading now
            pass
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read().decode()
        assert process.wait(30) == 130
    assert "Traceback" not in errors
    assert "2 of 2 events delivered" in errors


def test_ctrl_c_again_hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Ctrl-C ends the wait for delivery, and what is lost is still told."""
    stop = Tracker.stop
    timeouts: list[float] = []

    def interrupted(self: Tracker, timeout: float) -> FlushResult:
        timeouts.append(timeout)
        if len(timeouts) == 1:
            raise KeyboardInterrupt
        return stop(self, timeout)

    monkeypatch.setattr(Tracker, "stop", interrupted)
    result = send("http://127.0.0.1:9/", "-", "--timeout", "0.05", stdin=b'{"id":1}\n')
    assert result.exit_code == 130
    assert timeouts[1] < timeouts[0]
    assert "0 of 1 event delivered" in result.output
    assert "1 lost, stopped" in result.output


def test_ctrl_c_while_it_loads() -> None:
    """Ctrl-C before there is anything to stop leaves no traceback either."""
    code = (
        "import sys\n"
        "from atom_sync.cli import main\n"
        "class Interrupted:\n"
        "    def find_spec(name, path, target=None):\n"
        "        raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted)\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "")


def test_a_closed_standard_input_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no standard input it says so."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit, match=r"^1$"):
        atom_events.main(["send", "-", "--stream", "s", "--endpoint", "http://127.0.0.1:9/"])
    assert "cannot read -: standard input is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "192.0.2.1"], "cannot listen on '192.0.2.1', port 0: "),
        (["--store", "no/such/folder.db"], "No such file or directory: 'no/such/folder.db'"),
    ],
)
def test_why_the_collector_does_not_start(arguments: list[str], words: str) -> None:
    """The message names what it is about."""
    result = CliRunner().invoke(atom_events, ["collector", "--port", "0", "--store", ":memory:", *arguments])
    assert result.exit_code == 1
    assert words in result.output


def test_a_file_of_keys_in_another_encoding(tmp_path: Path) -> None:
    """A file of keys that is not UTF-8 is named, and no byte of it is shown."""
    file = tmp_path / "keys.txt"
    file.write_bytes(f"s={KEY}\xe9\n".encode("latin-1"))
    result = CliRunner().invoke(atom_events, ["collector", "--store", ":memory:", "--keys-file", str(file)])
    assert result.exit_code == 1
    assert f"{file} is not UTF-8" in result.output.replace("\n", "")
    assert KEY not in result.output


def test_help_names_the_commands() -> None:
    """``atom-events --help`` lists what there is."""
    result = CliRunner().invoke(atom_events, ["--help"])
    assert result.exit_code == 0
    for command in ("backlog", "collector", "demo", "replay", "send"):
        assert command in result.output


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_named(missing: str) -> None:
    """Without the extra the program says what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from atom_sync.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'atom-events[cli]'" in result.stderr


def test_the_demo_needs_every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without trio the demo says what to install."""
    monkeypatch.setitem(sys.modules, "trio", None)
    result = CliRunner().invoke(atom_events, ["demo"])
    assert result.exit_code == 1
    assert "pip install 'atom-events[all]'" in result.output


def test_the_key_given_goes_first(collector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the environment holds for the stream does not go before the one that is named."""
    monkeypatch.setenv("ATOM_AUTH_KEYS", json.dumps({"commits": "a wrong one"}))
    result = send(collector, "-", stdin=b'{"id":1}\n')
    assert result.exit_code == 0, result.output
