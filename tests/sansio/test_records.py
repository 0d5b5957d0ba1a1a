"""Records of events come back as they were written, or are known to be damaged, whatever becomes of their file."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from typing import Any
from zlib import crc32

import hypothesis.strategies as st
import pytest
from hypothesis import given

from atom_sansio import Mark, encode_event
from atom_sansio._records import Address, Damaged, encode_record, read_records, record_head

# A stream is any text that UTF-8 has; a fingerprint 16 hex digits, but the format does not count them.
streams = st.one_of(
    st.sampled_from(["-", " ", "a b", "a\nb", "%", "%0A", "Ünïcode ☃", "\0", "\x1c\x85\u2028"]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
)
fingerprints = st.one_of(st.none(), st.text("0123456789abcdef", min_size=1, max_size=16))
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
Events = list[tuple[Address, bytes]]

SOME: Events = [
    (("clicks", None), encode_event({"n": 1, "text": "a b"})),
    (("clicks", "0123456789abcdef"), encode_event([2])),
    (("Ünï, \n", None), encode_event("☃ 00000000 1 - clicks ")),
    (("clicks", None), encode_event(4)),
    (("clicks", None), encode_event({"deadbeef": None})),
]
"""A small file; its records are of three addresses, and one looks as if there were another in it."""


def write(events: Events) -> bytes:
    """The file of *events*."""
    last: Counter[Address] = Counter()
    parts = []
    for address, line in events:
        last[address] += 1
        parts.append(encode_record(last[address], record_head(address), line))
    return b"".join(parts)


def read(data: bytes, *marks: Mark) -> tuple[Events, int]:
    """The events in a file, by address, and how many are reported damaged."""
    kept, damaged = read_records([(1, data)], marks)
    events = [((each.stream, each.fingerprint), line) for each in kept for line in each.lines.splitlines(keepends=True)]
    return events, sum(piece.events for piece in damaged)


def check(data: bytes, *, may_lack_its_end: bool = False) -> tuple[int, int]:
    """What is read of a damaged :data:`SOME` is a part of it, in order, and the rest is reported."""
    events, damaged = read(data)
    for address in {address for address, _ in SOME}:
        wanted = iter([line for at, line in SOME if at == address])
        found = [line for at, line in events if at == address]
        assert all(line in wanted for line in found), "altered, out of order, or twice"
    assert {address for address, _ in events} <= {address for address, _ in SOME}
    if not may_lack_its_end:
        assert len(events) + damaged >= len(SOME), "lost in silence"
    return len(events), damaged


@given(events=st.lists(st.tuples(st.tuples(streams, fingerprints), values.map(encode_event)), max_size=20))
def test_round_trip(events: Events) -> None:
    """Each event comes back byte for byte, by stream and key, in its order, with the mark of the last."""
    kept, damaged = read_records([(7, write(events))], [])
    assert not damaged
    by_address: dict[Address, list[bytes]] = {}
    for address, line in events:
        by_address.setdefault(address, []).append(line)
    assert {(each.stream, each.fingerprint): each.lines for each in kept} == {
        address: b"".join(lines) for address, lines in by_address.items()
    }
    for each in kept:
        count = len(by_address[each.stream, each.fingerprint])
        assert each.marks == (Mark(generation=7, stream=each.stream, fingerprint=each.fingerprint, index=count),)


@given(
    events=st.lists(st.tuples(st.tuples(streams, fingerprints), values.map(encode_event)), min_size=1, max_size=8),
    data=st.data(),
)
def test_any_damage(events: Events, data: st.DataObject) -> None:
    """Whatever bytes are put in the place of others, what comes back was written, and nothing is raised."""
    whole = write(events)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    found, _ = read(whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:])
    assert not Counter(found) - Counter(events)


def test_every_bit() -> None:
    """Whichever bit is flipped, at most two events are missing, and as many are reported."""
    whole = write(SOME)
    seen: Counter[tuple[int, int]] = Counter()
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        seen[check(bytes(damaged))] += 1
    assert min(found for found, _ in seen) == len(SOME) - 2  # of two whose line break is gone
    assert all(found + damaged <= len(SOME) + 2 for found, damaged in seen)  # one with a line break in it is two
    assert sum(seen.values()) == len(whole) * 8


def test_every_end() -> None:
    """Wherever a file ends, what stands before is there; what has no end was not accepted, or has lost only that."""
    whole = write(SOME)
    ends = [0]
    for line in whole.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    for end in range(len(whole)):
        found, damaged = check(whole[:end], may_lack_its_end=True)
        assert found == sum(end >= each - 1 for each in ends[1:])
        assert damaged == 0


@pytest.mark.parametrize("length", [1, 8, 40, 512])
def test_zeros(length: int) -> None:
    """Wherever a piece of a file is zeros, what is missing is reported if anything is left of it, and of its end."""
    whole = write(SOME)
    for start in range(len(whole)):
        zeroed = (whole[:start] + bytes(length) + whole[start + length :])[: len(whole)]
        check(zeroed, may_lack_its_end=length > 8)


def test_zeros_to_the_end() -> None:
    """A disk may have put them in place of many records: how many nobody knows, but that there was one is told."""
    whole = write(SOME)
    for start in range(len(whole) - 1):
        found, damaged = check(whole[:start] + bytes(len(whole) - start), may_lack_its_end=True)
        assert found == len(SOME) or damaged > 0
    _, [piece] = read_records([(1, b"00000000 1 - a 1 00000000 2 - a 2\0\0\0")], [])
    assert (piece.reason, piece.whole, piece.events) == ("it has no end", False, 2)


@pytest.mark.parametrize("garbage", [b"\0" * 512, b"garbage", b"\n\n\n", b"\xff\xfe\n", b"00000000 1 - a 1\n"])
def test_garbage_around(garbage: bytes) -> None:
    """Of garbage before a file at most the record that it runs into is lost; after it none is."""
    whole = write(SOME)
    assert check(garbage + whole)[0] >= len(SOME) - 1
    assert check(whole + garbage)[0] == len(SOME)
    assert check(garbage + b"\n" + whole)[0] == len(SOME)


def test_a_line_that_only_has_a_right_checksum() -> None:
    """What cannot be taken apart is damaged, though its checksum is right: a later version may have written it."""
    for text in (b"1 -", b"one - clicks 1", b"1 - %ff 1", b"1 \xff clicks 1"):
        line = text + b"\n"
        data = b"%08x %s" % (crc32(line), line)
        kept, [damaged] = read_records([(1, data)], [])
        assert not kept
        assert (damaged.reason, damaged.whole, damaged.events) == ("it is no record of this version", True, 1)


def test_marks() -> None:
    """What a mark says counts no more; a mark of another stream, key or generation says nothing."""
    whole = write(SOME)
    mark = Mark(generation=1, stream="clicks", fingerprint=None, index=2)
    others = [
        Mark(generation=2, stream="clicks", fingerprint=None, index=3),
        Mark(generation=1, stream="Clicks", fingerprint=None, index=3),
        Mark(generation=1, stream="clicks", fingerprint="0", index=3),
    ]
    events, damaged = read(whole, mark, *others)
    assert Counter(events) == Counter([*SOME[1:3], SOME[4]])
    assert damaged == 0


def test_missing_numbers() -> None:
    """What lies between two numbers is missed, however little is left of it; what counts no more is not."""
    lines = write(SOME).splitlines(keepends=True)
    kept, [damaged] = read_records([(1, b"".join(lines[1:3] + lines[4:]))], [])
    assert (damaged.reason, damaged.data, damaged.events) == ("numbers are missing", b"", 2)
    assert len(kept) == 3
    mark = Mark(generation=1, stream="clicks", fingerprint=None, index=2)
    assert read(b"".join(lines[1:3] + lines[4:]), mark)[1] == 0


def test_one_missing_number() -> None:
    """A single event is missed as well."""
    lines = write(SOME).splitlines(keepends=True)
    _, damaged = read_records([(1, lines[3])], [Mark(generation=1, stream="clicks", fingerprint=None, index=1)])
    assert damaged == []
    _, damaged = read_records([(1, lines[3])], [])
    assert damaged == [Damaged("numbers are missing", b"", True, 1)]


def test_no_end() -> None:
    """What was being written when the process ended is told of, and has cost nothing that was accepted."""
    whole = write(SOME)
    kept, damaged = read_records([(1, whole + b"0123")], [])
    assert sum(each.lines.count(b"\n") for each in kept) == len(SOME)
    assert damaged == [Damaged("it has no end", b"0123", False, 0)]


@pytest.mark.parametrize(
    ("record", "events"),
    [
        (b"garbage", 1),
        (b"\0\0\0", 1),
        (b"garbage\0\0garbage", 2),
        (b"00000000 1 - clicks 00000000 2 0f - 1", 2),
        (b"00000000 1 - clicks 00000000 2 0f %0A 1\0\0garbage", 3),
    ],
)
def test_what_a_wrong_checksum_has_cost(record: bytes, events: int) -> None:
    """As many events as there are heads of records in each part between zeros, and at least one a part."""
    _, damaged = read_records([(1, record + b"\n")], [])
    assert damaged == [Damaged("its checksum is wrong", record, True, events)]


def test_out_of_order() -> None:
    """Events come in the order of their numbers, wherever their records stand, and the mark is the highest."""
    head = record_head(("clicks", None))
    data = b"".join(encode_record(number, head, b"%d\n" % number) for number in (2, 3, 1))
    [kept], damaged = read_records([(1, data)], [])
    assert (kept.lines, [mark.index for mark in kept.marks], damaged) == (b"1\n2\n3\n", [3], [])


def test_what_is_damaged_stays_as_it_is() -> None:
    """It is a plain value."""
    damaged = Damaged("it has no end", b"0", False, 0)
    assert not hasattr(damaged, "__dict__")
    with pytest.raises(FrozenInstanceError):
        damaged.events = 1  # type: ignore[misc]


def test_a_number_that_is_used_again() -> None:
    """Of two records with one number the later one counts, in whichever order their bytes are."""
    head = record_head(("clicks", None))
    for first, second in ((b"1\n", b"2\n"), (b"2\n", b"1\n")):
        files = [(1, encode_record(1, head, first)), (1, encode_record(1, head, second))]
        [kept], damaged = read_records(files, [])
        assert (kept.lines, damaged) == (second, [])


def test_generations() -> None:
    """Records come in the order of their generations, each of which has its mark."""
    head = record_head(("clicks", None))
    files = [(10, encode_record(1, head, b"3\n")), (9, encode_record(1, head, b"1\n") + encode_record(2, head, b"2\n"))]
    [kept], damaged = read_records(files, [])
    assert (kept.lines, damaged) == (b"1\n2\n3\n", [])
    assert [(mark.generation, mark.index) for mark in kept.marks] == [(9, 2), (10, 1)]
