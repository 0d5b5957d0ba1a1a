"""Signing: HMAC-SHA256 of a text under a stream's key, in lower-case hex.

Source of the rule: the retired service's HTTP page and 68 signatures recorded from eight of its SDKs
(``tests/vectors``).  The key is the UTF-8 of the pre-shared key; table, flags and URL are not signed.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn

_digest = hmac.digest


class AuthKey:
    """A stream's key, which cannot be read back by accident.

    Its repr shows a fingerprint; it is equal to another of the same key; it cannot be pickled or copied
    into a text.

    Args:
        key: a non-empty ``str`` (its UTF-8 is the key) or ``bytes``.

    Raises:
        TypeError: it is neither.
        ValueError: it is empty, or holds a lone surrogate.
    """

    __slots__ = ("_fingerprint", "_key")

    def __init__(self, key: str | bytes) -> None:
        try:
            if not isinstance(key, (str, bytes)):
                raise TypeError(f"auth_key must be a non-empty str or bytes, not {type(key).__name__}")
            if not key:
                raise ValueError("auth_key must not be empty; leave it out to send unsigned")
            # Not by catching the encoder's error, which holds the key and would stay in __context__.
            self._key = key if isinstance(key, bytes) else key.encode(errors="surrogatepass")
            if isinstance(key, str) and self._key != key.encode(errors="replace"):
                raise ValueError("auth_key holds a lone surrogate, which UTF-8 does not have")
        finally:
            del key  # a traceback may show the locals
        self._fingerprint = hashlib.sha256(b"atom auth key\0" + self._key).hexdigest()[:16]

    @classmethod
    def of(cls, key: str | bytes | AuthKey) -> AuthKey:
        """*key* itself if it is one already, else made from it."""
        try:
            return key if isinstance(key, AuthKey) else cls(key)
        finally:
            del key  # a traceback may show the locals

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell keys apart and give nothing away."""
        return self._fingerprint

    def sign(self, text: bytes) -> str:
        """The 64 hex digits that go into ``auth`` for *text*, the UTF-8 of ``data``."""
        return _digest(self._key, text, "sha256").hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AuthKey):
            return NotImplemented
        return hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"<AuthKey {getattr(self, '_fingerprint', 'unfinished')}>"  # what failed is in a traceback

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AuthKey cannot be pickled or copied")

    __getstate__ = __reduce__
