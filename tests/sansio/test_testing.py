"""The test kit: its strategies give what they say, and its collector refuses what is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from atom_sansio import AuthKey, Endpoint, Options, RemoteError, Reply, Request, encode_event, verdict
from atom_sansio._request import bulk_request, check_stream, event_request, events_request
from atom_sansio.testing import ModelCollector, Row, auth_keys, events, failures, options, replies, streams

ENDPOINT = Endpoint.parse("http://h/")


def batch(*items: Any, key: str | None = "k", batch_id: str = "b-1") -> Request:
    auth_key = AuthKey(key) if key else None
    return events_request(ENDPOINT, "s", items, auth_key, batch_id=batch_id)


def changed(request: Request, old: bytes, new: bytes) -> Request:
    assert old in request.body
    return dataclasses.replace(request, body=request.body.replace(old, new))


@given(events(), streams(), auth_keys(), options(on_full="raise"), replies(), failures())
def test_strategies(
    event: Any, stream: str, key: str | bytes, drawn: Options, reply: Reply, failure: RemoteError
) -> None:
    """Whatever is drawn is taken by what it is meant for; what is fixed is not drawn."""
    assert encode_event(event)
    assert check_stream(stream) == stream
    assert AuthKey(key)
    assert drawn.on_full == "raise"
    assert verdict(reply.status)
    assert isinstance(failure, RemoteError)


@given(replies(200, 503))
def test_chosen_statuses(reply: Reply) -> None:
    """Replies can be limited to some statuses."""
    assert reply.status in (200, 503)


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (events(), lambda event: isinstance(event, int) and event > 2**64),
        (events(), lambda event: isinstance(event, str) and event.startswith("{")),
        (events(), lambda event: isinstance(event, dict) and any(isinstance(v, list) for v in event.values())),
        (streams(), lambda stream: len(stream) == 512),
        (failures(), lambda failure: getattr(failure, "stale", False)),
        (replies(), lambda reply: reply.header("retry-after") == "-1"),
    ],
)
def test_edges(strategy: st.SearchStrategy[Any], wanted: Any) -> None:
    """The strategies reach what they promise to reach."""
    assert wanted(find(strategy, wanted))


def test_a_batch() -> None:
    """A batch is stored in order with its stream, key and id, each element as it stood there."""
    collector = ModelCollector(["other", "k"])
    assert collector.handle(batch({"a": 1}, '{"a": 1}', 10**30)) == Reply(
        status=200, headers=(), body=b'{"Status":"OK"}'
    )
    texts = ['{"a":1}', r'"{\"a\": 1}"', str(10**30)]
    assert collector.rows == [Row("s", text, "k", "b-1") for text in texts]
    assert collector.lines("s") == [encode_event(json.loads(text)) for text in texts]
    assert collector.lines("t") == []
    assert "'k'" not in repr(collector.rows)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_single_event(method: str) -> None:
    """A single event's text is stored as it is, whatever it is."""
    collector = ModelCollector([b"\xff"])
    request = event_request(ENDPOINT, "s", "no JSON", AuthKey(b"\xff"), method=method, event_id="e-1")
    assert collector.handle(request).status == 200
    assert collector.rows == [Row("s", "no JSON", b"\xff", "e-1")]


def test_once() -> None:
    """A batch id is stored once; without an id nothing is known to be the same."""
    collector = ModelCollector(["k"])
    for _ in range(2):
        assert collector.handle(batch(1)).status == 200
    assert collector.handle(batch(1, batch_id="b-2")).status == 200
    assert len(collector.rows) == 2
    anonymous = dataclasses.replace(batch(1), headers=())
    for _ in range(2):
        collector.handle(anonymous)
    assert len(collector.rows) == 4


@pytest.mark.parametrize(
    ("keys", "request_"),
    [
        (["k"], batch(1, key=None)),
        (["k"], batch(1, key="other")),
        ([], batch(1, key="k")),
        (["k"], changed(batch(1), b"[1]", b"[2]")),
    ],
)
def test_signatures(keys: list[str], request_: Request) -> None:
    """What is not signed by one of the keys is answered with 401 and not stored."""
    collector = ModelCollector(keys)
    assert collector.handle(request_).status == 401
    assert collector.rows == []
    assert collector.refused[0].startswith("401: PermissionError")
    collector.keys = ["k", "other"]
    assert collector.handle(batch(1)).status == 200


@pytest.mark.parametrize(
    "request_",
    [
        bulk_request(ENDPOINT, b"", "b"),
        bulk_request(ENDPOINT, b"\xff", "b"),
        bulk_request(ENDPOINT, b"[]", "b"),
        bulk_request(ENDPOINT, b'{"table": "s"}', "b"),
        bulk_request(ENDPOINT, b'{"table": "s", "data": 5, "bulk": true}', "b"),
        changed(batch(1, key=None), b"[1]", b"1"),
        changed(batch(1, key=None), b"[1]", b"[1"),
        changed(batch(1, key=None), b"[1]", b"[1]2"),
        changed(batch(1, key=None), b"[1]", b"[1 2]"),
        changed(batch(1, key=None), b"[1]", b"[]"),
        changed(batch(1, key=None), b"[1]", b"[NaN]"),
        changed(batch(1, key=None), b"[1]", b""),
        dataclasses.replace(batch(1), method="GET"),
    ],
)
def test_nonsense(request_: Request) -> None:
    """What cannot be read is answered with 400 and not stored."""
    collector = ModelCollector()
    assert collector.handle(request_).status == 400
    assert collector.rows == []
    assert collector.refused[0].startswith("400: ")


def test_without_hypothesis() -> None:
    """The collector works without hypothesis; a strategy then says what is missing."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from atom_sansio import testing\n"
        "testing.ModelCollector()\n"
        "try: testing.events()\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "the strategies of atom_sansio.testing need hypothesis: pip install hypothesis\n"
