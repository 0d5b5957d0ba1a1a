"""Atom for threads: :class:`Tracker` in the background, :class:`Client` one request at a time."""

from ._client import Client
from ._httpx import HttpxTransport
from ._memory import MemoryTransport
from ._receipt import Receipt
from ._tracker import Tracker
from ._transport import SocketTransport, Transport

__all__ = ["Client", "HttpxTransport", "MemoryTransport", "Receipt", "SocketTransport", "Tracker", "Transport"]
