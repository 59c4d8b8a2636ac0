"""Images that Pillow reads with fewer bits or channels than they have, or not at all.

These are 16-bit colour (PNG, TIFF, PPM) and TIFF with other than 1, 3 or 4 channels, or with floating-point pixels that
are not float32 grey. The packages of the extra [deep] read and write them: imagecodecs PNG, tifffile TIFF.
"""

from __future__ import annotations

import importlib.util
import io
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from cyclegan_fast.config import Depth

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian; with 32-bit and with 64-bit offsets
_BITS, _PHOTOMETRIC, _CHANNELS, _PLANES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 277, 284, 338, 339  # tags of TIFF
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _CMYK, _YCBCR = 0, 1, 2, 5, 6  # values of its photometric tag
_JPEG = 7  # value of its compression tag
_UNSIGNED = 1  # value of its sample format
_ALPHA = {1: "premultiplied", 2: "straight"}  # its kinds of extra samples; others are channels like any
_ORIENTATION = 274
_KINDS = {
    "imagecodecs": "16-bit colour PNG",
    "tifffile": "TIFF with 16-bit colour, float64 or float16 values, or other channels than grey, RGB and transparency",
}


class Raster(NamedTuple):
    """Pixels as they are stored, with what their channels mean."""

    pixels: np.ndarray
    """[H, W, C], not turned yet."""
    colour: bool
    """Whether the first three channels are red, green and blue."""
    alpha: str = ""
    """How the last channel is transparency: "straight", "premultiplied", or not at all."""
    orientation: int = 1
    """As in EXIF."""
    pages: int = 1
    """Of the file; these pixels are those of the first."""


class Hidden(NamedTuple):
    """What Pillow's header tells of an image whose pixels it would not give whole."""

    channels: int
    depth: Depth
    package: str
    """What reads it; empty where nothing but Pillow is needed."""
    mistaken: bool = False
    """Whether what Pillow gives is wrong, not just the high byte of 16 bits."""
    images: bool = True
    """Whether grey or RGB can be made of it."""


class MissingPackageError(Exception):
    """A package of the extra [deep] is wanted; the text says so."""


def hidden_in(image: Image.Image) -> Hidden | None:
    """What Pillow would keep back of an image of which only the header has been read; None if nothing."""
    tile = _tile(image)
    if image.format == "PNG" and ";16" in str(tile[3]) and not image.mode.startswith("I"):
        kind = str(tile[3]).split(";")[0]
        return Hidden(len(kind) + ("transparency" in image.info), "16", "imagecodecs")
    if image.format == "PPM" and image.mode == "RGB" and _maxval(image) > 255:
        return Hidden(3, "16", "")
    if image.format != "TIFF":
        return None
    tags = image.tag_v2  # type: ignore[attr-defined]
    channels, bits = tags.get(_CHANNELS, 1), max(tags.get(_BITS, (1,)))
    unsigned = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))) == {_UNSIGNED}
    dropped = channels > len(image.getbands())
    if (channels > 1 and bits > 8) or dropped or (bits == 8 and not unsigned):
        depth: Depth = "float" if not unsigned or bits > 16 else "16" if bits > 8 else "8"
        only_extras = tags.get(_PHOTOMETRIC) == _RGB and unsigned
        mistaken = not only_extras and (dropped or bits == 8 or tags.get(_PLANES, 1) != 1)
        images = tags.get(_PHOTOMETRIC) == _RGB or (channels == 2 and tags.get(_EXTRA_SAMPLES, (0,))[0] in _ALPHA)
        return Hidden(channels, depth, "tifffile", mistaken, images)
    return None


def is_tiff(file: BinaryIO) -> bool:
    """Whether the bytes are a TIFF, whether or not Pillow knows its kind."""
    file.seek(0)
    return file.read(4) in _TIFF_STARTS


def load(file: BinaryIO, image: Image.Image | None) -> Raster:
    """Reads the pixels that `hidden_in` told of, or of a TIFF that Pillow cannot identify (`image` is None).

    Raises:
        MissingPackageError: a package is missing.
        ValueError: there is no rule for such an image.
        DecompressionBombError: it has too many pixels.
    """
    if image is None or image.format == "TIFF":
        return _load_tiff(file)
    file.seek(0)
    content = file.read()
    if image.format == "PPM":
        return _load_ppm(content, image)
    pixels = _import("imagecodecs").png_decode(content)  # [H, W, C]
    return Raster(pixels, pixels.shape[2] > 2, "straight" if pixels.shape[2] in (2, 4) else "", _orientation(image))


def why_missing(package: str) -> str:
    """A sentence that tells how to get a package of the extra; empty if it is there."""
    return "" if importlib.util.find_spec(package) else _missing(package, _KINDS[package])


def encode_png(pixels: np.ndarray) -> bytes:
    """uint16 [H, W, 3] as the bytes of a PNG.

    Raises:
        MissingPackageError: imagecodecs is missing.
    """
    return bytes(_import("imagecodecs").png_encode(pixels))


def encode_ppm(pixels: np.ndarray) -> bytes:
    """uint16 [H, W, 3] as the bytes of a PPM."""
    height, width, _ = pixels.shape
    return f"P6 {width} {height} 65535\n".encode() + pixels.astype(">u2").tobytes()


def encode_tiff(pixels: np.ndarray) -> bytes:
    """[H, W, C] of any type as the bytes of a TIFF; 3 channels are RGB, others have no colour.

    Raises:
        MissingPackageError: tifffile is missing.
    """
    buffer = io.BytesIO()
    channels = pixels.shape[2]
    tifffile().imwrite(
        buffer,
        pixels if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        metadata=None,
    )
    return buffer.getvalue()


def _load_ppm(content: bytes, image: Image.Image) -> Raster:
    width, height = image.size
    values = np.frombuffer(content, ">u2", 3 * width * height, _tile(image)[2]).reshape(height, width, 3)
    levels = np.rint(values * (65535.0 / _maxval(image))).clip(0, 65535)
    return Raster(levels.astype(np.uint16), colour=True)


def _maxval(image: Image.Image) -> int:
    """The value of white in a PPM."""
    arguments = _tile(image)[3]
    return int(arguments[1]) if isinstance(arguments, tuple) and len(arguments) > 1 else 255


def _tile(image: Image.Image) -> Any:
    """Where and how the pixels are coded, as Pillow has it before it loads them: codec, extents, offset, arguments."""
    return image.tile[0] if image.tile else (None, None, 0, "")  # type: ignore[attr-defined]


def _load_tiff(file: BinaryIO) -> Raster:
    file.seek(0)
    with tifffile().TiffFile(file) as opened:
        page = opened.pages[0]
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
            raise Image.DecompressionBombError(f"{page.imagewidth}x{page.imagelength} pixels")
        check_page(page)
        pixels = page.asarray()
        if page.samplesperpixel == 1:
            pixels = pixels[..., None]
        elif page.planarconfig != 1:
            pixels = np.moveaxis(pixels, 0, -1)  # channels were stored one after the other
        return page_raster(page, pixels)._replace(pages=len(opened.pages))


def check_page(page: Any) -> None:
    """Refuses a page of a TIFF for which there is no rule.

    Raises:
        ValueError: it says why.
    """
    if page.imagedepth > 1 or page.dtype is None or page.dtype.kind not in "uif":
        raise ValueError("a volume, or pixels that are no numbers: there is no rule for such a TIFF")
    if _photometric(page) not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _CMYK):
        raise ValueError(f"TIFF of the photometric kind {page.photometric!s} is read with 8 bits only: say --depth 8")
    if _photometric(page) == _MIN_IS_WHITE and page.dtype.kind != "u":
        raise ValueError("a TIFF whose least value is white must hold unsigned whole numbers")


def page_raster(page: Any, pixels: np.ndarray) -> Raster:
    """All or some rows of a checked page, [h, W, C] as tifffile decodes them, with what the page says of them."""
    if _photometric(page) == _MIN_IS_WHITE:
        pixels = np.iinfo(pixels.dtype).max - pixels
    orientation = page.tags.get(_ORIENTATION)
    return Raster(
        pixels.astype(pixels.dtype.newbyteorder("="), copy=False),
        _photometric(page) == _RGB,
        _ALPHA.get(int(page.extrasamples[0]), "") if len(page.extrasamples) == 1 else "",
        1 if orientation is None else int(orientation.value),
    )


def tifffile() -> ModuleType:
    """The package.

    Raises:
        MissingPackageError: it is missing.
    """
    return _import("tifffile")


def _photometric(page: Any) -> int:
    kind = int(page.photometric)
    return _RGB if kind == _YCBCR and int(page.compression) == _JPEG else kind  # which tifffile makes RGB of


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(_ORIENTATION, 1))


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(_missing(package, _KINDS[package])) from error


def _missing(package: str, kind: str) -> str:
    return f"{package} reads and writes {kind}: pip install 'cyclegan-fast[deep]'"
