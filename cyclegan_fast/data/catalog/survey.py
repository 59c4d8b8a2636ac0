"""What the training images of a set are like: sizes, channels, values, from as many files as can be read in a while."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cyclegan_fast.config import Depth
from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.data.catalog.pixel_formats import depth_of
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.monitoring.progress import Progress

_FIRST_CHUNK = 32  # files that are read before the first look at the clock; chunks grow while they are quick
_COLOURS = {1: 1, 2: 1, 3: 3, 4: 3}  # channels of an image -> of grey or RGB without transparency


@dataclass(frozen=True)
class DomainSurvey:
    """The images of one domain."""

    count: int
    """All of them, read or not."""
    sizes: np.ndarray
    """Upright width and height of those that were read, in pixels, int [N, 2]."""
    channels: frozenset[int]
    """The numbers of channels that occur; grey and RGB count without transparency."""
    are_images: bool = True
    """Whether the channels are grey or RGB, of which either can be made."""
    depth: Depth = "8"
    """What takes the values of all that were read."""
    low: float = 0.0
    """The lowest value in floating-point images."""
    high: float = 255.0
    """The highest."""
    unreadable: int = 0
    """Files that were read and cannot be used."""


def survey(
    files: Sequence[ImageFile],
    catalog_folder: Path | None,
    *,
    seconds: float,
    workers: int | None = None,
    side_by_side: bool = False,
    progress: Progress | None = None,
) -> DomainSurvey:
    """Reads files in random order (the same each time) until all are read or the time is up.

    What is read is stored in the manifest of the folder, so that neither a check nor a training reads it again.

    Args:
        files: The images of one domain.
        catalog_folder: The folder that keeps the manifest.
        seconds: The time after which no further chunk of files is read; at least one is.
        workers: Processes that read; by default as many as there are usable cores.
        side_by_side: Each image shows A on its left and B on its right half.
        progress: Takes how many have been read.
    """
    start, chunk = time.monotonic(), _FIRST_CHUNK
    manifest = Manifest(catalog_folder)
    order = random.Random(0).sample(files, len(files))
    found: list[ImageMetadata | BadImageError] = []
    try:
        while len(found) < len(order) and (not found or time.monotonic() < start + seconds):
            before = time.monotonic()
            found += manifest.probe([file.whole for file in order[len(found) :][:chunk]], workers=workers)
            if time.monotonic() - before < seconds / 10:
                chunk *= 2
            if progress is not None:
                progress(len(found), len(order))
    finally:  # even of a survey that was interrupted
        manifest.save()
    good = [metadata for metadata in found if isinstance(metadata, ImageMetadata)]
    return summarise(good, count=len(files), unreadable=len(found) - len(good), side_by_side=side_by_side)


def summarise(
    images: Sequence[ImageMetadata], *, count: int, unreadable: int = 0, side_by_side: bool = False
) -> DomainSurvey:
    """Returns the survey of a domain of `count` images from what is known of some of them."""
    if not images:
        return DomainSurvey(count, np.zeros((0, 2), np.int64), frozenset(), unreadable=unreadable)
    sizes = np.array([image.size for image in images], np.int64)
    sizes[:, 0] //= 2 if side_by_side else 1
    return DomainSurvey(
        count=count,
        sizes=sizes,
        channels=frozenset(_channels(images)),
        are_images=all(image.images for image in images),
        depth=depth_of(images),
        low=min(image.low for image in images),
        high=max(image.high for image in images),
        unreadable=unreadable,
    )


def _channels(images: Iterable[ImageMetadata]) -> Iterable[int]:
    return (_COLOURS.get(image.channels, image.channels) if image.images else image.channels for image in images)
