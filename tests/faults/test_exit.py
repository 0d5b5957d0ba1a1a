"""How a program may end, and what becomes of its last events."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from interrupted_programs import Program, arrived, dead, hanging, once, posix, run

BOUND = 2.0
"""Seconds that a tracker may take at the end."""
MACHINE = 1.0
"""Seconds more that an interpreter may take to be gone, on a busy machine."""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "threading.Thread(target=tracker.flush, daemon=True).start()"])
def test_without_flush(url: str, end: str) -> None:
    """A program that just ends has delivered all of its 25 events."""
    run(f"tracker = Tracker(url)\nfor n in range(25): tracker.track('s', n)\n{end}", url)
    assert arrived(url) == once(*range(25))


def test_by_an_exception(url: str) -> None:
    """So has one that ends with a traceback."""
    with Program("tracker = Tracker(url)\nfor n in range(25): tracker.track('s', n)\n1 / 0", url) as program:
        code, _, err = program.end()
    assert code == 1
    assert err.endswith("ZeroDivisionError: division by zero\n")
    assert arrived(url) == once(*range(25))


CALLBACKS = [
    "None",
    "lambda loss: sys.stdout.write(f'{loss.count} {loss.reason.value}\\n')",  # in one piece: two threads call it
    "lambda loss: threading.Event().wait()",
]


@pytest.mark.parametrize("server", [dead, hanging])
def test_no_server(server: Callable[[], AbstractContextManager[str]]) -> None:
    """With a dead or hanging server a program ends in two seconds, its 25 events are reported, on_loss may block."""
    script = """
        import atexit
        atexit.register(lambda: print(time.monotonic(), flush=True))  # runs after the tracker's
        on_loss = eval(sys.argv[2])
        trackers = [Tracker(url, on_loss=on_loss) for _ in range(2)]
        for tracker in trackers:
            for n in range(25):
                tracker.track("s", n)
        atexit.register(lambda: print(time.monotonic(), flush=True))  # runs before the tracker's
    """
    with ExitStack() as stack:
        url = stack.enter_context(server())
        programs = [stack.enter_context(Program(script, url, callback)) for callback in CALLBACKS]
        ends = [program.end() for program in programs]
    for callback, (code, out, err) in zip(CALLBACKS, ends, strict=True):
        before, *told, after = out.splitlines()
        took = float(after) - float(before)
        print(f"{took:.3f} s with on_loss={callback}")
        assert code == 0
        assert took < BOUND + MACHINE
        assert "Traceback" not in err
        if told:
            assert told == ["25 stopped"] * 2
        elif "Event" not in callback:  # where no thread can be started at exit (3.12), no callback is called
            assert err.count("25 events of stream 's' are lost (stopped, status None)") == 2


# Python heeds a signal that comes just when the main thread falls asleep when that wakes: it sleeps for a moment.
WAYS = {
    "asleep": "while True: time.sleep(0.05)",
    "in a flush": "Tracker(sys.argv[2]).track('t', 1)\nwhile True: tracker.flush(60); time.sleep(0.05)",
    "in a lock": "lock = threading.Lock()\nlock.acquire()\nwhile not lock.acquire(timeout=0.05): pass",
    "busy": "while True: pass",
}


@posix
@pytest.mark.parametrize("way", WAYS)
def test_sigterm(url: str, way: str) -> None:
    """SIGTERM with handle_signals(): a program that sleeps, waits or is busy has delivered all of its 25 events."""
    script = f"""
tracker = Tracker(url)
tracker.handle_signals()
for n in range(25):
    tracker.track("s", n)
print("ready", flush=True)
{WAYS[way]}
"""
    with hanging() as other, Program(script, url, other) as program:
        assert program.line() == "ready"
        program.process.send_signal(signal.SIGTERM)
        code, _, err = program.end()
    assert code == -signal.SIGTERM
    assert "Traceback" not in err
    assert arrived(url, "s") == once(*range(25))


@posix
@pytest.mark.parametrize("delay", range(5))
def test_sigterm_while_tracking(url: str, tmp_path: Path, delay: int) -> None:
    """SIGTERM with handle_signals() in the midst of track(): what track() had accepted until then is delivered."""
    script = """
        import mmap, struct
        from atom_sansio import TrackerClosed
        accepted = mmap.mmap(os.open(sys.argv[2], os.O_RDWR), 8)  # which is there after the process has gone
        tracker = Tracker(url, max_batch_events=50)
        tracker.handle_signals()
        n = 0
        print("ready", flush=True)
        try:
            while True:
                tracker.track("s", n)
                n += 1
                struct.pack_into("=q", accepted, 0, n)
        except TrackerClosed:  # the signal came in the midst of the core: a thread stops the tracker, and goes on
            threading.Event().wait()
    """
    file = tmp_path / "accepted"
    file.write_bytes(bytes(8))
    with Program(script, url, str(file)) as program:
        assert program.line() == "ready"
        time.sleep(delay / 100)  # so that it comes at different points
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == (-signal.SIGTERM, "", "")
    accepted = int.from_bytes(file.read_bytes(), sys.byteorder)
    seen = arrived(url)
    assert seen == once(*range(len(seen)))
    assert accepted <= len(seen) <= accepted + 1  # the last may have been taken in and not yet counted
