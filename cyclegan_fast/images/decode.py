"""From a file to its pixels: one rule for every format, the same in every process.

The format is read from the content, never from the name. EXIF rotation is applied. An animated file gives its first
frame, a TIFF its first page. What is left becomes as many channels as its domain has:

- 1 or 3: transparency is laid over white (the colours hidden under a transparent pixel are arbitrary; floating-point
  transparency is left out, and so are further bands beside RGB); palette, CMYK and YCbCr become RGB; RGB becomes grey
  by Rec. 601 luma; grey becomes RGB by repetition;
- any other number: the channels that are in the file, transparency too, and it must have that many.

Whole numbers of fewer than 8 bits are brought to the full range of 8, those of 9 to 15 bits to that of 16. And the
values become those of the domain's depth:

- 8: 16-bit values are scaled, round(v / 257), where Pillow alone would clip grey above 255 to white; of 16-bit RGB it
  keeps the high byte (of PNG and TIFF);
- 16: 8-bit values are multiplied by 257;
- float: all values are taken as they stand in the file, whole numbers too, clipped to the range that was given, and
  mapped to [-1, 1].

Floating-point, signed and 32-bit pixels have no range of their own: only depth float takes them (and 8 and 16 those
32-bit images whose values lie between 0 and 65535).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.errors import MissingFileError, UserError, one_line
from cyclegan_fast.images import high_bit_depth, tiff
from cyclegan_fast.images.channels import MODES, StoredImage, narrowed, to_channels, to_pil, upright
from cyclegan_fast.images.image_file import ImageFile, as_image_file
from cyclegan_fast.images.orientation import turned_upright
from cyclegan_fast.images.other_kinds import SIGNATURE_BYTES, kind_by_content
from cyclegan_fast.images.png_chunks import without_bad_metadata
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

FIRST_FRAME = "animated files: only the first frame is used"
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
NO_RANGE = (
    "floating-point, signed and 32-bit pixels have no known range: give --depth float, and the range with "
    "--value-low and --value-high"
)


class BadImageError(UserError):
    """An image that cannot be used: `source` and the `reason`."""

    def __init__(self, source: ImageFile | Path | str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = as_image_file(source), reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[ImageFile, str]]:
        return type(self), (self.source, self.reason)


class MissingImageError(BadImageError, MissingFileError):
    """An image whose file is not there."""


def bad_image(source: ImageFile | Path | str, error: Exception) -> BadImageError:
    """Makes the error about an image of what a decoder threw."""
    kind = MissingImageError if isinstance(error, FileNotFoundError) else BadImageError
    return kind(source, reason_of(source, error))


def read(source: ImageFile | Path | str, pixel_format: PixelFormat) -> np.ndarray:
    """Decodes an image to upright pixels of a pixel format, by the rule at this file's head.

    Returns:
        [H, W, C]: uint8 or uint16 over their full range, or for depth float float32 in [-1, 1].

    Raises:
        BadImageError: the file is missing, not an image, damaged, too large, or of a kind that is refused.
    """
    with faults_of(source):
        return to_pixel_format(
            _read_unscaled(source, pixel_format.channels, all_bits=pixel_format.depth != "8"), pixel_format
        )


def read_unscaled(source: ImageFile | Path | str, channels: int) -> np.ndarray:
    """Decodes an image with all its bits: upright [H, W, channels] in uint8, uint16, or a type without a known range.

    Raises:
        BadImageError: as `read` does.
    """
    with faults_of(source):
        return _read_unscaled(source, channels, all_bits=True)


def decode(source: ImageFile | Path | str, channels: int) -> Image.Image:
    """Decodes an image to 8-bit grey (`channels` 1) or RGB (3), for people to look at.

    Returns:
        An image of mode "L" or "RGB", upright.

    Raises:
        BadImageError: as `read` does.
    """
    with faults_of(source):
        return to_pil(to_pixel_format(_read_unscaled(source, channels, all_bits=False), PixelFormat(channels=channels)))


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Converts any image to 8-bit "L" (`channels` 1) or "RGB" (3) by the rule at this file's head.

    Raises:
        ValueError: its pixels have no known range.
    """
    return to_pil(to_pixel_format(unscaled_of(image, channels), PixelFormat(channels=channels)))


def unscaled_of(image: Image.Image, channels: int) -> np.ndarray:
    """The pixels of an upright PIL image, with all its bits, as `read_unscaled` gives them.

    Raises:
        ValueError: it cannot have that many channels.
    """
    if image.mode in ("La", "RGBa"):  # premultiplied, from which Pillow converts to nothing else
        image = image.convert(image.mode.upper())
    if image.mode == "F" or image.mode.startswith("I"):
        return to_channels(_stored_grey(image), channels)
    if channels not in MODES:
        names = stored_mode(image)
        pixels = np.array(image if image.mode == names else image.convert(names))
        return to_channels(StoredImage(pixels.reshape(*pixels.shape[:2], -1)), channels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.array(image.convert(MODES[channels]))
    return pixels[..., None] if channels == 1 else pixels


def to_pixel_format(pixels: np.ndarray, pixel_format: PixelFormat) -> np.ndarray:
    """Brings unscaled pixels to the depth of a pixel format, by this file's rule; see `read` for the result.

    Raises:
        ValueError: they have no range of their own, or hold what is no number.
    """
    refuse_no_numbers(pixels)
    pixels = np.ascontiguousarray(pixels)  # which the operators ask for; channels and halves are views
    if pixel_format.depth == "float":
        values = pixels.astype(np.float64).clip(pixel_format.low, pixel_format.high)
        return ((values - pixel_format.low) * (2.0 / (pixel_format.high - pixel_format.low)) - 1.0).astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(NO_RANGE)
    if pixel_format.depth == "16":
        return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * np.uint16(257)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257.0).astype(np.uint8)


def count_clipped(pixels: np.ndarray, pixel_format: PixelFormat) -> int:
    """How many of these unscaled pixels `to_pixel_format` would clip."""
    return (
        int(np.count_nonzero((pixels < pixel_format.low) | (pixels > pixel_format.high)))
        if pixel_format.depth == "float"
        else 0
    )


def _read_unscaled(source: ImageFile | Path | str, channels: int, *, all_bits: bool) -> np.ndarray:
    """[H, W, channels]; without `all_bits`, 16-bit colour may be its high byte, which Pillow alone can read."""
    with opened(as_image_file(source).open()) as (file, image):
        beyond = None if image is None else high_bit_depth.beyond_pillow(image)
        if image is not None and (beyond is None or not (all_bits or beyond.wrong_in_pillow or channels not in MODES)):
            return _part(unscaled_of(turned_upright(image), channels), as_image_file(source))
        stored = high_bit_depth.load(file, image)
        if stored.pages > 1:
            warn_once(log, FIRST_FRAME)
        pixels = to_channels(stored._replace(pixels=narrowed(upright(stored))), channels)
        return _part(pixels, as_image_file(source))


def _part(pixels: np.ndarray, source: ImageFile) -> np.ndarray:
    """What a source shows of an upright image [H, W, C]."""
    left, width = source.columns(pixels.shape[1])
    return pixels[:, left : left + width]


@contextlib.contextmanager
def opened(file: BinaryIO, *, warn: bool = True) -> Iterator[tuple[BinaryIO, Image.Image | None]]:
    """Yields the file, and the image in it with its header read; None for a TIFF of a kind unknown to Pillow.

    With `warn` an animated one is reported, once per process.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(without_bad_metadata(stack.enter_context(file)))
        try:
            image = stack.enter_context(Image.open(file, formats=FORMATS))
        except UnidentifiedImageError:
            if not tiff.is_tiff(file):
                raise
            yield file, None
            return
        high_bit_depth.scale_transparent_value(image)
        if image.format == "TIFF":
            image.info.pop("xmp", None)  # Pillow turns by it, as no other does, and fails where it is stored as text
        if warn and getattr(image, "is_animated", False) and image.format != "MPO":
            warn_once(log, FIRST_FRAME)
        yield file, image


def grey_of(image: Image.Image) -> np.ndarray:
    """A grey image of more than 8 bits, [H, W, 1]: uint16 where its values allow, else int32 or float32."""
    pixels = np.array(image)[..., None]
    return narrowed(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def _stored_grey(image: Image.Image) -> StoredImage:
    """A grey image of more than 8 bits; a value that stands for transparency becomes a channel."""
    pixels, key = grey_of(image), image.info.get("transparency")
    if pixels.dtype != np.uint16 or not isinstance(key, int):
        return StoredImage(pixels)
    opaque = np.where(pixels == key, 0, 65535).astype(np.uint16)
    return StoredImage(np.concatenate([pixels, opaque], axis=2), alpha="straight")


def refuse_no_numbers(pixels: np.ndarray) -> None:
    """Raises ValueError where floating-point pixels are NaN or infinite."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("pixels that are NaN or infinite")


def stored_mode(image: Image.Image) -> str:
    """Returns the mode with the channels of an 8-bit image as they are stored; of a palette, that of its colours."""
    if image.mode in ("1", "L"):
        return "LA" if "transparency" in image.info else "L"
    if "transparency" not in image.info and image.mode in ("RGB", "CMYK", "LA", "RGBA"):
        return image.mode
    return "RGBA" if image.has_transparency_data else "RGB"


@contextlib.contextmanager
def faults_of(source: ImageFile | Path | str) -> Iterator[None]:
    """Whatever a decoder throws at damaged bytes is a fact about the file."""
    try:
        yield
    except Exception as error:
        raise bad_image(source, error) from error


def reason_of(source: ImageFile | Path | str, error: Exception) -> str:
    """Describes what is wrong with a file, in a few words."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to be decoded safely ({error})"
    if isinstance(error, UnidentifiedImageError):
        return _why_unidentified(as_image_file(source))
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"cannot be read ({error.strerror})"
    reason = one_line(error)
    return f"damaged or unsupported ({reason})" if isinstance(error, OSError | SyntaxError) else reason


def _why_unidentified(source: ImageFile) -> str:
    """What a file is that no decoder knows, by its first bytes."""
    with source.open() as file:
        start = file.read(SIGNATURE_BYTES)
    if not start:
        return "the file is empty"
    if start.startswith(b"\xff\xd8\xff"):
        return "a damaged JPEG, or one of 12 bits or without loss, which is not read; convert it to PNG"
    if kind := kind_by_content(start):
        return f"{kind}, which is not read; convert it to PNG, JPEG or TIFF"
    return "not an image in a known format (JPEG, PNG, WebP, BMP, TIFF, PPM, GIF)"
