"""Tar shards as WebDataset lays them out: which images they hold, and where in the file the bytes of each are.

Nothing is unpacked. The headers of an archive are read once; what they say is kept in one file beside it, or in the
user's cache folder where that cannot be written, and holds as long as the archive keeps its length and time of change.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cyclegan_fast.data.catalog.manifest import FOLDER
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import user_cache, write_atomically
from cyclegan_fast.images.find import SUFFIXES
from cyclegan_fast.images.image_file import ImageFile

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

log = logging.getLogger(__name__)

_KEEP_FROM = 500  # members; the headers of fewer are read at once, and leave no trace in the user's folder
_VERSION = 1  # of what is kept, and of the rules by which members are refused
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")

Members = list[tuple[str, int, int]]  # name, offset, length of each image


def find_shards(pattern: str) -> list[str]:
    """The files that a pattern with {000..009}, {x,y}, * or ? stands for, in order.

    Raises:
        UserError: one of them is not there.
    """
    if braces := _BRACES.search(pattern):
        before, after = pattern[: braces.start()], pattern[braces.end() :]
        return [shard for middle in _choices(pattern, braces) for shard in find_shards(before + middle + after)]
    if Path(pattern).exists():
        return [pattern]
    if not (found := sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207  an absolute pattern is welcome
        raise UserError(f"{pattern}: there is no such shard")
    return found


def images_of(shard: str) -> list[ImageFile]:
    """The images of an archive, in its order.

    Raises:
        UserError: it is compressed, damaged or cut off, holds no image, or has a member that is refused.
    """
    try:
        status = os.stat(shard)  # noqa: PTH116
        stamp = [status.st_size, status.st_mtime_ns]
        members = _recall(shard, stamp)
        if members is None:
            members, count = _read_headers(shard)
            if count >= _KEEP_FROM:
                _remember(shard, stamp, members)
    except tarfile.ReadError as error:
        with Path(shard).open("rb") as file:
            packed = file.read(6).startswith(_MAGIC)
        raise UserError(
            compressed_archive(shard) if packed else f"{shard}: this archive is damaged ({error})"
        ) from error
    except OSError as error:
        raise UserError(f"{shard}: this archive cannot be read ({error.strerror or error})") from error
    if not members:
        raise UserError(f"{shard}: holds no image; members ending in {', '.join(sorted(SUFFIXES))} count")
    return [ImageFile(shard, *member) for member in members]


def compressed_archive(place: str) -> str:
    """The sentence about an archive that is compressed."""
    return f"{place}: a compressed archive cannot be read image by image; unpack it to a .tar first (gunzip, say)"


def _choices(pattern: str, braces: re.Match[str]) -> Iterator[str]:
    first, last, words = braces.groups()
    if words is not None:
        yield from words.split(",")
        return
    if int(last) < int(first):
        raise UserError(f"{pattern}: the range {braces[0]} is empty")
    for number in range(int(first), int(last) + 1):
        yield f"{number:0{len(first)}d}"


def _read_headers(shard: str) -> tuple[Members, int]:
    """The images of an archive, and how many members it has."""
    found: Members = []
    count = 0
    with tarfile.open(shard, "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or it would keep a kilobyte of each
            count += 1
            _refuse_tricks(shard, member)
            if member.isreg() and PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                found.append((member.name, member.offset_data, member.size))
        end = archive.offset
    with Path(shard).open("rb") as file:  # a block of zeros follows the last member, unless the file was cut off
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends too early")
    return found, count


def _refuse_tricks(shard: str, member: tarfile.TarInfo) -> None:
    """An archive may name nothing outside itself, and must hold its images as plain bytes."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{shard}: the member {member.name} leads out of the archive; make the shard anew without it")
    if member.issym() or member.islnk() or member.isdev():
        raise UserError(
            f"{shard}: the member {member.name} is a link or a device; make the shard anew with files alone"
        )
    if member.issparse():
        raise UserError(f"{shard}: the member {member.name} is stored with holes; make the shard anew without --sparse")


def _keeping_places(shard: str) -> Iterator[Path]:
    """Where the members of an archive may be kept: beside it, or in the user's cache folder."""
    path = Path(shard).absolute()
    yield path.parent / FOLDER / "shards" / f"{path.name}.json"
    yield user_cache() / "shards" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _recall(shard: str, stamp: list[int]) -> Members | None:
    """What is kept of an archive; None if that is nothing, or of another state of it."""
    for place in _keeping_places(shard):
        try:
            kept: Any = json.loads(place.read_bytes())
            if kept["version"] == _VERSION and kept["stamp"] == stamp:
                return [_checked(member, length_of_file=stamp[0]) for member in kept["members"]]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # it is read again from the archive itself, and written anew
    return None


def _checked(member: list[Any], length_of_file: int) -> tuple[str, int, int]:
    name, offset, length = member
    if not (isinstance(name, str) and name and type(offset) is type(length) is int):
        raise TypeError
    if min(offset, length) < 0 or offset + length > length_of_file:
        raise ValueError
    return name, offset, length


def _remember(shard: str, stamp: list[int], members: Members) -> None:
    content = json.dumps({"version": _VERSION, "stamp": stamp, "members": members}, separators=(",", ":"))
    for place in _keeping_places(shard):
        try:
            write_atomically(place, content.encode())
        except UserError as error:
            log.info("%s: %s", shard, error)  # costs time at the next start, nothing else
        else:
            return
