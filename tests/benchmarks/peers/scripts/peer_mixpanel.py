"""mixpanel's BufferedConsumer: no thread, every 50th call posts the 50 events itself."""

from __future__ import annotations

import harness
from mixpanel import BufferedConsumer, Mixpanel


def connect(setting: harness.Setting) -> harness.Peer:
    consumer = BufferedConsumer(events_url=f"{setting.url}track", request_timeout=10)
    client = Mixpanel("token", consumer=consumer)

    def track(event: harness.Event) -> None:
        client.track("user", "event", event)

    return harness.Peer(track=track, flush=consumer.flush)


if __name__ == "__main__":
    harness.main(connect)
