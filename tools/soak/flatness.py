"""Whether what a process holds stays flat: a straight line through it, and how far its slope is from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WARM_UP = 0.3  # of the cycles, which are not judged: libraries fill their caches
TOLERANCE = 0.02  # of the mean, by which a quantity may rise over all cycles that are judged
SURE = 3.0  # standard errors, from which a slope is no noise


class Trend(NamedTuple):
    """A straight line through the values of the cycles after the warm-up."""

    mean: float
    slope: float
    """Per cycle."""
    error: float
    """The standard error of the slope."""
    cycles: int
    """That are judged."""

    @property
    def rise(self) -> float:
        """Over all cycles that are judged."""
        return self.slope * self.cycles

    @property
    def is_flat(self) -> bool:
        """Whether the rise is within noise, or below a fiftieth of the mean."""
        return self.slope <= SURE * self.error or self.rise <= TOLERANCE * self.mean


def trend(values: Sequence[float]) -> Trend:
    """Fits a line by least squares.

    Raises:
        ValueError: There are too few values.
    """
    judged = values[math.ceil(WARM_UP * len(values)) :]
    count = len(judged)
    if count < 4:
        raise ValueError(f"{len(values)} cycles are too few to be judged: soak for longer")
    middle, mean = (count - 1) / 2, sum(judged) / count
    spread = sum((i - middle) ** 2 for i in range(count))
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(judged)) / spread
    residual = sum((value - mean - slope * (i - middle)) ** 2 for i, value in enumerate(judged))
    return Trend(mean, slope, math.sqrt(residual / (count - 2) / spread), count)
