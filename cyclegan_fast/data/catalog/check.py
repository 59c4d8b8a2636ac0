"""The check of every image before training: a bad one is found now, not in the middle of the night."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.catalog.training_image import BadPolicy, TrainingImage, apply_policy
from cyclegan_fast.data.transforms import Size
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.image_file import ImageFile, as_image_file
from cyclegan_fast.monitoring.progress import ProgressBar

_MANIFEST_FROM = 2000  # images; fewer are checked in seconds and leave no trace in the user's folder


def check_images(
    images: Sequence[ImageFile | Path | str],
    *,
    on_bad: BadPolicy = "error",
    min_side: int = 1,
    catalog_folder: Path | None = None,
) -> list[TrainingImage | BadImageError]:
    """Reads every image to its end, in processes; of a folder that has a manifest, only what is new or changed.

    Args:
        images: The images.
        on_bad: "error" stops at the end of the check and names the first bad one; "skip" goes on without bad ones.
        min_side: An image with a shorter side than this, in pixels, is bad.
        catalog_folder: The data folder, which keeps the manifest (see `Manifest`): a large set starts one, and so does
            `dataset check`.

    Returns:
        For each image, in order, its record, or under "skip" what is wrong with it.

    Raises:
        UserError: Under "error", any bad file; under "skip", not one good file.
    """
    files = [as_image_file(image) for image in images]
    manifest = Manifest(catalog_folder)
    try:
        with ProgressBar("images", "checking", bar=False) as progress:
            probed = manifest.probe([file.whole for file in files], progress=progress)
    finally:  # even of a check that was interrupted
        if len(files) >= _MANIFEST_FROM or manifest.exists():
            manifest.save()
    results = [_record(file, metadata, min_side) for file, metadata in zip(files, probed, strict=True)]
    apply_policy(results, on_bad)
    return results


def too_small(size: Size, min_side: int) -> str:
    """Returns why an image of `size` cannot be used if its shorter side is below `min_side`; else an empty string."""
    width, height = size
    return f"{width}x{height} pixels, but the shorter side must be at least {min_side}" * (min(size) < min_side)


def _record(file: ImageFile, probed: ImageMetadata | BadImageError, min_side: int) -> TrainingImage | BadImageError:
    if isinstance(probed, BadImageError):
        return probed
    width, height = probed.size
    size = file.columns(width)[1], height
    reason = too_small(size, min_side)
    return BadImageError(file, reason) if reason else TrainingImage(file, size, probed)
