"""Between the disk's side, uint8 [N, H, W, C] in [0, 255], and the networks' side, float [N, C, H, W] in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.data.decode import decode


def to_array(image: Image.Image) -> np.ndarray:
    """Copies an image of mode "L" or "RGB" to uint8 [H, W, C]."""
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def to_float(pixels: Tensor, *, channels_last: bool = False) -> Tensor:
    """Maps uint8 [N, H, W, C] to float32 [N, C, H, W] in [-1, 1], on the device where the pixels are."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Maps float [N, C, H, W] in [-1, 1] to uint8 [N, H, W, C], rounded and clamped, never truncated."""
    levels = (images.detach().float() + 1.0) * 127.5
    return levels.round().clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def load_images(paths: Sequence[Path], channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """Decodes files of one size, or resizes them (bicubic) to `size` (width, height): float32 [N, C, H, W].

    Raises:
        BadImageError: a file that cannot be used.
        ValueError: no `size` was given and the files differ in theirs.
    """
    images = [decode(path, channels) for path in paths]
    if size is not None:
        images = [image.resize(size, Image.Resampling.BICUBIC) for image in images]
    return to_float(torch.from_numpy(np.stack([to_array(image) for image in images])))
