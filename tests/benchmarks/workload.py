"""What is sent: the events, their stream and key, and how the sink tells one event from the next."""

from __future__ import annotations

from typing import Any, TypeAlias

from .sink import Sink

Event: TypeAlias = dict[str, Any]

STREAM = "bench.public.events"
KEY = "0123456789abcdef0123456789abcdef"
NEEDLE = '{\\"id\\":'
"""How an event begins inside a body, its number next."""

SMALL: Event = {
    "id": 123,
    "event_name": "PYTHON_SDK_TRACKER_EXAMPLE",
    "string_value": "0.7312345",
    "ts": 1700000000.123,
}
"""99 bytes as JSON."""

LARGE: Event = {
    "id": 123,
    "event_name": "PYTHON_SDK_TRACKER_EXAMPLE",
    "string_value": "0.7312345",
    "ts": 1700000000.123,
    "user": {"id": "u-8f14e45fceea167a", "country": "DE", "plan": "pro", "signup": 1690000000, "beta": True},
    "device": {"os": "Android 14", "model": "Pixel 8 Pro", "locale": "de-DE", "screen": [1344, 2992], "dpi": 489},
    "page": {
        "url": "https://shop.example.com/catalog/shoes/running?sort=price&page=3",
        "title": "Running shoes",
        "referrer": "https://search.example.com/?q=running+shoes",
    },
    "items": [
        {"sku": f"SKU-{i:05d}", "qty": i + 1, "price": 19.99 + i, "name": f"Running shoe model {i}"} for i in range(6)
    ],
    "note": "x" * 122,
}
"""1,030 bytes as JSON."""

WARM_UP: Event = {"event_name": "WARM_UP"}
"""Sent before the clock starts, so that the connection is there; has no number and is not counted."""


def numbered(event: Event, count: int) -> list[Event]:
    """*count* events like *event*, each with a number of its own."""
    return [dict(event, id=i) for i in range(count)]


def counting_sink(*, delay: float = 0.0) -> Sink:
    """A sink that counts these events and notices repeated ones."""
    return Sink(NEEDLE, delay=delay, numbered=True)
