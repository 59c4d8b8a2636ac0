"""Pixels without data, by GDAL's nodata value: found among a network's input, marked in its result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.images import to_model_range
from cyclegan_fast.images.metadata import Change, Metadata, MetadataRules, Nodata, nodata_of


def nodata_to_restore(metadata: Metadata, in_format: PixelFormat, rules: MetadataRules) -> Nodata | None:
    """The value to restore in the result of an image that is read in a format; notes in its metadata whether it is."""
    is_exact = in_format.depth != "float"  # whose values are clipped to a range
    found = nodata_of(metadata, in_format.channels) if is_exact and rules.nodata == "restore" else None
    metadata.has_nodata_restored = found is not None
    return found


def restore_nodata(
    pixels: np.ndarray, nodata: Nodata, rows: Callable[[int, int], Tensor], change: Change, first: int = 0
) -> None:
    """Marks the pixels without data in a result, or in some of its rows.

    Args:
        pixels: [h, W', C'], changed in place.
        nodata: The value.
        rows: Gives rows of the network's input, from one to before another: float32 [C, n, W] in [-1, 1].
        change: The sizes of both.
        first: Which row of the result is the first of `pixels`.
    """
    (width, height), (across, down) = change.input_size, change.scale
    below = _input_pixels(first, len(pixels), down, height)
    beside = _input_pixels(0, pixels.shape[1], across, width)
    values = rows(int(below[0]), int(below[-1]) + 1)
    stored = torch.from_numpy(np.full((1, 1, 1, 1), nodata.value, nodata.dtype))
    missing = (values == to_model_range(stored).item()).all(0).cpu().numpy()
    nodata.restore(pixels, missing[below - below[0]][:, beside])


def _input_pixels(first: int, count: int, scale: float, limit: int) -> np.ndarray:
    """The rows or columns of the input in which the middles of those of the result lie."""
    return np.minimum(((np.arange(first, first + count) + 0.5) / scale).astype(int), limit - 1)
