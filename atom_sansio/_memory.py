"""A collector that exists only in memory: the part of both drivers' MemoryTransport that they share."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

from ._messages import JSON, Reply, Request

Answer: TypeAlias = int | Reply | Exception
"""A status, a whole reply, or what is to be raised in place of one."""

_OK: Final = b'{"Status":"OK"}'


class Recorder:
    """Answers requests by a script and keeps them.

    Safe from any thread: what is shared are single appends to lists and pops from a deque.

    Args:
        answers: None, and each request is answered 200; a sequence, whose answers are used up one by one,
            then 200; or a function of the request that gives the answer.

    Raises:
        TypeError: *answers* or one of them is none of these.
        ValueError: a status is not between 200 and 599.
    """

    def __init__(self, answers: Sequence[Answer] | Callable[[Request], Answer] | None = None) -> None:
        self._choose = answers if callable(answers) else _script(answers)
        self._accepted: list[Request] = []
        self.requests: list[Request] = []
        """Every request, in the order of arrival, however it was answered."""

    def reply(self, request: Request) -> Reply:
        """The answer that is due to *request*.

        Raises:
            Exception: the one that the script gives in place of a reply.
            TypeError, ValueError: the function gave what is no answer.
        """
        self.requests.append(request)
        answer = _check(self._choose(request))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            answer = Reply(status=answer, headers=(), body=_OK if answer < 300 else b"")
        if 200 <= answer.status < 300:
            self._accepted.append(request)
        return answer

    @property
    def events(self) -> list[tuple[str, JSON]]:
        """``(stream, event)`` of everything answered 2xx, in order.

        An event that was tracked as a ``str`` is shown as a collector shows it: by its JSON value, or as
        the text it is where it is no JSON.
        """
        return [pair for request in tuple(self._accepted) for pair in _events(request)]


def _script(answers: Sequence[Answer] | None) -> Callable[[Request], Answer]:
    if answers is None:
        answers = ()
    if not isinstance(answers, Sequence) or isinstance(answers, (str, bytes)):
        raise TypeError(f"answer must be a sequence or a function, not {type(answers).__name__}")
    left = deque(map(_check, answers))

    def choose(request: Request) -> Answer:
        try:
            return left.popleft()
        except IndexError:  # asking first whether any is left would be a race
            return 200

    return choose


def _check(answer: object) -> Answer:
    if isinstance(answer, (Reply, Exception)):
        return answer
    if not isinstance(answer, int):
        raise TypeError(f"answer must be an int, a Reply or an exception, not {type(answer).__name__}")
    if not 200 <= answer <= 599:
        raise ValueError(f"answer must be a status from 200 to 599, not {answer}")
    return answer


def _events(request: Request) -> list[tuple[str, JSON]]:
    """The events in a request of ours; a health check holds none."""
    url = urlsplit(request.target)
    body = request.body
    if request.method == "GET":
        data = parse_qs(url.query).get("data")
        if data is None:
            return []
        body = base64.b64decode(data[0])
    envelope = json.loads(body)
    stream, text = envelope["table"], envelope["data"]
    if not envelope.get("bulk"):
        return [(stream, _value(text))]
    return [(stream, _value(item) if isinstance(item, str) else item) for item in json.loads(text)]


def _value(text: str) -> JSON:
    try:
        value: JSON = json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text
    return value


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
