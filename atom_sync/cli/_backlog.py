"""``atom-events backlog``."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import click

from atom_sync.backlog import Letter

from ._letters import Filter, Found, filter_options, open_boxes
from ._shown import counted, moment, printable, printable_json, say, write_json
from ._summary import summarize

_LINE: Final = "{:>7}  {:<16}  {:>6}  {:<9}  {:>6}  {:>5}  {}"
"""Of the list; it is written while it is read, so that widths are not known beforehand."""

AT_ONCE: Final = 1000
"""Letters that are erased in one transaction, for the duration of which a tracker waits."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--list", "to_list", is_flag=True, help="List the dead letters, a line each.")
@click.option("--show", metavar="N", help="Show the dead letter of that number or id, with its events.")
@click.option(
    "--export",
    "out",
    type=click.Path(dir_okay=False, allow_dash=True, writable=True),
    metavar="OUT",
    help="Write the events of dead letters to a new file, a line of JSON each; - is standard output.",
)
@click.option("--erase", is_flag=True, help="Erase dead letters, after asking; with --export, those that were written.")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON: one object, or one a line with --list.")
@filter_options
def backlog(
    file: Path,
    to_list: bool,
    show: str | None,
    out: str | None,
    erase: bool,
    yes: bool,
    as_json: bool,
    chosen: Filter,
) -> None:
    """Show what the backlog FILE holds: what waits to be sent, dead letters, and what is damaged.

    A dead letter is some events that were lost together for a reason that does not pass by itself.  --list,
    --show, --export and --erase are about those that the filters let through; without a filter, about all.
    `atom-events replay` sends them again.

    The numbered files beside FILE (FILE.2, ...), which other processes write to, are part of it.  Trackers may have
    the files meanwhile.  A line of --export has the members stream, event, reason, status, message, attempts,
    time (Unix seconds) and letter_id.
    """
    if sum((to_list, show is not None, out is not None or erase)) > 1:
        raise click.UsageError("--list, --show, and --export or --erase exclude one another.")
    if show is not None and chosen.labels:
        raise click.UsageError("--show and --letter exclude one another.")
    if yes and not erase:
        raise click.UsageError("--yes goes with --erase.")
    if show is not None:
        chosen = dataclasses.replace(chosen, labels=(show,))
    with open_boxes(file) as boxes:
        chosen.check_labels(boxes)
        if show is not None:
            _show(show, chosen.find(boxes), as_json)
        elif to_list:
            _list(chosen.find(boxes), as_json)
        elif out is not None or erase:
            found = chosen.find(boxes)
            letters = [_without_events(each) for each in (found if out is None else _export(found, out))]
            if erase:
                _erase(letters, as_json, asks=not yes)
        else:
            summarize(boxes, chosen, as_json)


def _list(found: Iterator[Found], as_json: bool) -> None:
    if as_json:
        for each in found:
            write_json({"number": each.label, **_members(each.letter)})
        return
    none = True
    for each in found:
        if none:
            click.echo(_LINE.format("letter", "UTC", "events", "reason", "status", "tries", "stream: message"))
            none = False
        letter = each.letter
        status = "" if letter.status is None else letter.status
        text = f"{letter.stream}: {letter.message}"
        head = each.label, moment(letter.time)[:16], letter.events, letter.reason.value, status, letter.attempts
        click.echo(_LINE.format(*head, printable(text)))
    if none:
        click.echo("no dead letters")


def _show(label: str, found: Iterator[Found], as_json: bool) -> None:
    each = next(found, None)
    if each is None:
        raise click.ClickException(f"there is no dead letter {printable(label)}")
    letter = each.letter
    if as_json:
        members = json.dumps({"number": each.label, **_members(letter)})
        events = ", ".join(_event_text(line) for line in letter.lines.splitlines())
        click.echo(f'{members[:-1]}, "lines": [{events}]}}')
        return
    status = "" if letter.status is None else f", status {letter.status}"
    for name, value in (
        ("letter", f"{each.label}, id {letter.letter_id}"),
        ("stream", letter.stream),
        ("key", letter.fingerprint or "unsigned"),
        ("lost", f"{moment(letter.time)}, {letter.reason.value}{status}, after {counted(letter.attempts, 'attempt')}"),
        ("message", letter.message),
        ("events", str(letter.events)),
    ):
        say(f"{name:<8} {value}")
    for line in letter.lines.splitlines():
        click.echo(printable(line.decode(errors="replace")))


def _members(letter: Letter) -> dict[str, Any]:
    return {
        "letter_id": letter.letter_id,
        "stream": letter.stream,
        "fingerprint": letter.fingerprint,
        "events": letter.events,
        "reason": letter.reason.value,
        "status": letter.status,
        "message": letter.message,
        "attempts": letter.attempts,
        "time": letter.time,
    }


def _export(found: Iterator[Found], out: str) -> Iterator[Found]:
    """Write *found*, and give them on."""
    events = letters = 0
    with _open_new(out) as file:
        for each in found:
            letter = each.letter
            rest = json.dumps(
                {
                    "reason": letter.reason.value,
                    "status": letter.status,
                    "message": letter.message,
                    "attempts": letter.attempts,
                    "time": letter.time,
                    "letter_id": letter.letter_id,
                }
            )
            head = f'{{"stream": {json.dumps(letter.stream)}, "event": '
            for line in letter.lines.splitlines():
                file.write(f"{head}{_event_text(line)}, {rest[1:]}\n")
                events += 1
            letters += 1
            yield each
    click.echo(f"{counted(events, 'event')} of {counted(letters, 'dead letter')} written", err=True)


@contextlib.contextmanager
def _open_new(out: str) -> Iterator[IO[str]]:
    """A file for our user alone, since events may be private, on the disk when it is left; or standard output."""
    if out == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                yield file
                file.flush()
                os.fsync(fd)
        except BaseException:
            Path(out).unlink()
            raise
    except OSError as error:
        raise click.ClickException(f"cannot write {printable(out)}: {error.strerror or error}") from error


def _without_events(found: Found) -> Found:
    return dataclasses.replace(found, letter=dataclasses.replace(found.letter, lines=b""))


def _erase(found: list[Found], as_json: bool, *, asks: bool) -> None:
    """Erase *found*, and nothing that has come since."""
    events = sum(each.letter.events for each in found)
    what = f"{counted(len(found), 'dead letter')} with {counted(events, 'event')}"
    if found and asks:
        click.confirm(f"Erase {what} for ever?", abort=True, err=True)
    for box, letters in itertools.groupby(found, key=lambda each: each.box.letters):
        own = [each.letter for each in letters]
        for start in range(0, len(own), AT_ONCE):
            box.erase(*own[start : start + AT_ONCE])
    if as_json:
        write_json({"letters": len(found), "events": events})
    else:
        click.echo(f"{what} erased", err=True)


def _event_text(line: bytes) -> str:
    """The event's JSON; of one that is damaged, what can be read of it, as a string."""
    text = line.decode(errors="replace")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text)
    return printable_json(text)
