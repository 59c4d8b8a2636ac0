"""Locations, which name the images of a domain: folders, lists of files, tar shards; one after the other, in order.

A location is

- a folder: its image files and those of the folders below it, sorted by path;
- a list, ending in .txt: one file a line, relative to the list's own folder; blank lines and # comments are skipped.
  Its files may be anywhere, except among the images that a training run has written;
- tar shards, ending in .tar, as WebDataset lays them out: their image members in the order of the archive. A pattern
  may stand for several: ``shards/a-{000000..000009}.tar``, ``shards/a-*.tar`` (see `shards`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cyclegan_fast.data.locations.folders import SAMPLES, find_runs, list_folder, readable
from cyclegan_fast.data.locations.shards import COMPRESSED, compressed_archive, find_shards, read_shard
from cyclegan_fast.documents import DocumentError, read_limited
from cyclegan_fast.errors import MissingFileError, UserError, reading_error
from cyclegan_fast.images.find import warn_of_others
from cyclegan_fast.images.image_file import ImageFile

log = logging.getLogger(__name__)

_MAX_LIST_BYTES = 2**28
_MAX_NAMED = 3  # files that a message names before it counts


def find_images(locations: Sequence[str]) -> list[ImageFile]:
    """Lists the images of every location; see the head of this file for what a location is.

    Raises:
        UserError: A location is missing, of no known kind, or holds no image; an archive that is compressed, damaged,
            or has members that are refused.
    """
    found: list[ImageFile] = []
    for location in locations:
        with readable(location):
            found += _images_at(location)
    return found


def catalog_folder_of(location: str, image: ImageFile) -> Path:
    """Returns the folder that keeps the manifest and the quarantine list of a domain.

    Args:
        location: The first location of the domain.
        image: Its first image, by which the folder is known that a pattern leads to.
    """
    if Path(location).is_dir():
        return Path(location)
    return Path(image.path if image.member else location).parent


def first_few(names: Sequence[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _images_at(location: str) -> list[ImageFile]:
    path = Path(location)
    if path.is_dir():
        return [ImageFile(str(file)) for file in list_folder(path)]
    if path.suffix.lower() == ".txt":
        return [ImageFile(str(file)) for file in _read_list(path)]
    if path.suffix.lower() == ".tar":
        shards = [read_shard(shard) for shard in find_shards(location)]
        warn_of_others(location, sum((others for _, others in shards), Counter()))
        return [image for images, _ in shards for image in images]
    if location.lower().endswith(COMPRESSED):
        raise UserError(compressed_archive(location))
    kind, missing = (UserError, "is none of them") if path.exists() else (MissingFileError, "is not there")
    raise kind(f"{location}: {missing}; name a folder, a list ending in .txt, or shards ending in .tar")


def _read_list(file: Path) -> list[Path]:
    """Returns the files that a list names."""
    try:
        text = read_limited(file, _MAX_LIST_BYTES).decode("utf-8-sig")
        lines = [line.strip() for line in text.splitlines()]
    except DocumentError as error:
        raise UserError(f"{file}: this list cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no text in UTF-8; a list has one image file a line") from error
    except OSError as error:
        raise reading_error(f"{file}: this list cannot be read ({error.strerror})", error) from error
    paths = [file.parent / line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(f"{file}: names no image; put one file a line, relative to {file.parent}")
    if absent := [str(path) for path in paths if not path.is_file()]:
        raise MissingFileError(
            f"{file}: names what is not there: {first_few(absent)}; paths are relative to {file.parent}"
        )
    written = {run / SAMPLES for run in find_runs(paths)}
    kept = [path for path in paths if not written.intersection(path.parents)]
    if not kept:
        raise UserError(f"{file}: names nothing but sample grids of a training run; name images")
    if dropped := len(paths) - len(kept):
        log.warning("%s: %d sample grid%s of a training run left out", file, dropped, "s" * (dropped > 1))
    return kept
