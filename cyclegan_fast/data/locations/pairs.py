"""Pairs of images by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from cyclegan_fast.data.locations.locations import first_few
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile


def match_names(
    first: Sequence[ImageFile], second: Sequence[ImageFile]
) -> tuple[list[tuple[ImageFile, ImageFile]], list[ImageFile]]:
    """Matches the images of two lists that have the same name, its suffix apart.

    Where names alone come twice within a list, as many folders above them count as it takes to distinguish all.

    Returns:
        The pairs, in the order of the first list; and the images without a partner.

    Raises:
        UserError: An image comes twice.
    """
    for depth in range(1, 1 + max(len(PurePath(_path_of(file)).parts) for file in [*first, *second])):
        by_key_A, by_key_B = ({_key(file, depth): file for file in files} for files in (first, second))
        if len(by_key_A) == len(first) and len(by_key_B) == len(second):
            break
    else:
        by_key, files = (by_key_A, first) if len(by_key_A) < len(first) else (by_key_B, second)
        twice = [str(file) for file in files if by_key[_key(file, depth)] is not file]
        raise UserError(f"--paired: names must differ within a domain, and these come again: {first_few(twice)}")
    unpaired = [file for key, file in by_key_A.items() if key not in by_key_B]
    unpaired += [file for key, file in by_key_B.items() if key not in by_key_A]
    return [(file, by_key_B[key]) for key, file in by_key_A.items() if key in by_key_B], unpaired


def partners(first: list[ImageFile], second: list[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Returns both lists, the second in the order of the first.

    Raises:
        UserError: An image without a partner, or an image that comes twice.
    """
    pairs, unpaired = match_names(first, second)
    if unpaired:
        names = first_few([str(file) for file in unpaired])
        raise UserError(f"--paired: these have no partner of the same name in the other domain: {names}")
    return [a for a, _ in pairs], [b for _, b in pairs]


def _path_of(file: ImageFile) -> str:
    return file.member or file.path


def _key(file: ImageFile, depth: int) -> str:
    """The last `depth` parts of a name, without its suffix."""
    parts = PurePath(_path_of(file)).parts[-depth:]
    return "/".join((*parts[:-1], PurePath(parts[-1]).stem))
