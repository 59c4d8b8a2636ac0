"""Images that Pillow reads with fewer bits or channels than they have: 16-bit colour of PNG and PPM, and many TIFFs.

The packages of the extra [deep] read and write them: imagecodecs PNG, tifffile TIFF (see `tiff`).
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cyclegan_fast.images.channels import StoredImage
from cyclegan_fast.images.orientation import orientation_of
from cyclegan_fast.images.packages import import_package
from cyclegan_fast.images.tiff import BeyondPillow, load_tiff, tiff_beyond_pillow


def beyond_pillow(image: Image.Image) -> BeyondPillow | None:
    """What Pillow would keep back of an image of which only the header has been read; None if nothing."""
    if image.format == "TIFF":
        return tiff_beyond_pillow(image)
    arguments = str(_tile(image)[3])
    if image.format == "PNG" and ";16" in arguments and not image.mode.startswith("I"):
        has_key = "transparency" in image.info  # a colour of 16 bits, which Pillow compares with high bytes
        return BeyondPillow(len(arguments.split(";")[0]) + has_key, "16", "imagecodecs", wrong_in_pillow=has_key)
    if image.format == "PPM" and image.mode == "RGB" and _maxval(image) > 255:
        return BeyondPillow(3, "16", "")
    return None


def scale_transparent_value(image: Image.Image) -> None:
    """Corrects the grey that a PNG of fewer than 8 bits makes transparent: Pillow scales the pixels, but not that."""
    factor = {"1": 255, "L;2": 85, "L;4": 17}.get(str(_tile(image)[3]))
    key = image.info.get("transparency")
    if image.format == "PNG" and factor is not None and isinstance(key, int):
        image.info["transparency"] = key * factor


def load(file: BinaryIO, image: Image.Image | None) -> StoredImage:
    """Reads the pixels that `beyond_pillow` reported, or those of a TIFF that Pillow cannot identify (`image` is None).

    Raises:
        MissingPackageError: A package is missing.
        ValueError: There is no rule for such an image.
        DecompressionBombError: It has too many pixels.
    """
    if image is None or image.format == "TIFF":
        return load_tiff(file)
    file.seek(0)
    content = file.read()
    if image.format == "PPM":
        return _load_ppm(content, image)
    pixels = import_package("imagecodecs").png_decode(content)  # [H, W, C]
    channels = pixels.shape[2]
    alpha = "straight" if channels in (2, 4) else ""
    return StoredImage(pixels, "rgb" if channels > 2 else "", alpha, orientation_of(image))


def encode_png(pixels: np.ndarray) -> bytes:
    """uint16 [H, W, C] as the bytes of a PNG: grey, RGB, or either with transparency.

    Raises:
        MissingPackageError: imagecodecs is missing.
    """
    return bytes(import_package("imagecodecs").png_encode(pixels))


def encode_ppm(pixels: np.ndarray) -> bytes:
    """uint16 [H, W, 3] as the bytes of a PPM."""
    height, width, _ = pixels.shape
    return f"P6 {width} {height} 65535\n".encode() + pixels.astype(">u2").tobytes()


def _load_ppm(content: bytes, image: Image.Image) -> StoredImage:
    width, height = image.size
    codec, _, offset, _ = _tile(image)
    body, count = content[offset:], 3 * width * height
    if codec == "ppm_plain":  # numbers as text, with comments
        numbers = re.sub(rb"#[^\r\n]*", b"", body).split(maxsplit=count)[:count]
        values = np.array(numbers, np.int64)
    else:
        values = np.frombuffer(body[: 2 * count], ">u2", len(body[: 2 * count]) // 2)
    if len(values) < count:
        raise OSError("image file is truncated")
    levels = np.rint(values.reshape(height, width, 3) * (65535.0 / _maxval(image))).clip(0, 65535)
    return StoredImage(levels.astype(np.uint16), "rgb")


def _maxval(image: Image.Image) -> int:
    """The value of white in a PPM."""
    arguments = _tile(image)[3]
    return int(arguments[1]) if isinstance(arguments, tuple) and len(arguments) > 1 else 255


def _tile(image: Image.Image) -> Any:
    """Where and how the pixels are coded, as Pillow has it before it loads them: codec, extents, offset, arguments."""
    return image.tile[0] if image.tile else (None, None, 0, "")  # type: ignore[attr-defined]
