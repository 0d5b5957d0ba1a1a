"""Whether the endpoint as a whole is in trouble."""

from __future__ import annotations

from collections.abc import Hashable

from ._backoff import RetryPolicy, backoff


class Breaker:
    """Lets one request at a time through to an endpoint that fails for more than one lane.

    One lane that fails says nothing of the others, so it alone opens nothing.  When a second lane fails
    before anything is answered, the endpoint is taken for the cause: then there is one probe at a time,
    with full jitter between them, until the first answer.
    """

    __slots__ = ("_attempt", "_failing", "_policy", "retry_at")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failing: set[Hashable] = set()
        self._attempt = 0
        self.retry_at: float | None = None
        """None while requests flow freely, else when the next probe may go."""

    def answered(self) -> None:
        """The endpoint is there."""
        self._failing.clear()
        self._attempt = 0
        self.retry_at = None

    def failed(self, lane: Hashable, *, now: float, unit: float) -> None:
        """A request of *lane* (whatever tells lanes apart) came to no answer or to a 5xx."""
        if len(self._failing) < 2:
            self._failing.add(lane)
        if len(self._failing) == 2:
            self._attempt += 1
            pause = backoff(self._attempt, base=self._policy.base, cap=self._policy.cap, unit=unit)
            self.retry_at = now + pause
