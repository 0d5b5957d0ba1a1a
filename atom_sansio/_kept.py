"""What passes between the core and a backlog: frozen, complete when built.

A backlog keeps *batches*, under the ids they are sent with, and of events that are in no batch yet *records*.  A record
is written while ``track`` waits, so that what was accepted outlives the process; it counts no more once a batch that is
kept holds its event.  Records are numbered by stream and key, and a *mark* says up to which they count no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._messages import Loss


class Level(str, Enum):
    """What an event that ``track`` accepted survives."""

    MEMORY = "memory"
    """Nothing until it is put in a batch, then the end of the process, however it ends."""
    PROCESS = "process"
    """The end of the process, however it ends (SIGKILL); not that of the machine."""
    DISK = "disk"
    """The end of the machine too: ``track`` returns when the disk says that it has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBatch:
    """What a backlog knows of a batch besides its events."""

    batch_id: str
    place: int
    """With ``part`` the order among batches of one stream and key."""
    part: int
    """How many events of the batch that it was split off come before it."""
    stream: str
    fingerprint: str | None
    """Of the key that signs it; the key itself is never kept.  None for unsigned."""
    events: int
    size: int
    """Bytes of its events, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Records of *stream* and *fingerprint* up to number *index* in *generation* count no more."""

    generation: int
    stream: str
    fingerprint: str | None
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Events that were lost for a permanent reason, to be kept with it."""

    letter_id: str
    """The id of their batch, or one of their own."""
    fingerprint: str | None
    loss: Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBacklog:
    """Change what is kept, all or nothing; then report ``backlog_updated`` or ``backlog_failed``.

    To do the same twice must do no harm: after a failure it may come again though it was done.
    """

    put: tuple[tuple[KeptBatch, bytes], ...]
    """Batches to be kept, with their events, a line each.  One whose id is known replaces that."""
    drop: tuple[str, ...]
    """Ids of batches that need not be kept any more."""
    dead: tuple[DeadLetter, ...]
    marks: tuple[Mark, ...]
    forget_before: int
    """Records and marks of generations before this one may be deleted, once the rest is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBatch:
    """Read the events of a kept batch; then report ``batch_loaded``.

    Or ``batch_not_loaded``, if they cannot be read now: then this comes again.  Or ``batch_unreadable``, if they never
    can be again: then they are lost.
    """

    batch_id: str


@dataclass(slots=True)
class Records:
    """Append *data* to the records of *generation*; then report ``records_written`` or ``records_refused``."""

    # Not frozen as the others are: to make one that is takes three times as long, and there is one for each event.
    generation: int
    data: bytes = field(repr=False)
    appended: bool = field(default=False, compare=False)
    """Whether that is done.  A backlog's ``append`` says so as the last thing that it does: CPython 3.10 runs signal
    handlers when a function returns, and one that raises there lets its caller do nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a backlog holds when it is opened."""

    batches: tuple[KeptBatch, ...]
    """In their order."""
    records: tuple[KeptRecords, ...]
    generation: int
    """The highest that there are records or marks of; 0 if there are none."""
    damaged: int = 0
    """Records that cannot be read any more; what is left of them is set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecords:
    """Records of one stream and key that still count, in their order."""

    stream: str
    fingerprint: str | None
    lines: bytes = field(repr=False)
    """The events, a line each."""
    marks: tuple[Mark, ...]
    """The last record of each generation; for when the events are kept in batches."""
