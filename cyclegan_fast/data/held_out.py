"""The images by which a run shows what it has learned: a few that it does not train on, the same at every step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.quarantine import exclude
from cyclegan_fast.data.loaders.samples import Domain
from cyclegan_fast.data.locations.folders import list_folder, readable
from cyclegan_fast.data.locations.locations import catalog_folder_of, find_images
from cyclegan_fast.data.locations.pairs import partners
from cyclegan_fast.data.rng import draw_shown
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError, PixelFormat, read
from cyclegan_fast.images.image_file import ImageFile

log = logging.getLogger(__name__)

MAX_SIDE = 1024  # pixels; of larger images without a crop of their own the middle is shown
_MAX_BAD = 16  # images of a domain that are left out before its search ends
_CENTRE = transforms.Augmentation(x=0.5, y=0.5, mirror=False)


class HeldOutImage(NamedTuple):
    """One image as the networks' input, before its values are scaled."""

    name: str
    """Its folder and file, or its place in an archive; for people."""
    pixels: np.ndarray
    """[H, W, C] as `decode.read` gives them."""
    source: str = ""
    """The whole path of the file, and which half of it, as `ImageFile` is printed."""


def read_held_out(
    config: DataConfig, domains: Sequence[Domain], *, count: int = 4, min_size: int = transforms.MIN_SIDE
) -> tuple[list[HeldOutImage], list[HeldOutImage]]:
    """Reads up to `count` images of A and of B, as the networks name the domains.

    They are a random sample, the same for every run on this data, of those that `list_test_files` finds: testA and
    testB below ``config.data`` (test or val, where A and B are side by side) or those at ``config.test_A`` and
    ``config.test_B``; and of the training images where there are none. They get the size of a
    training sample without its random part: the crop is in the middle, nothing is mirrored. An image that cannot be
    used is left out with a line in the log, and the next one takes its place. With ``config.paired`` the n-th of A and
    the n-th of B are a pair.

    Args:
        config: Where the images are, and their geometry.
        domains: The training images of A and of B, and their pixel formats.
        count: Images of each domain.
        min_size: The shortest side that the networks can take, in pixels.
    """
    if config.paired:
        return _read_held_out_pairs(config, domains, count, min_size)
    found, counts = [], []
    for side, domain, files in zip("AB", domains, list_test_files(config), strict=True):
        images = _read_some(files, domain, config, count, min_size)
        what = "test"
        if not images:
            images, what = _read_some(domain.files, domain, config, count, min_size), "training"
        found.append(images)
        counts.append(f"{len(images)} {what} image{'s' * (len(images) != 1)} of {side}")
    log.info("sample grids: %s", " and ".join(counts))
    return found[0], found[1]


def _read_held_out_pairs(
    config: DataConfig, domains: Sequence[Domain], count: int, min_size: int
) -> tuple[list[HeldOutImage], list[HeldOutImage]]:
    """Reads pairs of test images, or of training images where there are none."""
    groups, what = list[tuple[ImageFile, ImageFile]](), "test"
    try:
        groups = list_test_pairs(config)
    except UserError as error:
        log.warning("no test images in the sample grids: %s", error)
    pairs = read_groups(groups, domains, config, count, min_size, tries=count + _MAX_BAD)
    if not pairs:
        groups, what = list(zip(*(domain.files for domain in domains), strict=True)), "training"
        pairs = read_groups(groups, domains, config, count, min_size, tries=count + _MAX_BAD)
    log.info("sample grids: %d pair%s of %s images", len(pairs), "s" * (len(pairs) != 1), what)
    return [a for a, _ in pairs], [b for _, b in pairs]


def list_test_pairs(config: DataConfig) -> list[tuple[ImageFile, ImageFile]]:
    """Lists the test images of A with their partners of B; none where a domain has none.

    Raises:
        UserError: Some have no partner, or `list_test_files` raises.
    """
    a, b = _list_tests(config)
    if not (a.usable and b.usable):
        return []
    usable = {*a.usable, *b.usable}  # where one of a pair is quarantined, both are left out
    pairs = zip(*partners(a.files, b.files), strict=True)
    return [(one, other) for one, other in pairs if {one, other} <= usable]


def list_test_files(config: DataConfig) -> tuple[Sequence[ImageFile], Sequence[ImageFile]]:
    """Lists the test images of A and B, as the networks name the domains; empty where none are named.

    Raises:
        UserError: A location of ``config.test_A`` or ``config.test_B`` is missing, empty or refused.
    """
    a, b = _list_tests(config)
    return a.usable, b.usable


class _Tests(NamedTuple):
    """The test images of a domain."""

    files: list[ImageFile]
    usable: list[ImageFile]
    """Those that no quarantine list names."""

    @classmethod
    def of(cls, files: list[ImageFile], folder: Path) -> _Tests:
        """Those of files that the quarantine list of `folder` leaves."""
        return cls(files, [file for file in exclude(files, folder) if file is not None])

    def half(self, half: Literal["left", "right"]) -> _Tests:
        """Those on one half of images that show A and B side by side."""
        return _Tests(*([replace(file, half=half) for file in files] for files in self))


def _list_tests(config: DataConfig) -> tuple[_Tests, _Tests]:
    """The test images of A and B, as the networks name the domains."""
    if config.test_A is not None and config.test_B is not None:
        pair = _files_at(config.test_A), _files_at(config.test_B)
    elif config.data is not None:
        pair = _files_below(config.data, config.paired)
    else:
        pair = _Tests([], []), _Tests([], [])
    return pair if config.direction == "AtoB" else (pair[1], pair[0])


def name_of_tests(config: DataConfig) -> str:
    """Returns where the test images are, for people; empty where none are named."""
    return str(config.data or " ".join((*(config.test_A or ()), *(config.test_B or ()))))


def _files_at(locations: Sequence[str]) -> _Tests:
    files = find_images(locations)
    return _Tests.of(list(files), catalog_folder_of(locations[0], files[0]))


def _files_below(root: Path, paired: bool) -> tuple[_Tests, _Tests]:
    if paired and (root / "train").is_dir():
        found = (_files_in(root, name) for name in ("test", "val"))
        whole = next((tests for tests in found if tests.usable), _Tests([], []))
        return whole.half("left"), whole.half("right")
    return _files_in(root, "testA"), _files_in(root, "testB")


def _files_in(root: Path, name: str) -> _Tests:
    if not (root / name).is_dir():
        return _Tests([], [])
    try:
        with readable(root / name):
            return _Tests.of([ImageFile(str(path)) for path in list_folder(root / name)], root)
    except UserError as error:
        log.info("%s; %s is passed over", error, name)
        return _Tests([], [])


def _read_some(
    files: Sequence[ImageFile], domain: Domain, config: DataConfig, count: int, min_size: int
) -> list[HeldOutImage]:
    groups = [(file,) for file in files]
    return [image for (image,) in read_groups(groups, [domain], config, count, min_size, tries=count + _MAX_BAD)]


def read_groups(
    groups: Sequence[tuple[ImageFile, ...]],
    domains: Sequence[Domain],
    config: DataConfig,
    count: int,
    min_size: int,
    *,
    tries: int,
    message: str = "%s; left out of the sample grids",
) -> list[tuple[HeldOutImage, ...]]:
    """Reads up to `count` groups out of `tries` that are drawn: single images of one domain, or pairs of both.

    What cannot be used is left out with the `message` in the log.
    """
    read: list[tuple[HeldOutImage, ...]] = []
    for i in draw_shown(len(groups), tries):
        if len(read) == count:
            break
        try:
            read.append(
                tuple(
                    HeldOutImage(short_name(file), read_sized(file, domain.pixel_format, config, min_size), str(file))
                    for file, domain in zip(groups[i], domains, strict=True)
                )
            )
        except BadImageError as error:
            log.info(message, error)
    return read


def read_sized(file: ImageFile, pixel_format: PixelFormat, config: DataConfig, min_size: int) -> np.ndarray:
    """Reads an image as a training sample without its random part, [H, W, C].

    Raises:
        BadImageError: It cannot be used.
    """
    pixels = read(file, pixel_format)
    height, width, _ = pixels.shape
    resized = transforms.resized_size((width, height), config)
    cropped = transforms.cropped_size(resized, config)
    if min(cropped) < min_size or cropped[0] > resized[0] or cropped[1] > resized[1]:
        raise BadImageError(file, f"{width}x{height} pixels are too few for these settings")
    pixels = transforms.crop(transforms.resize(pixels, config), config, _CENTRE)
    return pixels if config.preprocess.endswith("crop") else _middle(pixels)


def _middle(pixels: np.ndarray) -> np.ndarray:
    """Cuts the middle of `MAX_SIDE` pixels at most out of [H, W, C]."""
    top, left = (max(0, side - MAX_SIDE) // 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + MAX_SIDE, left : left + MAX_SIDE])


def short_name(file: ImageFile) -> str:
    """Returns the file and its folder, or its name within an archive."""
    return file.member or "/".join(Path(file.path).parts[-2:])
