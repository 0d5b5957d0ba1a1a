"""The command line ``atom-events``.  Needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["main"]


def main() -> None:
    """Entry point of ``atom-events``."""
    try:
        commands = _load()
    except KeyboardInterrupt:  # before click is there to see to it
        sys.exit(130)
    try:
        commands()
    except OSError as error:  # standard output on a full disk, say; click sees to a pipe that has ended
        sys.exit(f"Error: {error}")


def _load() -> Callable[[], object]:
    try:
        import click  # noqa: F401 - only whether it is there
        import rich  # noqa: F401
    except ImportError as error:
        sys.exit(f"atom-events needs click and rich ({error}): pip install 'atom-events[cli]'")
    from ._group import atom_events

    return atom_events
