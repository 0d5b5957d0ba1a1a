"""How the simulator says what is wrong."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold."""


def must(condition: object, what: str) -> None:
    """Complain of *what* unless *condition*."""
    if not condition:
        raise Violation(what)
