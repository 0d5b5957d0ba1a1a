"""The collector's application, request by request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from atom_anyio.collector import Store, create_app
from atom_sansio._verify import Keyring

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "old_sdks.json").read_text("utf-8"))
KEY = "k3y-Secret"
KEYRING = Keyring({"signed": KEY, "rotated": ["old", "new"]})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # as uvicorn


pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(":memory:", clock=lambda: 1.5) as store:
        yield store


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(store, KEYRING, max_body=20_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
        yield client


def envelope(stream: str, data: str, key: str | None = None, **more: object) -> bytes:
    if key is not None:
        more["auth"] = hmac.new(key.encode(), data.encode(), hashlib.sha256).hexdigest()
    return orjson.dumps({"table": stream, "data": data, **more})


async def events(client: httpx.AsyncClient, **query: Any) -> Any:
    reply = await client.get("/_atom/events", params=query)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    return reply.json()["events"]


async def rejected(client: httpx.AsyncClient) -> Any:
    return (await client.get("/_atom/rejected")).json()["rejected"]


async def stats(client: httpx.AsyncClient) -> Any:
    return (await client.get("/_atom/stats")).json()


# Storing


async def test_a_single_event(client: httpx.AsyncClient) -> None:
    """A single event is stored as its text, and shown with its value."""
    reply = await client.post("/", content=envelope("s", '{"id": 1}'))
    assert (reply.status_code, reply.text) == (200, '{"Status":"OK"}')
    assert await events(client) == [
        {"id": 1, "stream": "s", "event": {"id": 1}, "text": '{"id": 1}', "batch_id": None, "received_at": 1.5}
    ]


async def test_a_batch(client: httpx.AsyncClient) -> None:
    """A batch is stored event by event, under its batch id."""
    body = envelope("signed", '["hello", {"id": 1}]', KEY, bulk=True)
    reply = await client.post("/bulk", content=body, headers={"Idempotency-Key": "b-1"})
    assert reply.status_code == 200
    assert [(e["text"], e["event"], e["batch_id"]) for e in await events(client)] == [
        ("hello", "hello", "b-1"),
        ('{"id":1}', {"id": 1}, "b-1"),
    ]


async def test_get(client: httpx.AsyncClient) -> None:
    """An event can come by GET."""
    data = base64.b64encode(envelope("signed", '{"id": 1}', KEY)).decode()
    assert (await client.get("/", params={"data": data})).status_code == 200
    assert [event["text"] for event in await events(client)] == ['{"id": 1}']


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v["name"] != "py2.tracker.redirect_target"], ids=lambda vector: vector["name"]
)
async def test_recorded_requests(vector: dict[str, Any]) -> None:
    """What an old SDK sent is stored, as the events that it held."""
    keyring = Keyring(default=vector["auth_key"] or None)
    url = vector["path"] + ("?" + vector["query"] if vector["query"] else "")
    with Store() as store:
        transport = httpx.ASGITransport(create_app(store, keyring))
        async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
            reply = await client.request(vector["method"], url, content=vector["body_raw"].encode())
            assert (reply.status_code, reply.text) == (200, '{"Status":"OK"}')
            shown = await events(client, stream=vector["stream"])
    if vector["path"] == "/bulk":
        sent = json.loads(vector["data_field"])
        texts = [element if isinstance(element, str) else None for element in sent]
        assert [e["text"] if t is not None else None for e, t in zip(shown, texts, strict=True)] == texts
        assert [e["event"] for e in shown] == [json.loads(e) if isinstance(e, str) else e for e in sent]
    else:
        assert [event["text"] for event in shown] == [vector["data_field"]]


async def test_exact_values(client: httpx.AsyncClient) -> None:
    """Numbers and text are shown digit by digit as they came."""
    texts = ['{"n":123456789012345678901234567890,"x":1.10,"s":"\\u00e7"}', "-0.0", "[1, 2]"]
    await client.post("/bulk", content=envelope("s", json.dumps(texts)))
    page = (await client.get("/_atom/events")).text
    for text in texts:
        assert f'"event":{text},' in page
    assert [event["text"] for event in await events(client)] == texts


@pytest.mark.parametrize(
    "text",
    ["hello world", "", '{"v": NaN}', "[1,2", "1], [2", '"\\ud800"', "1e400", "[" * 300 + "]" * 300, "[" * 5000],
    ids=lambda text: text[:12],
)
async def test_what_is_shown_as_text(client: httpx.AsyncClient, text: str) -> None:
    """What is no JSON, or would keep a reader from reading the page, is shown as a string."""
    await client.post("/bulk", content=envelope("s", json.dumps([text])))
    [event] = await events(client)
    assert event["event"] == event["text"] == text


async def test_deep_but_readable(client: httpx.AsyncClient) -> None:
    """An event is shown as a value up to 256 levels, and brackets within strings are no levels."""
    deep, flat = "[" * 256 + "]" * 256, orjson.dumps(["[" * 2000]).decode()
    await client.post("/bulk", content=envelope("s", json.dumps([deep, flat])))
    assert [event["event"] for event in await events(client)] == [json.loads(deep), json.loads(flat)]


async def test_a_batch_is_stored_once(client: httpx.AsyncClient) -> None:
    """Of 100 concurrent replays of one batch, one is stored and each is answered with 200."""
    body = envelope("signed", '["1","2"]', KEY)
    headers = {"Idempotency-Key": "b-1"}
    replies = await asyncio.gather(*(client.post("/bulk", content=body, headers=headers) for _ in range(100)))
    assert {reply.status_code for reply in replies} == {200}
    assert [event["text"] for event in await events(client)] == ["1", "2"]
    assert await stats(client) == {
        "stored": 2,
        "duplicates": 198,
        "rejected": 0,
        "requests": 100,
        "streams": {"signed": 2},
    }


# Refusing


async def test_a_wrong_signature(client: httpx.AsyncClient) -> None:
    """A wrong or missing signature is answered with 401 and kept with the reason; nothing is stored."""
    wrong, missing = envelope("signed", '["1","2"]', "guess"), envelope("signed", "3")
    for path, body, words in (("/bulk", wrong, "the signature is wrong"), ("/", missing, "the signature is missing")):
        reply = await client.post(path, content=body)
        assert (reply.status_code, reply.json()) == (401, {"Status": "error", "reason": words})
    assert await rejected(client) == [
        {
            "id": number,
            "stream": "signed",
            "status": 401,
            "reason": words,
            "body": body.decode(),
            "received_at": 1.5,
        }
        for number, body, words in ((1, wrong, "the signature is wrong"), (2, missing, "the signature is missing"))
    ]
    assert await events(client) == []
    assert await stats(client) == {"stored": 0, "duplicates": 0, "rejected": 3, "requests": 2, "streams": {}}


async def test_a_refused_batch_may_come_again(client: httpx.AsyncClient) -> None:
    """A batch id is not used up by a refusal."""
    headers = {"Idempotency-Key": "b-1"}
    refused = await client.post("/bulk", content=envelope("signed", "[1]", "guess"), headers=headers)
    stored = await client.post("/bulk", content=envelope("signed", "[1]", KEY), headers=headers)
    assert (refused.status_code, stored.status_code) == (401, 200)
    assert [event["batch_id"] for event in await events(client)] == ["b-1"]


async def test_rotation(client: httpx.AsyncClient) -> None:
    """Both keys of a stream are valid, and no other."""
    replies = [await client.post("/", content=envelope("rotated", "x", key)) for key in ("old", "new", KEY)]
    assert [reply.status_code for reply in replies] == [200, 200, 401]


async def test_wrong_requests(client: httpx.AsyncClient) -> None:
    """What cannot be read is answered with 400, and kept: a body, or a query."""
    posted = await client.post("/bulk", content=b'{"table":"s","data":"\xff"}')
    got = await client.get("/?data=!!!")
    assert posted.status_code == got.status_code == 400
    first, second = await rejected(client)
    assert (first["body"], first["stream"], first["status"]) == ('{"table":"s","data":"\\xff"}', None, 400)
    assert first["reason"] == posted.json()["reason"]
    assert (second["body"], second["reason"]) == ("data=!!!", "the data parameter is not base64")


class Body(httpx.AsyncByteStream):
    """Counts what was read of it."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.chunks):
            self.read += 1
            yield b"x" * 5000


async def test_an_announced_size(client: httpx.AsyncClient) -> None:
    """A body that is announced to be too large is not read."""
    body = Body(5)
    reply = await client.post("/bulk", content=body, headers={"Content-Length": "20001"})
    assert (reply.status_code, reply.json()["reason"]) == (413, "the body is larger than 20000 bytes")
    assert body.read == 0
    assert [(row["status"], row["body"]) for row in await rejected(client)] == [(413, "")]


async def test_a_size_that_shows_later(client: httpx.AsyncClient) -> None:
    """A body that turns out to be too large is not read to the end; one of just the size is."""
    body = Body(1000)
    assert (await client.post("/bulk", content=body)).status_code == 413
    assert body.read == 5
    assert [(row["status"], len(row["body"])) for row in await rejected(client)] == [(413, 25_000)]
    largest = envelope("s", "").replace(b'""', b'"%s"' % (b"x" * (20_000 - len(envelope("s", "")))))
    assert len(largest) == 20_000
    assert (await client.post("/", content=largest)).status_code == 200


async def test_a_client_that_leaves(store: Store) -> None:
    """When a client goes away within its body, nothing is stored, kept or raised."""
    app = create_app(store, KEYRING)
    messages = iter([{"type": "http.request", "body": b'{"table":', "more_body": True}, {"type": "http.disconnect"}])
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/bulk",
        "raw_path": b"/bulk",
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        pass

    await app(scope, receive, send)
    assert store.statistics().result().requests == 0


# One turn of the loop


class Wire:
    """One ``POST /bulk`` by ASGI, without the turns of the loop that a client takes."""

    def __init__(self, batch_id: str) -> None:
        self.status = 0
        self._id = batch_id.encode()

    async def post(self, app: Any, body: bytes) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/bulk",
            "raw_path": b"/bulk",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"idempotency-key", self._id)],
        }
        await app(scope, self._receive(body), self._send)

    def _receive(self, body: bytes) -> Any:
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        return receive

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)


async def test_a_turn_is_committed_together(store: Store) -> None:
    """What comes in one turn of the loop is one transaction, and each request has its answer."""
    app = create_app(store, KEYRING)
    statements: list[str] = []
    store._queue(lambda db: db.set_trace_callback(statements.append)).result()
    wires = [Wire(f"{i}") for i in range(50)]
    await asyncio.gather(*(wire.post(app, envelope("s", f"[{i}]")) for i, wire in enumerate(wires)))
    assert {wire.status for wire in wires} == {200}
    assert sum(statement.startswith("BEGIN IMMEDIATE") for statement in statements) == 1
    assert store.statistics().result().stored == 50


async def test_one_of_a_turn_is_given_up(store: Store) -> None:
    """When the task of a request is cancelled while it waits for the commit, the others are answered."""
    app = create_app(store, KEYRING)
    wires = [Wire(f"{i}") for i in range(3)]
    tasks = [asyncio.ensure_future(wire.post(app, envelope("s", "[1]"))) for wire in wires]
    await asyncio.sleep(0)  # they are read, and wait
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]
    assert [wire.status for wire in wires] == [200, 0, 200]
    assert store.statistics().result().stored == 3


async def test_a_turn_that_fails(store: Store) -> None:
    """When a turn cannot be committed, all of its requests are answered with 503, and the next ones as ever."""
    app = create_app(store, KEYRING)

    def writable(yes: bool) -> None:
        store._queue(lambda db: db.execute(f"PRAGMA query_only = {not yes:d}").fetchone()).result()

    for yes, status in ((False, 503), (True, 200)):
        writable(yes)
        wires = [Wire(f"{i}") for i in range(3)]
        await asyncio.gather(*(wire.post(app, envelope("s", "[1]")) for wire in wires))
        assert [wire.status for wire in wires] == [status] * 3
    assert store.statistics().result().stored == 3


# Reading back


async def test_pages(client: httpx.AsyncClient) -> None:
    """Events are read page by page, in all or by stream; a thousand at a time unless told otherwise."""
    for stream, count in (("a", 1500), ("b", 1)):
        await client.post("/bulk", content=envelope(stream, json.dumps(list(range(count)))))
    first = (await client.get("/_atom/events")).json()
    assert (len(first["events"]), first["next"]) == (1000, 1000)
    second = (await client.get("/_atom/events", params={"after": first["next"]})).json()
    assert (len(second["events"]), second["next"]) == (501, None)
    assert len(await events(client, stream="a", limit=10_000)) == 1500
    assert [event["stream"] for event in await events(client, stream="b", after=3, limit=1)] == ["b"]
    assert await events(client, stream="none") == []


async def test_empty_parameters(client: httpx.AsyncClient) -> None:
    """A parameter without a value is as good as none."""
    reply = await client.get("/_atom/events?stream=&after=&limit=")
    assert reply.json() == {"events": [], "next": None}


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("events", "limit=0", "limit must be an integer from 1 to 10000"),
        ("events", "limit=10001", "limit must be"),
        ("events", "limit=x", "limit must be"),
        ("events", "limit=1.0", "limit must be"),
        ("events", "limit=%C2%B2", "limit must be"),
        ("events", "after=-1", "after must be an integer from 0 to"),
        ("events", f"after={2**63}", "after must be"),
        ("events", "after=" + "1" * 5000, "after must be"),
        ("events", "after=1&after=2", "after is given twice"),
        ("events", "steam=s", "there is no parameter 'steam', only stream, after, limit"),
        ("rejected", "stream=s", "there is no parameter 'stream', only after, limit"),
        ("rejected", "limit=0", "limit must be"),
    ],
)
async def test_wrong_queries(client: httpx.AsyncClient, path: str, query: str, words: str) -> None:
    """A wrong parameter is answered with 400 that names it, and not kept."""
    reply = await client.get(f"/_atom/{path}?{query}")
    assert reply.status_code == 400
    assert words in reply.json()["reason"]
    assert await rejected(client) == []


async def test_pages_of_rejected(client: httpx.AsyncClient) -> None:
    """Refused requests are read page by page."""
    for i in range(3):
        await client.post("/", content=f"{i}".encode())
    first = (await client.get("/_atom/rejected", params={"limit": 2})).json()
    second = (await client.get("/_atom/rejected", params={"after": first["next"]})).json()
    assert [row["body"] for row in first["rejected"] + second["rejected"]] == ["0", "1", "2"]
    assert (first["next"], second["next"]) == (2, None)


async def test_forgetting(client: httpx.AsyncClient) -> None:
    """DELETE forgets what was stored and what was refused."""
    await client.post("/", content=envelope("s", "x"))
    await client.post("/", content=b"")
    reply = await client.delete("/_atom/events")
    assert (reply.status_code, reply.text) == (200, '{"Status":"OK"}')
    assert await events(client) == await rejected(client) == []
    assert await stats(client) == {"stored": 0, "duplicates": 0, "rejected": 0, "requests": 0, "streams": {}}


async def test_health(client: httpx.AsyncClient) -> None:
    """A collector that can reach its store is up."""
    reply = await client.get("/health?data=")  # as the Java SDK asks
    assert (reply.status_code, reply.text) == (200, "up")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/bulk", 405),
        ("PUT", "/", 405),
        ("DELETE", "/", 405),
        ("HEAD", "/?data=e30", 405),
        ("POST", "/health", 405),
        ("POST", "/_atom/events", 405),
        ("DELETE", "/_atom/rejected", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/bulk/", 404),
        ("POST", "//bulk", 404),
        ("GET", "/_atom", 404),
    ],
)
async def test_other_requests(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    """Unknown paths are 404 and wrong methods 405, which says what is allowed; none of them counts."""
    reply = await client.request(method, f"http://collector{path}")
    assert reply.status_code == status
    assert ("allow" in reply.headers) == (status == 405)
    assert (await stats(client))["requests"] == 0


async def test_other_events_under_a_known_id(client: httpx.AsyncClient) -> None:
    """A batch id that comes with other events is refused with 422; with the same it is a replay, however signed."""
    first, other = '["a", {"id": 1}]', '["a", {"id": 2}]'
    for data, key, status in ((first, "old", 200), (other, "new", 422), (first, "new", 200), (other, "wrong", 401)):
        body = envelope("rotated", data, key, bulk=True)
        reply = await client.post("/bulk", content=body, headers={"Idempotency-Key": "b"})
        assert reply.status_code == status
    assert [event["text"] for event in await events(client)] == ["a", '{"id":1}']
    assert [(row["status"], row["stream"]) for row in await rejected(client)] == [(422, "rotated"), (401, "rotated")]
    assert await stats(client) == {
        "stored": 2,
        "duplicates": 2,
        "rejected": 4,
        "requests": 4,
        "streams": {"rotated": 2},
    }


# A failing store


async def test_disk_full(client: httpx.AsyncClient, store: Store) -> None:
    """While the disk is full the answer is 503 with Retry-After, reading goes on, and then it works again."""

    def limit(pages: int) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute(f"PRAGMA max_page_count = {pages}").fetchone()

        store._queue(work).result()

    await client.post("/", content=envelope("s", "before"))
    limit(1)  # that is, what there is and no more
    body = envelope("s", json.dumps(["x" * 5000] * 3))
    for refused in (await client.post("/bulk", content=body), await client.post("/", content=b"y" * 10_000)):
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["reason"] == "the store is failing; try again later"
    assert [event["text"] for event in await events(client)] == ["before"]
    health = await client.get("/health")
    assert (health.status_code, "retry-after" in health.headers) == (503, True)
    limit(1_000_000)
    assert (await client.get("/health")).status_code == 200
    assert (await client.post("/bulk", content=body)).status_code == 200
    assert await stats(client) == {"stored": 4, "duplicates": 0, "rejected": 0, "requests": 2, "streams": {"s": 4}}


async def test_a_closed_store(client: httpx.AsyncClient, store: Store) -> None:
    """Without a store everything that needs one, health too, is answered with 503."""
    store.close()
    replies = [
        await client.post("/", content=envelope("s", "x")),
        await client.post("/", content=b""),
        await client.get("/health"),
        await client.get("/_atom/events"),
        await client.delete("/_atom/events"),
    ]
    assert [reply.status_code for reply in replies] == [503] * 5
