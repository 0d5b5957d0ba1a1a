"""A backlog in memory whose disk fails and is slow as a test says."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from atom_sansio import DeadLetter, KeptBatch, Level, Mark, Records, Recovered, UpdateBacklog
from atom_sansio._records import read_records


@dataclass
class Disk:
    """What outlives a tracker, and how the disk behaves.  It is a ``backlog`` to give to a tracker."""

    level: Level | str = Level.PROCESS
    fails: Callable[[str], str | None] = lambda method: None
    """What ``append``, ``update`` and ``load`` fail with, or None."""
    takes: Callable[[str], float] = lambda method: 0.0
    """How many seconds they take."""
    sleep: Callable[[float], None] = lambda seconds: None
    """How threads wait."""
    batches: dict[str, tuple[KeptBatch, bytes]] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    marks: dict[tuple[int, str, str | None], Mark] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    """Methods that were called, in their order."""
    opened: list[Opened] = field(default_factory=list)

    def open(self) -> Opened:
        self.opened.append(Opened(self))
        return self.opened[-1]

    def events(self) -> list[Any]:
        """What is kept and would be sent by the next tracker."""
        records, damaged = read_records(self.files.items(), self.marks.values())
        assert not damaged
        batches = sorted(self.batches.values(), key=lambda each: (each[0].place, each[0].part))
        lines = b"".join([lines for _, lines in batches] + [kept.lines for kept in records])
        return [json.loads(line) for line in lines.splitlines()]

    @property
    def closed(self) -> bool:
        """Whether all that was opened was closed, once."""
        return all(each.closed == 1 for each in self.opened)


class Opened:
    """What a tracker has of a :class:`Disk`.  Notices what no backlog would bear."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.level = Level(disk.level)
        self.closed = 0
        self.left = False
        self._busy: dict[str, bool] = {}

    def recover(self) -> Recovered:
        disk = self._disk
        records, damaged = read_records(disk.files.items(), disk.marks.values())
        assert not damaged
        batches = sorted((kept for kept, _ in disk.batches.values()), key=lambda kept: (kept.place, kept.part))
        generations = [*disk.files, *(place[0] for place in disk.marks)]
        return Recovered(batches=tuple(batches), records=tuple(records), generation=max(generations, default=0))

    def append(self, records: Records) -> None:
        def work() -> None:
            self._disk.files[records.generation] = self._disk.files.get(records.generation, b"") + records.data

        self._do("append", work)

    def update(self, update: UpdateBacklog) -> None:
        def work() -> None:
            disk = self._disk
            for kept, lines in update.put:
                assert (len(lines), lines.count(b"\n")) == (kept.size, kept.events)
                disk.batches[kept.batch_id] = kept, lines
            for batch_id in update.drop:
                disk.batches.pop(batch_id, None)
            disk.dead += update.dead
            for mark in update.marks:
                disk.marks[mark.generation, mark.stream, mark.fingerprint] = mark
            if update.forget_before:
                disk.files = {n: data for n, data in disk.files.items() if n >= update.forget_before}
                disk.marks = {place: mark for place, mark in disk.marks.items() if place[0] >= update.forget_before}

        self._do("update", work)

    def load(self, batch_id: str) -> bytes:
        self._do("load", lambda: None)
        return self._disk.batches[batch_id][1]

    def close(self) -> None:
        assert not any(self._busy.values()), f"closed in the middle of {self._busy}"
        self.closed += 1

    def said(self) -> tuple[str, ...]:
        """What the user is to be told."""
        return ()

    def leave_to_parent(self) -> None:
        self.left = True

    def delay(self, method: str) -> float:
        """For who waits in another way than a thread does."""
        return self._disk.takes(method)

    def _do(self, method: str, work: Callable[[], None]) -> None:
        assert not self.closed, f"{method} after close"
        assert not self._busy.get(method), f"two calls of {method} at once"
        self._busy[method] = True
        try:
            self._disk.calls.append(method)
            seconds = self._disk.takes(method)
            if seconds:
                self._disk.sleep(seconds)
            if trouble := self._disk.fails(method):
                error = OSError(trouble)
                error.errno = errno.ENOSPC
                raise error
            work()
        finally:
            self._busy[method] = False


async def without_threads(
    call: Callable[..., Any], *args: Any, limiter: Any = None, abandon_on_cancel: Any = None
) -> Any:
    """What ``anyio.to_thread.run_sync`` does, on virtual time, which does not wait for real threads."""
    method = getattr(call, "call", call)
    opened = getattr(method, "__self__", None)
    if isinstance(opened, Opened):
        opened._busy[method.__name__] = True
        try:
            with anyio.CancelScope(shield=not abandon_on_cancel):
                await anyio.sleep(opened.delay(method.__name__))
        finally:
            opened._busy[method.__name__] = False
    else:
        await anyio.lowlevel.checkpoint()
    return call(*args)


def sluggish(seconds: float) -> None:
    """A disk's delay in real time: what blocks a loop for so long is noticed, and so is what does not."""
    threading.Event().wait(seconds)
