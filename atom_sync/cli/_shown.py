"""How what others wrote is shown: nothing in it reaches the terminal as a command."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone

import click
from rich.cells import cell_len


def printable(text: str) -> str:
    """*text* on one line, with an escape for each character that is not simply seen."""
    return "".join(c if _is_seen(c) else c.encode("unicode_escape").decode() for c in text)


def printable_json(text: str) -> str:
    """The same JSON value, whose *text* is valid; only within strings there is anything to escape."""
    return text if text.isascii() and text.isprintable() else re.sub(r"[^ -~]", _escaped, text)


def moment(time: float) -> str:
    """Unix seconds as a date and a time of day, in UTC."""
    try:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time:g}"


def counted(number: int, what: str) -> str:
    """*number* of *what*, which is a word that takes an s."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def write_json(value: object) -> None:
    """Write *value* as a line of JSON in ASCII."""
    click.echo(json.dumps(value))


def say(text: str) -> None:
    """Write *text* on a line of standard output, whatever is in it."""
    click.echo(printable(text))


def say_table(heads: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    """Write a table after a blank line.  Rich's own takes a second for a few hundred rows."""
    numeric = [all(isinstance(row[n], int) for row in rows) for n in range(len(heads))]
    cells = [heads, *(tuple(printable(str(cell)) for cell in row) for row in rows)]
    widths = [max(cell_len(row[n]) for row in cells) for n in range(len(heads))]
    click.echo()
    for row in cells:
        padded = []
        for cell, width, right in zip(row, widths, numeric, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if right else cell + space)
        click.echo("  ".join(padded).rstrip())


def _is_seen(character: str) -> bool:
    """Whether *character* is shown as it is, everywhere or where output is in UTF-8."""
    return " " <= character <= "~" or (character.isprintable() and _is_utf8())


def _is_utf8() -> bool:
    encoding = getattr(sys.stdout, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if _is_seen(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))
