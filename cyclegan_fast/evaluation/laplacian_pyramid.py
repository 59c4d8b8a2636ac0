"""The Laplacian pyramid of an image: its details by scale (Burt and Adelson 1983)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SIDE = 16  # pixels of the coarsest level; Karras et al. 2018
_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # of each axis


def count_levels(side: int) -> int:
    """Returns how many levels an image has whose shorter side is `side` pixels: each halves it, down to 16."""
    levels = 1
    while (side := (side + 1) // 2) >= MIN_SIDE:
        levels += 1
    return levels


def laplacian_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Splits an image [C, H, W] into levels, the finest first: [C, H, W], [C, ceil(H / 2), ceil(W / 2)] and so on.

    Each is what the next coarser one lacks; the last one is the image itself at that scale.
    """
    pyramid = [image]
    for _ in range(levels - 1):
        pyramid.append(_blur(pyramid[-1])[:, ::2, ::2])
        pyramid[-2] = pyramid[-2] - _enlarge(pyramid[-1], pyramid[-2])
    return pyramid


def _enlarge(image: Tensor, like: Tensor) -> Tensor:
    """[C, ceil(H / 2), ceil(W / 2)] -> [C, H, W], the size of `like`."""
    spread = torch.zeros_like(like)
    spread[:, ::2, ::2] = image
    return 4 * _blur(spread)


def _blur(image: Tensor) -> Tensor:
    """Convolves [C, H, W] with the kernel along both axes, mirrored at the edges; by shifts, so without cuDNN."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (2, 2, 2, 2), mode="reflect")  # [C, H + 4, W + 4]
    rows = sum(weight * padded[:, i : i + height] for i, weight in enumerate(_KERNEL))
    assert isinstance(rows, Tensor)
    blurred = sum(weight * rows[:, :, i : i + width] for i, weight in enumerate(_KERNEL))
    assert isinstance(blurred, Tensor)
    return blurred
