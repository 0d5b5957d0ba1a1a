"""Sees the events of a tracker off, and shows what becomes of them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from atom_sansio import Loss
from atom_sync import Tracker

from ._shown import printable

PROBLEMS_SHOWN: Final = 20
"""Bad lines, and causes of losses, that are printed; the rest is counted."""

KEY_OPTIONS: Final = "--auth-key-env or ATOM_AUTH_KEYS"
"""Where a command has its keys from."""

HURRY: Final = 0.2
"""Seconds that stopping may take after another Ctrl-C."""

TURN: Final = 0.2
"""Seconds between looks at the progress while delivery is awaited."""


def read_key(variable: str | None) -> str | None:
    """The key in that environment variable; None if none is named.

    Raises:
        ClickException: it holds none.
    """
    key = os.environ.get(variable) if variable is not None else None
    if variable is not None and not key:
        raise click.ClickException(f"the environment variable {variable} holds no key")
    return key


@contextmanager
def advising(key: str) -> Iterator[None]:
    """Let what a tracker logs meanwhile say where *key* comes from, rather than which methods it has.

    That is also where it says of a stream that its key was refused, or that it was not given.
    """

    def advise(record: logging.LogRecord) -> bool:
        said = record.getMessage().replace("set_auth_key()", key).replace(", statistics() counts them", "")
        record.msg, record.args = said, ()
        return True

    logger = logging.getLogger("atom")
    logger.addFilter(advise)
    try:
        yield
    finally:
        logger.removeFilter(advise)


class Losses:
    """Counts what is lost, by cause; for ``on_loss``."""

    def __init__(self) -> None:
        self._lost: Counter[str] = Counter()

    def __call__(self, loss: Loss) -> None:
        status = "" if loss.status is None else f" with status {loss.status}"
        self._lost[f"{loss.reason.value}{status}: {loss.message}"] += loss.count

    def lines(self) -> list[str]:
        """A line for each cause; of very many, for those with most events."""
        lines = [f"{events} lost, {why}" for why, events in self._lost.most_common(PROBLEMS_SHOWN)]
        more = len(self._lost) - len(lines)
        return [*lines, f"and more, for {more} other causes"] if more else lines


class SendOff:
    """What is shown of *tracker* while it delivers.

    Args:
        timeout: seconds without progress after which to give up.
        paused: whether there can be none just now, for a reason of ours.
    """

    def __init__(self, tracker: Tracker, timeout: float, paused: Callable[[], bool] = lambda: False) -> None:
        self._tracker = tracker
        self._timeout = timeout
        self._paused = paused
        self._console = Console(stderr=True, soft_wrap=True)
        self.progress = Progress(
            TextColumn("delivered"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self.progress.add_task("")
        self.problems = 0

    def see_off(self) -> None:
        """Wait for delivery as long as there is progress, and a collector that takes a key."""
        left = self._timeout
        settled = 0
        while left > 0 and self._tracker.flush(min(TURN, left)).pending:
            self.show()
            now = self._tracker.statistics()
            if now.parked and now.parked == now.lanes:
                self.problem(f"gave up: all that is left waits for another key ({KEY_OPTIONS})")
                return
            moved = now.accepted - now.pending > settled or self._paused()
            left = self._timeout if moved else left - TURN
            settled = now.accepted - now.pending
        self.show()

    def stop(self, timeout: float) -> bool:
        """Stop the tracker; return whether another Ctrl-C came."""
        try:
            self._tracker.stop(timeout)
        except KeyboardInterrupt:  # in a hurry, but what became of the events is still to be told
            self._tracker.stop(HURRY)
            return True
        return False

    def show(self) -> None:
        """Bring the progress bar up to date."""
        now = self._tracker.statistics()
        self.progress.update(self._task, completed=now.delivered, total=now.accepted)

    def problem(self, message: str) -> None:
        """Report what goes against a clean result; of very many only the first."""
        self.problems += 1
        if self.problems <= PROBLEMS_SHOWN:
            self.say(message)
        elif self.problems == PROBLEMS_SHOWN + 1:
            self.say("further problems are not shown")

    def say(self, message: str) -> None:
        """Write *message* to standard error, above the progress bar."""
        self._console.print(printable(message), markup=False, highlight=False)
