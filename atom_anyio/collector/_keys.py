"""The keys of a collector, from where a process listing does not show them.

One notation everywhere: ``STREAM=KEY``, and ``*=KEY`` for all streams without a key of their own.  A stream may
have several keys; each of them is valid.  Messages name the place, never the text: it may be a key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from atom_sansio import AuthKey, Keyring, Submission
from atom_sansio._unshown import forget_locals

_log = logging.getLogger("atom_anyio.collector")

ENVIRONMENT_VARIABLE: Final = "ATOM_COLLECTOR_KEYS"
"""Holds lines as a file of keys does."""

DEFAULT: Final = "*"


def read_keyring(
    entries: Iterable[str] = (),
    *,
    default_key: str | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Keyring:
    """All keys from all places together.

    Args:
        entries: ``STREAM=KEY`` each.
        default_key: A key for all streams without one of their own.
        file: A text file, UTF-8: an entry a line; empty lines and lines that begin with ``#`` are skipped,
            and so is white space around a line.
        environment: Where to look for ``ATOM_COLLECTOR_KEYS``, whose value is read as a file's text.

    Raises:
        ValueError: an entry is not ``STREAM=KEY``, or the file not UTF-8; the message says which, and does not
            show it.
        OSError: the file cannot be read.
    """
    places = _Places(entries, default_key, file, environment)
    del entries, default_key, environment  # a traceback may show the locals
    return _keyring(places.read())


class LiveKeyring:
    """A keyring that is read anew while the collector runs, so that keys are exchanged without a restart.

    Takes what :func:`read_keyring` does, and raises the same.
    """

    def __init__(
        self,
        entries: Iterable[str] = (),
        *,
        default_key: str | None = None,
        file: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._places = _Places(tuple(entries), default_key, file, environment)
        del entries, default_key, environment  # a traceback may show the locals
        self._keys = self._places.read()
        # One object in one attribute: a submission is never verified with half of the old keys and half of the new.
        self._keyring = _keyring(self._keys)

    def verify(self, submission: Submission) -> None:
        """As :meth:`Keyring.verify <atom_sansio.Keyring.verify>`, with the keys that were read last."""
        self._keyring.verify(submission)

    def reload(self) -> None:
        """Read all places again; where that fails, log why and go on with the old keys.

        It fails too when a stream that needs a key would need none any more, which a file that is just being
        written looks like.  Who means that starts the collector anew.
        """
        try:
            keys = self._places.read()
            if DEFAULT not in keys and not self._keys.keys() <= keys.keys():
                raise ValueError("a stream that needs a key would need none")
            keyring = _keyring(keys)
        except (OSError, ValueError) as error:
            _log.warning("the keys were not read again, those from before stay valid: %s", error)
        else:
            self._keys, self._keyring = keys, keyring
            _log.warning("the keys were read again: there are %d", sum(map(len, keys.values())))

    def __repr__(self) -> str:
        return f"<LiveKeyring {getattr(self, '_keyring', 'unfinished')}>"


class _Places:
    """Where keys are, some of them being keys themselves; neither a repr nor a traceback shows them."""

    __slots__ = ("_places",)

    def __init__(self, *places: Any) -> None:
        self._places = places

    def read(self) -> dict[str, list[AuthKey]]:
        try:
            return _read(*self._places)
        except BaseException as error:
            forget_locals(error)
            raise

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys cannot be pickled or copied")

    __getstate__ = __reduce__


def _read(
    entries: Iterable[str], default_key: str | None, file: Path | None, environment: Mapping[str, str] | None
) -> dict[str, list[AuthKey]]:
    keys: dict[str, list[AuthKey]] = {}
    if default_key is not None:
        keys[DEFAULT] = [_key(default_key, "the default key")]
    for number, entry in enumerate(entries, 1):
        _read_entry(entry, f"key {number}", keys)
    if file is not None:
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{file} is not UTF-8") from None  # that error holds the file's bytes: keys
        _read_lines(text, str(file), keys)
    _read_lines((environment or {}).get(ENVIRONMENT_VARIABLE, ""), ENVIRONMENT_VARIABLE, keys)
    return keys


def _keyring(keys: Mapping[str, list[AuthKey]]) -> Keyring:
    return Keyring({s: k for s, k in keys.items() if s != DEFAULT}, default=keys.get(DEFAULT))


def _read_lines(text: str, name: str, keys: dict[str, list[AuthKey]]) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            _read_entry(entry, f"{name}, line {number}", keys)


def _read_entry(entry: str, place: str, keys: dict[str, list[AuthKey]]) -> None:
    stream, separator, key = entry.partition("=")
    if not (stream and separator):
        raise ValueError(f"{place}: must be STREAM=KEY")
    keys.setdefault(stream, []).append(_key(key, place))


def _key(key: str, place: str) -> AuthKey:
    try:
        return AuthKey(key)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
