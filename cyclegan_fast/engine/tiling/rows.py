"""Images that are read some rows at a time, so that none has to fit in memory."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Rows(Protocol):
    """An image as a network takes it."""

    channels: int
    height: int
    width: int

    def rows(self, low: int, high: int) -> Tensor:
        """float32 [C, high - low, W] in [-1, 1], for 0 <= low < high <= H."""
        ...


class TensorRows:
    """An image that lies in memory: float32 [C, H, W] in [-1, 1]."""

    def __init__(self, values: Tensor) -> None:
        self.channels, self.height, self.width = values.shape
        self._values = values

    def rows(self, low: int, high: int) -> Tensor:
        """See `Rows`."""
        return self._values[:, low:high]


class MirroredRows:
    """An image mirrored over its right and lower edges, again and again if need be, until it has a size."""

    def __init__(self, source: Rows, size: tuple[int, int]) -> None:
        self.channels, (self.height, self.width) = source.channels, size
        self._source = source

    def rows(self, low: int, high: int) -> Tensor:
        """See `Rows`."""
        index = mirrored(self._source.height, high)[low:]
        first, last = int(index.min()), int(index.max())
        rows = self._source.rows(first, last + 1)
        rows = rows.index_select(1, (index - first).to(rows.device))
        return mirror_to(rows, (high - low, self.width))


def mirror_to(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] -> [C, *size], mirrored over the right and lower edges, again and again if that is far."""
    for axis, target in zip((1, 2), size, strict=True):
        length = plane.shape[axis]
        if target != length:
            plane = plane.index_select(axis, mirrored(length, target).to(plane.device))
    return plane


def mirrored(length: int, target: int) -> Tensor:
    """Which of `length` pixels stands at each of `target` places: 0 1 2 3 2 1 0 1 ..."""
    period = torch.arange(target) % max(2 * (length - 1), 1)
    return torch.where(period < length, period, 2 * (length - 1) - period)


def reduce(source: Rows, max_side: int) -> Tensor:
    """The mean over squares of pixels, so that no side is longer than `max_side`: float32 [C, h, w]."""
    step = -(-max(source.height, source.width) // max_side)  # pixels of a square's side
    bands = [
        F.avg_pool2d(source.rows(low, min(low + step, source.height))[None], step, ceil_mode=True)[0]
        for low in range(0, source.height, step)
    ]
    return torch.cat(bands, 1)
