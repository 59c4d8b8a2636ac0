"""A hash that hardly differs between images that look alike."""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDE, _FREQUENCIES = 32, 8
_LUMA = np.array((0.299, 0.587, 0.114))  # Rec. 601
# The lowest frequencies of a cosine transform, [8, 32].
_COSINES = np.cos(np.pi / _SIDE * np.outer(np.arange(_FREQUENCIES), np.arange(_SIDE) + 0.5))


def perceptual_hash(image: Image.Image) -> int:
    """Condenses what an image shows into 63 bits: those of two images differ in few places if they look alike.

    The image is reduced to 32x32 grey pixels, and each of its 63 lowest frequencies is above their median or not.
    So its size, format, compression, brightness and contrast hardly matter, nor does its colour.

    Args:
        image: Upright, of any mode but a palette.
    """
    if image.mode in ("1", "F") or image.mode.startswith("I"):
        image = Image.fromarray(np.asarray(image, np.float32))
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
    grey = small @ _LUMA if small.ndim == 3 else small  # [32, 32]
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()[1:]  # without the mean; [63]
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes()) >> 1
