"""The training images of both domains, by the settings of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.locations.folders import domain_folder, list_domains, list_folder, readable
from cyclegan_fast.data.locations.locations import catalog_folder_of, find_images
from cyclegan_fast.data.locations.pairs import partners
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile


class DomainFiles(NamedTuple):
    """The image files of one domain."""

    files: list[ImageFile]
    catalog_folder: Path
    """The folder that keeps their manifest and the quarantine list."""


def locate(data: DataConfig) -> tuple[DomainFiles, DomainFiles]:
    """Finds the training images of A and of B, in the order of ``data.direction``.

    With ``data.paired`` the n-th of A and the n-th of B are a pair.

    Raises:
        UserError: No location is named, or two ways of naming them; a location that is missing, empty or refused; both
            domains are the same; images without a partner.
    """
    refuse_unclear_locations(data)
    if data.data_A is not None and data.data_B is not None:
        pair = _at_locations(data.data_A, data.data_B, data.paired)
    else:
        assert data.data is not None
        with readable(data.data):
            side_by_side = data.paired and (data.data / "train").is_dir()
            pair = _halves_in_folder(data.data) if side_by_side else _in_folder(data.data, data.paired)
    return pair if data.direction == "AtoB" else (pair[1], pair[0])


def refuse_unclear_locations(data: DataConfig) -> None:
    """Refuses settings that do not say where the images are.

    Raises:
        UserError: No location is named, one for one domain only, or two ways of naming them; or so of the test images.
    """
    if (data.data_A is None) != (data.data_B is None):
        raise UserError("--data-A and --data-B go together: name the images of both domains")
    if data.data is not None and data.data_A is not None:
        raise UserError(
            "--data names both domains at once, --data-A and --data-B each by itself: give one or the other"
        )
    if data.data_A is None and (data.test_A is not None or data.test_B is not None):
        raise UserError(
            "--test-A and --test-B go with --data-A and --data-B; the test images of --data are those in its testA and "
            "testB"
        )
    if data.data is None and data.data_A is None:
        raise UserError("--data is missing: name the folder that holds trainA and trainB")
    if (data.test_A is None) != (data.test_B is None):
        raise UserError("--test-A and --test-B go together: name the test images of both domains")
    if data.test_A is not None and data.test_A == data.test_B:
        raise UserError("--test-A and --test-B name the same images; each domain needs its own")


def refuse_missing_locations(data: DataConfig) -> None:
    """Refuses settings whose images are not where they say; cheap, as no image is looked at and no folder listed.

    Raises:
        UserError: No location is named, or two ways of naming them; a folder or a list is missing.
    """
    refuse_unclear_locations(data)
    if data.data is not None:
        with readable(data.data):
            if data.paired:
                _refuse_no_pairs(data.data)
            else:
                for name in ("trainA", "trainB"):
                    domain_folder(data.data, name)
    located = (data.data_A, data.data_B, data.test_A, data.test_B)
    for location in (location for side in located for location in side or ()):
        if not location.lower().endswith(".tar") and not Path(location).exists():  # of shards it may be a pattern
            find_images([location])  # raises, and says which kinds there are


def _at_locations(
    locations_A: Sequence[str], locations_B: Sequence[str], paired: bool
) -> tuple[DomainFiles, DomainFiles]:
    """What --data-A and --data-B name."""
    real_A, real_B = ({os.path.realpath(location) for location in side} for side in (locations_A, locations_B))
    a, b = find_images(locations_A), find_images(locations_B)
    if real_A == real_B or set(a) == set(b):
        raise UserError("--data-A and --data-B name the same images; each domain needs its own")
    if paired:
        a, b = partners(a, b)
    return (
        DomainFiles(a, catalog_folder_of(locations_A[0], a[0])),
        DomainFiles(b, catalog_folder_of(locations_B[0], b[0])),
    )


def _halves_in_folder(root: Path) -> tuple[DomainFiles, DomainFiles]:
    """What the images of the folder train show on their left and on their right."""
    whole = [ImageFile(str(path)) for path in list_folder(root / "train")]
    left, right = ([replace(file, half=half) for file in whole] for half in ("left", "right"))
    return DomainFiles(left, root), DomainFiles(right, root)


def _in_folder(root: Path, paired: bool) -> tuple[DomainFiles, DomainFiles]:
    """What trainA and trainB hold."""
    if paired:
        _refuse_no_pairs(root)
    a, b = ([ImageFile(str(path)) for path in paths] for paths in list_domains(root, "train"))
    if paired:
        a, b = partners(a, b)
    return DomainFiles(a, root), DomainFiles(b, root)


def _refuse_no_pairs(root: Path) -> None:
    """Refuses a folder that is not laid out as pairs are; whether all images have a partner is seen later.

    Raises:
        UserError: It is not.
    """
    if root.is_dir() and not any((root / name).is_dir() for name in ("train", "trainA", "trainB")):
        raise UserError(
            f"{root}: holds no pairs; --paired takes a folder train, with A and B side by side in each image, or "
            f"trainA and trainB with files of the same names; so does --model pix2pix"
        )
