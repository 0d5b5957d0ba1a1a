"""A disk that is full, read-only or broken for a while: ``on_full`` holds, nothing accepted is lost, and it passes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import calls
import pytest
from interrupted_programs import PATIENCE, Program, posix, run
from trackers import when_asked_for

from atom_sync import MemoryTransport, Tracker
from atom_sync.backlog import DeadLetters

pytestmark = [posix, when_asked_for]

needs_library = pytest.mark.skipif(bool(calls.WHY_NOT), reason=calls.WHY_NOT)

FAULTS = [
    "limit",
    "full",
    *(pytest.param(name, marks=needs_library) for name in ("no space", "read-only", "broken", "broken sync")),
]


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 64 MiB at *path*."""
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], check=True, capture_output=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no leave to mount a small file system: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=30)


@pytest.mark.parametrize("driver", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("fault", FAULTS)
def test_for_a_while(tmp_path: Path, fault: str, driver: str) -> None:
    """Every event is in the backlog, or its call was refused, or it was reported as lost, as ``on_full`` says."""
    level = "disk" if fault == "broken sync" else "process"
    end = "kill" if driver == "sync" and fault != "no space" else "stop"
    with contextlib.ExitStack() as stack:
        if fault == "full":
            stack.enter_context(small_disk(tmp_path))
        own = {"PYTHONPATH": str(Path(__file__).parent)}
        environment = own if fault in ("limit", "full") else calls.environment()
        command = (sys.executable, str(Path(__file__).with_name("faulty_disk.py")))
        arguments = (str(tmp_path), fault, driver, level, end)
        with Program("", *arguments, command=command, environment=environment) as program:
            code, out, err = program.end()
        assert code == (0 if end == "stop" else -signal.SIGKILL), err
        found = json.loads(out)
        for policy, told in found.items():
            check(tmp_path / policy, policy, told)
            count = {name: len(told[name]) for name in ("accepted", "refused", "lost")}
            print(f"{policy}: {count}, the slowest call took {told['slowest']:.2f} s")


def check(directory: Path, policy: str, told: dict[str, list[int]]) -> None:
    """Compare what a program was told with what is in its backlog."""
    transport = MemoryTransport()
    tracker = Tracker("http://127.0.0.1:1/", backlog=directory / "events.db", transport=transport)
    try:
        result = tracker.flush(PATIENCE)
        assert (result.lost, result.pending) == (0, 0)
    finally:
        tracker.stop()
    arrived = Counter(event["n"] for _, event in transport.events)
    accepted, refused, lost = set(told["accepted"]), set(told["refused"]), set(told["lost"])
    assert max(arrived.values()) == 1, policy
    assert accepted - lost == arrived.keys(), policy
    assert lost <= accepted
    assert set(told["reasons"]) <= {"backlog_full"}
    match policy:
        case "block":
            assert refused
            assert not lost
            assert min(told["refused_after"]) >= 0.5
        case "wait":
            assert not refused
            assert not lost
        case "raise":
            assert refused
            assert not lost
            assert sorted(told["refused_after"])[len(refused) // 2] < 0.15
        case _:
            assert not refused
            assert lost
            assert told["slowest"] < 5.0
    with DeadLetters(directory / "events.db") as letters:
        assert not list(letters)
        assert not [reason for _, reason, _ in letters.damaged if reason != "it has no end"]


@needs_library
def test_read_only_from_the_start(tmp_path: Path) -> None:
    """Where the files cannot be made at all, a tracker says so when it is built."""
    script = """
        import calls, errno
        from atom_sansio import BacklogError
        calls.fail(calls.Kind.CREATE, errno.EROFS, sys.argv[1])
        try:
            Tracker("http://127.0.0.1:1/", backlog=sys.argv[1] + "/events.db")
        except BacklogError as error:
            print(error)
    """
    told = run(script, str(tmp_path), environment=calls.environment())
    assert told.startswith(f"the backlog {tmp_path}/events.db cannot be opened: ")
    assert "Read-only file system" in told
