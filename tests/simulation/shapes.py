"""Events of many shapes whose exact text is known without the code under test.

Each event holds a number of seven digits that no other has, so a text is cut once around it and put together again
for each event.  The text comes from the standard library's json.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

FIRST = 1_000_000
"""The number of the first event; all have as many digits, so a shape's events are all of one size."""

_MARK = 9_999_999


@dataclass(slots=True)
class Shape:
    """Events that differ in their number alone."""

    name: str
    proto: Any
    """The event itself but for its number, or None where the text is the event."""
    slot: Any
    """Where in ``proto`` the number goes."""
    before: str
    """Of the text that a collector stores, what comes before the number."""
    after: str
    size: int
    """Bytes of the encoded line."""
    poison: bool = field(default=False)
    """Whether the collector refuses it for good."""
    too_large: bool = field(default=False)
    """Whether it does not even fit into a request of its own."""

    def text(self, number: int) -> str:
        """What a collector stores."""
        return f"{self.before}{number}{self.after}"

    def event(self, number: int, text: str) -> Any:
        """What is tracked; the next event of this shape is the same object, changed."""
        if self.proto is None:
            return text if self.slot is None else number
        self.proto[self.slot] = number
        return self.proto

    def event_apart(self, number: int, text: str) -> Any:
        """The same as an object of its own, for what interrupts: its like may just be encoded, more than once."""
        if self.proto is None:
            return self.event(number, text)
        event = copy(self.proto)
        event[self.slot] = number
        return event


def _value(name: str, proto: Any, slot: Any, text: str | None = None, **flags: bool) -> Shape:
    proto[slot] = _MARK
    text = text or json.dumps(proto, separators=(",", ":"), ensure_ascii=False)
    before, after = text.split(str(_MARK))
    return Shape(name, proto, slot, before, after, len(text.encode()) + 1, **flags)


def _text(name: str, text: str) -> Shape:
    before, after = text.split(str(_MARK))
    return Shape(name, None, None, before, after, len(json.dumps(text, ensure_ascii=False).encode()) + 1)


def shapes(max_batch_bytes: int) -> list[Shape]:
    """All shapes, for requests of at most *max_batch_bytes*; the usual one first."""
    usual = {
        "n": 0,
        "event": "click",
        "url": "https://shop.example/cart?step=2",
        "user": "u-51773",
        "ok": True,
        "p": 9.5,
    }
    body = max(64, min((max_batch_bytes - 600) // 2, 20_000))
    odd = {"n": 0, "d": Decimal("1.10"), "big": 2**70, 7: "seven", "t": (1, 2)}
    odd_text = f'{{"n":{_MARK},"d":1.10,"big":{2**70},"7":"seven","t":[1,2]}}'
    return [
        _value("usual", usual, "n"),
        _value("small", {"n": 0}, "n"),
        _value("nested", {"n": 0, "поток": {"é": ["𝄞", {"a": []}], "b": [[], {}]}}, "n"),
        _value("list", [0, "a", None, 1.5, {"x": 1}], 0),
        _value("null", {"n": 0, "nothing": None}, "n"),
        _value("slow", odd, "n", odd_text),
        Shape("number", None, 0, "", "", 8),
        _text("json", f'{{"n":{_MARK},"text":"as it is"}}'),
        _text("escapes", f'{_MARK}"\\' + '"\\' * 40),
        _text("control", f"\u2028\x00\n\t{_MARK}\x1f\x7f"),
        _value("large", {"n": 0, "body": "x" * body}, "n"),
        _value("poison", {"n": 0, "poison": True}, "n", poison=True),
        _value("too large", {"n": 0, "body": "y" * max_batch_bytes}, "n", too_large=True),
    ]
