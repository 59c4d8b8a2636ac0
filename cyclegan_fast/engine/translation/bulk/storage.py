"""Where inputs are read from and results go: a folder of this machine, or what fsspec opens under a URL."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from cyclegan_fast.errors import StorageError, UserError, one_line
from cyclegan_fast.files import storage_errors, write_atomically
from cyclegan_fast.images.find import url_of
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSES = (1.0, 5.0)  # seconds between three tries of a request, which come after the retries of fsspec's libraries
MAX_REFUSED = 256  # files that may not be read, before any could be: the others may not be read either
_FINAL = (UserError, PermissionError, FileNotFoundError, NotImplementedError)  # errors that another try would meet, too
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}


class ForbiddenError(StorageError):
    """There is no permission to read or list it."""


@dataclass(frozen=True)
class LocalStorage:
    """A folder of this machine."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def path_of(self, name: str) -> Path:
        """The path of what has that name."""
        return self.root / name

    def present(self, names: Collection[str]) -> set[str]:
        """Those of the names that are there."""
        return {name for name in names if (self.root / name).is_file()}

    def list_names(self, folder: str) -> list[str]:
        """The names of the files in a folder, sorted."""
        path = self.root / folder
        return sorted(f"{folder}/{file.name}" for file in path.iterdir() if file.is_file()) if path.is_dir() else []

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Creates or replaces a file in one move."""
        write_atomically(self.root / name, content)

    def append(self, name: str, content: bytes) -> None:
        """Adds to the end of a file, and flushes it to the disk."""
        path = self.root / name
        with storage_errors(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        with storage_errors(f"cannot remove {self.root / name}"):
            (self.root / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteStorage:
    """A prefix of what fsspec opens: ``s3://bucket/folder``, ``gs://``, ``memory://`` and so on."""

    url: str
    _refused: list[str] = field(default_factory=list, init=False, compare=False, repr=False)
    _read: list[str] = field(default_factory=list, init=False, compare=False, repr=False)  # one name is enough

    def __str__(self) -> str:
        return self.url

    @property
    def root(self) -> str:
        """The path of the URL in its file system."""
        return open_url(self.url)[1]

    def path_of(self, name: str) -> Path | None:
        """None, as no path leads there."""
        return None

    def present(self, names: Collection[str]) -> set[str]:
        """Those of the names that are there, by listing all that is below the URL."""
        return set(names) & set(self.list_below()) if names else set()

    def list_below(self) -> list[str]:
        """The names of all files at any depth, sorted; none where nothing is there."""
        fs, root = open_url(self.url)
        with _reading(self.url):
            try:
                return sorted(path[len(root) :].lstrip("/") for path in _retried(fs.find, root) if path != root)
            except FileNotFoundError:
                return []

    def list_names(self, folder: str) -> list[str]:
        """The names of the files in a folder, sorted."""
        return [f"{folder}/{name}" for name in RemoteStorage(f"{self.url}/{folder}").list_below() if "/" not in name]

    def read(self, name: str) -> bytes:
        """The content of a file."""
        fs, root = open_url(self.url)
        with _reading(f"{self.url}/{name}"):
            content: bytes = _retried(fs.cat_file, f"{root}/{name}")
            return content

    def write(self, name: str, content: bytes) -> None:
        """Creates or replaces a file."""
        fs, root = open_url(self.url)
        with _writing(f"{self.url}/{name}"):
            _retried(fs.pipe_file, f"{root}/{name}", content)

    def download(self, name: str, path: Path) -> None:
        """Copies a file to a path of this machine.

        Raises:
            ForbiddenError: There is no permission to read it.
            StorageError: Nor was there for any file before it, and they are many; or the disk is full.
            FileNotFoundError: It is not there.
            UserError: It cannot be read.
        """
        fs, root = open_url(self.url)
        try:
            with _reading(f"{self.url}/{name}"):
                _retried(fs.get_file, f"{root}/{name}", str(path))
        except ForbiddenError as error:
            if not self._read:
                self._refused.append(name)
            if not self._read and len(self._refused) >= MAX_REFUSED:
                raise StorageError(f"{error}; so it was with all of the first {MAX_REFUSED} files") from error
            raise
        if not self._read:
            self._read.append(name)

    def upload(self, path: Path, name: str) -> None:
        """Copies a file of this machine there."""
        fs, root = open_url(self.url)
        with _writing(f"{self.url}/{name}"):
            _retried(fs.put_file, str(path), f"{root}/{name}")

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        fs, root = open_url(self.url)
        with _writing(f"{self.url}/{name}"), contextlib.suppress(FileNotFoundError):
            _retried(fs.rm_file, f"{root}/{name}")


Storage: TypeAlias = LocalStorage | RemoteStorage
"""A folder, here or elsewhere. Names are relative to it, with slashes; a pickled one is opened where it arrives."""


def match_urls(pattern: str) -> list[str]:
    """Returns the URLs that a glob pattern matches, sorted; of a URL without marks itself, if it is there."""
    fs, path = open_url(pattern)
    with _reading(pattern):
        found = _retried(functools.partial(fs.glob, detail=True), path)
        return sorted(str(fs.unstrip_protocol(name)) for name, info in found.items() if info["type"] != "directory")


def storage_at(location: str | Path) -> Storage:
    """Returns the storage of a folder or URL; ``file://`` is a folder."""
    url = url_of(location)
    if url is None:
        return LocalStorage(Path(location).absolute())
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return LocalStorage(Path("/", rest))
    return RemoteStorage(url.rstrip("/"))


def open_url(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system of a URL, and the path in it.

    Raises:
        UserError: Its package is missing, no file system has such URLs, or it cannot be reached.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme, one_line(error))
        raise UserError(f"{url}: {scheme}:// needs a package that is missing: pip install {package}") from error
    except Exception as error:
        raise UserError(f"{url}: cannot be opened ({one_line(error)})") from error
    return fs, str(path).rstrip("/")


def _retried(request: Callable[..., T], *arguments: Any) -> T:
    """Returns what a request returns; one that fails is repeated twice, but where it would fail again."""
    for seconds in _PAUSES:
        try:
            return request(*arguments)
        except _FINAL:
            raise
        except Exception as error:
            log.debug("%s: a request failed (%s)", arguments[0], one_line(error))
            warn_once(log, "requests to the storage fail at times; each is repeated up to twice")
        time.sleep(seconds * random.uniform(0.5, 1.5))  # processes that fail together do not come back together
    return request(*arguments)


@contextlib.contextmanager
def _reading(url: str) -> Iterator[None]:
    """Turns what a file system throws into a `UserError`; that a file is not there stays a `FileNotFoundError`.

    Raises:
        ForbiddenError: There is no permission.
        StorageError: The disk of this machine is full.
    """
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise ForbiddenError(
            f"{url}: no permission to read or list it ({one_line(error)}): check the credentials"
        ) from error
    except Exception as error:
        disk_is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = StorageError if disk_is_full else UserError
        raise kind(f"{url}: cannot be read ({one_line(error)})") from error


@contextlib.contextmanager
def _writing(url: str) -> Iterator[None]:
    """Turns what a file system throws into a `StorageError`, as others will meet it, too."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise StorageError(f"{url}: no permission to write it ({one_line(error)}): check the credentials") from error
    except Exception as error:
        raise StorageError(f"{url}: cannot be written ({one_line(error)})") from error
