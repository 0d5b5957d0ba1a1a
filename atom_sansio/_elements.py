"""The events of a batch, each as its own exact text.

A parsed value cannot give the text back: integers beyond 64 bits, ``1.10``, escapes and repeated names
would change.  So values are only used where they are proven to say the same, and everything else is cut
out of the text itself.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import orjson

_loads = orjson.loads
_dumps = orjson.dumps

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_STRING_OR_OTHER: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^ \t\n\r"]+')


def element_texts(data: str) -> list[str]:
    """The text of each element of the JSON array *data*: a string's own text, else compact JSON.

    Compact means that white space between tokens is gone and nothing else has changed.

    Raises:
        ValueError: it is no strict JSON array (NaN and lone surrogates are no JSON), it is empty, or it
            is nested too deeply to read (hundreds of levels are not).
    """
    try:
        return _element_texts(data)
    except RecursionError:
        raise ValueError("data is nested too deeply") from None


def _element_texts(data: str) -> list[str]:
    try:
        values = _loads(data)
    except orjson.JSONDecodeError:
        values = _read_slowly(data)
    if type(values) is not list:
        raise ValueError("data is not a JSON array")
    if not values:
        raise ValueError("data is an array without events")
    kinds = set(map(type, values))
    if kinds == {str}:
        return values
    try:
        if _dumps(values).decode() == data:
            # Between objects there is "},{" then.  It may be within one too, but where there are as many as
            # between them, there are no others.
            inner = data[2:-2].split("},{")
            if kinds == {dict} and len(inner) == len(values):
                return ["{" + text + "}" for text in inner]
            return [value if type(value) is str else _dumps(value).decode() for value in values]
    except TypeError:  # deeper than orjson writes
        pass
    return _cut(data)


def _read_slowly(data: str) -> Any:
    """*data* as the standard library reads it, for what orjson cannot: numbers that no float holds."""
    try:
        values = _decoder.decode(data)
        if _SURROGATE.search(data):
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("data holds a lone surrogate") from None
    except ValueError as error:
        # The error's own message quotes nothing, but the error holds all of the data.
        raise ValueError(f"data is not JSON: {error}") from None
    return values


def _cut(data: str) -> list[str]:
    """The elements of the JSON array *data*, which is known to be one, cut out of its compact text."""
    compact = "".join(_STRING_OR_OTHER.findall(data))
    texts = []
    end = 0
    while compact[end] != "]":
        start = end + 1  # behind "[" or ","
        value, end = _decoder.raw_decode(compact, start)
        texts.append(value if type(value) is str else compact[start:end])
    return texts


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in JSON")


# Values are thrown away, so numbers are not converted (a long one takes quadratic time).  An object becomes a
# tuple of all its pairs, so that the search for surrogates sees repeated names too, and no object is a list.
_decoder: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_int=len, parse_float=len, parse_constant=_no_constant)
