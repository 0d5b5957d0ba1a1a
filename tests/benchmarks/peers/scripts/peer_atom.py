"""Ours, with its default batches or as many events a batch as the option says."""

from __future__ import annotations

import harness

import atom_sync

STREAM = "bench.public.events"
KEY = "0123456789abcdef0123456789abcdef"


def connect(setting: harness.Setting) -> harness.Peer:
    options = {"max_batch_events": int(setting.options[0])} if setting.options else {}
    if setting.room is not None:
        options["max_pending_bytes"] = 256 * setting.room
    tracker = atom_sync.Tracker(setting.url, auth_key=KEY, **options)

    def track(event: harness.Event) -> None:
        tracker.track(STREAM, event)

    return harness.Peer(track=track, flush=lambda: tracker.flush(harness.FLUSH_TIMEOUT))


if __name__ == "__main__":
    harness.main(connect)
