"""From a file to its pixels: one rule for every format, the same in every process.

The format is read from the content, never from the name. EXIF rotation is applied. An animated file gives its first
frame, a TIFF its first page. What is left becomes as many channels as its domain has:

- 1 or 3: transparency is laid over white (the colours hidden under a transparent pixel are arbitrary; floating-point
  transparency is left out); palette, CMYK and YCbCr become RGB; RGB becomes grey by Rec. 601 luma; grey becomes RGB
  by repetition;
- any other number: the channels that are in the file, transparency too, and it must have that many.

And the values become those of the domain's depth:

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
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import high_bit_depth as deep
from cyclegan_fast.images.image_file import ImageFile, as_image_file

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
MODES = {1: "L", 3: "RGB"}
EXIF_ORIENTATION = 0x0112
NO_RANGE = (
    "floating-point, signed and 32-bit pixels have no known range: say --depth float, and the range with "
    "--value-low and --value-high"
)
_LUMA = np.array((0.299, 0.587, 0.114))  # Rec. 601


class BadImageError(UserError):
    """An image that cannot be used: `source` and the `reason`."""

    def __init__(self, source: ImageFile | Path | str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = as_image_file(source), reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[ImageFile, str]]:
        return type(self), (self.source, self.reason)


def read(source: ImageFile | Path | str, pixel_format: PixelFormat) -> np.ndarray:
    """Decodes an image to upright pixels of a pixel format, by the rule at this file's head.

    Returns:
        [H, W, C]: uint8 or uint16 over their full range, or for depth float float32 in [-1, 1].

    Raises:
        BadImageError: the file is missing, not an image, damaged, too large, or of a kind that is refused.
    """
    with faults_of(source):
        return to_pixel_format(_native(source, pixel_format.channels, all_bits=pixel_format.depth != "8"), pixel_format)


def native(source: ImageFile | Path | str, channels: int) -> np.ndarray:
    """Decodes an image with all its bits: upright [H, W, channels] in uint8, uint16, or a type without a known range.

    Raises:
        BadImageError: as `read` does.
    """
    with faults_of(source):
        return _native(source, channels, all_bits=True)


def decode(source: ImageFile | Path | str, channels: int) -> Image.Image:
    """Decodes an image to 8-bit grey (`channels` 1) or RGB (3), for people to look at.

    Returns:
        An image of mode "L" or "RGB", upright.

    Raises:
        BadImageError: as `read` does.
    """
    with faults_of(source):
        return _to_pil(to_pixel_format(_native(source, channels, all_bits=False), PixelFormat(channels=channels)))


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Converts any image to 8-bit "L" (`channels` 1) or "RGB" (3) by the rule at this file's head.

    Raises:
        ValueError: its pixels have no known range.
    """
    return _to_pil(to_pixel_format(native_of(image, channels), PixelFormat(channels=channels)))


def native_of(image: Image.Image, channels: int) -> np.ndarray:
    """The pixels of an upright PIL image, with all its bits, as `native` gives them.

    Raises:
        ValueError: it cannot have that many channels.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return to_channels(deep.Raster(deep_grey(image), colour=False), channels)
    if channels not in MODES:
        names = stored_mode(image)
        pixels = np.array(image if image.mode == names else image.convert(names))
        return to_channels(deep.Raster(pixels.reshape(*pixels.shape[:2], -1), colour=False), channels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.array(image.convert(MODES[channels]))
    return pixels[..., None] if channels == 1 else pixels


def to_pixel_format(pixels: np.ndarray, pixel_format: PixelFormat) -> np.ndarray:
    """Brings native pixels to the depth of a pixel format, by the rule at this file's head; see `read` for the result.

    Raises:
        ValueError: they have no range of their own, or hold what is no number.
    """
    refuse_no_numbers(pixels)
    if pixel_format.depth == "float":
        values = pixels.astype(np.float64).clip(pixel_format.low, pixel_format.high)
        return ((values - pixel_format.low) * (2.0 / (pixel_format.high - pixel_format.low)) - 1.0).astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(NO_RANGE)
    if pixel_format.depth == "16":
        return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * np.uint16(257)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257.0).astype(np.uint8)


def count_clipped(pixels: np.ndarray, pixel_format: PixelFormat) -> int:
    """How many of these native pixels `to_pixel_format` would clip."""
    return (
        int(np.count_nonzero((pixels < pixel_format.low) | (pixels > pixel_format.high)))
        if pixel_format.depth == "float"
        else 0
    )


def _native(source: ImageFile | Path | str, channels: int, *, all_bits: bool) -> np.ndarray:
    """[H, W, channels]; without `all_bits`, 16-bit colour may be its high byte, which Pillow alone can read."""
    with opened(as_image_file(source).open()) as (file, image):
        hidden = None if image is None else deep.hidden_in(image)
        if image is not None and (hidden is None or not (all_bits or hidden.mistaken or channels not in MODES)):
            return _part(native_of(ImageOps.exif_transpose(image), channels), as_image_file(source))
        raster = deep.load(file, image)
        if raster.pages > 1:
            _warn_animated()
        return _part(to_channels(raster._replace(pixels=upright(raster)), channels), as_image_file(source))


def _part(pixels: np.ndarray, source: ImageFile) -> np.ndarray:
    """What a source shows of an upright image [H, W, C]."""
    left, width = source.columns(pixels.shape[1])
    return pixels[:, left : left + width]


@contextlib.contextmanager
def opened(file: BinaryIO, *, tell: bool = True) -> Iterator[tuple[BinaryIO, Image.Image | None]]:
    """The file, and the image in it of which the header has been read; None for a TIFF of a kind unknown to Pillow.

    With `tell` a word is said, once, if it is animated.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        try:
            image = stack.enter_context(Image.open(file, formats=FORMATS))
        except UnidentifiedImageError:
            if not deep.is_tiff(file):
                raise
            yield file, None
            return
        if tell and getattr(image, "is_animated", False) and image.format != "MPO":
            _warn_animated()
        yield file, image


def to_channels(raster: deep.Raster, channels: int) -> np.ndarray:
    """[H, W, C] -> [H, W, channels], by the rule at this file's head.

    Raises:
        ValueError: there is none.
    """
    pixels, colour, alpha = raster.pixels, raster.colour, raster.alpha
    have = pixels.shape[2]
    if channels in MODES and alpha and pixels.dtype.kind == "u":
        pixels, have = _over_white(pixels, alpha), have - 1
    if have == channels:
        return pixels
    if channels == 3 and have == 1:
        return np.repeat(pixels, 3, axis=2)
    if colour and channels in MODES:
        pixels = pixels[..., :3]  # what else there is has no meaning that is known
        return pixels if channels == 3 else _rounded(pixels @ _LUMA, pixels.dtype)[..., None]
    raise ValueError(wrong_channels(have, channels))


def wrong_channels(have: int, wanted: int) -> str:
    """Says that a file has another number of channels than its domain."""
    return f"it has {have} channels, and {wanted} are wanted; --channels-A and --channels-B say how many a domain has"


def _over_white(pixels: np.ndarray, alpha: str) -> np.ndarray:
    """Lays [H, W, C + 1], the last channel being transparency, over white: [H, W, C]."""
    white = np.iinfo(pixels.dtype).max
    share = pixels[..., -1:] / white
    colours = pixels[..., :-1] * (share if alpha == "straight" else 1.0)
    return _rounded(colours + white * (1.0 - share), pixels.dtype)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def upright(raster: deep.Raster) -> np.ndarray:
    """The pixels, turned and mirrored as the orientation says."""
    pixels, turn = raster.pixels, raster.orientation
    if turn in (2, 3, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7):
        pixels = pixels[::-1]
    if turn in (5, 7):
        pixels = pixels.swapaxes(0, 1)
    if turn in (6, 8):
        pixels = np.rot90(pixels, 1 if turn == 8 else -1)
    return np.ascontiguousarray(pixels)


def deep_grey(image: Image.Image) -> np.ndarray:
    """A grey image of more than 8 bits, [H, W, 1]: uint16 where its values allow, else int32 or float32."""
    pixels = np.array(image)[..., None]
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def refuse_no_numbers(pixels: np.ndarray) -> None:
    """Raises ValueError where floating-point pixels are NaN or infinite."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("pixels that are NaN or infinite")


def stored_mode(image: Image.Image) -> str:
    """The mode that has the channels of an 8-bit image as they are stored: that of a palette's colours, say."""
    if "transparency" not in image.info and image.mode in ("1", "L", "RGB", "CMYK", "LA", "RGBA"):
        return "L" if image.mode == "1" else image.mode
    return "RGBA" if image.has_transparency_data else "RGB"


def _to_pil(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 or 3] as an image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


@contextlib.contextmanager
def faults_of(source: ImageFile | Path | str) -> Iterator[None]:
    """Whatever a decoder throws at damaged bytes is a fact about the file."""
    try:
        yield
    except Exception as error:
        raise BadImageError(source, reason_of(source, error)) from error


def reason_of(source: ImageFile | Path | str, error: Exception) -> str:
    """Says what is wrong with a file, in a few words."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to be decoded safely ({error})"
    if isinstance(error, UnidentifiedImageError):
        empty = as_image_file(source).size == 0
        return "the file is empty" if empty else "not an image in a known format (JPEG, PNG, WebP, BMP, TIFF, PPM, GIF)"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"cannot be read ({error.strerror})"
    return f"damaged or unsupported ({error})" if isinstance(error, OSError | SyntaxError) else str(error)


@functools.cache  # once per process: a folder of thousands gives one line, not thousands
def _warn_animated() -> None:
    warnings.warn("animated files: only the first frame is used", stacklevel=3)
