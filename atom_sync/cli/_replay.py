"""``atom-events replay``."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from atom_sansio import AuthKey, BacklogError, Options, Recovered
from atom_sync import Tracker
from atom_sync._environment import read_options
from atom_sync._transport import open_transport
from atom_sync.backlog import Backlog, Letter, Level, OpenBacklog

from ._finite import finite
from ._letters import Box, DamagedFile, Filter, filter_options, open_boxes
from ._paced import Paced
from ._sendoff import KEY_OPTIONS, Losses, SendOff, advising, read_key
from ._shown import counted, printable, say, say_table

AT_ONCE: Final = 1000
"""Letters that become batches in one transaction; each of those waits for the disk."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--endpoint", required=True, envvar="ATOM_ENDPOINT", help="URL of the collector.")
@click.option(
    "--auth-key-env",
    metavar="NAME",
    help="Environment variable that holds the key of all streams without one in ATOM_AUTH_KEYS.",
)
@click.option("--sign-again", is_flag=True, help="Sign with these keys what was signed with others, or not at all.")
@filter_options
@click.option("--dry-run", is_flag=True, help="Only show what would be sent once no tracker has FILE.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    metavar="EVENTS",
    help="Events a second at most.  Batches are sent whole, with pauses in between.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    callback=finite,
    help="Seconds without progress after which to give up.",
)
def replay(
    file: Path,
    endpoint: str,
    auth_key_env: str | None,
    sign_again: bool,
    chosen: Filter,
    dry_run: bool,
    rate: float | None,
    timeout: float,
) -> None:
    """Send the dead letters of the backlog FILE again, and all that is pending there.

    Every event goes under the id it had, so a collector that did store it does not store it twice.  What is refused
    again is a dead letter again, with the new reason; what cannot be delivered now, or not before Ctrl-C, stays in
    FILE as pending, and the next tracker that has FILE sends it.  The filters choose dead letters; what is pending
    is sent in any case.

    A tracker that is running must not have FILE; numbered files beside it that one has are left to it.  Keys of
    several streams are in the environment variable ATOM_AUTH_KEYS, as {"stream": "key"}; the other options of a
    tracker are read from there too.  Exits with 0 if all was delivered, with 1 if not, with 130 after Ctrl-C.
    """
    try:
        key = read_key(auth_key_env)
        options = read_options(endpoint, {} if key is None else {"auth_key": key})
    except (TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    keys = _Keys(options, sign_again)
    try:
        with open_boxes(file) as boxes:
            chosen.check_labels(boxes)
            if dry_run:
                _show(boxes, chosen, keys)
                return
    except DamagedFile:
        if dry_run:
            raise
    try:
        opened = Backlog(file, level=Level.DISK).open(numbered=False)
    except BacklogError as error:
        advice = "; replay when that has ended" if error.__cause__ is None else ""  # else nobody has it
        raise click.ClickException(f"{error}{advice}") from None
    try:
        skipped = _revive(opened, chosen, keys)
        with advising(f"{KEY_OPTIONS}, with --sign-again for another key"):
            sys.exit(_send(opened, keys, endpoint, options, rate, timeout, skipped))
    except KeyboardInterrupt:  # before anything was sent; what was revived is pending
        sys.exit(130)
    finally:
        opened.close()


class _Keys:
    """Which keys there are, and what they sign."""

    def __init__(self, options: Options, sign_again: bool) -> None:
        self._options = options
        self._sign_again = sign_again
        keys = (options.auth_key, *options.auth_keys.values())
        self._known: set[str | None] = {None, *(key.fingerprint for key in keys if key is not None)}

    def signs(self, stream: str, fingerprint: str | None) -> str | None:
        """The fingerprint of the key for events of *stream* that were kept with *fingerprint*."""
        key: AuthKey | None = self._options.auth_keys.get(stream, self._options.auth_key)
        return key.fingerprint if self._sign_again and key is not None else fingerprint

    def known(self, stream: str, fingerprint: str | None) -> bool:
        """Whether there is that key."""
        return self.signs(stream, fingerprint) in self._known


class _Ours:
    """What the tracker gets: a backlog that is open, and whose events have the keys that they are to have now."""

    def __init__(self, opened: OpenBacklog, keys: _Keys) -> None:
        self._opened = opened
        self._keys = keys

    def open(self) -> _Ours:
        return self

    def recover(self) -> Recovered:
        found = self._opened.recover()
        signs = self._keys.signs
        return replace(
            found,
            batches=tuple(replace(kept, fingerprint=signs(kept.stream, kept.fingerprint)) for kept in found.batches),
            records=tuple(replace(kept, fingerprint=signs(kept.stream, kept.fingerprint)) for kept in found.records),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)


def _revive(opened: OpenBacklog, chosen: Filter, keys: _Keys) -> Counter[tuple[str, str | None]]:
    """Make batches of the letters that are chosen; return how many events have no key, by what key they lack."""
    skipped: Counter[tuple[str, str | None]] = Counter()
    with open_boxes(opened.path) as boxes:
        chosen.check_labels(boxes)
        for box in boxes:
            if box.path not in opened.files:
                click.echo(f"{printable(str(box.path))} is in use, and left to the tracker that has it", err=True)
                continue
            some: list[Letter] = []
            for letter in (found.letter for found in chosen.find([box])):
                if not keys.known(letter.stream, letter.fingerprint):
                    skipped[letter.stream, letter.fingerprint] += letter.events
                    continue
                some.append(replace(letter, lines=b""))
                if len(some) == AT_ONCE:
                    box.letters.revive(*some, opened=opened)
                    some.clear()
            box.letters.revive(*some, opened=opened)
    return skipped


def _send(
    opened: OpenBacklog,
    keys: _Keys,
    endpoint: str,
    options: Options,
    rate: float | None,
    timeout: float,
    skipped: Counter[tuple[str, str | None]],
) -> int:
    """Let a tracker send all that waits in *opened*; return the exit status."""
    losses = Losses()
    try:
        paced = Paced(open_transport(options.transport), rate)
        tracker = Tracker(
            endpoint, auth_key=options.auth_key, backlog=_Ours(opened, keys), on_loss=losses, transport=paced
        )
    except (TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    sendoff = SendOff(tracker, timeout, lambda: paced.pausing)
    interrupted = False
    try:
        with sendoff.progress:
            sendoff.see_off()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        paced.hurry()
        interrupted |= sendoff.stop(1.0)
    now = tracker.statistics()
    sendoff.say(f"{now.delivered} of {counted(now.restored, 'event')} delivered in {counted(now.requests, 'request')}")
    for line in losses.lines():
        sendoff.say(line)
    if now.pending:
        why = f"; the last attempt: {paced.trouble}" if paced.trouble else ""
        sendoff.say(f"{counted(now.pending, 'event')} left in {opened.path}, for the next tracker that has it{why}")
    for (stream, fingerprint), events in skipped.items():
        sendoff.say(
            f"{counted(events, 'event')} of stream {stream} stay dead: the key {fingerprint} was not given"
            " (--sign-again takes another)"
        )
    if interrupted:
        return 130
    return 1 if now.delivered != now.restored or skipped else 0


def _show(boxes: list[Box], chosen: Filter, keys: _Keys) -> None:
    """Write what would be sent."""
    pending: Counter[tuple[str, str | None]] = Counter()
    dead: Counter[tuple[str, str | None]] = Counter()
    for box in boxes:
        for waiting in box.letters.waiting():
            pending[waiting.stream, waiting.fingerprint] += waiting.events
    for letter in (found.letter for found in chosen.find(boxes)):
        dead[letter.stream, letter.fingerprint] += letter.events
    rows: dict[tuple[str, str], list[int]] = {}  # several keys may be the same one when it is signed again
    kept_back = 0
    for stream, fingerprint in sorted({*pending, *dead}, key=lambda at: (at[0], at[1] or "")):
        key = keys.signs(stream, fingerprint) or "unsigned"
        row = pending[stream, fingerprint], dead[stream, fingerprint]
        if not keys.known(stream, fingerprint):
            key = f"{key} (not given)"
            kept_back += sum(row)
            del pending[stream, fingerprint], dead[stream, fingerprint]
        shown = rows.setdefault((stream, key), [0, 0])
        shown[:] = map(sum, zip(shown, row, strict=True))
    but = f", but not {counted(kept_back, 'event')} whose key was not given" if kept_back else ""
    letters = f"{counted(dead.total(), 'event')} of dead letters"
    say(f"would send {counted(pending.total(), 'pending event')} and {letters}{but}")
    if rows:
        say_table(("stream", "key", "pending", "dead"), [(*names, *events) for names, events in rows.items()])
