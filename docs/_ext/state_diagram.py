"""A table of transitions as SVG.

States stand in one row, in the order of their enum.  What leads to the right is drawn above the row, what
leads to the left below it, and what leads back to itself as a loop.  So any table gets a drawing, and no
layout has to be thought of when the table changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from html import escape

_BOX_WIDTH, _BOX_HEIGHT, _GAP = 120, 36, 90
_PITCH = _BOX_WIDTH + _GAP
_RISE = 46
"""Height of an arc for each state that it spans."""
_LINE = 16
"""Height of a line of text."""


def draw(transitions: Mapping[tuple[Enum, Enum], Enum], title: str) -> str:
    """The transitions as one ``<svg>`` element that takes the page's text colour."""
    states = list(type(next(iter(transitions.values()))))
    edges: dict[tuple[int, int], list[str]] = {}
    for (source, input_), target in transitions.items():
        edges.setdefault((states.index(source), states.index(target)), []).append(str(input_.value))
    rightward = [_extent(*edge, labels) for edge, labels in edges.items() if edge[0] <= edge[1]]
    leftward = [_extent(*edge, labels) for edge, labels in edges.items() if edge[0] > edge[1]]
    above, below = max(rightward, default=0), max(leftward, default=0)
    width = len(states) * _PITCH - _GAP + 2
    height = above + _BOX_HEIGHT + below
    arrow = f"arrow-{type(states[0]).__name__}"  # a page may have several drawings
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" style="max-width:{width}px"'
        ' font-family="sans-serif" font-size="13" fill="none" stroke="currentColor">',
        f"<title>{escape(title)}</title>",
        f'<defs><marker id="{arrow}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
        ' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="currentColor" stroke="none"/></marker></defs>',
    ]
    parts += [_state(str(state.value), index, above) for index, state in enumerate(states)]
    parts += [_edge(source, target, labels, above, arrow) for (source, target), labels in edges.items()]
    return "\n".join([*parts, "</svg>"])


def _extent(source: int, target: int, labels: list[str]) -> int:
    """What an edge and its labels take above or below the row."""
    return _RISE * max(1, abs(target - source)) + _LINE * len(labels)


def _state(name: str, index: int, top: int) -> str:
    x = index * _PITCH + 1
    text = _text(name, x + _BOX_WIDTH / 2, top + _BOX_HEIGHT / 2 + 5)
    return f'<rect x="{x}" y="{top}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="8"/>{text}'


def _edge(source: int, target: int, labels: list[str], top: int, arrow: str) -> str:
    """An arc, flat in the middle, where its labels stand."""
    upward = source <= target
    side = top if upward else top + _BOX_HEIGHT
    rise = _RISE * max(1, abs(target - source)) - 8
    peak = side - rise if upward else side + rise
    # Arcs leave a state on the side they lead to and arrive on the other, so that none lie on each other.
    out = -28 if source == target else 36 if upward else -36
    start = source * _PITCH + _BOX_WIDTH / 2 + out
    end = target * _PITCH + _BOX_WIDTH / 2 - out
    path = f'<path d="M{start},{side} C{start},{peak} {end},{peak} {end},{side}" marker-end="url(#{arrow})"/>'
    # A cubic reaches three quarters of the way to its control points.
    crest = side + (peak - side) * 0.75
    texts = []
    for number, label in enumerate(labels):
        y = crest - 5 - _LINE * (len(labels) - 1 - number) if upward else crest + _LINE * (number + 1) - 2
        texts.append(_text(label, (start + end) / 2, y))
    return path + "".join(texts)


def _text(text: str, x: float, y: float) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="currentColor" stroke="none">{escape(text)}</text>'
