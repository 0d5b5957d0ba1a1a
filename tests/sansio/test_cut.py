"""Where events are cut, exactly and without much ado."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import _cut, encode_event
from atom_sansio._cut import escaped_size, longest_fit, nth_line, pieces
from atom_sansio._request import quote

SHAPES: list[Any] = [
    "",
    "x" * 100,
    '"' * 50,
    "\\" * 300,
    "é𝄞" * 30,
    {"a": '"quoted"', "b": [None, True, 1.5]},
    7,
    "\x00\n" * 40,
    "y" * 900,
]


@pytest.mark.parametrize("items", [SHAPES, SHAPES[::-1], ["", "", ""], ["x" * 9] * 12, ['"' * 5, 7] * 6, [7]])
def test_every_limit(items: list[Any]) -> None:
    """At each limit of bytes and events, the prefix is the one that trying them one by one finds."""
    lines = [encode_event(item) for item in items]
    every = range(1, len(lines) + 1)
    texts = {n: b",".join(line[:-1] for line in lines[:n]).decode() for n in every}
    sizes = {n: len(json.dumps(text, ensure_ascii=False).encode()) - 2 for n, text in texts.items()}
    for max_events in (1, 2, len(lines) - 1 or 1, len(lines), len(lines) + 1):
        for max_bytes in range(1, sizes[len(lines)] + 3):
            events = max((n for n in every if n <= max_events and sizes[n] <= max_bytes), default=1)
            fit = longest_fit(b"".join(lines), len(lines), max_events=max_events, max_bytes=max_bytes)
            assert fit == (len(b"".join(lines[:events])), events)


@pytest.mark.parametrize("max_bytes", [-7000, -1, 0, 1, 3000, 4500, 9000, 20_000])
def test_a_first_line_that_misleads(max_bytes: int) -> None:
    """A line whose end is dearer than its beginning is taken alone where it does not fit, whatever comes behind."""
    line = encode_event("x" * 4100 + '"' * 2000)
    behind = b"7\n" * 3000
    taken = longest_fit(line + behind, 3001, max_events=10_000, max_bytes=max_bytes)
    room = max(0, max_bytes - escaped_size(line))
    events = 1 + min(room // 2, 3000)
    assert taken == (len(line) + 2 * (events - 1), events)


def test_what_is_taken_whole_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all fits that there is, and is allowed, no line is looked for."""

    class Lines(bytes):
        count = None

    monkeypatch.setattr(_cut, "nth_line", None)
    lines = Lines(encode_event("x") * 50)
    assert longest_fit(lines, 50, max_events=50, max_bytes=1000) == (200, 50)


@pytest.mark.parametrize(
    ("items", "wasted", "times"),
    [
        (["x" * 98] * 5000, 100, 3),
        (['"' * 60] * 5000, 124, 3),
        ([{"id": i, "name": "x" * (i % 50), "q": '"' * (i % 3)} for i in range(5000)], 200, 4),
        (['"' * 60] * 60 + ["x" * 98] * 5000, 124, 16),
        (["x" * 98] * 3000 + ['"' * 60] * 2000, 450_000, 6),
    ],
    ids=["plain", "quotes", "mixed", "cheaper", "dearer"],
)
@pytest.mark.parametrize("max_bytes", [5_000, 50_000, 400_000])
def test_little_is_escaped_twice(
    items: list[Any], wasted: int, times: int, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of events like those at the beginning hardly more than fits is escaped, in a few pieces; else not much more."""
    lines = b"".join(map(encode_event, items))
    escaped: list[int] = []
    monkeypatch.setattr(_cut, "quote", lambda text: escaped.append(len(text)) or quote(text))
    position, _ = longest_fit(lines, len(items), max_events=10_000, max_bytes=max_bytes)
    assert sum(escaped) <= position + wasted
    assert len(escaped) <= times


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.data())
def test_nth_line(lengths: list[int], data: st.DataObject) -> None:
    """The end of the first n lines, as counting one by one finds it."""
    lines = b"".join(b"x" * length + b"\n" for length in lengths)
    n = data.draw(st.integers(0, len(lengths)))
    assert nth_line(lines, n, len(lengths)) == sum(lengths[:n]) + n


@pytest.mark.parametrize("length", [lambda i: 99, lambda i: i % 97, lambda i: i // 100, lambda i: 100 - i // 100])
def test_few_passes(length: Callable[[int], int]) -> None:
    """Whether lines are alike or get longer or shorter, where so many of them end is found in a few passes."""
    passes = 0

    class Lines(bytes):
        def count(self, *args: Any) -> int:
            nonlocal passes
            passes += 1
            return super().count(*args)

    lines = Lines(b"".join(b"x" * length(i) + b"\n" for i in range(10_000)))
    for n in (1, 10, 5000, 9999):
        passes = 0
        assert nth_line(lines, n, 10_000) == sum(length(i) + 1 for i in range(n))
        assert passes <= 13


@pytest.mark.parametrize(
    ("size", "cut"),
    [
        (1, [b"1\n", b"22\n", b"3\n", b"4\n"]),
        (3, [b"1\n", b"22\n", b"3\n", b"4\n"]),
        (4, [b"1\n", b"22\n", b"3\n4\n"]),
        (5, [b"1\n22\n", b"3\n4\n"]),
        (9, [b"1\n22\n3\n4\n"]),
    ],
)
def test_pieces(size: int, cut: list[bytes]) -> None:
    """Each is as many whole lines as the size allows, or one that is longer; nothing is left."""
    assert list(pieces(b"1\n22\n3\n4\n", size)) == cut
    assert list(pieces(b"", size)) == []
