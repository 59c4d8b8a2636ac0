"""What a run logs may not end it: a file that is appended to, whatever the disk says, and a guard for all else."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path
from types import TracebackType

from cyclegan_fast.errors import one_line

log = logging.getLogger(__name__)

_MAX_HELD = 16 * 2**20  # bytes of records that wait for room


class AppendedFile:
    """Appends whole records to a file.

    Where the disk is full a warning is logged, the first time; a torn record is cut off, and what is missing is held
    until there is room.

    Args:
        path: The file, created if it is missing.
        holds: False drops what cannot be written at once.
    """

    def __init__(self, path: Path, *, holds: bool = True) -> None:
        self.path, self.holds = path, holds
        self.file = path.open("ab", buffering=0)
        self.held = b""
        self.warned = False

    def append(self, record: bytes) -> None:
        """Writes a record; it is on its way to the disk when this returns."""
        self._write(self.held + record)

    def close(self) -> None:
        """Writes what is held, if there is room now, and closes the file."""
        if self.held:
            self._write(self.held)
        self.file.close()

    def _write(self, content: bytes) -> None:
        end = os.fstat(self.file.fileno()).st_size
        try:
            if self.file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.truncate(end)
            self._warn(error)
            self.held = content if self.holds and len(content) <= _MAX_HELD else b""
        else:
            self.held = b""

    def _warn(self, error: OSError) -> None:
        if not self.warned:
            rest = "what is missing is written as soon as there is room" if self.holds else "records are missing in it"
            log.warning("cannot write %s: %s; training goes on, and %s", self.path, error.strerror, rest)
        self.warned = True


class Unessential:
    """A context manager for what a run can do without: an error in its block becomes a warning, the first time.

    Args:
        what: What is missing then, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what, self.warned = what, False

    def __enter__(self) -> Unessential:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):  # an interrupt, say
            return False
        if not self.warned:
            log.warning("%s: %s; training goes on", self.what, one_line(error))
        self.warned = True
        return True
