"""Writing that survives a crash: a reader finds the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from cyclegan_fast.errors import StorageError, UserError

_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
_PARTIAL = ".partial-"  # folders and files that are unfinished, or being removed
_LOCK = ".lock"  # suffix of a file beside an unfinished folder; name of one in a scratch folder
_SCRATCH = "cgf-scratch-"  # short, as the path of a socket below it may have some 100 characters
_OWN_NAME = re.compile(r"\.partial-[0-9a-f]{12}(\.lock)?")


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


def write_durably(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, str | int]:
    """Writes a new file and flushes it to the disk; returns its manifest entry: ``{"sha256": ..., "bytes": ...}``."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
        return {"sha256": digest.hexdigest(), "bytes": file.tell()}


def write_atomically(path: Path, content: bytes) -> None:
    """Creates or replaces a file in one move, and its folders where they are missing.

    Raises:
        UserError: The disk is full, the folder is read-only, or the like; an older file is then intact.
    """
    with building_file(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def building_file(path: Path) -> Iterator[Path]:
    """Yields an empty file that becomes `path` in one move once the block is left without an error.

    Folders that are missing are made. The file is locked meanwhile, by which `remove_leftovers` knows what a killed
    process left behind from what is being written; the first write into a folder calls it.

    Raises:
        UserError: The disk is full, the folder is read-only, or the like; an older file is then intact.
    """
    with storage_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers_once(path.parent)
        partial, file = _new_locked_file(path.parent)
        try:
            yield partial
            os.fsync(file.fileno())
            if sys.platform == "win32":  # where no open file can be moved
                file.close()
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            file.close()


def user_cache() -> Path | None:
    """The user's folder for what may be lost at any time; None for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "cyclegan_fast"
    except RuntimeError:  # of expanduser: no HOME, and no entry for the user id, as in many containers
        return None


@contextlib.contextmanager
def building_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `target` in one move once the block is left without an error.

    A lock lies beside it meanwhile and is released when the process ends: that is how `remove_leftovers` knows what a
    killed process left behind from what is being written.
    """
    _remove_leftovers_once(target.parent)
    lock, file = _new_locked_file(target.parent, _LOCK)
    partial = lock.with_suffix("")
    try:
        partial.mkdir()
        yield partial
        sync_folder(partial)
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if sys.platform == "win32":
            file.close()
        lock.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def building_new_folder(out: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `out`, where there is none or an empty one, as `building_folder` does.

    Folders above that are missing are made.

    Raises:
        UserError: `out` already holds files.
        OSError: It cannot be written.
    """
    target = out.resolve()
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{out}: already holds files; name a new folder with --out, or remove this one")
    target.parent.mkdir(parents=True, exist_ok=True)
    with building_folder(target) as partial:
        yield partial
        if target.exists():
            target.rmdir()  # it is empty, and no rename on Windows replaces it


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields an empty folder among the system's temporary files (TMPDIR), and removes it at the end.

    That of a process that was killed is removed when another process first asks for one.

    Raises:
        StorageError: The disk is full, for example.
    """
    _remove_scratch_once()
    with storage_errors(f"cannot write into {tempfile.gettempdir()}"):
        folder, file = _new_scratch_folder()
    with file:
        try:
            yield folder
        finally:
            if sys.platform == "win32":
                file.close()
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _remove_scratch_once() -> None:
    """Removes the scratch folders of this user's processes that were killed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("r+b") as file:  # a living process has it, or another user
            try_lock(file)
            shutil.rmtree(lock.parent)


def _new_scratch_folder() -> tuple[Path, BinaryIO]:
    """Creates a scratch folder, and locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        if (file := _create_locked(folder / _LOCK)) is not None:
            return folder, file


def remove_folder(folder: Path) -> None:
    """Removes a folder so that at every moment it is either whole or gone."""
    leaving = _fresh_name(folder.parent)
    folder.rename(leaving)
    shutil.rmtree(leaving)


def remove_leftovers(parent: Path) -> None:
    """Removes what dead processes left unfinished in a folder; what a living one is writing is locked, and stays."""
    if not parent.is_dir():
        return
    with os.scandir(parent) as entries:
        found = {entry.name for entry in entries if _OWN_NAME.fullmatch(entry.name) and not entry.is_symlink()}
    for name in found:
        partial = parent / name
        with contextlib.suppress(OSError):  # a living process is writing it, or it may not be removed
            if partial.is_dir():
                if f"{name}{_LOCK}" not in found:  # it was being removed
                    shutil.rmtree(partial)
                continue
            with partial.open("r+b") as file:
                if sys.platform != "win32":  # where no open file can be removed
                    try_lock(file)
                    _remove_unfinished(partial)
            if sys.platform == "win32":
                _remove_unfinished(partial)


def _remove_unfinished(partial: Path) -> None:
    """Removes an unfinished file, or the lock of an unfinished folder after that."""
    if partial.suffix == _LOCK:
        shutil.rmtree(partial.with_suffix(""), ignore_errors=True)
    partial.unlink(missing_ok=True)


def _remove_leftovers_once(parent: Path) -> None:
    """Does so before the first write of this process into a folder."""
    if (folder := parent.absolute()) not in _cleared:
        _cleared.add(folder)
        remove_leftovers(parent)


def _fresh_name(parent: Path) -> Path:
    return parent / f"{_PARTIAL}{secrets.token_hex(6)}"


def _new_locked_file(parent: Path, suffix: str = "") -> tuple[Path, BinaryIO]:
    """Creates a file under a fresh name in a folder, and locks it."""
    while True:
        path = _fresh_name(parent).with_suffix(suffix)
        if sys.platform == "win32":  # where nobody removes an open file, and others could not write a locked one
            return path, path.open("xb", buffering=0)  # type: ignore[return-value]
        if (file := _create_locked(path)) is not None:
            return path, file


def _create_locked(path: Path) -> BinaryIO | None:
    """Creates a file, and locks it; None where another process, which has taken it for a leftover, removes it."""
    file: BinaryIO = path.open("xb", buffering=0)  # type: ignore[assignment]
    try:
        try_lock(file)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks, on which nobody removes it either
        return file
    if path.exists():
        return file
    file.close()
    return None


def try_lock(file: IO[Any]) -> None:
    """Locks an open file until it is closed, or its process ends, however it ends; processes forked from it let it go.

    Raises:
        OSError: Another process holds the lock; or the file system has none.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locked.add(file)


def _close_inherited_locks() -> None:
    """In a forked process: a lock belongs to every process that has the file open, and would outlive its owner."""
    for file in list(_locked):
        with contextlib.suppress(OSError):
            file.close()
    _locked.clear()


_cleared: set[Path] = set()  # folders
_locked: weakref.WeakSet[IO[Any]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_close_inherited_locks)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, where the system can."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
