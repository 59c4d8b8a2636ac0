"""Activations [1, C, H, W] of which some rows at a time are computed, each from the rows of the layer before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.engine.tiling.rows import Rows
from cyclegan_fast.monitoring.progress import Progress
from cyclegan_fast.nn.conv import CancelledBiasConv2d
from cyclegan_fast.nn.norm import LEAKY_SLOPE


class Strips:
    """Cuts activations of every size into strips, and reports how many were computed.

    Args:
        rows: Of the image, of a strip.
        total: Strips of the whole work.
        progress: Called with the strips that are done, and `total`.
    """

    def __init__(self, rows: int, total: int, progress: Progress) -> None:
        self._rows, self._total, self._progress = rows, total, progress
        self._done = 0

    def of(self, activations: Activations) -> Iterator[tuple[int, int]]:
        """(low, high) of the rows of each strip."""
        rows = max(2, self._rows // activations.reduction)
        for low in range(0, activations.height, rows):
            yield low, min(low + rows, activations.height)
            self._done += 1
            self._progress(min(self._done, self._total), self._total)


class Activations(ABC):
    """A layer's output [1, C, H, W]; how many rows of the layer before are needed follows from the layer itself.

    Args:
        channels: C.
        height: H, in pixels.
        width: W, in pixels.
        reduction: Rows of the image for one row of this.
        dtype: That the network computes in.
    """

    def __init__(self, channels: int, height: int, width: int, reduction: int, dtype: torch.dtype) -> None:
        self.channels, self.height, self.width, self.dtype = channels, height, width, dtype
        self.reduction = reduction

    @abstractmethod
    def rows(self, low: int, high: int) -> Tensor:
        """[1, C, high - low, W], for 0 <= low < high <= H."""

    def statistics(self, strips: Strips) -> Tensor:
        """Those of all rows, [3, 1, C]: every strip is computed for it."""
        parts, counts = [], []
        for low, high in strips.of(self):
            parts.append(ops.plane_statistics(self.rows(low, high)))
            counts.append((high - low) * self.width)
        return ops.merge_statistics(parts, counts)

    def normed(self, norm: Any, strips: Strips) -> Activations:
        """The same behind a `NormAct` of instance norm, with the statistics of all rows."""
        return Normed(self, norm, self.statistics(strips))

    def close(self) -> None:  # noqa: B027 - most have nothing
        """Gives back what was spilled for it."""


class Input(Activations):
    """The image."""

    def __init__(self, source: Rows, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(source.channels, source.height, source.width, 1, dtype)
        self._source, self._device = source, device

    def rows(self, low: int, high: int) -> Tensor:
        """See `Activations.rows`."""
        rows = self._source.rows(low, high)[None]
        return rows.to(self._device, self.dtype, memory_format=torch.channels_last)


class Conv(Activations):
    """Behind a convolution whose padding is done here: only the image's own edges are edges."""

    def __init__(self, source: Activations, conv: Any, border: Literal["reflect", "zeros"], pad: int) -> None:
        self._stride, self._kernel_size = conv.stride[0], conv.kernel_size[0]
        height, width = ((n + 2 * pad - self._kernel_size) // self._stride + 1 for n in (source.height, source.width))
        super().__init__(conv.out_channels, height, width, source.reduction * self._stride, source.dtype)
        self._source, self._conv, self._border, self._pad = source, conv, border, pad

    def rows(self, low: int, high: int) -> Tensor:
        """See `Activations.rows`."""
        first = low * self._stride - self._pad
        last = (high - 1) * self._stride - self._pad + self._kernel_size
        x = self._source.rows(max(first, 0), min(last, self._source.height))
        above, below = max(-first, 0), max(last - self._source.height, 0)
        if self._border == "zeros":
            x = F.pad(x, (self._pad, self._pad, above, below))
        elif above == below == self._pad:
            x = ops.reflect_pad(x, self._pad)
        else:
            x = F.pad(x, (self._pad, self._pad, above, below), mode="reflect")
        bias = None if isinstance(self._conv, CancelledBiasConv2d) else self._conv.bias
        return ops.conv2d(x, self._conv.weight, bias, stride=self._stride)


class ConvTranspose(Activations):
    """Behind a transposed convolution of kernel size 3 and stride 2, which doubles both sides.

    Row 2i comes from row i, and row 2i + 1 from both i and i + 1.
    """

    def __init__(self, source: Activations, conv: Any) -> None:
        super().__init__(conv.out_channels, 2 * source.height, 2 * source.width, source.reduction // 2, source.dtype)
        self._source, self._conv = source, conv

    def rows(self, low: int, high: int) -> Tensor:
        """See `Activations.rows`."""
        first, last = low // 2, high // 2 + 1
        x = self._source.rows(first, min(last, self._source.height))
        rows = self._conv(x)  # twice as many, of which the last lacks the row below where there is one
        return rows[:, :, low - 2 * first : high - 2 * first].contiguous(memory_format=torch.channels_last)


class Normed(Activations):
    """Behind an instance norm whose statistics, [3, 1, C], are known: normed as they are read."""

    def __init__(self, source: Activations, norm: Any, statistics: Tensor) -> None:
        super().__init__(source.channels, source.height, source.width, source.reduction, source.dtype)
        self._source, self._norm, self._statistics = source, norm, statistics

    def rows(self, low: int, high: int) -> Tensor:
        """See `Activations.rows`."""
        return ops.instance_norm_act(
            self._source.rows(low, high),
            statistics=self._statistics,
            statistics_count=self.height * self.width,
            constant_statistics=True,
            activation=self._norm.activation,
            negative_slope=LEAKY_SLOPE,
        )

    def close(self) -> None:
        """See `Activations.close`."""
        self._source.close()
