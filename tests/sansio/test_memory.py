"""The script and the record behind both memory transports."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from atom_sansio._errors import ConnectionFailed
from atom_sansio._memory import Recorder
from atom_sansio._messages import Origin, Reply, Request

ORIGIN = Origin("http", "collector.example", 3000)


def bulk(stream: str, *events: object) -> Request:
    body = json.dumps({"table": stream, "data": json.dumps(events), "bulk": True}).encode()
    return Request(method="POST", origin=ORIGIN, target="/bulk", headers=(), body=body)


def single(stream: str, text: str, method: str = "POST") -> Request:
    body = json.dumps({"table": stream, "data": text}).encode()
    target = "/"
    if method == "GET":
        target, body = "/?data=" + quote(base64.b64encode(body), safe=""), b""
    return Request(method=method, origin=ORIGIN, target=target, headers=(), body=body)


class TestAnswers:
    def test_default(self) -> None:
        """Without a script each request is answered as a collector answers what it stores."""
        recorder = Recorder()
        for _ in range(2):
            assert recorder.reply(bulk("s", 1)) == Reply(status=200, headers=(), body=b'{"Status":"OK"}')

    def test_sequence(self) -> None:
        """A sequence is used up answer by answer, and 200 comes after the last."""
        recorder = Recorder([503, Reply(status=429, headers=(("retry-after", "1"),), body=b"later"), 204])
        replies = [recorder.reply(bulk("s", i)) for i in range(4)]
        assert [reply.status for reply in replies] == [503, 429, 204, 200]
        assert [reply.body for reply in replies] == [b"", b"later", b'{"Status":"OK"}', b'{"Status":"OK"}']

    def test_every_status(self) -> None:
        """Every status of a final reply can be given, and those of a success alone have a body."""
        recorder = Recorder(range(200, 600))
        for status in range(200, 600):
            body = b'{"Status":"OK"}' if status < 300 else b""
            assert recorder.reply(bulk("s", status)) == Reply(status=status, headers=(), body=body)
        assert recorder.events == [("s", status) for status in range(200, 300)]

    def test_interim_reply(self) -> None:
        """A reply that no collector gives accepts nothing."""
        recorder = Recorder([Reply(status=199, headers=(), body=b"")])
        recorder.reply(bulk("s", 1))
        assert recorder.events == []

    def test_exception(self) -> None:
        """An exception is raised in place of a reply; the request is kept all the same."""
        broken = ConnectionFailed("gone")
        recorder = Recorder([broken])
        request = bulk("s", 1)
        with pytest.raises(ConnectionFailed) as caught:
            recorder.reply(request)
        assert caught.value is broken
        assert recorder.requests == [request]
        assert recorder.events == []

    def test_function(self) -> None:
        """A function sees each request and decides."""
        recorder = Recorder(lambda request: 401 if b'"a"' in request.body else 200)
        assert [recorder.reply(bulk(stream, 1)).status for stream in "aba"] == [401, 200, 401]

    @pytest.mark.parametrize("answer", [200, "200", b"200", object(), {200}, [200, "200"], [None]])
    def test_wrong_types(self, answer: object) -> None:
        """What is no script is refused when the transport is made."""
        with pytest.raises(TypeError, match="answer must be"):
            Recorder(answer)  # type: ignore[arg-type]  # the point of the test

    @pytest.mark.parametrize("status", [0, 100, 199, 600, True])
    def test_wrong_status(self, status: int) -> None:
        """So is a status that no final reply has."""
        with pytest.raises(ValueError, match="from 200 to 599"):
            Recorder([status])

    def test_function_gives_no_answer(self) -> None:
        """A function's answers are checked when it gives them."""
        with pytest.raises(TypeError, match="NoneType"):
            Recorder(lambda _: None).reply(bulk("s", 1))  # type: ignore[arg-type,return-value]  # the point


class TestEvents:
    def test_only_what_was_accepted(self) -> None:
        """Events are those of requests answered 2xx, in order, each with its stream."""
        recorder = Recorder([200, 503, 204, 302, 400])
        for i in range(6):
            recorder.reply(bulk(f"s{i}", {"id": i}, {"id": -i}))
        assert recorder.events == [(f"s{i}", {"id": sign * i}) for i in (0, 2, 5) for sign in (1, -1)]
        assert len(recorder.requests) == 6

    def test_values(self) -> None:
        """Strings count by the JSON they hold, or as the text they are; big integers stay exact."""
        recorder = Recorder()
        recorder.reply(bulk("s", '{"id": 1}', "no json", "NaN", 2**70, None, [True]))
        assert [event for _, event in recorder.events] == [{"id": 1}, "no json", "NaN", 2**70, None, [True]]

    @pytest.mark.parametrize("method", ["POST", "GET"])
    def test_single(self, method: str) -> None:
        """Single events are read from the body or from the query."""
        recorder = Recorder()
        recorder.reply(single("caf\u00e9", '{"a": "\u2713+/="}', method))
        recorder.reply(single("s", "plain text", method))
        assert recorder.events == [("caf\u00e9", {"a": "\u2713+/="}), ("s", "plain text")]

    def test_health(self) -> None:
        """A health check holds no events."""
        recorder = Recorder()
        recorder.reply(Request(method="GET", origin=ORIGIN, target="/health", headers=(), body=b""))
        assert recorder.events == []
