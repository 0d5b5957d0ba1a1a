"""Makes the documentation's own modules importable, as building it does."""

from __future__ import annotations

import sys
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
sys.path += [str(_DOCS / "_ext"), str(_DOCS / "examples")]
