"""``atom-events collector``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

DAY: Final = 24 * 60 * 60.0
"""Seconds."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=3000, show_default=True, help="0 lets the system choose one."
)
@click.option(
    "--store",
    "store_path",
    default="events.db",
    show_default=True,
    metavar="FILE",
    help="SQLite file to keep events in; :memory: for none.",
)
@click.option(
    "--keep",
    type=click.IntRange(1, 36500),
    metavar="DAYS",
    help="Forget events, and the ids that tell repeated batches, when they are so old; without it, never.",
)
@click.option("--key", "keys", multiple=True, metavar="STREAM=KEY", help="Key of a stream.  May be repeated.")
@click.option("--default-key", metavar="KEY", help="Key of all streams without one of their own.")
@click.option(
    "--keys-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of STREAM=KEY lines; *=KEY is the default key, and # begins a comment.",
)
def collector(
    host: str,
    port: int,
    store_path: str,
    keep: int | None,
    keys: tuple[str, ...],
    default_key: str | None,
    keys_file: Path | None,
) -> None:
    """Receive events, verify them, and store them, until SIGTERM or Ctrl-C.

    What is on the command line shows in the list of processes: prefer --keys-file, or put the lines of such a
    file into the environment variable ATOM_COLLECTOR_KEYS.  A stream with no key and no default takes anything.

    At SIGHUP the keys file is read again; if it is wrong, that is logged and the keys from before stay valid.  Give a
    stream its new key beside the old one, exchange it in the programs, then remove the old one.

    The first line of output says where it listens.  Stored events are read at /_atom/events, refused requests at
    /_atom/rejected, counts at /_atom/stats.
    """
    try:
        from atom_anyio.collector import LiveKeyring, Store, StoreFailed, read_keyring, serve
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    try:
        # Without a file nothing would be different when it is read again.
        read = read_keyring if keys_file is None else LiveKeyring
        keyring = read(keys, default_key=default_key, file=keys_file, environment=os.environ)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    try:
        store = Store(store_path, keep=None if keep is None else keep * DAY)
    except (OSError, StoreFailed) as error:
        raise click.ClickException(str(error)) from error
    with store:
        try:
            serve(store, keyring, host=host, port=port, on_listening=lambda url: click.echo(f"listening on {url}"))
        except OSError as error:
            reason = error.strerror or error
            raise click.ClickException(f"cannot listen on {host!r}, port {port}: {reason}") from error
