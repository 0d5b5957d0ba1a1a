"""The old SDK's error callback, which took four arguments first and five later."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

Callback: TypeAlias = Callable[[float, int, str, Any, str], object]
"""``(unix_time, http_code, error_msg, sent_data, stream)``"""


def read_callback(callback: object, logger: logging.Logger) -> Callback | None:
    """*callback* as one of five arguments, whichever it takes; None, after a warning, if it takes neither."""
    if callback is None:
        return None
    if callable(callback):
        try:
            signature = inspect.signature(callback)
        except (TypeError, ValueError):  # some built-ins do not tell theirs
            return callback
        if _takes(signature, 5):
            return callback
        if _takes(signature, 4):
            return lambda unix_time, http_code, error_msg, sent_data, stream: callback(
                unix_time, http_code, error_msg, sent_data
            )
    logger.warning("callback must take (unix_time, http_code, error_msg, sent_data[, stream]); it is ignored")
    return None


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
