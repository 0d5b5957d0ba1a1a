"""Directives that ask the code what it does, so that the pages cannot drift from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from state_diagram import draw

import atom_sansio
from atom_sansio import LANE_TRANSITIONS, TRACKER_TRANSITIONS, Options, Verdict, verdict
from atom_sync.cli._group import atom_events

_DIAGRAMS: Mapping[str, tuple[Mapping[Any, Any], str]] = {
    "tracker": (TRACKER_TRANSITIONS, "The states of a tracker"),
    "lane": (LANE_TRANSITIONS, "The states of a lane"),
}


class StateDiagram(SphinxDirective):
    """``tracker`` or ``lane``: its transitions, drawn."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", f"<p>{draw(*_DIAGRAMS[self.arguments[0]])}</p>", format="html")]


class VerdictTable(SphinxDirective):
    """Every status from 200 to 599 and what it means for a batch."""

    def run(self) -> list[nodes.Node]:
        meaning = _attribute_docs(Verdict)
        rows = [(statuses, found.name, meaning.get(found.name, "")) for statuses, found in verdicts()]
        return self.parse_text_to_nodes(_table(("status", "verdict", "what it means"), rows))


class OptionsTable(SphinxDirective):
    """Every option of a tracker: default, range, environment variable, meaning."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for field in fields(Options):
            variable = f"`ATOM_{field.name.upper()}`"
            rows.append((f"`{field.name}`", _default(field), option_range(field), variable, _meaning(field)))
        return self.parse_text_to_nodes(_table(("option", "default", "takes", "environment", "meaning"), rows))


class CommandHelp(SphinxDirective):
    """What each command of ``atom-events`` says of itself."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name, command in sorted(atom_events.commands.items()):
            context = click.Context(command, info_name=f"atom-events {name}", max_content_width=100)
            text = command.get_help(context)
            found.append(nodes.literal_block(text, text, language="text"))
        return found


def verdicts() -> list[tuple[str, Verdict]]:
    """Statuses and their verdict; in each hundred first those that differ from most of it."""
    rows = []
    for hundred in range(2, 6):
        found: dict[Verdict, list[int]] = {}
        for status in range(hundred * 100, hundred * 100 + 100):
            found.setdefault(verdict(status), []).append(status)
        usual = max(found, key=lambda each: len(found[each]))
        rows += [(", ".join(map(str, found[each])), each) for each in found if each is not usual]
        rows.append((f"{hundred}xx" if len(found) == 1 else f"other {hundred}xx", usual))
    return rows


def option_range(field: Field[Any]) -> str:
    """What the option takes, in the words of the error that it raises for anything else."""
    try:
        Options.read({"endpoint": "http://localhost/", field.name: object()}, {}, str)
    except (TypeError, ValueError) as error:
        message = str(error)
    found = re.search(r" must be (.*), not ", message)
    if found is None:
        raise ValueError(f"{field.name} does not say what it takes: {message}")
    return f"{found[1]}; or None" if field.default is None else found[1]


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return f"`{field.default_factory()!r}`"
    if field.default is MISSING:
        return "none; it must be given"
    value = field.default.value if isinstance(field.default, Enum) else field.default
    return f"`{value!r}`"


def _meaning(field: Field[Any]) -> str:
    """The string beneath the option, or else what its default's class says of itself."""
    text = _attribute_docs(Options).get(field.name)
    if text is None:
        if field.default_factory is MISSING:
            raise ValueError(f"{field.name} is not documented")
        kind = type(field.default_factory())
        text = f"{str(kind.__doc__).splitlines()[0]} See {{py:class}}`~atom_sansio.{kind.__name__}`."
    return text


def _attribute_docs(cls: type) -> dict[str, str]:
    """The strings beneath the attributes of a class, in one line each."""
    docs = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    return {
        name: re.sub(r"``(.*?)``", r"`\1`", " ".join(lines)).strip()
        for (owner, name), lines in docs.items()
        if owner == cls.__name__
    }


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("state-diagram", StateDiagram)
    app.add_directive("verdict-table", VerdictTable)
    app.add_directive("options-table", OptionsTable)
    app.add_directive("command-help", CommandHelp)
    return {"version": atom_sansio.SDK_VERSION, "parallel_read_safe": True}
