"""What an answer means for the batch that was sent."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from enum import Enum, auto
from typing import Final

from ._messages import Reply


class Verdict(Enum):
    """What to do with a batch after its answer."""

    DELIVERED = auto()
    RETRY = auto()
    """A passing fault: the identical bytes again, after a pause."""
    ISOLATE = auto()
    """Some event in it is refused for good: split until only the guilty one is lost."""
    SPLIT = auto()
    """Too large as a whole: the same in halves."""
    PARK = auto()
    """The key is refused: hold the lane until it gets another."""
    REJECTED = auto()
    """Refused for good, as a whole."""
    REDIRECTED = auto()
    """Sent elsewhere; a redirect is never followed, since that would hand events to an address nobody chose."""


_BY_STATUS: Final = {
    401: Verdict.PARK,
    403: Verdict.PARK,
    408: Verdict.RETRY,
    413: Verdict.SPLIT,
    425: Verdict.RETRY,
    429: Verdict.RETRY,
}
_BY_CLASS: Final = {
    2: Verdict.DELIVERED,
    3: Verdict.REDIRECTED,
    4: Verdict.ISOLATE,
}


def verdict(status: int) -> Verdict:
    """The tracker's rule; statuses outside 200 to 499 are the server's trouble and are retried."""
    return _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, Verdict.RETRY)


MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; a server that asks for more is asked again after an hour all the same."""


def retry_after(reply: Reply, *, unix_now: float) -> float:
    """Seconds for which the reply asks us to stay away, from 0 to ``MAX_RETRY_AFTER``.

    Both forms of RFC 9110, 10.2.3.  A date is held against the reply's own Date where it has one, so
    that only the server's clock counts.  What cannot be read asks for nothing.
    """
    value = reply.header("retry-after")
    if value is None:
        return 0.0
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER)
    until = _http_date(value, unix_now)
    if until is None:
        return 0.0
    since = _http_date(reply.header("date"), unix_now)
    return min(max(until - (unix_now if since is None else since), 0.0), MAX_RETRY_AFTER)


_MONTHS: Final = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_HTTP_DATE: Final = re.compile(  # RFC 9110, 5.6.7: today's form, then the two obsolete ones
    r"\w+, (?P<day>\d\d)[ -](?P<month>\w{3})[ -](?P<year>\d{4}|\d\d) (?P<time>\d\d:\d\d:\d\d) GMT"
    r"|\w{3} (?P<month2>\w{3}) (?P<day2>[ \d]\d) (?P<time2>\d\d:\d\d:\d\d) (?P<year2>\d{4})",
    re.ASCII,
)


_YEAR: Final = 31_556_952.0
"""Seconds, on average."""


def _http_date(value: str | None, unix_now: float) -> float | None:
    """Unix seconds, or None for what is no date."""
    match = _HTTP_DATE.fullmatch(value.strip()) if value is not None else None
    if match is None:
        return None
    day, month, year, time = (match[name] or match[name + "2"] for name in ("day", "month", "year", "time"))
    hour, minute, second = map(int, time.split(":"))
    full_year = int(year)
    if len(year) == 2:  # what would be more than 50 years ahead is the last such year that has passed
        latest = 1970 + int(unix_now / _YEAR) + 50
        full_year = latest - (latest - full_year) % 100
    try:
        # A leap second is the next second to us.
        moment = datetime(
            full_year, _MONTHS.index(month) + 1, int(day), hour, minute, min(second, 59), tzinfo=timezone.utc
        )
    except ValueError:
        return None
    return moment.timestamp()


def words(reply: Reply) -> str:
    """What the server said, for a human: a redirect's target, or the start of the body, on one line."""
    location = reply.header("location") if 300 <= reply.status < 400 else None
    text = f"redirected to {location[:400]}" if location else reply.body[:400].decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text or f"status {reply.status}"
