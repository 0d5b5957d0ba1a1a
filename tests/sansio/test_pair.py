"""The client's half and the server's half, face to face: every request of ours is read and verified as it was meant."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from atom_sansio import AuthKey, Endpoint, EventTooLarge, SendRequest, TrackerCore, encode_event
from atom_sansio._receive import answer, read_submission
from atom_sansio._request import event_request, events_request
from atom_sansio._verify import Keyring
from atom_sansio.testing import auth_keys, events, options, streams


def text_of(event: Any) -> str:
    """An event as the server's half shows it: a string's own text, else its JSON."""
    return event if isinstance(event, str) else encode_event(event).decode()[:-1]


def read(request: Any, keyring: Keyring) -> Any:
    submission = read_submission(request.method, request.target, request.headers, request.body)
    keyring.verify(submission)
    return submission


ENDPOINT = Endpoint.parse("http://h/")
small = options(max_pending_events=None, max_pending_bytes=1 << 20)
nonempty = events().filter(lambda event: event != "")


@given(small, streams(), auth_keys(), st.lists(nonempty, max_size=8))
def test_tracker(given_options: Any, stream: str, key: str | bytes, items: list[Any]) -> None:
    """What is tracked is what the server's half reads, in order, under the batch's id."""
    core = TrackerCore(given_options, source="s")
    keyring = Keyring({stream: key})
    tracked = []
    for item in items:
        try:
            core.track(stream, item, AuthKey(key), now=0.0)
        except EventTooLarge:
            continue
        tracked.append(text_of(item))
    core.flush(now=0.0)
    received: list[str] = []
    while (command := core.next_command(now=0.0)) is not None:
        if isinstance(command, SendRequest):
            submission = read(command.request, keyring)
            assert (submission.stream, submission.bulk, submission.batch_id) == (stream, True, command.batch_id)
            received += submission.elements
            core.response_received(command.batch_id, answer(), now=0.0, unit=0.0)
    assert received == tracked


@given(streams(), auth_keys(), nonempty, st.sampled_from(["GET", "POST"]))
def test_single(stream: str, key: str | bytes, event: Any, method: str) -> None:
    """Likewise for one event by either method."""
    try:
        request = event_request(ENDPOINT, stream, event, AuthKey(key), method=method, event_id="e")
    except EventTooLarge:
        return
    submission = read(request, Keyring(default=key))
    assert (submission.stream, submission.bulk, submission.batch_id) == (stream, False, "e")
    assert submission.elements == (text_of(event),)


@given(streams(), auth_keys(), st.lists(events(), min_size=1, max_size=6))
def test_batch(stream: str, key: str | bytes, items: list[Any]) -> None:
    """Likewise for a batch of the low-level client."""
    request = events_request(ENDPOINT, stream, items, AuthKey(key), batch_id="b")
    submission = read(request, Keyring(default=[b"another", key]))
    assert submission.bulk
    assert list(submission.elements) == [text_of(item) for item in items]
