"""The check of every image before training: a bad one is found now, not in the middle of the night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclegan_fast.data.catalog.manifest import Index
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.image_file import ImageFile, as_image_file
from cyclegan_fast.monitoring.progress import ProgressBar

Size = tuple[int, int]  # width, height, in pixels
BadPolicy = Literal["error", "skip"]

_KEEP_FROM = 2000  # images; fewer are checked in seconds and leave no trace in the user's folder


@dataclass(frozen=True)
class CheckedImages:
    """What a check found."""

    good: list[ImageFile]
    sizes: list[Size]
    """Upright size of each good image."""
    metadata: list[ImageMetadata]
    """What is known of each good image, or of the one that it is a half of."""
    bad: list[BadImageError]


def check_images(
    images: Sequence[ImageFile | Path | str],
    *,
    on_bad: BadPolicy = "error",
    min_side: int = 1,
    cache_folder: Path | None = None,
) -> CheckedImages:
    """Reads every image to its end, in processes; of a folder that has an index, only what is new or changed.

    Args:
        images: The images.
        on_bad: "error" stops at the end of the check and names the first bad one; "skip" leaves bad ones out.
        min_side: An image with a shorter side than this, in pixels, is bad.
        cache_folder: The data folder, which keeps the index (see `Index`): a large set starts one, `dataset check` too.

    Raises:
        UserError: under "error", any bad file; under "skip", not one good file.
    """
    sources = [as_image_file(image) for image in images]
    index = Index(cache_folder)
    try:
        with ProgressBar("images", "checking", bar=False) as progress:
            found = index.survey([source.whole for source in sources], progress=progress)
    finally:  # even of a check that was interrupted
        if len(sources) >= _KEEP_FROM or index.exists():
            index.save()
    results = [_refuse_small(source, metadata, min_side) for source, metadata in zip(sources, found, strict=True)]
    bad = [r for r in results if isinstance(r, BadImageError)]
    if bad and on_bad == "error":
        more = f" ({len(bad)} bad files of {len(sources)})" if len(bad) > 1 else ""
        raise UserError(
            f"{bad[0]}{more}; replace or remove it, leave such files out with --on-bad-image skip, or list them all "
            f"with python -m cyclegan_fast.dataset check"
        )
    if len(bad) == len(sources):
        raise UserError(f"{bad[0]}; none of the {len(sources)} files can be used")
    good = {
        source: (size, metadata)
        for source, size, metadata in zip(sources, results, found, strict=True)
        if not isinstance(size, BadImageError) and not isinstance(metadata, BadImageError)
    }
    return CheckedImages(
        list(good), [size for size, _ in good.values()], [metadata for _, metadata in good.values()], bad
    )


def too_small(size: Size, min_side: int) -> str:
    """Why an image of `size` cannot be used, if its shorter side is below `min_side`; else an empty string."""
    width, height = size
    return f"{width}x{height} pixels, but the shorter side must be at least {min_side}" * (min(size) < min_side)


def _refuse_small(source: ImageFile, found: ImageMetadata | BadImageError, min_side: int) -> Size | BadImageError:
    if isinstance(found, BadImageError):
        return found
    width, height = found.size
    size = source.columns(width)[1], height
    reason = too_small(size, min_side)
    return BadImageError(source, reason) if reason else size
