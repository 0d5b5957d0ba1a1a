"""The driver's half of a backlog without its threads: who writes records, and who does the rest beside it.

It is ``atom_sync._keeping``: whoever tracks writes, for all who wait; a worker does updates and loads, one at a time,
when it was told to look, when it was told a time that is over, and after each that it has done; and it writes the
records of calls that did not wait for them.  A call may be left by an exception while it writes, as Ctrl-C does it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from atom_sansio import (
    AuthKey,
    BacklogCommand,
    BatchUnreadable,
    Level,
    LoadBatch,
    OnFull,
    Record,
    Records,
    RecordState,
    TrackerState,
    UpdateBacklog,
)

from .complaint import must
from .disk import Disk
from .kept import Kept, Place

if TYPE_CHECKING:
    from .world import World


class Keeping:
    """What the program that runs now has to do with its backlog."""

    def __init__(self, world: World, disk: Disk, kept: Kept, level: Level) -> None:
        self._world = world
        self._core = world.core
        self._disk = disk
        self._kept = kept
        self._generation = world.generation
        self.records = level is not Level.MEMORY
        self.failed_at: float | None = None  # when records were not written, if none were since
        self.writing: Records | None = None
        self._written: list[tuple[Place, int, int]] = []
        self.working: BacklogCommand | None = None
        self._writer: tuple[int, Record] | None = None  # the call that writes, unless it is the worker
        self.waiting: list[tuple[int, Record]] = []
        """Calls of ``track`` that have not returned."""
        self._troubled: set[int] = set()  # of these, those that know that the disk does not take them
        self._next_work: float | None = None
        self._next_write: float | None = None
        self.finishing = False
        self.finished = False

    @property
    def updating(self) -> UpdateBacklog | None:
        """The update that is under way."""
        return self.working if isinstance(self.working, UpdateBacklog) else None

    @property
    def busy(self) -> bool:
        """Whether something is under way or waits to be done."""
        return bool(self.writing or self.working or self.waiting or self._kept.limbo)

    def _delay(self) -> float:
        world = self._world
        if self._disk.slow:
            return world.timing.expovariate(1.0)
        return world.timing.random() * 2e-3

    # -- records ------------------------------------------------------------------------------------------

    def put(self, stream: str, line: bytes, key: AuthKey | None, number: int) -> None:
        """Take an event in and have it written, by this call or another.  Raises what the core raises."""
        core, world, kept = self._core, self._world, self._kept
        interrupts = world.locked
        if key is None and world.plan.quick and self.writing is None and not interrupts:
            record, records = world.call(partial(core.admit_quickly, stream, line, now=world.now))
            if record is not None:
                record.waits = True
                kept.limbo[number] = True
                self.waiting.append((number, record))
                self._write(records, (number, record))
                return
        set_aside = core.busy
        kept.limbo[number] = waits = not (set_aside or interrupts or world.nowait)
        try:
            with world.lock():
                record = core.admit(stream, line, key, now=world.now, waits=waits)
        except BaseException:
            del kept.limbo[number]
            raise
        if record is None:
            if not set_aside and kept.limbo.pop(number, None) is not None:  # dropped, and not told yet
                self._accepted(number)
            world.program.woken = True
        elif waits:
            self.waiting.append((number, record))
            if world.plan.quick:
                self.write()
        else:
            world.program.woken = True

    def write(self) -> None:
        """Be the writer, if somebody waits and nobody writes."""
        core, world = self._core, self._world
        while self.writing is None and self.waiting:
            records = world.call(partial(core.next_records, now=world.now))
            if records is None:
                return
            self._write(records, self.waiting[0])

    def _write(self, records: Records, writer: tuple[int, Record]) -> None:
        world = self._world
        self._begin_write(records)
        self._writer = writer
        if self._disk.slow or world.timing.random() < world.plan.slow_writes:
            world.at(world.now + self._delay(), self._end_write, self._generation)
        else:
            self._end_write(self._generation)

    def _begin_write(self, records: Records) -> None:
        self.writing = records
        self._written = self._kept.records_taken(records)
        taken = {number for _, _, number in self._written}
        for number, record in self.waiting:
            must(number not in taken or record.state is not RecordState.ACCEPTED, "I9: accepted before it is written")

    def _end_write(self, generation: int) -> None:
        world, core, records = self._world, self._core, self.writing
        if generation != world.generation or records is None:
            return
        writer = self._writer
        if writer is not None and world.interrupts():
            if world.timing.random() < 0.3:
                self._leave(*writer)
                return
            world.interrupt_writer()
        self.writing = self._writer = None
        taken, self._written = self._written, []
        try:
            self._disk.append(records)
        except OSError as error:
            world.note("not written", len(taken), error.errno)
            trouble = str(error)
            self.failed_at = world.now
            closed = core.state is TrackerState.CLOSED
            world.call(partial(core.records_refused, trouble, now=world.now))
            if world.plan.options["on_full"] is OnFull.RAISE and not closed:
                for _, _, number in taken:
                    if self._kept.limbo.get(number) is False:  # accepted, and in memory alone
                        del self._kept.limbo[number]
                        self._accepted(number)
            world.program.woken = True
        else:
            self.failed_at = None
            world.note("written", records.generation, len(records.data), len(taken))
            self._kept.records_written(taken)
            numbers = [number for _, _, number in taken]
            world.oracle.pending.update(numbers)
            world.oracle.accepted += len(numbers)
            if world.call(partial(core.records_written, now=world.now)):
                world.program.woken = True
            if writer is not None and writer[0] in numbers and world.interrupts():  # it is left just after that
                with world.lock():
                    core.records_put_off()
                    must(not core.take_back(writer[1]), "I9: taken back, though it is written")
        self._wrote()

    def _leave(self, number: int, record: Record) -> None:
        """The call that writes is left by an exception; what it began to write is not on the disk."""
        world, core, kept = self._world, self._core, self._kept
        world.note("left", number)
        self.writing = self._writer = None
        self._written = []
        world.call(core.records_put_off)
        must(world.call(partial(core.take_back, record)), "I9: not taken back, though it is not written")
        del kept.limbo[number]
        self.waiting.remove((number, record))
        world.program.woken = True
        self._wrote()
        world.retry_blocked()

    def _wrote(self) -> None:
        self._world.oracle.key_to_come.clear()
        self._settle()
        self.look()
        if self.finishing:
            self._work_by(self._world.now)
        else:
            self.write()  # what came while this was written

    def _accepted(self, number: int) -> None:
        self._world.oracle.accepted += 1
        self._world.oracle.pending.add(number)

    def _settle(self) -> None:
        """Let calls return that may."""
        world, kept = self._world, self._kept
        left = []
        for number, record in self.waiting:
            state = record.state
            if state is RecordState.ACCEPTED:
                if number in kept.recorded:
                    continue
                must(number in kept.limbo, "I9: accepted, and neither written nor dropped")
                dropping = world.plan.options["on_full"] in (OnFull.DROP_NEWEST, OnFull.DROP_OLDEST)
                must(dropping, "I9: accepted, and not written")
                del kept.limbo[number]
                self._accepted(number)  # its loss is told next
            elif state is RecordState.REFUSED:
                must(record.trouble, "I9: refused without a reason")
                del kept.limbo[number]
            else:
                left.append((number, record))
                if record.trouble and number not in self._troubled:
                    self._troubled.add(number)
                    if world.timing.random() < 0.3:  # its time will be over
                        world.at(world.now + world.timing.expovariate(0.5), self._late, self._generation, record)
        self.waiting = left

    def _late(self, generation: int, record: Record) -> None:
        if generation != self._world.generation or record.state is not RecordState.QUEUED:
            return
        core = self._core
        if self._world.call(partial(core.record_late, record, now=self._world.now)):
            self._world.note("taken back")
            self._settle()
            self._world.retry_blocked()

    # -- the rest -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Have done what the core asks for now: by who waits for a record, and by the worker, unless it is at work."""
        core, world = self._core, self._world
        before, world.locked = world.locked, True
        retry = core.next_backlog_deadline() if self.waiting and self.writing is None else None
        idle = self.working is None and not self.finished
        deadline = core.next_backlog_deadline(records=self._unheard) if idle else None
        world.locked = before
        if retry is not None:
            self._write_by(max(world.now, retry))
        if deadline is not None:
            self._work_by(max(world.now, deadline))

    @property
    def _unheard(self) -> bool:
        """Whether there are records that nobody waits for, who would write them."""
        return self._core.last_record is not None

    def _write_by(self, when: float) -> None:
        if self._next_write != when:
            self._next_write = when
            self._world.at(when, self._write_again, self._generation)

    def _write_again(self, generation: int) -> None:
        if generation == self._world.generation:
            self._next_write = None
            self.write()

    def _work_by(self, when: float) -> None:
        if self._next_work is None or when < self._next_work:
            self._next_work = when
            self._world.at(when, self._work, self._generation, when)

    def _work(self, generation: int, when: float) -> None:
        world, core = self._world, self._core
        if generation != world.generation or when != self._next_work:
            return
        self._next_work = None
        if self.working is not None:
            return
        command = world.call(partial(core.next_backlog_command, now=world.now, records=self._unheard))
        if isinstance(command, Records):
            self._begin_write(command)
            world.at(world.now + self._delay(), self._end_write, self._generation)
        elif command is not None:
            self.working = command
            delay = self._delay()
            world.at(world.now + delay, self._end_work, self._generation)
            if isinstance(command, UpdateBacklog) and command.put:
                world.rotate_meanwhile(command.put[-1][0].stream, world.now + delay / 2)
        elif self.finishing:
            self.write()
            if self.writing is None and self.working is None and core.next_backlog_deadline() is None:
                self.finished = True
                world.finish()
        else:
            self.look()

    def _end_work(self, generation: int) -> None:
        world, core, kept = self._world, self._core, self._kept
        if generation != world.generation:
            return
        command, self.working = self.working, None
        if isinstance(command, UpdateBacklog):
            self._update(command)
        else:
            assert isinstance(command, LoadBatch)
            batch_id = command.batch_id
            if batch_id in core._delivery._at_backlog:
                must(batch_id in kept.ids, "I9: a batch is to be loaded that is not kept")
            try:
                lines = self._disk.load(batch_id) if batch_id in kept.ids else b""
            except OSError:
                world.note("not loaded", batch_id)
                if (lane := core._delivery._at_backlog.get(batch_id)) is not None:
                    world.oracle.not_loaded(lane, world.now)
                world.call(partial(core.batch_not_loaded, batch_id, now=world.now))
            except BatchUnreadable as error:
                world.note("unreadable", batch_id)
                trouble = str(error)
                if batch_id in core._delivery._at_backlog:
                    kept.unreadable.append(kept.batches[batch_id])
                    kept.unsent.pop(batch_id, None)
                    world.oracle.over.add(batch_id)
                world.call(partial(core.batch_unreadable, batch_id, trouble, now=world.now))
            else:
                world.note("loaded", batch_id)
                if batch_id in core._delivery._at_backlog:
                    kept.unsent.pop(batch_id, None)
                world.call(partial(core.batch_loaded, batch_id, lines))
        world.program.woken = True
        world.retry_blocked()  # there is room after a damaged batch
        if self.finishing:
            self._work_by(world.now)
        self.look()

    def _update(self, update: UpdateBacklog) -> None:
        world, core, kept = self._world, self._core, self._kept
        words = len(update.put), ",".join(update.drop), len(update.dead), len(update.marks), update.forget_before
        trouble = None
        try:
            self._disk.update(update)
        except OSError as error:
            trouble = str(error)
        if trouble is None or self._disk.made:
            kept.updated(update, lambda: core._losses.reports)
        if trouble is None:
            world.note("updated", *words)
            kept.failing = False
            world.call(core.backlog_updated)
        else:
            world.note("not updated", *words, self._disk.made)
            kept.failing = True
            world.call(partial(core.backlog_failed, trouble, now=world.now))

    def finish(self) -> None:
        """The core is closed: do all that is left."""
        self.finishing = True
        self._work_by(self._world.now)
