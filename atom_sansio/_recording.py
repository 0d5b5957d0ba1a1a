"""Events whose records are to be written before they count as accepted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Final

from ._flush import Receipt
from ._keeper import Keeper
from ._kept import Records
from ._lane import Lane
from ._records import Address, encode_record, record_head
from ._sign import AuthKey

if TYPE_CHECKING:
    from collections.abc import Callable

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


_WRITING: Final = RecordState.WRITING
"""To look up a member of an enumeration takes as long as a call does, and this is for each event."""


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
    state: RecordState = RecordState.QUEUED
    trouble: str = ""
    """Why it could not be written when that was tried last."""

    @property
    def pending(self) -> bool:
        """Whether it is neither accepted nor refused yet."""
        return self.state is RecordState.QUEUED or self.state is RecordState.WRITING


class Recording:
    """Gives the records to be written, all that there are at once, and one such writing at a time."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._queue: deque[Record] = deque()
        self._writing: list[tuple[Record, Address]] = []
        self._size = 0
        self._given: Records | None = None
        self._retry_at: float | None = None
        self._trouble = ""

    @property
    def writing(self) -> bool:
        """Whether some are being written."""
        return bool(self._writing)

    @property
    def idle(self) -> bool:
        """Whether there are none."""
        return not (self._queue or self._writing)

    @property
    def last(self) -> Record | None:
        """The last one that nobody waits for."""
        while self._queue or self._writing:
            records = chain(reversed(self._queue), (record for record, _ in reversed(self._writing)))
            try:
                return next((record for record in records if not record.waits), None)
            except RuntimeError:  # a signal handler or finaliser has added one meanwhile: look again
                continue
        return None

    @property
    def refused_unheard(self) -> int:
        """Events whose ``track`` has returned, and which the disk does not take."""
        if not self._trouble:
            return 0
        return sum(bool(record.trouble) and not record.waits for record in self._queue)

    def add(self, record: Record, now: float) -> None:
        """Have *record* written, after all others."""
        record.trouble = self.pauses(now)  # so whoever waits for it knows at once, not when it is tried next
        self._queue.append(record)

    def deadline(self) -> float | None:
        """When there is something to be written, minus infinity for now, None for never."""
        if self._writing or not self._queue:
            return None
        return -inf if self._retry_at is None else self._retry_at

    def pauses(self, now: float) -> str:
        """Why nothing can be written just now, or nothing."""
        return "" if self._retry_at is None or now >= self._retry_at else self._trouble

    def take(self, now: float, lane_of: Callable[[Record], Lane]) -> Records | None:
        """What is to be written, if there is anything and its time has come."""
        if not self._queue or self._writing or self.pauses(now):
            return None
        parts = []
        size = 0
        while self._queue and size < _CHUNK:
            record = self._queue.popleft()
            part = self._encode(record, lane_of(record))
            parts.append(part)
            size += len(part)
        return self._give(b"".join(parts))

    def take_alone(self, record: Record) -> Records | None:
        """*record* alone, to be written at once; None if others are in its way, or the disk is."""
        if self._queue or self._writing or self._retry_at is not None:
            return None
        return self._give(self._encode(record, record.lane))

    def _encode(self, record: Record, lane: Lane) -> bytes:
        record.state = _WRITING
        address = lane.address
        head = lane.record_head
        if not head:
            head = lane.record_head = record_head(address)
        self._writing.append((record, address))
        return encode_record(self._keeper.number(address), head, record.line)

    def _give(self, data: bytes) -> Records:
        self._size = len(data)
        self._given = Records(self._keeper.generation, data)
        return self._given

    def written(self) -> tuple[list[tuple[Record, Address]], int]:
        """They were written; give them, and their size."""
        writing, self._writing = self._writing, []
        self._retry_at = None
        self._trouble = ""
        return writing, self._size

    def refused(self, trouble: str, now: float) -> list[Record]:
        """They were not written, and are tried again after a pause unless somebody takes them back; give them."""
        records = self._queue_again()
        for record in records:
            record.trouble = trouble
        self._trouble = trouble
        self._retry_at = now + _PAUSE
        return records

    def put_off(self, records: Records) -> None:
        """*records* come again at once, if they are what is being written."""
        if records is self._given and self._writing:
            self._queue_again()

    def _queue_again(self) -> list[Record]:
        writing, self._writing = self._writing, []
        for record, address in reversed(writing):
            self._keeper.take_back_number(address)
            record.state = RecordState.QUEUED
            self._queue.appendleft(record)
        return [record for record, _ in writing]

    def hurry(self) -> None:
        """Try again at once."""
        self._retry_at = None

    def take_back(self, record: Record) -> bool:
        """Forget *record*, unless it is being written just now, or was; return whether it is forgotten."""
        if record.state is not RecordState.QUEUED:
            return False
        self._queue.remove(record)
        record.state = RecordState.REFUSED
        return True
