"""snowplow-tracker: an emitter with a thread of its own.

It posts 64 events at a time where CPU is measured; by itself 10, with a connection for each.  The event's JSON is
sent as base64, as it is by default, so the sink counts the name of the field that has it.
"""

from __future__ import annotations

import logging

import harness
from snowplow_tracker import AsyncEmitter, SelfDescribing, SelfDescribingJson, Tracker

SCHEMA = "iglu:com.example/event/jsonschema/1-0-0"


def connect(setting: harness.Setting) -> harness.Peer:
    logging.getLogger("snowplow_tracker").setLevel(logging.WARNING)
    room = {} if setting.room is None else {"buffer_capacity": setting.room, "batch_size": 64}
    emitter = AsyncEmitter(setting.host, protocol="http", **room)
    tracker = Tracker("benchmark", emitter)

    def track(event: harness.Event) -> None:
        tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, event)))

    return harness.Peer(track=track, flush=emitter.sync_flush)


if __name__ == "__main__":
    harness.main(connect)
