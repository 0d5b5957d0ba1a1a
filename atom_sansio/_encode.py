"""An event as strict JSON: one line of text, however the value was spelled in Python.

The quick way is one call of orjson.  Whatever orjson refuses goes the slow way, a walk that either
makes a value of the same meaning that orjson takes (integers of any size, Decimal, keys that are no
strings) or knows the path to the culprit.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from decimal import Decimal
from typing import Any, Final

import orjson

from ._errors import EventError, EventTypeError
from ._shown import shown

encode_quickly = orjson.dumps
QUICKLY: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS
"""A dataclass goes the slow way: quickly written it would show cached properties and other such attributes."""

MAX_DEPTH: Final = 250
"""Levels of nesting that an event may have; orjson stops at 254."""


def encode_event(event: object) -> bytes:
    """The event as one line of compact UTF-8 JSON, newline included.

    A ``str`` becomes a JSON string, passed through unchanged, whether or not it holds JSON itself.
    Taken besides JSON's own types: integers of any size, tuples, subclasses of the JSON types,
    ``Decimal`` (as an exact number), ``datetime``, ``date``, ``time`` (ISO 8601), ``UUID``, enums (their
    value), dataclasses (their fields), and keys that are numbers, booleans or None, written as ``json``
    writes them.

    Raises:
        EventTypeError: a value, named by its path, is of another type.
        EventError: NaN, an infinity, a lone surrogate, a cycle, more than 250 levels, or an integer
            that is longer than Python converts to text.
    """
    try:
        line = encode_quickly(event, None, QUICKLY)
    except TypeError:
        pass
    else:
        # orjson writes NaN as null, so only a line that holds a null can hide one.  (rfind, for `in` and
        # find cost twice as much on so short a text.)
        if line.rfind(b"null") < 0 or not _has_nonfinite(event):
            return line
    return encode_quickly(_plain(event, "event", ()), None, QUICKLY)


def _has_nonfinite(value: object) -> bool:
    """Whether *value*, which orjson takes, may hold a NaN or an infinity.  Errs on the side of True."""
    kind = type(value)
    if kind is float:
        return not math.isfinite(value)  # type: ignore[arg-type]
    if kind is dict:
        return any(
            _has_nonfinite(item)
            for item in value.values()  # type: ignore[attr-defined]
            if type(item) not in (str, int)
        )
    if kind is list or kind is tuple:
        return any(_has_nonfinite(item) for item in value if type(item) not in (str, int))  # type: ignore[attr-defined]
    return kind not in (str, int, bool, type(None))


def _plain(value: object, path: str, above: tuple[int, ...]) -> Any:
    """*value* in types that orjson takes as they are, or the error that names the culprit's *path*."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, enum.Enum):
        return _plain(value.value, path, above)
    if isinstance(value, int):
        return _number(str, int(value), path)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EventError(f"{path} is {value}, which JSON does not have")
        return float(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise EventError(f"{path} is {value}, which JSON does not have")
        return _number(Decimal.__str__, value, path)
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if not record and not isinstance(value, (dict, list, tuple)):
        return _leaf(value, path)
    if id(value) in above:
        raise EventError(f"{path} holds itself")
    if len(above) >= MAX_DEPTH:
        raise EventError(f"event is nested deeper than {MAX_DEPTH} levels")
    above = (*above, id(value))
    if isinstance(value, dict):
        plain = {_key(key, path): _plain(item, f"{path}[{shown(key)}]", above) for key, item in value.items()}
        if len(plain) < len(value):
            raise EventError(f"{path} has two keys that JSON writes alike, such as 1 and '1'")
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{i}]", above) for i, item in enumerate(value)]
    fields = (f.name for f in dataclasses.fields(value) if not f.name.startswith("_"))  # type: ignore[arg-type]
    return {name: _plain(getattr(value, name), f"{path}.{name}", above) for name in fields}


def _leaf(value: object, path: str) -> orjson.Fragment:
    """What only orjson knows to write: a date, a UUID."""
    try:
        return orjson.Fragment(orjson.dumps(value))
    except TypeError:
        hint = "; decode bytes to str" if isinstance(value, (bytes, bytearray)) else ""
        raise EventTypeError(f"{path} is of type {type(value).__name__}, which has no JSON form{hint}") from None


def _number(to_text: Any, value: object, path: str) -> orjson.Fragment:
    try:
        return orjson.Fragment(to_text(value))
    except ValueError as error:  # sys.set_int_max_str_digits
        raise EventError(f"{path} is an integer with more digits than Python converts to text") from error


def _key(key: object, path: str) -> str:
    """A key as the standard library's json writes it."""
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return _text(key, f"a key of {path}")
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if isinstance(key, int):
        return str(int(key))
    if isinstance(key, float) and math.isfinite(key):
        return float.__repr__(key)
    if isinstance(key, float):
        raise EventError(f"{path} has the key {key}, which JSON does not have")
    raise EventTypeError(f"{path} has a key of type {type(key).__name__}; keys are str, numbers, bool or None")


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EventError(f"{path} holds a lone surrogate at index {error.start}, which UTF-8 does not have") from None
    return str.__str__(value)  # of an enum that is a str, str() gives its name
