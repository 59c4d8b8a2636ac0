"""How long the narrow convolutions (csrc/kernels/narrow_conv.h) would take on an H200: a prediction.

It counts the products of tensor cores as the kernels' plans issue them, padding and halo included, at the rate that
mma.sync of 16x8x16 has on paper; the pipeline's fill and the part that is lost to everything else are estimates.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from torch import Tensor

MULTIPROCESSORS = 132
CLOCK = 1.755e3  # cycles per microsecond
CYCLES = 8 / 4  # of a multiprocessor for an mma of 16x8x16, with its four quarters
BUSY = 0.6  # of the time in which the tensor cores of a block's multiprocessor have work
FILL = 2.5  # microseconds: the weights, the first tile
MERGE = 3.0  # microseconds of the weight gradient's second kernel


class Sizes(NamedTuple):
    """A convolution as its kernels see it: its narrow and its wide side."""

    n: int
    narrow: int  # channels
    wide: int
    narrow_rows: int
    narrow_columns: int
    wide_rows: int
    wide_columns: int
    kernel: int
    stride: int


def sizes_of(x: Tensor, y: Tensor, weight_shape: tuple[int, ...], stride: int) -> Sizes:
    """Of x [N, C, H, W], y [N, K, OH, OW] and weight [K, C, R, S]."""
    small, large = (x, y) if x.shape[1] < y.shape[1] else (y, x)
    return Sizes(
        x.shape[0], small.shape[1], large.shape[1], *small.shape[2:], *large.shape[2:], weight_shape[2], stride
    )


def to_wide(at: Sizes) -> tuple[float, float]:
    """(microseconds, part of the device that is filled) of narrow_conv_to_wide."""
    tiles = at.n * ceil(at.wide_rows / 16) * ceil(at.wide_columns / 16)
    steps = ceil(at.kernel**2 * ceil(at.narrow / 4) / 4)
    return _time(tiles * 16 * steps * 4 * ceil(at.wide / 32), tiles * ceil(at.wide / 64))


def to_narrow(at: Sizes) -> tuple[float, float]:
    """That of narrow_conv_to_narrow."""
    columns = 32 - (ceil(at.kernel / at.stride) - 1)
    rows, across = ceil(at.narrow_rows / 8), ceil(at.narrow_columns / at.stride / columns)
    tiles = 3 if at.kernel * at.narrow <= 24 else 7
    blocks = at.n * rows * across  # of 8 rows
    return _time(blocks * 16 * tiles * ceil(at.kernel / at.stride) * ceil(at.wide / 16), blocks)


def weight_gradient(at: Sizes) -> tuple[float, float]:
    """That of narrow_conv_weight_grad, without the merge."""
    columns = at.kernel**2 * at.narrow
    unit = 64 if columns <= 64 else 160
    parts = ceil(at.wide / 64) * ceil(columns / unit)
    pixels = at.n * ceil(at.wide_rows / 8) * ceil(at.wide_columns / 16) * 128
    return _time(pixels // 16 * 4 * (unit // 8) * parts, MULTIPROCESSORS)


def _time(products: int, blocks: int) -> tuple[float, float]:
    filled = min(1.0, blocks / MULTIPROCESSORS)
    return FILL + products * CYCLES / (MULTIPROCESSORS * filled * CLOCK * BUSY), filled
