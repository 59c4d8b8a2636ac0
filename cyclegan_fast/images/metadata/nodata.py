"""The value that marks the pixels of a GeoTIFF that hold no data: the result marks the same pixels with it.

A network gives these pixels other values, and others this one by chance. So they get the value back, and whatever else
has it is moved by one level, in each channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cyclegan_fast.images.metadata.exif import GDAL_NODATA
from cyclegan_fast.images.metadata.model import Metadata, note

NODATA = "GDAL's nodata value, since the translation gives those pixels other values"
_PHOTOMETRIC = (1, 2)  # black is zero, and RGB: whose numbers are read as they stand


class Nodata(NamedTuple):
    """The value of the samples of pixels without data."""

    value: float

    def missing(self, pixels: np.ndarray) -> np.ndarray:
        """Which pixels [h, w, C], as `read_unscaled` gives them, have no data: bool [h, w]."""
        found: np.ndarray = (pixels == self.value).all(2)
        return found

    def restore(self, pixels: np.ndarray, missing: np.ndarray) -> None:
        """Marks pixels without data, and no others: [h, w, C], in place, by bool [h, w]."""
        level = pixels.dtype.type(self.value)
        pixels[pixels == level] = _neighbour(level)
        pixels[missing] = level


def nodata_of(metadata: Metadata, channels: int, dtype: np.dtype) -> Nodata | None:
    """The nodata value of an image that is read with so many channels, and whose result has that type.

    None where there is none, or where it cannot be found among the values that are read, or is none of the result's:
    whole numbers of odd bits are scaled, transparency is laid over white, colours may become grey.
    """
    tag, samples = metadata.directory.tags.get(GDAL_NODATA), metadata.samples
    if tag is None or samples is None or samples.photometric not in _PHOTOMETRIC or samples.extras:
        return None
    try:
        value = float(tag.text)
    except ValueError:
        return None
    is_as_read = samples.channels == channels or (samples.channels, channels) == (1, 3)
    stored = np.dtype(samples.dtype) if samples.dtype else None
    is_in_both = stored is not None and _has(stored, value) and _has(dtype, value)
    return Nodata(value) if is_as_read and is_in_both else None


def drop_unless_restored(metadata: Metadata) -> None:
    """Leaves out a nodata value that no pixel of the result was given."""
    if not metadata.has_nodata_restored and GDAL_NODATA in metadata.directory.tags:
        del metadata.directory.tags[GDAL_NODATA]
        note(metadata.by_rule, NODATA)


def _has(dtype: np.dtype, value: float) -> bool:
    """Whether a value is one of a type's."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return bool(np.isfinite(dtype.type(value)))  # rounded, as its text is
    return value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _neighbour(level: Any) -> Any:
    """The next value of its type."""
    kind = type(level)
    if isinstance(level, np.floating):
        return np.nextafter(level, kind(np.inf))
    return kind(int(level) + (-1 if level == np.iinfo(kind).max else 1))
