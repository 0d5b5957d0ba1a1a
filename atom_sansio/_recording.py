"""Events whose records are to be written before they count as accepted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from ._flush import Flush, Receipt
from ._keeper import Keeper
from ._kept import Records
from ._lane import Lane
from ._ledger import Ledger
from ._records import Address, encode_record, record_head
from ._sign import AuthKey

if TYPE_CHECKING:
    from collections.abc import Callable

WELL: Final = 0.1
"""Seconds that a disk may be busy and well: for so long a record waits behind others, however short ``block_timeout``
is, since two calls at the same time are no trouble."""

BUSY: Final = 1.0
"""The same where ``on_full`` lets nobody wait for room: a slow disk is no reason to lose events, one that hangs is."""

TOO_LATE: Final = "the backlog has been busy with other records for too long"
"""What is said of one that has waited for longer than that, and than ``block_timeout``."""

_PAUSE: Final = 1.0
"""Seconds after a failure until writing is tried again."""

_CHUNK: Final = 1024 * 1024
"""Bytes of events that are written at once at most."""


class RecordState(Enum):
    """Where an event is on its way to being accepted."""

    QUEUED = "queued"
    WRITING = "writing"
    ACCEPTED = "accepted"
    REFUSED = "refused"


_QUEUED: Final = RecordState.QUEUED
_WRITING: Final = RecordState.WRITING
_REFUSED: Final = RecordState.REFUSED
"""To look up a member of an enumeration takes as long as a call does, and these are for each event."""


@dataclass(slots=True, eq=False)
class Record:
    """An event for which there is room, and whose record is not written yet."""

    stream: str
    line: bytes = field(repr=False)
    auth_key: AuthKey | None = field(repr=False)
    now: float
    lane: Lane
    """As it was when there was room for it."""
    waits: bool
    """Whether its ``track`` has not returned yet, so that it may still be refused."""
    receipt: Receipt | None = None
    flushes: tuple[Flush, ...] = ()
    """Those that were begun while the disk did not take it."""
    state: RecordState = RecordState.QUEUED
    trouble: str = ""
    """Why it could not be written when that was tried last."""

    @property
    def pending(self) -> bool:
        """Whether it is neither accepted nor refused yet."""
        return self.state is _QUEUED or self.state is _WRITING


class _Given(Records):
    """Records that are being written, and whose they are."""

    __slots__ = ("members", "numbers", "written")

    def __init__(self, generation: int, data: bytes, members: tuple[Record, ...], numbers: dict[Address, int]) -> None:
        self.generation = generation
        self.data = data
        self.appended = False
        self.members = members
        self.numbers = numbers
        """Of the last one of each address."""
        self.written = False


class Recording:
    """Gives the records to be written, all that there are at once, and one such writing at a time.

    For those that wait room is kept in the ledger.
    A signal handler may raise anywhere in this.  So what is given stays in the queue until it is known to be written,
    and takes its numbers then; to have it written again, from the beginning, needs nothing to be undone.
    """

    def __init__(self, keeper: Keeper, ledger: Ledger) -> None:
        self._keeper = keeper
        self._ledger = ledger
        self._queue: deque[Record] = deque()
        self._given: _Given | None = None
        self._retry_at: float | None = None  # after a failure
        self._trouble: str  # which that was

    @property
    def writing(self) -> bool:
        """Whether some are being written."""
        return self._given is not None

    @property
    def idle(self) -> bool:
        """Whether there are none."""
        return not self._queue

    @property
    def last(self) -> Record | None:
        """The last one that nobody waits for."""
        while self._queue:
            try:
                return next((record for record in reversed(self._queue) if not record.waits), None)
            except RuntimeError:  # a signal handler or finaliser has added one meanwhile: look again
                continue
        return None

    @property
    def unheard(self) -> list[Record]:
        """Those of events whose ``track`` has returned."""
        return [record for record in self._queue if not record.waits]

    def add(self, record: Record, trouble: str) -> None:
        """Have *record* written, after all others; *trouble* says why that cannot be just now, if it cannot."""
        record.trouble = trouble  # so whoever waits for it knows at once, not when it is tried next
        self._join(record)

    def _join(self, record: Record) -> None:
        size = len(record.line)
        ledger = self._ledger
        # Without a call in between, in which a signal handler might raise: all of it is done, or nothing.
        ledger.room_bytes -= size
        ledger.room_events -= 1
        ledger.reserved_bytes += size
        ledger.reserved_events += 1
        self._queue += (record,)

    def deadline(self) -> float | None:
        """When there is something to be written, minus infinity for now, None for never."""
        if self._given is not None or not self._queue:
            return None
        return -inf if self._retry_at is None else self._retry_at

    def pauses(self, now: float) -> str:
        """Why nothing can be written just now, or nothing."""
        return "" if self._retry_at is None or now >= self._retry_at else self._trouble

    def take(self, now: float, lane_of: Callable[[Record], Lane]) -> Records | None:
        """What is to be written, if there is anything and its time has come."""
        if not self._queue or self._given is not None or self.pauses(now):
            return None
        members = []
        parts = []
        size = 0
        numbers: dict[Address, int] = {}
        for record in self._queue:
            lane = lane_of(record)
            address = lane.address
            index = numbers[address] = numbers.get(address, self._keeper.last_number(address)) + 1
            part = encode_record(index, lane.record_head or _head(lane), record.line)
            members.append(record)
            parts.append(part)
            size += len(part)
            if size >= _CHUNK:
                break
        given = self._given = _Given(self._keeper.generation, b"".join(parts), tuple(members), numbers)
        for record in members:
            record.state = _WRITING
        return given

    def take_alone(self, record: Record) -> Records | None:
        """*record* alone, to be written at once; None if others are in its way, or the disk is."""
        if self._queue or self._retry_at is not None:
            return None
        lane = record.lane
        address = lane.address
        index = self._keeper.last_number(address) + 1
        data = encode_record(index, lane.record_head or _head(lane), record.line)
        self._join(record)
        given = self._given = _Given(self._keeper.generation, data, (record,), {address: index})
        record.state = _WRITING
        return given

    def written(self) -> tuple[Record, ...]:
        """What was given is written; give it.  It counts as being written until :meth:`entered`."""
        given = self._given
        if given is None:
            return ()
        given.written = True
        self._keeper.give_numbers(given.numbers)
        if self._retry_at is not None:
            self._retry_at = None
            for record in self._queue:  # it takes others, too
                record.trouble = ""
        return given.members

    def entered(self) -> bool:
        """All that :meth:`written` gave is in its lane; return whether it is time for another generation."""
        given = self._given
        assert given is not None
        queue = self._queue
        for record in given.members:
            if queue and queue[0] is record:
                queue.popleft()
        self._given = None
        return self._keeper.written(len(given.data))

    def refused(self, trouble: str, now: float) -> list[Record]:
        """They were not written, and are tried again after a pause unless somebody takes them back; give them."""
        assert self._given is not None
        records = list(self._given.members)
        self.put_off()
        for record in self._queue:  # also those behind them, which would wait for the next try
            record.trouble = trouble
        self._trouble = trouble
        self._retry_at = now + _PAUSE
        return records

    def put_off(self) -> bool:
        """Nobody writes what was given: it comes again at once.  Return False if it is written, and to be entered."""
        given = self._given
        if given is None:
            return True
        if given.written:
            return False
        for record in given.members:
            record.state = _QUEUED
        self._given = None
        return True

    def hurry(self) -> None:
        """Try again at once."""
        self._retry_at = None

    def leave(self) -> None:
        """All ends: write what there is at once, and let no flush wait for it."""
        self.hurry()
        for record in self._queue:
            for flush in record.flushes:
                flush.leave()

    def take_back(self, record: Record) -> bool:
        """Forget *record*, unless it is being written just now, or was; return whether it is forgotten."""
        if record.state is not _QUEUED or (self._given is not None and record in self._given.members):
            return False
        position, size = self._queue.index(record), len(record.line)
        ledger = self._ledger
        # Without a call in between, in which a signal handler might raise: all of it is done, or nothing.
        del self._queue[position]
        record.state = _REFUSED
        ledger.room_bytes += size
        ledger.room_events += 1
        ledger.reserved_bytes -= size
        ledger.reserved_events -= 1
        return True


def _head(lane: Lane) -> bytes:
    """What the records of *lane* begin with."""
    lane.record_head = record_head(lane.address)
    return lane.record_head
