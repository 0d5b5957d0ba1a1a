"""``atom-events backlog``: what a backlog holds, shown, exported and erased."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from atom_sansio import DeadLetter, KeptBatch, Level, Loss, LossReason, UpdateBacklog
from atom_sync import MemoryTransport, Tracker
from atom_sync.backlog import Backlog, DeadLetters
from atom_sync.cli._group import atom_events
from atom_sync.cli._shown import counted, moment, printable, printable_json

KEY = "canary-key-7f3a"
DAY = 24 * 60 * 60
EVIL = "\x1b[2J\x9b31m\x07\u202e\x7f\U000e0041"
"""Clears the screen, turns the text red, rings the bell, and reads from right to left."""


def test_an_empty_text(tmp_path: Path) -> None:
    """It would match every event, and a variable that is not set is one."""
    (tmp_path / "events.db").touch()
    result = CliRunner().invoke(
        atom_events, ["backlog", str(tmp_path / "events.db"), "--erase", "--yes", "--match", ""]
    )
    assert result.exit_code == 2
    assert "the text must not be empty" in result.output


def run(*arguments: object, stdin: str = "") -> Result:
    result = CliRunner().invoke(atom_events, ["backlog", *map(str, arguments)], input=stdin)
    assert KEY not in result.output
    assert not any(c in result.output for c in EVIL if not c.isprintable())
    return result


def succeed(*arguments: object, stdin: str = "") -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def letter(
    number: int,
    stream: str = "clicks",
    *lines: bytes,
    reason: LossReason = LossReason.REJECTED,
    status: int | None = 400,
    time: float = 1e9,
    message: str = "no",
) -> DeadLetter:
    lines = lines or (b'{"id":%d}' % number,)
    loss = Loss(
        stream=stream,
        lines=b"".join(line + b"\n" for line in lines),
        count=len(lines),
        reason=reason,
        status=status,
        message=message,
        attempts=2,
        time=time,
    )
    return DeadLetter(letter_id=f"id-{number}", fingerprint=None, loss=loss)


def bury(path: Path, *letters: DeadLetter, batches: int = 0) -> None:
    opened = Backlog(path, level=Level.MEMORY).open()
    kept = [
        KeptBatch(batch_id=f"{path.name}-{n}", place=n, part=0, stream="clicks", fingerprint="f" * 16, events=2, size=6)
        for n in range(1, batches + 1)
    ]
    put = tuple((each, b"11\n22\n") for each in kept)
    opened.update(UpdateBacklog(put=put, drop=(), dead=letters, marks=(), forget_before=0))
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four dead letters and a batch."""
    path = tmp_path / "events.db"
    bury(
        path,
        letter(1),
        letter(2, "views", reason=LossReason.EXPIRED, status=None, time=2e9),
        letter(3, "clicks", b'{"id":3,"name":"caf\xc3\xa9"}', b"7", status=413, reason=LossReason.TOO_LARGE),
        letter(4, f"evil{EVIL}", json.dumps(EVIL, ensure_ascii=False).encode(), message=f"words{EVIL}"),
        batches=1,
    )
    return path


def ids(output: str) -> list[str]:
    return [json.loads(line)["letter_id"] for line in output.splitlines()]


def test_the_summary(file: Path) -> None:
    """What waits and what is dead is counted by stream, reason and status."""
    output = succeed(file)
    assert "events.db: 2 events pending, 4 dead letters with 5 events" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["clicks", "f" * 16, "1", "0", "2", "6"] in rows
    assert ["clicks", "too_large", "413", "1", "2", "2001-09-09", "2001-09-09"] in rows
    assert ["views", "expired", "1", "1", "2033-05-18", "2033-05-18"] in rows


def test_the_summary_as_json(file: Path) -> None:
    """One object has the same for a program."""
    found = json.loads(succeed(file, "--json"))
    assert found["files"] == [str(file)]
    assert found["pending"] == [
        {"stream": "clicks", "fingerprint": "f" * 16, "batches": 1, "records": 0, "events": 2, "size": 6}
    ]
    assert [(kind["stream"], kind["reason"], kind["status"], kind["events"]) for kind in found["dead"]] == [
        ("clicks", "rejected", 400, 1),
        ("clicks", "too_large", 413, 2),
        (f"evil{EVIL}", "rejected", 400, 1),
        ("views", "expired", None, 1),
    ]
    assert found["damaged"] == found["set_aside"] == []


def test_an_empty_backlog(tmp_path: Path) -> None:
    """Where there is nothing it says so."""
    bury(tmp_path / "events.db")
    assert succeed(tmp_path / "events.db").endswith("events.db: 0 events pending, 0 dead letters with 0 events\n")
    assert succeed(tmp_path / "events.db", "--list") == "no dead letters\n"
    assert run(tmp_path / "events.db", "--erase").stderr == "0 dead letters with 0 events erased\n"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [1, 2, 3, 4]),
        (["--stream", "clicks"], [1, 3]),
        (["--stream", "clicks", "--stream", "views"], [1, 2, 3]),
        (["--reason", "expired", "--reason", "too_large"], [2, 3]),
        (["--status", "400"], [1, 4]),
        (["--match", '"id":3,'], [3]),
        (["--match", "café"], [3]),
        (["--match", '"id": 3'], []),
        (["--older-than", "1"], [1, 3, 4]),
        (["--letter", "2", "--letter", "id-4"], [2, 4]),
        (["--stream", "clicks", "--status", "413"], [3]),
    ],
)
def test_filters(file: Path, filters: list[str], expected: list[int]) -> None:
    """Each filter lets through what it says, several of a kind either, and different ones both."""
    assert ids(succeed(file, "--list", "--json", *filters)) == [f"id-{n}" for n in expected]


def test_the_list(file: Path) -> None:
    """A letter is a line, with the number that other options take."""
    lines = succeed(file, "--list").splitlines()
    assert lines[0].split() == ["letter", "UTC", "events", "reason", "status", "tries", "stream:", "message"]
    assert lines[2].split() == ["2", "2033-05-18", "03:33", "1", "expired", "2", "views:", "no"]
    assert "evil\\x1b[2J\\x9b31m\\x07\\u202e\\x7f\\U000e0041: words\\x1b" in lines[4]
    assert len({line.index(word) for line, word in zip(lines, ("stream:", "clicks:", "views:"))}) == 1  # noqa: B905


@pytest.mark.parametrize("label", ["3", "id-3"])
def test_one_letter(file: Path, label: str) -> None:
    """A letter is shown with its events, by its number or its id."""
    output = succeed(file, "--show", label)
    for words in ("id-3", "too_large, status 413, after 2 attempts", '{"id":3,"name":"café"}\n7\n'):
        assert words in output


def test_one_letter_as_json(file: Path) -> None:
    """The events are values, and nothing in them is changed."""
    found = json.loads(succeed(file, "--show", "4", "--json"))
    assert (found["number"], found["stream"], found["lines"]) == ("4", f"evil{EVIL}", [EVIL])
    assert "expired, after" in succeed(file, "--show", "2")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--list"],
        ["--export", "-"],
        *(
            pytest.param(arguments, marks=pytest.mark.thorough)
            for arguments in ([], ["--list", "--json"], ["--show", "1"])
        ),
    ],
)
def test_full_disk(file: Path, arguments: list[str]) -> None:
    """Output that cannot be written is an error, and no traceback."""
    program = [sys.executable, "-c", "from atom_sync.cli import main; main()", "backlog", str(file), *arguments]
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert [line for line in process.stderr.splitlines() if line.startswith("Error")] == [
        "Error: [Errno 28] No space left on device"
    ]
    assert "Traceback" not in process.stderr


def test_no_such_letter(file: Path) -> None:
    """A letter that is not there is no success, and nothing is done with those beside it."""
    for arguments in (["--show", "9\x1b"], ["--letter", "1", "--letter", "9\x1b", "--erase", "--yes"]):
        result = run(file, *arguments)
        assert result.exit_code == 1
        assert "there is no dead letter 9\\x1b" in result.output
    assert ids(succeed(file, "--list", "--json")) == ["id-1", "id-2", "id-3", "id-4"]


def test_export(file: Path, tmp_path: Path) -> None:
    """Each event is a line, in a file that is ours alone, and on standard output the same."""
    out = tmp_path / "out.ndjson"
    succeed(file, "--export", out)
    text = out.read_text("utf-8")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == [{"id": 1}, {"id": 2}, {"id": 3, "name": "café"}, 7, EVIL]
    assert lines[2] == {
        "stream": "clicks",
        "event": {"id": 3, "name": "café"},
        "reason": "too_large",
        "status": 413,
        "message": "no",
        "attempts": 2,
        "time": 1e9,
        "letter_id": "id-3",
    }
    result = run(file, "--export", "-")
    assert result.stdout == text
    assert result.stderr == "5 events of 4 dead letters written\n"


def test_an_export_is_exact(tmp_path: Path) -> None:
    """Numbers and repeated names stand as they were tracked; an event that is damaged is a string."""
    exact = b'{"n":123456789012345678901234567890,"x":1.10,"x":2}'
    bury(tmp_path / "events.db", letter(1, "s", exact, b'{"torn', b"\xff"))
    lines = succeed(tmp_path / "events.db", "--export", "-").splitlines()
    assert f'"event": {exact.decode()}, ' in lines[0]
    assert [json.loads(line)["event"] for line in lines[1:]] == ['{"torn', "\ufffd"]


def test_an_export_replaces_nothing(file: Path) -> None:
    """A file that is there stays as it is, such as the backlog itself."""
    result = run(file, "--export", file)
    assert result.exit_code == 1
    assert "File exists" in result.output
    assert len(ids(succeed(file, "--list", "--json"))) == 4


def test_an_export_that_fails_leaves_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk there is an error, and no half of a file."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run(file, "--export", tmp_path / "out")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert not (tmp_path / "out").exists()


def test_erasing_asks(file: Path) -> None:
    """Without a yes nothing is erased; with one, what the filters let through."""
    result = run(file, "--erase", "--stream", "clicks", stdin="n\n")
    assert result.exit_code == 1
    assert "Erase 2 dead letters with 3 events for ever?" in result.output
    assert len(ids(succeed(file, "--list", "--json"))) == 4
    result = run(file, "--erase", "--stream", "clicks", stdin="y\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 dead letters with 3 events erased" in result.stderr
    assert ids(succeed(file, "--list", "--json")) == ["id-2", "id-4"]


def test_erasing_without_asking(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--yes asks nothing; the batches stay; it is done a part at a time."""
    monkeypatch.setattr("atom_sync.cli._backlog.AT_ONCE", 2)
    assert json.loads(succeed(file, "--erase", "--yes", "--json")) == {"letters": 4, "events": 5}
    assert "2 events pending, 0 dead letters" in succeed(file)


def test_what_was_exported_is_erased(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both, what was written is erased, and nothing that has come since."""
    confirm = click.confirm

    def slowly(*arguments: Any, **options: Any) -> bool:
        bury(file.with_name("events.db.2"), letter(9))
        bury(file, letter(10))
        return confirm(*arguments, **options)

    monkeypatch.setattr(click, "confirm", slowly)
    out = file.with_name("out")
    succeed(file, "--export", out, "--erase", "--status", "400", stdin="y\n")
    assert ids(out.read_text("utf-8")) == ["id-1", "id-4"]
    assert ids(succeed(file, "--list", "--json")) == ["id-2", "id-3", "id-10", "id-9"]


def test_output_that_is_not_utf8(file: Path) -> None:
    """Where output takes only ASCII there is only ASCII, and JSON says the same."""
    end = "that was it"
    calls = [["--show", "3"], ["--show", "3", "--json"], ["--export", "-"], ["--list"]]
    code = f"""
from atom_sync.cli._group import atom_events
for arguments in {calls}:
    atom_events(["backlog", {str(file)!r}, *arguments], standalone_mode=False)
    print("{end}", flush=True)
"""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    shown, as_json, exported, listed, nothing = result.stdout.decode("ascii").split(f"{end}\n")
    assert "caf\\" in shown
    assert "caf\\" in as_json
    assert json.loads(exported.splitlines()[2])["event"]["name"] == "café"
    assert "evil\\x1b" in listed
    assert nothing == ""


def test_numbered_files_are_part_of_it(file: Path) -> None:
    """What other processes have left beside it is shown with it, also past a gap, and told apart by its number."""
    bury(file.with_name("events.db.3"), letter(9), batches=1)
    output = succeed(file)
    assert "events.db and 1 numbered file: 4 events pending, 5 dead letters with 6 events" in output
    assert ["clicks", "f" * 16, "2", "0", "4", "12"] in [line.split() for line in output.splitlines()]
    assert "id-9" in succeed(file, "--show", "3/1")
    succeed(file, "--erase", "--yes", "--letter", "3/1")
    assert ids(succeed(file, "--list", "--json")) == ["id-1", "id-2", "id-3", "id-4"]


def test_a_tracker_may_have_it(tmp_path: Path) -> None:
    """While a tracker has the file, what has no batch yet is counted too, and dead letters are erased."""
    file = tmp_path / "events.db"
    transport = MemoryTransport([400])
    with Tracker("http://x/", backlog=file, transport=transport, on_loss=str, auth_key=KEY, flush_interval=600) as it:
        it.track("refused", 1)
        it.flush(30)
        assert sum(it.statistics().lost.values()) == 1
        it.track("waiting", 2)
        it.track("waiting", 3)
        it.track("other", 4)
        found = json.loads(succeed(file, "--json", "--stream", "waiting"))
        assert [(each["stream"], each["records"], each["events"]) for each in found["pending"]] == [("waiting", 2, 2)]
        while "1 dead letter with 1 event" not in succeed(file):
            pass  # it is buried a little later than the flush ends
        assert "1 dead letter with 1 event erased" in run(file, "--erase", "--yes").stderr
        it.flush(30)
        assert it.statistics().delivered == 3
    assert "0 events pending, 0 dead letters" in succeed(file)


def test_damage_is_shown(file: Path) -> None:
    """Damaged pieces and files that were set aside are counted."""
    file.with_name("events.db-tail-1.1").write_bytes(b"no record\n")
    with Tracker("http://x/", backlog=file, transport=MemoryTransport([503] * 99), on_loss=str) as it:
        it.stop(0)
    file.with_name("events.db.damaged-17").write_bytes(b"12345")
    file.with_name("events.db.damaged-17-wal").write_bytes(b"")
    output = succeed(file)
    assert ["events.db-tail", "its", "checksum", "is", "wrong", "9"] in [line.split() for line in output.splitlines()]
    assert f"set aside as damaged: {file}.damaged-17, 5 bytes" in output
    found = json.loads(succeed(file, "--json"))
    assert found["damaged"] == [{"source": "events.db-tail", "what": "its checksum is wrong", "size": 9}]
    assert found["set_aside"] == [{"file": f"{file}.damaged-17", "size": 5}]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is an empty file, and no backlog"), (b"some text, and no database at all" * 99, "file is not a database")],
)
def test_what_is_no_backlog(tmp_path: Path, content: bytes, words: str) -> None:
    """A file of another kind is named, and left as it is."""
    (tmp_path / "other").write_bytes(content)
    result = run(tmp_path / "other")
    assert result.exit_code == 1
    assert words in result.output
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("other", content)]


def test_a_letter_that_cannot_be_read(file: Path) -> None:
    """A damaged letter is not listed but set aside; the rest is."""
    with DeadLetters(file) as letters:
        others = [letter for letter in letters if letter.number != 2]
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE dead SET reason = 'whim' WHERE n = 2")
    connection.close()
    result = run(file, "--list")
    assert result.exit_code == 0
    assert "whim" not in result.output
    with DeadLetters(file) as letters:
        assert list(letters) == others
        [(source, reason, data)] = letters.damaged
    assert (source, reason) == ("dead", "its checksum is wrong")
    assert b"'whim'" in data


def test_a_file_that_is_deleted_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A numbered file that a tracker has emptied and deleted just now is not missed; the one that is named is."""
    monkeypatch.setattr(Backlog, "files", property(lambda self: [file, file.with_name("events.db.2")]))
    assert "4 dead letters" in succeed(file)
    monkeypatch.setattr(Backlog, "files", property(lambda self: []))
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    result = run(file)
    assert (result.exit_code, "is not there" in result.output) == (1, True)


def test_records_that_are_deleted_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that a tracker deletes while they are read are looked for again, but not for ever."""
    from atom_sync.backlog import _dead

    tries: list[int] = []

    def gone(self: object) -> list[tuple[int, bytes]]:
        tries.append(1)
        if len(tries) < 3:
            raise FileNotFoundError
        return []

    monkeypatch.setattr(_dead.Tails, "read", gone)
    with DeadLetters(file) as letters:
        assert [each.events for each in letters.waiting()] == [2]
        monkeypatch.setattr(_dead, "_TRIES", 0)
        with pytest.raises(_dead.BacklogError, match="deleted all the time"):
            letters.waiting()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--list", "--erase"],
        ["--show", "1", "--export", "-"],
        ["--yes"],
        ["--reason", "stopped"],
        ["--older-than", "-1"],
        ["--older-than", "nan"],
        ["--older-than", "inf"],
        ["--show", "1", "--letter", "2"],
    ],
)
def test_what_does_not_go_together(file: Path, arguments: list[str]) -> None:
    """Options that make no sense are refused, and nothing is done."""
    assert run(file, *arguments).exit_code == 2
    assert len(ids(succeed(file, "--list", "--json"))) == 4


def test_words() -> None:
    """Words are counted, times are read, and text is escaped only where it must be."""
    assert (counted(1, "event"), counted(0, "event")) == ("1 event", "0 events")
    assert (moment(0), moment(1e300)) == ("1970-01-01 00:00:00Z", "1e+300")
    assert (printable("é\n\udc80"), printable("é")) == ("é\\n\\udc80", "é")
    text = printable_json('"é\x7f\U000e0041"')
    assert (text, json.loads(text)) == ('"é\\u007f\\udb40\\udc41"', "é\x7f\U000e0041")
