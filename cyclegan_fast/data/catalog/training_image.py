"""The record of one training image, and how filters drop images from the domains.

On its way from a location to a loader a domain passes filters: quarantine, check, pixel format. Each answers for every
image in its order, with the image as it goes on, or with None or the error in its place. So a pair is still a pair
after each of them, and `drop` is the one place where images of a domain, or pairs, disappear.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.transforms import Size
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.image_file import ImageFile

log = logging.getLogger(__name__)

T = TypeVar("T")
BadPolicy = Literal["error", "skip"]


class TrainingImage(NamedTuple):
    """An image that can be trained on."""

    file: ImageFile
    size: Size
    """Upright width and height in pixels; of the half, where the image is one half of its file."""
    metadata: ImageMetadata
    """Of the whole file."""


def apply_policy(results: Sequence[TrainingImage | BadImageError], on_bad: BadPolicy) -> None:
    """Stops at bad images, or logs that they are left out.

    Raises:
        UserError: Under "error", any bad image; under "skip", not one good image.
    """
    bad = [result for result in results if isinstance(result, BadImageError)]
    if bad and len(bad) == len(results) > 1:
        raise UserError(f"{bad[0]}; none of the {len(results)} files can be used")
    if bad and (on_bad == "error" or len(bad) == len(results)):
        more = f" ({len(bad)} bad files of {len(results)})" if len(bad) > 1 else ""
        raise UserError(
            f"{bad[0]}{more}; replace or remove it, leave such files out with --on-bad-image skip, or list them all "
            f"with python -m cyclegan_fast.dataset check"
        )
    for error in bad:
        log.warning("left out: %s", error)


def drop(domains: Sequence[Sequence[T | BadImageError | None]], paired: bool) -> list[list[T]]:
    """Returns the images of A and B without those that a filter has dropped; of pairs, both where either is.

    Raises:
        UserError: No pair is left.
    """
    if not paired:
        return [_used(domain) for domain in domains]
    pairs = [pair for pair in zip(*domains, strict=True) if len(_used(pair)) == 2]
    if not pairs:
        raise UserError("--paired: of no pair can both images be used; python -m cyclegan_fast.dataset check says why")
    return [_used(side) for side in zip(*pairs, strict=True)]


def _used(images: Sequence[T | BadImageError | None]) -> list[T]:
    return [image for image in images if image is not None and not isinstance(image, BadImageError)]
