"""Pixels as the bytes of a file of the format that another file has."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_fast.errors import UserError
from cyclegan_fast.images.channels import to_pil
from cyclegan_fast.images.decode import opened
from cyclegan_fast.images.high_bit_depth import encode_png, encode_ppm
from cyclegan_fast.images.packages import MissingPackageError
from cyclegan_fast.images.tiff import encode_tiff

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}
_CHANNELS = {"PNG": (1, 2, 3, 4), "WEBP": (1, 3, 4)}  # 2 and 4 with transparency; others 1 and 3
_CONTAINERS = "TIFF, or PNG where the channels are grey or colour and transparency"


def format_for(target: Path, source: Path) -> str:
    """The format of a file `target` that is made of `source`.

    It is that of the source file, which its content decides and not its name; but where the target has another suffix,
    that decides.
    """
    return _format_of(source) if same_format(source, target) else suffix_format(target)


def encode_as(kind: str, pixels: np.ndarray) -> bytes:
    """Encodes [H, W, C] as a file of a format.

    Raises:
        UserError: That format cannot hold such pixels, or a package is missing that writes them.
    """
    channels = pixels.shape[2]
    if kind != "TIFF" and pixels.dtype == np.float32:
        raise UserError(f"the result has floating-point values, which {kind} cannot hold: give the image as TIFF")
    if kind != "TIFF" and channels not in _CHANNELS.get(kind, (1, 3)):
        raise UserError(
            f"the result has {channels} channels, which {kind} cannot hold: give the image as {_CONTAINERS}"
        )
    try:
        return _encode(kind, pixels)
    except MissingPackageError as error:
        raise UserError(str(error)) from error


def same_format(source: Path, target: Path) -> bool:
    """Whether two names end in the same format."""
    return source.suffix.lower() == target.suffix.lower() or suffix_format(source) == suffix_format(target)


def suffix_format(path: Path) -> str:
    """The format that a file's name promises; empty if it promises none."""
    return Image.registered_extensions().get(path.suffix.lower(), "")


def _encode(kind: str, pixels: np.ndarray) -> bytes:
    channels, is_deep = pixels.shape[2], pixels.dtype != np.uint8
    if is_deep and channels > 1 and kind == "PNG":
        return encode_png(pixels)
    if is_deep and channels > 1 and kind == "PPM":
        return encode_ppm(pixels)
    if kind == "TIFF" and (channels not in (1, 3) or (is_deep and channels > 1)):
        return encode_tiff(pixels)
    buffer = io.BytesIO()
    to_pil(pixels).save(buffer, kind, **_SAVE_OPTIONS.get(kind, {}))
    return buffer.getvalue()


def _format_of(source: Path) -> str:
    with opened(source.open("rb"), warn=False) as (_, image):
        if image is None:
            return "TIFF"  # the one format that is read without Pillow
        return "JPEG" if image.format == "MPO" else str(image.format)  # a stereo JPEG: its first image
