"""What a tracker and a client take from the environment of their process."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, cast

from atom_sansio import Options
from atom_sansio._unshown import forget_locals


def read_options(endpoint: str | None, options: Mapping[str, object], only: Collection[str] | None = None) -> Options:
    """:meth:`Options.read` with this process's environment.

    *options*, the caller's own dict, is emptied: a traceback may show the locals, and there may be keys among them.
    """
    arguments = {"endpoint": endpoint, **options}
    cast("dict[str, object]", options).clear()
    try:
        return Options.read(arguments, os.environ, _resolve, only)
    except BaseException as error:
        forget_locals(error)
        raise
    finally:
        arguments.clear()


def _resolve(name: str) -> Any:
    import pkgutil  # not before it is needed, which is seldom

    return pkgutil.resolve_name(name)
