"""The text of an event, letter by letter as the old SDK made it: its signature is over these very letters."""

from __future__ import annotations

import json
from collections.abc import Iterable

from atom_sansio import EventError, EventTypeError


def event_text(data: object) -> str:
    """What is sent for *data*: a ``str`` as it is, bytes as the UTF-8 they are, anything else as ``json.dumps``
    writes it.

    Raises:
        EventTypeError: it holds a value of a type that JSON does not have.
        EventError: it is no strict JSON, or no UTF-8.
    """
    text = _decoded(data)
    if not isinstance(text, str):
        return _json(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EventError("data holds a lone surrogate, which UTF-8 does not have") from None
    return text


def events_text(data: Iterable[object]) -> str:
    """The JSON array of all of *data*; strings become strings, values stay values.

    Raises:
        EventError: as :func:`event_text`; the message says which.
    """
    texts = []
    for i, event in enumerate(data):
        try:
            texts.append(_json(_decoded(event)))
        except EventError as error:
            raise type(error)(f"data[{i}]: {error}") from None
    return f"[{', '.join(texts)}]"


def _decoded(data: object) -> object:
    if not isinstance(data, bytes):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # Not chained: it holds all of the data.
        raise EventError(f"data is bytes that are not UTF-8, at index {error.start}") from None


def _json(value: object) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
        if "\\ud" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except TypeError as error:
        raise EventTypeError(f"data has no JSON form: {error}") from None
    except UnicodeEncodeError:
        raise EventError("data holds a lone surrogate, which UTF-8 does not have") from None
    except (ValueError, RuntimeError) as error:  # NaN, a cycle; too deep, or changed by another thread meanwhile
        raise EventError(f"data has no JSON form: {error}") from None
    return text
