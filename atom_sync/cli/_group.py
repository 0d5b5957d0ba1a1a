"""The commands, one module each."""

from __future__ import annotations

import click

from ._backlog import backlog
from ._collector import collector
from ._demo import demo
from ._replay import replay
from ._send import send


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atom-events")
def atom_events() -> None:
    """Batch, sign and deliver JSON events to an Atom collector, or be that collector."""


for command in (backlog, collector, demo, replay, send):
    atom_events.add_command(command)
