"""What a transport gives or raises, taken for an answer: it may be a program's own, and give or raise anything."""

from __future__ import annotations

from ._errors import ConnectionFailed, RemoteError
from ._messages import Reply


def answer(given: object) -> Reply | RemoteError:
    """*given* as it is if it is a whole :class:`Reply`, else what is wrong with it."""
    if not isinstance(given, Reply):
        return ConnectionFailed(f"the transport gave a {type(given).__name__} for a Reply")
    trouble = _trouble(given)
    return given if trouble is None else ConnectionFailed(f"the transport gave a Reply whose {trouble}")


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


def _trouble(reply: Reply) -> str | None:
    status: object = reply.status
    if not isinstance(status, int):
        return f"status is no int, but {type(status).__name__}"
    body: object = reply.body
    if not isinstance(body, bytes):
        return f"body is no bytes, but {type(body).__name__}"
    headers: object = reply.headers
    if not isinstance(headers, tuple):
        return f"headers are no tuple, but {type(headers).__name__}"
    for header in headers:
        if not (isinstance(header, tuple) and list(map(type, header)) == [str, str]):
            return "headers are not all pairs of str"
    return None
