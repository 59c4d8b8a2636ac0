"""Which pixel_format the images of each domain have, and which files cannot have it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cyclegan_fast.config import DataConfig, Depth, PixelFormat
from cyclegan_fast.data.catalog.probe import ImageMetadata, why_not
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError, count_clipped, native
from cyclegan_fast.images.image_file import ImageFile

log = logging.getLogger(__name__)

DEPTH_NAMES: dict[Depth, str] = {"8": "8 bit", "16": "16 bit", "float": "float"}


def find_pixel_formats(
    config: DataConfig, channels: Sequence[int], known: Sequence[Sequence[ImageMetadata]]
) -> list[PixelFormat]:
    """The pixel formats of A and B, as the networks name the domains.

    Args:
        config: Their depth, and the ranges of floating-point values.
        channels: Of the images of A and B.
        known: What is known of the images of A and B.

    Raises:
        UserError: Values have no range of their own and none was given, or it is none, or nothing uses it.
    """
    depths = [depth_of(files) if config.depth == "auto" else config.depth for files in known]
    _refuse_idle_ranges(config, depths)
    pixel_formats = [
        _pixel_format(config, name, depth, count, files)
        for name, depth, count, files in zip("AB", depths, channels, known, strict=True)
    ]
    if config.depth == "auto" and depths != ["8", "8"]:
        found = [
            f"{name} {DEPTH_NAMES[d]} ({told_depths(files)})"
            for name, d, files in zip("AB", depths, known, strict=True)
        ]
        log.info("depth: %s", ", ".join(found))
    return pixel_formats


def misfits(
    sources: Sequence[ImageFile], known: Sequence[ImageMetadata], pixel_format: PixelFormat
) -> list[BadImageError]:
    """Those of the files that cannot be brought to `pixel_format`."""
    return [
        BadImageError(source, reason)
        for source, metadata in zip(sources, known, strict=True)
        if (reason := why_not(metadata, pixel_format))
    ]


def clipping(sources: Sequence[ImageFile], known: Sequence[ImageMetadata], pixel_format: PixelFormat) -> str:
    """Says how many values of a domain are clipped; empty if none is.

    Only files that hold such values are read.
    """
    low, high = pixel_format.scale
    beyond = [s for s, metadata in zip(sources, known, strict=True) if _exceeds(metadata, pixel_format)]

    def count(source: ImageFile) -> tuple[int, int]:
        pixels = native(source, pixel_format.channels)
        return count_clipped(pixels, pixel_format), pixels.size

    with ThreadPoolExecutor(usable_cores(), "count-clipped") as threads:
        counts = [(clipped, total) for clipped, total in threads.map(count, beyond) if clipped]
    if not counts:
        return ""
    clipped, total = (sum(numbers) for numbers in zip(*counts, strict=True))
    return (
        f"{clipped} values ({100 * clipped / total:.2g} %) in {len(counts)} of {len(sources)} files lie outside "
        f"{low:g} to {high:g} and are clipped"
    )


def depth_of(known: Sequence[ImageMetadata]) -> Depth:
    """16 if all files have 16 bits, float if some of them have no range of their own, 8 if any file has 8 bits."""
    depths = {metadata.values for metadata in known}
    if "8" in depths:
        return "8"
    return "float" if "float" in depths else "16"


def told_depths(known: Sequence[ImageMetadata]) -> str:
    """How many files have which depth: ``3 files 8 bit, 5 files 16 bit``."""
    counts = {depth: sum(metadata.values == depth for metadata in known) for depth in DEPTH_NAMES}
    return ", ".join(f"{count} files {DEPTH_NAMES[depth]}" for depth, count in counts.items() if count)


def _pixel_format(
    config: DataConfig, name: str, depth: Depth, channels: int, known: Sequence[ImageMetadata]
) -> PixelFormat:
    if depth != "float":
        return PixelFormat(channels=channels, depth=depth)
    low, high = config.value_low, config.value_high
    if name == "B":
        low = low if config.value_low_B is None else config.value_low_B
        high = high if config.value_high_B is None else config.value_high_B
    flags = [f"--value-{end}" + "-B" * (name == "B") for end in ("low", "high")]
    if low is None or high is None:
        ranges = [(metadata.low, metadata.high) for metadata in known]
        least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
        raise UserError(
            f"the images of {name} hold values from {least:g} to {most:g}, which have no range of their own: say which "
            f"become black and white, {flags[0]} {least:g} {flags[1]} {most:g} or a narrower range that you know"
        )
    if not low < high:
        raise UserError(f"{flags[0]} must be less than {flags[1]}, got {low:g} and {high:g}")
    return PixelFormat(channels=channels, depth=depth, low=low, high=high)


def _exceeds(metadata: ImageMetadata, pixel_format: PixelFormat) -> bool:
    return pixel_format.depth == "float" and (metadata.low < pixel_format.low or metadata.high > pixel_format.high)


def _refuse_idle_ranges(config: DataConfig, depths: Sequence[Depth]) -> None:
    """A range that no image uses is a mistake."""
    both, only_B = (config.value_low, config.value_high), (config.value_low_B, config.value_high_B)
    if (any(v is not None for v in both) and "float" not in depths) or (
        any(v is not None for v in only_B) and depths[1] != "float"
    ):
        raise UserError(
            f"--value-low and --value-high are for --depth float, and the images are {DEPTH_NAMES[depths[0]]} (A) and "
            f"{DEPTH_NAMES[depths[1]]} (B): leave them out, or say --depth float to take all values as they stand"
        )
