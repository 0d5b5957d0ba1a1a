"""Whether a submission is signed with a key of its stream."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import TypeAlias, Union

from ._receive import Refused, Submission
from ._request import check_stream
from ._sign import AuthKey
from ._unshown import forget_locals

Keys: TypeAlias = Union[str, bytes, AuthKey, Iterable[Union[str, bytes, AuthKey]]]
"""One key, or several that are valid at the same time: the old and the new one while they are exchanged."""


class Keyring:
    """The keys that submissions must be signed with.

    A stream without keys of its own needs a default key; where there is no default either, it takes
    anything, signed or not.

    Args:
        keys: ``{stream: key or keys}``.
        default: the key or keys of all other streams.

    Raises:
        TypeError, ValueError: a stream's name or a key is wrong; the message names the stream.
    """

    def __init__(self, keys: Mapping[str, Keys] | None = None, *, default: Keys | None = None) -> None:
        try:
            if not isinstance(keys, (Mapping, type(None))):
                raise TypeError(f"keys must be a mapping of stream to key, not {type(keys).__name__}")
            self._keys = {_stream(stream): _read_keys(f"keys[{stream!r}]", k) for stream, k in (keys or {}).items()}
            self._default = () if default is None else _read_keys("default key", default)
        except BaseException as error:
            forget_locals(error)
            raise
        finally:
            del keys, default  # a traceback may show the locals

    def verify(self, submission: Submission) -> None:
        """Return if *submission* is signed with one of its stream's keys, or if none is asked for.

        Every key is tried and compared in constant time, so the time it takes tells nothing about a key
        or a signature, nor which of them was near.

        Raises:
            Refused: with status 401.
        """
        keys = self._keys.get(submission.stream, self._default)
        if not keys:
            return
        text = submission.data.encode()
        auth = submission.auth.encode()
        matches = [hmac.compare_digest(key.sign(text).encode(), auth) for key in keys]
        if not any(matches):
            reason = "the signature is wrong" if auth else "the signature is missing"
            raise Refused(401, reason, stream=submission.stream, events=len(submission.elements))

    def __repr__(self) -> str:
        return f"<Keyring {getattr(self, '_keys', 'unfinished')} default={getattr(self, '_default', ())}>"


def _stream(stream: object) -> str:
    try:
        return check_stream(stream)
    except (TypeError, ValueError) as error:
        raise type(error)(f"keys: {error}") from None


def _read_keys(name: str, keys: Keys) -> tuple[AuthKey, ...]:
    if isinstance(keys, (str, bytes, AuthKey)):
        keys = (keys,)
    if not isinstance(keys, Iterable) or isinstance(keys, Mapping):
        raise TypeError(f"{name} must be a str, bytes, an AuthKey or several of them, not {type(keys).__name__}")
    try:
        read = tuple(AuthKey.of(key) for key in keys)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if not read:
        raise ValueError(f"{name} must be at least one key")
    return read
