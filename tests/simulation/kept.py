"""What the oracle knows of a backlog: what is on the disk, under which id, and what may not be missing there.

Like the other books these are made of what was said to the disk and by it, and share nothing with the keeper's.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from atom_sansio import KeptBatch, Level, LossReason, Records, Recovered, ReportLoss, UpdateBacklog

from .complaint import Violation, must
from .shapes import FIRST

if TYPE_CHECKING:
    from .oracle import Oracle

PERMANENT = (LossReason.REJECTED, LossReason.REDIRECTED, LossReason.TOO_LARGE, LossReason.EXPIRED)

Place = tuple[int, bytes, bytes]
"""Generation, fingerprint and stream, as records have them."""


def texts(lines: bytes) -> list[str]:
    """The events of *lines* as a collector stores them."""
    text = lines.decode()
    found = text.split("\n")
    found.pop()
    if text[:1] != '"' and '\n"' not in text:
        return found
    values = json.loads(f"[{','.join(found)}]")  # in one call: it is most of what a backlog costs here
    return [value if type(value) is str else line for value, line in zip(values, found, strict=True)]


@dataclass(slots=True)
class Kept:
    """The books of one disk, over all programs that have it."""

    oracle: Oracle
    letters: Callable[[], Iterable[bytes]]
    """Gives the events of all dead letters on the disk."""
    level: Level
    batches: dict[str, list[int]] = field(default_factory=dict)
    """All that were ever on the disk."""
    on_disk: dict[int, str] = field(default_factory=dict)
    """The batch that an event is kept in now."""
    ids: dict[str, KeptBatch] = field(default_factory=dict)
    """Batches that are kept now."""
    records: dict[Place, list[int]] = field(default_factory=dict)
    """Events by the number of their record, less one."""
    sealed: dict[Place, int] = field(default_factory=dict)
    recorded: set[int] = field(default_factory=set)
    """Events whose record was written as the level says, before track() returned; or whose record a program found."""
    untold: set[int] = field(default_factory=set)
    """Those of the second kind: track() has never returned, so nobody has synced their records."""
    buried: set[int] = field(default_factory=set)
    """Events of dead letters."""
    unburied: set[int] = field(default_factory=set)
    """Events that are lost for good and of which there is no dead letter yet."""
    excused: set[int] = field(default_factory=set)
    """Events that may be stored twice: they were sent though not kept, or the power was lost."""
    # Of the program that runs now:
    limbo: dict[int, bool] = field(default_factory=dict)
    """Events whose record is not written; whether somebody waits for that."""
    restored: dict[str, list[int]] = field(default_factory=dict)
    """Batches that were on the disk when it began."""
    unsent: dict[str, None] = field(default_factory=dict)
    """Batches that are on the disk and were neither loaded nor sent yet, the oldest first; and some lost already."""
    home: set[int] = field(default_factory=set)
    """Their events."""
    keys: dict[int, str | None] = field(default_factory=dict)
    """Fingerprint of the key of each event that was on the disk when it began."""
    failing: bool = False
    unreadable: deque[list[int]] = field(default_factory=deque)
    """Events of batches that the program was told it cannot read, and that it has not reported yet."""
    ended: bool = False
    """Whether it ended in order."""

    # -- a program begins ---------------------------------------------------------------------------------

    def begin(
        self, found: Recovered, lines_of: Callable[[str], bytes], reports: Iterable[ReportLoss], *, power: bool
    ) -> list[int]:
        """A program finds *found*; the last one had not told yet of *reports*.  Give what is pending now."""
        oracle = self.oracle
        self.restored, self.keys, self.unsent = {}, {}, {}
        before, self.on_disk, self.ids = self.on_disk, {}, {}
        for books in (self.records, self.sealed):  # what nothing is left of is begun again
            rolled_back = power and self.level is not Level.DISK
            for place in [place for place in books if place[0] > found.generation or rolled_back]:
                del books[place]
        count = 0
        for kept in found.batches:
            numbers = self._of(kept, lines_of(kept.batch_id))
            count += len(numbers)
            self.restored[kept.batch_id] = numbers
            self.unsent[kept.batch_id] = None
            self.ids[kept.batch_id] = kept
            self.on_disk.update(dict.fromkeys(numbers, kept.batch_id))
            self.keys.update(dict.fromkeys(numbers, kept.fingerprint))
        must(len(self.on_disk) == count, "I3: an event is kept in two batches")
        self.home = set(self.on_disk)
        recorded: list[int] = []
        for records in found.records:
            numbers = oracle.numbers(texts(records.lines))
            recorded += numbers
            self.keys.update(dict.fromkeys(numbers, records.fingerprint))
            streams = {oracle.classes[oracle.class_of[number - FIRST]][0] for number in numbers}
            must(streams == {records.stream}, "I5: a record is of another stream")
        count += len(recorded)
        pending = {*self.home, *recorded}
        must(len(pending) == count, "I3: an event is restored twice")
        self._nothing_missing(pending, before, reports, power=power)
        if power and self.level is not Level.DISK:
            self.excused |= pending
        twice = oracle.rooted.intersection(recorded)
        must(twice <= self.excused, "I3: an event was sent, and comes back under no id")
        oracle.rooted -= twice
        # What was written and not told may count too; it is promised from now on, unless the power is lost.
        self.untold = {*(self.untold & pending), *(number for number in recorded if number not in self.recorded)}
        self.recorded = {*(self.recorded & pending), *recorded}
        self.unburied -= pending
        self.limbo = {}
        self.failing = self.ended = False
        self.unreadable.clear()
        return list(pending)

    def _nothing_missing(
        self, found: set[int], on_disk: dict[int, str], reports: Iterable[ReportLoss], *, power: bool
    ) -> None:
        oracle = self.oracle
        if power and self.level is not Level.DISK:
            self.unburied.clear()
            return
        if self.ended:
            missing = oracle.pending - found
            unnamed = self._lost_unreported(missing, reports)  # what has interrupted the very end
            must(len(missing) <= unnamed, "I2: the program ended in order, and something is lost")
            # Where the disk did not take the last update, these are reported, and there is no more to be had.
            must(self.failing or self.unburied <= found, "I2: lost for good, and no dead letter")
            self.unburied.clear()
            return
        promised = self.recorded - self.untold if power else self.recorded
        missing = {n for n in (oracle.pending | self.unburied) - found if n in promised or n in on_disk}
        if not missing:
            self.unburied.clear()
            return
        unnamed = self._lost_unreported(missing, reports)
        self.unburied.clear()
        must(len(missing) <= unnamed, f"I2: {len(missing)} events are lost that were kept")

    def _lost_unreported(self, missing: set[int], reports: Iterable[ReportLoss]) -> int:
        """Take off *missing* what is lost and was not told yet; give how many more may be that have no name."""
        missing -= self.buried
        if missing:
            for lines in self.letters():
                missing.difference_update(self.oracle.numbers(texts(lines)))
        unnamed = 0
        for report in reports:
            loss = report.loss
            if not loss.lines:
                unnamed += loss.count
            elif loss.reason not in PERMANENT:
                missing.difference_update(self.oracle.numbers(texts(loss.lines)))
        return unnamed

    def _of(self, kept: KeptBatch, lines: bytes) -> list[int]:
        numbers = self.oracle.numbers(texts(lines))
        must((kept.events, kept.size) == (len(numbers), len(lines)), "I1: a batch does not hold what it says")
        known = self.batches.setdefault(kept.batch_id, numbers)
        must(numbers == known, "I3: a batch is kept with other events under the same id")
        return known

    # -- what is written ----------------------------------------------------------------------------------

    def records_taken(self, records: Records) -> list[tuple[Place, int, int]]:
        """What is about to be written: the place, the index and the event of each record."""
        found = []
        expected = self.oracle.expected
        *lines, rest = records.data.split(b"\n")
        must(not rest, "I9: a record without an end")
        for record in lines:
            _, index, fingerprint, stream, line = record.split(b" ", 4)
            text = json.loads(line) if line[:1] == b'"' else line.decode()
            number = expected.get(text)
            must(number is not None, "I5: a record of what was not tracked")
            assert number is not None
            must(number in self.limbo, "I9: a record of what is accepted already, or was refused")
            found.append(((records.generation, fingerprint, stream), int(index), number))
        return found

    def records_written(self, written: list[tuple[Place, int, int]]) -> None:
        """They are written; nobody has been told yet."""
        for place, index, number in written:
            of_place = self.records.setdefault(place, [])
            must(index > len(of_place), "I9: the number of a record is used twice")
            of_place.extend([0] * (index - 1 - len(of_place)))  # of what is in memory alone
            of_place.append(number)
            self.recorded.add(number)
            self.limbo.pop(number)

    def updated(self, update: UpdateBacklog, reports: Callable[[], Iterable[ReportLoss]]) -> None:
        """An update was made, or is told to have failed though it was."""
        oracle, on_disk = self.oracle, self.on_disk
        dropped = set(update.drop)
        gone: list[int] = []
        for kept, lines in update.put:
            numbers = self._of(kept, lines)
            if kept.batch_id not in oracle.batches:
                self.unsent[kept.batch_id] = None
            for number in numbers:
                other = on_disk.get(number, kept.batch_id)
                must(other == kept.batch_id or other in dropped, "I3: an event is kept under two ids")
                on_disk[number] = kept.batch_id
            self.ids[kept.batch_id] = kept
        for batch_id in update.drop:
            if self.ids.pop(batch_id, None) is not None:
                for number in self.batches[batch_id]:
                    if on_disk.get(number) == batch_id:
                        del on_disk[number]
                        gone.append(number)
        for letter in update.dead:
            must(letter.loss.reason in PERMANENT, "I9: a dead letter of what may come again")
            must(letter.loss.lines, "I9: a dead letter without its events")
            numbers = oracle.numbers(texts(letter.loss.lines))
            must(len(numbers) == letter.loss.count, "I9: a dead letter without all its events")
            self.buried.update(numbers)
            self.unburied.difference_update(numbers)
        for mark in update.marks:
            place = mark.generation, (mark.fingerprint or "-").encode(), _quoted(mark.stream)
            before = self.sealed.get(place, 0)
            must(mark.index >= before, "I9: a mark goes back")
            self.sealed[place] = mark.index
            gone += self.records.get(place, [])[before : mark.index]
        if update.forget_before:
            for place in [place for place in self.records if place[0] < update.forget_before]:
                gone += self.records.pop(place)[self.sealed.pop(place, 0) :]
        missing = {number for number in gone if number in oracle.pending and number not in on_disk}
        if missing:
            unnamed = self._lost_unreported(missing, reports())
            must(len(missing) <= unnamed, "I9: forgotten on the disk, and neither settled nor kept otherwise")

    # -- what is sent and settled ---------------------------------------------------------------------------

    def sent(self, batch_id: str, numbers: list[int]) -> None:
        """A batch is about to be sent."""
        self.unsent.pop(batch_id, None)
        if batch_id not in self.ids:
            must(self.failing, "I9: a batch is sent that is not kept")
            self.excused.update(numbers)

    def lost(self, numbers: list[int], reason: LossReason) -> None:
        """A loss is reported."""
        for number in numbers:
            if self.limbo.pop(number, None) is not None:  # accepted and lost in one
                self.oracle.accepted += 1
                self.oracle.pending.add(number)
        if reason in PERMANENT:
            self.unburied.update(n for n in numbers if n not in self.buried)

    def unnamed(self, stream: str, count: int, in_lanes: set[str]) -> list[int]:
        """Which batch it was that is lost and whose events were on the disk alone."""
        pending = self.oracle.pending
        for batch_id in self.unsent:
            numbers = self.batches[batch_id]
            if (
                len(numbers) == count
                and batch_id not in in_lanes
                and pending.issuperset(numbers)
                and self.oracle.classes[self.oracle.class_of[numbers[0] - FIRST]][0] == stream
            ):
                del self.unsent[batch_id]
                return numbers
        raise Violation("I1: a loss of events that there are not")


def _quoted(stream: str) -> bytes:
    return quote(stream, safe="").encode()
