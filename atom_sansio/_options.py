"""The options of a tracker: names, defaults, ranges, and how each is spelled in the environment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from sys import float_info
from typing import Any, Final, TypedDict

from ._backoff import RetryPolicy
from ._endpoint import Endpoint
from ._messages import Loss
from ._request import check_stream
from ._shown import shown
from ._sign import AuthKey


class OnFull(str, Enum):
    """What ``track`` does with an event for which the pending budget has no room."""

    BLOCK = "block"
    RAISE = "raise"
    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"


MAX_BATCH_EVENTS: Final = 2000
MAX_BATCH_BYTES: Final = 512 * 1024
"""The old service's own limits (old SDK, ``config.py``)."""


class TrackerOptions(TypedDict, total=False):
    """The keyword options that both drivers' ``Tracker`` take; see :class:`Options` for what each means."""

    auth_key: str | bytes | AuthKey | None
    auth_keys: Mapping[str, str | bytes | AuthKey]
    max_batch_events: int
    max_batch_bytes: int
    flush_interval: float
    max_pending_bytes: int
    max_pending_events: int | None
    on_full: OnFull | str
    block_timeout: float | None
    max_in_flight: int
    request_timeout: float
    retry: RetryPolicy
    backlog: Any
    on_loss: Callable[[Loss], object] | None
    transport: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Checked options, complete.  Make one with :meth:`read`."""

    endpoint: Endpoint
    """An http(s) URL, with or without a trailing slash."""
    auth_key: AuthKey | None = field(default=None, repr=False)
    """Key of every stream that has none of its own; None sends unsigned."""
    auth_keys: Mapping[str, AuthKey] = field(default_factory=dict, repr=False)
    """Keys by stream."""
    max_batch_events: int = 2000
    """Events in one request at most, 1 to 2000."""
    max_batch_bytes: int = 128 * 1024
    """Bytes of one request body at most, envelope and escapes included, 1024 to 524288."""
    flush_interval: float = 10.0
    """Seconds; the age of a lane's oldest event at which it is sent."""
    max_pending_bytes: int = 64 * 1024 * 1024
    """Bytes of events waiting, in flight and between retries."""
    max_pending_events: int | None = None
    """Events likewise; None for no limit of its own."""
    on_full: OnFull = OnFull.BLOCK
    """What to do with an event for which there is no room."""
    block_timeout: float | None = None
    """Seconds that ``on_full="block"`` waits before it raises ``BacklogFull``; None waits as long as it takes."""
    max_in_flight: int = 4
    """Requests at once, 1 to 1024.  A lane has one at most."""
    request_timeout: float = 60.0
    """Seconds for one exchange, connection included."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    backlog: Any = None
    """Where events outlive the process: a path, or a :class:`atom_sync.backlog.Backlog`; None for memory alone."""
    on_loss: Callable[[Loss], object] | None = field(default=None, repr=False)
    """Called with each loss; None logs the first of each cause."""
    transport: Any = field(default=None, repr=False)
    """A transport of the driver, or what makes one when called; None for the driver's own."""

    @classmethod
    def read(
        cls,
        arguments: Mapping[str, Any],
        environ: Mapping[str, str],
        resolve: Callable[[str], Any],
        only: Collection[str] | None = None,
    ) -> Options:
        """Options from *arguments*, then from ``ATOM_<OPTION>`` in *environ*, then the defaults.

        *resolve* turns ``package.module:name`` into what it names: how the environment spells
        ``on_loss`` and ``transport``.  If *only* is given, there are no other options than these.

        Raises:
            TypeError: an option that does not exist, or a value of the wrong type.
            ValueError: a value out of its range, or an environment variable that cannot be read.
                Messages name the option and its range; a key is never repeated.
        """
        known = [f.name for f in fields(cls) if only is None or f.name in only]
        for name in arguments:
            if name not in known:
                raise TypeError(f"there is no option {name!r}; options are {', '.join(known)}")
        values: dict[str, Any] = {}
        for name in known:
            variable = f"ATOM_{name.upper()}"
            if arguments.get(name) is not None:
                values[name] = _CHECKS[name](name, arguments[name])
            elif name in arguments and name not in ("endpoint", *_NOT_NONE):
                values[name] = None
            elif environ.get(variable):
                values[name] = _from_environment(name, variable, environ[variable], resolve)
        if "endpoint" not in values:
            raise ValueError("endpoint must be given, or the environment variable ATOM_ENDPOINT set")
        options = cls(**values)
        if options.max_pending_bytes < options.max_batch_bytes:
            raise ValueError(
                f"max_pending_bytes must be at least max_batch_bytes ({options.max_batch_bytes}),"
                f" not {shown(options.max_pending_bytes)}"
            )
        return options


_NOT_NONE: Final = (
    "auth_keys",
    "max_batch_events",
    "max_batch_bytes",
    "flush_interval",
    "max_pending_bytes",
    "on_full",
    "max_in_flight",
    "request_timeout",
    "retry",
)
"""Options for which None means the environment or the default, not None itself."""


def _from_environment(name: str, variable: str, text: str, resolve: Callable[[str], Any]) -> Any:
    value = _parse(name, variable, text, resolve)
    if value is None and name not in _NOT_NONE:
        return None
    try:
        return _CHECKS[name](variable, value)
    except TypeError as error:  # of a kind that this text cannot have
        raise ValueError(str(error)) from None


def _parse(name: str, variable: str, text: str, resolve: Callable[[str], Any]) -> Any:
    """The value that an environment variable spells."""
    if name in ("endpoint", "auth_key", "on_full", "backlog"):
        return text
    if name in ("on_loss", "transport"):
        try:
            return resolve(text)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{variable} must be package.module:name of something there is: {error}") from error
    import json  # not before it is needed

    try:
        value, wrong = json.loads(text), False
    except (ValueError, RecursionError):
        value, wrong = None, True
    if wrong:  # not raised above: a JSON error carries the text, which may hold keys, and would be its context
        raise ValueError(f"{variable} must be {_SPELLING.get(name, 'a number')}")
    if name == "retry":
        try:
            return RetryPolicy(**value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{variable} must be {_SPELLING[name]}: {error}") from None
    return value


_SPELLING: Final = {
    "auth_keys": 'a JSON object, {"stream": "key"}',
    "retry": 'a JSON object, {"base": 3, "cap": 1800, "max_attempts": null, "max_elapsed": null}',
}


def _integer(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    wanted = f"at least {low}" if high is None else f"from {low} to {high}"

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int {wanted}, not {type(value).__name__}")
        if value < low or (high is not None and value > high):
            raise ValueError(f"{name} must be {wanted}, not {shown(value)}")
        return value

    return check


def _seconds(*, zero: bool = False) -> Callable[[str, Any], float]:
    wanted = "at least 0" if zero else "more than 0"

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number of seconds {wanted}, not {type(value).__name__}")
        if not 0 <= value <= float_info.max or (value == 0 and not zero):  # an int can be larger
            raise ValueError(f"{name} must be {wanted} and finite, in seconds, not {shown(value)}")
        return float(value)

    return check


def _endpoint(name: str, value: Any) -> Endpoint:
    return Endpoint.parse(value)


def _auth_key(name: str, value: Any) -> AuthKey:
    return value if isinstance(value, AuthKey) else AuthKey(value)


def _auth_keys(name: str, value: Any) -> Mapping[str, AuthKey]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of stream to key, not {type(value).__name__}")
    try:
        return {check_stream(stream): _auth_key(name, key) for stream, key in value.items()}
    except (TypeError, ValueError) as error:  # it says what is wrong with a stream or a key, and shows no key
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from None


def _on_full(name: str, value: Any) -> OnFull:
    try:
        return OnFull(value)
    except ValueError:
        choices = ", ".join(choice.value for choice in OnFull)
        raise ValueError(f"{name} must be one of {choices}, not {shown(value)}") from None


def _retry(name: str, value: Any) -> RetryPolicy:
    if not isinstance(value, RetryPolicy):
        raise TypeError(f"{name} must be a RetryPolicy, not {type(value).__name__}")
    return value


def _callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def _backlog(name: str, value: Any) -> Any:
    if isinstance(value, str):
        if not value:
            raise ValueError(f"{name} must not be an empty path")
    elif not (callable(getattr(value, "__fspath__", None)) or callable(getattr(value, "open", None))):
        raise TypeError(f"{name} must be a path or a Backlog, not {type(value).__name__}")
    return value


def _transport(name: str, value: Any) -> Any:
    if not (callable(value) or callable(getattr(value, "send", None))):
        raise TypeError(f"{name} must be a transport or make one when called, not {type(value).__name__}")
    return value


_CHECKS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "endpoint": _endpoint,
    "auth_key": _auth_key,
    "auth_keys": _auth_keys,
    "max_batch_events": _integer(1, MAX_BATCH_EVENTS),
    "max_batch_bytes": _integer(1024, MAX_BATCH_BYTES),
    "flush_interval": _seconds(),
    "max_pending_bytes": _integer(1024),
    "max_pending_events": _integer(1),
    "on_full": _on_full,
    "block_timeout": _seconds(zero=True),
    "max_in_flight": _integer(1, 1024),
    "request_timeout": _seconds(),
    "retry": _retry,
    "backlog": _backlog,
    "on_loss": _callable,
    "transport": _transport,
}
