"""The loader "cache": every image decoded and resized once, kept as it is in the memory of the training device.

What is left of a batch is its geometry: crop, mirror and normalisation are one call on the device. Where the device
has no room and the host has, the images stay in page-locked host memory, and each is carried over when it is wanted.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.samples import Domain, Samples, Skipped
from cyclegan_fast.device import free_memory, usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import PixelFormat
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.monitoring.progress import ProgressBar

log = logging.getLogger(__name__)

SLAB = (
    64 * 2**20
)  # bytes; torch rounds a piece of page-locked memory up to a power of two, and so leaves this one alone
ALIGNMENT = 16  # bytes
QUIET_SECONDS = 2.0  # a set that is decoded in less is not worth a line in the log


class CacheLoader(Loader):
    """See `Loader`; the images are decoded before the first batch, by threads.

    An image that goes bad between the check and then is treated as `Samples.read` says. What happens to a file later
    changes nothing.
    """

    name = "cache"
    mend = "raise --cache-share, or lower --load-size"

    def __init__(self, samples: Samples, **options: Any) -> None:
        super().__init__(samples, **options)
        self.room = find_room(samples, self.device)
        if self.room.place is None:
            raise UserError(f"--loader cache: {self.room}; {self.mend}")
        self._kept: list[Kept] | None = None  # of A and of B

    @classmethod
    def why_not(cls, samples: Samples, device: torch.device) -> str | None:
        """The memory that is missing."""
        room = find_room(samples, device)
        return str(room) if room.place is None else None

    @property
    def about(self) -> str:
        """How much memory the images take, of how much."""
        return str(self.room)

    def prepare(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Decodes all images, once."""
        if self._kept is None:
            self._kept = self._decode_all(cancelled)
        if self._kept is not None:
            super().prepare(cancelled)

    def start(self, sample: int) -> Iterator[Batch]:
        """Raw batches: the whole images, [H, W, C] each, and where to crop them."""
        numbers = self.samples.numbers(sample)
        while True:
            yield self._raw(islice(numbers, self.batch_size))

    def images_of(self, raw: Batch, side: str) -> Tensor:
        """Cuts, mirrors and normalises the images of a side on the device."""
        images = [image.to(self.device, non_blocking=True) for image in raw[side]]  # [H, W, C] each
        placement = raw[f"placement_{side}"].to(self.device, non_blocking=True)  # [N, 3]
        if all(image.shape == images[0].shape for image in images):
            pixels = images[0][None] if len(images) == 1 else torch.stack(images)
            return self._cut(pixels, placement)
        return torch.cat([self._cut(image[None], where[None]) for image, where in zip(images, placement, strict=True)])

    def _cut(self, pixels: Tensor, placement: Tensor) -> Tensor:
        width, height = transforms.cropped_size((pixels.shape[2], pixels.shape[1]), self.samples.config)
        return to_model_range(pixels, crop=(height, width), placement=placement, channels_last=self.channels_last)

    def _raw(self, numbers: Iterable[int]) -> Batch:
        assert self._kept is not None
        raw: Batch = {"A": [], "B": [], "paths_A": [], "paths_B": [], "skipped": []}
        placements: dict[str, list[tuple[int, int, bool]]] = {"A": [], "B": []}
        for number in numbers:
            a, b, draw_A, draw_B = self.samples.pick(number)
            for side, kept, index, draw in zip("AB", self._kept, (a, b), (draw_A, draw_B), strict=True):
                image = kept.images[index]
                size = image.shape[1], image.shape[0]
                raw[side].append(image)
                raw[f"paths_{side}"].append(kept.paths[index])
                raw["skipped"] += kept.skipped.get(index, [])
                placements[side].append(transforms.placement(size, self.samples.config, draw))
        for side, places in placements.items():
            raw[f"placement_{side}"] = torch.tensor(
                places, dtype=torch.int32, pin_memory=self.device.type == "cuda"
            )  # [N, 3]
        return raw

    def _decode_all(self, cancelled: Callable[[], bool]) -> list[Kept] | None:
        """The images of both domains; None if it was cancelled."""
        assert self.room.place is not None
        began, total = time.monotonic(), sum(len(domain.sources) for domain in self.samples.domains)
        sides = [allocate(domain, self.samples, self.room.place, self.device) for domain in self.samples.domains]
        workers = self.samples.config.workers
        threads = ThreadPoolExecutor(usable_cores() if workers is None else max(1, workers), "decode")
        try:
            with ProgressBar("images", "decoding", bar=False) as progress:
                done = 0
                for side, kept in enumerate(sides):
                    decode = functools.partial(kept.decode, self.samples, side)
                    for _ in threads.map(decode, range(len(kept.images))):  # in order: the first bad file is named
                        progress(done := done + 1, total)
                        if cancelled():
                            return None
        finally:
            threads.shutdown(cancel_futures=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # batches are made on another stream than the copies
        if (seconds := time.monotonic() - began) >= QUIET_SECONDS:
            log.info("cache: %s images decoded in %.0f s", f"{total:,}", seconds)
        return sides


@dataclass
class Kept:
    """The decoded images of one domain; several threads fill it, each index by one of them."""

    images: list[Tensor]  # [H, W, C] each
    paths: list[str]
    skipped: dict[int, Skipped]  # of the images that another one stands in for

    def decode(self, samples: Samples, side: int, index: int) -> None:
        """Fills one place."""
        skipped: Skipped = []
        source, pixels = samples.read(side, index, skipped)
        self.paths[index] = str(source)
        if skipped:
            self.skipped[index] = skipped
        slot = self.images[index]
        if tuple(slot.shape) != pixels.shape:  # of an image that stands in, or of a file that changed
            slot = self.images[index] = torch.empty(
                pixels.shape, dtype=slot.dtype, device=slot.device, pin_memory=slot.is_pinned()
            )
        if slot.device.type == "cpu":
            np.copyto(slot.numpy(), pixels, casting="no")  # torch would call up its own threads in each of these
        else:
            slot.copy_(torch.from_numpy(np.array(pixels)))


def allocate(domain: Domain, samples: Samples, place: torch.device, device: torch.device) -> Kept:
    """Takes the memory of a domain's images on `place`, where they can be carried to `device` from.

    Raises:
        UserError: there is less than was free a moment ago.
    """
    shapes = [shape_of(size, domain.pixel_format, samples) for size in domain.sizes]
    dtype = dtype_of(domain.pixel_format)
    slabs, places = lay_out(h * w * c * dtype.itemsize for h, w, c in shapes)
    pinned = place.type == "cpu" and device.type == "cuda"
    try:
        memory = [torch.empty(length, dtype=torch.uint8, device=place, pin_memory=pinned) for length in slabs]
    except RuntimeError as error:  # torch's way to say that there is no memory
        raise UserError(
            f"--loader cache: {amount(sum(slabs))} of {name_of(place)} are not to be had; use --loader torch"
        ) from error
    images = [
        memory[slab][offset : offset + h * w * c * dtype.itemsize].view(dtype).view(h, w, c)
        for (slab, offset), (h, w, c) in zip(places, shapes, strict=True)
    ]
    return Kept(images, [""] * len(images), {})


def dtype_of(pixel_format: PixelFormat) -> torch.dtype:
    """Type of the pixels that are kept: what `decode.read` gives."""
    return {"8": torch.uint8, "16": torch.uint16, "float": torch.float32}[pixel_format.depth]


def shape_of(size: transforms.Size, pixel_format: PixelFormat, samples: Samples) -> tuple[int, int, int]:
    """Shape [H, W, C] of an image of `size` as it is kept."""
    width, height = transforms.resized_size(size, samples.config)
    return height, width, pixel_format.channels


def lay_out(lengths: Iterable[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Puts pieces of these lengths (bytes) into slabs: the length of each slab; the slab and offset of each piece."""
    slabs: list[int] = []
    places: list[tuple[int, int]] = []
    for length in lengths:
        if not slabs or slabs[-1] + length > SLAB:
            slabs.append(0)
        places.append((len(slabs) - 1, slabs[-1]))
        slabs[-1] += -(-length // ALIGNMENT) * ALIGNMENT
    return slabs, places


@dataclass(frozen=True)
class Room:
    """Where a set of images can be kept."""

    needed: int  # bytes
    share: float  # of what is free that may be taken
    free: dict[torch.device, int]  # bytes free in each place that was looked at
    place: torch.device | None  # None: nowhere

    def __str__(self) -> str:
        if self.place is None:
            found = " and ".join(f"{amount(free)} free in {name_of(place)}" for place, free in self.free.items())
            return f"both domains take {amount(self.needed)} decoded, more than --cache-share {self.share:g} of {found}"
        free = self.free[self.place]
        return f"both domains take {amount(self.needed)} of {amount(free)} free in {name_of(self.place)}"


def find_room(samples: Samples, device: torch.device) -> Room:
    """Looks for room on the device, then in the host's memory."""
    needed, share = 0, samples.config.cache_share
    for domain in samples.domains:
        shapes = (shape_of(size, domain.pixel_format, samples) for size in domain.sizes)
        item = dtype_of(domain.pixel_format).itemsize
        needed += sum(lay_out(h * w * c * item for h, w, c in shapes)[0])
    free: dict[torch.device, int] = {}
    for place in dict.fromkeys((device, torch.device("cpu"))):
        free[place] = free_memory(place)
        if needed <= share * free[place]:
            return Room(needed, share, free, place)
    return Room(needed, share, free, None)


def amount(size: int) -> str:
    """Bytes in words, such as ``47 kB`` or ``1.2 GB``."""
    value, unit = next(((size / n, u) for u, n in (("GB", 1e9), ("MB", 1e6)) if size >= n), (size / 1e3, "kB"))
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def name_of(place: torch.device) -> str:
    """A place in words."""
    return "host memory" if place.type == "cpu" else f"the memory of {place}"
