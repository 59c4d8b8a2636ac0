"""The test images by which a run is scored: those of testA and testB, or of a set of pairs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.held_out import MAX_SIDE, HeldOutImage, list_test_files, list_test_pairs, read_groups
from cyclegan_fast.data.loaders.samples import Domain
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile

Images = tuple[list[HeldOutImage], list[HeldOutImage]]


def scored_data(config: TrainConfig) -> DataConfig:
    """Returns where the test images of a run are, and whether they are scored as pairs."""
    return dataclasses.replace(config.data, paired=config.data.paired or config.run.eval_paired)


def read_test_images(
    config: DataConfig, domains: Sequence[Domain], *, count: int, min_size: int = transforms.MIN_SIDE
) -> Images:
    """Reads up to `count` test images of A and of B, as the networks name the domains; none where one has none.

    They are a random sample, the same for every run on this data, of those that `list_test_files` finds, and get the
    size of a training sample without its random part. With ``config.paired`` the n-th of A and the n-th of B are a
    pair. An image that cannot be used is left out with a line in the log.

    Args:
        config: Where the images are, and their geometry.
        domains: The training images of A and of B, whose pixel formats those of the tests get.
        count: Images of each domain.
        min_size: The shortest side that the networks can take, in pixels.

    Raises:
        UserError: Pairs are wanted, and some images have no partner, or one of another size; or a location is missing,
            empty or refused.
    """
    if config.paired:
        read = _read_scored(list_test_pairs(config), domains, config, count, min_size)
        for a, b in read:
            _check_sizes(a, b)
        return [a for a, _ in read], [b for _, b in read]
    files = list_test_files(config)
    if not (files[0] and files[1]):
        return [], []
    one, other = (
        [image for (image,) in _read_scored([(file,) for file in side], [domain], config, count, min_size)]
        for side, domain in zip(files, domains, strict=True)
    )
    return (one, other) if one and other else ([], [])


def _check_sizes(a: HeldOutImage, b: HeldOutImage) -> None:
    (height, width), (height_b, width_b) = a.pixels.shape[:2], b.pixels.shape[:2]
    if (height, width) != (height_b, width_b):
        raise UserError(
            f"--paired: {a.source} is scored with {width}x{height} pixels and {b.source} with {width_b}x{height_b}: "
            "the two of a pair need one size; --preprocess resize_and_crop gives them one"
        )


def _read_scored(
    groups: Sequence[tuple[ImageFile, ...]], domains: Sequence[Domain], config: DataConfig, count: int, min_size: int
) -> list[tuple[HeldOutImage, ...]]:
    return read_groups(
        groups, domains, config, count, min_size, tries=len(groups), message="%s; left out of the scores"
    )


def describe_images(images: Images, config: DataConfig) -> str:
    """Returns how many test images there are, which, and what became of them before they are translated, for people."""
    pairs = " that are pairs" * config.paired
    digest = set_digest(image.pixels for side in images for image in side)
    return f"{len(images[0])} + {len(images[1])} test images{pairs} (set {digest}), {describe_geometry(config)}"


def set_digest(images: Iterable[np.ndarray]) -> str:
    """Returns 8 digits that tell a set of images from others, in the order in which they are scored.

    They are the first of the SHA-256 of each image's shape and type, such as ``(256, 256, 3) uint8``, and its pixels.
    """
    digest = hashlib.sha256()
    for pixels in images:
        digest.update(f"{pixels.shape} {pixels.dtype.name}".encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:8]


def describe_geometry(config: DataConfig) -> str:
    """Returns what becomes of a test image before it is translated, for people: "resized to 286x286 (bicubic) ..."."""
    load = config.load_size
    resized = {
        "resize_and_crop": f"resized to {load}x{load} (bicubic)",
        "scale_width": f"resized to a width of {load} (bicubic)",
        "scale_width_and_crop": f"resized to a width of {load} (bicubic)",
    }.get(config.preprocess)
    crops = config.preprocess.endswith("crop")
    side = config.crop_size if crops else MAX_SIDE
    cut = f"the middle {side}x{side}" if crops else f"the middle {side}x{side} of larger ones"
    return ", ".join(filter(None, [resized, cut]))
