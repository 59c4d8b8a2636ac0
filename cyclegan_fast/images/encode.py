"""Pixels as the bytes of a file of the format that another file has."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from cyclegan_fast.errors import UserError
from cyclegan_fast.images import high_bit_depth as deep
from cyclegan_fast.images.decode import FORMATS

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


def encode_like(source: Path, pixels: np.ndarray) -> bytes:
    """The bytes of [H, W, C] in the format that the source file really has, whatever its name says.

    Raises:
        UserError: That format cannot hold such pixels, or a package is missing that writes them.
    """
    kind, channels = _format_of(source), pixels.shape[2]
    colour, deep_pixels = channels == 3, pixels.dtype != np.uint8
    if kind != "TIFF" and (channels not in (1, 3) or pixels.dtype == np.float32):
        what = "floating-point values" if pixels.dtype == np.float32 else f"{channels} channels"
        raise UserError(f"the result has {what}, which {kind} cannot hold: give the image as TIFF")
    try:
        if deep_pixels and colour and kind == "PNG":
            return deep.encode_png(pixels)
        if deep_pixels and colour and kind == "PPM":
            return deep.encode_ppm(pixels)
        if kind == "TIFF" and (channels not in (1, 3) or (deep_pixels and colour)):
            return deep.encode_tiff(pixels)
    except deep.MissingPackageError as error:
        raise UserError(str(error)) from error
    buffer = io.BytesIO()
    Image.fromarray(pixels if colour else pixels[..., 0]).save(buffer, kind, **_SAVE_OPTIONS.get(kind, {}))
    return buffer.getvalue()


def _format_of(source: Path) -> str:
    try:
        with Image.open(source, formats=FORMATS) as image:
            return "JPEG" if image.format == "MPO" else str(image.format)  # a stereo JPEG: its first image
    except UnidentifiedImageError:
        return "TIFF"  # the one format that is read without Pillow
