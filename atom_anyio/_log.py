"""Logging that harms nobody: a handler of the user's is a callback like another."""

from __future__ import annotations

import logging
from contextlib import suppress


def log(logger: logging.Logger, level: int, message: str, error: BaseException | None = None) -> None:
    """Log *message*.  A handler of the user's that raises must not end the task or the thread that logs."""
    try:
        logger.log(level, message, exc_info=error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        # What was to be logged is shown as logging shows what goes wrong in its own handlers.
        record = logger.makeRecord(logger.name, level, __file__, 0, message, (), None)
        with suppress(Exception):  # as where stderr is closed
            logging.Handler().handleError(record)
