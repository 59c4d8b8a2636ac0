"""Scores of any folder of images against any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from cyclegan_fast.config import DataConfig, PixelFormat
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.pixel_formats import depth_of
from cyclegan_fast.data.catalog.probe import ImageMetadata, inspect
from cyclegan_fast.data.locations.folders import list_folder, readable
from cyclegan_fast.data.locations.pairs import partners
from cyclegan_fast.data.rng import draw_shown
from cyclegan_fast.data.scored_images import set_digest
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.scorer import Scores, with_features
from cyclegan_fast.evaluation.sets import Images, SetComparison
from cyclegan_fast.evaluation.similarity import PAIR_METRICS
from cyclegan_fast.evaluation.sliced_wasserstein import PATCH
from cyclegan_fast.images.decode import read
from cyclegan_fast.images.image_file import ImageFile


def score_folder(
    images: Path,
    against: Path,
    device: torch.device,
    *,
    size: int | None = None,
    count: int | None = None,
    paired: bool = False,
    features: FeatureNetwork | None = None,
) -> dict[str, Any]:
    """Scores the images of a folder against those of another one, and a half of the latter by its other half.

    Args:
        images: The folder of the images that are scored.
        against: The folder of those that they should be like.
        device: Where that is computed.
        size: Side in pixels to which all are resized (bicubic); None leaves them as they are.
        count: At most so many of each folder, a random sample; None takes all.
        paired: Score each image against the one of the same name, too.
        features: A network for FID, KID, density and coverage; None leaves those out.

    Returns:
        ``{"protocol", "scored": [{"name", "values", "spreads"}], "halves": {"values", "spreads"}, "folders",
        "files"}``; the last two have the keys ``images`` and ``against``, and the files are in the order in which they
        were scored.

    Raises:
        UserError: A folder holds no image, images cannot be read or are too small, or have no partner.
    """
    if size is not None and size < PATCH:
        raise UserError(f"--size must be at least {PATCH}, got {size}")
    folders = {"images": images, "against": against}
    chosen = _choose(*map(_list, folders.values()), count=count, paired=paired)
    scored, real = _read_all(chosen, size=size, paired=paired)
    comparison = SetComparison((scored, real), device, features)
    values, spreads = comparison.compare(comparison.summarise(scored), comparison.summarise(real))
    if paired:
        values |= _score_pairs(comparison, scored, real)
    resized = f"resized to {size}x{size} (bicubic)" if size else f"as they are ({_sizes(scored, real)})"
    pairs = " that are pairs" * paired
    compared = f"{_describe(images, scored, 'images of ')} against {_describe(against, real, 'of ')}"
    return {
        "protocol": with_features(f"{compared}{pairs}, {resized}", features, len(scored), len(real)),
        "scored": [{"name": str(images), **asdict(Scores(values, spreads))}],
        "halves": asdict(Scores(*comparison.compare_halves(real))),
        "folders": {name: str(folder.absolute()) for name, folder in folders.items()},
        "files": {
            name: [os.path.relpath(file.path, folder) for file in files]
            for (name, folder), files in zip(folders.items(), chosen, strict=True)
        },
    }


def _list(folder: Path) -> list[ImageFile]:
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such folder")
    with readable(folder):
        return [ImageFile(str(path)) for path in list_folder(folder)]


def _choose(
    first: list[ImageFile], second: list[ImageFile], *, count: int | None, paired: bool
) -> list[list[ImageFile]]:
    """Draws up to `count` files of each, if `paired` so that the n-th of both are a pair.

    They are in random order, as `compare_halves` takes every second one, and neighbours may be alike.
    """
    files = partners(first, second) if paired else (first, second)
    return [[side[i] for i in draw_shown(len(side), count or len(side))] for side in files]


def _read_all(
    chosen: Sequence[Sequence[ImageFile]], *, size: int | None, paired: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    pixel_format = _pixel_format([inspect(file) for side in chosen for file in side])
    scored, real = ([_read(file, pixel_format, size) for file in side] for side in chosen)
    if paired:
        _check_pairs(chosen[0], scored, real)
    return scored, real


def _check_pairs(files: Sequence[ImageFile], images: Images, partner_images: Images) -> None:
    for file, image, partner in zip(files, images, partner_images, strict=True):
        if image.shape != partner.shape:
            raise UserError(
                f"{file}: has {_size(image)} pixels and its partner {_size(partner)}; --size resizes all images to one"
            )


def _score_pairs(comparison: SetComparison, images: Images, partner_images: Images) -> dict[str, float]:
    """Returns the means over all pairs."""
    found = [
        [metric(comparison.load(one), comparison.load(two)) for metric in PAIR_METRICS.values()]
        for one, two in zip(images, partner_images, strict=True)
    ]
    return dict(zip(PAIR_METRICS, map(fmean, zip(*found, strict=True)), strict=True))


def _pixel_format(known: Sequence[ImageMetadata]) -> PixelFormat:
    """What all images can be read as: that of the first, with the bits and the range of all."""
    formats = [metadata.pixel_format for metadata in known]
    channels = {pixel_format.channels for pixel_format in formats}
    if len(channels) > 1:
        raise UserError(f"the images have {' and '.join(map(str, sorted(channels)))} channels: they do not compare")
    depth = depth_of(known)
    if depth != "float":
        return PixelFormat(channels=channels.pop(), depth=depth)
    low, high = min(one.low for one in formats), max(one.high for one in formats)
    return PixelFormat(channels=channels.pop(), depth=depth, low=low, high=high)


def _read(file: ImageFile, pixel_format: PixelFormat, size: int | None) -> np.ndarray:
    pixels = read(file, pixel_format)
    if size is not None:
        square = DataConfig(preprocess="resize_and_crop", load_size=size, crop_size=size)
        return np.ascontiguousarray(transforms.resize(pixels, square))
    if min(pixels.shape[:2]) < PATCH:
        raise UserError(f"{file}: has {_size(pixels)} pixels; {PATCH} of each side are needed")
    return pixels


def _describe(folder: Path, images: Images, what: str) -> str:
    return f"{len(images)} {what}{folder} (set {set_digest(images)})"


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _sizes(*sets: Images) -> str:
    sizes = sorted({image.shape[1::-1] for images in sets for image in images})
    names = [f"{width}x{height}" for width, height in sizes]
    return names[0] if len(names) == 1 else f"{len(names)} sizes, {names[0]} to {names[-1]}"
