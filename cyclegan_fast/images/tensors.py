"""Images of PIL as arrays, and files as the networks' floats; `ops.from_uint8` and `ops.to_uint8` do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.images.decode import decode


def to_array(image: Image.Image) -> np.ndarray:
    """Copies an image of mode "L" or "RGB" to uint8 [H, W, C]."""
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Returns stored pixels as a tensor of the same shape; a copy where they may not be written to, as Pillow's."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"]))


def to_model_range(
    pixels: Tensor,
    *,
    crop: tuple[int, int] | None = None,
    placement: Tensor | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Pixels of any depth as the networks' images: [N, H, W, C] -> float32 [N, C, h, w] in [-1, 1].

    Args:
        pixels: What `decode.read` gives, contiguous: uint8 or uint16 over their full range, or float32 in [-1, 1].
        crop: (h, w), the size of a crop; None is the whole image.
        placement: int32 [N, 3] on the device of `pixels`: the crop's top and left, and whether it is mirrored. None is
            0, 0, 0 for all.
        channels_last: The memory format of the result.
    """
    if pixels.dtype == torch.uint8:
        return ops.from_uint8(pixels, crop=crop, placement=placement, channels_last=channels_last)
    bits = pixels.view(torch.int16) if pixels.dtype == torch.uint16 else pixels  # torch does little with uint16
    if placement is not None:
        bits = _cut(bits, crop or (pixels.shape[1], pixels.shape[2]), placement)
    elif crop is not None:
        bits = bits[:, : crop[0], : crop[1]]
    images = bits if bits.dtype == torch.float32 else (bits.to(torch.int32) & 0xFFFF).float() / 32767.5 - 1.0
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.permute(0, 3, 1, 2).contiguous(memory_format=layout)


def _cut(pixels: Tensor, size: tuple[int, int], placement: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, h, w, C], each image from its own place; nothing is read back from the device."""
    top, left, mirror = placement.long()[:, :, None].unbind(1)  # [N, 1] each
    rows = top + torch.arange(size[0], device=pixels.device)  # [N, h]
    steps = torch.arange(size[1], device=pixels.device)
    columns = left + torch.where(mirror != 0, size[1] - 1 - steps, steps)  # [N, w]
    images = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    return pixels[images, rows[:, :, None], columns[:, None, :]]


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
