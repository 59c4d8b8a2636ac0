"""From a file to an 8-bit image: one rule for every format, the same in every process.

The format is read from the content, never from the name. EXIF rotation is applied. An animated file gives its first
frame. What is left becomes grey ("L") or RGB:

- transparency is laid over white: the colours hidden under a transparent pixel are arbitrary;
- palette, CMYK and YCbCr become RGB; RGB becomes grey by Rec. 601 luma; grey becomes RGB by repetition;
- 16-bit grey is scaled, round(v / 257), where Pillow alone would clip everything above 255 to white;
- 16-bit colour keeps its high byte, which is how Pillow reads it;
- floating-point and wider integer images are refused: their range is not known.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cyclegan_fast.data.sources import Source, as_source
from cyclegan_fast.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
_MODES = {1: "L", 3: "RGB"}
EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class BadImageError(UserError):
    """An image that cannot be used: `source` and the `reason`."""

    def __init__(self, source: Source | Path | str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = as_source(source), reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[Source, str]]:
        return type(self), (self.source, self.reason)


@dataclass(frozen=True)
class Form:
    """What images are decoded to."""

    channels: int = 3


def read(source: Source | Path | str, form: Form) -> np.ndarray:
    """Decodes an image to upright pixels [H, W, C].

    Raises:
        BadImageError: as `decode` does.
    """
    pixels = np.asarray(decode(source, form.channels))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode(source: Source | Path | str, channels: int) -> Image.Image:
    """Decodes an image to grey (`channels` 1) or RGB (3).

    Returns:
        An image of mode "L" or "RGB", upright.

    Raises:
        BadImageError: the file is missing, not an image, damaged, too large, or of a kind that is refused.
    """
    try:
        with as_source(source).open() as file, Image.open(file, formats=FORMATS) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":
                _warn_animated()
            return to_mode(_part(ImageOps.exif_transpose(image), as_source(source)), channels)
    except Exception as error:  # whatever a decoder throws at damaged bytes is a fact about the file
        raise BadImageError(source, reason_of(source, error)) from error


def probe(source: Source | Path | str) -> tuple[int, int]:
    """Decodes a file to its last byte, as `decode` does, for nothing but its upright size (width, height).

    Raises:
        BadImageError: as `decode` does.
    """
    try:
        with as_source(source).open() as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if image.getexif().get(EXIF_ORIENTATION) in _QUARTER_TURNS:
                width, height = height, width
            image.draft(None, (width // 8, height // 8))  # JPEG: all the entropy coding, little of the rest
            image.load()
            refuse_unknown_range(image)
            return as_source(source).columns(width)[1], height
    except Exception as error:
        raise BadImageError(source, reason_of(source, error)) from error


def _part(image: Image.Image, source: Source) -> Image.Image:
    """What a source shows of a picture."""
    left, width = source.columns(image.width)
    return image.crop((left, 0, left + width, image.height)) if source.half else image


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Converts any image to "L" (`channels` 1) or "RGB" (3) by the rule at this file's head."""
    if channels not in _MODES:
        raise UserError(f"images have 1 or 3 channels here, {channels} were asked for")
    refuse_unknown_range(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float64) / 257.0).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert(_MODES[channels])


def refuse_unknown_range(image: Image.Image) -> None:
    """Raises ValueError for pixels that nothing says how to read."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the file to 8 or 16 bits per channel")
    if image.mode == "I":
        low, high = image.getextrema()
        if not 0 <= low <= high <= 65535:  # type: ignore[operator]
            raise ValueError("32-bit pixels have no known range; convert the file to 8 or 16 bits per channel")


def reason_of(source: Source | Path | str, error: Exception) -> str:
    """Says what is wrong with a file, in a few words."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to be decoded safely ({error})"
    if isinstance(error, UnidentifiedImageError):
        empty = as_source(source).size == 0
        return "the file is empty" if empty else "not an image in a known format (JPEG, PNG, WebP, BMP, TIFF, PPM, GIF)"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"cannot be read ({error.strerror})"
    return f"damaged or unsupported ({error})" if isinstance(error, OSError | SyntaxError) else str(error)


@functools.cache  # once per process: a folder of thousands gives one line, not thousands
def _warn_animated() -> None:
    warnings.warn("animated files: only the first frame is used", stacklevel=3)
