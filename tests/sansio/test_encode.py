"""Events as strict JSON, with the standard library's json as the oracle."""

from __future__ import annotations

import enum
import functools
import json
import math
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from atom_sansio import EventError, EventTypeError, LocalError, _encode, encode_event
from atom_sansio.testing import events


def strict(line: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse, parse_float=Decimal)


def meaning(value: Any) -> Any:
    """*value* as json reads back what json writes, numbers exact."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): meaning(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [meaning(item) for item in value]
    return value


@given(events())
def test_any_event(event: Any) -> None:
    """The line says exactly what the event says, is compact, and has one line break, at its end."""
    line = encode_event(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert strict(line) == meaning(event)


class Colour(enum.Enum):
    RED = "red"
    BIG = 2**70
    HOLE = math.nan


class Word(str, enum.Enum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Count(int):
    def __str__(self) -> str:
        return "many"


class Half(float):
    def __repr__(self) -> str:
        return "half"


@dataclass
class Point:
    x: Any
    y: Any = None
    _hidden: int = 0


Pair = namedtuple("Pair", "a b")

MOMENT = datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=timezone.utc)
UUID = uuid.UUID("12345678123456781234567812345678")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (None, "null"),
        ("null", '"null"'),
        ('{"id": 1}', r'"{\"id\": 1}"'),
        ({"a": None, "b": 0.5, "c": [1.5, None, True]}, '{"a":null,"b":0.5,"c":[1.5,null,true]}'),
        (2**64, "18446744073709551616"),
        ([-(2**200)], "[-1606938044258990275541962092341162602522202993782792835301376]"),
        ([10**4000], "[1" + "0" * 4000 + "]"),
        ({"price": Decimal("0.10")}, '{"price":0.10}'),
        (Decimal("-0"), "-0"),
        (Decimal("1E+2"), "1E+2"),
        ({"huge": 2**64, "f": 0.1, "s": "ção ✓", "t": ()}, '{"huge":18446744073709551616,"f":0.1,"s":"ção ✓","t":[]}'),
        ({7: 2, None: 3, True: 4, False: 0, 1.5: 5}, '{"7":2,"null":3,"true":4,"false":0,"1.5":5}'),
        ({Text("k"): Text("v"), Word.YES: Word.YES}, '{"k":"v","yes":"yes"}'),
        ({"w": Word.YES, "n": 2**64}, '{"w":"yes","n":18446744073709551616}'),
        ({Level.LOW: Level.LOW, Colour.RED: Colour.RED}, '{"1":1,"red":"red"}'),
        ([Colour.BIG], "[1180591620717411303424]"),
        ({"n": None, "t": True, "f": False, "big": 2**64}, '{"n":null,"t":true,"f":false,"big":18446744073709551616}'),
        ([Count(3), 2**64, {Count(3): Half(0.5), Half(1.5): None}], '[3,18446744073709551616,{"3":0.5,"1.5":null}]'),
        (Pair(1, 2), "[1,2]"),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (Point(1), '{"x":1,"y":null}'),
        (Point(2**70, Point((1,))), '{"x":1180591620717411303424,"y":{"x":[1],"y":null}}'),
        (MOMENT, '"2026-11-23T01:02:03.456789+00:00"'),
        ({"d": date(2026, 1, 2), "t": time(3, 4), "u": UUID, "n": 2**64}, None),
        ([MOMENT, None], '["2026-11-23T01:02:03.456789+00:00",null]'),
        ("\x00\x1f\x7f\u2028", '"\\u0000\\u001f\x7f\u2028"'),
    ],
)
def test_form(event: Any, line: str | None) -> None:
    """What each type becomes, on the quick way and on the slow one."""
    line = line or (
        '{"d":"2026-01-02","t":"03:04:00","u":"12345678-1234-5678-1234-567812345678","n":18446744073709551616}'
    )
    assert encode_event(event) == line.encode() + b"\n"


def test_keys_as_json_writes_them() -> None:
    """Keys that are no strings are spelled as the standard library spells them."""
    event = {2**70: 1, -0.5: 2, False: 3, None: 4, "s": 5}
    assert json.loads(encode_event(event)) == json.loads(json.dumps(event))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("-Infinity"), Colour.HOLE])
@pytest.mark.parametrize("around", [None, 2**70, (None, "null", [None, {"a": None}])])
def test_not_finite(bad: Any, around: Any) -> None:
    """NaN and the infinities are refused with the path to them, also beside a true null."""
    shown = str(bad.value if isinstance(bad, enum.Enum) else bad)
    with pytest.raises(EventError, match=rf"^event\['a'\]\[1\]\.x is {shown}, which JSON does not have$"):
        encode_event({"n": around, "a": [around, Point(bad)]})
    with pytest.raises(EventError, match=r"^event is "):
        encode_event(bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_beside_a_null(bad: float) -> None:
    """A NaN hides behind no null, wherever both are, in events of plain lists, tuples and dicts."""
    for inner in (
        [None, bad],
        (bad, None),
        {"x": None, "y": bad},
        {"x": bad, "y": "null"},
        [[], bad, [None]],
        {"x": {}, "y": (1.5, [bad]), "z": {"a": None}},
    ):
        for event in (inner, [None, inner], (inner, 1), {"a": inner, "b": 0.5}):
            with pytest.raises(EventError, match=rf"^event\S* is {bad}, which JSON does not have$"):
                encode_event(event)


def test_nulls_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A null does not send an event the slow way, which takes ten times as long, nor does the word."""

    def refuse(*args: object) -> None:
        raise AssertionError("went the slow way")

    monkeypatch.setattr(_encode, "_plain", refuse)
    for event in (
        None,
        "null",
        {"a": None, "b": 0.5, "c": [1.5, None, True, 7], "d": {"e": (None, 2.5, "f")}},
        [None, 0.5, {"a": None}, [[], {}], (1.5, None)],
        (None, [0.5], {"a": {"b": None}}, ({},)),
        {"null": [0.5, "x", 1]},
    ):
        assert encode_event(event) == json.dumps(event, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(AssertionError, match="slow"):
        encode_event([None, math.nan])


def test_null_beside_floats() -> None:
    """A null does not make a suspect of finite floats, integers or text, at any depth."""
    event = {"a": None, "b": [0.5, [1e300, None], (2.5, {"c": None, "d": 1, "e": "null", "f": False})]}
    assert json.loads(encode_event(event)) == json.loads(json.dumps(event))
    assert encode_event(["null", Text("x"), None]) == b'["null","x",null]\n'


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("a\ud800", r"event holds a lone surrogate at index 1"),
        ({"k": ["\udfff"]}, r"event\['k'\]\[0\] holds a lone surrogate at index 0"),
        ({"\ud800": 1}, r"a key of event holds a lone surrogate at index 0"),
        ({math.nan: 1}, r"event has the key nan, which JSON does not have"),
        ({"a": {1: 1, "1": 2}}, r"event\['a'\] has two keys that JSON writes alike"),
        ([10**5000], r"event\[0\] is an integer with more digits"),
    ],
)
def test_refused(event: Any, message: str) -> None:
    """What has no strict form is refused with the path to it, as an error that is also a ValueError."""
    with pytest.raises(EventError, match=f"^{message}") as caught:
        encode_event(event)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LocalError)
    assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b"x", r"^event is of type bytes, which has no JSON form; decode bytes to str$"),
        ({"a": [bytearray()]}, r"^event\['a'\]\[0\] is of type bytearray, .*; decode bytes to str$"),
        ({"a": {1}}, r"^event\['a'\] is of type set, which has no JSON form$"),
        ([object()], r"^event\[0\] is of type object, which has no JSON form$"),
        (Point, r"^event is of type type, which has no JSON form$"),
        ({(1, 2): 3}, r"^event has a key of type tuple; keys are str, numbers, bool or None$"),
        (1j, r"^event is of type complex"),
    ],
)
def test_refused_types(event: Any, message: str) -> None:
    """What is of another type is refused with its path, as an error that is also a TypeError."""
    with pytest.raises(EventTypeError, match=message) as caught:
        encode_event(event)
    assert isinstance(caught.value, TypeError)


def test_a_long_key_is_cut_short() -> None:
    """The path to what is refused names long keys by their beginning, since messages end up in logs."""
    with pytest.raises(EventError, match=r"^event\['x{56}\.\.\.\]\[0\] is nan, which JSON does not have$"):
        encode_event({"x" * 100_000: [math.nan]})


@pytest.mark.parametrize("kind", [list, dict, Point])
def test_cycle(kind: Any) -> None:
    """What holds itself is refused, and what merely occurs twice is not."""
    inner: Any = kind(None) if kind is Point else kind()
    if kind is Point:
        inner.x = [inner]
    elif kind is list:
        inner.append([inner])
    else:
        inner["x"] = [inner]
    with pytest.raises(EventError, match="holds itself"):
        encode_event([inner])
    shared = [2**70]
    assert json.loads(encode_event([shared, shared])) == [shared, shared]


@pytest.mark.parametrize("bottom", [1, 2**70, None, MOMENT])
@pytest.mark.parametrize("beside", [2, 2**70])
def test_depth(bottom: Any, beside: int) -> None:
    """250 levels are taken; a depth that no parser takes is refused, not a crash."""

    def nested(levels: int) -> Any:
        value: Any = bottom
        for _ in range(levels - 1):
            value = [value]
        return [beside, value]

    written = bottom.isoformat() if bottom is MOMENT else bottom
    assert encode_event(nested(250)).decode() == f"[{beside},{'[' * 249}{json.dumps(written)}{']' * 250}\n"
    # Only where it would take time to count them are some more taken.
    for levels in (251 if 2**70 in (bottom, beside) else 255, 100_000):
        with pytest.raises(EventError, match="event is nested deeper than 250 levels"):
            encode_event(nested(levels))


def test_a_dataclass_is_its_fields() -> None:
    """Other attributes of a dataclass, a cached property say, are no part of the event, whatever is beside it."""

    @dataclass
    class Point:
        x: int
        _private: int = 2

        @functools.cached_property
        def norm(self) -> int:
            return abs(self.x)

    point = Point(-1)
    assert point.norm == 1
    assert encode_event(point) == b'{"x":-1}\n'
    assert encode_event([point, 2**70]) == b'[{"x":-1},1180591620717411303424]\n'
