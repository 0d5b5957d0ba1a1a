"""``atom-events send``."""

from __future__ import annotations

import gzip
import math
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from atom_sansio import BacklogFull, EventError, Loss, element_texts
from atom_sansio._request import check_stream
from atom_sync import Tracker

if TYPE_CHECKING:
    from atom_sansio import TrackerOptions

PROBLEMS_SHOWN = 20
"""Bad lines whose numbers are printed; the rest is counted."""

HURRY = 0.2
"""Seconds that stopping may take after another Ctrl-C."""

TURN = 0.2
"""Seconds between looks at the progress while delivery is awaited."""


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not finite.")
    return value


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--stream", required=True, help="Stream to send to.")
@click.option("--endpoint", required=True, envvar="ATOM_ENDPOINT", help="URL of the collector.")
@click.option("--auth-key-env", metavar="NAME", help="Environment variable that holds the stream's key.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    callback=_finite,
    help="Seconds without progress after which to give up.",
)
def send(file: Path, stream: str, endpoint: str, auth_key_env: str | None, timeout: float) -> None:
    """Send the events of FILE, one JSON value a line.

    FILE may be compressed with gzip; - is standard input.  Bad lines are reported by number and left out.  Exits
    with 1 if there were any or if an event was lost, with 130 after Ctrl-C.
    """
    key = os.environ.get(auth_key_env) if auth_key_env is not None else None
    if auth_key_env is not None and not key:
        raise click.ClickException(f"the environment variable {auth_key_env} holds no key")
    try:
        check_stream(stream)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    lost: Counter[str] = Counter()

    def on_loss(loss: Loss) -> None:
        status = "" if loss.status is None else f" with status {loss.status}"
        lost[f"{loss.reason.value}{status}: {loss.message}"] += loss.count

    try:
        # For this stream, since a key of the environment's for all or for this one must not go before it.
        options: TrackerOptions = {"block_timeout": timeout, "on_loss": on_loss}
        if key is not None:
            options["auth_keys"] = {stream: key}
        tracker = Tracker(endpoint, **options)
    except (TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    job = _Job(tracker, stream, timeout)
    interrupted = False
    try:
        with _open(file) as source, job.progress:
            job.run(source)
    except KeyboardInterrupt:
        interrupted = True
    except (OSError, EOFError, zlib.error) as error:
        job.problem(f"cannot read {file}: {error}")
    finally:
        try:
            tracker.stop(5.0 if interrupted else 1.0)
        except KeyboardInterrupt:  # in a hurry, but what became of the events is still to be told
            interrupted = True
            tracker.stop(HURRY)
    delivered = tracker.statistics().delivered
    job.say(f"{delivered} of {job.events} events delivered in {tracker.statistics().requests} requests")
    for why, events in lost.items():
        job.say(f"{events} lost, {why}")
    if interrupted:
        sys.exit(130)
    sys.exit(1 if job.problems or delivered != job.events else 0)


class _Job:
    """Reads lines, tracks them, and sees them off."""

    def __init__(self, tracker: Tracker, stream: str, timeout: float) -> None:
        self._tracker = tracker
        self._stream = stream
        self._timeout = timeout
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
        self.events = 0
        self.problems = 0

    def run(self, source: IO[bytes]) -> None:
        try:
            for number, line in enumerate(source, 1):
                self._track(number, line.strip())
                if number % 256 == 0:
                    self._show()
        except BacklogFull:
            self.problem(f"gave up: the backlog is full and nothing was delivered for {self._timeout:g} s")
        self._see_off()

    def _track(self, number: int, line: bytes) -> None:
        if not line:
            return
        self.events += 1
        try:
            texts = element_texts(f"[{line.decode()}]")
            if len(texts) != 1:
                raise EventError("there is more than one value")
            # What is no string is sent as it stands: reading and writing could change it (1.10, repeated names).
            event = texts[0] if line.startswith(b'"') else orjson.Fragment(texts[0])
            self._tracker.track(self._stream, event)
        except ValueError as error:
            self.problem(f"line {number}: {str(error).partition(': line 1')[0]}")

    def _see_off(self) -> None:
        """Wait for delivery as long as there is progress, and a collector that takes the key."""
        left = self._timeout
        settled = 0
        while left > 0 and self._tracker.flush(min(TURN, left)).pending:
            self._show()
            now = self._tracker.statistics()
            if now.parked:
                self.problem("gave up: the collector refuses the key")
                return
            left = self._timeout if now.accepted - now.pending > settled else left - TURN
            settled = now.accepted - now.pending
        self._show()

    def problem(self, message: str) -> None:
        """Report what goes against a clean result; of very many only the first."""
        self.problems += 1
        if self.problems <= PROBLEMS_SHOWN:
            self.say(message)
        elif self.problems == PROBLEMS_SHOWN + 1:
            self.say("further problems are not shown")

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False)

    def _show(self) -> None:
        self.progress.update(self._task, completed=self._tracker.statistics().delivered, total=self.events)


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """The lines of *file*, or of standard input; unpacked if it begins as gzip does."""
    if str(file) == "-" and sys.stdin is None:
        raise OSError("standard input is closed")
    with click.open_file(str(file), "rb") as opened:  # standard input stays open
        source = cast(BufferedReader, opened)
        if source.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(source) as unpacked:
                yield cast("IO[bytes]", unpacked)
        else:
            yield source
