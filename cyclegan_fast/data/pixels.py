"""Images of PIL as arrays, and files as the networks' floats; `ops.from_uint8` and `ops.to_uint8` do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.data.decode import decode


def to_array(image: Image.Image) -> np.ndarray:
    """Copies an image of mode "L" or "RGB" to uint8 [H, W, C]."""
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def to_model_range(
    pixels: Tensor,
    *,
    crop: tuple[int, int] | None = None,
    placement: Tensor | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Pixels of any depth as the networks' images: [N, H, W, C] -> float32 [N, C, h, w] in [-1, 1].

    Args:
        pixels: uint8, contiguous.
        crop: (h, w), the size of a crop; None is the whole image.
        placement: int32 [N, 3] on the device of `pixels`: the crop's top and left, and whether it is mirrored.
        channels_last: The memory format of the result.
    """
    return ops.from_uint8(pixels, crop=crop, placement=placement, channels_last=channels_last)


def load_images(paths: Sequence[Path], channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """Decodes files of one size, or resizes them (bicubic) to `size` (width, height): float32 [N, C, H, W].

    Raises:
        BadImageError: a file that cannot be used.
        ValueError: no `size` was given and the files differ in theirs.
    """
    images = [decode(path, channels) for path in paths]
    if size is not None:
        images = [image.resize(size, Image.Resampling.BICUBIC) for image in images]
    return ops.from_uint8(torch.from_numpy(np.stack([to_array(image) for image in images])))
