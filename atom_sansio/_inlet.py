"""Where ``track`` puts the events of one lane, from any thread and without a lock.

An event is appended by one operation on a bytearray, which the interpreter does not interrupt: neither another thread
nor a signal handler nor a finaliser ever sees half of it.  Everything else is arranged so that this is enough:

- What may be appended without asking is lent beforehand: so many bytes and events of the pending budget.
- Closing says so first and takes the contents then.  So who has looked before and appends after finds out, by
  looking once more, and says so; what is left in a closed inlet came late and is taken in again.

A kept ``bytes`` from orjson pins a page of 4 KiB and an event object costs hundreds of bytes; in a bytearray an event
costs its text and one byte.  The byte is a line break: JSON text has none of its own, so no index of where events
begin is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._ledger import Ledger

CLOSED = -1
"""In place of a limit: nothing may be appended, now or later."""


@dataclass(slots=True)
class Segment:
    """Some events of one lane that wait, in order, behind those of earlier segments."""

    lines: bytes = field(repr=False)
    """Encoded, a line each."""
    events: int
    since: float
    """None of them is older than this."""
    full: bool
    """Whether it makes a batch by itself."""
    due: bool
    """Whether it is to be sent however small it is."""


@dataclass(slots=True, eq=False)
class Inlet:
    """The last events of one lane, and room for more."""

    ledger: Ledger | None = field(repr=False)
    """What it is lent from."""
    stream: str
    since: float
    """When the first event came."""
    lines: bytearray = field(default_factory=bytearray, repr=False)
    """Encoded, a line each."""
    events: int = 0
    """How many there are, as counted by who appended them.  If threads could ever append at the very same time this
    might fall behind, so it says when to look closer, and :meth:`count` says how many there are."""
    max_size: int = 0
    """Bytes up to which it may be filled without asking, or ``CLOSED``."""
    max_events: int = 0
    """Events up to which it may be filled without asking, or ``CLOSED``."""
    lent_bytes: int = 0
    """What it has of the pending budget, used or not."""
    lent_events: int = 0
    """Likewise."""

    def append(self, line: bytes) -> None:
        """Take *line* in, under the core's own rules."""
        self.lines += line
        self.events += 1

    def count(self) -> int:
        """How many events there are."""
        return count_lines(self.lines)

    def cut_oldest(self) -> bytes:
        """Cut the first event off, with what was lent for it."""
        end = self.lines.index(b"\n") + 1
        line = bytes(self.lines[:end])
        del self.lines[:end]
        self.events -= 1
        self.lent_bytes -= end
        self.lent_events -= 1
        self.max_size = min(self.max_size, self.lent_bytes)
        self.max_events = min(self.max_events, self.lent_events)
        return line

    def close(self) -> bytes:
        """Let nothing more in, and give what is there; again, and give what came late."""
        self.max_size = self.max_events = CLOSED
        lines = bytes(self.lines)
        del self.lines[: len(lines)]
        return lines


def count_lines(lines: bytes | bytearray) -> int:
    """How many line breaks there are; count() does not use memchr() and takes three times as long."""
    return len(lines) - len(lines.replace(b"\n", b""))


NO_INLET = Inlet(None, "", 0.0, max_size=CLOSED, max_events=CLOSED)
"""Stands where there is none; it is closed, so that ``track`` need not ask whether there is one."""
