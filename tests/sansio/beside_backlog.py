"""A core beside a backlog, and what is asked of it."""

from __future__ import annotations

from atom_sansio import (
    AuthKey,
    KeptBatch,
    Level,
    Options,
    Recovered,
    SendRequest,
    TrackerCore,
)


def make(level: Level | None, *, recovered: Recovered | None = None, **options: object) -> TrackerCore:
    """A core beside a backlog."""
    given = {"endpoint": "http://c", "auth_key": "k0", "flush_interval": 10.0, **options}
    core = TrackerCore(Options.read(given, {}, str), source="s", level=level)
    if recovered is not None:
        core.restore(recovered, now=0.0)
    return core


def sends(core: TrackerCore) -> list[SendRequest]:
    """All that is to be sent now."""
    found = []
    while (command := core.next_command(now=0.0)) is not None:
        assert isinstance(command, SendRequest)
        found.append(command)
    return found


def kept(events: int, *, place: int = 1, fingerprint: str | None = AuthKey("k0").fingerprint) -> KeptBatch:
    """A batch that a backlog holds."""
    return KeptBatch(
        batch_id=f"old-{place}",
        place=place,
        part=0,
        stream="a",
        fingerprint=fingerprint,
        events=events,
        size=2 * events,
    )


def event(name: str, size: int) -> bytes:
    """A string of *size* bytes, and its line break."""
    return b'"%s"\n' % (name.encode() * (size - 3))
