"""How large a network's result is beside its input: as large, or by a whole factor larger or smaller."""

from __future__ import annotations

import math
from fractions import Fraction

from torch import Tensor


def output_scale(batch: Tensor, result: Tensor) -> Fraction:
    """The factor from a batch [N, C, H, W] to its result [N, C', H', W']: a whole number, or one over a whole number.

    Raises:
        ValueError: It is another, or that of the height differs from that of the width: what belongs to which pixel is
            not known then.
    """
    height, width = (Fraction(after, before) for after, before in zip(result.shape[2:], batch.shape[2:], strict=True))
    if height != width or 1 not in (height.numerator, height.denominator):
        raise ValueError(f"{list(batch.shape[2:])} pixels (height, width) became {list(result.shape[2:])}")
    return height


def scaled(side: int, scale: Fraction) -> int:
    """A side of the result for a side of the image, in pixels; rounded up, so that no part of it is lost."""
    return math.ceil(side * scale)
