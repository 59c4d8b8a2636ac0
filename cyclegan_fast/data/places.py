"""Where the pictures of a domain are: folders, lists of files, tar shards; one after the other, in the order given.

A place is

- a folder: its picture files and those of the folders below it, sorted by path;
- a list, ending in .txt: one file a line, relative to the list's own folder; blank lines and # comments are skipped.
  The list is the user's own word: its files may be anywhere;
- tar shards, ending in .tar, as WebDataset lays them out: their picture members in the order of the archive. A pattern
  may stand for several: ``shards/a-{000000..000009}.tar``, ``shards/a-*.tar``. Nothing is unpacked: a picture is read
  where it lies, so that a shard must not be compressed.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.folder import SUFFIXES, index_folder, index_pair
from cyclegan_fast.data.sources import Source
from cyclegan_fast.errors import UserError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMED = 3  # files that a sentence names before it counts


class Place(NamedTuple):
    """The training pictures of a domain."""

    pictures: list[Source]
    home: Path
    """The folder that keeps what is known of them: the index and the quarantine list."""


def training_pictures(data: DataConfig) -> tuple[Place, Place]:
    """Finds the training pictures of A and of B, in the order of ``data.direction``.

    With ``data.paired`` the n-th of A and the n-th of B are a pair.

    Raises:
        UserError: No place is named, or two ways of naming them; a place that is missing, empty or refused; both
            domains are the same; pictures without a partner.
    """
    if (data.data_A is None) != (data.data_B is None):
        raise UserError("--data-A and --data-B go together: name the pictures of both domains")
    if data.data is not None and data.data_A is not None:
        raise UserError(
            "--data names both domains at once, --data-A and --data-B each by itself: give one or the other"
        )
    if data.data_A is not None and data.data_B is not None:
        pair = _named(data.data_A, data.data_B, data.paired)
    elif data.data is None:
        raise UserError("--data is missing: name the folder that holds trainA and trainB")
    elif data.paired and (data.data / "train").is_dir():
        whole = [Source(str(path)) for path in index_folder(data.data / "train")]
        halves = ([replace(source, half=half) for source in whole] for half in ("left", "right"))
        pair = Place(next(halves), data.data), Place(next(halves), data.data)
    else:
        pair = _in_folder(data.data, data.paired)
    return pair if data.direction == "AtoB" else (pair[1], pair[0])


def _named(places_A: Sequence[str], places_B: Sequence[str], paired: bool) -> tuple[Place, Place]:
    """What --data-A and --data-B name."""
    a, b = find_pictures(places_A), find_pictures(places_B)
    if set(a) == set(b):
        raise UserError("--data-A and --data-B name the same pictures; each domain needs its own")
    if paired:
        a, b = _partners(a, b, lambda source: PurePosixPath(source.member or Path(source.path).name).stem)
    first, second = Path(places_A[0]), Path(places_B[0])
    return Place(a, first if first.is_dir() else first.parent), Place(b, second if second.is_dir() else second.parent)


def _in_folder(root: Path, paired: bool) -> tuple[Place, Place]:
    """What trainA and trainB hold."""
    a, b = ([Source(str(path)) for path in paths] for paths in index_pair(root, "train"))
    if paired:
        a, b = _partners(a, b, lambda source: str(Path(*Path(source.path).relative_to(root).parts[1:]).with_suffix("")))
    return Place(a, root), Place(b, root)


def find_pictures(places: Sequence[str]) -> list[Source]:
    """Lists the pictures of every place; see the head of this file for what a place is.

    Raises:
        UserError: a place is missing, of no known kind, or holds no picture; an archive that is compressed, damaged, or
            has members that are refused.
    """
    found: list[Source] = []
    for place in places:
        suffix = Path(place).suffix.lower()
        if Path(place).is_dir():
            found += [Source(str(path)) for path in index_folder(Path(place))]
        elif suffix == ".txt":
            found += _listed(Path(place))
        elif suffix == ".tar":
            for shard in _shards(place):
                found += _members(shard)
        elif place.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
            raise UserError(_compressed(place))
        else:
            missing = "is not there" if not Path(place).exists() else "is none of them"
            raise UserError(f"{place}: {missing}; name a folder, a list ending in .txt, or shards ending in .tar")
    return found


def _listed(file: Path) -> list[Source]:
    """The files that a list names."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no text in UTF-8; a list has one picture file a line") from error
    except OSError as error:
        raise UserError(f"{file}: this list cannot be read ({error.strerror})") from error
    paths = [file.parent / line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(f"{file}: names no picture; put one file a line, relative to {file.parent}")
    if absent := [str(path) for path in paths if not path.is_file()]:
        raise UserError(f"{file}: names what is not there: {_some(absent)}; paths are relative to {file.parent}")
    return [Source(str(path)) for path in paths]


def _shards(pattern: str) -> list[str]:
    """The files that a pattern with {000..009}, * or ? stands for, in order."""
    if bounds := _RANGE.search(pattern):
        first, last = bounds[1], bounds[2]
        if int(last) < int(first):
            raise UserError(f"{pattern}: the range {bounds[0]} is empty")
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [s for n in numbers for s in _shards(pattern[: bounds.start()] + n + pattern[bounds.end() :])]
    if Path(pattern).exists():
        return [pattern]
    path = Path(pattern)
    if not (found := sorted(path.parent.glob(path.name))):
        raise UserError(f"{pattern}: there is no such shard")
    return [str(shard) for shard in found]


def _members(shard: str) -> list[Source]:
    """The pictures of an archive, by their headers alone."""
    found = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                _refuse_tricks(shard, member)
                if member.isreg() and PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                    found.append(Source(shard, member.name, member.offset_data, member.size))
            end = archive.offset
        with Path(shard).open("rb") as file:  # a block of zeros follows the last member, unless the file was cut off
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends too early")
    except tarfile.ReadError as error:
        with Path(shard).open("rb") as file:
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))
        raise UserError(_compressed(shard) if packed else f"{shard}: this archive is damaged ({error})") from error
    except OSError as error:
        raise UserError(f"{shard}: this archive cannot be read ({error.strerror or error})") from error
    if not found:
        raise UserError(f"{shard}: holds no picture; members ending in {', '.join(sorted(SUFFIXES))} count")
    return found


def _refuse_tricks(shard: str, member: tarfile.TarInfo) -> None:
    """An archive may name nothing outside itself, and must hold its pictures as plain bytes."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{shard}: the member {member.name} leads out of the archive; make the shard anew without it")
    if member.issym() or member.islnk() or member.isdev():
        raise UserError(
            f"{shard}: the member {member.name} is a link or a device; make the shard anew with files alone"
        )
    if member.issparse():
        raise UserError(f"{shard}: the member {member.name} is stored with holes; make the shard anew without --sparse")


def _compressed(place: str) -> str:
    return f"{place}: a compressed archive cannot be read picture by picture; unpack it to a .tar first (gunzip, say)"


def _partners(
    first: list[Source], second: list[Source], key_of: Callable[[Source], str]
) -> tuple[list[Source], list[Source]]:
    """The pairs of two lists: those with the same name, its ending apart, in the order of the first.

    Raises:
        UserError: a picture without a partner, or a name that comes twice.
    """
    keyed: list[dict[str, Source]] = []
    for sources in (first, second):
        names = {key_of(source): source for source in sources}
        if len(names) < len(sources):
            twice = [str(source) for source in sources if names[key_of(source)] is not source]
            raise UserError(f"--paired: names must differ within a domain, and these come again: {_some(twice)}")
        keyed.append(names)
    lonely = [str(s) for mine, theirs in (keyed, keyed[::-1]) for key, s in mine.items() if key not in theirs]
    if lonely:
        raise UserError(f"--paired: these have no partner of the same name in the other domain: {_some(lonely)}")
    return first, [keyed[1][key_of(source)] for source in first]


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
