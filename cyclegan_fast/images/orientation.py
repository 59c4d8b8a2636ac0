"""How an image that Pillow reads lies, by its metadata; damaged metadata is no reason to refuse its pixels."""

from __future__ import annotations

import logging

from PIL import Image

from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """From 1 to 8, as in EXIF; 1 where the image does not say, or its EXIF is damaged.

    Raises:
        OSError: Its pixels are damaged.
    """
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # it may lie behind the pixels, whose damage is none of EXIF
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # whatever Pillow throws at damaged bytes
        warn_once(log, "images with damaged EXIF: they are taken as they lie")
        return 1
    return int(value) if value in range(1, 9) else 1


def turned_upright(image: Image.Image) -> Image.Image:
    """The image as its orientation demands.

    Raises:
        OSError: Its pixels are damaged.
    """
    image.load()
    turn = _TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)
