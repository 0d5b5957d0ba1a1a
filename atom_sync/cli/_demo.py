"""``atom-events demo``."""

from __future__ import annotations

import dataclasses
import functools
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import anyio
import click
from rich.console import Console
from rich.table import Table

import atom_anyio
import atom_sync
from atom_sansio import Options, Statistics

if TYPE_CHECKING:
    from atom_sansio import TrackerOptions

Send = Callable[[str, str, str, list[Any]], Statistics]
"""Sends events to (url, stream, key) and returns the ledger."""


@click.command()
def demo() -> None:
    """Send real events through all drivers to a collector started here, and compare what it stored.

    Exits with 0 if every event was stored once, in order and equal, and with 1 if not.  What the environment says
    of a tracker is not taken, so that a backlog stays as it is.
    """
    try:
        import trio  # noqa: F401 - only whether it is there

        from atom_anyio.collector import Collector
    except ImportError as error:
        raise click.ClickException(f"the demo needs every extra ({error}): pip install 'atom-events[all]'") from error
    console = Console()
    events = _read_events()
    senders: dict[str, Send] = {
        "threads": _send_with_threads,
        "asyncio": functools.partial(_send_with_anyio, "asyncio"),
        "trio": functools.partial(_send_with_anyio, "trio"),
    }
    keys = {f"demo.public.{name}": secrets.token_hex(16) for name in senders}
    table = Table("driver", "stream", "sent", "requests", "delivered", "stored", "equal", "seconds")
    differences: list[str] = []
    with Collector(keys=keys) as url:
        console.print(f"collector at {url}, {len(events)} events to each of {len(keys)} signed streams")
        for (name, send), (stream, key) in zip(senders.items(), keys.items(), strict=True):
            began = time.perf_counter()
            statistics = send(url, stream, key, events)
            seconds = time.perf_counter() - began
            stored = list(_read_back(url, stream))
            found = list(_compare(stream, events, stored))
            differences += found
            table.add_row(
                name,
                stream,
                str(len(events)),
                str(statistics.requests),
                str(statistics.delivered),
                str(len(stored)),
                "no" if found else "yes",
                f"{seconds:.3f}",
            )
    console.print(table)
    for difference in differences[:20]:
        console.print(difference, markup=False, highlight=False)
    if differences:
        console.print(f"{len(differences)} differences")
        sys.exit(1)
    console.print("Every event was stored once, in order, and equal to what was sent.")


def _read_events() -> list[Any]:
    lines = resources.files("atom_sync.examples").joinpath("events.ndjson").read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.split("\n") if line]


def _options(url: str, key: str) -> TrackerOptions:
    """Every option with its default, so that the environment decides none.

    A tracker with the user's ATOM_BACKLOG would deliver what waits there to a collector that forgets it.
    """
    options = Options.read({"endpoint": url, "auth_key": key}, {}, resolve=str)
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    del values["endpoint"]
    return cast("TrackerOptions", values)


def _send_with_threads(url: str, stream: str, key: str, events: list[Any]) -> Statistics:
    with atom_sync.Tracker(url, **_options(url, key)) as tracker:
        for event in events:
            tracker.track(stream, event)
        tracker.flush(30)
        return tracker.statistics()


def _send_with_anyio(backend: str, url: str, stream: str, key: str, events: list[Any]) -> Statistics:
    async def main() -> Statistics:
        async with atom_anyio.Tracker(url, **_options(url, key)) as tracker:
            for event in events:
                await tracker.track(stream, event)
            await tracker.flush(30)
            return tracker.statistics()

    return anyio.run(main, backend=backend)


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    event: Any
    text: str


def _read_back(url: str, stream: str) -> Iterator[_Row]:
    opener = build_opener(ProxyHandler({}))  # what is on this machine is asked for directly, whatever proxy is set
    after: int | None = 0
    while after is not None:
        with opener.open(f"{url}_atom/events?stream={quote(stream)}&after={after}&limit=1000") as answer:
            page = json.load(answer)
        yield from (_Row(row["event"], row["text"]) for row in page["events"])
        after = page["next"]


def _compare(stream: str, sent: list[Any], stored: list[_Row]) -> Iterator[str]:
    if len(sent) != len(stored):
        yield f"{stream}: {len(sent)} sent, {len(stored)} stored"
    for number, (event, row) in enumerate(zip(sent, stored, strict=False), 1):
        # A string is stored as it is, and shown as the JSON value that it may hold.
        same = row.text == event if isinstance(event, str) else row.event == event and type(row.event) is type(event)
        if not same:
            yield f"{stream}, event {number}: sent {event!r}, stored {row.text!r}"
