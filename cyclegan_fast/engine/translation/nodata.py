"""Pixels without data, by GDAL's nodata value: found in an image, marked in its result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cyclegan_fast.images.metadata import Change, Metadata, MetadataRules, Nodata, nodata_of


def nodata_to_restore(metadata: Metadata, channels: int, dtype: np.dtype, rules: MetadataRules) -> Nodata | None:
    """The value to restore in a result, and a note in the metadata whether there is one.

    Args:
        metadata: Of the image.
        channels: With which it is read.
        dtype: Of the result.
        rules: What is kept.
    """
    found = nodata_of(metadata, channels, dtype) if rules.nodata == "restore" else None
    metadata.has_nodata_restored = found is not None
    return found


def restore_nodata(
    pixels: np.ndarray, nodata: Nodata, rows: Callable[[int, int], np.ndarray], change: Change, first: int = 0
) -> None:
    """Marks the pixels without data in a result, or in some of its rows.

    Args:
        pixels: [h, W', C'], changed in place.
        nodata: The value.
        rows: Gives rows of the image, from one to before another, as they are in the file: [n, W, C].
        change: The sizes of both.
        first: Which row of the result is the first of `pixels`.
    """
    (width, height), (across, down) = change.input_size, change.scale
    below = _input_pixels(first, len(pixels), down, height)
    beside = _input_pixels(0, pixels.shape[1], across, width)
    missing = nodata.missing(rows(int(below[0]), int(below[-1]) + 1))
    nodata.restore(pixels, missing[below - below[0]][:, beside])


def _input_pixels(first: int, count: int, scale: float, limit: int) -> np.ndarray:
    """The rows or columns of the input in which the middles of those of the result lie."""
    return np.minimum(((np.arange(first, first + count) + 0.5) / scale).astype(int), limit - 1)
