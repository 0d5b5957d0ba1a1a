"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build/html``, without the network."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Atom for Python"
author = "The Atom for Python developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = importlib.metadata.version("atom-events")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "core_tables"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sourcelink = False
