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

    Names that all state their domain, as those of CycleGAN's sets of pairs do, match without it: 1_A.jpg and 1_B.jpg.
    Where names alone come twice within a list, as many folders above them count as it takes to distinguish all.

    Returns:
        The pairs, in the order of the first list; and the images without a partner.

    Raises:
        UserError: An image comes twice.
    """
    end_A, end_B = _domain_ends(first, second)
    for depth in range(1, 1 + max(len(PurePath(_path_of(file)).parts) for file in [*first, *second])):
        by_key_A = {_key(file, depth, end_A): file for file in first}
        by_key_B = {_key(file, depth, end_B): file for file in second}
        if len(by_key_A) == len(first) and len(by_key_B) == len(second):
            break
    else:
        whole_A = len(by_key_A) == len(first)
        by_key, files, end = (by_key_B, second, end_B) if whole_A else (by_key_A, first, end_A)
        twice = [str(file) for file in files if by_key[_key(file, depth, end)] is not file]
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


def _domain_ends(first: Sequence[ImageFile], second: Sequence[ImageFile]) -> tuple[str, str]:
    """What the names of each list end in where all state their domain, in either order; else nothing."""
    stems = [[PurePath(_path_of(file)).stem for file in files] for files in (first, second)]
    for ends in (("_A", "_B"), ("_B", "_A")):
        if all(stem.endswith(end) for side, end in zip(stems, ends, strict=True) for stem in side):
            return ends
    return "", ""


def _key(file: ImageFile, depth: int, end: str) -> str:
    """The last `depth` parts of a name, without its suffix and the `end` that states its domain."""
    parts = PurePath(_path_of(file)).parts[-depth:]
    return "/".join((*parts[:-1], PurePath(parts[-1]).stem.removesuffix(end)))
