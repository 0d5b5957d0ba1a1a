"""A collector that is killed has what it confirmed, each batch once and whole, at whatever moment that was."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from programs import Forks, envelope, strace

from atom_anyio.collector import Store

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")]

KILLS = int(os.environ.get("ATOM_TEST_KILLS", "40"))
"""How often the first test kills; the other one, a quarter of that."""

EVENTS = 20
"""Of one batch."""

CALLS = ("pwrite64,fdatasync,fsync,ftruncate,unlink", "sendto,sendmsg,write,writev")
"""What a collector does to its files, and what it tells its clients."""


def batch(client: int, number: int) -> list[str]:
    return [f"{client} {number} {i}" for i in range(EVENTS)]


class Load:
    """Clients that send one batch after another, each of them until it is confirmed, to one collector after another."""

    def __init__(self, clients: int) -> None:
        self.confirmed: set[tuple[int, int]] = set()
        self.sent: Counter[tuple[int, int]] = Counter()
        self._urls: list[str] = []
        self._changed = threading.Condition()
        self._over = False
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def go_on(self, url: str) -> None:
        with self._changed:
            self._urls.append(url)
            self._changed.notify_all()

    def end(self) -> None:
        """Let each client have its last batch confirmed."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _client(self, client: int) -> None:
        numbers = itertools.count()
        number = next(numbers)
        for place in itertools.count():
            with self._changed:
                self._changed.wait_for(lambda: len(self._urls) > place or self._over)  # noqa: B023 - called at once
                if len(self._urls) <= place:
                    return
            with (
                contextlib.suppress(OSError, http.client.HTTPException),  # it was killed
                contextlib.closing(http.client.HTTPConnection(urlsplit(self._urls[place]).netloc, timeout=60)) as to,
            ):
                while True:
                    self.sent[client, number] += 1
                    body = envelope("s", json.dumps(batch(client, number)))
                    to.request("POST", "/bulk", body, {"Idempotency-Key": f"{client} {number}"})
                    reply = to.getresponse()
                    assert (reply.status, reply.read()) == (200, b'{"Status":"OK"}')
                    self.confirmed.add((client, number))
                    if self._over:
                        return
                    number = next(numbers)

    def check(self, path: Path) -> None:
        """What was confirmed is in the file; what is in the file was sent, and is there once and whole."""
        found: dict[str | None, list[str]] = {}
        after: int | None = 0
        with Store(path) as store:
            while after is not None:
                page = store.events(after=after, limit=10_000).result()
                for event in page.rows:
                    found.setdefault(event.batch_id, []).append(event.text)
                after = page.next
            assert store.statistics().result().stored == EVENTS * len(found)
        sent = {f"{client} {number}": batch(client, number) for client, number in self.sent}
        assert {f"{client} {number}" for client, number in self.confirmed} <= found.keys()
        assert all(texts == sent[batch_id] for batch_id, texts in found.items() if batch_id is not None)
        assert None not in found


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Kills under load, in starting too: what was answered with 200 is stored, and nothing twice or by halves."""
    moments = random.Random(4)
    path = tmp_path / "events.db"
    load = Load(clients=6)
    listening = 0
    with Forks("--store", str(path)) as forks:
        for number in range(KILLS):
            killer = threading.Timer(moments.uniform(0, 0.1), os.kill, (forks.fork(), signal.SIGKILL))
            if number % 4 == 0:
                killer.start()
            if (url := forks.url()) is not None:
                listening += 1
                load.go_on(url)
            if number % 4 != 0:
                killer.start()
            forks.wait()
            killer.join()
        confirmed = len(load.confirmed)
        forks.fork()
        url = forks.url()
        assert url is not None
        load.go_on(url)
        load.end()
    again = sum(count - 1 for count in load.sent.values())
    print(f"{KILLS} kills, {listening} while it listened; {confirmed} batches confirmed, {again} sent again")
    assert confirmed > KILLS
    assert load.confirmed == set(load.sent)
    load.check(path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_killed_at_a_system_call(tmp_path: Path) -> None:
    """Kills at the n-th write, sync and answer of a collector: likewise."""
    path = tmp_path / "events.db"
    load = Load(clients=2)
    with Forks("--store", str(path)) as forks:
        for number in range(KILLS // 4):
            process = forks.fork()
            url = forks.url()
            assert url is not None
            calls = CALLS[number % 2]
            inject = f"inject={calls}:signal=KILL:when={number // 2 + 1}"
            with strace(process, "-e", f"trace={calls}", "-e", inject) as tracer:
                load.go_on(url)
                forks.wait()
                tracer.communicate()
    load.end()
    print(f"{KILLS // 4} kills; {len(load.confirmed)} batches confirmed")
    load.check(path)
