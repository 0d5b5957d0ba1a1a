"""Which files and which dead letters a command is about."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from atom_sansio import BacklogError, LossReason
from atom_sync.backlog import Backlog, DeadLetters, Letter
from atom_sync.backlog._files import lock_of
from atom_sync.backlog._mending import is_damage

from ._finite import finite
from ._shown import printable

DAY: Final = 24 * 60 * 60.0
"""Seconds."""

_REASONS: Final = (LossReason.REJECTED, LossReason.REDIRECTED, LossReason.TOO_LARGE, LossReason.EXPIRED)

T = TypeVar("T")


class DamagedFile(click.ClickException):
    """A backlog is damaged; to open it as a tracker does sets it aside and saves what can be read."""


@dataclass(frozen=True, slots=True)
class Box:
    """The dead letters of one file."""

    path: Path
    prefix: str
    """What stands before the numbers of its letters."""
    letters: DeadLetters


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter, and where it is."""

    box: Box
    letter: Letter

    @property
    def label(self) -> str:
        """What it is called on the command line: its number, after that of its file where that is not the first."""
        return f"{self.box.prefix}{self.letter.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Takes the letters that meet all that is asked; of several values of one kind any will do."""

    streams: tuple[str, ...] = ()
    reasons: tuple[LossReason, ...] = ()
    statuses: tuple[int, ...] = ()
    texts: tuple[bytes, ...] = ()
    before: float = math.inf
    """In Unix seconds."""
    labels: tuple[str, ...] = ()

    def find(self, boxes: list[Box]) -> Iterator[Found]:
        """The letters in *boxes* that it takes."""
        for box in boxes:
            for letter in box.letters:
                found = Found(box, letter)
                if self._takes(found):
                    yield found

    def check_labels(self, boxes: list[Box]) -> None:
        """Whether all letters that are asked for one by one are there.

        Raises:
            ClickException: one is not.
        """
        missing = set(self.labels)
        for box in boxes if missing else ():
            for letter in box.letters:
                missing -= {Found(box, letter).label, letter.letter_id}
        if missing:
            raise click.ClickException(f"there is no dead letter {printable(min(missing))}")

    def _takes(self, found: Found) -> bool:
        letter = found.letter
        return (
            letter.time <= self.before
            and (not self.streams or letter.stream in self.streams)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.statuses or letter.status in self.statuses)
            and (not self.labels or found.label in self.labels or letter.letter_id in self.labels)
            and (not self.texts or any(text in letter.lines for text in self.texts))
        )


def _not_empty(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Every event has the empty text, which a variable that is not set may be: not what is to be erased."""
    if "" in texts:
        raise click.BadParameter("the text must not be empty", context, option)
    return texts


_OPTIONS: Final = (
    click.option("--stream", "streams", multiple=True, help="Only this stream.  May be repeated, as the next four."),
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        type=click.Choice([reason.value for reason in _REASONS]),
        help="Only what was lost for this.",
    ),
    click.option("--status", "statuses", multiple=True, type=int, help="Only what was answered so last."),
    click.option(
        "--match",
        "texts",
        multiple=True,
        metavar="TEXT",
        callback=_not_empty,
        help="Only letters with an event in whose JSON, without spaces between values, TEXT stands.",
    ),
    click.option("--letter", "labels", multiple=True, metavar="N", help="Only this letter, by its number or id."),
    click.option(
        "--older-than",
        type=click.FloatRange(min=0),
        default=0.0,
        callback=finite,
        metavar="DAYS",
        help="Only what was lost so long ago.",
    ),
)


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give *command* the options that choose letters; it gets a :class:`Filter` as ``chosen``."""

    @functools.wraps(command)
    def with_filter(
        *,
        streams: tuple[str, ...],
        reasons: tuple[str, ...],
        statuses: tuple[int, ...],
        texts: tuple[str, ...],
        labels: tuple[str, ...],
        older_than: float,
        **others: Any,
    ) -> T:
        chosen = Filter(
            streams=streams,
            reasons=tuple(map(LossReason, reasons)),
            statuses=statuses,
            texts=tuple(text.encode("utf-8", "surrogatepass") for text in texts),
            before=time.time() - older_than * DAY if older_than else math.inf,
            labels=labels,
        )
        return command(chosen=chosen, **others)

    for option in reversed(_OPTIONS):
        with_filter = option(with_filter)
    return with_filter


@contextlib.contextmanager
def open_boxes(file: Path) -> Iterator[list[Box]]:
    """The dead letters of the backlog *file* and of its numbered files.

    Raises:
        DamagedFile: it is damaged, and can be mended.
        ClickException: it is no backlog, or cannot be read.
    """
    with contextlib.ExitStack() as stack:
        boxes: list[Box] = []
        try:
            for path in Backlog(file).files or [file]:
                try:
                    letters = stack.enter_context(DeadLetters(path))
                except BacklogError:
                    if path.exists() or not boxes:
                        raise
                    continue  # a tracker has emptied and deleted it just now
                prefix = f"{path.name.rpartition('.')[2]}/" if boxes else ""
                boxes.append(Box(path, prefix, letters))
            yield boxes
        except BacklogError as error:
            ours = lock_of(Backlog(file).path).exists()
            if ours and error.__cause__ is not None and is_damage(error.__cause__):
                raise DamagedFile(f"{error}; the next tracker that has it mends it, or atom-events replay") from error
            raise click.ClickException(str(error)) from error
