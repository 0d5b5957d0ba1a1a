"""What a durable backlog costs, at each of its levels, against a row in SQLite."""

from __future__ import annotations

import functools
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import atom_sync
from atom_sansio import Level, Reply, Request, UpdateBacklog, encode_event
from atom_sync.backlog import Backlog, OpenBacklog

from .measure import interleaved, middle_half, pinned, ratio
from .rows import Row, Sense, us
from .workload import KEY, SMALL, STREAM, Event, numbered

COUNT = 20_000
SYNCED = 300
"""Events of one thread at level disk; each waits for the disk."""
THREADS = 16
SLOWER = 1e-3
"""Seconds that a sync takes more where it goes beyond a cache of the disk's."""
SMALL_BATCH = 64
ROW = 7.3
"""Microseconds that a row took where the targets were set, which are 10 and 0.6 us an event."""


class _Answering:
    """A transport that answers at once, and keeps nothing."""

    def send(self, request: Request, *, timeout: float) -> Reply:
        return Reply(status=200, headers=(), body=b"")

    def close(self) -> None:
        pass


class _Timed(Backlog):
    """Counts the CPU seconds that its file takes to keep and to drop batches."""

    spent = 0.0
    """Of all of them."""

    def open(self, *args: Any, **more: Any) -> OpenBacklog:
        opened = super().open(*args, **more)
        real = opened.update

        def update(update: UpdateBacklog) -> None:
            began = time.thread_time()
            real(update)
            _Timed.spent += time.thread_time() - began

        opened.update = update  # type: ignore[method-assign]
        return opened


@contextmanager
def _tracker(level: Level | None, **options: Any) -> Iterator[atom_sync.Tracker]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:  # not where memory plays the disk
        backlog = None if level is None else _Timed(Path(directory, "events.db"), level=level)
        options |= {"auth_key": KEY, "transport": _Answering, "backlog": backlog}
        with atom_sync.Tracker("http://127.0.0.1/", **options) as tracker:
            yield tracker


def _track(level: Level, events: list[Event]) -> float:
    """CPU seconds of the calling thread."""
    with _tracker(level, flush_interval=3600.0) as tracker:
        track = tracker.track
        track(STREAM, {})  # the files are there
        began = time.thread_time()
        for event in events:
            track(STREAM, event)
        return time.thread_time() - began


def _row(events: list[Event]) -> float:
    """CPU seconds to keep the events as rows in WAL mode, synchronous=NORMAL, a transaction each."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        connection = sqlite3.connect(Path(directory, "rows.db"), isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE events (n INTEGER PRIMARY KEY, line BLOB NOT NULL)")
        began = time.thread_time()
        for event in events:
            connection.execute("INSERT INTO events (line) VALUES (?)", (encode_event(event),))
        spent = time.thread_time() - began
        connection.close()
        return spent


def _synced(threads: int, events: list[Event]) -> float:
    """Events a second of wall time at level disk."""
    with _tracker(Level.DISK) as tracker:
        tracker.track(STREAM, {})
        return _rate(threads, events, lambda event: tracker.track(STREAM, event))


def _rate(threads: int, events: list[Event], take: Callable[[Event], None]) -> float:
    """Events a second of wall time that *take* takes from so many threads, *events* from each."""

    def work() -> None:
        for event in events:
            take(event)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return threads * len(events) / (time.perf_counter() - began)


class _Bare:
    """The least that threads can do to share a sync: one writes for all who have come meanwhile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._queue: list[tuple[bytes, threading.Lock]] = []
        self._writing = False

    def put(self, line: bytes) -> None:
        """Return when *line* is on the disk."""
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            self._queue.append((line, gate))
            writes = not self._writing
            self._writing = True
        if not writes:
            gate.acquire()
            with self._lock:
                if not any(mine is gate for _, mine in self._queue):
                    return  # another one has written it
        with self._lock:
            batch, self._queue = self._queue, []
        os.write(self._fd, b"".join(line for line, _ in batch))
        os.fdatasync(self._fd)
        with self._lock:
            following = self._queue[0][1] if self._queue else None
            self._writing = following is not None
        if following is not None:
            following.release()  # which writes for the rest
        for _, other in batch:
            if other is not gate:
                other.release()


def _bare(threads: int, events: list[Event]) -> float:
    """Events a second of wall time, of encoded events that are written and synced, and nothing else."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        fd = os.open(Path(directory, "lines"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            bare = _Bare(fd)
            return _rate(threads, events, lambda event: bare.put(encode_event(event)))
        finally:
            os.close(fd)


def _on_one_cpu(job: Callable[[], float]) -> float:
    with pinned():
        return job()


def _slower(job: Callable[[], float]) -> float:
    """What *job* gives where each sync takes ``SLOWER`` more."""
    real = os.fdatasync

    def slow(fd: int) -> None:
        real(fd)
        time.sleep(SLOWER)

    os.fdatasync = slow
    try:
        return job()
    finally:
        os.fdatasync = real


def _kept(batch: int, events: list[Event]) -> float:
    """CPU seconds of the thread that keeps batches, in keeping and dropping them."""
    before = _Timed.spent
    _delivered(Level.MEMORY, batch, events)
    return _Timed.spent - before


def _delivered(level: Level | None, batch: int, events: list[Event]) -> float:
    """CPU seconds of the whole process, from the first track() until all is delivered."""
    with _tracker(level, max_batch_events=batch) as tracker:
        tracker.track(STREAM, {})
        tracker.flush()
        began = time.process_time()
        for event in events:
            tracker.track(STREAM, event)
        if not tracker.flush(60):
            raise RuntimeError("not all was delivered")
        return time.process_time() - began


def measure(rounds: int) -> dict[str, Any]:
    """CPU microseconds an event by round, and events a second at level disk."""
    events = numbered(SMALL, COUNT)
    with pinned():
        jobs = {
            "row": functools.partial(_row, events),
            "process": functools.partial(_track, Level.PROCESS, events),
            **{
                f"{name}-{batch}": functools.partial(_delivered, level, batch, events)
                for batch in (SMALL_BATCH, 2000)
                for name, level in (("none", None), ("memory", Level.MEMORY))
            },
            **{f"file-{batch}": functools.partial(_kept, batch, events) for batch in (SMALL_BATCH, 2000)},
        }
        spent = {name: [s / COUNT * 1e6 for s in series] for name, series in interleaved(jobs, rounds).items()}
    syncing = {
        "one": functools.partial(_synced, 1, events[:SYNCED]),
        "many": functools.partial(_synced, THREADS, events[:SYNCED]),
        "bare-one": functools.partial(_bare, 1, events[:SYNCED]),
        "bare-many": functools.partial(_bare, THREADS, events[:SYNCED]),
    }
    on_one = {f"pinned-{name}": functools.partial(_on_one_cpu, job) for name, job in syncing.items()}
    slower = {f"slower-{name}": functools.partial(_slower, job) for name, job in syncing.items()}
    return {**spent, **interleaved({**on_one, **syncing, **slower}, rounds)}


def rows(figures: dict[str, Any]) -> list[Row]:
    median = {name: statistics.median(series) for name, series in figures.items()}

    def sealing(batch: int) -> float:
        pairs = zip(figures[f"memory-{batch}"], figures[f"none-{batch}"], strict=True)
        return statistics.median(kept - bare for kept, bare in pairs)

    return [
        Row(
            name="backlog-process",
            what=f"`track()` at level `process`, CPU of the calling thread (10 us where a row takes {ROW})",
            limit=f"a row in SQLite {us(median['row'])}",
            ours=us(median["process"]),
            value=ratio(figures["process"], figures["row"]),
            spread=middle_half(figures["process"], figures["row"]),
            target=round(10 / ROW, 2),
        ),
        *(
            Row(
                name=f"backlog-{disk}disk",
                what=f"events/s at level `disk`, {THREADS} threads against one{where}",
                limit=f"a bare loop {ratio(figures[f'{disk}bare-many'], figures[f'{disk}bare-one']):.2f}x",
                ours=f"{median[f'{disk}one']:,.0f}/s to {median[f'{disk}many']:,.0f}/s",
                value=ratio(figures[f"{disk}many"], figures[f"{disk}one"]),
                spread=middle_half(figures[f"{disk}many"], figures[f"{disk}one"]),
                target=5.0,
                sense=Sense.AT_LEAST,
            )
            for disk, where in (
                ("pinned-", ""),
                ("", ", all CPUs"),
                ("slower-", f", all CPUs, where a sync takes {SLOWER * 1e3:.0f} ms more"),
            )
        ),
        *(
            Row(
                name=f"backlog-sealing-{batch}",
                what=f"keeping batches of up to {batch}, CPU of the process an event (0.6 us where a row takes {ROW})",
                limit=f"{us(median[f'none-{batch}'])} without a backlog",
                ours=f"{us(median[f'memory-{batch}'])}; {us(median[f'file-{batch}'])} are the file's",
                value=sealing(batch) / median["row"],
                unit=" rows",
                target=round(0.6 / ROW, 3),
            )
            for batch in (SMALL_BATCH, 2000)
        ),
    ]
