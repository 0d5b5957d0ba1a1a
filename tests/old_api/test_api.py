"""The old SDK's API as its READMEs (1.5.1, 1.5.4) and its last version have it."""

from __future__ import annotations

import base64
import functools
import inspect
import json
import logging
import queue
import stat
import threading
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from benches import KEY, Bench, VirtualClock

from atom_anyio.collector import Collector
from atom_sansio import ConnectionFailed, Reply, Request
from atom_sansio._tracker import in_turn
from atom_sync import SocketTransport
from ironsource.atom import atom_logger, config
from ironsource.atom._callback import read_callback
from ironsource.atom._debug import DebugTransport
from ironsource.atom._tracker import OldCore
from ironsource.atom.batch_event_pool import BatchEventPool
from ironsource.atom.event import Event
from ironsource.atom.event_storage import EventStorage
from ironsource.atom.ironsource_atom import IronSourceAtom
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker
from ironsource.atom.queue_event_storage import QueueEventStorage
from ironsource.atom.response import Response

MakeBench = Callable[..., Bench]
MakeLow = Callable[..., Any]
PATIENCE = 20
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "old_sdks.json").read_text("utf-8"))


def defaults(function: Any) -> dict[str, Any]:
    """Parameters in their order, each of which can be given by position, with their defaults."""
    parameters = list(inspect.signature(function).parameters.values())
    assert {each.kind for each in parameters} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return {each.name: each.default for each in parameters if each.name != "self"}


# -- signatures -------------------------------------------------------------------------------------------


def test_tracker_signature() -> None:
    """The tracker's settings stand in the order of 1.5.4 and have the defaults of 1.5.1."""
    expected = {
        "batch_worker_count": 1,
        "batch_pool_size": 1,
        "event_backlog": None,
        "backlog_size": 500,
        "flush_interval": 10000,
        "retry_max_time": 1800,
        "retry_max_count": 12,
        "batch_size": 64,
        "batch_bytes_size": 64 * 1024,
        "is_debug": False,
        "debug_to_file": False,
        "debug_file_path": "/tmp/",
        "endpoint": "http://track.atom-data.io/",
        "auth_key": "",
        "callback": None,
        "retry_forever": True,
        "is_blocking": True,
        "backlog_timeout": 1,
        "request_timeout": 60,
    }
    assert list(defaults(IronSourceAtomTracker).items()) == list(expected.items())
    assert list(defaults(IronSourceAtomTracker.track).items()) == [
        ("stream", inspect.Parameter.empty),
        ("data", inspect.Parameter.empty),
        ("auth_key", ""),
    ]
    for method in (IronSourceAtomTracker.flush, IronSourceAtomTracker.stop):
        assert defaults(method) == {}
    assert IronSourceAtomTracker.TAG == "IronSourceAtomTracker"


def test_low_level_signature() -> None:
    """The low-level calls have the parameters and defaults of 1.5.4."""
    empty = inspect.Parameter.empty
    assert list(defaults(IronSourceAtom).items()) == [
        ("is_debug", False),
        ("endpoint", "http://track.atom-data.io/"),
        ("auth_key", ""),
        ("request_timeout", 60),
        ("debug_to_file", False),
        ("debug_file_path", "/tmp/"),
    ]
    assert list(defaults(IronSourceAtom.put_event).items()) == [
        ("stream", empty),
        ("data", empty),
        ("method", "POST"),
        ("auth_key", ""),
    ]
    assert list(defaults(IronSourceAtom.put_events).items()) == [("stream", empty), ("data", empty), ("auth_key", "")]
    assert list(defaults(QueueEventStorage).items()) == [("queue_size", empty), ("block", True), ("timeout", None)]
    assert list(defaults(BatchEventPool)) == ["thread_count", "max_events"]
    assert list(defaults(Event)) == ["stream", "data"]
    assert list(defaults(Response)) == ["error", "data", "status", "raw_response"]
    assert IronSourceAtom.TAG == "IronSourceAtom"


def test_config() -> None:
    """config has every name of both versions."""
    assert config.SDK_VERSION
    assert config.ATOM_URL == config.ATOM_ENDPOINT == "http://track.atom-data.io/"
    assert (config.BATCH_SIZE, config.BATCH_SIZE_LIMIT) == (64, 2000)
    assert (config.BATCH_BYTES_SIZE, config.BATCH_BYTES_SIZE_LIMIT) == (65536, 524288)
    assert (config.FLUSH_INTERVAL, config.BACKLOG_SIZE) == (10000, 500)
    assert (config.BATCH_WORKER_COUNT, config.BATCH_POOL_SIZE) == (1, 1)
    assert (config.RETRY_MAX_TIME, config.RETRY_MAX_COUNT, config.RETRY_EXPO_BACKOFF_BASE) == (1800, 12, 3)
    assert (config.RETRY_FOREVER, config.BACKLOG_BLOCKING, config.BACKLOG_TIMEOUT) == (True, True, 1)
    assert (config.REQUEST_TIMEOUT, config.DEBUG_FILE_PATH) == (60, "/tmp/")


# -- the wire ---------------------------------------------------------------------------------------------


def recorded(*prefixes: str) -> list[Any]:
    """Recorded requests of the old Python SDK, but for those that show a defect."""
    wrong = ("unicode_str", "post_nan")
    return [
        pytest.param(vector, id=vector["name"])
        for vector in VECTORS
        if vector["name"].startswith(prefixes) and not vector["name"].endswith(wrong)
    ]


@pytest.mark.parametrize("vector", recorded("py2.low.", "py3.low."))
def test_low_level_vectors(low: MakeLow, vector: dict[str, Any]) -> None:
    """Low-level requests have path, stream, data, signature and flag as they were recorded."""
    atom, transport = low(auth_key=vector["auth_key"], endpoint="http://127.0.0.1:3000/")
    data = vector["data"]
    if vector["path"] == "/bulk":
        response = atom.put_events(vector["stream"], data)
    else:
        method = "PUT" if "PUT" in vector["name"] else vector["method"].lower()
        response = atom.put_event(vector["stream"], data, method)
    assert response.status == 200
    (request,) = transport.requests
    body, url = request.body, urlsplit(request.target)
    assert (request.method, url.path) == (vector["method"], vector["path"])
    expected = vector["body_raw"]
    if vector["method"] == "GET":
        (query,) = parse_qs(url.query)["data"]
        body = base64.b64decode(query)
        expected = base64.b64decode(parse_qs(vector["query"])["data"][0])
    assert json.loads(body) == json.loads(expected)
    headers = dict(request.headers)
    assert headers["Content-Type"] == "application/json"
    assert headers["x-ironsource-atom-sdk-type"] == "python"


def test_tracker_elements(bench: MakeBench) -> None:
    """Batch elements are strings: json.dumps text of a value, a text as it is."""
    b = bench()
    for data in ({"id": 1}, [1, 2], '{"id": 2}', "ção", {"t": "ção ✓"}, 7, None, b"bytes"):
        b.tracker.track("s", data)
    b.tracker.stop()
    (request,) = b.server.requests
    envelope = json.loads(request.body)
    assert json.loads(envelope["data"]) == [
        '{"id": 1}', "[1, 2]", '{"id": 2}', "ção", '{"t": "\\u00e7\\u00e3o \\u2713"}', "7", "null", "bytes"
    ]  # fmt: skip
    assert envelope["bulk"] is True
    assert "auth" not in envelope


# -- the READMEs --------------------------------------------------------------------------------------------


def stored(url: str) -> list[tuple[str, Any]]:
    with urllib.request.urlopen(f"{url}_atom/events") as reply:
        return [(row["stream"], row["event"]) for row in json.load(reply)["events"]]


def test_readme_tracker() -> None:
    """The tracker code of both READMEs delivers, and the collector verifies what it gets."""
    with Collector(keys={"YOUR_STREAM_NAME": KEY}) as url:
        for settings in ({"batch_bytes_size": 2048, "batch_size": 12, "flush_interval": 2000}, {}):
            tracker = IronSourceAtomTracker(endpoint=url, **settings)  # type: ignore[arg-type]
            tracker.set_debug(True)
            stream = "YOUR_STREAM_NAME"
            auth_key = KEY
            data = {"id": 123, "event_name": "PYTHON_SDK_TRACKER_EXAMPLE"}
            tracker.track(stream=stream, data=data, auth_key=auth_key)
            tracker.flush()
            tracker.stop()
            tracker.set_debug(False)
        tracker = IronSourceAtomTracker(
            batch_worker_count=config.BATCH_WORKER_COUNT,
            batch_pool_size=config.BATCH_POOL_SIZE,
            event_backlog=None,
            backlog_size=config.BACKLOG_SIZE,
            flush_interval=config.FLUSH_INTERVAL,
            retry_max_time=config.RETRY_MAX_TIME,
            retry_max_count=config.RETRY_MAX_COUNT,
            batch_size=config.BATCH_SIZE,
            batch_bytes_size=config.BATCH_BYTES_SIZE,
            is_debug=False,
            debug_to_file=False,
            debug_file_path=config.DEBUG_FILE_PATH,
            endpoint=url,
            auth_key=KEY,
            callback=None,
            retry_forever=config.RETRY_FOREVER,
            is_blocking=config.BACKLOG_BLOCKING,
            backlog_timeout=config.BACKLOG_TIMEOUT,
            request_timeout=config.REQUEST_TIMEOUT,
        )
        tracker.track("YOUR_STREAM_NAME", data)
        tracker.stop()
        assert stored(url) == [("YOUR_STREAM_NAME", data)] * 3


def test_readme_low_level() -> None:
    """The low-level code of both READMEs delivers, by GET too; a refusal has the collector's status and words."""
    with Collector(keys={"YOUR_STREAM_NAME": ["default", KEY]}) as url:
        auth = "default"
        api = IronSourceAtom(is_debug=False, endpoint=url, auth_key=auth)
        assert api.get_auth() == auth
        stream = "YOUR_STREAM_NAME"
        auth2 = KEY
        data: Any = {"event_name": "PYTHON_SDK_POST_EXAMPLE"}
        for response in (
            api.put_event(stream=stream, data=data, method="post", auth_key=auth2),
            api.put_event(stream=stream, data=data),
            api.put_event(stream=stream, data=json.dumps(data), method="get", auth_key=auth2),
        ):
            assert (response.status, response.error) == (200, None)
            assert isinstance(response.data, bytes)
            assert json.loads(response.data)["Status"].lower() == "ok"
            assert isinstance(response.raw_response, Reply)
        data = [{"strings": "data: test 1"}, {"strings": "data: test 2"}]
        assert api.put_events(stream=stream, data=data, auth_key=auth2).status == 200
        refused = api.put_event(stream, {}, auth_key="wrong")
        assert (refused.status, refused.data) == (401, None)
        assert refused.error
        assert stored(url) == [(stream, {"event_name": "PYTHON_SDK_POST_EXAMPLE"})] * 3 + [
            (stream, each) for each in data
        ]


class MyStorage(EventStorage):
    """As the READMEs have it: a lock, and a queue for each stream."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.events: dict[str, deque[Event]] = {}

    def add_event(self, event_object: Event) -> None:
        with self.lock:
            self.events.setdefault(event_object.stream, deque()).append(event_object)

    def get_event(self, stream: str) -> Event | None:
        with self.lock:
            waiting = self.events.get(stream)
            return waiting.popleft() if waiting else None

    def remove_event(self, stream: str) -> Event | None:
        return self.get_event(stream)

    def is_empty(self) -> bool:
        with self.lock:
            return not any(self.events.values())


def test_readme_storage() -> None:
    """Events go through a custom storage to the collector, in order."""
    with Collector(keys={"s": KEY}) as url:
        storage = MyStorage()
        tracker = IronSourceAtomTracker(event_backlog=storage, endpoint=url, auth_key=KEY, batch_size=7)
        for i in range(100):
            tracker.track("s", {"id": i})
        tracker.stop()
        assert stored(url) == [("s", {"id": i}) for i in range(100)]
        assert storage.is_empty()


# -- low level ----------------------------------------------------------------------------------------------


def test_response_of_a_broken_connection(low: MakeLow) -> None:
    """Without an answer the status is 500, as it was; a connection that died idle is replaced in silence."""
    atom, transport = low([ConnectionFailed("refused")])
    response = atom.put_events("s", [{}])
    assert (response.status, response.error, response.data) == (500, "refused", None)
    assert isinstance(response.raw_response, ConnectionFailed)

    atom, transport = low([ConnectionFailed("gone", stale=True)])
    assert atom.put_event("s", {}).status == 200
    assert transport.requests[0] == transport.requests[1]


def test_response_of_three_arguments() -> None:
    """A Response can be made as in 1.5.1."""
    response = Response(None, b"x", 200)
    assert (response.error, response.data, response.status, response.raw_response) == (None, b"x", 200, None)


def test_low_level_arguments(low: MakeLow, caplog: pytest.LogCaptureFixture) -> None:
    """A time-out that is none warns and gets the default; what cannot be guessed is refused."""
    atom, transport = low(request_timeout=0)
    assert "request_timeout must be" in caplog.text
    assert atom._timeout == 60
    low(request_timeout=-(10**5000))
    assert "request_timeout must be a number from 0.001 up, not an int of 16610 bits: 60.0 is taken" in caplog.text
    with pytest.raises(TypeError, match="method must be"):
        atom.put_event("s", {}, None)
    assert transport.requests == []
    for wrong in ({"endpoint": "track.atom-data.io"}, {"endpoint": None}, {"auth_key": 5}):
        with pytest.raises((TypeError, ValueError)):
            low(**wrong)


def test_low_level_after_fork(low: MakeLow, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forked child the parent's connections are left alone."""
    resets = []
    atom, transport = low()
    transport.reset_after_fork = lambda: resets.append(1)
    atom.put_event("s", {})
    monkeypatch.setattr("os.getpid", lambda: -1)
    atom.put_event("s", {})
    atom.put_event("s", {})
    assert resets == [1]


def test_low_level_closes_its_connections(low: MakeLow) -> None:
    """Connections are closed with the object, which has no close() of its own."""
    closed = []
    atom, transport = low()
    transport.close = lambda: closed.append(1)
    del atom
    assert closed == [1]


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "wrong", "option", "default"),
    [
        ("batch_size", (0, 2001, "64", 1.5, True, None), "max_batch_events", 64),
        ("batch_bytes_size", (1023, 524289, None), "max_batch_bytes", 65536),
        ("flush_interval", (999, 1500.0), "flush_interval", 10.0),
        ("batch_worker_count", (0, -1, 1025), "max_in_flight", 1),
        ("request_timeout", (0, -1, "60", float("nan"), float("inf")), "request_timeout", 60),
        ("backlog_timeout", (-1, None), "block_timeout", 1),
        ("retry_max_time", (119, 1e9), "retry.cap", 1800),
        ("retry_max_count", (0, None), "retry.max_attempts", 12),
    ],
)
def test_out_of_range_settings(
    bench: MakeBench, caplog: pytest.LogCaptureFixture, setting: str, wrong: tuple[Any, ...], option: str, default: Any
) -> None:
    """A setting that is out of range gets its default, after a warning that names it."""
    for value in wrong:
        caplog.clear()
        b = bench(**{setting: value}, retry_forever=False, is_blocking=False)
        assert functools.reduce(getattr, option.split("."), b.tracker._tracker._options) == default
        assert f"{setting} must be" in caplog.text


def test_settings(bench: MakeBench) -> None:
    """Each setting arrives in its unit."""
    options = bench(
        batch_worker_count=3,
        flush_interval=1500,
        retry_max_time=120,
        retry_max_count=7,
        batch_size=2000,
        batch_bytes_size=524288,
        endpoint="http://127.0.0.1:3000",
        retry_forever=False,
        is_blocking=False,
        backlog_timeout=0.5,
        request_timeout=2.5,
    ).tracker._tracker._options
    assert (options.max_in_flight, options.max_batch_events, options.max_batch_bytes) == (3, 2000, 524288)
    assert (options.flush_interval, options.block_timeout, options.request_timeout) == (1.5, 0.5, 2.5)
    assert (options.retry.base, options.retry.cap, options.retry.max_attempts) == (3, 120, 7)
    assert str(options.endpoint) == "http://127.0.0.1:3000/"
    options = bench(retry_max_count=7, backlog_timeout=5).tracker._tracker._options
    assert (options.retry.max_attempts, options.block_timeout) == (None, None)


def test_environment_means_nothing(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the modern tracker do not reach the old one."""
    monkeypatch.setenv("ATOM_MAX_BATCH_EVENTS", "7")
    assert bench().tracker._tracker._options.max_batch_events == 64


def test_wrong_arguments(bench: MakeBench) -> None:
    """What has no sensible default is refused before anything is started."""
    for wrong in ({"endpoint": "nowhere"}, {"auth_key": 5}, {"event_backlog": object()}):
        with pytest.raises((TypeError, ValueError)):
            bench(**wrong)


def test_debug_file_path(bench: MakeBench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is none gets the default, after an error."""
    original = config.DEBUG_FILE_PATH
    config.DEBUG_FILE_PATH = str(tmp_path)  # type: ignore[misc]
    try:
        for wrong in (str(tmp_path / "none"), 5):
            bench(debug_to_file=True, debug_file_path=wrong)
        assert caplog.text.count("debug_file_path is no folder") == 2
        b = bench(debug_to_file=True, debug_file_path=str(tmp_path), auth_key=KEY)
        b.tracker.track("s", {"id": 1})
        b.tracker.stop()
    finally:
        config.DEBUG_FILE_PATH = original  # type: ignore[misc]
    (file,) = tmp_path.iterdir()
    first, second = map(json.loads, file.read_text().splitlines())
    assert first["request"]["data"] == {"table": "s", "data": '["{\\"id\\": 1}"]', "bulk": True}
    assert second["response"]["code"] == 200


# -- retries and losses -----------------------------------------------------------------------------------------


def test_retry_max_count(bench: MakeBench) -> None:
    """Without retry_forever a batch is tried that often; then the callback gets it with 500."""
    b = bench(answer=lambda request: 503, retry_forever=False, retry_max_count=3)
    b.tracker.track("s", {"id": 1})
    b.tracker.flush()
    b.clock.sleep(10_000)
    assert len({(request.body, request.headers) for request in b.server.requests}) == 1
    assert len(b.server.requests) == 3
    assert [call[1:] for call in b.calls] == [(500, "status 503", ['{"id": 1}'], "s")]
    assert b.calls[0][0] == pytest.approx(1_000_000_000 + b.server.times[-1])


def test_retry_max_time(bench: MakeBench) -> None:
    """With retry_forever a batch is tried on and on; no pause is longer than retry_max_time."""
    b = bench(answer=lambda request: 500, retry_max_time=120)
    b.tracker.track("s", {})
    b.tracker.flush()
    b.clock.sleep(100_000)
    pauses = [after - before for before, after in zip(b.server.times, b.server.times[1:], strict=False)]
    assert len(pauses) > 500
    assert max(pauses) <= 120
    assert b.calls == []


def test_no_callback(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """Without a callback a loss is logged, without key and event."""
    b = bench(answer=[401], callback=None, auth_key=KEY)
    b.tracker.track("s", "the event")
    b.tracker.stop()
    assert "events of stream 's' are lost after 1 tries: status 401 (401)" in caplog.text
    assert "the event" not in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("count", [4, 5])
def test_callback_styles(count: int) -> None:
    """A callback gets the stream as a fifth argument if it can take one."""
    logger = logging.getLogger("test")
    got: list[tuple[Any, ...]] = []

    def four(unix_time: float, http_code: int, error_msg: str, sent_data: object) -> None:
        got.append((unix_time, http_code, error_msg, sent_data))

    def five(unix_time: float, http_code: int, error_msg: str, sent_data: object, stream: str) -> None:
        got.append((unix_time, http_code, error_msg, sent_data, stream))

    def any_number(*args: Any) -> None:
        got.append(args)

    def optional(a: Any, b: Any, c: Any, d: Any, e: Any = "no stream") -> None:
        got.append((a, b, c, d, e))

    class Callable4:
        def __call__(self, a: Any, b: Any, c: Any, d: Any) -> None:
            got.append((a, b, c, d))

        def method(self, a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
            got.append((a, b, c, d, e))

    styles: dict[int, list[Any]] = {
        4: [four, Callable4(), functools.partial(five, 1), functools.partial(optional, 0)],
        5: [five, any_number, optional, Callable4().method, functools.partial(five), functools.partial(any_number, 0)],
    }
    for callback in styles[count]:
        got.clear()
        adapted = read_callback(callback, logger)
        assert adapted is not None
        adapted(1.0, 400, "message", ["data"], "stream")
        assert got[0][-count:] == (1.0, 400, "message", ["data"], "stream")[:count]


def test_callback_without_signature() -> None:
    """A built-in that does not tell its signature gets five arguments."""
    assert read_callback(max, logging.getLogger("test")) is max
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(max)


@pytest.mark.parametrize("callback", [lambda: None, lambda one: None, "callback", 5])
def test_callback_that_takes_neither(bench: MakeBench, callback: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be called with four or five arguments is ignored, after a warning."""
    b = bench(callback=callback, answer=[400])
    assert "callback must take" in caplog.text
    b.tracker.track("s", {})
    b.tracker.stop()
    assert "are lost" in caplog.text


# -- the backlog ------------------------------------------------------------------------------------------------


def test_backlog_is_per_stream_whatever_the_key(bench: MakeBench) -> None:
    """backlog_size counts what is pending of a stream under all keys; a full one is sent though no batch is full."""
    b = bench(backlog_size=2, delay=1)
    b.tracker.track("s", "1", "one")
    b.tracker.track("s", "2", "two")
    assert b.clock.now() == 0
    b.tracker.track("s", "3", "three")
    assert b.clock.now() == 1
    b.tracker.stop()
    assert b.seen() == [1, 2, 3]


def test_backlog_without_limit(bench: MakeBench) -> None:
    """backlog_size=0 takes any number."""
    b = bench(backlog_size=0, batch_size=2000, delay=1)
    for i in range(5000):
        b.tracker.track("s", str(i))
    assert b.clock.now() == 0
    b.tracker.stop()
    assert b.seen() == list(range(5000))


def test_silent_streams_are_forgotten(bench: MakeBench) -> None:
    """Streams that have nothing pending cost nothing in the long run."""
    b = bench(batch_size=1)
    for i in range(1000):
        b.tracker.track(f"stream {i}", "1")
        b.clock.sleep(0)
    assert len(b.tracker._tracker._core._streams) < 100


def test_track_that_interrupts(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that a signal handler tracks in the midst of another track() is delivered, too."""
    b = bench()
    original = OldCore.pending_of

    def interrupt(core: OldCore, stream: str) -> int:
        monkeypatch.setattr(OldCore, "pending_of", original)
        in_turn(lambda core: b.tracker.track("s", "2"))(core)
        return original(core, stream)

    monkeypatch.setattr(OldCore, "pending_of", interrupt)
    b.tracker.track("s", "1")
    b.tracker.stop()
    assert sorted(b.seen()) == [1, 2]


# -- custom storages --------------------------------------------------------------------------------------------


def test_storage_holds_events_until_their_batch(bench: MakeBench) -> None:
    """Events stay in the storage until there is a batch and room for it, batch_pool_size batches ahead."""
    for pool_size, left in ((1, 20), (2, 10)):
        storage = MyStorage()
        b = bench(event_backlog=storage, batch_size=10, batch_pool_size=pool_size, delay=50)
        for i in range(9):
            b.tracker.track("s", {"id": i})
        b.clock.sleep(1)
        assert len(storage.events["s"]) == 9
        for i in range(9, 30):
            b.tracker.track("s", {"id": i})
        b.clock.sleep(1)
        assert len(storage.events["s"]) == left
        b.clock.sleep(200)
        assert b.seen() == [{"id": i} for i in range(30)]
        assert [len(json.loads(json.loads(request.body)["data"])) for request in b.server.requests] == [10] * 3


def test_storage_keeps_what_there_is_no_time_to_send(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """stop() ends in time; each event was delivered, or reached the callback, or is still in the storage."""
    storage = MyStorage()
    b = bench(event_backlog=storage, batch_size=10, delay=3)
    for i in range(50):
        b.tracker.track("s", {"id": i})
    b.tracker.stop()
    assert b.clock.now() <= 5
    reported = [json.loads(text) for call in b.calls for text in call[3]]
    kept = [json.loads(str(event.data)) for event in storage.events["s"]]
    assert len(b.seen()) == 10
    assert b.seen() + reported + kept == [{"id": i} for i in range(50)]
    assert f"stopped with {len(kept)} events" in caplog.text


def test_storage_of_an_earlier_run(bench: MakeBench) -> None:
    """Events that were in the storage before go out with the first that is tracked, signed like it."""
    storage = MyStorage()
    for i in range(25):
        old = Event("s", f'{{"id": {i}}}')
        del old.key_id
        storage.add_event(old)
    b = bench(event_backlog=storage, batch_size=10)
    b.tracker.track("s", {"id": 25}, KEY)
    b.clock.sleep(30)
    assert b.seen() == [{"id": i} for i in range(26)]
    assert all("auth" in json.loads(request.body) for request in b.server.requests)


def test_flush_takes_all_that_is_stored(bench: MakeBench) -> None:
    """flush() sends what is in the storage at that moment, the last incomplete batch too."""
    storage = MyStorage()
    b = bench(event_backlog=storage, batch_size=10)
    for i in range(25):
        b.tracker.track("s", {"id": i})
    b.tracker.flush()
    b.clock.sleep(1)
    assert b.seen() == [{"id": i} for i in range(25)]


class Failing(MyStorage):
    """Fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.get: list[Any] = []
        self.add: list[Exception] = []

    def add_event(self, event_object: Event) -> None:
        if self.add:
            raise self.add.pop()
        super().add_event(event_object)

    def get_event(self, stream: str) -> Any:
        if self.get:
            action = self.get.pop()
            if isinstance(action, Exception):
                raise action
            super().get_event(stream)
            return action
        return super().get_event(stream)


def test_storage_that_raises(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """add_event that raises refuses the event; get_event that raises is logged and asked again later."""
    storage = Failing()
    storage.add = [queue.Full()]
    storage.get = [ValueError("mine")]
    b = bench(event_backlog=storage)
    b.tracker.track("s", "refused")
    b.tracker.track("s", {"id": 1})
    b.tracker.flush()
    b.clock.sleep(30)
    assert b.seen() == [{"id": 1}]
    assert [call[1:4:2] for call in b.calls] == [(400, "refused")]
    assert "Full" in b.calls[0][2]
    assert "get_event raised ValueError" in caplog.text


def test_storage_that_always_raises(bench: MakeBench) -> None:
    """A storage that is out of order is asked once in each interval, and stop() ends in time."""
    storage = Failing()
    storage.get = [ValueError("mine")] * 1000
    b = bench(event_backlog=storage, batch_size=1)
    b.tracker.track("s", {"id": 1})
    b.clock.sleep(95)
    assert len(storage.get) == 990
    b.tracker.stop()
    assert b.clock.now() <= 100
    assert len(storage.events["s"]) == 1


def test_storage_that_loses_events(bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """A storage that gives nothing back is reported, once, and later events go on."""
    storage = Failing()
    storage.get = [queue.Empty()]
    b = bench(event_backlog=storage, batch_size=2)
    b.tracker.track("s", "0")
    storage.events["s"].clear()
    b.tracker.flush()
    b.clock.sleep(1)
    assert caplog.text.count("event_backlog has none of 1 events") == 1
    b.tracker.track("s", "1")
    b.clock.sleep(30)
    assert b.seen() == [1]


@pytest.mark.parametrize("wrong", ["no event", Event("s", object()), Event("s", "x" * 100_000)])
def test_storage_that_gives_something_else(bench: MakeBench, wrong: Any) -> None:
    """What comes out of the storage and cannot be sent goes to the callback; its batch-mates are sent."""
    storage = Failing()
    b = bench(event_backlog=storage)
    b.tracker.track("s", "1")
    b.tracker.track("s", "2")
    storage.get = [wrong]
    b.tracker.stop()
    assert b.seen() == [2]
    assert [call[1] for call in b.calls] == [400]
    assert b.calls[0][3] == (wrong if isinstance(wrong, str) else wrong.data)


def test_storage_that_blocks_when_the_tracker_stops(bench: MakeBench) -> None:
    """get_event that does not return holds stop() up no longer than its time, and nobody loses its event."""
    storage = Failing()
    b = bench(event_backlog=storage)

    class Late(Event):
        def __init__(self) -> None:
            super().__init__("s", "late")

    original = storage.get_event

    def get_event(stream: str) -> Any:
        b.clock.sleep(60)
        return original(stream)

    storage.get_event = get_event  # type: ignore[method-assign]
    b.tracker.track("s", "1")
    b.tracker.stop()
    assert b.clock.now() == 5
    b.clock.sleep(100)
    assert [call[1:4:2] for call in b.calls] == [(400, "1")]


def test_storage_while_no_thread_can_be_started(bench: MakeBench) -> None:
    """At interpreter shutdown stop() itself takes events out and sends them."""
    b = bench(event_backlog=MyStorage(), batch_size=10)
    b.clock.no_more_threads = True
    for i in range(25):
        b.tracker.track("s", {"id": i})
    b.tracker.stop()
    assert b.seen() == [{"id": i} for i in range(25)]


def test_storage_and_interpreter_exit(bench: MakeBench) -> None:
    """What closes all trackers first and then stops them one by one leaves nothing in a storage."""
    b = bench(event_backlog=MyStorage(), batch_size=10)
    for i in range(25):
        b.tracker.track("s", {"id": i})
    b.tracker._tracker._close()
    b.tracker._tracker.stop(2)
    assert b.seen() == [{"id": i} for i in range(25)]
    assert b.tracker._tracker._storage.is_empty()  # type: ignore[attr-defined]


def test_storage_of_many_streams(bench: MakeBench) -> None:
    """Streams take turns."""
    b = bench(event_backlog=MyStorage(), batch_size=1, delay=1)
    for i in range(3):
        for stream in ("a", "b", "c"):
            b.tracker.track(stream, str(i))
    b.clock.sleep(20)
    assert [stream for stream, _ in b.server.events[:6]] == ["a", "b", "c"] * 2
    assert b.server.times == list(range(9))


# -- the other modules ------------------------------------------------------------------------------------------


def test_queue_storage() -> None:
    """Events come back in order, per stream; a full queue refuses, and an empty one gives None."""
    storage = QueueEventStorage(2, block=False)
    assert storage.is_empty()
    assert storage.get_event("a") is None
    first, second, other = Event("a", 1), Event("a", 2), Event("b", 3)
    for event in (first, second, other):
        storage.add_event(event)
    with pytest.raises(queue.Full):
        storage.add_event(Event("a", 4))
    assert storage.get_event("a") is first
    assert storage.remove_event("a") is second
    assert storage.get_event("a") is None
    assert not storage.is_empty()


def test_event_storage_is_abstract() -> None:
    """A storage without all four methods cannot be made."""
    with pytest.raises(TypeError, match="abstract"):
        EventStorage()  # type: ignore[abstract]


def test_batch_event_pool(caplog: pytest.LogCaptureFixture) -> None:
    """Every action is done, one that fails is logged, and after stop() every thread ends."""
    before = set(threading.enumerate())
    pool = BatchEventPool(3, 1)
    threads = set(threading.enumerate()) - before
    done: list[int] = []

    def fail() -> None:
        raise ValueError("mine")

    pool.add_event(fail)
    for i in range(20):
        pool.add_event(functools.partial(done.append, i))
    pool.stop()
    pool.stop()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(done) == list(range(20))
    assert pool.is_empty()
    assert "an action of the pool failed" in caplog.text
    assert all(thread.daemon for thread in threads)
    with pytest.raises(RuntimeError, match="stopped"):
        pool.add_event(fail)
    for wrong in (0, "2"):
        with pytest.raises(ValueError, match="thread_count"):
            BatchEventPool(wrong, 1)  # type: ignore[arg-type]


def test_debug_prints_unless_logging_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With debug, messages are printed where the program has no logging of its own, and only once."""
    logger = logging.getLogger("AtomLogger.print")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("AtomLogger"), "handlers", [])
    atom_logger.get_logger("AtomLogger.print").debug("unseen")
    for _ in range(2):
        atom_logger.get_logger("AtomLogger.print", debug=True)
    logger.debug("seen")
    assert capsys.readouterr().err.count("seen") == 1
    atom_logger.get_logger("AtomLogger.print", debug=False)
    logger.debug("unseen")
    assert capsys.readouterr().err == ""
    logger.handlers.clear()


def test_set_debug(low: MakeLow, bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """set_debug shows each exchange, without key and event; anything but True turns it off."""
    atom, _ = low([200, 200, 500], auth_key=KEY)
    atom.set_debug(True)
    atom.put_event("s", "the event")
    assert caplog.messages == ["POST /: status 200"]
    atom.set_debug("yes")
    atom.put_event("s", "the event")
    assert len(caplog.messages) == 1
    atom.put_event("s", "the event")
    assert caplog.messages[1:] == ["POST /: status 500"]
    caplog.clear()
    b = bench()
    b.tracker.set_debug(True)
    b.tracker.track("s", {})
    b.tracker.stop()
    b.tracker.set_debug(None)  # type: ignore[arg-type]
    assert caplog.messages == ["POST /bulk: status 200"]


def test_raw_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A file is rotated at its limit, every piece is private, and the same file is the same logger."""
    monkeypatch.setattr(atom_logger, "_MAX_BYTES", 100)
    path = tmp_path / "raw.json"
    path.touch(0o644)
    logger = atom_logger.get_logger("AtomRawLogger", file_name=str(path))
    assert atom_logger.get_logger(name="AtomRawLogger", file_name=str(path)) is logger
    for _ in range(3):
        logger.info("x" * 60)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["raw.json", "raw.json.1", "raw.json.2"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_raw_logger_that_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A link, somebody else's file or a folder that is gone is left alone, which is logged once; nothing is raised."""
    target = tmp_path / "target"
    link = tmp_path / "link.json"
    link.symlink_to(target)
    logger = atom_logger.get_logger("AtomRawLogger", file_name=str(link))
    logger.info("one")
    logger.info("two")
    assert not target.exists()
    assert caplog.text.count("cannot write") == 1

    def not_mine(descriptor: int, mode: int) -> None:
        raise PermissionError("not the owner")

    monkeypatch.setattr("os.fchmod", not_mine)
    file = tmp_path / "file.json"
    atom_logger.get_logger("AtomRawLogger", file_name=str(file)).info("one")
    assert file.read_text() == ""
    monkeypatch.delattr("os.fchmod")
    atom_logger.get_logger("AtomRawLogger", file_name=str(tmp_path / "other.json")).info("one")
    assert (tmp_path / "other.json").read_text() == "one\n"


def test_debug_transport_forks() -> None:
    """A transport that can forget its parent's connections is told to; another need not be able to."""

    class Plain:
        def send(self, request: Request, *, timeout: float) -> Reply:
            raise NotImplementedError

        def close(self) -> None:
            pass

    logger = logging.getLogger("test")
    DebugTransport(Plain(), logger, None).reset_after_fork()
    sockets = SocketTransport()
    lock = sockets._lock
    DebugTransport(sockets, logger, None).reset_after_fork()
    assert sockets._lock is not lock


def test_tracker_in_virtual_child(bench: MakeBench, clock: VirtualClock) -> None:
    """In a forked child a tracker starts empty, leaves the storage alone, and keeps to backlog_size."""
    storage = MyStorage()
    b = bench(event_backlog=storage, backlog_size=2, is_blocking=False, backlog_timeout=0, delay=1)
    b.tracker.track("s", "parent")
    b.tracker._tracker._begin_in_child()
    for i in range(3):
        b.tracker.track("s", str(i))
    b.tracker.stop()
    assert b.seen() == [0, 1]
    assert [call[1:4:2] for call in b.calls] == [(400, "2")]
    assert len(storage.events["s"]) == 1


def test_no_key_is_shown(bench: MakeBench, low: MakeLow) -> None:
    """No repr of an old object holds its key."""
    b = bench(auth_key=KEY, event_backlog=MyStorage())
    b.tracker.track("s", {}, KEY + "2")
    atom, _ = low(auth_key=KEY)
    event = b.tracker._tracker._storage.events["s"][0]  # type: ignore[attr-defined]
    for each in (b.tracker, b.tracker._tracker, b.tracker._tracker._options, vars(b.tracker._tracker), atom):
        assert KEY not in repr(each)
    assert KEY not in repr(vars(event))
