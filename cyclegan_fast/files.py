"""Writing that survives a crash: a reader finds the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclegan_fast.errors import StorageError, UserError

_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
_PARTIAL = ".partial-"  # folders and files that are unfinished, or being removed


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` that begins with `what`.

    A full disk, a missing permission and the like, which other files would meet, too, become a `StorageError`.
    """
    try:
        yield
    except UserError:  # which may be an OSError, too
        raise
    except OSError as error:
        kind = StorageError if error.errno in _FOR_ALL else UserError
        raise kind(f"{what}: {error.strerror or error}") from error


def write_durably(path: Path, content: bytes) -> dict[str, str | int]:
    """Writes a new file and flushes it to the disk; returns its manifest entry: ``{"sha256": ..., "bytes": ...}``."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def write_atomically(path: Path, content: bytes) -> None:
    """Creates or replaces a file in one move, and its folders where they are missing.

    Raises:
        UserError: The disk is full, the folder is read-only, or the like; an older file is then intact.
    """
    partial = partial_beside(path)
    with storage_errors(f"cannot write {path}"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(partial, content)
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def user_cache() -> Path | None:
    """The user's folder for what may be lost at any time; None for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "cyclegan_fast"
    except RuntimeError:  # of expanduser: no HOME, and no entry for the user id, as in many containers
        return None


def partial_beside(path: Path) -> Path:
    """A fresh name in the folder of `path` for something that becomes `path` when it is finished."""
    return path.parent / f"{_PARTIAL}{secrets.token_hex(6)}"


@contextlib.contextmanager
def building_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `target` in one move once the block is left without an error.

    A lock lies beside it meanwhile and is released when the process ends: that is how `remove_leftovers` knows what a
    killed process left behind from what is being written.
    """
    partial = partial_beside(target)
    partial.mkdir()
    lock = _lock_of(partial)
    try:
        with lock.open("w") as handle:
            try_lock(handle.fileno())
            yield partial
            sync_folder(partial)
            partial.rename(target)
            sync_folder(target.parent)
    finally:
        lock.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that at every moment it is either whole or gone."""
    leaving = partial_beside(folder)
    folder.rename(leaving)
    shutil.rmtree(leaving)


def remove_leftovers(parent: Path) -> None:
    """Removes the unfinished folders in `parent` whose process is dead, and locks whose folder is finished."""
    locks = {_lock_of(partial) for partial in parent.glob(f"{_PARTIAL}*/")} | set(parent.glob(f"{_PARTIAL}*.lock"))
    for lock in locks:
        with lock.open("a") as handle:
            try:
                try_lock(handle.fileno())
            except OSError:
                continue  # a living process is writing it
            if (partial := lock.with_suffix("")).is_dir():
                shutil.rmtree(partial)
        lock.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def try_lock(descriptor: int) -> None:
    """Locks an open file until its process ends, however it ends; raises OSError if another process holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, where the system can."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
