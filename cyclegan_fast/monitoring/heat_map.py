"""Maps of errors as images: black, violet, orange, pale yellow."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

BRIGHTEST = 0.25  # error, on a scale from 0 to 1, from which on all is alike
_ANCHORS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)


def heat_map(error: Tensor) -> Image.Image:
    """Draws errors [H, W] from 0 to 1 as an RGB image, in colors that are the same for all images.

    By the square root, so that small errors are seen: 0.01 is violet, 0.06 is red, 0.25 and more is pale yellow; NaN is
    white.
    """
    values = error.double().cpu().numpy()
    position = np.sqrt(np.clip(np.nan_to_num(values) / BRIGHTEST, 0, 1)) * (len(_ANCHORS) - 1)
    low = np.minimum(position.astype(int), len(_ANCHORS) - 2)
    part = (position - low)[..., None]
    pixels = _ANCHORS[low] * (1 - part) + _ANCHORS[low + 1] * part
    pixels[np.isnan(values)] = 255
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
