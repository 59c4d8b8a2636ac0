"""Files and PIL images on their way into a network, and what it makes of them as pixels again.

One reading for `infer`, `translate` and whatever else shows files to a generator: 8 and 16 bits are taken over their
full range, whatever depth the generator was trained at, and the results have as many bits. A generator of
floating-point images takes all values as they stand in the file, and makes values on the scale of those it was trained
to make.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.config import Depth, PixelFormat
from cyclegan_fast.images.decode import BadImageError, count_clipped, read_unscaled, to_pixel_format, unscaled_of
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.tensors import as_tensor, to_model_range

WHITE = {torch.uint8: 255, torch.uint16: 65535}
_DEPTHS: dict[np.dtype, Depth] = {np.dtype(np.uint8): "8", np.dtype(np.uint16): "16"}


class InputImage(NamedTuple):
    """A file or PIL image as a network takes it."""

    values: Tensor
    """float32 [C, H, W] in [-1, 1]."""
    depth: Depth
    """That its result has."""
    clipped: int
    """Values that lay outside the range of the generator's images."""


def read_input(path: ImageFile | Path, in_format: PixelFormat, out_format: PixelFormat) -> InputImage:
    """Reads an image file for a generator that takes images of `in_format` and makes images of `out_format`.

    Raises:
        BadImageError: It cannot be read, or its values have no range that the generator knows.
    """
    pixels = read_unscaled(path, in_format.channels)
    try:
        return _to_input(pixels, in_format, out_format)
    except ValueError as error:
        raise BadImageError(path, str(error)) from error


def pil_input(image: Image.Image, in_format: PixelFormat, out_format: PixelFormat) -> InputImage:
    """The same of a PIL image.

    Raises:
        ValueError: Its values have no range that the generator knows, or it cannot have that many channels.
        OSError: It is opened lazily, and its file is damaged.
    """
    return _to_input(unscaled_of(image, in_format.channels), in_format, out_format)


def input_format(dtype: np.dtype, in_format: PixelFormat) -> PixelFormat:
    """How a generator of `in_format` takes unscaled pixels of a type: whole numbers with the depth that they have.

    Raises:
        ValueError: It knows no range for them.
    """
    if in_format.depth == "float":
        return in_format
    if dtype not in _DEPTHS:
        raise ValueError(
            f"floating-point pixels (or signed ones, or more than 16 bits): this generator was trained on images of "
            f"{in_format.depth} bits and knows no range for them"
        )
    return PixelFormat(channels=in_format.channels, depth=_DEPTHS[dtype])


def result_depth(dtype: np.dtype, out_format: PixelFormat) -> Depth:
    """The depth of what a generator of `out_format` makes of unscaled pixels of a type."""
    return "float" if out_format.depth == "float" else _DEPTHS.get(dtype, "float")


def from_values(values: Tensor, depth: Depth, out_format: PixelFormat) -> np.ndarray:
    """A network's result as pixels: float32 [C, H, W] in [-1, 1] -> [H, W, C] in uint8, uint16 or float32.

    Floats have the scale of the images that the generator was trained to make.
    """
    if depth == "float":
        low, high = out_format.scale
        scaled = (values.double() + 1.0) * ((high - low) / 2.0) + low
        return scaled.float().permute(1, 2, 0).contiguous().cpu().numpy()
    levels = to_levels(values[None].contiguous(), torch.uint8 if depth == "8" else torch.uint16)[0]
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def to_levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> integers from 0 to the type's white, rounded and clamped; floats are only cast."""
    if dtype == torch.uint8:
        return ops.to_uint8(images).permute(0, 3, 1, 2)
    if dtype not in WHITE:
        return images.to(dtype)
    half = WHITE[dtype] / 2
    return ((images.float() + 1.0) * half).round().clamp(0.0, WHITE[dtype]).to(dtype)


def _to_input(pixels: np.ndarray, in_format: PixelFormat, out_format: PixelFormat) -> InputImage:
    """Unscaled pixels [H, W, C] of a file or PIL image."""
    pixel_format = input_format(pixels.dtype, in_format)
    values = to_model_range(as_tensor(to_pixel_format(pixels, pixel_format))[None])[0]
    return InputImage(values, result_depth(pixels.dtype, out_format), count_clipped(pixels, pixel_format))
