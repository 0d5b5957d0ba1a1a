"""The collector: receives events, verifies them, stores them, and gives them back.

Needs the extra ``collector``.  As a program it is ``atom-events collector``; in a test it is
:class:`Collector`.
"""

try:
    import httptools  # noqa: F401 - only whether it is there
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the collector needs starlette, uvicorn and httptools: pip install 'atom-events[collector]'"
    ) from error

from ._app import create_app
from ._keys import LiveKeyring, read_keyring
from ._serve import Collector, serve
from ._store import Store, StoreFailed
from ._tables import Outcome, Page, RejectedRequest, StoredEvent, StoreStatistics

__all__ = [
    "Collector",
    "LiveKeyring",
    "Outcome",
    "Page",
    "RejectedRequest",
    "Store",
    "StoreFailed",
    "StoreStatistics",
    "StoredEvent",
    "create_app",
    "read_keyring",
    "serve",
]
