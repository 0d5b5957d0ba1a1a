"""Pauses after failures, and the policy that bounds them."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import product
from math import factorial, prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import RetryPolicy, backoff


@pytest.mark.parametrize(
    ("attempt", "unit", "seconds"),
    [(1, 0.0, 0.0), (1, 0.5, 3.0), (2, 0.5, 6.0), (9, 0.5, 768.0), (10, 0.5, 900.0), (10_000, 0.5, 900.0)],
)
def test_full_jitter(attempt: int, unit: float, seconds: float) -> None:
    """A pause is the drawn fraction of a ceiling that doubles from twice the base up to the cap."""
    assert backoff(attempt, base=3.0, cap=1800.0, unit=unit) == seconds


@given(st.integers(1, 10**6), st.floats(1e-3, 1e6), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_bounds(attempt: int, base: float, more: float, unit: float) -> None:
    """No pause is negative or longer than the cap, at any attempt."""
    assert 0 <= backoff(attempt, base=base, cap=base + more, unit=unit) <= base + more


@pytest.mark.parametrize("name", ["base", "cap", "max_elapsed"])
@pytest.mark.parametrize(
    "value",
    [
        0,
        -1.0,
        float("nan"),
        float("inf"),
        pytest.param(10**400, id="huge"),
        pytest.param(-(10**5000), id="too long to write"),
    ],
)
def test_seconds_out_of_range(name: str, value: Any) -> None:
    """Seconds are more than 0 and finite, and what is not is named."""
    with pytest.raises(ValueError, match=f"RetryPolicy {name} must be more than 0 and finite"):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize("name", ["base", "cap", "max_elapsed"])
@pytest.mark.parametrize("value", ["1", True, [1]])
def test_seconds_of_the_wrong_type(name: str, value: Any) -> None:
    """What is no number is named with its type."""
    with pytest.raises(TypeError, match=f"RetryPolicy {name} .* not {type(value).__name__}"):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_max_attempts(value: Any, error: type[Exception]) -> None:
    """Attempts are counted from 1."""
    with pytest.raises(error, match="RetryPolicy max_attempts must be"):
        RetryPolicy(max_attempts=value)


def test_cap_below_base() -> None:
    """The cap is at least the base, or no attempt would have the base's pause."""
    with pytest.raises(ValueError, match=r"RetryPolicy cap must be at least base \(3\), not 2"):
        RetryPolicy(cap=2.0)
    assert RetryPolicy(base=2, cap=2, max_attempts=1, max_elapsed=1) == RetryPolicy(
        base=2.0, cap=2.0, max_attempts=1, max_elapsed=1.0
    )


def test_requests_of_an_outage() -> None:
    """By the default policy more than 8 requests of a lane within 25 s are as good as impossible, though not quite.

    Answered at once, n pauses fit into a time t with the probability that a point drawn from a box lies in the
    corner where the sum of its coordinates is below t, found by inclusion and exclusion.
    """

    def fit(n: int, t: int) -> float:
        ceilings = [Fraction(backoff(attempt, base=3.0, cap=1800.0, unit=1.0)) for attempt in range(1, n + 1)]
        corner = Fraction(0)
        for chosen in product((0, 1), repeat=n):
            beyond = t - sum(ceiling for ceiling, which in zip(ceilings, chosen, strict=True) if which)
            corner += (-1) ** sum(chosen) * max(beyond, Fraction(0)) ** n
        return float(corner / factorial(n) / prod(ceilings))

    assert fit(1, 3) == 0.5
    assert fit(7, 25) == pytest.approx(1.7398e-6, rel=1e-4)  # 8 requests
    assert fit(8, 25) == pytest.approx(7.4148e-9, rel=1e-4)  # 9


def test_defaults() -> None:
    """By default pauses begin below 6 s and end at half an hour, and nothing is given up."""
    assert RetryPolicy() == RetryPolicy(base=3.0, cap=1800.0, max_attempts=None, max_elapsed=None)


def test_the_longest_cap() -> None:
    """Whatever is a finite number of seconds may be the cap."""
    assert RetryPolicy(cap=sys.float_info.max).cap == sys.float_info.max


def test_a_policy_is_a_value() -> None:
    """A policy is equal to another of the same numbers, cannot be changed, and names all that it is given."""
    policy = RetryPolicy(base=2.0)
    assert policy == RetryPolicy(base=2.0)
    with pytest.raises(AttributeError):
        policy.base = 1.0  # type: ignore[misc]
    assert not hasattr(policy, "__dict__")
    with pytest.raises(TypeError, match="positional"):
        RetryPolicy(2.0)  # type: ignore[call-arg]
