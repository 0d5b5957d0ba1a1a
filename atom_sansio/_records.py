"""The records of a backlog: how one is written, and how they are read back whatever has happened to the file.

A record is one line of text: a checksum, the number of the event within its stream and key, the fingerprint of the key
(``-`` for none), the name of the stream in percent-encoding, and the event's JSON.  The event has no line break of its
own, so after a damaged record reading goes on at the next line, and what is damaged is known by its checksum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final
from urllib.parse import quote, unquote_to_bytes
from zlib import crc32

from ._kept import KeptRecords, Mark

Address = tuple[str, "str | None"]
"""Stream and fingerprint of the key."""

_HEAD: Final = re.compile(rb"[0-9a-f]{8} [0-9]+ (?:-|[0-9a-f]+) [^ ]+ ")
"""What a record begins with."""


def record_head(address: Address) -> bytes:
    """What all records of *address* have in common."""
    stream, fingerprint = address
    return f"{fingerprint or '-'} {quote(stream, safe='')} ".encode()


def encode_record(index: int, head: bytes, line: bytes) -> bytes:
    """The record of the event *line*, which is number *index* of its stream and key."""
    text = b"%d %s%s" % (index, head, line)
    return b"%08x %s" % (crc32(text), text)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A piece of a file that is no record, or none any more."""

    reason: str
    data: bytes
    whole: bool
    """Whether it has an end.  The last one of a file may have none: it was being written when the process ended, so
    nobody was told that its event is accepted."""
    events: int
    """How many that were accepted it has cost, by what is left of them; where that is not clear, rather too many."""


def read_records(files: Iterable[tuple[int, bytes]], marks: Iterable[Mark]) -> tuple[list[KeptRecords], list[Damaged]]:
    """What still counts in *files*, which are (generation, contents) in their order, and what cannot be read of them.

    Where two records have the same number, the later one counts: the other was refused.
    """
    sealed = {(mark.generation, mark.stream, mark.fingerprint): mark.index for mark in marks}
    lines: dict[Address, dict[tuple[int, int], bytes]] = {}
    damaged = []
    for generation, data in sorted(files, key=itemgetter(0)):
        *records, rest = data.split(b"\n")
        for record in filter(None, records):  # with an empty line nothing is lost
            parsed = _parse(record)
            if isinstance(parsed, Damaged):
                damaged.append(parsed)
                continue
            _add(lines, sealed, generation, *parsed)
        if rest:
            parsed = _parse(rest)  # all but the end may be there
            if isinstance(parsed, Damaged):
                parsed = _parse(rest[:-1])  # or the end be something else now
            if isinstance(parsed, Damaged):
                # What was being written when the process ended has no zeros; a disk puts them in place of more.
                damaged.append(Damaged("it has no end", rest, False, _count(rest) if b"\0" in rest else 0))
            else:
                _add(lines, sealed, generation, *parsed)
    missing = _missing(lines, sealed) - sum(piece.events for piece in damaged)
    if missing > 0:
        damaged.append(Damaged("numbers are missing", b"", True, missing))
    return (
        [
            KeptRecords(
                stream=stream,
                fingerprint=fingerprint,
                lines=b"".join(found[n] for n in sorted(found)),
                marks=tuple(
                    Mark(generation=generation, stream=stream, fingerprint=fingerprint, index=index)
                    for generation, index in dict(sorted(found)).items()
                ),
            )
            for (stream, fingerprint), found in lines.items()
        ],
        damaged,
    )


def _add(
    lines: dict[Address, dict[tuple[int, int], bytes]],
    sealed: dict[tuple[int, str, str | None], int],
    generation: int,
    index: int,
    address: Address,
    line: bytes,
) -> None:
    if index > sealed.get((generation, *address), 0):
        lines.setdefault(address, {})[generation, index] = line


def _missing(lines: dict[Address, dict[tuple[int, int], bytes]], sealed: dict[tuple[int, str, str | None], int]) -> int:
    """How many numbers are left out: they are given one after another, and one is used again when it was refused."""
    missing = 0
    for address, found in lines.items():
        for generation, last in dict(sorted(found)).items():
            missing += last - sealed.get((generation, *address), 0)
        missing -= len(found)
    return missing


def _count(piece: bytes) -> int:
    """How many records are or were in *piece*, by what is left of them, but one at least."""
    # A disk may put zeros in place of an end and of the beginning of another.
    parts = list(filter(None, piece.split(b"\0"))) or [piece]
    return sum(max(1, len(_HEAD.findall(part))) for part in parts)


def _parse(record: bytes) -> tuple[int, Address, bytes] | Damaged:
    checksum, _, text = record.partition(b" ")
    text += b"\n"
    if checksum != b"%08x" % crc32(text):
        return Damaged("its checksum is wrong", record, True, _count(record))
    try:
        index, fingerprint, stream, line = text.split(b" ", 3)
        address = (unquote_to_bytes(stream).decode(), None if fingerprint == b"-" else fingerprint.decode())
        return int(index), address, line
    except ValueError:
        return Damaged("it is no record of this version", record, True, 1)
