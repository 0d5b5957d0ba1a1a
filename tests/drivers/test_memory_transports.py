"""The transports for tests of user code; their script and record are tested with the core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from atom_anyio._memory import MemoryTransport as AsyncMemoryTransport
from atom_sansio._errors import RequestTimeout
from atom_sansio._messages import Origin

ORIGIN = Origin("http", "collector.example", 80)


def test_answers(driver, make_request) -> None:
    """Both follow their script and keep requests and events."""
    batch = make_request(ORIGIN, body=b'{"table": "s", "data": "[1, \\"two\\"]", "bulk": true}')
    with driver.open("memory", [503, RequestTimeout("late")]) as memory:
        assert memory.send(batch).status == 503
        with pytest.raises(RequestTimeout, match="late"):
            memory.send(batch)
        assert memory.transport.events == []
        assert memory.send(batch).body == b'{"Status":"OK"}'
    assert memory.transport.requests == [batch] * 3
    assert memory.transport.events == [("s", 1), ("s", "two")]


def test_many_at_once(driver, make_request) -> None:
    """Requests from many threads or tasks are all kept, and each answer is given once."""
    request = make_request(ORIGIN, body=b'{"table": "s", "data": "1"}')
    with driver.open("memory", [503] * 10) as memory, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(memory.send, [request] * 100))
    assert sorted(reply.status for reply in replies) == [200] * 90 + [503] * 10
    assert len(memory.transport.requests) == 100
    assert memory.transport.events == [("s", 1)] * 90


@pytest.mark.anyio
async def test_cancelled(make_request) -> None:
    """In a cancelled scope nothing is sent."""
    memory = AsyncMemoryTransport()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await memory.send(make_request(ORIGIN), timeout=1)
    assert scope.cancelled_caught
    assert memory.requests == []
