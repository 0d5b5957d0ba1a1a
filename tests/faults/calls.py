"""Kill a program at a system call of its own, let the call fail, or write down what it does to files.

A library in C is compiled on demand and preloaded; a program that has it arms it by what is in this module.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple


class Kind(IntFlag):
    """What a call does; as in the library."""

    WRITE = 1
    SYNC = 2
    RENAME = 4
    UNLINK = 8
    TRUNCATE = 16
    SEND = 32
    CREATE = 64


class Call(NamedTuple):
    """A call that was written down."""

    kind: Kind
    path: str
    offset: int
    """Of what is written, or the new size of a file."""
    data: bytes
    """What is written, or the new name of a file."""


def _why_not() -> str:
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    if shutil.which("cc") is None:
        return "needs a C compiler, cc"
    return ""


WHY_NOT = _why_not()
"""Why the library cannot be had here; empty if it can."""


@functools.cache
def library() -> str:
    """The path of the compiled library."""
    directory = tempfile.TemporaryDirectory(prefix="atom-calls-")
    _kept.append(directory)
    path = f"{directory.name}/calls.so"
    source = Path(__file__).with_suffix(".c")
    run = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", path, str(source), "-ldl", "-lpthread"]
    subprocess.run(run, check=True)
    return path


_kept: list[tempfile.TemporaryDirectory[str]] = []


def environment() -> dict[str, str]:
    """What a program must have in its environment, so that it is preloaded and can import what is here."""
    names = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"LD_PRELOAD": library(), "PYTHONPATH": os.pathsep.join(name for name in names if name)}


def kill(at: int, *, halfway: bool = False) -> None:
    """Within a program: count calls from now on, and be killed before the one that is number *at*, if that comes.

    Args:
        halfway: be killed when half of it is written or sent, or, where it cannot be halved, after it.
    """
    ctypes.CDLL(None).calls_kill(ctypes.c_long(at), int(halfway))


def count() -> int:
    """Within a program: how many calls were counted."""
    function = ctypes.CDLL(None).calls_count
    function.restype = ctypes.c_long
    return int(function())


def fail(kinds: Kind, error: int, where: str = "") -> None:
    """Within a program: let calls of these *kinds* fail with *error*, at files with *where* in their path."""
    ctypes.CDLL(None).calls_fail(int(kinds), error, where.encode())


def failed() -> int:
    """Within a program: how many calls were let fail."""
    return int(ctypes.CDLL(None).calls_failed())


def write_down(path: Path) -> None:
    """Within a program: from now on, append what is done to files to the file *path*."""
    ctypes.CDLL(None).calls_log(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))


def read_down(path: Path) -> Iterator[Call]:
    """What :func:`write_down` has written."""
    text = path.read_bytes()
    at = 0
    head = struct.Struct("=qqqq")
    while at < len(text):
        kind, name, size, offset = head.unpack_from(text, at)
        at += head.size
        data = text[at + name : at + name + size]
        yield Call(Kind(kind), text[at : at + name].decode(), offset, data)
        at += name + size
