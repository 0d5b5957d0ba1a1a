"""What each answer means."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import Reply, Verdict, retry_after, verdict
from atom_sansio._verdict import words

TABLE = {
    Verdict.DELIVERED: [200, 201, 202, 204, 299],
    Verdict.REDIRECTED: [300, 301, 302, 303, 304, 307, 308, 399],
    Verdict.ISOLATE: [400, 402, 404, 405, 409, 410, 418, 422, 451, 499],
    Verdict.PARK: [401, 403],
    Verdict.RETRY: [408, 425, 429, 500, 502, 503, 504, 599, 100, 199, 600, 999, 0],
    Verdict.SPLIT: [413],
}
SINCE = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


def reply(retry: str | None = None, status: int = 503, body: bytes = b"", **headers: str) -> Reply:
    fields = {**headers, **({} if retry is None else {"retry-after": retry})}
    return Reply(status=status, headers=tuple(fields.items()), body=body)


@pytest.mark.parametrize(("expected", "status"), [(v, status) for v, codes in TABLE.items() for status in codes])
def test_table(expected: Verdict, status: int) -> None:
    """The table of the design."""
    assert verdict(status) is expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("1000000000", 3600.0),
        ("9" * 5000, 3600.0),
        ("-1", 0.0),
        ("+5", 0.0),
        ("1.5", 0.0),
        ("1e3", 0.0),
        ("0x10", 0.0),
        ("٣", 0.0),
        ("²", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("7, 8", 0.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-93 08:50:37 GMT", 0.0),
        ("Sunday, 06-Nov-44 08:50:37 GMT", 3600.0),
        ("Monday, 06-Nov-45 08:50:37 GMT", 0.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun Nov 06 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 22.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:37 GMT", 3600.0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Foo 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 25:49:37 GMT", 0.0),
        ("Sun, 06 Nov 0000 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:50:37 CET", 0.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT and more", 0.0),
        (", 06 Nov 1994 08:50:37 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    """Both forms are read, clamped to one hour; what cannot be read asks for nothing."""
    assert retry_after(reply(value), unix_now=SINCE) == seconds


@pytest.mark.parametrize("month", range(1, 13))
def test_dates(month: int) -> None:
    """A date is the same moment in each of the three forms, two digits of a year being of this century."""
    moment = datetime(2026, month, 9, 1, 2, 3, tzinfo=timezone.utc)
    name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month - 1]
    for text in (
        f"Mon, 09 {name} 2026 01:02:03 GMT",
        f"Monday, 09-{name}-26 01:02:03 GMT",
        f"Mon {name}  9 01:02:03 2026",
    ):
        assert retry_after(reply(text), unix_now=moment.timestamp() - 100.0) == 100.0


def test_the_servers_own_clock_counts() -> None:
    """A date is held against the reply's own Date, however wrong our clock is; an unreadable Date is none."""
    later = "Sun, 06 Nov 1994 08:51:37 GMT"
    own = reply(later, date="Sun, 06 Nov 1994 08:50:37 GMT")
    assert [retry_after(own, unix_now=now) for now in (0.0, SINCE, 4e9)] == [60.0, 60.0, 60.0]
    assert retry_after(reply(later, date=" Sun, 06 Nov 1994 08:50:37 GMT "), unix_now=0.0) == 60.0
    assert retry_after(reply(later, date="today"), unix_now=SINCE) == 120.0


@given(st.text(), st.text() | st.none(), st.floats(-1e12, 1e12))
def test_any_retry_after(value: str, date: str | None, now: float) -> None:
    """Nothing that a server says makes us wait less than nothing, or more than an hour."""
    answer = reply(value) if date is None else reply(value, date=date)
    assert 0.0 <= retry_after(answer, unix_now=now) <= 3600.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (reply(status=500), "status 500"),
        (reply(status=500, body=b"  \r\n "), "status 500"),
        (reply(status=401, body=b"Permission denied\n"), "Permission denied"),
        (reply(status=400, body=b"a\x1b[31m\r\nb\x00\xff"), "a [31m  b \ufffd"),
        (reply(status=400, body=b"x" * 1000), "x" * 400),
        (reply(status=302, body=b"Moved", location="http://e/"), "redirected to http://e/"),
        (reply(status=302, location="http://e/\x1b" + "x" * 60_000), "redirected to http://e/ " + "x" * 390),
        (reply(status=300, location="http://e/"), "redirected to http://e/"),
        (reply(status=399, location="http://e/"), "redirected to http://e/"),
        (reply(status=302, body=b"Moved"), "Moved"),
        (reply(status=299, body=b"no", location="http://e/"), "no"),
        (reply(status=400, body=b"no", location="http://e/"), "no"),
    ],
)
def test_words(answer: Reply, text: str) -> None:
    """What the server said, on one line of bounded length, without control characters."""
    assert words(answer) == text
