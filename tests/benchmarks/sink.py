"""The null collector, compiled when needed, in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

SOURCE = Path(__file__).with_name("sink.c")


class Sink:
    """``with Sink(needle) as sink``: counts posts and, by how often *needle* occurs, events."""

    def __init__(self, needle: str) -> None:
        self._needle = needle

    def __enter__(self) -> Sink:
        self._folder = tempfile.TemporaryDirectory()
        program = Path(self._folder.name) / "sink"
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, SOURCE], check=True)
        # It ends with its standard input, so it cannot outlive us.
        self._process = subprocess.Popen([program, self._needle], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def reset(self) -> None:
        self._get("/reset")

    def stats(self) -> dict[str, Any]:
        return self._get("/stats")

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request("GET", path)
            result: dict[str, Any] = json.loads(connection.getresponse().read())
            return result
        finally:
            connection.close()
