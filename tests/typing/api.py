"""The public interface as users' type checkers see it.  Never run: mypy reads it with the sources.

Each ``# type: ignore`` says of a wrong call that it is noticed; if it were not, the checker would complain.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Union

from typing_extensions import assert_never, assert_type

import atom_anyio
import atom_sansio
import atom_sync
from atom_sansio import (
    JSON,
    AuthKey,
    Command,
    FlushResult,
    Loss,
    LossReason,
    OnFull,
    Options,
    Reply,
    ReportLoss,
    ReportParked,
    Request,
    Response,
    RetryPolicy,
    SendRequest,
    Statistics,
    TrackerCore,
)


class SyncTransport:
    def send(self, request: Request, *, timeout: float) -> Reply:
        return Reply(status=200, headers=(), body=b"")

    def close(self) -> None: ...


class AsyncTransport:
    async def send(self, request: Request, *, timeout: float) -> Reply:
        return Reply(status=200, headers=(), body=b"")

    async def aclose(self) -> None: ...


sync_transports: list[atom_sync.Transport] = [
    SyncTransport(),
    atom_sync.SocketTransport(ssl_context=ssl.create_default_context(), max_idle=1, idle_timeout=1.0),
    atom_sync.MemoryTransport([200, Reply(status=500, headers=(), body=b""), OSError()]),
    atom_sync.MemoryTransport(lambda request: 200 if request.body else 400),
    atom_sync.HttpxTransport(),
]
async_transports: list[atom_anyio.Transport] = [
    AsyncTransport(),
    atom_anyio.StreamTransport(ssl_context=ssl.create_default_context(), max_idle=1, idle_timeout=1.0),
    atom_anyio.MemoryTransport([200]),
    atom_anyio.HttpxTransport(),
]
wrong_transports: list[atom_sync.Transport] = [AsyncTransport()]  # type: ignore[list-item]


def on_loss(loss: Loss) -> None:
    assert_type(loss.stream, str)
    assert_type(loss.events, tuple[JSON, ...])
    assert_type(loss.reason, LossReason)
    assert_type(loss.status, int | None)
    assert_type(loss.count, int)
    loss.stream = "other"  # type: ignore[misc]


async def on_loss_async(loss: Loss) -> None: ...


def threads() -> None:
    with atom_sync.Tracker(
        "http://127.0.0.1:3000/",
        auth_key="k",
        auth_keys={"s": b"k", "t": AuthKey("k")},
        max_batch_events=1,
        max_batch_bytes=1024,
        flush_interval=1,
        max_pending_bytes=2048,
        max_pending_events=None,
        on_full="drop_oldest",
        block_timeout=None,
        max_in_flight=1,
        request_timeout=1.5,
        retry=RetryPolicy(base=1, cap=2, max_attempts=3, max_elapsed=None),
        on_loss=on_loss,
        transport=SyncTransport(),
    ) as tracker:
        assert_type(tracker, atom_sync.Tracker)
        tracker.track("s", {"id": 1, "tags": ["a", None]})
        tracker.track("s", "text", auth_key=AuthKey("other"))
        assert_type(tracker.flush(timeout=1), FlushResult)
        assert_type(tracker.flush().delivered, int)
        statistics = tracker.statistics()
        assert_type(statistics, Statistics)
        assert_type(statistics.lost, Mapping[LossReason, int])
        tracker.set_auth_key("s", "new")
        tracker.handle_signals()
        assert_type(tracker.stop(), FlushResult)
        tracker.track(1, 1)  # type: ignore[call-overload]
    atom_sync.Tracker(on_full=OnFull.RAISE, transport=atom_sync.MemoryTransport)
    atom_sync.Tracker(no_such_option=1)  # type: ignore[call-arg]
    atom_sync.Tracker(max_in_flight="4")  # type: ignore[arg-type]
    with atom_sync.Client("http://127.0.0.1:3000/", auth_key=b"k", request_timeout=1) as client:
        assert_type(client, atom_sync.Client)
        assert_type(client.put_event("s", {"id": 1}, method="GET"), Response)
        assert_type(client.put_events("s", ({"id": i} for i in range(3)), auth_key="k").status, int | None)
        assert_type(client.health().error, str | None)
    atom_sync.Client(max_batch_events=1)  # type: ignore[call-arg]
    transport = atom_sync.MemoryTransport()
    assert_type(transport.events, list[tuple[str, JSON]])
    assert_type(transport.requests, list[Request])


async def tasks() -> None:
    async with atom_anyio.Tracker("http://127.0.0.1:3000/", on_loss=on_loss_async) as tracker:
        assert_type(tracker, atom_anyio.Tracker)
        tracker.track_nowait("s", [1, 2.5, True], auth_key="k")
        await tracker.track("s", {"id": 1})
        assert_type(await tracker.flush(timeout=1), FlushResult)
        assert_type(tracker.statistics(), Statistics)
        tracker.set_auth_key("s", AuthKey(b"new"))
        assert_type(await tracker.stop(1), FlushResult)
        tracker.flush().delivered  # type: ignore[attr-defined]  # noqa: B018
    async with atom_anyio.Client("http://127.0.0.1:3000/", auth_keys={"s": "k"}) as client:
        assert_type(client, atom_anyio.Client)
        assert_type(await client.put_event("s", 1), Response)
        assert_type(await client.put_events("s", ["a"]), Response)
        assert_type(await client.health(), Response)
        await client.aclose()


def driver(now: float, unit: float) -> None:
    options = Options.read({"endpoint": "http://127.0.0.1:3000/"}, {}, lambda name: None)
    core = TrackerCore(options, source="unique", unix_offset=0.0, verdict=atom_sansio.verdict)
    assert_type(core.track("s", 1, now=now), bool)
    assert_type(core.flush(now=now).result, FlushResult)
    assert_type(core.next_deadline(), float | None)
    command = core.next_command(now=now)
    assert_type(command, Command | None)
    match command:
        case SendRequest():
            assert_type(command.request, Request)
            core.response_received(command.batch_id, Reply(status=200, headers=(), body=b""), now=now, unit=unit)
            core.send_failed(command.batch_id, atom_sansio.RequestTimeout("late"), now=now, unit=unit)
        case ReportLoss():
            on_loss(command.loss)
        case ReportParked():
            assert_type(command.status, Union[int, None])
        case None:
            core.close(now=now)
        case _:
            assert_never(command)
    command.events = 3  # type: ignore[union-attr, misc]
    assert_type(atom_sansio.backoff(1, base=1, cap=2, unit=unit), float)
    assert_type(atom_sansio.encode_event({"a": 1}), bytes)
    connection = atom_sansio.HttpConnection(options.endpoint.origin)
    assert_type(connection.next_reply(), Reply | None)
