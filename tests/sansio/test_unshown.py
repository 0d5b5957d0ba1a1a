"""What tracebacks show of local variables."""

from __future__ import annotations

from traceback import TracebackException

import pytest

from atom_sansio._unshown import forget_locals

CANARY = "canary-5ecret"


def fails(text: str) -> None:
    raise ValueError("inside")


def fails_in_turn(text: str) -> None:
    try:
        fails(text)
    except ValueError as error:
        raise TypeError("outside") from error


def shown(error: BaseException) -> str:
    return "".join(TracebackException.from_exception(error, capture_locals=True).format())


def test_locals() -> None:
    """The frames that an exception has left are there without their variables, and so are those of its cause."""
    with pytest.raises(TypeError) as caught:
        fails_in_turn("-".join(["canary", "5ecret"]))
    assert CANARY in shown(caught.value)
    forget_locals(caught.value)
    text = shown(caught.value)
    assert CANARY not in text
    assert "in fails_in_turn" in text
    assert "ValueError: inside" in text


def test_own_locals() -> None:
    """The caller goes on with its own; a chain of exceptions that is a circle comes to an end."""
    value = CANARY
    try:
        fails("")
    except ValueError as error:
        error.__cause__ = error
        forget_locals(error)
    assert value == CANARY
