"""The memory of the loader "cache": how much a set needs, which device can hold it, and the blocks that it lies in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.samples import Domain, Samples, Skipped
from cyclegan_fast.device import free_memory, processes_of_host
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import PixelFormat

BLOCK_BYTES = 64 * 2**20  # torch rounds pinned memory up to a power of two, and so leaves such a block as it is
ALIGNMENT = 16  # bytes


@dataclass(frozen=True)
class MemoryBudget:
    """Where the decoded images of both domains can be cached."""

    needed: int
    """Bytes of all decoded images."""
    share: float
    """Of the free memory that may be used."""
    free: dict[torch.device, int]
    """Bytes free on each device that was asked."""
    device: torch.device | None
    """The one that holds the images; None if none can."""

    def __str__(self) -> str:
        needed = f"both domains take {format_bytes(self.needed)}"
        free = {device: f"{format_bytes(size)} free in {_memory_of(device)}" for device, size in self.free.items()}
        if self.device is not None:
            return f"{needed} of {free[self.device]}"
        return f"{needed} decoded, more than --cache-share {self.share:g} of {' and '.join(free.values())}"


def find_memory(samples: Samples, device: torch.device) -> MemoryBudget:
    """Looks for memory on the device, then in the host's memory."""
    needed, share = 0, samples.config.cache_share
    for domain in samples.domains:
        item = dtype_of(domain.pixel_format).itemsize
        needed += sum(lay_out(h * w * c * item for h, w, c in _shapes(domain, samples.config))[0])
    free: dict[torch.device, int] = {}
    for candidate in dict.fromkeys((device, torch.device("cpu"))):
        free[candidate] = free_memory(candidate) // (processes_of_host() if candidate.type == "cpu" else 1)
        if needed <= share * free[candidate]:
            return MemoryBudget(needed, share, free, candidate)
    return MemoryBudget(needed, share, free, None)


@dataclass
class CachedDomain:
    """The decoded images of one domain; several threads fill it, each index by one of them."""

    images: list[Tensor]  # [H, W, C] each
    paths: list[str]
    skipped: dict[int, Skipped]  # of the images that another one replaces

    @classmethod
    def allocate(cls, domain: Domain, config: DataConfig, holder: torch.device, device: torch.device) -> CachedDomain:
        """Takes the memory of a domain's images on `holder`, from where they can be copied to `device`.

        Raises:
            UserError: There is less than was free a moment ago.
        """
        shapes = list(_shapes(domain, config))
        dtype = dtype_of(domain.pixel_format)
        blocks, positions = lay_out(h * w * c * dtype.itemsize for h, w, c in shapes)
        pinned = holder.type == "cpu" and device.type == "cuda"
        try:
            memory = [torch.empty(length, dtype=torch.uint8, device=holder, pin_memory=pinned) for length in blocks]
        except RuntimeError as error:  # torch's way to say that there is no memory
            raise UserError(
                f"--loader cache: {format_bytes(sum(blocks))} of {_memory_of(holder)} cannot be allocated; use "
                f"--loader torch"
            ) from error
        images = [
            memory[block][offset : offset + h * w * c * dtype.itemsize].view(dtype).view(h, w, c)
            for (block, offset), (h, w, c) in zip(positions, shapes, strict=True)
        ]
        return cls(images, [""] * len(images), {})

    def decode(self, samples: Samples, side: int, index: int) -> None:
        """Fills one image."""
        skipped: Skipped = []
        file, pixels = samples.read(side, index, skipped)
        self.paths[index] = str(file)
        if skipped:
            self.skipped[index] = skipped
        image = self.images[index]
        if tuple(image.shape) != pixels.shape:  # of an image that replaces another, or of a file that changed
            image = self.images[index] = torch.empty(
                pixels.shape, dtype=image.dtype, device=image.device, pin_memory=image.is_pinned()
            )
        if image.device.type == "cpu":
            np.copyto(image.numpy(), pixels, casting="no")  # torch would start its own threads in each of these
        else:
            image.copy_(torch.from_numpy(np.array(pixels)))


def dtype_of(pixel_format: PixelFormat) -> torch.dtype:
    """Returns the type of decoded pixels: what `decode.read` gives."""
    return {"8": torch.uint8, "16": torch.uint16, "float": torch.float32}[pixel_format.depth]


def lay_out(lengths: Iterable[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Puts images of these lengths (bytes) into blocks.

    Returns:
        The length of each block; the block and the offset of each image.
    """
    blocks: list[int] = []
    positions: list[tuple[int, int]] = []
    for length in lengths:
        if not blocks or blocks[-1] + length > BLOCK_BYTES:
            blocks.append(0)
        positions.append((len(blocks) - 1, blocks[-1]))
        blocks[-1] += -(-length // ALIGNMENT) * ALIGNMENT
    return blocks, positions


def format_bytes(size: int) -> str:
    """Returns bytes in words, such as ``47 kB`` or ``1.2 GB``."""
    value, unit = next(((size / n, u) for u, n in (("GB", 1e9), ("MB", 1e6)) if size >= n), (size / 1e3, "kB"))
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def _shapes(domain: Domain, config: DataConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the shape [H, W, C] of each image as it is cached."""
    for size in domain.sizes.tolist():
        width, height = transforms.resized_size(tuple(size), config)
        yield height, width, domain.pixel_format.channels


def _memory_of(device: torch.device) -> str:
    return "host memory" if device.type == "cpu" else f"the memory of {device}"
