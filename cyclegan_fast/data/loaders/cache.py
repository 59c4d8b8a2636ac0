"""The loader "cache": every image decoded and resized once, cached in the memory of the training device.

What is left of a batch is its geometry: crop, mirror and normalisation are one call on the device. Where the device
has too little memory and the host has enough, the images stay in pinned host memory, and each is copied to the device
when it is wanted.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.cache_memory import CachedDomain, find_memory
from cyclegan_fast.data.loaders.samples import Samples
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.monitoring.progress import ProgressBar

log = logging.getLogger(__name__)

_LOGGED_FROM = 2.0  # seconds; a set that is decoded in less is not worth a line in the log


class CacheLoader(Loader):
    """See `Loader`; the images are decoded before the first batch, by threads.

    An image that goes bad between the check and then is treated as `Samples.read` says. What happens to a file later
    changes nothing.
    """

    name = "cache"
    fix = "raise --cache-share, or lower --load-size"

    def __init__(self, samples: Samples, **options: Any) -> None:
        super().__init__(samples, **options)
        self.budget = find_memory(samples, self.device)
        if self.budget.device is None:
            raise UserError(f"--loader cache: {self.budget}; {self.fix}")
        self._cached: list[CachedDomain] | None = None  # of A and of B

    @classmethod
    def why_not(cls, samples: Samples, device: torch.device) -> str | None:
        """Returns which memory is missing; None if there is enough."""
        budget = find_memory(samples, device)
        return str(budget) if budget.device is None else None

    @property
    def description(self) -> str:
        """How much memory the images take, of how much."""
        return str(self.budget)

    def prepare(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Decodes all images, once."""
        if self._cached is None:
            self._cached = self._decode_all(cancelled)
        if self._cached is not None:
            super().prepare(cancelled)

    def start(self, sample: int) -> Iterator[Batch]:
        """Yields raw batches: the whole images, [H, W, C] each, and where to crop them."""
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
        assert self._cached is not None
        raw: Batch = {"A": [], "B": [], "paths_A": [], "paths_B": [], "skipped": []}
        placements: dict[str, list[tuple[int, int, bool]]] = {"A": [], "B": []}
        for number in numbers:
            index_A, index_B, *augmentations = self.samples.draw(number)
            for side, cached, index, augmentation in zip(
                "AB", self._cached, (index_A, index_B), augmentations, strict=True
            ):
                image = cached.images[index]
                size = image.shape[1], image.shape[0]
                raw[side].append(image)
                raw[f"paths_{side}"].append(cached.paths[index])
                raw["skipped"] += cached.skipped.get(index, [])
                placements[side].append(transforms.placement(size, self.samples.config, augmentation))
        pinned = self.device.type == "cuda"
        for side, of_side in placements.items():
            raw[f"placement_{side}"] = torch.tensor(of_side, dtype=torch.int32, pin_memory=pinned)  # [N, 3]
        return raw

    def _decode_all(self, cancelled: Callable[[], bool]) -> list[CachedDomain] | None:
        """The images of both domains; None if it was cancelled."""
        assert self.budget.device is not None
        samples, began = self.samples, time.monotonic()
        sides = [
            CachedDomain.allocate(domain, samples.config, self.budget.device, self.device) for domain in samples.domains
        ]
        done, total = 0, sum(len(cached.images) for cached in sides)
        workers = samples.config.workers
        threads = ThreadPoolExecutor(usable_cores() if workers is None else max(1, workers), "decode")
        try:
            with ProgressBar("images", "decoding", bar=False) as progress:
                for side, cached in enumerate(sides):
                    decode = functools.partial(cached.decode, samples, side)
                    for _ in threads.map(decode, range(len(cached.images))):  # in order: the first bad file is named
                        progress(done := done + 1, total)
                        if cancelled():
                            return None
        finally:
            threads.shutdown(cancel_futures=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # batches are made on another stream than the copies
        if (seconds := time.monotonic() - began) >= _LOGGED_FROM:
            log.info("cache: %s images decoded in %.0f s", f"{total:,}", seconds)
        return sides
