"""A program whose disk is at fault for a while: ``python faulty_disk.py DIRECTORY FAULT DRIVER LEVEL END``.

It has a tracker for each way to be ``on_full``, and prints what each was told of its events.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import calls
from calls import Kind

import atom_anyio
import atom_sync
from atom_sansio import BacklogFull, RetryPolicy, _delivery, _keeper, _recording
from atom_sync.backlog import Backlog

POLICIES = ["block", "wait", "raise", "drop_newest", "drop_oldest"]
"""All ways to be ``on_full``; ``wait`` is ``block`` without a ``block_timeout``."""

BLOCK_TIMEOUT = 0.5

PRELOADED = {
    "no space": (Kind.WRITE | Kind.CREATE, errno.ENOSPC),
    "read-only": (Kind.WRITE | Kind.CREATE | Kind.TRUNCATE | Kind.UNLINK, errno.EROFS),
    "broken": (Kind.WRITE | Kind.TRUNCATE, errno.EIO),
    "broken sync": (Kind.SYNC, errno.EIO),
}
"""Faults that need the preloaded library: the kinds of calls that fail, and how."""


class Fault:
    """Something that is wrong with the disk for a while."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._directory = directory

    def begin(self) -> None:
        if self._name in PRELOADED:
            calls.fail(*PRELOADED[self._name], str(self._directory))
        elif self._name == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        else:
            with (self._directory / "ballast").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(65536))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def end(self) -> None:
        if self._name in PRELOADED:
            assert calls.failed() > 0
            calls.fail(Kind(0), 0)
        elif self._name == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            (self._directory / "ballast").unlink()


class Program:
    def __init__(self, directory: Path, fault: str, driver: str, level: str, end: str) -> None:
        self._directory = directory
        self._fault = Fault(fault, directory)
        self._driver = driver
        self._level = level
        self._end = end
        self._before = threading.Barrier(len(POLICIES) + 1, timeout=30)
        self._met = threading.Semaphore(0)
        self._over = threading.Event()

    def run(self) -> dict[str, Any]:
        with ThreadPoolExecutor(len(POLICIES)) as executor:
            found = {policy: executor.submit(self._work, policy) for policy in POLICIES}
            self._before.wait()
            self._fault.begin()
            self._before.wait()
            for policy in POLICIES:
                if policy != "wait":
                    self._met.acquire()
            time.sleep(0.3)
            self._fault.end()
            self._over.set()
            return {policy: future.result() for policy, future in found.items()}

    def _work(self, policy: str) -> dict[str, Any]:
        try:
            with ExitStack() as stack:
                return self._meet(Told(), policy, stack)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)

    def _meet(self, told: Told, policy: str, stack: ExitStack) -> dict[str, Any]:
        (self._directory / policy).mkdir()
        options = {
            "endpoint": "http://127.0.0.1:1/",
            "backlog": Backlog(self._directory / policy / "events.db", level=self._level),
            "on_full": "block" if policy == "wait" else policy,
            "block_timeout": None if policy == "wait" else BLOCK_TIMEOUT,
            "on_loss": told.on_loss,
            "max_batch_events": 10,
            "retry": RetryPolicy(base=0.1, cap=0.2),
        }
        if self._driver == "sync":
            tracker = atom_sync.Tracker(**options, transport=atom_sync.MemoryTransport(lambda request: 503))
            track, stop = tracker.track, tracker.stop
        else:
            from anyio.from_thread import start_blocking_portal

            portal = stack.enter_context(start_blocking_portal(self._driver))

            async def make() -> atom_anyio.Tracker:
                return atom_anyio.Tracker(**options, transport=atom_anyio.MemoryTransport(lambda request: 503))

            entered = stack.enter_context(portal.wrap_async_context_manager(portal.call(make)))

            def track(stream: str, event: Any) -> None:
                portal.call(entered.track, stream, event)

            def stop(timeout: float) -> Any:
                return portal.call(entered.stop, timeout)

        for n in range(10):
            assert told.track(track, n)
        self._before.wait()
        self._before.wait()
        try:
            for n in range(10, 150):
                told.track(track, n)
                if policy.startswith("drop"):
                    time.sleep(0.005)  # it is told by another thread
                if len(told.refused) + len(told.lost) >= 3 or (policy == "wait" and self._over.is_set()):
                    break
            else:
                raise AssertionError(f"{policy}: met no fault")
        finally:
            self._met.release()
        self._over.wait()
        # There is room again, and nobody need be told so.
        until = time.monotonic() + 30
        n = 1000
        while not told.track(track, n) or told.has_lost(n):
            assert time.monotonic() < until, f"{policy}: has not resumed"
            n += 1
        for n in range(2000, 2020):
            assert told.track(track, n), f"{policy}: has resumed, and refuses {n}"
        if self._end == "stop":
            result = stop(0.5)
            assert result.delivered == 0
        else:
            killed.append((policy, told.__dict__))
            if len(killed) == len(POLICIES):
                print(json.dumps(dict(killed)), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return told.__dict__


killed: list[tuple[str, dict[str, Any]]] = []


class Told:
    """What became of events, by their numbers."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.refused: list[int] = []
        self.lost: list[int] = []
        self.reasons: list[str] = []
        self.slowest = 0.0
        """Seconds that a call took at most."""
        self.refused_after: list[float] = []

    def track(self, track: Any, n: int) -> bool:
        began = time.monotonic()
        try:
            track("s", {"n": n, "pad": "x" * 1000})
        except BacklogFull:
            self.refused.append(n)
            self.refused_after.append(time.monotonic() - began)
            return False
        else:
            self.accepted.append(n)
            return True
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)

    def on_loss(self, loss: Any) -> None:
        self.lost += [event["n"] for event in loss.events]
        self.reasons.append(loss.reason.value)

    def has_lost(self, n: int) -> bool:
        time.sleep(0.05)  # it is told by another thread
        return n in self.lost


def main() -> None:
    signal.alarm(60)
    _delivery.PAUSE = _keeper.PAUSE = _recording._PAUSE = 0.2  # type: ignore[misc]
    directory, *how = sys.argv[1:]
    print(json.dumps(Program(Path(directory), *how).run()))


if __name__ == "__main__":
    main()
