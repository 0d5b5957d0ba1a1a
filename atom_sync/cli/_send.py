"""``atom-events send``."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import click
import orjson

from atom_sansio import BacklogError, BacklogFull, EventError, OnFull, element_texts
from atom_sansio._request import check_stream
from atom_sync import Tracker
from atom_sync.backlog import Backlog, OpenBacklog

from ._finite import finite
from ._sendoff import KEY_OPTIONS, Losses, SendOff, advising, read_key
from ._shown import counted

if TYPE_CHECKING:
    from atom_sansio import TrackerOptions


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
    callback=finite,
    help="Seconds without progress after which to give up.",
)
@click.option(
    "--backlog",
    envvar="ATOM_BACKLOG",
    type=click.Path(dir_okay=False),
    metavar="BACKLOG",
    help="Keep what is not delivered in this file, and send what is in it already.",
)
def send(file: Path, stream: str, endpoint: str, auth_key_env: str | None, timeout: float, backlog: str | None) -> None:
    """Send the events of FILE, one JSON value a line.

    FILE may be compressed with gzip; - is standard input.  Bad lines are reported by number and left out.  Exits
    with 1 if there were any or if an event was not delivered, with 130 after Ctrl-C.

    A line waits until there is room for its event.  If there is none for as long as --timeout this gives up, and
    says at which line: that one and what follows are not sent.

    With --backlog what was taken from FILE before is not lost: it is in the backlog when this ends in whatever way,
    and sent by whoever opens it next.  `atom-events backlog` shows it.
    """
    key = read_key(auth_key_env)
    try:
        check_stream(stream)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    losses = Losses()
    try:
        # For this stream, since a key of the environment's for all or for this one must not go before it.
        kept = None if backlog is None else _Kept(backlog)
        # A file can wait for room, whatever the environment says of events that cannot.
        options: TrackerOptions = {
            "on_full": OnFull.BLOCK,
            "block_timeout": timeout,
            "backlog": kept,
            "on_loss": losses,
        }
        if key is not None:
            options["auth_keys"] = {stream: key}
        tracker = Tracker(endpoint, **options)
    except (TypeError, ValueError, BacklogError) as error:
        raise click.ClickException(str(error)) from None
    sendoff = SendOff(tracker, timeout)
    job = _Job(tracker, stream, sendoff)
    interrupted = False
    try:
        with advising(KEY_OPTIONS), _open(file) as source, sendoff.progress:
            try:
                job.read(source)
            except BacklogFull as error:
                sendoff.problem(
                    f"gave up at line {job.line}, for which there was no room for {timeout:g} s ({error});"
                    " this line and what follows are not sent"
                )
            sendoff.see_off()
    except KeyboardInterrupt:
        interrupted = True
    except (OSError, EOFError, zlib.error) as error:
        sendoff.problem(f"cannot read {file}: {error}")
    finally:
        interrupted |= sendoff.stop(5.0 if interrupted else 1.0)
    now = tracker.statistics()
    of = max(job.events + now.restored, now.accepted)  # Ctrl-C may have come just before an event was counted
    before = f", {now.restored} of them from {backlog}" if now.restored else ""
    sendoff.say(f"{now.delivered} of {counted(of, 'event')} delivered in {counted(now.requests, 'request')}{before}")
    for line in losses.lines():
        sendoff.say(line)
    if now.pending and kept is not None:
        sendoff.say(f"{counted(now.pending, 'event')} left in {kept.file}")
    if interrupted:
        sendoff.say(f"interrupted at line {job.line}")
        sys.exit(130)
    sys.exit(1 if sendoff.problems or now.delivered != of else 0)


class _Kept(Backlog):
    """Says which file it has: if another tracker has the one that was named, or it is no backlog, that is another."""

    file: Path

    def open(self, *, numbered: bool = True) -> OpenBacklog:
        opened = super().open(numbered=numbered)
        self.file = opened.path
        return opened


class _Job:
    """Reads lines and tracks them."""

    def __init__(self, tracker: Tracker, stream: str, sendoff: SendOff) -> None:
        self._tracker = tracker
        self._stream = stream
        self._sendoff = sendoff
        self.events = 0
        self.line = 0
        """The number of the one in hand."""

    def read(self, source: IO[bytes]) -> None:
        for self.line, line in enumerate(source, 1):
            self._track(line.strip())
            if self.line % 256 == 0:
                self._sendoff.show()

    def _track(self, line: bytes) -> None:
        if not line:
            return
        try:
            texts = element_texts(f"[{line.decode()}]")
            if len(texts) != 1:
                raise EventError("there is more than one value")
            # What is no string is sent as it stands: reading and writing could change it (1.10, repeated names).
            event = texts[0] if line.startswith(b'"') else orjson.Fragment(texts[0])
            self._tracker.track(self._stream, event)
        except ValueError as error:
            self._sendoff.problem(f"line {self.line}: {str(error).partition(': line 1')[0]}")
        self.events += 1


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
