"""Where the pictures of a domain are: folders, lists of files, tar shards; one after the other, in the order given.

A place is

- a folder: its picture files and those of the folders below it, sorted by path;
- a list, ending in .txt: one file a line, relative to the list's own folder; blank lines and # comments are skipped.
  The list is the user's own word: its files may be anywhere;
- tar shards, ending in .tar, as WebDataset lays them out: their picture members in the order of the archive. A pattern
  may stand for several: ``shards/a-{000000..000009}.tar``, ``shards/a-*.tar`` (see `shards`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.folder import index_folder, index_pair
from cyclegan_fast.data.shards import COMPRESSED, compressed_archive, find_shards, pictures_of
from cyclegan_fast.data.sources import Source
from cyclegan_fast.errors import UserError

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
    refuse_unclear_places(data)
    if data.data_A is not None and data.data_B is not None:
        pair = _named(data.data_A, data.data_B, data.paired)
    elif data.data is not None and data.paired and (data.data / "train").is_dir():
        whole = [Source(str(path)) for path in index_folder(data.data / "train")]
        halves = ([replace(source, half=half) for source in whole] for half in ("left", "right"))
        pair = Place(next(halves), data.data), Place(next(halves), data.data)
    else:
        assert data.data is not None
        pair = _in_folder(data.data, data.paired)
    return pair if data.direction == "AtoB" else (pair[1], pair[0])


def refuse_unclear_places(data: DataConfig) -> None:
    """Refuses settings that do not say where the pictures are.

    Raises:
        UserError: No place is named, one for one domain only, or two ways of naming them.
    """
    if (data.data_A is None) != (data.data_B is None):
        raise UserError("--data-A and --data-B go together: name the pictures of both domains")
    if data.data is not None and data.data_A is not None:
        raise UserError(
            "--data names both domains at once, --data-A and --data-B each by itself: give one or the other"
        )
    if data.data is None and data.data_A is None:
        raise UserError("--data is missing: name the folder that holds trainA and trainB")


def _named(places_A: Sequence[str], places_B: Sequence[str], paired: bool) -> tuple[Place, Place]:
    """What --data-A and --data-B name."""
    same_places = {os.path.realpath(place) for place in places_A} == {os.path.realpath(place) for place in places_B}
    a, b = find_pictures(places_A), find_pictures(places_B)
    if same_places or set(a) == set(b):
        raise UserError("--data-A and --data-B name the same pictures; each domain needs its own")
    if paired:
        a, b = _partners(a, b)
    return Place(a, home_of(places_A[0], a[0])), Place(b, home_of(places_B[0], b[0]))


def home_of(place: str, picture: Source) -> Path:
    """The folder that keeps what is known of a domain, by its first place and first picture.

    The picture tells which folder a pattern has led to.
    """
    if Path(place).is_dir():
        return Path(place)
    return Path(picture.path if picture.member else place).parent


def _in_folder(root: Path, paired: bool) -> tuple[Place, Place]:
    """What trainA and trainB hold."""
    if paired and not any((root / name).is_dir() for name in ("trainA", "trainB")):
        raise UserError(
            f"{root}: holds no pairs; --paired takes a folder train, with A and B side by side in each picture, or "
            f"trainA and trainB with files of the same names"
        )
    a, b = ([Source(str(path)) for path in paths] for paths in index_pair(root, "train"))
    if paired:
        a, b = _partners(a, b)
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
            for shard in find_shards(place):
                found += pictures_of(shard)
        elif place.lower().endswith(COMPRESSED):
            raise UserError(compressed_archive(place))
        else:
            missing = "is not there" if not Path(place).exists() else "is none of them"
            raise UserError(f"{place}: {missing}; name a folder, a list ending in .txt, or shards ending in .tar")
    return found


def _listed(file: Path) -> list[Source]:
    """The files that a list names."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
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


def match_names(first: Sequence[Source], second: Sequence[Source]) -> tuple[list[tuple[Source, Source]], list[Source]]:
    """Matches the pictures of two lists that have the same name, its ending apart.

    Where names alone come twice within a list, as many folders above them count as it takes to tell all apart.

    Returns:
        The pairs, in the order of the first list; and the pictures without a partner.

    Raises:
        UserError: A picture comes twice.
    """
    for depth in range(1, 1 + max(len(PurePath(_path_of(source)).parts) for source in [*first, *second])):
        mine, theirs = ({_key(source, depth): source for source in sources} for sources in (first, second))
        if len(mine) == len(first) and len(theirs) == len(second):
            break
    else:
        names, sources = (mine, first) if len(mine) < len(first) else (theirs, second)
        twice = [str(source) for source in sources if names[_key(source, depth)] is not source]
        raise UserError(f"--paired: names must differ within a domain, and these come again: {_some(twice)}")
    lonely = [s for one, other in ((mine, theirs), (theirs, mine)) for key, s in one.items() if key not in other]
    return [(source, theirs[key]) for key, source in mine.items() if key in theirs], lonely


def _partners(first: list[Source], second: list[Source]) -> tuple[list[Source], list[Source]]:
    """Both lists, the second in the order of the first.

    Raises:
        UserError: a picture without a partner, or a picture that comes twice.
    """
    pairs, lonely = match_names(first, second)
    if lonely:
        names = _some([str(source) for source in lonely])
        raise UserError(f"--paired: these have no partner of the same name in the other domain: {names}")
    return [a for a, _ in pairs], [b for _, b in pairs]


def _path_of(source: Source) -> str:
    return source.member or source.path


def _key(source: Source, depth: int) -> str:
    """The last `depth` parts of a name, without its ending."""
    parts = PurePath(_path_of(source)).parts[-depth:]
    return "/".join((*parts[:-1], PurePath(parts[-1]).stem))


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
