"""Scores of any folder of images against any other."""

from __future__ import annotations

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
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.scorer import Scores, with_features
from cyclegan_fast.evaluation.sets import Images, SetComparison
from cyclegan_fast.evaluation.similarity import l1, psnr, ssim
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
    """Scores a folder of images against another one; the arguments are those of `FolderComparison`.

    Returns:
        ``{"protocol", "scored": [{"name", "values", "spreads"}], "halves": {"values", "spreads"}}``.

    Raises:
        UserError: A folder holds no image, images cannot be read or are too small, or have no partner.
    """
    comparison = FolderComparison(images, against, device, size=size, count=count, paired=paired, features=features)
    return {
        "protocol": comparison.protocol,
        "scored": [{"name": str(images), **asdict(comparison.score())}],
        "halves": asdict(comparison.halves()),
    }


class FolderComparison:
    """Compares the images of a folder with those of another one.

    Args:
        images: The folder of the images that are scored.
        against: The folder of those that they should be like.
        device: Where that is computed.
        size: Side in pixels to which all are resized (bicubic); None leaves them as they are.
        count: At most so many of each folder, a random sample; None takes all.
        paired: Score each image against the one of the same name, too.
        features: A network for FID, KID, density and coverage; None leaves those out.

    Raises:
        UserError: A folder holds no image, images cannot be read or are too small, or have no partner.
    """

    def __init__(
        self,
        images: Path,
        against: Path,
        device: torch.device,
        *,
        size: int | None = None,
        count: int | None = None,
        paired: bool = False,
        features: FeatureNetwork | None = None,
    ) -> None:
        files = _list(images), _list(against)
        if paired:
            files = partners(*files)
        chosen = [[side[i] for i in draw_shown(len(side), count or len(side))] for side in files]
        pixel_format = _pixel_format([inspect(file) for side in chosen for file in side])
        self.images, self.real = ([_read(file, pixel_format, size) for file in side] for side in chosen)
        self.paired = paired
        self.comparison = SetComparison((self.images, self.real), device, features)
        resized = f"resized to {size}x{size} (bicubic)" if size else f"as they are ({_sizes(self.images, self.real)})"
        pairs = " that are pairs" * paired
        self.protocol = with_features(
            f"{len(self.images)} images of {images} against {len(self.real)} of {against}{pairs}, {resized}", features
        )

    def score(self) -> Scores:
        """Scores the one folder against the other."""
        real, images = (self.comparison.summarise(side) for side in (self.real, self.images))
        values, spreads = self.comparison.compare(images, real)
        if self.paired:
            load = self.comparison.load
            pairs = [(load(one), load(two)) for one, two in zip(self.images, self.real, strict=True)]
            for name, metric in (("l1", l1), ("psnr", psnr), ("ssim", ssim)):
                values[name] = fmean(metric(one, two) for one, two in pairs)
        return Scores(values, spreads)

    def halves(self) -> Scores:
        """Scores a half of the images of `against` by its other half: what as good images would reach at best."""
        return Scores(*self.comparison.compare_halves(self.real))


def _list(folder: Path) -> list[ImageFile]:
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such folder")
    with readable(folder):
        return [ImageFile(str(path)) for path in list_folder(folder)]


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
        raise UserError(f"{file}: has {pixels.shape[1]}x{pixels.shape[0]} pixels; {PATCH} of each side are needed")
    return pixels


def _sizes(*sets: Images) -> str:
    sizes = sorted({image.shape[1::-1] for images in sets for image in images})
    names = [f"{width}x{height}" for width, height in sizes]
    return names[0] if len(names) == 1 else f"{len(names)} sizes, {names[0]} to {names[-1]}"
