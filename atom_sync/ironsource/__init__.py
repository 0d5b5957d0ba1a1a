"""Where the old SDK lived; see :mod:`ironsource.atom`."""

from __future__ import annotations

from atom_sansio import SDK_VERSION

__version__ = SDK_VERSION
