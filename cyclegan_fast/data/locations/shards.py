"""Tar shards as WebDataset lays them out: which images they hold, and where in the file the bytes of each are.

Nothing is unpacked. The headers of an archive are read once; the members that they list are stored in one file beside
it, or in the user's cache folder where that cannot be written, and hold as long as the archive keeps its length and
time of change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cyclegan_fast.data.catalog.manifest import FOLDER
from cyclegan_fast.documents import read_json, shown
from cyclegan_fast.errors import MissingFileError, UserError, one_line, reading_error
from cyclegan_fast.files import user_cache, write_atomically
from cyclegan_fast.images.find import SUFFIXES, is_hidden_member, match_files, other_kind
from cyclegan_fast.images.image_file import ImageFile

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

log = logging.getLogger(__name__)

_MAX_BYTES = 2**30  # of what is stored of an archive
_STORED_FROM = 500  # members; the headers of fewer are read at once, and leave no trace in the user's folder
_VERSION = 2  # of what is stored, and of the rules by which members are refused
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_BRACES = re.compile(r"(?<!\[)\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")  # [{] stands for the brace itself


class Shard(NamedTuple):
    """What an archive holds."""

    members: list[tuple[str, int, int]]
    """Name, offset and length of each image, in the order of the archive."""
    others: Counter[str]
    """Members that are images of kinds that are not read: suffix -> how many."""


def find_shards(pattern: str) -> list[str]:
    """Returns the files that a pattern with {000..009}, {x,y}, *, ? or [...] stands for, in order.

    A file of just that name comes first; within a pattern [[], [{], [*] and [?] stand for the marks themselves.

    Raises:
        UserError: One of them is not there.
    """
    if Path(pattern).exists():
        return [pattern]
    if choices := _expand_first(pattern):
        return [shard for one in choices for shard in find_shards(one)]
    if not (found := [str(path) for path in match_files(pattern)]):
        raise MissingFileError(f"{pattern}: there is no such shard")
    return found


def expand_braces(pattern: str) -> list[str]:
    """Returns the names and patterns that one with {000..009} or {x,y} stands for, in order."""
    return [name for one in _expand_first(pattern) for name in expand_braces(one)] or [pattern]


def read_shard(shard: str) -> tuple[list[ImageFile], Counter[str]]:
    """Returns the images of an archive, in its order, and how many images it has of kinds that are not read.

    Raises:
        UserError: It is compressed, damaged or cut off, holds no image, or has a member that is refused.
    """
    try:
        status = os.stat(shard)  # noqa: PTH116
        stamp = [status.st_size, status.st_mtime_ns]
        found = _load(shard, stamp)
        if found is None:
            found, count = _read_headers(shard)
            if count >= _STORED_FROM:
                _store(shard, stamp, found)
    except UserError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:  # of numbers, and chains of headers
        with Path(shard).open("rb") as file:
            compressed = file.read(6).startswith(_MAGIC)
        raise UserError(
            compressed_archive(shard) if compressed else f"{shard}: this archive is damaged ({one_line(error)})"
        ) from error
    except OSError as error:
        raise reading_error(f"{shard}: this archive cannot be read ({error.strerror or error})", error) from error
    if not found.members:
        others = f" that is read, but {sum(found.others.values())} of other kinds" * bool(found.others)
        raise UserError(f"{shard}: holds no image{others}; members ending in {', '.join(sorted(SUFFIXES))} count")
    return [ImageFile(shard, *member) for member in found.members], found.others


def tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an open archive, in little memory; each must be read before the next.

    Raises:
        tarfile.TarError: It is damaged.
    """
    position = -1
    while (member := archive.next()) is not None:
        if archive.offset <= position or member.size < 0:  # of a negative size, by which it would be read for ever
            raise tarfile.ReadError("its members lie one in the other")
        position = archive.offset
        archive.members.clear()  # type: ignore[attr-defined]  # or it would keep a kilobyte of each
        yield member


def compressed_archive(location: str) -> str:
    """Returns the message about an archive that is compressed."""
    return f"{location}: a compressed archive cannot be read image by image; unpack it to a .tar first (gunzip, say)"


def _expand_first(pattern: str) -> list[str]:
    """Returns what the first braces of a pattern stand for; nothing where it has none."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return []
    return [pattern[: braces.start()] + middle + pattern[braces.end() :] for middle in _choices(pattern, braces)]


def _choices(pattern: str, braces: re.Match[str]) -> Iterator[str]:
    first, last, choices = braces.groups()
    if choices is not None:
        yield from choices.split(",")
        return
    if int(last) < int(first):
        raise UserError(f"{pattern}: the range {braces[0]} is empty")
    for number in range(int(first), int(last) + 1):
        yield f"{number:0{len(first)}d}"


def _read_headers(shard: str) -> tuple[Shard, int]:
    """Returns the images of an archive, and how many members it has."""
    found = Shard([], Counter())
    count = 0
    with tarfile.open(shard, "r:") as archive:
        for member in tar_members(archive):
            count += 1
            _refuse_unsafe(shard, member)
            if not member.isreg() or is_hidden_member(member.name):
                continue
            if PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                found.members.append((member.name, member.offset_data, member.size))
            elif suffix := other_kind(member.name):
                found.others[suffix] += 1
        end = archive.offset
    with Path(shard).open("rb") as file:  # a block of zeros follows the last member, unless the file was cut off
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends too early")
    return found, count


def _refuse_unsafe(shard: str, member: tarfile.TarInfo) -> None:
    """An archive may name nothing outside itself, and must hold its images as plain bytes."""
    name, shown_name = PurePosixPath(member.name), shown(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{shard}: the member {shown_name} leads out of the archive; make the shard anew without it")
    if member.issym() or member.islnk() or member.isdev():
        raise UserError(f"{shard}: the member {shown_name} is a link or a device; make the shard anew with files alone")
    if member.issparse():
        raise UserError(f"{shard}: the member {shown_name} is stored with holes; make the shard anew without --sparse")


def _stores(shard: str) -> Iterator[Path]:
    """Yields the files in which the members of an archive may be stored: beside it, and in the user's cache folder."""
    path = Path(shard).absolute()
    yield path.parent / FOLDER / "shards" / f"{path.name}.json"
    if (cache := user_cache()) is not None:
        yield cache / "shards" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _load(shard: str, stamp: list[int]) -> Shard | None:
    """Returns what is stored of an archive; None if that is nothing, or of another state of it."""
    for path in _stores(shard):
        try:
            stored: Any = read_json(path, _MAX_BYTES)
            if stored["version"] == _VERSION and stored["stamp"] == stamp:
                members = [_checked(member, length_of_file=stamp[0]) for member in stored["members"]]
                others = {str(suffix): int(count) for suffix, count in dict(stored["others"]).items()}
                return Shard(members, Counter(others))
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


def _store(shard: str, stamp: list[int], found: Shard) -> None:
    content = json.dumps({"version": _VERSION, "stamp": stamp, **found._asdict()}, separators=(",", ":"))
    for path in _stores(shard):
        try:
            write_atomically(path, content.encode())
        except UserError as error:
            log.info("%s: %s", shard, error)  # costs time at the next start, nothing else
        else:
            return
