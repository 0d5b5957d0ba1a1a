"""The null collector, compiled when first needed, in a process of its own."""

from __future__ import annotations

import functools
import http.client
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

SOURCE = Path(__file__).with_name("sink.c")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the program is; goes when this process does."""
    folder = tempfile.TemporaryDirectory(prefix="atom-benchmark-")
    program = Path(folder.name) / "sink"
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, SOURCE], check=True)
    return folder


class Sink:
    """``with Sink(needle) as sink``: counts posts and, by how often *needle* occurs, events.

    Args:
        needle: what every event's text, as it stands in the body, holds once.
        reply: body of every answer, at most 900 bytes.
        delay: seconds that each reply waits.
        numbered: *needle* is followed by the event's number, and repeated numbers are counted.

    The process inherits the CPUs of the one that starts it.
    """

    def __init__(
        self, needle: str, reply: str = '{"Status":"OK"}', *, delay: float = 0.0, numbered: bool = False
    ) -> None:
        self._arguments = [needle, reply, str(round(delay * 1e6)), *(["numbered"] if numbered else [])]

    def __enter__(self) -> Sink:
        program = Path(_folder().name) / "sink"
        # It ends with its standard input, so it cannot outlive us.
        self._process = subprocess.Popen(
            [program, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self._connection.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def reset(self) -> None:
        """Start counting anew."""
        self._get("/reset")

    def stats(self) -> dict[str, int]:
        """``posts``, ``events``, ``repeated``, ``bytes`` and ``cpu_us`` since the last reset."""
        return self._get("/stats")

    def _get(self, path: str) -> dict[str, int]:
        self._connection.request("GET", path)
        result: dict[str, int] = json.loads(self._connection.getresponse().read())
        return result
