"""What a transport gives or raises, taken for an answer: it may be a program's own, and give or raise anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._errors import ConnectionFailed, RemoteError
from ._messages import Reply


def answer(given: object) -> Reply | RemoteError:
    """*given* if it is a :class:`Reply`, made whole if it is not quite: what counts is its status."""
    if not isinstance(given, Reply):
        return ConnectionFailed(f"the transport gave a {type(given).__name__} for a Reply")
    status: object = given.status
    if not isinstance(status, int):
        return ConnectionFailed(f"the transport gave a Reply whose status is no int, but {type(status).__name__}")
    if type(given.body) is bytes and _are_pairs(given.headers):
        return given
    return Reply(status=status, headers=_headers(given.headers), body=_body(given.body))


def failure(error: BaseException) -> RemoteError:
    """*error* as it is if it is a :class:`RemoteError` with words, else one that says what was raised."""
    try:
        words = str(error)
    except Exception as another:
        words = f"which raised {type(another).__name__} when it was to be shown"
    else:
        if isinstance(error, RemoteError):
            return error
    return ConnectionFailed(f"the transport raised {type(error).__name__}: {words}")


def _are_pairs(headers: object) -> bool:
    return type(headers) is tuple and all(type(each) is tuple and _is_pair(each) for each in headers)


def _is_pair(each: tuple[object, ...]) -> bool:
    return len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], str)


def _headers(given: Any) -> tuple[tuple[str, str], ...]:
    """Those of *given* that are pairs of str."""
    try:
        pairs = [tuple(pair) for pair in (given.items() if isinstance(given, Mapping) else given)]
    except TypeError:
        return ()
    return tuple((str(pair[0]), str(pair[1])) for pair in pairs if _is_pair(pair))


def _body(given: object) -> bytes:
    """*given* if it is bytes of some kind."""
    return bytes(given) if isinstance(given, (bytes, bytearray, memoryview)) else b""
