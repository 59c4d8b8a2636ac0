"""TIFFs of any size, read and written by rows: no more of them is in memory than is asked for."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cyclegan_fast.files import building_file
from cyclegan_fast.images.channels import to_channels
from cyclegan_fast.images.decode import FIRST_FRAME, faults_of
from cyclegan_fast.images.packages import import_package
from cyclegan_fast.images.tiff import check_page, page_image, stored_shape, write_options
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

_STRIP_ROWS = 64  # of what is written
_MANY = 4 * 10**9  # bytes, from where a TIFF needs 64-bit offsets


class TiffRows:
    """The first page of a TIFF, whose rows are decoded as they are asked for.

    Args:
        path: The file.
        channels: That its pixels shall have, by the rule of `cyclegan_fast.images.decode`.

    Raises:
        BadImageError: It cannot be read, or there is no rule for it.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self._path, self._channels = path, channels
        self._decoded: OrderedDict[int, np.ndarray | None] = OrderedDict()
        with contextlib.ExitStack() as stack, faults_of(path):
            self._file = stack.enter_context(import_package("tifffile").TiffFile(path))
            self._page = page = self._file.pages[0]
            check_page(page)
            if page_image(page, np.zeros((0, 0, page.samplesperpixel), page.dtype)).orientation != 1:
                raise ValueError("it lies on its side (its orientation tag): turn it first")
            if len(self._file.pages) > 1:
                warn_once(log, FIRST_FRAME)
            self.height, self.width = int(page.imagelength), int(page.imagewidth)
            self._mapped = self._map() if page.is_memmappable else None
            self.dtype = self.pixels(0, 1).dtype
            stack.pop_all()

    @property
    def compressed(self) -> bool:
        """Whether the file is, by whatever method."""
        return int(self._page.compression) != 1

    def pixels(self, low: int, high: int) -> np.ndarray:
        """Some rows: [high - low, W, channels] in the type of the file.

        Raises:
            BadImageError: They are damaged, or the channels do not fit.
        """
        with faults_of(self._path):
            return to_channels(page_image(self._page, self._stored(low, high)), self._channels)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _stored(self, low: int, high: int) -> np.ndarray:
        """[high - low, W, C] as in the file."""
        page = self._page
        channels, planes = page.samplesperpixel, page.samplesperpixel if page.planarconfig != 1 else 1
        if self._mapped is not None:
            return np.moveaxis(self._mapped[:, low:high], 0, -1) if planes > 1 else self._mapped[low:high]
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.width)
        tall, across, down = min(tall, self.height), -(-self.width // wide), -(-self.height // tall)
        rows = np.zeros((high - low, self.width, channels), page.dtype)
        for plane in range(planes):
            for row in range(low // tall, (high - 1) // tall + 1):
                for column in range(across):
                    segment = self._segment((plane * down + row) * across + column, 2 * across * planes)
                    if segment is None:  # left out of the file: nothing but zeros
                        continue
                    top, left = row * tall, column * wide
                    some = segment[max(low - top, 0) : high - top, : self.width - left]
                    start = max(top - low, 0)
                    target = rows[start : start + len(some), left : left + some.shape[1]]
                    target[..., slice(None) if planes == 1 else slice(plane, plane + 1)] = some
        return rows

    def _map(self) -> np.ndarray:
        """The pixels of a file that holds them one after the other, as they are: no more is read than is used."""
        page = self._page
        dtype = page.dtype.newbyteorder(self._file.byteorder)
        mapped = np.memmap(self._path, dtype, "r", page.dataoffsets[0], stored_shape(page))
        return mapped.view(np.ndarray)

    def _segment(self, index: int, cached: int) -> np.ndarray | None:
        """A strip or tile, [h, w, C] or of one channel; the last `cached` ones stay decoded."""
        if index not in self._decoded:
            page = self._page
            (content, _), *_ = self._file.filehandle.read_segments(
                page.dataoffsets[index : index + 1], page.databytecounts[index : index + 1]
            )
            tables = (
                {} if page.compression not in (6, 7) else {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            )
            decoded = page.decode(content, index, **tables)[0]
            self._decoded[index] = None if decoded is None else decoded[0]  # of its depth of one
            while len(self._decoded) > cached:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(index)
        return self._decoded[index]


def write_tiff(
    path: Path,
    bands: Iterator[np.ndarray],
    shape: tuple[int, int, int],
    dtype: np.dtype,
    *,
    compress: bool,
    finish: Callable[[Path], object] = lambda _: None,
) -> None:
    """Writes a TIFF in one move, as its rows come.

    Args:
        path: The file; an older one is replaced once the new one is whole.
        bands: The rows from the top to the bottom, [h, W, C] each.
        shape: (H, W, C); 3 channels are RGB, others have no colour.
        dtype: Of the pixels.
        compress: With zlib, without loss.
        finish: Called with the whole file before it gets its name, to add to it.

    Raises:
        UserError: The disk is full, or the like.
    """
    height, width, channels = shape
    is_big = height * width * channels * dtype.itemsize > _MANY
    with building_file(path) as partial:
        with import_package("tifffile").TiffWriter(partial, bigtiff=is_big) as file:
            file.write(
                (zlib.compress(strip) if compress else strip for strip in _strips(bands)),
                shape=shape if channels > 1 else shape[:2],
                dtype=dtype,
                rowsperstrip=_STRIP_ROWS,
                compression="zlib" if compress else None,
                **write_options(channels),
            )
        finish(partial)


def _strips(bands: Iterator[np.ndarray]) -> Iterator[bytes]:
    """Bands of any heights as the bytes of the file's strips."""
    held = np.zeros(0)
    for band in bands:
        held = np.concatenate([held, band]) if len(held) else band
        while len(held) >= _STRIP_ROWS:
            yield held[:_STRIP_ROWS].tobytes()
            held = held[_STRIP_ROWS:]
    if len(held):
        yield held.tobytes()
