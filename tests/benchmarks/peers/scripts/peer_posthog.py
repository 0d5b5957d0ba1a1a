"""posthog: a bounded queue and one thread that posts 100 events at a time."""

from __future__ import annotations

import harness
from posthog import Posthog


def connect(setting: harness.Setting) -> harness.Peer:
    room = {} if setting.room is None else {"max_queue_size": setting.room}
    # Without a secret key it neither polls feature flags nor reads a remote configuration.
    client = Posthog("key", host=setting.url, enable_local_evaluation=False, **room)

    def track(event: harness.Event) -> bool:
        return client.capture("event", distinct_id="user", properties=event) is not None

    return harness.Peer(track=track, flush=lambda: client.flush(timeout_seconds=harness.FLUSH_TIMEOUT))


if __name__ == "__main__":
    harness.main(connect)
