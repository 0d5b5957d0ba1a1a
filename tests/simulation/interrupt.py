"""Interrupts a call between two instructions of the interpreter, as signal handlers and finalisers do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import atom_sansio

_HOME = str(Path(atom_sansio.__file__).parent)

T = TypeVar("T")


def interrupted(call: Callable[[], T], handler: Callable[[], object], after: int) -> T:
    """What *call* returns or raises; after *after* instructions of the package *handler* ran, if there were as many.

    What the handler raises is raised when the call has ended: it must not look like a fault of the call's.
    """
    left = after
    raised: BaseException | None = None

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left, raised
        left -= 1
        if left == 0:
            try:
                handler()
            except BaseException as error:
                raised = error
        return local if left > 0 else None

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        if left <= 0 or not frame.f_code.co_filename.startswith(_HOME):
            return None
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        return call()
    finally:
        sys.settrace(before)
        if raised is not None:
            raise raised
