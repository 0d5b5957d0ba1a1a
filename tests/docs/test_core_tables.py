"""What the documentation draws and tabulates is what the code does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from core_tables import option_range, verdicts
from state_diagram import draw

from atom_sansio import LANE_TRANSITIONS, TRACKER_TRANSITIONS, Options, Verdict, verdict
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker

PAGES = Path(__file__).parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


class Stop(Enum):
    """Of a line where one can ride back and stay."""

    NORTH = "north"
    MIDDLE = "middle"
    SOUTH = "south"


class Ride(Enum):
    UP = "up & <away>"
    DOWN = "down"
    WAIT = "wait"


THERE_AND_BACK = {
    (Stop.NORTH, Ride.DOWN): Stop.SOUTH,
    (Stop.SOUTH, Ride.UP): Stop.NORTH,
    (Stop.SOUTH, Ride.WAIT): Stop.SOUTH,
    (Stop.MIDDLE, Ride.UP): Stop.NORTH,
    (Stop.MIDDLE, Ride.DOWN): Stop.SOUTH,
}


def read(svg: str) -> set[tuple[str, str, str]]:
    """(state, input, state) of each label that stands at an arrow."""
    root = ElementTree.fromstring(svg)
    rects = [(float(rect.attrib["x"]), float(rect.attrib["width"])) for rect in root.iter(f"{SVG}rect")]
    elements = list(root)
    names = [elements[i + 1].text or "" for i, element in enumerate(elements) if element.tag == f"{SVG}rect"]

    def state_at(x: float) -> str:
        return next(name for name, (left, width) in zip(names, rects, strict=True) if left <= x <= left + width)

    found = set()
    ends = ("", "")
    for element in elements:
        if element.tag == f"{SVG}path":
            numbers = [float(number) for number in re.findall(r"[\d.]+", element.attrib["d"])]
            ends = (state_at(numbers[0]), state_at(numbers[-2]))
        elif element.tag == f"{SVG}text" and ends != ("", ""):
            found.add((ends[0], element.text or "", ends[1]))
    return found


@pytest.mark.parametrize("transitions", [TRACKER_TRANSITIONS, LANE_TRANSITIONS, THERE_AND_BACK])
def test_every_transition_is_drawn(transitions: Mapping[tuple[Enum, Enum], Enum]) -> None:
    """The arrows of a diagram, with their labels, are the table's transitions and no others."""
    expected = {(source.value, input_.value, target.value) for (source, input_), target in transitions.items()}
    assert read(draw(transitions, "title")) == expected


@pytest.mark.parametrize("transitions", [TRACKER_TRANSITIONS, LANE_TRANSITIONS, THERE_AND_BACK])
def test_everything_is_within_the_frame(transitions: Mapping[tuple[Any, Any], Any]) -> None:
    """Nothing is cut off, and no two labels lie on each other."""
    root = ElementTree.fromstring(draw(transitions, "title"))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    texts = [(float(text.attrib["x"]), float(text.attrib["y"])) for text in root.iter(f"{SVG}text")]
    assert all(0 < x < width and 10 <= y < height for x, y in texts)
    assert not [
        (first, second)
        for i, first in enumerate(texts)
        for second in texts[:i]
        if abs(first[0] - second[0]) < 60 and abs(first[1] - second[1]) < 14
    ]


def test_every_status_is_in_the_table() -> None:
    """Read back, the table of verdicts gives the verdict of every status."""
    read_back: dict[int, Verdict] = {}
    for words, found in reversed(verdicts()):
        match = re.fullmatch(r"(?:other )?(\d)xx", words)
        statuses = range(int(match[1]) * 100, int(match[1]) * 100 + 100) if match else map(int, words.split(", "))
        read_back.update(dict.fromkeys(statuses, found))
    assert read_back == {status: verdict(status) for status in range(200, 600)}


def test_every_old_parameter_is_in_the_table() -> None:
    """The page on migrating has each parameter of the old tracker, with its default."""
    page = (PAGES / "migrating.md").read_text("utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|", page, re.MULTILINE)
    shown = {name: default for names, default in rows for name in re.findall(r"\w+", names)}
    parameters = inspect.signature(IronSourceAtomTracker).parameters
    assert set(shown) == set(parameters)
    for name, default in shown.items():
        value = parameters[name].default
        assert (f'`"{value}"`' if isinstance(value, str) else str(value)) in default, name


@pytest.mark.parametrize("field", fields(Options), ids=lambda field: field.name)
def test_every_option_says_what_it_takes(field: Any) -> None:
    """The range that is shown is in the error for a wrong value."""
    with pytest.raises((TypeError, ValueError), match=re.escape(option_range(field).removesuffix("; or None"))):
        Options.read({"endpoint": "http://localhost/", field.name: object()}, {}, str)
