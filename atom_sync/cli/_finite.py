"""Numbers of the command line, of which click takes all that are."""

from __future__ import annotations

import math

import click


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """The value of an option, if it is neither infinite nor no number."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not finite.")
    return value
