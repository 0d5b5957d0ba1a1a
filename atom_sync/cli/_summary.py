"""What a backlog holds, in numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from atom_sync.backlog import Waiting

from ._letters import Box, Filter, Found
from ._shown import counted, moment, say, say_table, write_json


def summarize(boxes: list[Box], chosen: Filter, as_json: bool) -> None:
    """Write what waits, what is dead and what is damaged in *boxes*."""
    waiting = _waiting(boxes, chosen)
    kinds = _kinds(chosen.find(boxes))
    damaged = [piece for box in boxes for piece in box.letters.damaged]
    aside = [path for box in boxes for path in _set_aside(box.path)]
    if as_json:
        write_json(
            {
                "files": [str(box.path) for box in boxes],
                "pending": [dataclasses.asdict(each) for each in waiting],
                "dead": [dataclasses.asdict(kind) for kind in kinds],
                "damaged": [{"source": source, "what": what, "size": len(data)} for source, what, data in damaged],
                "set_aside": [{"file": str(path), "size": size} for path, size in aside],
            }
        )
        return
    events = sum(each.events for each in waiting)
    lost = sum(kind.events for kind in kinds)
    letters = sum(kind.letters for kind in kinds)
    files = "" if len(boxes) == 1 else f" and {counted(len(boxes) - 1, 'numbered file')}"
    say(
        f"{boxes[0].path}{files}: {counted(events, 'event')} pending,"
        f" {counted(letters, 'dead letter')} with {counted(lost, 'event')}",
    )
    if waiting:
        say_table(
            ("pending in stream", "key", "batches", "unbatched", "events", "bytes"),
            [
                (each.stream, each.fingerprint or "unsigned", each.batches, each.records, each.events, each.size)
                for each in waiting
            ],
        )
    if kinds:
        say_table(
            ("dead in stream", "reason", "status", "letters", "events", "oldest", "newest"),
            [
                (
                    kind.stream,
                    kind.reason,
                    "" if kind.status is None else kind.status,
                    kind.letters,
                    kind.events,
                    moment(kind.oldest)[:10],
                    moment(kind.newest)[:10],
                )
                for kind in kinds
            ],
        )
    if damaged:
        say_table(
            ("damaged in", "what is wrong", "bytes"),
            [(source, what, len(data)) for source, what, data in damaged],
        )
    for path, size in aside:
        say(f"set aside as damaged: {path}, {size} bytes")


@dataclasses.dataclass(slots=True)
class _Kind:
    """Dead letters of one stream, reason and status."""

    stream: str
    reason: str
    status: int | None
    letters: int
    events: int
    oldest: float
    newest: float


def _kinds(found: Iterator[Found]) -> list[_Kind]:
    kinds: dict[tuple[str, str, int | None], _Kind] = {}
    for letter in (each.letter for each in found):
        key = letter.stream, letter.reason.value, letter.status
        kind = kinds.setdefault(key, _Kind(*key, 0, 0, letter.time, letter.time))
        kind.letters += 1
        kind.events += letter.events
        kind.oldest, kind.newest = min(kind.oldest, letter.time), max(kind.newest, letter.time)
    return [kinds[key] for key in sorted(kinds, key=lambda key: (key[0], key[1], key[2] or 0))]


def _waiting(boxes: list[Box], chosen: Filter) -> list[Waiting]:
    """What is pending of the streams that are asked for, in all files together."""
    sums: dict[tuple[str, str | None], Waiting] = {}
    for each in (each for box in boxes for each in box.letters.waiting()):
        if chosen.streams and each.stream not in chosen.streams:
            continue
        total = sums.setdefault((each.stream, each.fingerprint), each)
        if total is not each:
            total.batches += each.batches
            total.records += each.records
            total.events += each.events
            total.size += each.size
    return [sums[address] for address in sorted(sums, key=lambda at: (at[0], at[1] or ""))]


def _set_aside(path: Path) -> Iterator[tuple[Path, int]]:
    """Damaged files that something better has been begun for."""
    for file in sorted(path.parent.iterdir()):
        if file.name.removeprefix(f"{path.name}.damaged-").isdecimal():
            with contextlib.suppress(FileNotFoundError):
                yield file, file.stat().st_size
