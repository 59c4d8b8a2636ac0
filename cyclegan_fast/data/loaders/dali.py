"""The loader "dali": NVIDIA DALI decodes and resizes, on the GPU where one trains; our own op crops and normalises.

Threads read the files and sort them by their headers. Those that DALI may decode (see `dali_files`) go to it as they
are. Any other, which DALI would refuse or read by another rule than ours, is decoded by Pillow, resized, and goes
through DALI as a PPM, which leaves its pixels as they are. So every loader gives the same images: exactly, but for the
rounding of DALI's resize and, on a GPU, of nvJPEG.

One image that DALI cannot decode ends its whole pipeline. Then each image in flight is decoded alone, those that fail
are left to Pillow from there on, and a new pipeline resumes the stream at the first sample that was not delivered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.dali_files import decodable_size
from cyclegan_fast.data.loaders.dali_pipeline import (
    QUEUE_DEPTH,
    DaliError,
    DaliImage,
    Inputs,
    as_inputs,
    build_pipeline,
    decodes,
    load,
    one_line,
    why_not_installed,
)
from cyclegan_fast.data.loaders.samples import Samples, Skipped
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import PixelFormat
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.tensors import to_model_range

log = logging.getLogger(__name__)

_MAX_THREADS = 16  # by default; each costs DALI memory on the device
_COUNTED_SAMPLES = 1000  # samples after which the log says how many images Pillow had to decode


class DaliLoader(Loader):
    """See `Loader`; DALI is imported when batches are first prepared, and its threads start with the first batch."""

    name = "dali"
    auto_devices = ("cuda",)  # on a CPU it gains nothing

    @classmethod
    def why_not(cls, samples: Samples, device: torch.device) -> str | None:
        """Returns why DALI cannot serve `samples`, to end a sentence; None if it can."""
        for domain in samples.domains:
            if domain.pixel_format not in (PixelFormat(channels=1), PixelFormat(channels=3)):
                return "DALI gives images of 1 or 3 channels of 8 bits, and others are wanted"
        return why_not_installed()

    def __init__(self, samples: Samples, **options: Any) -> None:
        super().__init__(samples, **options)
        workers = samples.config.workers
        self.threads = min(_MAX_THREADS, usable_cores()) if workers is None else max(1, workers)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._for_pillow: set[ImageFile] = set()
        """Files that DALI might decode by their headers, and could not."""
        self._being_read: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()
        """DALI's images that the device may still have to read, and what comes after that."""
        self._prepared, self._by_pillow, self._reported = 0, 0, False

    @property
    def description(self) -> str:
        """Where it decodes, and how many threads take part."""
        return f"decodes on {self.device}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    def start(self, sample: int) -> Iterator[Batch]:
        """Yields raw batches: for each side DALI's list of uint8 images [H, W, C], and the placements, int32 [N, 3].

        Raises:
            UserError: DALI is there and does not load.
        """
        load(self.fix)
        return self._batches_from(sample)

    def _batches_from(self, sample: int) -> Iterator[Batch]:
        """Yields batches from one pipeline, and from another one where an image breaks the first."""
        while True:
            in_flight: deque[list[_PreparedSample]] = deque()
            try:
                with closing(self._from_one_pipeline(sample, in_flight)) as batches:
                    for raw in batches:
                        yield raw
                        sample += self.batch_size * self.samples.world
                return
            except DaliError as error:
                if not self._leave_to_pillow(in_flight):
                    yield {"failure": f"DALI failed: {error}; --loader torch does without it"}
                    return

    def images_of(self, raw: Batch, side: str) -> Tensor:
        """Crops, mirrors and normalises DALI's images, after DALI and before anything else on the current stream."""
        images, placement = raw[side], raw[f"placement_{side}"]
        if images.is_dense_tensor():
            pixels = [torch.from_dlpack(images.as_tensor())]
        else:  # of several sizes
            pixels = [torch.from_dlpack(images[i])[None] for i in range(len(images))]
        if self.device.type == "cuda":
            placement = placement.pin_memory().to(pixels[0].device, non_blocking=True)
        config = self.samples.config
        crop = (config.crop_size, config.crop_size) if config.preprocess.endswith("crop") else None
        results = [
            to_model_range(part, crop=crop, placement=where, channels_last=self.channels_last)
            for part, where in zip(pixels, placement.split([len(part) for part in pixels]), strict=True)
        ]
        if self.device.type == "cuda":
            self._keep_until_read(pixels)
        return results[0] if len(results) == 1 else torch.cat(results)

    def close(self) -> None:
        """Ends the pipeline and its threads and gives its memory back."""
        for event, _ in self._being_read:
            event.synchronize()
        self._being_read.clear()
        super().close()

    def _from_one_pipeline(self, sample: int, in_flight: deque[list[_PreparedSample]]) -> Generator[Batch]:
        """Yields the batches from a number on, as long as DALI can; `in_flight` holds those that it has not returned.

        Raises:
            DaliError: DALI cannot go on.
        """
        failure = ""

        def feed() -> Inputs:
            """Returns the inputs of the next batch, those of A and then those of B."""
            nonlocal failure
            batch = next(batches)
            failure = next((one.failure for one in batch if one.failure), "")
            if failure:
                raise StopIteration  # DALI returns what it has before it stops
            in_flight.append(batch)
            return tuple(part for side in zip(*(one.images for one in batch), strict=True) for part in as_inputs(side))

        pool = ThreadPoolExecutor(self.threads, "dali-read")
        try:
            batches = self._read_ahead(pool, sample)
            try:
                pipeline = build_pipeline(
                    self.samples.domains, feed, batch_size=self.batch_size, threads=self.threads, device=self.device
                )
                while True:
                    pipeline.schedule_run()  # the first time, as many batches as DALI holds
                    images_A, images_B = pipeline.outputs(cuda_stream=self._stream)
                    yield self._to_raw(in_flight.popleft(), images_A, images_B)
            except StopIteration:
                yield {"failure": failure}
            except (RuntimeError, MemoryError) as error:
                raise DaliError(one_line(error)) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_ahead(self, pool: ThreadPoolExecutor, sample: int) -> Iterator[list[_PreparedSample]]:
        """Yields samples in order, by batches, prepared by the threads of `pool`: enough ahead to keep each busy."""
        ahead = QUEUE_DEPTH + -(-self.threads // self.batch_size)
        waiting: deque[list[Future[_PreparedSample]]] = deque()
        numbers = self.samples.numbers(sample)
        while True:
            while len(waiting) < ahead:
                waiting.append([pool.submit(self._prepare, number) for number in islice(numbers, self.batch_size)])
            yield [future.result() for future in waiting.popleft()]

    def _prepare(self, number: int) -> _PreparedSample:
        """Reads what sample `number` is made of."""
        drawn, sample = self.samples.draw(number), _PreparedSample()
        try:
            sides = (drawn.index_A, drawn.augmentation_A), (drawn.index_B, drawn.augmentation_B)
            for domain, (index, augmentation) in enumerate(sides):
                image = self._read(domain, index, sample.skipped)
                sample.images.append(image)
                sample.placements.append(transforms.placement(image.size, self.samples.config, augmentation))
        except UserError as error:
            sample.failure = str(error)
        return sample

    def _read(self, domain: int, index: int, skipped: Skipped) -> DaliImage:
        """Returns an image as DALI can take it."""
        file, content = self.samples.domains[domain].files[index], b""
        if file not in self._for_pillow:
            with suppress(OSError):  # `Samples.read` meets the same error and knows what to do about it
                content = file.read()
        if (size := decodable_size(content)) is not None:
            left, width = file.columns(size[0])
            resized = transforms.resized_size((width, size[1]), self.samples.config)
            return DaliImage(file, content, (left, width, size[1]), resized, undecoded=True)
        file, pixels = self.samples.read(domain, index, skipped)
        height, width, channels = pixels.shape
        ppm = f"P{6 if channels == 3 else 5} {width} {height} 255\n".encode() + pixels.tobytes()
        return DaliImage(file, ppm, (0, width, height), (width, height), undecoded=False)

    def _to_raw(self, batch: list[_PreparedSample], images_A: Any, images_B: Any) -> Batch:
        self._count(batch)
        raw: Batch = {"A": images_A, "B": images_B, "skipped": [entry for one in batch for entry in one.skipped]}
        for side, name in enumerate("AB"):
            raw[f"paths_{name}"] = [str(one.images[side].file) for one in batch]
            raw[f"placement_{name}"] = torch.tensor([one.placements[side] for one in batch], dtype=torch.int32)
        return raw

    def _count(self, batch: list[_PreparedSample]) -> None:
        """Logs once how many images had to be left to Pillow, which takes the processor's time."""
        self._prepared += len(batch)
        self._by_pillow += sum(not image.undecoded for one in batch for image in one.images)
        if not self._reported and self._prepared >= min(_COUNTED_SAMPLES, len(self.samples)):
            self._reported = True
            if self._by_pillow:
                log.warning(
                    "%d of the first %d images are no ordinary 8-bit JPEG or PNG: Pillow decodes such images, not DALI",
                    self._by_pillow,
                    2 * self._prepared,
                )

    def _leave_to_pillow(self, in_flight: deque[list[_PreparedSample]]) -> bool:
        """Finds the images that DALI was given and cannot decode, and returns whether there are any."""
        undecoded = {
            image.file: image for batch in in_flight for one in batch for image in one.images if image.undecoded
        }
        domains, threads = self.samples.domains, self.threads
        bad = {file for file, image in undecoded.items() if not decodes(image, domains, threads, self.device)}
        for file in bad:
            log.warning("%s: DALI cannot decode this; Pillow does from here on", file)
        self._for_pillow |= bad
        return bool(bad)

    def _keep_until_read(self, pixels: list[Tensor]) -> None:
        """Lets nobody reuse the memory of DALI's images before the device has read them; waits for nothing."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(pixels[0].device))
        self._being_read.append((event, pixels))
        while self._being_read and self._being_read[0][0].query():
            self._being_read.popleft()


@dataclass
class _PreparedSample:
    """What the threads have read for one sample."""

    images: list[DaliImage] = field(default_factory=list)  # of A, of B
    placements: list[tuple[int, int, bool]] = field(default_factory=list)
    skipped: Skipped = field(default_factory=list)
    failure: str = ""
