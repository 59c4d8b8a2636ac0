"""Unpacks the archive of a data set (.zip, .tar, .tar.gz ...) into a folder as training reads it.

Only images that lie below a folder of a known name are taken. An archive is written by anyone: what leads out of the
folder, links and whatever is larger than the disk is refused, and the folder is there once all of it is.
"""

from __future__ import annotations

import functools
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple, Self

from cyclegan_fast.data.audit.groups import SIDE_BY_SIDE
from cyclegan_fast.data.locations.folders import DOMAIN_FOLDERS, readable
from cyclegan_fast.data.locations.shards import tar_members
from cyclegan_fast.documents import shown
from cyclegan_fast.errors import MissingFileError, UserError, one_line
from cyclegan_fast.files import building_new_folder, storage_errors
from cyclegan_fast.images.find import SUFFIXES, is_hidden_member, refuse_url

FOLDERS = (*DOMAIN_FOLDERS, *SIDE_BY_SIDE)
_ENCRYPTED = 1  # bit of a ZIP member's flags
_CHUNK = 2**20  # bytes that are read at a time
_MAX_HEADER = 2**20  # bytes of a tar's long names and records, which tarfile reads at once
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error),
    *(EOFError, ValueError, OSError, NotImplementedError),  # of the decompressors, and of compressions they lack
)


class _Member(NamedTuple):
    name: str
    is_plain: bool  # a file, and no link or device
    size: int  # bytes
    open: Callable[[], IO[bytes]]


@dataclass
class Unpacked:
    """What an archive held."""

    images: Counter[str] = field(default_factory=Counter)
    """By folder: trainA, trainB ..., or train, val, test."""
    left_out: int = 0
    """Files that are no images, or lie in none of these folders."""


def unpack(archive: Path, out: Path) -> Unpacked:
    """Unpacks the images of a data set into the folder `out`, which is whole or not there at all.

    Raises:
        UserError: There is no such archive, it is damaged or no ZIP or tar file; it holds no data set, or two; a member
            is refused; or `out` holds files or cannot be written.
    """
    refuse_url(archive, "download the archive yourself and name the file")
    if not archive.is_file():
        raise MissingFileError(f"{archive}: there is no such archive; name a .zip, .tar or .tar.gz file")
    with readable(archive):
        archive.open("rb").close()
    found, roots = Unpacked(), set[str]()
    with storage_errors(f"cannot write the data set {out}"), building_new_folder(out) as partial:
        free = shutil.disk_usage(partial).free
        for member in _members(archive):
            _refuse_unsafe(archive, member)
            free -= member.size
            if free < 0:
                raise UserError(f"{archive}: unpacks to more than is free on the disk of {out}")
            place = _place(member.name)
            if place is None:
                found.left_out += not is_hidden_member(member.name)
                continue
            root, path = place
            roots.add(root)
            if len(roots) > 1:
                names = " and ".join(map(shown, sorted(roots)))
                raise UserError(f"{archive}: holds several data sets, in {names}: lay it out by hand")
            _copy(archive, member, partial / path)
            found.images[path.parts[0]] += 1
        _refuse_missing_domains(archive, found)
    return found


def _members(archive: Path) -> Iterator[_Member]:
    """Yields the files of an archive, of which each must be read before the next."""
    try:
        yield from _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
    except UserError:
        raise
    except _DAMAGE as error:
        raise _damaged(archive, error) from error


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & _ENCRYPTED:
                raise UserError(f"{archive}: the member {shown(info.filename)} needs a password; unpack it yourself")
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the system that wrote it has no such thing
            opened = functools.partial(file.open, info)
            yield _Member(info.filename, kind in (0, stat.S_IFREG), info.file_size, opened)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, tarinfo=_Header) as file:
        for info in tar_members(file):
            if not info.isdir():
                opened = functools.partial(file.extractfile, info)
                yield _Member(info.name, info.isreg(), info.size, opened)  # type: ignore[arg-type] # not None of a file


class _Header(tarfile.TarInfo):
    """A header whose extension is not as large as compression can make it."""

    @classmethod
    def frombuf(cls, *block: Any, **named: Any) -> Self:
        header = super().frombuf(*block, **named)
        if header.type in _EXTENDED and header.size > _MAX_HEADER:
            raise tarfile.ReadError("a member's name or record is too long")
        return header


def _refuse_unsafe(archive: Path, member: _Member) -> None:
    """An archive may name nothing outside itself, on any system."""
    paths = PurePosixPath(member.name), PureWindowsPath(member.name)
    if any(path.anchor or ".." in path.parts for path in paths) or "\0" in member.name:
        raise UserError(f"{archive}: the member {shown(member.name)} leads out of the archive: do not trust this file")
    if not member.is_plain:
        raise UserError(f"{archive}: the member {shown(member.name)} is a link or a device: do not trust this file")


def _place(name: str) -> tuple[str, PurePosixPath] | None:
    """Returns the folder of the set within the archive, and where an image lies in that; None if it lies in no set."""
    path = PurePosixPath(name)
    if is_hidden_member(name) or path.suffix.lower() not in SUFFIXES:
        return None
    for i, part in enumerate(path.parts[:-1]):
        if part in FOLDERS:
            return str(PurePosixPath(*path.parts[:i])), PurePosixPath(*path.parts[i:])
    return None


def _copy(archive: Path, member: _Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            for chunk in _content(archive, member):
                file.write(chunk)
    except FileExistsError as error:
        raise UserError(f"{archive}: holds {shown(member.name)} twice; lay it out by hand") from error


def _content(archive: Path, member: _Member) -> Iterator[bytes]:
    """Yields a member in chunks; what is wrong with it is told from what is wrong with the disk it is written to."""
    try:
        with member.open() as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except _DAMAGE as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(f"{archive}: this archive is damaged, or no .zip or .tar file ({one_line(error)})")


def _refuse_missing_domains(archive: Path, found: Unpacked) -> None:
    if not found.images:
        raise UserError(f"{archive}: holds no images in folders named {', '.join(FOLDERS)}: lay it out by hand")
    for one, other in (("trainA", "trainB"), ("trainB", "trainA")):
        if one in found.images and other not in found.images:
            raise UserError(f"{archive}: holds {one} and no {other}: it is not whole")
