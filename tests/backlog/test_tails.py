"""The files of records: what was refused never counts, whatever the disk does; what was taken always does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from files import lines_of, mark, records

from atom_sansio._records import read_records
from atom_sync.backlog import _tails
from atom_sync.backlog._tails import Tails


class FaultyDisk:
    """Takes what the system is asked for, in part or not at all; each list says what becomes of the next calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes: list[int | BaseException] = []
        """Of each write how many bytes are taken, or what it raises."""
        self.syncs: list[OSError | None] = []
        self.truncates: list[OSError | None] = []
        self.synced: list[int] = []
        """Descriptors."""
        real_write, real_sync, real_truncate = os.write, os.fdatasync, os.ftruncate

        def write(fd: int, data: bytes) -> int:
            what = self.writes.pop(0) if self.writes else len(data)
            if isinstance(what, BaseException):
                raise what
            return real_write(fd, data[:what])

        def sync(fd: int) -> None:
            what = self.syncs.pop(0) if self.syncs else None
            if what is not None:
                raise what
            self.synced.append(fd)
            real_sync(fd)

        def truncate(fd: int, size: int) -> None:
            what = self.truncates.pop(0) if self.truncates else None
            if what is not None:
                raise what
            real_truncate(fd, size)

        monkeypatch.setattr(_tails.os, "write", write)
        monkeypatch.setattr(_tails.os, "fdatasync", sync)
        monkeypatch.setattr(_tails.os, "ftruncate", truncate)


def test_syncs_that_fail_for_good(tmp_path: Path, disk: FaultyDisk) -> None:
    """Each makes another file necessary, and leaves none that is empty."""
    file = tmp_path / "events.db"
    tails = Tails(file, sync=True)
    tails.append(records(1, b"1\n"))
    for _ in range(5):
        disk.syncs.append(broken())
        with pytest.raises(OSError, match="Input/output"):
            tails.append(records(2, b"2\n"))
    tails.append(records(2, b"3\n"))
    tails.close()
    assert read(file) == ([b"1\n", b"3\n"], 0)
    assert len(names(file)) == 2


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    return FaultyDisk(monkeypatch)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def broken() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def read(file: Path) -> tuple[list[bytes], int]:
    """The events that a tracker would find, and how many it would report as damaged."""
    kept, damaged = read_records(Tails(file, sync=False).read(), [])
    lines = [line for each in kept for line in each.lines.splitlines(keepends=True)]
    return lines, sum(piece.events for piece in damaged)


def names(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_short_writes(tmp_path: Path, disk: FaultyDisk, sync: bool) -> None:
    """What the system takes a few bytes at a time is written all the same."""
    tails = Tails(tmp_path / "b", sync=sync)
    lines = [lines_of({"n": n}) for n in range(5)]
    disk.writes = [1, 2, 3, 0, 20, 1]
    tails.append(records(1, *lines))
    tails.append(records(6, *lines))
    tails.close()
    assert read(tmp_path / "b") == ([*lines, *lines], 0)
    assert names(tmp_path / "b") == ["b-tail-1.1"]
    assert len(disk.synced) == (2 if sync else 0)


@pytest.mark.parametrize("taken", range(45))
def test_a_full_disk(tmp_path: Path, disk: FaultyDisk, taken: int) -> None:
    """However much was taken of what is refused then, none of it counts, and what comes after it does."""
    tails = Tails(tmp_path / "b", sync=False)
    first, refused = records(1, lines_of(1)), records(2, lines_of("refused"), lines_of("refused, too"))
    tails.append(first)
    disk.writes = [taken, full()]
    with pytest.raises(OSError, match="No space"):
        tails.append(refused)
    assert (first.appended, refused.appended) == (True, False)
    assert read(tmp_path / "b") == ([lines_of(1)], 0)
    tails.append(records(2, lines_of(2)))
    tails.close()
    assert read(tmp_path / "b") == ([lines_of(1), lines_of(2)], 0)
    assert names(tmp_path / "b") == ["b-tail-1.1"]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("taken", [0, 7, 10_000])
def test_what_cannot_be_cut_off(tmp_path: Path, disk: FaultyDisk, sync: bool, taken: int) -> None:
    """While what was refused cannot be taken off the file, nothing else is taken; then it goes on."""
    tails = Tails(tmp_path / "b", sync=sync)
    tails.append(records(1, lines_of(1)))
    disk.writes = [taken, full()] if taken < 1000 else []
    disk.syncs = [broken()]
    disk.truncates = [broken(), broken()]
    if taken == 10_000 and not sync:
        return  # it does not fail
    with pytest.raises(OSError, match=r"No space|Input"):
        tails.append(records(1, lines_of("refused"), stream="another"))
    with pytest.raises(OSError, match="Input"):
        tails.append(records(2, lines_of("refused, too")))
    disk.syncs = []
    tails.append(records(2, lines_of(2)))
    tails.close()
    assert read(tmp_path / "b") == ([lines_of(1), lines_of(2)], 0)


def test_a_sync_that_fails(tmp_path: Path, disk: FaultyDisk) -> None:
    """After a sync has failed no other of that file is believed: what comes next goes to another one."""
    tails = Tails(tmp_path / "b", sync=True)
    tails.append(records(1, lines_of(1)))
    disk.syncs = [broken()]
    with pytest.raises(OSError, match="Input"):
        tails.append(records(2, lines_of("refused")))
    tails.append(records(2, lines_of(2)))
    tails.append(records(3, lines_of(3)))
    tails.close()
    assert names(tmp_path / "b") == ["b-tail-1.1", "b-tail-1.2"]
    assert read(tmp_path / "b") == ([lines_of(1), lines_of(2), lines_of(3)], 0)


def test_the_other_file_counts_after_the_first(tmp_path: Path, disk: FaultyDisk) -> None:
    """Where a refused record has stayed in the first file, the one of its number in the second counts."""
    for refused, taken in ((b'"a"\n', b'"z"\n'), (b'"z"\n', b'"a"\n')):
        tails = Tails(tmp_path / "b", sync=True)
        (tmp_path / "b-tail-1.1").write_bytes(records(1, refused).data)
        tails.append(records(1, taken))
        tails.close()
        assert read(tmp_path / "b") == ([taken], 0)
        (tmp_path / "b-tail-1.2").unlink()


def test_more_than_nine_files(tmp_path: Path, disk: FaultyDisk) -> None:
    """Files are read in the order of their numbers."""
    tails = Tails(tmp_path / "b", sync=True)
    for n in range(1, 13):
        tails.append(records(n, lines_of(n)))
        disk.syncs = [broken()]
        with pytest.raises(OSError, match="Input"):
            tails.append(records(n + 1, lines_of("refused")))
    tails.close()
    assert len(names(tmp_path / "b")) == 12
    assert read(tmp_path / "b") == ([lines_of(n) for n in range(1, 13)], 0)


class Interrupted(BaseException):
    """As a signal handler may raise."""


def test_an_interrupt(tmp_path: Path, disk: FaultyDisk) -> None:
    """What a signal handler breaks off does not count, and is no reason to cut off what comes after it."""
    tails = Tails(tmp_path / "b", sync=False)
    disk.writes = [9, Interrupted()]
    with pytest.raises(Interrupted):
        tails.append(records(1, lines_of("refused")))
    tails.append(records(1, lines_of(1)))
    disk.writes = [5, full()]
    with pytest.raises(OSError, match="No space"):
        tails.append(records(2, lines_of("refused")))
    tails.append(records(2, lines_of(2)))
    tails.close()
    assert read(tmp_path / "b") == ([lines_of(1), lines_of(2)], 0)


def test_no_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name cannot be synced is given up, and each try leaves none behind."""
    tails = Tails(tmp_path / "b", sync=True)

    def fail(path: Path) -> None:
        raise broken()

    with monkeypatch.context() as patch:
        patch.setattr(_tails, "sync_directory", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="Input"):
                tails.append(records(1, lines_of("refused")))
    assert names(tmp_path / "b") == []
    tails.append(records(1, lines_of(1)))
    tails.close()
    tails.close()
    assert read(tmp_path / "b") == ([lines_of(1)], 0)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Where no file can be made, that is an OSError; when one can, it is made."""
    folder = tmp_path / "folder"
    tails = Tails(folder / "b", sync=False)
    with pytest.raises(FileNotFoundError):
        tails.append(records(1, lines_of(1)))
    folder.mkdir()
    tails.append(records(1, lines_of(1)))
    tails.close()
    assert read(folder / "b") == ([lines_of(1)], 0)


@pytest.mark.parametrize("sync", [False, True])
def test_generations(tmp_path: Path, sync: bool) -> None:
    """Each generation has its files; earlier ones are forgotten, and files of other names are not touched."""
    others = ["b-tail-", "b-tail-1", "b-tail-x.1", "b-tail-1.x", "b2-tail-1.1", "b-tail-1.1.bak"]
    for name in others:
        (tmp_path / name).write_bytes(b"other")
    tails = Tails(tmp_path / "b", sync=sync)
    for generation in (1, 2, 10):
        tails.append(records(1, lines_of(generation), generation=generation))
    assert tails.generations() == [1, 2, 10]
    assert read(tmp_path / "b")[0] == [lines_of(1), lines_of(2), lines_of(10)]
    tails.forget_before(10)
    tails.forget_before(10)
    tails.append(records(2, lines_of(11), generation=10))
    assert read(tmp_path / "b") == ([lines_of(10), lines_of(11)], 0)
    tails.close()
    assert names(tmp_path / "b") == sorted([*others, "b-tail-10.1"])


@pytest.mark.parametrize("sync", [False, True])
def test_handing_over(tmp_path: Path, sync: bool) -> None:
    """A generation is handed over to another backlog by renaming its files, which keep their numbers."""
    for number in (1, 2):
        (tmp_path / f"b.2-tail-5.{number}").write_bytes(records(number, lines_of(number), generation=5).data)
    (tmp_path / "b.2-tail-6.1").write_bytes(b"")
    Tails(tmp_path / "b.2", sync=sync).hand_over(5, tmp_path / "b", 9)
    assert names(tmp_path / "b") == ["b-tail-9.1", "b-tail-9.2", "b.2-tail-6.1"]
    kept, damaged = read_records(Tails(tmp_path / "b", sync=False).read(), [mark(1, generation=9)])
    assert ([each.lines for each in kept], damaged) == ([lines_of(2)], [])


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the disk does not give back is renamed, and the others are read."""
    for number in (1, 2, 3):
        (tmp_path / f"b-tail-1.{number}").write_bytes(records(number, lines_of(number)).data)
    real: Callable[[Any], bytes] = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "b-tail-1.2":
            raise broken()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    tails = Tails(tmp_path / "b", sync=False)
    assert tails.set_unreadable_aside() == ["b-tail-1.2: Input/output error"]
    assert tails.set_unreadable_aside() == []
    assert [data for _, data in tails.read()] == [records(n, lines_of(n)).data for n in (1, 3)]
    assert [name for name in names(tmp_path / "b") if name.startswith("b.damaged-")]


INTERRUPTED = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from files import lines_of, records
from atom_sansio._records import read_records
from atom_sync.backlog._tails import Tails

class Interrupted(BaseException):
    pass

armed = False

def handler(*args):
    if armed:  # or it is late
        raise Interrupted

signal.signal(signal.SIGALRM, handler)
tails = Tails(Path(sys.argv[1]), sync=False)
lines = [lines_of({"n": n, "text": "x" * 500}) for n in range(20)]
number, taken, broken_off = 1, 0, 0
for n in range(2000):
    data = records(number, *lines)
    try:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + n % 97 * 0.000004)
            tails.append(data)
            for _ in range(n % 7 * 100):
                pass
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        broken_off += 1  # in doubt, and so refused: its numbers are used again
    else:
        taken += 1
        number += len(lines)
tails.append(records(number, lines_of("last")))
tails.close()
kept, damaged = read_records(Tails(Path(sys.argv[1]), sync=False).read(), [])
assert b"".join(each.lines for each in kept) == b"".join(lines) * taken + lines_of("last")
assert damaged == [], damaged
print(taken, broken_off)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_a_real_interrupt(tmp_path: Path) -> None:
    """Signal handlers that raise at any moment break off what they break off, and nothing else."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "b"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    print("taken, broken off:", ran.stdout)
