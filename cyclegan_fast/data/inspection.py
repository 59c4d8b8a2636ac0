"""Reads a picture from its first byte to its last and writes down what there is to know about it."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from cyclegan_fast.data.decode import EXIF_ORIENTATION, FORMATS, BadImageError, reason_of, refuse_unknown_range
from cyclegan_fast.data.jpeg import find_damage
from cyclegan_fast.data.sources import Source

VERSION = 1  # of the facts: raise it when one of them changes its meaning, or when a file may no longer pass

_LOOK_SIDE, _LOOK_WAVES = 32, 8
_GREY = np.array((0.299, 0.587, 0.114))  # Rec. 601 luma
# The lowest frequencies of a cosine transform, [8, 32].
_COSINES = np.cos(np.pi / _LOOK_SIDE * np.outer(np.arange(_LOOK_WAVES), np.arange(_LOOK_SIDE) + 0.5))
_DEPTHS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}


class Facts(NamedTuple):
    """What is known of a picture that can be read."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    format: str
    """What the content is, whatever the name says, such as "JPEG"."""
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
    look: int
    """63 bits that pictures share that look alike (see `look_of`)."""

    @property
    def size(self) -> tuple[int, int]:
        """Upright width and height, in pixels."""
        return self.width, self.height


def inspect(source: Source) -> Facts:
    """Reads one picture.

    Raises:
        BadImageError: it is missing, no image, damaged, too large, or of a kind that is refused.
    """
    try:
        content = source.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, say; what matters raises
            return _facts_of(content)
    except Exception as error:  # whatever a decoder throws at damaged bytes is a fact about the file
        raise BadImageError(source, reason_of(source, error)) from error


def look_of(image: Image.Image) -> int:
    """Condenses what a picture shows into 63 bits: those of two pictures differ in few places if they look alike.

    The picture is reduced to 32x32 grey pixels, and each of its 63 lowest frequencies is above their median or not.
    So its size, format, compression, brightness and contrast hardly matter, nor does its colour.

    Args:
        image: Upright, of any mode but a palette.
    """
    if image.mode in _DEPTHS:
        image = Image.fromarray(np.asarray(image, np.float32))
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    small = np.asarray(image.resize((_LOOK_SIDE, _LOOK_SIDE), Image.Resampling.BOX), np.float64)
    grey = small @ _GREY if small.ndim == 3 else small  # [32, 32]
    waves = (_COSINES @ grey @ _COSINES.T).ravel()[1:]  # without the mean; [63]
    bits = waves > np.median(waves)
    return int.from_bytes(np.packbits(bits).tobytes()) >> 1


def _facts_of(content: bytes) -> Facts:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # a stereo camera's JPEG
        frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
        rotated = image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
        mode, depth = image.mode, _depth_of(image)
        image.load()
        refuse_unknown_range(image)
        if kind == "JPEG" and (damage := find_damage(content)):
            raise ValueError(f"damaged in the middle ({damage})")
        upright = ImageOps.exif_transpose(image) if rotated else image
        if upright.mode in ("P", "PA"):  # one picture has many palettes
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        constant = _is_constant(upright)
        return Facts(
            width=upright.width,
            height=upright.height,
            format=kind,
            mode=mode,
            depth=depth,
            frames=frames,
            rotated=rotated,
            constant=constant,
            content=_digest(content),
            pixels=_digest(f"{upright.mode} {upright.size}".encode(), upright.tobytes()),
            look=0 if constant else look_of(upright),
        )


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
