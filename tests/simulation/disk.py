"""Where a run's backlog is: a disk that is a model, or the real backlog of ``atom_sync`` on a RAM disk.

The model does what ``atom_sync.backlog`` asks of a file system and of SQLite, and no more is promised than these do:

- What was written outlives a SIGKILL; of what was not synced a power loss keeps any part, whole sectors lost, bits
  flipped, and names of files that came or went since the directory was synced may be there or not.
- A transaction is all or nothing.  With ``synchronous=NORMAL`` a power loss may take the last ones, with FULL none.
- A write that fails may leave a part behind; a commit that fails may have been made.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from atom_sansio import BatchUnreadable, DeadLetter, KeptBatch, Level, Mark, Records, Recovered, UpdateBacklog
from atom_sansio._records import read_records

SECTOR = 512


class Disk(Protocol):
    """What programs of a run have, one after the other."""

    full: bool
    slow: bool
    fails: float
    """Share of writes and reads that fail."""
    made: bool
    """Whether the last update was made, whatever it said."""

    def open(self) -> Recovered: ...
    def append(self, records: Records) -> None: ...
    def update(self, update: UpdateBacklog) -> None: ...
    def load(self, batch_id: str) -> bytes: ...
    def lines(self, batch_id: str) -> bytes: ...
    def letters(self) -> Iterable[bytes]: ...
    def killed(self, writing: Records | None, updating: UpdateBacklog | None) -> None: ...
    def power_lost(self, writing: Records | None, updating: UpdateBacklog | None) -> None: ...
    def damage(self) -> str | None: ...
    def close(self) -> None: ...
    def remove(self) -> None: ...


@dataclass(slots=True)
class File:
    """The records of a generation, or some of them."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    """Bytes that count."""
    synced: int = 0
    """Bytes that a power loss cannot take."""


@dataclass(slots=True)
class Tables:
    """What the transactions have come to."""

    batches: dict[str, tuple[KeptBatch, bytes]] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)
    marks: dict[tuple[int, str, str | None], int] = field(default_factory=dict)

    def copy(self) -> Tables:
        return Tables(dict(self.batches), dict(self.dead), dict(self.marks))

    def make(self, update: UpdateBacklog | int) -> None:
        """Make *update*, or forget the marks of generations before it."""
        if isinstance(update, int):
            self.marks = {place: last for place, last in self.marks.items() if place[0] >= update}
            return
        for kept, lines in update.put:
            self.batches[kept.batch_id] = kept, lines
        for batch_id in update.drop:
            self.batches.pop(batch_id, None)
        for letter in update.dead:
            self.dead[letter.letter_id] = letter
        for mark in update.marks:
            self.marks[mark.generation, mark.stream, mark.fingerprint] = mark.index


class ModelledDisk:
    """A disk that does what a disk may do.

    Args:
        sync: whether records are synced, and transactions: the level ``disk``.
        rng: what it does of what it may.
    """

    def __init__(self, *, sync: bool, rng: Random) -> None:
        self.full = self.slow = False
        self.fails = 0.0
        self.made = False
        self._sync = sync
        self._rng = rng
        self._files: dict[tuple[int, int], File] = {}
        self._unlinked: dict[tuple[int, int], File] = {}  # since the directory was synced last
        self._open: tuple[int, int] | None = None
        self._doubtful = False  # whether there may be more in that file than what counts
        self._distrusted = False  # whether it was a sync that failed
        self.tables = Tables()
        self._safe = Tables()  # what a power loss leaves at least
        self._log: list[UpdateBacklog | int] = []  # transactions since then
        self._damaged: set[str] = set()

    # -- what a program asks --------------------------------------------------------------------------

    def open(self) -> Recovered:
        """What a program finds."""
        self._open, self._doubtful = None, False
        tables = self.tables
        marks = [Mark(generation=g, stream=s, fingerprint=f, index=i) for (g, s, f), i in tables.marks.items()]
        files = [(generation, bytes(file.data)) for (generation, _), file in sorted(self._files.items())]
        records, damaged = read_records(files, marks)
        generations = [*(generation for generation, _ in files), *(mark.generation for mark in marks)]
        return Recovered(
            batches=tuple(sorted((kept for kept, _ in tables.batches.values()), key=lambda k: (k.place, k.part))),
            records=tuple(records),
            generation=max(generations, default=0),
            damaged=sum(piece.whole for piece in damaged),
        )

    def _trouble(self) -> OSError | None:
        if self.full:
            return OSError(28, "No space left on device")
        if self.fails and self._rng.random() < self.fails:
            return OSError(5, "Input/output error")
        return None

    def append(self, records: Records) -> None:
        """Write *records*, all or none."""
        trouble = self._trouble()
        if self._doubtful:
            if trouble is not None and self._rng.random() < 0.5:
                raise trouble  # what was written in part cannot be cut off yet
            self._cut_off()
        place = self._open
        if place is None or place[0] != records.generation:
            if trouble is not None and self._rng.random() < 0.5:
                raise trouble  # no file could be made
            taken = [number for generation, number in self._files if generation == records.generation]
            place = self._open = records.generation, max(taken, default=0) + 1
            self._files[place] = File()
            if self._sync:
                self._sync_directory()
        file = self._files[place]
        if trouble is None:
            file.data += records.data
            file.size = len(file.data)
            if self._sync:
                file.synced = file.size
            return
        # Were a whole record left there and the program killed, its event might come though it was refused.
        file.data += records.data[: self._rng.randint(0, records.data.index(b"\n") - 1)]
        self._doubtful = True
        self._distrusted = self._sync and self._rng.random() < 0.5
        if self._rng.random() < 0.7:
            self._cut_off()
        raise trouble

    def update(self, update: UpdateBacklog) -> None:
        """Make *update*, all or nothing."""
        trouble = self._trouble()
        self.made = False
        if trouble is not None and (self.full or self._rng.random() < 0.5):
            raise trouble
        self.made = True
        self._commit(update)
        if update.forget_before:
            self._unlink_before(update.forget_before)
            if self._sync:
                self._sync_directory()
            self._commit(update.forget_before)
        if trouble is not None:
            raise trouble  # it was made, and nobody knows

    def load(self, batch_id: str) -> bytes:
        """The events of a batch."""
        if self.fails and self._rng.random() < self.fails:
            raise OSError(5, "Input/output error")
        if batch_id in self._damaged:
            raise BatchUnreadable("its checksum is wrong")
        return self.lines(batch_id)

    def lines(self, batch_id: str) -> bytes:
        """The same, whatever happened to it."""
        return self.tables.batches[batch_id][1]

    def letters(self) -> Iterable[bytes]:
        """The events of all dead letters."""
        return [letter.loss.lines for letter in self.tables.dead.values()]

    def close(self) -> None:
        """The program ends in order; the last connection writes all into the file itself."""
        self._checkpoint()
        self._open = None

    def remove(self) -> None:
        """The run is over."""

    # -- what happens to it ---------------------------------------------------------------------------

    def killed(self, writing: Records | None, updating: UpdateBacklog | None) -> None:
        """The program is killed while it writes and makes an update."""
        self._begin(writing, updating)

    def power_lost(self, writing: Records | None, updating: UpdateBacklog | None) -> None:
        """The machine is off while that is being done."""
        rng = self._rng
        self._begin(writing, updating)
        kept = len(self._log) if self._sync else rng.randint(0, len(self._log))
        del self._log[kept:]
        self._checkpoint()
        self.tables = self._safe.copy()
        for place, file in self._unlinked.items():
            if self._sync and rng.random() < 0.5:  # without: it might come again without its marks, and that is allowed
                self._files[place] = file
        for place, file in list(self._files.items()):
            if not self._sync and rng.random() < 0.2:
                del self._files[place]  # its name was not on the disk yet
            else:
                self._tear(file)
        self._unlinked.clear()

    def damage(self) -> str | None:
        """Bits of a kept batch are flipped; which one's."""
        whole = [batch_id for batch_id in self.tables.batches if batch_id not in self._damaged]
        if not whole:
            return None
        batch_id = self._rng.choice(whole)
        self._damaged.add(batch_id)
        return batch_id

    def _begin(self, writing: Records | None, updating: UpdateBacklog | None) -> None:
        """What was under way got somewhere."""
        rng = self._rng
        if writing is not None and not self.full and rng.random() < 0.8:
            place = writing.generation, 1 << 20
            while place in self._files:
                place = place[0], place[1] + 1
            if self._doubtful:
                self._cut_off()
            if self._open is not None and self._open[0] == writing.generation:
                place = self._open
            self._files.setdefault(place, File()).data += writing.data[: rng.randint(0, len(writing.data))]
        if updating is not None and not self.full and rng.random() < 0.5:
            self._commit(updating, sure=False)
            if updating.forget_before and rng.random() < 0.7:
                self._unlink_before(updating.forget_before)
                if rng.random() < 0.5:
                    if self._sync:
                        self._sync_directory()
                    self._commit(updating.forget_before)

    def _cut_off(self) -> None:
        """Of the file that is open leave what counts; begin another if its syncs say nothing any more."""
        assert self._open is not None
        if (file := self._files.get(self._open)) is not None:  # or it was deleted, with its generation
            del file.data[file.size :]
        self._doubtful = False
        if self._distrusted:
            self._open, self._distrusted = None, False

    def _commit(self, update: UpdateBacklog | int, *, sure: bool = True) -> None:
        self.tables.make(update)
        self._log.append(update)
        if sure and (self._sync or len(self._log) > 40 or self._rng.random() < 0.05):
            self._checkpoint()

    def _checkpoint(self) -> None:
        for update in self._log:
            self._safe.make(update)
        self._log.clear()

    def _unlink_before(self, generation: int) -> None:
        for place in [place for place in self._files if place[0] < generation]:
            self._unlinked[place] = self._files.pop(place)

    def _sync_directory(self) -> None:
        self._unlinked.clear()

    def _tear(self, file: File) -> None:
        """Of what was not synced any part is there, and the rest is anything."""
        rng, data = self._rng, file.data
        unsynced = len(data) - file.synced
        if not unsynced:
            return
        what = rng.random()
        if what < 0.4:
            del data[file.synced + rng.randint(0, unsynced) :]
        elif what < 0.7:
            for start in range(file.synced // SECTOR * SECTOR, len(data), SECTOR):
                first, last = max(start, file.synced), min(start + SECTOR, len(data))
                if rng.random() < 0.5:
                    data[first:last] = bytes(last - first)
        elif what < 0.9:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(file.synced, len(data))] ^= 1 << rng.randrange(8)
        file.synced = len(data)


class RealDisk:
    """The real backlog, in a directory of a RAM disk if there is one.

    A killed program's files are copied as they are, which is what the next program would see of them: that one is
    given the copy.
    """

    def __init__(self, level: Level, rng: Random) -> None:
        self.full = self.slow = False
        self.fails = 0.0
        self.made = True
        self._level = level
        self._rng = rng
        self._root = Path(tempfile.mkdtemp(prefix="atom-simulation-", dir=_ram()))
        self._serial = 0
        self._folder = self._root / "0"
        self._folder.mkdir()

    def open(self) -> Recovered:
        """What a program finds."""
        from atom_sync.backlog import Backlog

        self._backlog = Backlog(self._folder / "events.db", level=self._level).open()
        self.append = self._backlog.append
        self.update = self._backlog.update
        self.load = self.lines = self._backlog.load
        return self._backlog.recover()

    def letters(self) -> Iterable[bytes]:
        """The events of all dead letters."""
        return [lines for (lines,) in self._backlog._own._connection.execute("SELECT lines FROM dead")]

    def killed(self, writing: Records | None, updating: UpdateBacklog | None) -> None:
        """The program is killed while it writes and makes an update."""
        rng = self._rng
        if updating is not None and rng.random() < 0.5:
            self._backlog.update(updating)
        if writing is not None and rng.random() < 0.8:
            tails = self._backlog._own._tails
            if tails._fd is not None and tails._generation == writing.generation:
                os.write(tails._fd, writing.data[: rng.randint(0, len(writing.data))])
        self._serial += 1
        folder = self._root / str(self._serial)
        shutil.copytree(self._folder, folder, ignore=shutil.ignore_patterns("*-shm"))
        self._backlog.close()
        shutil.rmtree(self._folder)
        self._folder = folder

    def power_lost(self, writing: Records | None, updating: UpdateBacklog | None) -> None:
        """A RAM disk has no such thing."""
        self.killed(writing, updating)

    def damage(self) -> str | None:
        """Nothing is damaged."""
        return None

    def close(self) -> None:
        """The program ends in order."""
        self._backlog.close()

    def remove(self) -> None:
        """The run is over."""
        self._backlog.close()
        shutil.rmtree(self._root, ignore_errors=True)


def _ram() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
