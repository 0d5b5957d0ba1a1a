"""A real collector for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atom_anyio.collector import Collector


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a collector that has nothing yet."""
    with Collector() as url:
        yield url
