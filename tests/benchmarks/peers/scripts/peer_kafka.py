"""confluent-kafka against librdkafka's own mock broker, which runs, and costs CPU, in this process.

No sink sees these events: delivery reports are counted.
"""

from __future__ import annotations

import json

import harness
from confluent_kafka import Producer


def connect(setting: harness.Setting) -> harness.Peer:
    silent = {"bootstrap.servers": setting.host}
    servers = silent if setting.mode == "memory" else {"test.mock.num.brokers": 1}
    room = {} if setting.room is None else {"queue.buffering.max.messages": setting.room}
    producer = Producer({**servers, **room})
    delivered = 0

    def report(error: object, message: object) -> None:
        nonlocal delivered
        if error is None:
            delivered += 1

    def track(event: harness.Event) -> bool:
        try:
            producer.produce("events", json.dumps(event), on_delivery=report)
        except BufferError:
            return False
        producer.poll(0)
        return True

    return harness.Peer(track=track, flush=lambda: producer.flush(harness.FLUSH_TIMEOUT), delivered=lambda: delivered)


if __name__ == "__main__":
    harness.main(connect)
