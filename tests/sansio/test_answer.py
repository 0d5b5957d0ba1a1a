"""What a transport gives or raises, whatever that is, is an answer that the core can take."""

from __future__ import annotations

from typing import Any

import pytest

from atom_sansio import ConnectionFailed, RemoteError, Reply, RequestTimeout
from atom_sansio._answer import answer, failure

OK: dict[str, Any] = {"status": 200, "headers": (("retry-after", "1"),), "body": b"{}"}


class Wordless(RemoteError):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_a_reply() -> None:
    """A whole one is given on as it is."""
    reply = Reply(**OK)
    assert answer(reply) is reply
    reply = Reply(status=204, headers=(), body=b"")
    assert answer(reply) is reply


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"status": "200"}, "the transport gave a Reply whose status is no int, but str"),
        ({"status": None}, "the transport gave a Reply whose status is no int, but NoneType"),
        ({"body": "{}"}, "the transport gave a Reply whose body is no bytes, but str"),
        ({"body": None}, "the transport gave a Reply whose body is no bytes, but NoneType"),
        ({"headers": {"retry-after": "1"}}, "the transport gave a Reply whose headers are no tuple, but dict"),
        ({"headers": (("retry-after", 1),)}, "the transport gave a Reply whose headers are not all pairs of str"),
        ({"headers": ((b"retry-after", "1"),)}, "the transport gave a Reply whose headers are not all pairs of str"),
        ({"headers": (("a", "b"), ("c",))}, "the transport gave a Reply whose headers are not all pairs of str"),
        ({"headers": (["a", "b"],)}, "the transport gave a Reply whose headers are not all pairs of str"),
        ({"headers": ("ab",)}, "the transport gave a Reply whose headers are not all pairs of str"),
    ],
)
def test_a_reply_with_a_wrong_field(wrong: dict[str, Any], words: str) -> None:
    """It says nothing of what became of the request."""
    found = answer(Reply(**{**OK, **wrong}))
    assert isinstance(found, ConnectionFailed)
    assert (str(found), found.stale) == (words, False)


def test_no_reply() -> None:
    """Nor does anything else."""
    found = answer(None)
    assert isinstance(found, ConnectionFailed)
    assert str(found) == "the transport gave a NoneType for a Reply"


def test_errors() -> None:
    """What a transport should raise is given on, and of the rest it is said what it was."""
    timeout = RequestTimeout("too late")
    assert failure(timeout) is timeout
    found = failure(SystemExit("leaving"))
    assert isinstance(found, ConnectionFailed)
    assert str(found) == "the transport raised SystemExit: leaving"
    assert str(failure(Wordless())) == (
        "the transport raised Wordless: which raised ValueError when it was to be shown"
    )
