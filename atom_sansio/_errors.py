"""Every exception of this project.

::

    AtomError
    ├── LocalError                the caller's doing; nothing has changed
    │   ├── EventError            also a ValueError: the event cannot be sent as strict JSON
    │   │   ├── EventTypeError    also a TypeError: a value of a type that JSON does not have
    │   │   └── EventTooLarge     not even alone does the event fit into one request
    │   ├── BacklogFull           no room within the pending budget, or on the disk
    │   ├── BacklogError          a backlog on disk cannot be opened
    │   ├── BatchUnreadable       what a backlog keeps of a batch is gone for good
    │   └── TrackerClosed         the tracker takes no more events
    └── RemoteError               the service's or the network's doing
        ├── ConnectionFailed      no connection, or it broke
        ├── RequestTimeout        no whole reply by the deadline
        └── ReplyError            what came back is no HTTP reply that we accept

A lost batch is not an exception: nobody is on the stack to catch it.  It is a :class:`~atom_sansio.Loss`.
"""


class AtomError(Exception):
    """Base of all."""


class LocalError(AtomError):
    """The caller asked for something impossible; the state is as it was."""


class EventError(LocalError, ValueError):
    """The event cannot be sent as strict JSON."""


class EventTypeError(EventError, TypeError):
    """The event holds a value of a type that has no JSON form."""


class EventTooLarge(EventError):
    """The event does not fit into a request of its own."""


class BacklogFull(LocalError):
    """The event does not fit into what may be pending (``max_pending_bytes``, ``max_pending_events``).

    With a backlog, also: its record cannot be written.
    """


class BacklogError(LocalError):
    """The backlog on disk cannot be opened."""


class BatchUnreadable(LocalError):
    """What a backlog keeps of a batch cannot be read any more, ever: whoever asks again gets nothing either.

    A backlog's ``load`` raises it, and nothing else gives a batch up as lost.
    """


class TrackerClosed(LocalError):
    """The tracker was stopped and takes no more events."""


class RemoteError(AtomError):
    """A request came to no usable answer; whether the service took it is unknown."""


class ConnectionFailed(RemoteError):
    """No connection could be made, or it broke before the reply was whole.

    Attributes:
        stale: The connection had served an earlier request and broke before a byte of this reply:
            most likely the peer had closed it while it was idle, so one immediate retry is fair.
    """

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class RequestTimeout(RemoteError):
    """The reply was not whole when the request's time was up."""


class ReplyError(RemoteError):
    """The reply is not HTTP/1.1, or larger than this client reads."""
