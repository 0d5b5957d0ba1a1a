"""Every option: type, range, environment, and that no key shows."""

from __future__ import annotations

import json
import math
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from sys import float_info
from typing import Any, get_type_hints

import pytest

from atom_sansio import AuthKey, ClientOptions, Endpoint, OnFull, Options, RetryPolicy, TrackerOptions

URL = "http://collector.example"
CANARY = "canary-5ecret"


def unresolved(name: str) -> Any:
    raise AssertionError(f"nothing asks for {name}")


def read(environ: dict[str, str] | None = None, /, **arguments: Any) -> Options:
    return Options.read({"endpoint": URL, **arguments}, environ or {}, unresolved)


def send(request: object) -> None: ...


class Transport:
    send = staticmethod(send)


class Named:
    """A path of somebody's own."""

    def __fspath__(self) -> str:
        return "events.db"


class Opened:
    """A backlog of somebody's own."""

    def open(self) -> None: ...


class Neither:
    """What has the names, but not the methods."""

    open = send = __fspath__ = "text"


NAMED, OPENED = Named(), Opened()

GOOD: list[tuple[str, Any, Any]] = [
    ("auth_key", "k", AuthKey("k")),
    ("auth_key", b"k", AuthKey("k")),
    ("auth_key", AuthKey("k"), AuthKey("k")),
    ("auth_keys", {"s": "k", "t": AuthKey("l")}, {"s": AuthKey("k"), "t": AuthKey("l")}),
    ("max_batch_events", 1, 1),
    ("max_batch_events", 2000, 2000),
    ("max_batch_bytes", 1024, 1024),
    ("max_batch_bytes", 524288, 524288),
    ("flush_interval", 1, 1.0),
    ("flush_interval", 1e-9, 1e-9),
    ("max_pending_bytes", 131072, 131072),
    ("max_pending_events", 1, 1),
    ("max_pending_events", None, None),
    ("on_full", "drop_oldest", OnFull.DROP_OLDEST),
    ("on_full", OnFull.RAISE, OnFull.RAISE),
    ("block_timeout", 0, 0.0),
    ("block_timeout", None, None),
    ("max_in_flight", 1, 1),
    ("max_in_flight", 1024, 1024),
    ("request_timeout", 0.5, 0.5),
    ("request_timeout", float_info.max, float_info.max),
    ("retry", RetryPolicy(base=1.0), RetryPolicy(base=1.0)),
    ("on_loss", send, send),
    ("on_loss", None, None),
    ("backlog", "events.db", "events.db"),
    ("backlog", Path("events.db"), Path("events.db")),
    ("backlog", NAMED, NAMED),
    ("backlog", OPENED, OPENED),
    ("transport", Transport, Transport),
    ("transport", send, send),
]

BAD: list[tuple[str, Any, type[Exception]]] = [
    ("auth_key", 5, TypeError),
    ("auth_key", "", ValueError),
    ("auth_key", "\ud800", ValueError),
    ("auth_keys", [("s", "k")], TypeError),
    ("auth_keys", {1: "k"}, TypeError),
    ("auth_keys", {"": "k"}, ValueError),
    ("auth_keys", {"s": ""}, ValueError),
    ("auth_keys", {"s": None}, TypeError),
    ("max_batch_events", 0, ValueError),
    ("max_batch_events", 2001, ValueError),
    ("max_batch_events", "5", TypeError),
    ("max_batch_events", 5.0, TypeError),
    ("max_batch_events", True, TypeError),
    ("max_batch_bytes", 1023, ValueError),
    ("max_batch_bytes", 524289, ValueError),
    ("max_pending_bytes", 1023, ValueError),
    ("max_pending_bytes", 1024, ValueError),  # less than max_batch_bytes
    ("max_pending_events", 0, ValueError),
    ("max_pending_events", 1.5, TypeError),
    ("on_full", "explode", ValueError),
    ("on_full", 7, ValueError),
    ("on_full", [], ValueError),
    ("max_in_flight", 0, ValueError),
    ("max_in_flight", 1025, ValueError),
    ("retry", {"base": 1}, TypeError),
    ("on_loss", "print", TypeError),
    ("on_loss", Transport(), TypeError),
    ("backlog", 5, TypeError),
    ("backlog", b"events.db", TypeError),
    ("backlog", "", ValueError),
    ("backlog", Neither(), TypeError),
    ("transport", object(), TypeError),
    ("transport", Neither(), TypeError),
    ("endpoint", "ftp://h", ValueError),
    ("endpoint", 5, TypeError),
    *(
        (name, value, error)
        for name in ("flush_interval", "block_timeout", "request_timeout")
        for value, error in [
            (-1, ValueError),
            (math.nan, ValueError),
            (math.inf, ValueError),
            (10**400, ValueError),
            ("1", TypeError),
            (True, TypeError),
        ]
    ),
    ("flush_interval", 0, ValueError),
    ("request_timeout", 0.0, ValueError),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_taken(name: str, value: Any, expected: Any) -> None:
    """A value within its range is taken, in the type that the option has."""
    taken = getattr(read(**{name: value}), name)
    assert taken == expected
    assert type(taken) is type(expected)


@pytest.mark.parametrize(("name", "value", "error"), BAD, ids=[f"{name}-{repr(value)[:20]}" for name, value, _ in BAD])
def test_refused(name: str, value: Any, error: type[Exception]) -> None:
    """A value of the wrong type or out of its range is refused by the option's name."""
    with pytest.raises(error, match=rf"\b{name}\b"):
        read(**{name: value})


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Options) if field.name not in ("transport", "on_loss")]
)
def test_a_number_too_long_to_write(name: str) -> None:
    """An integer that Python does not convert to text is refused by the option's name, like any other."""
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be "):
        read(**{name: -(10**5000)})


def test_a_long_value_is_cut_short() -> None:
    """A message shows the beginning of a long value, and of a very large integer only its size."""
    with pytest.raises(ValueError, match=r"on_full must be one of .*, not 'x{56}\.\.\.$"):
        read(on_full="x" * 1000)
    with pytest.raises(ValueError, match=r"max_in_flight must be from 1 to 1024, not an int of 16610 bits$"):
        read(max_in_flight=10**5000)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_batch_events", "5", "must be an int from 1 to 2000, not str"),
        ("max_batch_events", 0, "must be from 1 to 2000, not 0"),
        ("max_pending_bytes", 1.5, "must be an int at least 1024, not float"),
        ("max_pending_bytes", 1, "must be at least 1024, not 1"),
        ("flush_interval", "1", "must be a number of seconds more than 0, not str"),
        ("flush_interval", 0, "must be more than 0 and finite, in seconds, not 0"),
        ("block_timeout", "1", "must be a number of seconds at least 0, not str"),
        ("block_timeout", -1, "must be at least 0 and finite, in seconds, not -1"),
        ("on_full", "explode", "must be one of block, raise, drop_newest, drop_oldest, not 'explode'"),
    ],
)
def test_what_is_wanted(name: str, value: Any, message: str) -> None:
    """A refusal says what the option may be."""
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(f'{name} {message}')}$"):
        read(**{name: value})


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("ATOM_MAX_IN_FLIGHT", "many", "must be a number"),
        ("ATOM_AUTH_KEYS", "s=k", 'must be a JSON object, {"stream": "key"}'),
        (
            "ATOM_RETRY",
            "often",
            'must be a JSON object, {"base": 3, "cap": 1800, "max_attempts": null, "max_elapsed": null}',
        ),
    ],
)
def test_what_is_wanted_in_the_environment(variable: str, text: str, message: str) -> None:
    """A refusal says how a variable spells it."""
    with pytest.raises(ValueError, match=f"^{re.escape(f'{variable} {message}')}$"):
        read({variable: text})


def test_an_instance_of_a_transport() -> None:
    """A transport is taken ready-made, too."""
    transport = Transport()
    assert read(transport=transport).transport is transport


def test_every_option_is_tried() -> None:
    """The tables above leave no option out."""
    names = {field.name for field in fields(Options)}
    assert {name for name, *_ in BAD} == names
    assert {name for name, *_ in GOOD} == names - {"endpoint"}


def test_the_typed_dicts_name_the_same_options() -> None:
    """What type checkers let callers pass is what is read."""
    assert ["endpoint", *TrackerOptions.__annotations__] == [field.name for field in fields(Options)]
    assert set(ClientOptions.__annotations__) < set(TrackerOptions.__annotations__)
    assert get_type_hints(ClientOptions)


def test_defaults() -> None:
    """The documented defaults."""
    assert read() == Options(endpoint=Endpoint.parse(URL))
    assert (read().max_batch_events, read().max_batch_bytes, read().flush_interval) == (2000, 131072, 10.0)
    assert (read().max_pending_bytes, read().max_in_flight, read().request_timeout) == (67108864, 4, 60.0)
    assert read().retry == RetryPolicy(base=3.0, cap=1800.0, max_attempts=None, max_elapsed=None)
    assert (read().max_pending_events, read().on_full, read().block_timeout) == (None, OnFull.BLOCK, None)
    assert (read().auth_key, read().auth_keys, read().backlog) == (None, {}, None)
    assert (read().on_loss, read().transport) == (None, None)


def test_they_stay_as_they_are() -> None:
    """Checked once, options hold: nobody changes them afterwards, or makes them in an order of their own."""
    options = read()
    with pytest.raises(FrozenInstanceError):
        options.max_in_flight = 0  # type: ignore[misc]
    assert not hasattr(options, "__dict__")
    assert all(field.kw_only for field in fields(Options))


def test_unknown() -> None:
    """An option that does not exist is refused, and those that do are named."""
    with pytest.raises(TypeError, match=r"no option 'colour'; options are endpoint, auth_key, .*transport"):
        read(colour="red")


def test_no_endpoint() -> None:
    """Without an endpoint both places for it are named."""
    for arguments in ({}, {"endpoint": None}):
        with pytest.raises(ValueError, match=r"endpoint must be given, or .* ATOM_ENDPOINT"):
            Options.read(arguments, {}, unresolved)


def test_pending_less_than_a_batch() -> None:
    """The budget holds at least one batch, or a full one could never form."""
    with pytest.raises(ValueError, match=r"max_pending_bytes must be at least max_batch_bytes \(4096\), not 2048"):
        read(max_batch_bytes=4096, max_pending_bytes=2048)


ENVIRONMENT = {
    "ATOM_ENDPOINT": "https://other.example/",
    "ATOM_AUTH_KEY": "k",
    "ATOM_AUTH_KEYS": '{"s": "l"}',
    "ATOM_MAX_BATCH_EVENTS": "7",
    "ATOM_MAX_BATCH_BYTES": "2048",
    "ATOM_FLUSH_INTERVAL": "0.25",
    "ATOM_MAX_PENDING_BYTES": "4096",
    "ATOM_MAX_PENDING_EVENTS": "9",
    "ATOM_ON_FULL": "raise",
    "ATOM_BLOCK_TIMEOUT": "0",
    "ATOM_MAX_IN_FLIGHT": "2",
    "ATOM_REQUEST_TIMEOUT": "5",
    "ATOM_RETRY": '{"base": 1, "cap": 2, "max_attempts": 3}',
    "ATOM_ON_LOSS": "package.module:on_loss",
    "ATOM_BACKLOG": "/var/events.db",
    "ATOM_TRANSPORT": "package.module:transport",
}


def resolve(name: str) -> Any:
    return {"package.module:on_loss": send, "package.module:transport": Transport}[name]


def test_environment() -> None:
    """Every option can be set by the environment."""
    assert {name.removeprefix("ATOM_").lower() for name in ENVIRONMENT} == {f.name for f in fields(Options)}
    assert Options.read({}, ENVIRONMENT, resolve) == Options(
        endpoint=Endpoint.parse("https://other.example"),
        auth_key=AuthKey("k"),
        auth_keys={"s": AuthKey("l")},
        max_batch_events=7,
        max_batch_bytes=2048,
        flush_interval=0.25,
        max_pending_bytes=4096,
        max_pending_events=9,
        on_full=OnFull.RAISE,
        block_timeout=0.0,
        max_in_flight=2,
        request_timeout=5.0,
        retry=RetryPolicy(base=1, cap=2, max_attempts=3),
        on_loss=send,
        backlog="/var/events.db",
        transport=Transport,
    )


def test_arguments_win() -> None:
    """What is given explicitly wins over the environment; None does too, where it is a value of its own."""
    given = {"endpoint": URL, "auth_key": None, "max_batch_events": 3, "block_timeout": None, "on_loss": None}
    options = Options.read(given, ENVIRONMENT, resolve)
    assert options.endpoint == Endpoint.parse(URL)
    assert (options.auth_key, options.block_timeout, options.on_loss) == (None, None, None)
    assert (options.max_batch_events, options.max_in_flight) == (3, 2)


def test_none_and_empty_leave_it_to_others() -> None:
    """None for an option that cannot be None, and an empty variable, are as if they were not there."""
    options = Options.read({"endpoint": None, "max_batch_events": None, "retry": None}, ENVIRONMENT, resolve)
    assert (options.max_batch_events, options.retry.max_attempts) == (7, 3)
    assert read({"ATOM_MAX_BATCH_EVENTS": "", "ATOM_AUTH_KEY": ""}) == read()


NULLABLE = {"auth_key", "max_pending_events", "block_timeout", "backlog", "on_loss", "transport"}


@pytest.mark.parametrize("name", [field.name for field in fields(Options) if field.name not in NULLABLE])
def test_none_is_no_value(name: str) -> None:
    """An option that cannot be None is left to the environment by it, and null is refused there."""
    assert getattr(Options.read({name: None}, ENVIRONMENT, resolve), name) == getattr(
        Options.read({}, ENVIRONMENT, resolve), name
    )
    if name != "endpoint":
        with pytest.raises(ValueError, match=f"ATOM_{name.upper()} must be "):
            Options.read({}, {**ENVIRONMENT, f"ATOM_{name.upper()}": "null"}, resolve)


@pytest.mark.parametrize("kind", [ImportError, AttributeError, ValueError])
@pytest.mark.parametrize("variable", ["ATOM_ON_LOSS", "ATOM_TRANSPORT"])
def test_what_cannot_be_resolved(variable: str, kind: type[Exception]) -> None:
    """Whatever is wrong with a name, the variable and the reason are told."""

    def missing(name: str) -> Any:
        raise kind(f"there is no {name}")

    message = f"{variable} must be package.module:name of something there is: there is no a:b"
    with pytest.raises(ValueError, match=f"^{message}$"):
        Options.read({"endpoint": URL}, {variable: "a:b"}, missing)


def test_a_retry_policy_that_cannot_be() -> None:
    """The variable, how it is spelled, and what is wrong with it are told."""
    with pytest.raises(ValueError, match=r'^ATOM_RETRY must be a JSON object, \{"base": 3, .*\}: RetryPolicy base '):
        read({"ATOM_RETRY": '{"base": -1}'})


def test_none_in_the_environment() -> None:
    """Where an option may be None, null says so."""
    assert read({"ATOM_MAX_PENDING_EVENTS": "null", "ATOM_BLOCK_TIMEOUT": "null"}) == read()


def test_only() -> None:
    """Of a subset of the options the others do not exist, neither as arguments nor in the environment."""
    only = ("endpoint", "request_timeout")
    options = Options.read({"endpoint": URL}, {"ATOM_REQUEST_TIMEOUT": "5", "ATOM_ON_FULL": "no"}, resolve, only)
    assert options.request_timeout == 5.0
    with pytest.raises(TypeError, match="no option 'on_full'; options are endpoint, request_timeout"):
        Options.read({"endpoint": URL, "on_full": "raise"}, {}, resolve, only)


@pytest.mark.parametrize(
    ("variable", "text", "error"),
    [
        ("ATOM_MAX_BATCH_EVENTS", "many", ValueError),
        ("ATOM_MAX_BATCH_EVENTS", "0", ValueError),
        ("ATOM_MAX_BATCH_EVENTS", "1.5", ValueError),
        ("ATOM_FLUSH_INTERVAL", "NaN", ValueError),
        ("ATOM_FLUSH_INTERVAL", "10s", ValueError),
        ("ATOM_AUTH_KEYS", "s=k", ValueError),
        ("ATOM_AUTH_KEYS", '["s"]', ValueError),
        ("ATOM_RETRY", "3", ValueError),
        ("ATOM_AUTH_KEYS", '{"s": ""}', ValueError),
        ("ATOM_AUTH_KEYS", "[" * 100_000, ValueError),
        ("ATOM_RETRY", '{"factor": 2}', ValueError),
        ("ATOM_RETRY", '{"base": -1}', ValueError),
        ("ATOM_ON_FULL", "explode", ValueError),
        ("ATOM_ON_LOSS", "no.such:thing", ValueError),
        ("ATOM_TRANSPORT", "nothing", ValueError),
    ],
)
def test_bad_environment(variable: str, text: str, error: type[Exception]) -> None:
    """A variable that cannot be read is named."""

    def missing(name: str) -> Any:
        raise ImportError(f"no module {name}")

    with pytest.raises(error, match=variable):
        Options.read({"endpoint": URL}, {variable: text}, missing)


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        ({"auth_key": [CANARY]}, {}),
        ({"auth_keys": CANARY}, {}),
        ({"auth_keys": {"s": CANARY, "t": 5}}, {}),
        ({"auth_key": CANARY + "\ud800"}, {}),
        ({}, {"ATOM_AUTH_KEYS": json.dumps({"s": CANARY}) + "}"}),
        ({}, {"ATOM_AUTH_KEYS": json.dumps([CANARY])}),
        ({}, {"ATOM_AUTH_KEYS": json.dumps({"s": [CANARY]})}),
        ({"endpoint": f"http://u:{CANARY}@h/"}, {}),
    ],
)
def test_no_key_in_a_message(arguments: dict[str, Any], environ: dict[str, str]) -> None:
    """A key never shows in what goes wrong with it, nor in an exception behind that."""
    with pytest.raises((TypeError, ValueError)) as caught:
        read(environ, **arguments)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in str(error)
        error = error.__cause__


def test_no_key_in_a_repr() -> None:
    """Options show no key, nor what might hold one."""

    class Holding:
        def __call__(self, *arguments: object) -> None: ...

        def __repr__(self) -> str:
            return CANARY

    options = read(auth_key=CANARY, auth_keys={CANARY: CANARY}, on_loss=Holding(), transport=Holding())
    assert CANARY not in repr(options)
    assert "auth_key=" not in repr(options)
