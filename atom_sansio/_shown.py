"""How a message shows the value that it complains about."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 60
"""Characters.  A message is read by people and goes into logs, however long the value is."""


def shown(value: object) -> str:
    """*value* as Python writes it, or the beginning of that; of a very large integer only its size."""
    if isinstance(value, int) and value.bit_length() > 128:
        # Python refuses to convert one of more than 4300 digits, and does so with another error.
        return f"an int of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
