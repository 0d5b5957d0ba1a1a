"""The pure core: batching, signing, requests, retries and the ledger, without any I/O.

Nothing here opens a socket, starts a thread, reads a clock, draws a random number or looks at the
environment.  Drivers do (``atom_sync``, ``atom_anyio``, or one of your own) and tell the core.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._backoff import RetryPolicy, backoff
from ._client import CLIENT_OPTIONS, ClientCore, ClientOptions
from ._encode import encode_event
from ._endpoint import Endpoint
from ._errors import (
    AtomError,
    BacklogError,
    BacklogFull,
    BatchUnreadable,
    ConnectionFailed,
    EventError,
    EventTooLarge,
    EventTypeError,
    LocalError,
    RemoteError,
    ReplyError,
    RequestTimeout,
    TrackerClosed,
)
from ._flush import Flush, Receipt
from ._intake import Intake
from ._kept import (
    DeadLetter,
    KeptBatch,
    KeptRecords,
    Level,
    LoadBatch,
    Mark,
    Records,
    Recovered,
    UpdateBacklog,
)
from ._messages import (
    JSON,
    BacklogCommand,
    Command,
    FlushResult,
    Loss,
    LossReason,
    Origin,
    Outcome,
    Reply,
    ReportLoss,
    ReportParked,
    Request,
    Response,
    SendRequest,
    Statistics,
)
from ._options import OnFull, Options, TrackerOptions
from ._recording import Record, RecordState
from ._request import SDK_VERSION
from ._sign import AuthKey
from ._state import (
    LANE_TRANSITIONS,
    TRACKER_TRANSITIONS,
    LaneInput,
    LaneState,
    TrackerInput,
    TrackerState,
)
from ._tracker import TrackerCore
from ._verdict import Verdict, retry_after, verdict

if TYPE_CHECKING:
    from ._elements import element_texts
    from ._http import HttpConnection
    from ._memory import Recorder
    from ._receive import Refused, Submission, answer, read_submission
    from ._verify import Keyring

__all__ = [
    "CLIENT_OPTIONS",
    "JSON",
    "LANE_TRANSITIONS",
    "SDK_VERSION",
    "TRACKER_TRANSITIONS",
    "AtomError",
    "AuthKey",
    "BacklogCommand",
    "BacklogError",
    "BacklogFull",
    "BatchUnreadable",
    "ClientCore",
    "ClientOptions",
    "Command",
    "ConnectionFailed",
    "DeadLetter",
    "Endpoint",
    "EventError",
    "EventTooLarge",
    "EventTypeError",
    "Flush",
    "FlushResult",
    "HttpConnection",
    "Intake",
    "KeptBatch",
    "KeptRecords",
    "Keyring",
    "LaneInput",
    "LaneState",
    "Level",
    "LoadBatch",
    "LocalError",
    "Loss",
    "LossReason",
    "Mark",
    "OnFull",
    "Options",
    "Origin",
    "Outcome",
    "Receipt",
    "Record",
    "RecordState",
    "Recorder",
    "Records",
    "Recovered",
    "Refused",
    "RemoteError",
    "Reply",
    "ReplyError",
    "ReportLoss",
    "ReportParked",
    "Request",
    "RequestTimeout",
    "Response",
    "RetryPolicy",
    "SendRequest",
    "Statistics",
    "Submission",
    "TrackerClosed",
    "TrackerCore",
    "TrackerInput",
    "TrackerOptions",
    "TrackerState",
    "UpdateBacklog",
    "Verdict",
    "answer",
    "backoff",
    "element_texts",
    "encode_event",
    "read_submission",
    "retry_after",
    "verdict",
]

# What a program that only tracks does not use is imported at its first use: h11 and json take as long as all the rest.
_LATER = {
    "HttpConnection": "_http",
    "Keyring": "_verify",
    "Recorder": "_memory",
    "Refused": "_receive",
    "Submission": "_receive",
    "answer": "_receive",
    "element_texts": "_elements",
    "read_submission": "_receive",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value
