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


@pytest.mark.parametrize("status", ["200", None, 200.0])
def test_a_reply_without_a_status(status: Any) -> None:
    """It says nothing of what became of the request."""
    found = answer(Reply(**{**OK, "status": status}))
    assert isinstance(found, ConnectionFailed)
    words = f"the transport gave a Reply whose status is no int, but {type(status).__name__}"
    assert (str(found), found.stale) == (words, False)


class Name(str):
    """As some libraries have names of headers."""


@pytest.mark.parametrize(
    ("wrong", "whole"),
    [
        ({"body": "{}"}, {"body": b""}),
        ({"body": None}, {"body": b""}),
        ({"body": bytearray(b"1")}, {"body": b"1"}),
        ({"body": memoryview(b"1")}, {"body": b"1"}),
        ({"headers": None}, {"headers": ()}),
        ({"headers": {"retry-after": "1"}}, {}),
        ({"headers": [["retry-after", "1"]]}, {}),
        ({"headers": [("retry-after", "1")]}, {}),
        ({"headers": (("retry-after", "1"), ("a", 1), (b"b", "c"), ("d",), ("e", "f", "g"), "hij")}, {}),
        ({"headers": (1, 2)}, {"headers": ()}),
        ({"headers": (("a", 1),)}, {"headers": ()}),
        ({"headers": (("a",),)}, {"headers": ()}),
        ({"headers": [("retry-after", Name("1"))]}, {}),
        ({"headers": [(Name("retry-after"), "1")]}, {}),
    ],
)
def test_a_reply_that_is_not_quite_one(wrong: dict[str, Any], whole: dict[str, Any]) -> None:
    """Its status counts, and of the rest what can be read."""
    found = answer(Reply(**{**OK, **wrong}))
    assert found == Reply(**{**OK, **whole})
    assert isinstance(found, Reply)
    assert type(found.body) is bytes
    assert all(type(text) is str for header in found.headers for text in header)


def test_names_of_another_type() -> None:
    """They are texts."""
    reply = Reply(**{**OK, "headers": ((Name("retry-after"), "1"),)})
    assert answer(reply) is reply


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
