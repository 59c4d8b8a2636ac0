"""Reads an image from its first byte to its last and collects its metadata."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from cyclegan_fast.config import Depth, PixelFormat
from cyclegan_fast.images import high_bit_depth
from cyclegan_fast.images.channels import MODES, StoredImage, narrowed, upright, wrong_channels
from cyclegan_fast.images.decode import (
    NO_RANGE,
    bad_image,
    grey_of,
    opened,
    refuse_no_numbers,
    stored_mode,
)
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.jpeg_damage import find_damage
from cyclegan_fast.images.orientation import orientation_of, turned_upright
from cyclegan_fast.images.packages import why_missing
from cyclegan_fast.images.perceptual_hash import perceptual_hash

VERSION = 3  # of the metadata: raise it when one of them changes its meaning, or when a file may no longer pass

_DEPTHS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}


class ImageMetadata(NamedTuple):
    """What is known of an image that can be read."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    format: str
    """Of the content, not of the name, such as "JPEG"."""
    mode: str
    """Pillow's word for the channels, such as "RGB"."""
    depth: int
    """Bits of a channel in the file."""
    frames: int
    rotated: bool
    """Whether EXIF turns or mirrors it."""
    constant: bool
    """Whether all pixels are equal."""
    content: str
    """Digest of the file's bytes."""
    pixels: str
    """Digest of the upright pixels and their mode."""
    perceptual_hash: int
    """63 bits, of which near-duplicates share most; 0 of a constant image."""
    channels: int
    """As stored: transparency counts, and a palette as its colours."""
    images: bool
    """Whether the channels are grey or RGB (and transparency), of which either can be made."""
    values: Depth
    """The depth that takes all of it; float where the pixels have no range of their own."""
    low: float
    """The lowest value that there may be; of floating-point images, that there is."""
    high: float
    """The highest, alike."""
    package: str
    """What gives all bits and channels, where Pillow gives the high byte; else empty."""

    @property
    def pixel_format(self) -> PixelFormat:
        """One that shows this image by itself: grey or RGB if it can be, over the range of its own values."""
        channels = 3 if self.images else self.channels
        if self.values != "float":
            return PixelFormat(channels=channels)
        return PixelFormat(channels=channels, depth="float", low=self.low, high=max(self.high, self.low + 1.0))

    @property
    def size(self) -> tuple[int, int]:
        """Upright width and height, in pixels."""
        return self.width, self.height


def inspect(source: ImageFile) -> ImageMetadata:
    """Reads one image.

    Raises:
        BadImageError: it is missing, no image, damaged, too large, or of a kind that is refused.
    """
    try:
        content = source.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what matters raises
            return _metadata_of(content)
    except Exception as error:  # whatever a decoder throws at damaged bytes is a fact about the file
        raise bad_image(source, error) from error


def why_not(metadata: ImageMetadata, pixel_format: PixelFormat) -> str:
    """Why an image cannot be read in a pixel format; empty if it can."""
    if pixel_format.depth != "float" and metadata.values == "float":
        return NO_RANGE
    if metadata.package and pixel_format.depth == "8" and pixel_format.channels in MODES:
        return ""  # Pillow's high byte is enough
    if metadata.channels != pixel_format.channels and not (metadata.images and pixel_format.channels in MODES):
        return wrong_channels(metadata.channels, pixel_format.channels)
    return why_missing(metadata.package) if metadata.package else ""


def _metadata_of(content: bytes) -> ImageMetadata:
    with opened(io.BytesIO(content), warn=False) as (file, image):
        beyond = None if image is None else high_bit_depth.beyond_pillow(image)
        if image is None or (beyond is not None and (beyond.wrong_in_pillow or beyond.depth == "float")):
            kind = "TIFF" if image is None else str(image.format)
            return _metadata_of_stored(content, kind, high_bit_depth.load(file, image))
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # a stereo camera's JPEG
        frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
        rotated = orientation_of(image) > 1
        mode, depth, channels = image.mode, _depth_of(image), len(stored_mode(image))
        image.load()
        if kind == "JPEG" and (damage := find_damage(content)):
            raise ValueError(f"damaged in the middle ({damage})")
        turned = turned_upright(image) if rotated else image
        if turned.mode in ("P", "PA"):  # one image has many palettes
            turned = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
        values: Depth
        if turned.mode in _DEPTHS and turned.mode != "1":
            values, low, high = _range_of(grey_of(turned))
            channels = 2 if values == "16" and isinstance(turned.info.get("transparency"), int) else 1
        else:
            values, low, high = ("8", 0.0, 255.0) if beyond is None or beyond.depth == "8" else ("16", 0.0, 65535.0)
        constant = _is_constant(turned)
        return ImageMetadata(
            width=turned.width,
            height=turned.height,
            format=kind,
            mode=mode,
            depth=depth,
            frames=frames,
            rotated=rotated,
            constant=constant,
            content=_digest(content),
            pixels=_digest(f"{turned.mode} {turned.size}".encode(), turned.tobytes()),
            perceptual_hash=0 if constant else perceptual_hash(turned),
            channels=channels if beyond is None else beyond.channels,
            images=beyond is None or beyond.is_image,
            values=values,
            low=low,
            high=high,
            package="" if beyond is None else beyond.package,
        )


def _metadata_of_stored(content: bytes, kind: str, stored: StoredImage) -> ImageMetadata:
    """Of an image that Pillow cannot read, or not rightly."""
    pixels = narrowed(upright(stored))
    height, width, channels = pixels.shape
    values, low, high = _range_of(pixels)
    constant = bool((pixels == pixels[:1, :1]).all())
    grey = pixels[..., : 3 if channels > 2 else 1].mean(axis=2, dtype=np.float64).astype(np.float32)
    return ImageMetadata(
        width=width,
        height=height,
        format=kind,
        mode=f"{channels} channels of {pixels.dtype}",
        depth=8 * pixels.dtype.itemsize,
        frames=stored.pages,
        rotated=stored.orientation in range(2, 9),
        constant=constant,
        content=_digest(content),
        pixels=_digest(f"{pixels.dtype} {pixels.shape}".encode(), pixels.tobytes()),
        perceptual_hash=0 if constant else perceptual_hash(Image.fromarray(grey)),
        channels=channels,
        images=stored.is_image,
        values=values,
        low=low,
        high=high,
        package="",
    )


def _range_of(pixels: np.ndarray) -> tuple[Depth, float, float]:
    """The depth that takes unscaled pixels, and the range that they lie in."""
    if pixels.dtype == np.uint8:
        return "8", 0.0, 255.0
    if pixels.dtype == np.uint16:
        return "16", 0.0, 65535.0
    refuse_no_numbers(pixels)
    return "float", float(pixels.min()), float(pixels.max())


def _depth_of(image: Image.Image) -> int:
    """Bits of a channel in the file, which for 16-bit colour are more than Pillow keeps."""
    depth = _DEPTHS.get(image.mode, 8)
    coded = " ".join(str(tile[3]) for tile in getattr(image, "tile", []))
    return 16 if depth == 8 and ";16" in coded else depth


def _is_constant(image: Image.Image) -> bool:
    extrema = image.getextrema()
    pairs = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in pairs)  # type: ignore[misc]


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
