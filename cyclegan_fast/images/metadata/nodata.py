"""The value that marks the pixels of a GeoTIFF that hold no data: the result marks the same pixels with it.

A network gives these pixels other values, and others this one by chance. So they get the value back, and whatever else
has it is moved by one level, in each channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cyclegan_fast.images.metadata.exif import GDAL_NODATA, note
from cyclegan_fast.images.metadata.model import Metadata

NODATA = "GDAL's nodata value, since the translation gives those pixels other values"
_PHOTOMETRIC = (1, 2)  # black is zero, and RGB: whose numbers are read as they stand


class Nodata(NamedTuple):
    """The value of the samples of pixels without data."""

    value: int
    dtype: type[np.uint8] | type[np.uint16]
    """Of the input's samples."""

    def restore(self, pixels: np.ndarray, missing: np.ndarray) -> None:
        """Marks pixels without data, and no others: [h, w, C], in place, by bool [h, w]."""
        level = pixels.dtype.type(self.value)
        pixels[pixels == level] = _neighbour(level)
        pixels[missing] = level


def nodata_of(metadata: Metadata, channels: int) -> Nodata | None:
    """The nodata value of an image that is read with so many channels.

    None where there is none, or where it cannot be found among the values that are read: those of other than 8 and 16
    bits are clipped or scaled, and colours may become grey.
    """
    tag = metadata.directory.tags.get(GDAL_NODATA)
    samples = metadata.samples
    if tag is None or samples is None or samples.bits not in (8, 16) or samples.photometric not in _PHOTOMETRIC:
        return None
    try:
        value = float(tag.text)
    except ValueError:
        return None
    is_as_read = samples.channels == channels or (samples.channels, channels) == (1, 3)
    if not is_as_read or not value.is_integer() or not 0 <= value < 1 << samples.bits:
        return None
    return Nodata(int(value), np.uint8 if samples.bits == 8 else np.uint16)


def drop_unless_restored(metadata: Metadata) -> None:
    """Leaves out a nodata value that no pixel of the result was given."""
    if not metadata.has_nodata_restored and GDAL_NODATA in metadata.directory.tags:
        del metadata.directory.tags[GDAL_NODATA]
        note(metadata.by_rule, NODATA)


def _neighbour(level: Any) -> Any:
    """The next value of its type."""
    kind = type(level)
    if isinstance(level, np.floating):
        return np.nextafter(level, kind(np.inf))
    return kind(int(level) + (-1 if level == np.iinfo(kind).max else 1))
