"""Files that are whole or absent: a reader never sees one half written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cyclegan_fast.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one move; the old file stays until the new one is on the disk.

    Raises:
        UserError: The disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from error
