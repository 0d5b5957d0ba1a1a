"""Where to cut encoded events, one a line, so that as many as possible make a request of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

from ._request import quote

_SAMPLE = 4096
"""Bytes of events from which the cost of escaping the rest is guessed."""


def escaped_size(lines: bytes) -> int:
    """Bytes that some lines take inside a JSON string, joined by commas."""
    return len(quote(lines[:-1].replace(b"\n", b","))) - 2


def longest_fit(lines: bytes, events: int, *, max_events: int, max_bytes: int) -> tuple[int, int]:
    """The longest prefix of whole lines whose escaped text, joined by commas, fits: its bytes and its events.

    At least one line is taken, even if it alone does not fit.  Escaping is dear, so as much as should fit is
    tried at once, and only what was guessed wrong is tried again.
    """
    end = len(lines) if events <= max_events else nth_line(lines, max_events, events)
    left = max_bytes + 1  # the last line's break is no comma
    growth = escaped_growth(lines[:_SAMPLE]) * 1.01
    position = 0
    while position < end:
        reach = min(end, max(position, position + int(left / growth)))  # there may be no room even for an envelope
        cut = lines.rfind(b"\n", position, reach) + 1 or lines.index(b"\n", position) + 1
        size = escaped_size(lines[position:cut]) + 1
        if size <= left:
            left -= size
            position = cut
        elif lines.index(b"\n", position) + 1 < cut:  # several lines: fewer may fit
            growth = size / (cut - position) * 1.01
        else:
            position = position or cut  # alone it does not fit, but something must be taken
            break
    return position, events if position == len(lines) else lines.count(b"\n", 0, position)


def pieces(lines: bytes, size: int) -> Iterator[bytes]:
    """*lines* in pieces of whole lines, of at most *size* bytes unless a line alone is longer."""
    position = 0
    while position < len(lines):
        end = lines.rfind(b"\n", position, position + size) + 1 or lines.index(b"\n", position) + 1
        yield lines[position:end]
        position = end


def escaped_growth(sample: bytes | bytearray) -> float:
    """How many times longer a text gets when it is escaped; from 1 to 2."""
    return 1.0 + (sample.count(b'"') + sample.count(b"\\")) / len(sample)


def nth_line(lines: bytes, n: int, events: int) -> int:
    """Where the first *n* of *events* lines end.

    The average length says about where; counting line breaks says how far off that was.  This takes a
    few passes in C over what is near instead of *n* calls.
    """
    position, end = 0, len(lines)
    while n:
        reach = position + (end - position) * n // events
        cut = lines.rfind(b"\n", position, reach) + 1 or lines.index(b"\n", position) + 1
        passed = lines.count(b"\n", position, cut)
        if passed > n:
            end, events = cut, passed
        else:
            position, n, events = cut, n - passed, events - passed
    return position
