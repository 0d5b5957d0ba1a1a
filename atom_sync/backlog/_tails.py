"""The files of records: appended to while ``track`` waits, deleted a generation at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from atom_sansio import Records

from ._files import aside, open_private, sync_directory


class Tails:
    """Files beside *path*, called after it, their generation, and their number within that.

    Args:
        path: of the backlog.
        sync: whether what is appended is to be on the disk when :meth:`append` returns.
    """

    def __init__(self, path: Path, *, sync: bool) -> None:
        self._path = path
        self._sync = sync
        self._generation = 0
        self._number = 0
        self._fd: int | None = None
        self._file: Path  # which that is
        self._size = 0
        self._doubtful = False  # whether there may be more in the file than that
        self._distrusted = False  # whether no sync of the file says anything any more

    def read(self) -> list[tuple[int, bytes]]:
        """The generation and the contents of each file, in their order.

        Raises:
            FileNotFoundError: one was deleted meanwhile, by a tracker that has them.
            OSError: one cannot be read.
        """
        return [(generation, file.read_bytes()) for (generation, _), file in sorted(self._files())]

    def set_unreadable_aside(self) -> list[str]:
        """Rename the files that the disk cannot read, so that :meth:`read` leaves them out; say what is wrong."""
        reasons = []
        for _, file in sorted(self._files()):
            try:
                file.read_bytes()
            except OSError as error:
                reasons.append(f"{file.name}: {error.strerror}")
                file.rename(aside(self._path))
        return reasons

    def append(self, records: Records) -> None:
        """Write *records*; when this raises, none of them counts.

        Raises:
            OSError: the disk is full, or broken, or read-only.
        """
        if self._doubtful:
            self._cut_off()
        if self._fd is None or records.generation != self._generation:
            self._begin(records.generation)
        assert self._fd is not None
        data = records.data
        size = len(data)
        self._doubtful = True
        try:
            written = os.write(self._fd, data)
            while written < size:
                written += os.write(self._fd, data[written:])
            if self._sync:
                self._distrusted = True
                os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)
                self._distrusted = False
            self._size += size  # without a call until the end, in which a signal handler might raise
            self._doubtful = False
            records.appended = True
        except BaseException:  # one may raise before
            with contextlib.suppress(OSError):
                self._cut_off()
            raise

    def forget_before(self, generation: int) -> None:
        """Delete the files of earlier generations, for good: they may be without their marks from now on."""
        files = [file for (number, _), file in self._files() if number < generation]
        for file in files:
            file.unlink(missing_ok=True)
        if files and self._sync:
            sync_directory(self._path.parent)

    def generations(self) -> list[int]:
        """Of which there are files, in their order."""
        return sorted({generation for (generation, _), _ in self._files()})

    def hand_over(self, generation: int, path: Path, to: int) -> None:
        """Let the files of *generation* be those of the backlog *path*, and of its generation *to*."""
        for (number, part), file in sorted(self._files()):
            if number == generation:
                file.rename(path.with_name(f"{path.name}-tail-{to}.{part}"))
        if self._sync:
            sync_directory(path.parent)

    def close(self) -> None:
        """Close the file that is being written, if one is; the next :meth:`append` begins another."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _begin(self, generation: int) -> None:
        self.close()
        taken = [number for (at, number), _ in self._files() if at == generation]
        name = f"{self._path.name}-tail-{generation}.{max(taken, default=0) + 1}"
        file = self._path.with_name(name)
        fd = open_private(file, os.O_WRONLY | os.O_APPEND | os.O_EXCL)
        try:
            if self._sync:
                sync_directory(self._path.parent)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):  # or there would be one more with each try
                file.unlink()
            raise
        self._fd, self._file, self._generation, self._size, self._distrusted = fd, file, generation, 0, False

    def _cut_off(self) -> None:
        """Take off what was refused.  Until that is done nothing else is written, or it would count after all.

        Raises:
            OSError: it cannot be done now.
        """
        if self._fd is not None:
            os.ftruncate(self._fd, self._size)
            if self._distrusted:
                # Whatever a later sync of this file says, it does not speak of what failed; so another one is begun.
                self.close()
                if not self._size:  # or there would be one more with each try
                    self._file.unlink(missing_ok=True)
        self._doubtful = False

    def _files(self) -> list[tuple[tuple[int, int], Path]]:
        found = []
        start = f"{self._path.name}-tail-"
        for file in self._path.parent.iterdir():
            if file.name.startswith(start):
                generation, _, number = file.name[len(start) :].partition(".")
                if generation.isdecimal() and number.isdecimal():
                    found.append(((int(generation), int(number)), file))
        return found
