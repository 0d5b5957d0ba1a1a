"""When an endpoint is taken to be in trouble, and when not."""

from __future__ import annotations

from atom_sansio import RetryPolicy
from atom_sansio._breaker import Breaker


def breaker() -> Breaker:
    return Breaker(RetryPolicy(base=1.0, cap=10.0))


def test_one_lane_opens_nothing() -> None:
    """However often one lane fails, that says nothing of the others."""
    it = breaker()
    for now in range(20):
        it.failed("a", now=now, unit=0.9)
    assert it.retry_at is None


def test_the_second_lane_opens_it() -> None:
    """With a second failing lane the next probe has a time, and each further failure moves it."""
    it = breaker()
    it.failed("a", now=0.0, unit=0.5)
    it.failed("b", now=1.0, unit=0.5)
    assert it.retry_at == 1.0 + 0.5 * 2
    it.failed("a", now=5.0, unit=0.5)
    assert it.retry_at == 5.0 + 0.5 * 4
    it.failed("c", now=9.0, unit=0.5)
    assert it.retry_at == 9.0 + 0.5 * 8
    for _ in range(50):
        it.failed("d", now=20.0, unit=0.5)
    assert it.retry_at == 20.0 + 0.5 * 10, "the cap holds"


def test_any_answer_closes_it() -> None:
    """After the first answer requests flow, and two lanes must fail anew, from the first pause on."""
    it = breaker()
    for _ in range(3):
        it.failed("a", now=0.0, unit=0.5)
        it.failed("b", now=0.0, unit=0.5)
    it.answered()
    assert it.retry_at is None
    it.failed("b", now=2.0, unit=0.5)
    assert it.retry_at is None
    it.failed("a", now=2.0, unit=0.5)
    assert it.retry_at == 3.0
