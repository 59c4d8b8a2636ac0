"""The geometry of a training sample: the five modes, split into drawing the numbers and applying them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cyclegan_fast.config import DataConfig
from cyclegan_fast.errors import UserError

Size = tuple[int, int]  # width, height, in pixels

_DIVISOR = 4  # the generators halve the sides twice
MIN_SIDE = 24  # pixels; the 70x70 discriminator's five convolutions leave nothing of a smaller image


@dataclass(frozen=True)
class Augmentation:
    """The random part of one image's way, independent of its size: it can be stored and applied again."""

    x: float
    """Where the crop lies between the left (0) and the right (1)."""
    y: float
    """Where the crop lies between the top (0) and the bottom (1)."""
    mirror: bool
    """Whether left and right are swapped."""


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """Draws three numbers from `rng`, always three, whatever the mode makes of them."""
    x, y, mirror = rng.random(3)
    return Augmentation(float(x), float(y), bool(mirror < 0.5))


def resize(pixels: np.ndarray, config: DataConfig) -> np.ndarray:
    """Resizes [H, W, C] as `config` says, before any crop: bicubic, with Pillow's antialiasing.

    The type stays: uint8 and uint16 are rounded and clamped, float32 is clamped to [-1, 1].
    """
    height, width, channels = pixels.shape
    size = resized_size((width, height), config)
    if size == (width, height):
        return pixels
    if pixels.dtype == np.uint8 and channels in (1, 3):
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        return resized[..., None] if channels == 1 else resized
    return np.stack([_resize_channel(pixels[..., c], size) for c in range(channels)], axis=-1)


def _resize_channel(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resizes [H, W] in its own type; bicubic overshoots at edges, so the result is clamped to the type's range."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    resized = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    return np.rint(resized).clip(0, 65535).astype(np.uint16) if pixels.dtype == np.uint16 else resized.clip(-1.0, 1.0)


def crop(pixels: np.ndarray, config: DataConfig, augmentation: Augmentation) -> np.ndarray:
    """Cuts and mirrors resized pixels, [H, W, C] -> [h, w, C], as `augmentation` says; contiguous."""
    height, width, _ = pixels.shape
    w, h = cropped_size((width, height), config)
    top, left, mirror = placement((width, height), config, augmentation)
    part = pixels[top : top + h, left : left + w]
    return np.ascontiguousarray(part[:, ::-1] if mirror else part)


def placement(size: Size, config: DataConfig, augmentation: Augmentation) -> tuple[int, int, bool]:
    """Returns where the crop lies in a resized image of `size`: top, left, and whether it is mirrored.

    All positions are equally likely.
    """
    width, height = size
    w, h = cropped_size(size, config)
    top, left = int(augmentation.y * (height - h + 1)), int(augmentation.x * (width - w + 1))
    return top, left, config.flip and augmentation.mirror


def cropped_size(size: Size, config: DataConfig) -> Size:
    """Returns the size of what is cut out of a resized image of `size`: all of it where no crop follows."""
    return (config.crop_size, config.crop_size) if config.preprocess.endswith("crop") else size


def resized_size(size: Size, config: DataConfig) -> Size:
    """Returns the size to which an image of `size` is resized, before any crop.

    resize_and_crop: load_size squared, the aspect ignored. scale_width: load_size wide, the aspect kept; if a crop
    follows, at least as high as the crop. crop: as it is. Where no crop follows, the sides are rounded to multiples
    of 4.
    """
    width, height = size
    match config.preprocess:
        case "resize_and_crop":
            return config.load_size, config.load_size
        case "scale_width":
            return _rounded(config.load_size), _rounded(config.load_size * height / width)
        case "scale_width_and_crop":
            return config.load_size, max(round(config.load_size * height / width), config.crop_size)
        case "crop":
            return size
        case "none":
            return _rounded(width), _rounded(height)


def sample_size(size: Size, config: DataConfig) -> Size:
    """Returns the size of the training sample that an image of `size` becomes."""
    return cropped_size(resized_size(size, config), config)


def check_geometry(config: DataConfig, size_divisor: int = _DIVISOR, min_size: int = MIN_SIDE) -> int:
    """Checks the sizes against one another and returns the shortest side that an image may have, in pixels.

    Args:
        config: The geometry.
        size_divisor: What the networks need the sides to be a multiple of.
        min_size: The shortest side that the networks can take.

    Raises:
        UserError: a crop that does not fit, or sides too small for the networks.
    """
    crops = config.preprocess.endswith("crop")
    resizes = config.preprocess not in ("crop", "none")
    if crops and resizes and config.crop_size > config.load_size:
        raise UserError(
            f"--crop-size {config.crop_size} is larger than --load-size {config.load_size}: no such crop can be cut"
        )
    if crops and (config.crop_size < min_size or config.crop_size % size_divisor):
        raise UserError(
            f"--crop-size must be a multiple of {size_divisor} and at least {min_size} for these networks, "
            f"got {config.crop_size}"
        )
    if not crops and size_divisor > _DIVISOR:
        raise UserError(
            f"this generator needs sides that are multiples of {size_divisor}: use a --preprocess mode that crops"
        )
    if not crops and resizes and config.load_size < min_size:
        raise UserError(f"--load-size must be at least {min_size} for these networks, got {config.load_size}")
    if config.preprocess == "crop":
        return config.crop_size
    return min_size if config.preprocess == "none" else 1


def _rounded(side: float) -> int:
    """The nearest positive multiple of 4."""
    return max(_DIVISOR, round(side / _DIVISOR) * _DIVISOR)
