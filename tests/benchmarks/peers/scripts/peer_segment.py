"""segment-analytics-python: a bounded queue and one thread that posts 100 events at a time."""

from __future__ import annotations

import harness
from segment.analytics.client import Client


def connect(setting: harness.Setting) -> harness.Peer:
    room = {} if setting.room is None else {"max_queue_size": setting.room}
    client = Client("key", host=setting.url, **room)

    def track(event: harness.Event) -> bool:
        kept, _ = client.track("user", "event", event)
        return kept

    return harness.Peer(track=track, flush=client.flush)


if __name__ == "__main__":
    harness.main(connect)
