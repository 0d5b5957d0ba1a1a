"""Keys and signatures."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from pathlib import Path
from traceback import TracebackException
from typing import Any
from unittest.mock import ANY

import pytest

from atom_sansio._sign import AuthKey

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "old_sdks.json").read_text("utf-8"))
SIGNED = [vector for vector in VECTORS if vector["signature"]]
CANARY = "canary-5ecret"


@pytest.mark.parametrize("vector", [v for v in SIGNED if v["auth_key"]], ids=lambda vector: vector["name"])
def test_recorded_signatures(vector: dict[str, Any]) -> None:
    """The signature is the one that the old SDK sent for the same text and key."""
    assert AuthKey(vector["auth_key"]).sign(vector["signed_text"].encode()) == vector["signature"]


def test_there_are_signatures_to_compare() -> None:
    """The vectors were read: all SDKs that sign are among them."""
    assert len(SIGNED) == 37
    assert {vector["sdk"].split()[0] for vector in SIGNED} == {"atom-python", "atom-php", "atom-go"}


def test_a_str_is_its_utf_8() -> None:
    """A key given as text and as its UTF-8 is the same key."""
    assert AuthKey("ключ") == AuthKey("ключ".encode())
    assert AuthKey("ключ").sign(b"x") == AuthKey("ключ".encode()).sign(b"x")


def test_value_semantics() -> None:
    """Keys are equal, and hash alike, if and only if they are the same key."""
    assert len({AuthKey("a"), AuthKey(b"a"), AuthKey("b")}) == 2
    assert AuthKey("a") != AuthKey("b")
    assert AuthKey("a") != "a"
    assert AuthKey("a") == ANY  # which decides that itself


def test_of_keeps_a_key() -> None:
    """``of`` makes a key of a text, and gives back what is one already."""
    key = AuthKey("a")
    assert AuthKey.of(key) is key
    assert AuthKey.of("a") == AuthKey.of(b"a") == key


def test_nothing_shows_the_key() -> None:
    """Neither repr, str, format nor the fingerprint holds any part of the key."""
    key = AuthKey(CANARY)
    for text in (repr(key), str(key), f"{key}", key.fingerprint):
        assert CANARY[:4] not in text
        assert key.fingerprint in text
    assert len(key.fingerprint) == 16
    assert key.fingerprint != AuthKey("other").fingerprint


def test_fingerprints() -> None:
    """A key has the same fingerprint in every process and version: what was written down by it is found again."""
    fingerprint = hashlib.sha256(b"atom auth key\0k\xc3\xa9").hexdigest()[:16]
    assert AuthKey("ké").fingerprint == AuthKey("ké".encode()).fingerprint == fingerprint
    assert repr(AuthKey("ké")) == f"<AuthKey {fingerprint}>"


def test_it_cannot_be_written_away() -> None:
    """Pickling and copying are refused, in every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(AuthKey(CANARY), protocol)
    for copying in (copy.copy, copy.deepcopy, lambda key: key.__getstate__()):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copying(AuthKey(CANARY))


@pytest.mark.parametrize("make", [AuthKey, AuthKey.of])
@pytest.mark.parametrize("key", [CANARY + "\udc80", [CANARY]])
def test_tracebacks(make: Any, key: Any) -> None:
    """A traceback with the local variables of all frames shows no text that was to become a key."""
    try:
        make(key)
    except (TypeError, ValueError) as error:
        # Those of the test itself are not ours to hide.
        lines = list(TracebackException.from_exception(error, capture_locals=True).stack)[1:]
    assert lines
    assert all(CANARY[:4] not in repr(line.locals) for line in lines)


@pytest.mark.parametrize("key", [None, 1, bytearray(b"k"), ["k"]])
def test_wrong_type(key: Any) -> None:
    """What is neither text nor bytes is refused, by its type."""
    with pytest.raises(TypeError, match=f"auth_key must be .* not {type(key).__name__}"):
        AuthKey(key)


@pytest.mark.parametrize(("key", "why"), [("", "empty"), (b"", "empty"), (CANARY + "\udc80", "lone surrogate")])
def test_wrong_value(key: str | bytes, why: str) -> None:
    """An empty or unencodable key is refused, in words that do not hold it."""
    with pytest.raises(ValueError, match=why) as info:
        AuthKey(key)
    assert CANARY[:4] not in str(info.value)


def test_unfinished() -> None:
    """A key that could not be made, which a traceback may show, says so."""
    assert repr(AuthKey.__new__(AuthKey)) == "<AuthKey unfinished>"
