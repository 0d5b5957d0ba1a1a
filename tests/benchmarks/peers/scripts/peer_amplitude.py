"""amplitude-analytics: a list without a bound, and up to 16 threads that post 200 events each."""

from __future__ import annotations

import threading

import harness
from amplitude import Amplitude, BaseEvent, Config


def connect(setting: harness.Setting) -> harness.Peer:
    settled = threading.Semaphore(0)
    tracked = 0
    # Its flush does not wait for what the threads took before, so count what it says is settled.
    client = Amplitude("key", Config(server_url=setting.url, callback=lambda *_: settled.release()))

    def track(event: harness.Event) -> None:
        nonlocal tracked
        tracked += 1
        client.track(BaseEvent("event", user_id="user-1", event_properties=event))

    def flush() -> None:
        nonlocal tracked
        client.flush()
        while tracked and settled.acquire(timeout=harness.FLUSH_TIMEOUT):
            tracked -= 1

    return harness.Peer(track=track, flush=flush)


if __name__ == "__main__":
    harness.main(connect)
