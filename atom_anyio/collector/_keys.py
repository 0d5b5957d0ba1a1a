"""The keys of a collector, from where a process listing does not show them.

One notation everywhere: ``STREAM=KEY``, and ``*=KEY`` for all streams without a key of their own.  A stream may
have several keys; each of them is valid.  Messages name the place, never the text: it may be a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from atom_sansio import AuthKey, Keyring

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
        ValueError: an entry is not ``STREAM=KEY``; the message says which, and does not show it.
        OSError: the file cannot be read.
    """
    keys: dict[str, list[AuthKey]] = {}
    if default_key is not None:
        keys[DEFAULT] = [_key(default_key, "the default key")]
    for number, entry in enumerate(entries, 1):
        _read_entry(entry, f"key {number}", keys)
    if file is not None:
        _read_lines(file.read_text("utf-8"), str(file), keys)
    _read_lines((environment or {}).get(ENVIRONMENT_VARIABLE, ""), ENVIRONMENT_VARIABLE, keys)
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
