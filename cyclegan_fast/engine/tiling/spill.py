"""Activations that are computed once and cached, in memory or, beyond the memory budget, in files."""

from __future__ import annotations

import math
import os
import tempfile

import torch
from torch import Tensor

from cyclegan_fast.device import free_memory
from cyclegan_fast.engine.tiling.activations import Activations, Strips
from cyclegan_fast.errors import UserError

_MEMORY_SHARE = 0.5  # of what is free, for all buffers: larger ones go to files


class Spill:
    """A fixed number of buffers, all of them allocated at the start.

    Args:
        count: Buffers, each for the activations of one layer.
        shape: [H, W, C] of each.
        like: A tensor with the type of the activations, on the device that they are computed on.

    Raises:
        UserError: The disk has not as much.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], like: Tensor) -> None:
        self._device, dtype = like.device, like.dtype
        size = math.prod(shape) * dtype.itemsize  # bytes
        in_memory = count * size <= free_memory(torch.device("cpu")) * _MEMORY_SHARE
        if in_memory or not hasattr(os, "posix_fallocate"):  # without it a full disk would kill the process later
            self._free = [torch.empty(shape, dtype=dtype) for _ in range(count)]
            return
        try:
            self._free = [_file_buffer(shape, dtype, size) for _ in range(count)]
        except OSError as error:
            raise UserError(
                f"an image of this size needs files of {count * size / 1e9:.0f} GB in {tempfile.gettempdir()} "
                f"({error.strerror}): set TMPDIR to a larger disk, or choose reduced statistics"
            ) from error

    def cache(self, source: Activations, strips: Strips) -> Cached:
        """Computes activations once, into a free buffer."""
        return Cached(source, strips, self._free, self._device)


class Cached(Activations):
    """Activations in a buffer, with their statistics; `close` frees the buffer."""

    def __init__(self, source: Activations, strips: Strips, free: list[Tensor], device: torch.device) -> None:
        super().__init__(source.channels, source.height, source.width, source.reduction, source.dtype)
        self._free, self._values, self._device = free, free.pop(), device  # [H, W, C]
        self._source: Activations | None = source  # until it is computed
        self._statistics: Tensor | None = super().statistics(strips)
        self._source = None

    def rows(self, low: int, high: int) -> Tensor:
        """See `Activations.rows`."""
        if self._source is None:
            return self._values[low:high].to(self._device).permute(2, 0, 1)[None]
        rows = self._source.rows(low, high)
        self._values[low:high] = rows[0].permute(1, 2, 0).cpu()
        return rows

    def statistics(self, strips: Strips) -> Tensor:
        """See `Activations.statistics`."""
        assert self._statistics is not None, "something was added since"
        return self._statistics

    def add_(self, source: Activations, strips: Strips) -> None:
        """Adds other activations of the same shape."""
        self._statistics = None
        for low, high in strips.of(self):
            self._values[low:high] += source.rows(low, high)[0].permute(1, 2, 0).cpu()

    def close(self) -> None:
        """See `Activations.close`."""
        self._free.append(self._values)
        del self._values  # what reads it afterwards fails


def _file_buffer(shape: tuple[int, int, int], dtype: torch.dtype, size: int) -> Tensor:
    with tempfile.NamedTemporaryFile() as file:  # its name goes at once, its space with the tensor
        os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)
