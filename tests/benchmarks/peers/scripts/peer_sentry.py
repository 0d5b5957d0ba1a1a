"""sentry-sdk's capture_event: a queue of 100 by default, one post an event; gzip is off, as for all others."""

from __future__ import annotations

import harness
import sentry_sdk


def connect(setting: harness.Setting) -> harness.Peer:
    room = {} if setting.room is None else {"transport_queue_size": setting.room}
    sentry_sdk.init(f"http://key@{setting.host}/1", _experiments={"transport_compression_level": 0}, **room)

    def track(event: harness.Event) -> bool:
        return sentry_sdk.capture_event({"message": "event", "extra": event}) is not None

    return harness.Peer(track=track, flush=lambda: sentry_sdk.flush(timeout=harness.FLUSH_TIMEOUT))


if __name__ == "__main__":
    harness.main(connect)
