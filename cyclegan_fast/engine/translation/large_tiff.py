"""TIFFs of any size, from strips to strips."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.tiling.tiles import translate_rows
from cyclegan_fast.engine.tiling.tiling import Tiling
from cyclegan_fast.engine.translation.nodata import nodata_to_restore, restore_nodata
from cyclegan_fast.images import BadImageError, to_model_range
from cyclegan_fast.images.decode import count_clipped, to_pixel_format
from cyclegan_fast.images.metadata import Change, LeftOut, MetadataRules, carry_into_tiff, metadata_for
from cyclegan_fast.images.model_io import from_values, input_format, result_depth
from cyclegan_fast.images.packages import import_package
from cyclegan_fast.images.tiff import is_tiff
from cyclegan_fast.images.tiff_rows import TiffRows, write_tiff
from cyclegan_fast.monitoring.progress import Progress


class _TiffInput:
    """A TIFF as the network takes it; see `cyclegan_fast.engine.tiling.rows.Rows`."""

    def __init__(self, file: TiffRows, in_format: PixelFormat, path: Path) -> None:
        self._file, self._path = file, path
        try:
            self._pixel_format = input_format(file.dtype, in_format)
        except ValueError as error:
            raise BadImageError(path, str(error)) from error
        self.channels, self.height, self.width = in_format.channels, file.height, file.width
        self.clipped = 0
        self._counted = 0  # rows of which the clipped ones are in the sum

    def rows(self, low: int, high: int) -> Tensor:
        pixels = self._file.pixels(low, high)
        if high > self._counted:
            self.clipped += count_clipped(pixels[max(self._counted - low, 0) :], self._pixel_format)
            self._counted = high
        try:
            values = to_pixel_format(pixels, self._pixel_format)
        except ValueError as error:  # pixels that are no numbers
            raise BadImageError(self._path, str(error)) from error
        return to_model_range(torch.from_numpy(np.array(values))[None])[0]


def tiff_pixels(path: Path) -> int:
    """Width times height of a TIFF, by its header; 0 of any other file, and where tifffile is missing."""
    try:
        with path.open("rb") as file:
            if not is_tiff(file):
                return 0
        with import_package("tifffile").TiffFile(path) as opened:
            return int(opened.pages[0].imagelength) * int(opened.pages[0].imagewidth)
    except Exception:  # whatever is wrong with it is reported by those who read it
        return 0


def goes_by_rows(path: Path, channels: int) -> bool:
    """Whether a TIFF can be read by rows, or is too large to be read in any other way."""
    try:
        TiffRows(path, channels).close()
    except BadImageError:
        return tiff_pixels(path) > 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    return True


def translate_tiff(
    engine: Engine,
    source: Path,
    target: Path,
    tiling: Tiling,
    *,
    batch_size: int,
    metadata: MetadataRules,
    progress: Progress,
) -> tuple[int, LeftOut]:
    """Translates a TIFF into a TIFF of the same size and depth; neither is in memory as a whole.

    Args:
        engine: The generator.
        source: The file to read.
        target: The file to write, in one move.
        tiling: How the image is cut.
        batch_size: Tiles that pass the network at a time.
        metadata: What the result keeps of the file's.
        progress: Called with the rows of tiles, or the strips, that are done, and their total.

    Returns:
        How many values lay outside the range of the generator's images, and the metadata that the result lacks.

    Raises:
        UserError: The file is damaged, there is no rule for it, or the result cannot be written.
    """
    with contextlib.closing(TiffRows(source, engine.in_channels)) as file, engine.call():
        image = _TiffInput(file, engine.in_format, source)
        depth = result_depth(file.dtype, engine.out_format)
        dtype = np.dtype({"8": np.uint8, "16": np.uint16, "float": np.float32}[depth])
        bands = translate_rows(engine, image, tiling, batch_size=batch_size, progress=progress)
        first = next(bands)  # [C', h, W']: an enlarging network's is wider than the image
        shape = (image.height * (first.shape[2] // image.width), first.shape[2], engine.out_channels)
        change = Change((image.width, image.height), (shape[1], shape[0]), shape[2])
        found = metadata_for(source, metadata)
        nodata = nodata_to_restore(found, engine.in_channels, dtype, metadata)

        def rows() -> Iterator[np.ndarray]:
            done = 0
            for band in itertools.chain([first], bands):
                pixels = from_values(band, depth, engine.out_format)
                if nodata:
                    restore_nodata(pixels, nodata, file.pixels, change, done)
                done += len(pixels)
                yield pixels

        write_tiff(
            target,
            rows(),
            shape,
            dtype,
            compress=file.compressed,
            finish=lambda path: carry_into_tiff(path, found, change, metadata),
        )
        return image.clipped, found.left_out
