"""Keys are exchanged while the collector runs, and show nowhere."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from programs import envelope, program, request, texts

import atom_sync
from atom_anyio.collector import LiveKeyring
from atom_sansio import Refused, RetryPolicy, read_submission

CANARY = "canary-5ecret"
OLD, NEW = f"{CANARY}-old", f"{CANARY}-new"


def accepts(ring: Any, stream: str, key: str | None) -> bool:
    try:
        ring.verify(read_submission("POST", "/", (), envelope(stream, "x", key)))
    except Refused:
        return False
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"s={OLD}\n")
    return path


def test_reload(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The keys of the file are exchanged, those from elsewhere stay."""
    ring = LiveKeyring(["t=1"], default_key="0", file=file, environment={"ATOM_COLLECTOR_KEYS": "u=2"})
    for keys in ([OLD, NEW], [NEW]):
        file.write_text("".join(f"s={key}\n" for key in keys))
        assert accepts(ring, "s", OLD)  # it was not told yet
        ring.reload()
        assert [accepts(ring, "s", key) for key in (OLD, NEW)] == [OLD in keys, True]
        assert accepts(ring, "t", "1")
        assert accepts(ring, "u", "2")
        assert accepts(ring, "other", "0")
        assert not accepts(ring, "other", None)
    assert [record.getMessage() for record in caplog.records] == [
        "the keys were read again: there are 5",
        "the keys were read again: there are 4",
    ]
    assert CANARY[:4] not in caplog.text + repr(ring)


def test_it_cannot_be_written_away() -> None:
    """Pickling and copying are refused."""
    ring = LiveKeyring([f"s={OLD}"])
    for copying in (pickle.dumps, copy.deepcopy, lambda ring: copy.copy(ring._places)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copying(ring)


WRONG = {
    "no entry": (f"s={NEW}\n{CANARY}\n".encode(), "keys, line 2: must be STREAM=KEY"),
    "no key": (b"s=\n", "keys, line 1: auth_key must not be empty"),
    "no text": (f"s={NEW}\n".encode() + b"\xff", "keys is not UTF-8"),
    "empty": (b"", "a stream that needs a key would need none"),
    "cut off": (b"t=key\n", "a stream that needs a key would need none"),
    "gone": (None, "No such file or directory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file(file: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """What cannot be read, or would open a stream to all, changes nothing; one line says why, and shows no key."""
    content, words = WRONG[name]
    ring = LiveKeyring(file=file)
    file.unlink() if content is None else file.write_bytes(content)
    ring.reload()
    assert [accepts(ring, "s", key) for key in (OLD, NEW, None)] == [True, False, False]
    [record] = caplog.records
    assert record.getMessage().startswith("the keys were not read again, those from before stay valid: ")
    assert words in record.getMessage()
    assert CANARY[:4] not in caplog.text
    file.write_text(f"s={NEW}\n")
    ring.reload()
    assert [accepts(ring, "s", key) for key in (OLD, NEW, None)] == [False, True, False]


def test_a_default_covers(file: Path) -> None:
    """A stream may lose its own key where there is a default one; the default itself may not go."""
    file.write_text(f"s={OLD}\n*={OLD}\n")
    ring = LiveKeyring(file=file)
    file.write_text(f"*={NEW}\n")
    ring.reload()
    assert [accepts(ring, "s", key) for key in (OLD, NEW, None)] == [False, True, False]
    file.write_text(f"s={NEW}\n")
    ring.reload()
    assert not accepts(ring, "other", None)


# In a process

needs_sighup = pytest.mark.skipif(os.name == "nt", reason="needs SIGHUP")


def exchange(process: subprocess.Popen[str], file: Path, *keys: str) -> str:
    """Give the collector other keys, and get what it says to that."""
    file.write_text("".join(f"s={key}\n" for key in keys))
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    return process.stderr.readline()


class Source:
    """Tracks events until the block is left."""

    def __init__(self, tracker: atom_sync.Tracker) -> None:
        self.tracked = 0
        self._tracker = tracker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(0.0005):
            self._tracker.track("s", {"id": self.tracked})
            self.tracked += 1

    def more(self, count: int = 200) -> None:
        """Wait until some more events were tracked."""
        until = self.tracked + count
        while self.tracked < until:
            self._over.wait(0.01)

    def __enter__(self) -> Source:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def tracker(url: str) -> atom_sync.Tracker:
    return atom_sync.Tracker(
        url,
        auth_keys={"s": OLD},
        max_batch_events=20,
        flush_interval=0.02,
        retry=RetryPolicy(base=0.05, cap=0.2),
    )


@needs_sighup
def test_rotation_with_overlap(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Old, both, new: a tracker that changes its key under load has no request refused; then the old one is."""
    store = tmp_path / "events.db"
    with program("--store", str(store), "--keys-file", str(file)) as (process, url):
        with tracker(url) as client, Source(client) as source:
            source.more()
            said = [exchange(process, file, OLD, NEW)]
            source.more()
            client.set_auth_key("s", NEW)
            source.more()
            assert client.flush(timeout=30).pending == 0
            said.append(exchange(process, file, NEW))
            source.more()
        assert client.statistics().lost == {}
        assert [json.loads(text)["id"] for text in texts(url)] == list(range(source.tracked))
        counts = request(url, "GET", "/_atom/stats")[1]
        assert (counts["rejected"], counts["duplicates"]) == (0, 0)
        assert request(url, "POST", "/", envelope("s", "x", OLD))[0] == 401
        assert request(url, "POST", "/", envelope("s", "x", NEW))[0] == 200
        process.terminate()
        output = process.communicate(timeout=30)
    print(f"{source.tracked} events in {counts['requests']} requests, none refused")
    assert said == [f"the keys were read again: there are {count}\n" for count in (2, 1)]
    assert CANARY[:4] not in "".join([*said, *output]) + caplog.text
    assert all(CANARY.encode() not in path.read_bytes() for path in tmp_path.iterdir() if path != file)


@needs_sighup
def test_rotation_without_overlap(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that is revoked under load parks the stream; with the new one everything arrives, in order and once."""
    caplog.set_level(logging.DEBUG)
    with program("--store", str(tmp_path / "events.db"), "--keys-file", str(file)) as (process, url):
        with tracker(url) as client, Source(client) as source:
            source.more()
            said = [exchange(process, file, NEW)]
            while request(url, "GET", "/_atom/stats")[1]["rejected"] == 0:
                source.more(10)
            source.more()
            client.set_auth_key("s", NEW)
            source.more()
        assert client.statistics().lost == {}
        assert [json.loads(text)["id"] for text in texts(url)] == list(range(source.tracked))
        refused = request(url, "GET", "/_atom/rejected")[1]["rejected"]
        process.terminate()
        output = process.communicate(timeout=30)
    assert {row["status"] for row in refused} == {401}
    assert CANARY[:4] not in "".join([*said, *output]) + caplog.text + json.dumps(refused)
    assert all(CANARY.encode() not in path.read_bytes() for path in tmp_path.iterdir() if path != file)


@needs_sighup
def test_a_wrong_file_under_load(tmp_path: Path, file: Path) -> None:
    """A wrong file disturbs nobody who is served, and the next right one counts."""
    with program("--store", ":memory:", "--keys-file", str(file)) as (process, url):
        with tracker(url) as client, Source(client) as source:
            for number in range(10):
                source.more(20)
                said = exchange(process, file, "" if number % 2 else OLD)
                assert ("not read again" in said) == (number % 2 == 1)
                assert CANARY[:4] not in said
        assert client.statistics().lost == {}
        assert request(url, "GET", "/_atom/stats")[1]["rejected"] == 0
        assert len(texts(url)) == source.tracked


@needs_sighup
def test_sighup_without_a_file() -> None:
    """Without a file there is nothing to be read again, and SIGHUP ends it, as when its terminal is closed."""
    with program("--store", ":memory:") as (process, _):
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == -signal.SIGHUP
