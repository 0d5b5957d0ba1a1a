"""What a tracker and a client take from the environment of their process."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from atom_sansio import Options


def read_options(arguments: Mapping[str, Any], only: Collection[str] | None = None) -> Options:
    """:meth:`Options.read` with this process's environment."""
    return Options.read(arguments, os.environ, _resolve, only)


def _resolve(name: str) -> Any:
    import pkgutil  # not before it is needed, which is seldom

    return pkgutil.resolve_name(name)
