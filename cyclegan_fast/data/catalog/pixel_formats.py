"""Which pixel format the images of each domain have, and which images cannot have it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cyclegan_fast.config import DataConfig, Depth, PixelFormat
from cyclegan_fast.data.catalog.probe import ImageMetadata, why_not
from cyclegan_fast.data.catalog.training_image import BadPolicy, TrainingImage, apply_policy
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError, count_clipped, read_unscaled

log = logging.getLogger(__name__)

DEPTH_NAMES: dict[Depth, str] = {"8": "8 bit", "16": "16 bit", "float": "float"}


def find_pixel_formats(
    config: DataConfig, channels: Sequence[int], domains: Sequence[Sequence[TrainingImage]]
) -> list[PixelFormat]:
    """Returns the pixel formats of A and B, as the networks name the domains.

    Args:
        config: Their depth, and the ranges of floating-point values.
        channels: Of the images of A and B.
        domains: The images of A and B.

    Raises:
        UserError: Values have no range of their own and none was given, or it is empty, or nothing uses it.
    """
    known = [[image.metadata for image in images] for images in domains]
    depths = [depth_of(metadata) if config.depth == "auto" else config.depth for metadata in known]
    _refuse_idle_ranges(config, depths)
    pixel_formats = [
        _pixel_format(config, name, depth, count, metadata)
        for name, depth, count, metadata in zip("AB", depths, channels, known, strict=True)
    ]
    if config.depth == "auto" and depths != ["8", "8"]:
        found = [
            f"{name} {DEPTH_NAMES[depth]} ({count_depths(metadata)})"
            for name, depth, metadata in zip("AB", depths, known, strict=True)
        ]
        log.info("depth: %s", ", ".join(found))
    return pixel_formats


def fit(
    images: Sequence[TrainingImage], pixel_format: PixelFormat, on_bad: BadPolicy = "error"
) -> list[TrainingImage | BadImageError]:
    """Returns, for each image in order, the image, or why it cannot be brought to `pixel_format`.

    Raises:
        UserError: As `apply_policy` does.
    """
    results: list[TrainingImage | BadImageError] = []
    for image in images:
        reason = why_not(image.metadata, pixel_format)
        results.append(BadImageError(image.file, reason) if reason else image)
    apply_policy(results, on_bad)
    return results


def describe_clipping(images: Sequence[TrainingImage], pixel_format: PixelFormat) -> str:
    """Returns how many values of a domain are clipped, in words; an empty string if none is.

    Only files that hold such values are read.
    """
    low, high = pixel_format.scale
    beyond = [image for image in images if _exceeds(image.metadata, pixel_format)]

    def count(image: TrainingImage) -> tuple[int, int]:
        pixels = read_unscaled(image.file, pixel_format.channels)
        return count_clipped(pixels, pixel_format), pixels.size

    with ThreadPoolExecutor(usable_cores(), "count-clipped") as threads:
        counts = [(clipped, total) for clipped, total in threads.map(count, beyond) if clipped]
    if not counts:
        return ""
    clipped, total = (sum(numbers) for numbers in zip(*counts, strict=True))
    return (
        f"{clipped} values ({100 * clipped / total:.2g} %) in {len(counts)} of {len(images)} files lie outside "
        f"{low:g} to {high:g} and are clipped"
    )


def depth_of(known: Sequence[ImageMetadata]) -> Depth:
    """Returns 16 if all files have 16 bits, float if some have no range of their own, 8 if any file has 8 bits."""
    depths = {metadata.values for metadata in known}
    if "8" in depths:
        return "8"
    return "float" if "float" in depths else "16"


def count_depths(known: Sequence[ImageMetadata]) -> str:
    """Returns how many files have which depth: ``3 files 8 bit, 5 files 16 bit``."""
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
        lowest, highest = min(metadata.low for metadata in known), max(metadata.high for metadata in known)
        raise UserError(
            f"the images of {name} hold values from {lowest:g} to {highest:g}, which have no range of their own: say "
            f"which become black and white, {flags[0]} {lowest:g} {flags[1]} {highest:g} or a narrower range that you "
            f"know"
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
