"""What tests of the files of a backlog share: something to put in, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atom_sansio import BatchUnreadable, DeadLetter, KeptBatch, Level, Loss, LossReason, Mark, Records, UpdateBacklog
from atom_sansio._records import encode_record, record_head
from atom_sync.backlog import Backlog, OpenBacklog

Content = tuple[str, str | None, bytes]
"""Stream, fingerprint and events."""


def lines_of(*events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def batch(
    batch_id: str,
    lines: bytes,
    *,
    place: int = 1,
    part: int = 0,
    stream: str = "clicks",
    fingerprint: str | None = None,
) -> tuple[KeptBatch, bytes]:
    kept = KeptBatch(
        batch_id=batch_id,
        place=place,
        part=part,
        stream=stream,
        fingerprint=fingerprint,
        events=lines.count(b"\n"),
        size=len(lines),
    )
    return kept, lines


def letter(letter_id: str, lines: bytes, *, stream: str = "clicks", fingerprint: str | None = None) -> DeadLetter:
    loss = Loss(
        stream=stream,
        lines=lines,
        count=lines.count(b"\n"),
        reason=LossReason.REJECTED,
        status=400,
        message="no, ünd never",
        attempts=3,
        time=1.5,
    )
    return DeadLetter(letter_id=letter_id, fingerprint=fingerprint, loss=loss)


def mark(index: int, *, generation: int = 1, stream: str = "clicks", fingerprint: str | None = None) -> Mark:
    return Mark(generation=generation, stream=stream, fingerprint=fingerprint, index=index)


def change(
    *,
    put: Iterable[tuple[KeptBatch, bytes]] = (),
    drop: Iterable[str] = (),
    dead: Iterable[DeadLetter] = (),
    marks: Iterable[Mark] = (),
    forget_before: int = 0,
) -> UpdateBacklog:
    return UpdateBacklog(
        put=tuple(put), drop=tuple(drop), dead=tuple(dead), marks=tuple(marks), forget_before=forget_before
    )


def records(
    first: int, *lines: bytes, generation: int = 1, stream: str = "clicks", fingerprint: str | None = None
) -> Records:
    """Records of *lines*, numbered from *first*."""
    head = record_head((stream, fingerprint))
    data = b"".join(encode_record(number, head, line) for number, line in enumerate(lines, first))
    return Records(generation=generation, data=data)


def contents(opened: OpenBacklog) -> tuple[dict[str, Content], list[bytes], int]:
    """What a tracker would be given: batches by id, the events of records, and how many events are reported damaged."""
    found = opened.recover()
    batches = {}
    damaged = found.damaged
    for kept in found.batches:
        try:
            batches[kept.batch_id] = kept.stream, kept.fingerprint, opened.load(kept.batch_id)
        except BatchUnreadable:
            damaged += kept.events
    tracked = [line for each in found.records for line in each.lines.splitlines(keepends=True)]
    return batches, tracked, damaged


def held(path: Path, level: Level = Level.PROCESS) -> tuple[dict[str, Content], list[bytes], int]:
    """:func:`contents` of a file, which is closed again."""
    opened = Backlog(path, level=level).open()
    try:
        return contents(opened)
    finally:
        opened.close()
