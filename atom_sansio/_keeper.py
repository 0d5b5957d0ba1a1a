"""What a backlog is to be told, in which order, and what it has been told.

The rules:

- A batch is kept before it is sent, so that it has its id for ever.
- All that is to be put goes through one queue and is put in its order, so a mark never says that records count no more
  whose events are neither kept nor settled.
- A batch that was split is dropped in the update that puts what it became, so a crash leaves one or the other.
- One update is under way at a time; what comes meanwhile makes up the next.
- A small update costs about the same whatever is in it.  So small batches are kept several at a time, and dropped so.
- Events that do not fit into memory are let go once they are kept, and loaded when their turn comes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Final

from ._kept import DeadLetter, KeptBatch, Level, Mark, UpdateBacklog
from ._lane import Batch, Lane
from ._records import Address
from ._state import LaneState

WINDOW: Final = 32 * 1024 * 1024
"""Bytes of pending events that are held in memory beside a backlog; the rest is on the disk alone."""

_CROWDED: Final = 2
"""Windows of them after which memory is crowded, and what many lanes hold little of each is to be kept."""

MEMORY: Final = 3 * WINDOW
"""Bytes of them that may be in memory at most, where the disk takes them more slowly than they come, or not at all."""

_CHUNK: Final = 4 * 1024 * 1024
"""Bytes of events that one update puts at most, or it would take too long."""

PAUSE: Final = 1.0
"""Seconds after a failure until the backlog is tried again."""

_SLACK: Final = 1024
"""Entries that the queue may hold, beyond twice those that count, before it is pruned."""

GENERATION_SIZE: Final = 32 * 1024 * 1024
"""Bytes of records after which a new generation begins.  What still counts of the old one is kept in batches then, so
that it can be deleted; the more there is room for, the fewer of these are smaller than they would have been."""


@dataclass(slots=True)
class _Entry:
    """Something to be put: a batch, the end of some records, or both; or the end of a generation."""

    lane: Lane | None
    batch: Batch | None = field(repr=False)
    kept: KeptBatch | None = None
    mark: Mark | None = None
    forget_before: int = 0
    joined: bool = False
    """Whether the next one must be in the same update."""
    drop: str = ""
    """The batch that is to be dropped with this, which was split off it."""
    restored: tuple[Mark, ...] = ()
    """Marks of earlier generations."""
    restored_size: int = 0
    """Bytes of the events that their records held."""

    @property
    def to_put(self) -> bool:
        """Whether the batch is still to be kept."""
        return self.batch is not None and self.batch.lines is not None


class Keeper:
    """Decides what goes to the backlog.

    Args:
        level: whether there are records.
        window: bytes of pending events to be held in memory.
        memory: bytes of them that may be there at most; more than the largest event has.
    """

    def __init__(self, level: Level, *, window: int = WINDOW, memory: int = MEMORY) -> None:
        self.records = level is not Level.MEMORY
        """Whether each event has a record."""
        self.window = window
        self.crowded = min(_CROWDED * window, memory)
        """Bytes of them in memory beyond which also what is in lanes that are not full is to be kept."""
        self.memory = memory
        self.away = 0
        """Bytes of pending events that are not in memory."""
        self.restored = 0
        """Bytes of events of earlier records that are not put yet, which may be in memory beyond what has room."""
        self.failing = False
        """Whether the last update failed."""
        self._queue: deque[_Entry] = deque()
        self._drop: list[str] = []
        self._drop_by: float  # when these are to be dropped at the latest
        self._dead: list[DeadLetter] = []
        self._under_way: tuple[list[_Entry], UpdateBacklog] | None = None
        self._retry_at: float | None = None
        self._place = 0
        self._prune_at = _SLACK
        self.generation = 1
        self._written = 0  # bytes of records in this generation
        self._appended: dict[Address, int] = {}  # records that were given a number in this generation
        self._sealed: dict[Address, int] = {}  # of these, those that are in batches or settled

    # -- batches --------------------------------------------------------------------------------------

    def next_place(self) -> int:
        """The place of a new batch, after all others."""
        self._place += 1
        return self._place

    def put(self, lane: Lane, batch: Batch) -> None:
        """Have *batch*, whose events are the next of *lane* that wait, or were in another batch, kept."""
        batch.asked = True
        kept = KeptBatch(
            batch_id=batch.batch_id,
            place=batch.place,
            part=batch.part,
            stream=lane.stream,
            fingerprint=lane.fingerprint,
            events=batch.events,
            size=batch.size,
        )
        self._queue.append(_Entry(lane, batch, kept, self._mark(lane.address)))

    def seal(self, lane: Lane, events: int) -> None:
        """The next *events* of *lane* that wait are in a batch now, or settled."""
        if self.records:
            self._sealed[lane.address] = self._sealed.get(lane.address, 0) + events

    def settled(self, lane: Lane, batch: Batch, *, drop_by: float = -inf) -> None:
        """*batch* has its outcome.  If it is kept, it is to be dropped, which may wait for others until *drop_by*."""
        batch.settled = True
        if batch.kept:
            if batch.lines is None:
                self.away -= batch.size
            batch.lines = None  # whoever still knows of it needs it no more
            self._have_dropped(batch, drop_by)
        elif batch.asked:
            batch.lines = None  # what is left of it in the queue is its mark
            if batch.doubtful:
                self._have_dropped(batch)
        elif mark := self._mark(lane.address):
            self._queue.append(_Entry(lane, None, mark=mark))
        if self.failing and len(self._queue) >= self._prune_at:
            self._prune()

    def _have_dropped(self, batch: Batch, by: float = -inf) -> None:
        self._drop_by = min(self._drop_by, by) if self._drop else by
        self._drop.append(batch.batch_id)

    def split(self, lane: Lane, batch: Batch, halves: tuple[Batch, ...]) -> None:
        """*batch* is replaced by *halves*: neither is dropped nor the other put alone."""
        batch.settled = True
        for half in halves:
            half.spilled = True
            self.put(lane, half)
            self._queue[-1].joined = half is not halves[-1]
        self._queue[-1].drop = batch.batch_id  # what is not there is dropped without harm
        batch.lines = None  # the halves have them; whoever still knows of it needs it no more
        if batch.kept:
            return
        under_way = self._under_way[0] if self._under_way is not None else []
        behind = False
        for entry in (*under_way, *self._queue):
            behind = behind or entry.batch is batch
            if behind and entry.batch is not halves[-1]:
                entry.joined = True  # its mark covers the events that are in the halves now, which come last

    def bury(self, letter: DeadLetter) -> None:
        """Have *letter* kept for good."""
        self._dead.append(letter)

    def let_go(self, batch: Batch, resident: float = inf) -> None:
        """Let the events of *batch* be on the disk alone, if it has them and *resident* bytes are too many."""
        if batch.kept and batch.lines is not None and resident > self.window:
            batch.lines = None
            self.away += batch.size

    def loaded(self, batch: Batch, lines: bytes) -> None:
        """The events of *batch* are in memory again."""
        batch.lines = lines
        self.away -= batch.size

    def restore(self, kept: KeptBatch) -> Batch:
        """A batch that the backlog has kept since before this tracker began."""
        self._place = max(self._place, kept.place)
        self.away += kept.size
        return Batch(
            kept.batch_id,
            None,
            kept.events,
            kept.size,
            place=kept.place,
            part=kept.part,
            asked=True,
            kept=True,
        )

    def put_restored(self, lane: Lane, batches: list[Batch], marks: tuple[Mark, ...]) -> None:
        """Have *batches*, which hold the events of all the records up to *marks*, kept, all or none."""
        for batch in batches:
            self.put(lane, batch)
            self._queue[-1].mark = None
            self._queue[-1].joined = batch is not batches[-1]
        last = self._queue[-1]
        last.restored = marks
        last.restored_size = sum(batch.size for batch in batches)
        self.restored += last.restored_size

    # -- records --------------------------------------------------------------------------------------

    def last_number(self, address: Address) -> int:
        """That of the last record of *address*; 0 if there is none in this generation."""
        return self._appended.get(address, 0)

    def give_numbers(self, numbers: dict[Address, int]) -> None:
        """Records up to these numbers are written."""
        self._appended.update(numbers)

    def written(self, size: int) -> bool:
        """*size* bytes of records were written; return whether it is time for another generation."""
        self._written += size
        return self._written >= GENERATION_SIZE

    def begin_generation(self) -> None:
        """All that counted in this generation has been put; from now on records go to another."""
        self.generation += 1
        self._written = 0
        self._appended.clear()
        self._sealed.clear()
        self._queue.append(_Entry(None, None, forget_before=self.generation))

    def _prune(self) -> None:
        """Forget marks that later ones replace: they may pile up while the backlog cannot be written."""
        last = {_place(e.mark): e for e in self._queue if e.mark is not None}
        latest = set(map(id, last.values()))
        self._queue = deque(
            e for e in self._queue if e.to_put or e.drop or e.forget_before or e.restored or id(e) in latest
        )
        self._prune_at = 2 * len(self._queue) + _SLACK

    def _mark(self, address: Address) -> Mark | None:
        if not self.records:
            return None
        index = self._sealed.get(address, 0)
        return Mark(generation=self.generation, stream=address[0], fingerprint=address[1], index=index)

    def begin_after(self, generation: int) -> None:
        """All that was found of the generations up to *generation* has been put; begin another."""
        if generation:
            self.generation = generation
            self.begin_generation()

    # -- updates --------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether the backlog knows all that it should."""
        return not (self.putting or self._drop or self._dead)

    @property
    def putting(self) -> bool:
        """Whether something is to be put, or an update is under way."""
        return bool(self._queue or self._under_way)

    def deadline(self) -> float | None:
        """When :meth:`update` has something to give, minus infinity for now, None for not before it is told more."""
        if self._under_way is not None or not (self._queue or self._drop or self._dead):
            return None
        due = -inf if self._queue or self._dead else self._drop_by
        return due if self._retry_at is None else max(due, self._retry_at)

    def update(self, now: float) -> UpdateBacklog | None:
        """What the backlog is to do next, if anything."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return None
        entries: list[_Entry] = []
        size = 0
        while self._queue and (size < _CHUNK or entries[-1].joined):
            entry = self._queue.popleft()
            entries.append(entry)
            if entry.kept is not None and entry.to_put:
                size += entry.kept.size
        marks = {_place(mark): mark for e in entries for mark in (*e.restored, e.mark) if mark is not None}
        drop: list[str] = []
        dead: list[DeadLetter] = []
        if not self._queue:  # they can wait
            drop, self._drop = self._drop, drop
            dead, self._dead = self._dead, dead
        update = UpdateBacklog(
            put=tuple((e.kept, e.batch.lines) for e in entries if e.kept and e.batch and e.batch.lines is not None),
            drop=tuple(dict.fromkeys((*(e.drop for e in entries if e.drop), *drop))),
            dead=tuple(dead),
            marks=tuple(marks.values()),
            forget_before=max((e.forget_before for e in entries), default=0),
        )
        self._under_way = entries, update
        return update

    def updated(self, resident: int) -> None:
        """The update was made, while *resident* bytes of events are in memory."""
        assert self._under_way is not None
        entries, _ = self._under_way
        self._under_way = self._retry_at = None
        self.failing = False
        for entry in entries:
            self.restored -= entry.restored_size
            if (batch := entry.batch) is None:
                continue
            batch.kept = True
            if batch.settled:  # meanwhile, or before; to drop what is not there does no harm
                self._have_dropped(batch)
            elif resident > self.window and (batch.spilled or _at_rest(entry.lane)):
                batch.lines = None
                self.away += batch.size
                resident -= batch.size

    def failed(self, now: float) -> None:
        """The update was not made, or perhaps it was: it comes again after a pause."""
        assert self._under_way is not None
        entries, update = self._under_way
        self._under_way = None
        self.failing = True
        self._retry_at = now + PAUSE
        for entry in entries:
            if entry.batch is not None:
                entry.batch.doubtful = True
        self._queue.extendleft(reversed(entries))
        with_entries = {entry.drop for entry in entries}
        self._drop[:0] = [batch_id for batch_id in update.drop if batch_id not in with_entries]
        self._dead[:0] = update.dead

    def hurry(self) -> None:
        """Have all done at once."""
        self._retry_at = None
        self._drop_by = -inf

    def give_up(self, *, all_: bool) -> list[tuple[Lane, Batch]]:
        """Forget all that was to be told; give the batches that are not kept, if they should have been all."""
        left = [(e.lane, e.batch) for e in self._queue if e.lane is not None and e.batch is not None and e.to_put]
        self._queue.clear()
        self._drop.clear()
        self._dead.clear()
        return left if all_ else []


def _at_rest(lane: Lane | None) -> bool:
    """Whether the first batch of *lane* was sent, and waits for a pause or another key."""
    return lane is not None and lane.state in (LaneState.BACKING_OFF, LaneState.PARKED)


def _place(mark: Mark) -> tuple[int, str, str | None]:
    return mark.generation, mark.stream, mark.fingerprint
