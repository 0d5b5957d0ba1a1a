"""The power fails while a program has a backlog of level ``disk``: whatever the disk then holds, nothing is lost.

What the program writes, syncs, creates, renames and deletes is written down by a preloaded library.  From that, disks
are made as they may be after a loss of power at any moment: of what was not synced, any part may be there, torn at
sectors of 512 bytes, in files and in the directory.  A name counts as synced only once the directory is.  SQLite's
``-shm`` is left out, which it makes anew.  What a disk does to synced data is not modelled.

``ATOM_FAULTS_EVERY=1`` opens all the disks; without it, some of them.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calls
import pytest
from calls import Call, Kind
from killed_programs import ForkServer, Peer, start_again

from atom_sync.backlog import Backlog, DeadLetters

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(bool(calls.WHY_NOT), reason=calls.WHY_NOT)]

EVERY = int(os.environ.get("ATOM_FAULTS_EVERY", "23"))
"""How many times fewer disks are opened than there are."""

DISKS = 3000
"""Of each program."""

SECTOR = 512

VARIANTS: dict[str, dict[str, Any]] = {
    "threads": {"program": "threads"},
    "generations": {"program": "threads", "generation": 700},
    "two trackers": {"program": "threads", "generation": 700, "trackers": 2},
    "asyncio": {"program": "tasks", "generation": 700},
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@dataclass
class File:
    """What is surely on the disk of a file, and what may be."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)

    def sync(self) -> None:
        for call in self.pending:
            apply(self.synced, call)
        self.pending.clear()

    def after_loss(self, draw: random.Random) -> bytes:
        """What may be there once the power is back."""
        content = bytearray(self.synced)
        match draw.randrange(5):
            case 0:
                kept: list[Call] = []
            case 1:
                kept = self.pending
            case 2:
                kept = self.pending[: draw.randint(0, len(self.pending))]
            case _:
                kept = [call for call in self.pending if draw.random() < 0.5]
        tear = draw.random() < 0.5
        for call in kept:
            if call.kind is Kind.WRITE and tear:
                for part in sectors(call):
                    if draw.random() < 0.5:
                        apply(content, part)
            else:
                apply(content, call)
        return bytes(content)


def apply(content: bytearray, call: Call) -> None:
    """Do to *content* what *call* does to a file."""
    if call.kind is Kind.TRUNCATE:
        content[call.offset :] = bytes(max(0, call.offset - len(content)))
    else:
        content.extend(bytes(max(0, call.offset - len(content))))
        content[call.offset : call.offset + len(call.data)] = call.data


def sectors(call: Call) -> Iterator[Call]:
    """The parts of what is written that are in different sectors of the disk."""
    at = call.offset
    end = call.offset + len(call.data)
    while at < end:
        until = min(end, (at // SECTOR + 1) * SECTOR)
        yield call._replace(offset=at, data=call.data[at - call.offset : until - call.offset])
        at = until


class Disk:
    """A directory on a disk, as a program goes on."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._names: dict[str, File] = {}
        self._synced: dict[str, File] = {}
        self._pending: list[tuple[Kind, str, Any]] = []

    def do(self, call: Call) -> None:
        """Take in what the program did."""
        name = os.path.relpath(call.path, self._directory)
        if call.path == self._directory and call.kind is Kind.SYNC:
            for change in self._pending:
                rename(self._synced, *change)
            self._pending.clear()
            return
        if name.startswith("..") or name.endswith(("-shm", "(deleted)")):
            return
        if call.kind in (Kind.CREATE, Kind.UNLINK, Kind.RENAME):
            other: Any = File() if call.kind is Kind.CREATE else Path(call.data.decode()).name
            rename(self._names, call.kind, name, other)
            self._pending.append((call.kind, name, other))
        elif call.kind is Kind.SYNC:
            self._names[name].sync()
        else:
            self._names[name].pending.append(call)

    def after_loss(self, draw: random.Random, directory: Path) -> None:
        """Make *directory* as it may be once the power is back."""
        names = dict(self._synced)
        some = draw.random() < 0.5
        changes = self._pending[: draw.randint(0, len(self._pending))] if some else self._pending
        for change in changes if draw.random() < 0.5 else [x for x in changes if draw.random() < 0.7]:
            rename(names, *change)
        for name, file in names.items():
            (directory / name).write_bytes(file.after_loss(draw))


def rename(names: dict[str, File], kind: Kind, name: str, other: Any) -> None:
    """Change a directory."""
    if kind is Kind.CREATE:
        names[name] = other
    elif kind is Kind.UNLINK:
        names.pop(name, None)
    elif name in names:
        names[other] = names.pop(name)


@dataclass
class Oracle:
    """What the program was told, and what the collector has."""

    accepted: set[tuple[int, ...]] = field(default_factory=set)
    delivered: dict[str, list[list[int]]] = field(default_factory=dict)

    def do(self, name: str, call: Call) -> None:
        if name == "accepted":
            self.accepted |= {tuple(json.loads(line)) for line in call.data.splitlines()}
        else:
            self.delivered.update(json.loads(line) for line in call.data.splitlines())


def held(directory: Path) -> dict[Any, list[bytes]]:
    """What a backlog gives of that directory: the events of each batch by its id, and those of records."""
    backlog = Backlog(directory / "events.db", level="disk").open()
    try:
        recovered = backlog.recover()
        batches = {kept.batch_id: backlog.load(kept.batch_id).splitlines() for kept in recovered.batches}
        assert [kept.events for kept in recovered.batches] == [len(batches[k.batch_id]) for k in recovered.batches]
        return {**batches, None: [line for records in recovered.records for line in records.lines.splitlines()]}
    finally:
        backlog.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_power_fails(server: ForkServer, tmp_path: Path, name: str) -> None:
    """Each disk opens with no complaint and has, with the collector, all that was accepted, and none of it twice."""
    plan = {**VARIANTS[name], "directory": str(tmp_path), "level": "disk", "run": 0, "written_down": True}
    server.run(**plan, at=0, halfway=False, url="http://collector.example/")
    done = list(calls.read_down(tmp_path / "calls"))
    draw = random.Random(name)
    when = Counter(draw.randint(0, len(done)) for _ in range(DISKS // EVERY))
    disk, oracle = Disk(tmp_path), Oracle()
    opened = torn = 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for i, call in enumerate(itertools.chain(done, [None])):
        for _ in range(when[i]):
            with tempfile.TemporaryDirectory(dir=memory) as fresh:
                directory = Path(fresh)
                disk.after_loss(draw, directory)
                opened += 1
                check_disk(directory, oracle, whole=opened % 20 == 0)
                torn += bool(list(directory.glob("*-tail-*")))
        if call is not None:
            file = Path(call.path).name
            if file in ("accepted", "delivered"):
                if call.kind is Kind.WRITE:
                    oracle.do(file, call)
            else:
                disk.do(call)
    shutil.rmtree(tmp_path)
    print(f"opened {opened} disks after {len(done)} calls; {torn} of them had records")


def check_disk(directory: Path, oracle: Oracle, *, whole: bool) -> None:
    """Open what is in *directory*; *whole* says that a tracker is to deliver it, too."""
    names = sorted(file.name for file in directory.iterdir())
    found = held(directory)
    assert not list(directory.glob("*.damaged-*")), names
    arrived = Counter(tuple(event) for events in oracle.delivered.values() for event in events)
    for batch_id, lines in found.items():
        if batch_id not in oracle.delivered:
            arrived.update(tuple(json.loads(line)["event"]) for line in lines)
    lost = oracle.accepted - arrived.keys()
    assert not lost, (names, lost)
    twice = {event: count for event, count in arrived.items() if count > 1}
    assert not twice, (names, twice)
    if whole:
        peer = Peer("good")
        start_again(directory, peer, "disk")
        left = [row for row in peer.collector.rows if row.batch_id not in oracle.delivered]
        again = Counter(tuple(json.loads(row.text)["event"]) for row in left)
        again.update(tuple(event) for events in oracle.delivered.values() for event in events)
        assert again - Counter([(-1, 0, 0, 0), (-1, 0, 0, 1)]) == arrived
        with DeadLetters(directory / "events.db") as letters:
            assert not list(letters)
