"""The loggers of the old API."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

_NAME: Final = "AtomLogger"
_RAW_NAME: Final = "AtomRawLogger"
_MAX_BYTES: Final = 50 * 1024 * 1024
_MAX_FILES: Final = 100


def get_logger(name: str = _NAME, debug: bool = False, file_name: str = "atom-raw.json") -> logging.Logger:
    """The logger called *name*; for ``AtomRawLogger``, one that writes its messages as lines to *file_name*.

    Records go wherever the program's own logging sends them.  If it sends them nowhere, *debug* prints
    them to stderr.

    Args:
        name: name of the logger.
        debug: whether messages below INFO count.
        file_name: rotated at 50 MB, up to 100 files, readable by its owner alone.
    """
    if name == _RAW_NAME:
        return _raw_logger(str(Path(file_name).absolute()))
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if debug and not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
        logger.addHandler(handler)
    return logger


def _raw_logger(path: str) -> logging.Logger:
    logger = logging.getLogger(f"{_RAW_NAME}:{path.replace('.', '_')}")  # dots would make it a child of others
    if not logger.handlers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(_PrivateFileHandler(path))
    return logger


class _PrivateFileHandler(RotatingFileHandler):
    """Writes to a file that is its owner's alone, and holds it open only while it writes.

    So nothing is left open that somebody would have to close, and a forked child shares nothing.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", maxBytes=_MAX_BYTES, backupCount=_MAX_FILES, delay=True)
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - overrides
        if not self._failed:
            self._failed = True
            get_logger().error("cannot write %s", self.baseFilename, exc_info=True)

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    # The folder may be everybody's, and the name can be guessed: follow no link, and trust no file that
    # somebody else has put there (fchmod fails on such).
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
