"""A residual generator on an image of any size, strip by strip, with the result of the whole image at once.

Instance norm needs the mean and the variance of a layer over the whole image, and they depend on the norms before it.
So the image is gone through once for each norm: all strips pass the convolution before it, their statistics are
merged (Chan et al. 1979), and only then the next layer begins. What lies between two norms is either spilled, that is
kept in memory or in a file, or computed anew from what was spilled before: the wide layers at full and half size are
computed anew (an eighth more arithmetic), those of the residual blocks at a quarter are spilled, three at a time.

Every feature map here is lazy: `rows` makes some of its rows from the rows of the map before it, as many as the
convolution's window reaches. So what a strip needs of its neighbours follows from the network itself.
"""

from __future__ import annotations

import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.device import free_memory
from cyclegan_fast.engine.tiling.rows import Rows
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn.conv import CancelledBiasConv2d
from cyclegan_fast.nn.generators import ResnetGenerator
from cyclegan_fast.nn.norm import LEAKY_SLOPE

ProgressCallback = Callable[[float], None]  # is told the share of an image that is done

_LEAST_ROWS = 16  # of a strip at full size
_ROOMS = 3  # maps of the residual blocks that are kept at a time
_MEMORY_SHARE = 0.5  # of what is free, for all of them: larger ones go to files


@torch.inference_mode()  # also of a generator: it is left whenever a band is given out
def translate_exactly(
    network: ResnetGenerator, image: Rows, *, pixels: int, follow: ProgressCallback
) -> Iterator[Tensor]:
    """The network's result on the whole image, as bands from the top to the bottom.

    Args:
        network: A residual generator with instance norm, in evaluation; on the device and in the type to compute in.
        image: Sides are multiples of 4, from 8 on.
        pixels: Of a strip, about; the memory needed grows with it.
        follow: Is told the share that is done, as it grows.

    Yields:
        float32 [C', h, W] in [-1, 1], on the network's device.

    Raises:
        UserError: There is no room for the spilled maps; it says how much is needed.
    """
    parameter = next(network.parameters())
    h: _Map = _Input(image, parameter.device, parameter.dtype)
    step = max(_LEAST_ROWS, pixels // h.width // network.size_divisor * network.size_divisor)  # rows of a strip
    times = 7 + 3 * len(network.blocks)  # that all strips are gone through
    walk = _Walk(step, times * -(-h.height // step), follow)
    kept = h.height // 4, h.width // 4, 4 * network.stem.out_channels
    spill = _Spill(kept, parameter)  # a full disk is told before anything is computed

    h = _norm(_Conv(h, network.stem, "reflect", 3), network.stem_norm, walk)
    last = len(network.down) - 1
    for i, (conv, norm) in enumerate(zip(network.down, network.down_norm, strict=True)):
        h = _Conv(h, conv, "zeros", 1)
        h = _norm(spill.keep(h, walk) if i == last else h, norm, walk)
    x = spill.keep(h, walk)
    h.close()
    block: Any
    for block in network.blocks:
        first = spill.keep(_Conv(x, block.conv1, "reflect", 1), walk)
        second = spill.keep(_Conv(_norm(first, block.norm1, walk), block.conv2, "reflect", 1), walk)
        first.close()
        x.add_(_norm(second, block.norm2, walk), walk)
        second.close()
    h = x
    for conv, norm in zip(network.up, network.up_norm, strict=True):
        h = _norm(_ConvTranspose(h, conv), norm, walk)
    head = _Conv(h, network.head, "reflect", 3)
    for low, high in walk.strips(head):
        yield torch.tanh(head.rows(low, high))[0].float()
    x.close()


class _Walk:
    """The way through all strips of a map, once and again."""

    def __init__(self, step: int, total: int, follow: ProgressCallback) -> None:
        self._step, self._total, self._follow = step, total, follow  # rows of the image that a strip has; strips
        self._done = 0

    def strips(self, source: _Map) -> Iterator[tuple[int, int]]:
        """(low, high) of the rows of each strip."""
        rows = max(2, self._step // source.shrunk)
        for low in range(0, source.height, rows):
            yield low, min(low + rows, source.height)
            self._done += 1
            self._follow(min(self._done / self._total, 1.0))


class _Map(ABC):
    """A feature map [1, C, H, W] of which some rows at a time are made."""

    def __init__(self, channels: int, height: int, width: int, shrunk: int, dtype: torch.dtype) -> None:
        self.channels, self.height, self.width, self.dtype = channels, height, width, dtype
        self.shrunk = shrunk  # how many rows of the image lie on one of its rows

    @abstractmethod
    def rows(self, low: int, high: int) -> Tensor:
        """[1, C, high - low, W], for 0 <= low < high <= H."""

    def statistics(self, walk: _Walk) -> Tensor:
        """Those of the whole map: all strips are made for it."""
        parts, counts = [], []
        for low, high in walk.strips(self):
            parts.append(ops.plane_statistics(self.rows(low, high)))
            counts.append((high - low) * self.width)
        return ops.merge_statistics(parts, counts)

    def close(self) -> None:  # noqa: B027 - most have nothing
        """Gives back what was spilled for it."""


class _Input(_Map):
    def __init__(self, source: Rows, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(source.channels, source.height, source.width, 1, dtype)
        self._source, self._device = source, device

    def rows(self, low: int, high: int) -> Tensor:
        rows = self._source.rows(low, high)[None]
        return rows.to(self._device, self.dtype, memory_format=torch.channels_last)


class _Conv(_Map):
    """A convolution whose padding is done here: only the image's own edges are edges."""

    def __init__(self, source: _Map, conv: Any, border: Literal["reflect", "zeros"], pad: int) -> None:
        self._stride, self._window = conv.stride[0], conv.kernel_size[0]
        height, width = ((side + 2 * pad - self._window) // self._stride + 1 for side in (source.height, source.width))
        super().__init__(conv.out_channels, height, width, source.shrunk * self._stride, source.dtype)
        self._source, self._conv, self._border, self._pad = source, conv, border, pad

    def rows(self, low: int, high: int) -> Tensor:
        first = low * self._stride - self._pad
        last = (high - 1) * self._stride - self._pad + self._window
        x = self._source.rows(max(first, 0), min(last, self._source.height))
        above, below = max(-first, 0), max(last - self._source.height, 0)
        if self._border == "reflect":
            x = _mirror(x, above, below, self._pad)
        else:
            x = F.pad(x, (self._pad, self._pad, above, below))
        bias = None if isinstance(self._conv, CancelledBiasConv2d) else self._conv.bias
        return ops.conv2d(x, self._conv.weight, bias, stride=self._stride)


class _ConvTranspose(_Map):
    """A transposed convolution of window 3 and stride 2 that doubles both sides: row 2i comes from i, 2i + 1 from both
    i and i + 1."""

    def __init__(self, source: _Map, conv: Any) -> None:
        super().__init__(conv.out_channels, 2 * source.height, 2 * source.width, source.shrunk // 2, source.dtype)
        self._source, self._conv = source, conv

    def rows(self, low: int, high: int) -> Tensor:
        first, last = low // 2, high // 2 + 1
        x = self._source.rows(first, min(last, self._source.height))
        made = self._conv(x)  # as many rows again, of which the last lack the row below where there is one
        return made[:, :, low - 2 * first : high - 2 * first].contiguous(memory_format=torch.channels_last)


class _Normed(_Map):
    """A map whose statistics are known: normed as it is read."""

    def __init__(self, source: _Map, norm: Any, statistics: Tensor) -> None:
        super().__init__(source.channels, source.height, source.width, source.shrunk, source.dtype)
        self._source, self._norm, self._statistics = source, norm, statistics

    def rows(self, low: int, high: int) -> Tensor:
        return ops.instance_norm_act(
            self._source.rows(low, high),
            statistics=self._statistics,
            statistics_count=self.height * self.width,
            constant_statistics=True,
            activation=self._norm.activation,
            negative_slope=LEAKY_SLOPE,
        )

    def close(self) -> None:
        self._source.close()


class _Kept(_Map):
    """A map that is made once, with its statistics, and lies in one of the rooms."""

    def __init__(self, source: _Map, walk: _Walk, rooms: list[Tensor], device: torch.device) -> None:
        super().__init__(source.channels, source.height, source.width, source.shrunk, source.dtype)
        self._rooms, self._values, self._device = rooms, rooms.pop(), device  # [H, W, C]
        self._source: _Map | None = source  # until it is made
        self._statistics: Tensor | None = super().statistics(walk)
        self._source = None

    def rows(self, low: int, high: int) -> Tensor:
        if self._source is None:
            return self._values[low:high].to(self._device).permute(2, 0, 1)[None]
        rows = self._source.rows(low, high)
        self._values[low:high] = rows[0].permute(1, 2, 0).cpu()
        return rows

    def statistics(self, walk: _Walk) -> Tensor:
        assert self._statistics is not None, "something was added since"
        return self._statistics

    def add_(self, source: _Map, walk: _Walk) -> None:
        self._statistics = None
        for low, high in walk.strips(self):
            self._values[low:high] += source.rows(low, high)[0].permute(1, 2, 0).cpu()

    def close(self) -> None:
        self._rooms.append(self._values)
        del self._values  # what reads it afterwards fails


def _norm(source: _Map, norm: Any, walk: _Walk) -> _Normed:
    return _Normed(source, norm, source.statistics(walk))


def _mirror(x: Tensor, above: int, below: int, pad: int) -> Tensor:
    """Mirrors `pad` columns on both sides, and rows at the edges of the image only."""
    if above == below == pad:
        return ops.reflect_pad(x, pad)
    return F.pad(x, (pad, pad, above, below), mode="reflect")


class _Spill:
    """Room for the maps that are kept, in memory or else in files: all of it is there from the start.

    Raises:
        UserError: The disk has not as much.
    """

    def __init__(self, shape: tuple[int, int, int], like: Tensor) -> None:
        self._device, dtype = like.device, like.dtype
        size = math.prod(shape) * dtype.itemsize
        in_memory = _ROOMS * size <= free_memory(torch.device("cpu")) * _MEMORY_SHARE
        if in_memory or not hasattr(os, "posix_fallocate"):  # without it a full disk would kill the process later
            self._rooms = [torch.empty(shape, dtype=dtype) for _ in range(_ROOMS)]
            return
        try:
            self._rooms = [_file_room(shape, dtype, size) for _ in range(_ROOMS)]
        except OSError as error:
            raise UserError(
                f"an image of this size needs files of {_ROOMS * size / 1e9:.0f} GB in {tempfile.gettempdir()} "
                f"({error.strerror}): set TMPDIR to a larger disk, or say --statistics reduced"
            ) from error

    def keep(self, source: _Map, walk: _Walk) -> _Kept:
        """Makes a map once and for all."""
        return _Kept(source, walk, self._rooms, self._device)


def _file_room(shape: tuple[int, int, int], dtype: torch.dtype, size: int) -> Tensor:
    with tempfile.NamedTemporaryFile() as file:  # its name goes at once, its room with the tensor
        os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)
