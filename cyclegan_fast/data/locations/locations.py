"""Where the images of a domain are: folders, lists of files, tar shards; one after the other, in the order given.

A location is

- a folder: its image files and those of the folders below it, sorted by path;
- a list, ending in .txt: one file a line, relative to the list's own folder; blank lines and # comments are skipped.
  The list is the user's own word: its files may be anywhere;
- tar shards, ending in .tar, as WebDataset lays them out: their image members in the order of the archive. A pattern
  may stand for several: ``shards/a-{000000..000009}.tar``, ``shards/a-*.tar`` (see `shards`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.locations.folders import list_domains
from cyclegan_fast.data.locations.shards import COMPRESSED, compressed_archive, find_shards, images_of
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.find import list_images
from cyclegan_fast.images.image_file import ImageFile

_NAMED = 3  # files that a sentence names before it counts


class Location(NamedTuple):
    """The training images of a domain."""

    images: list[ImageFile]
    home: Path
    """The folder that keeps what is known of them: the index and the quarantine list."""


def training_images(data: DataConfig) -> tuple[Location, Location]:
    """Finds the training images of A and of B, in the order of ``data.direction``.

    With ``data.paired`` the n-th of A and the n-th of B are a pair.

    Raises:
        UserError: No location is named, or two ways of naming them; a location that is missing, empty or refused; both
            domains are the same; images without a partner.
    """
    refuse_unclear_locations(data)
    if data.data_A is not None and data.data_B is not None:
        pair = _named(data.data_A, data.data_B, data.paired)
    elif data.data is not None and data.paired and (data.data / "train").is_dir():
        whole = [ImageFile(str(path)) for path in list_images(data.data / "train")]
        halves = ([replace(source, half=half) for source in whole] for half in ("left", "right"))
        pair = Location(next(halves), data.data), Location(next(halves), data.data)
    else:
        assert data.data is not None
        pair = _in_folder(data.data, data.paired)
    return pair if data.direction == "AtoB" else (pair[1], pair[0])


def refuse_unclear_locations(data: DataConfig) -> None:
    """Refuses settings that do not say where the images are.

    Raises:
        UserError: No location is named, one for one domain only, or two ways of naming them.
    """
    if (data.data_A is None) != (data.data_B is None):
        raise UserError("--data-A and --data-B go together: name the images of both domains")
    if data.data is not None and data.data_A is not None:
        raise UserError(
            "--data names both domains at once, --data-A and --data-B each by itself: give one or the other"
        )
    if data.data is None and data.data_A is None:
        raise UserError("--data is missing: name the folder that holds trainA and trainB")


def _named(locations_A: Sequence[str], locations_B: Sequence[str], paired: bool) -> tuple[Location, Location]:
    """What --data-A and --data-B name."""
    same_locations = {os.path.realpath(location) for location in locations_A} == {
        os.path.realpath(location) for location in locations_B
    }
    a, b = find_images(locations_A), find_images(locations_B)
    if same_locations or set(a) == set(b):
        raise UserError("--data-A and --data-B name the same images; each domain needs its own")
    if paired:
        a, b = _partners(a, b)
    return Location(a, home_of(locations_A[0], a[0])), Location(b, home_of(locations_B[0], b[0]))


def home_of(location: str, image: ImageFile) -> Path:
    """The folder that keeps what is known of a domain, by its first location and first image.

    The image tells which folder a pattern has led to.
    """
    if Path(location).is_dir():
        return Path(location)
    return Path(image.path if image.member else location).parent


def _in_folder(root: Path, paired: bool) -> tuple[Location, Location]:
    """What trainA and trainB hold."""
    if paired and not any((root / name).is_dir() for name in ("trainA", "trainB")):
        raise UserError(
            f"{root}: holds no pairs; --paired takes a folder train, with A and B side by side in each image, or "
            f"trainA and trainB with files of the same names"
        )
    a, b = ([ImageFile(str(path)) for path in paths] for paths in list_domains(root, "train"))
    if paired:
        a, b = _partners(a, b)
    return Location(a, root), Location(b, root)


def find_images(locations: Sequence[str]) -> list[ImageFile]:
    """Lists the images of every location; see the head of this file for what a location is.

    Raises:
        UserError: a location is missing, of no known kind, or holds no image; an archive that is compressed, damaged,
            or has members that are refused.
    """
    found: list[ImageFile] = []
    for location in locations:
        suffix = Path(location).suffix.lower()
        if Path(location).is_dir():
            found += [ImageFile(str(path)) for path in list_images(Path(location))]
        elif suffix == ".txt":
            found += _listed(Path(location))
        elif suffix == ".tar":
            for shard in find_shards(location):
                found += images_of(shard)
        elif location.lower().endswith(COMPRESSED):
            raise UserError(compressed_archive(location))
        else:
            missing = "is not there" if not Path(location).exists() else "is none of them"
            raise UserError(f"{location}: {missing}; name a folder, a list ending in .txt, or shards ending in .tar")
    return found


def _listed(file: Path) -> list[ImageFile]:
    """The files that a list names."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no text in UTF-8; a list has one image file a line") from error
    except OSError as error:
        raise UserError(f"{file}: this list cannot be read ({error.strerror})") from error
    paths = [file.parent / line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(f"{file}: names no image; put one file a line, relative to {file.parent}")
    if absent := [str(path) for path in paths if not path.is_file()]:
        raise UserError(f"{file}: names what is not there: {_some(absent)}; paths are relative to {file.parent}")
    return [ImageFile(str(path)) for path in paths]


def match_names(
    first: Sequence[ImageFile], second: Sequence[ImageFile]
) -> tuple[list[tuple[ImageFile, ImageFile]], list[ImageFile]]:
    """Matches the images of two lists that have the same name, its ending apart.

    Where names alone come twice within a list, as many folders above them count as it takes to tell all apart.

    Returns:
        The pairs, in the order of the first list; and the images without a partner.

    Raises:
        UserError: An image comes twice.
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


def _partners(first: list[ImageFile], second: list[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Both lists, the second in the order of the first.

    Raises:
        UserError: an image without a partner, or an image that comes twice.
    """
    pairs, lonely = match_names(first, second)
    if lonely:
        names = _some([str(source) for source in lonely])
        raise UserError(f"--paired: these have no partner of the same name in the other domain: {names}")
    return [a for a, _ in pairs], [b for _, b in pairs]


def _path_of(source: ImageFile) -> str:
    return source.member or source.path


def _key(source: ImageFile, depth: int) -> str:
    """The last `depth` parts of a name, without its ending."""
    parts = PurePath(_path_of(source)).parts[-depth:]
    return "/".join((*parts[:-1], PurePath(parts[-1]).stem))


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
