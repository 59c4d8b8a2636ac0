"""The loader "dali": NVIDIA DALI decodes and resizes, on the GPU where one trains; our own op crops and normalises.

Threads read the files and sort them by their headers. A plain one (see `plain`) goes to DALI as it is. Any other, which
DALI would refuse or read by another rule than ours, is decoded by Pillow, resized, and goes through DALI as a PPM,
which leaves its pixels as they are. So every loader gives the same images: exactly, but for the rounding of DALI's
resize and, on a GPU, of nvJPEG.

One image that DALI cannot decode ends its whole pipeline. Then each image in flight is decoded alone, those that fail
are left to Pillow from there on, and a new pipeline takes up the stream at the first sample that was not delivered.
"""

from __future__ import annotations

import logging
import os
import re
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.dali_files import plain_size
from cyclegan_fast.data.loaders.samples import Samples, Skipped
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import PixelFormat
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.tensors import to_model_range

log = logging.getLogger(__name__)

_DEPTH = 3  # batches inside DALI: one is used, two are ready or in the making
_MOST_THREADS = 16  # by default; each costs DALI memory on the device
_COUNTED = 1000  # samples after which the log says how many images Pillow had to decode

# A process that is forked while a pipeline lives has the pipeline without its threads, and would wait for them for ever
# when it drops it. So it never does.
_pipelines: weakref.WeakSet[Any] = weakref.WeakSet()
_not_ours: list[Any] = []
os.register_at_fork(after_in_child=lambda: _not_ours.extend(_pipelines))


class DaliLoader(Loader):
    """See `Loader`; DALI is imported when batches are first prepared, and its threads start with the first batch."""

    name = "dali"
    auto_devices = ("cuda",)  # on a CPU it gains nothing

    @classmethod
    def why_not(cls, samples: Samples, device: torch.device) -> str | None:
        """Why this loader cannot serve `samples` on `device`, in words that end a sentence; None if it can."""
        for domain in samples.domains:
            if domain.pixel_format not in (PixelFormat(channels=1), PixelFormat(channels=3)):
                return "DALI gives images of 1 or 3 channels of 8 bits, and others are wanted"
        return None if _is_installed() else f"NVIDIA DALI is missing ({_how_to_install()})"

    def __init__(self, samples: Samples, **options: Any) -> None:
        super().__init__(samples, **options)
        workers = samples.config.workers
        self.threads = min(_MOST_THREADS, usable_cores()) if workers is None else max(1, workers)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._for_pillow: set[ImageFile] = set()
        """Plain files that DALI could not decode all the same."""
        self._being_read: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()
        """DALI's images that the device may still have to read, and what comes after that."""
        self._prepared, self._odd, self._told = 0, 0, False

    @property
    def about(self) -> str:
        """Where it decodes, and how many threads take part."""
        return f"decodes on {self.device}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    def start(self, sample: int) -> Iterator[Batch]:
        """Raw batches: for each side DALI's list of uint8 images [H, W, C], and the placements, int32 [N, 3].

        Raises:
            UserError: DALI is there and does not load.
        """
        try:
            import_module("nvidia.dali.fn")  # takes a second
        except (ImportError, OSError) as error:
            raise UserError(f"NVIDIA DALI does not load ({_one_line(error)}); {self.mend}") from error
        return self._batches_from(sample)

    def _batches_from(self, sample: int) -> Iterator[Batch]:
        """Batches from one pipeline, and from another one where an image breaks the first."""
        while True:
            in_flight: deque[list[_Sample]] = deque()
            try:
                with closing(self._from_one_pipeline(sample, in_flight)) as batches:
                    for raw in batches:
                        yield raw
                        sample += self.batch_size * self.samples.world
                return
            except _DaliError as error:
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

    def _from_one_pipeline(self, sample: int, in_flight: deque[list[_Sample]]) -> Generator[Batch]:
        """The batches from a number on, as long as DALI can; `in_flight` holds what it was given and has not returned.

        Raises:
            _DaliError: DALI cannot go on.
        """
        failure = ""

        def feed() -> tuple[Any, ...]:
            """What DALI calls for the next batch: the inputs of A, then those of B."""
            nonlocal failure
            batch = next(batches)
            failure = next((one.failure for one in batch if one.failure), "")
            if failure:
                raise StopIteration  # DALI returns what it has before it stops
            in_flight.append(batch)
            return tuple(part for side in zip(*(one.images for one in batch), strict=True) for part in _as_inputs(side))

        pool = ThreadPoolExecutor(self.threads, "dali-read")
        try:
            batches = self._read_ahead(pool, sample)
            try:
                pipeline = self._build_pipeline(feed)
                while True:
                    pipeline.schedule_run()  # the first time, as many batches as DALI holds
                    images_A, images_B = pipeline.outputs(cuda_stream=self._stream)
                    yield self._to_raw(in_flight.popleft(), images_A, images_B)
            except StopIteration:
                yield {"failure": failure}
            except (RuntimeError, MemoryError) as error:
                raise _DaliError(_one_line(error)) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_ahead(self, pool: ThreadPoolExecutor, sample: int) -> Iterator[list[_Sample]]:
        """Samples in their order, by batches, prepared by the threads of `pool`: enough ahead to keep each busy."""
        ahead = _DEPTH + -(-self.threads // self.batch_size)
        waiting: deque[list[Future[_Sample]]] = deque()
        numbers = self.samples.numbers(sample)
        while True:
            while len(waiting) < ahead:
                waiting.append([pool.submit(self._prepare, number) for number in islice(numbers, self.batch_size)])
            yield [future.result() for future in waiting.popleft()]

    def _prepare(self, number: int) -> _Sample:
        """Reads what sample `number` is made of."""
        picked, sample = self.samples.pick(number), _Sample()
        try:
            for domain, index, draw in ((0, picked.a, picked.draw_A), (1, picked.b, picked.draw_B)):
                image = self._read(domain, index, sample.skipped)
                sample.images.append(image)
                sample.placements.append(transforms.placement(image.size, self.samples.config, draw))
        except UserError as error:
            sample.failure = str(error)
        return sample

    def _read(self, domain: int, index: int, skipped: Skipped) -> _Image:
        """An image as DALI can take it."""
        source, content = self.samples.domains[domain].sources[index], b""
        if source not in self._for_pillow:
            with suppress(OSError):  # `Samples.read` meets the same error and knows what to do about it
                content = source.read()
        if (size := plain_size(content)) is not None:
            left, width = source.columns(size[0])
            resized = transforms.resized_size((width, size[1]), self.samples.config)
            return _Image(source, content, (left, width, size[1]), resized, plain=True)
        source, pixels = self.samples.read(domain, index, skipped)
        height, width, channels = pixels.shape
        ppm = f"P{6 if channels == 3 else 5} {width} {height} 255\n".encode() + pixels.tobytes()
        return _Image(source, ppm, (0, width, height), (width, height), plain=False)

    def _to_raw(self, batch: list[_Sample], images_A: Any, images_B: Any) -> Batch:
        self._count(batch)
        raw: Batch = {"A": images_A, "B": images_B, "skipped": [entry for one in batch for entry in one.skipped]}
        for side, name in enumerate("AB"):
            raw[f"paths_{name}"] = [str(one.images[side].source) for one in batch]
            raw[f"placement_{name}"] = torch.tensor([one.placements[side] for one in batch], dtype=torch.int32)
        return raw

    def _count(self, batch: list[_Sample]) -> None:
        """Says once how many images had to be left to Pillow, which takes the processor's time."""
        self._prepared += len(batch)
        self._odd += sum(not image.plain for one in batch for image in one.images)
        if not self._told and self._prepared >= min(_COUNTED, len(self.samples)):
            self._told = True
            if self._odd:
                log.warning(
                    "%d of the first %d images are not plain 8-bit JPEG or PNG: Pillow decodes such images, not DALI",
                    self._odd,
                    2 * self._prepared,
                )

    def _leave_to_pillow(self, in_flight: deque[list[_Sample]]) -> bool:
        """Finds the plain images that DALI cannot decode, and says whether there are any."""
        plain = {image.source: image for batch in in_flight for one in batch for image in one.images if image.plain}
        bad = {source for source, image in plain.items() if not self._dali_decodes(image)}
        for source in bad:
            log.warning("%s: DALI cannot decode this; Pillow does from here on", source)
        self._for_pillow |= bad
        return bool(bad)

    def _dali_decodes(self, image: _Image) -> bool:
        alone = iter([_as_inputs((replace(image, size=(8, 8)),)) * 2])  # a size that always finds room
        try:
            pipeline = self._build_pipeline(lambda: next(alone), batch_size=1)
            pipeline.schedule_run()
            pipeline.outputs()
        except (RuntimeError, MemoryError):
            return False
        return True

    def _build_pipeline(self, feed: Callable[[], tuple[Any, ...]], batch_size: int | None = None) -> Any:
        """A pipeline with two outputs, the images of A and of B: decoded, upright and resized."""
        from nvidia.dali import Pipeline, fn, types

        device_id = None
        if self.device.type == "cuda":
            device_id = torch.cuda.current_device() if self.device.index is None else self.device.index
        pipeline = Pipeline(
            batch_size=batch_size or self.batch_size,
            num_threads=self.threads,
            device_id=device_id,
            prefetch_queue_depth=_DEPTH,
            exec_dynamic=True,  # its outputs own their memory, and are handed over on a stream
        )
        with pipeline:
            inputs = fn.external_source(
                source=feed,
                num_outputs=8,
                ndim=1,
                dtype=[types.UINT8, types.INT32, types.INT32, types.FLOAT] * 2,
            )
            outputs = []
            for (content, start, shape, size), domain in zip(
                (inputs[:4], inputs[4:]), self.samples.domains, strict=True
            ):
                images = fn.decoders.image(
                    content,
                    device="cpu" if device_id is None else "mixed",
                    output_type=types.GRAY if domain.pixel_format.channels == 1 else types.RGB,
                    adjust_orientation=True,
                    jpeg_fancy_upsampling=True,  # of the colours, as libjpeg does it
                    hw_decoder_load=0.0,  # or a share of a batch would come from another decoder, with other pixels
                )
                images = fn.slice(images, start=start, shape=shape, axes=(0, 1))
                # Catmull-Rom, widened where it makes smaller: what Pillow's bicubic does. The same size stays as it is.
                outputs.append(fn.resize(images, size=size, interp_type=types.INTERP_CUBIC, antialias=True))
            pipeline.set_outputs(*outputs)
        pipeline.build()
        _pipelines.add(pipeline)
        return pipeline

    def _keep_until_read(self, pixels: list[Tensor]) -> None:
        """Lets nobody reuse the memory of DALI's images before the device has read them; waits for nothing."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(pixels[0].device))
        self._being_read.append((event, pixels))
        while self._being_read and self._being_read[0][0].query():
            self._being_read.popleft()


@dataclass(frozen=True)
class _Image:
    source: ImageFile
    content: bytes  # the file, or a PPM
    part: tuple[int, int, int]  # that counts of the upright image: its left column, its width and height
    size: transforms.Size  # that it is to be resized to
    plain: bool  # whether it is the file


@dataclass
class _Sample:
    images: list[_Image] = field(default_factory=list)  # of A, of B
    placements: list[tuple[int, int, bool]] = field(default_factory=list)
    skipped: Skipped = field(default_factory=list)
    failure: str = ""


class _DaliError(Exception):
    """DALI's pipeline has broken; the text is DALI's reason."""


def _as_inputs(images: tuple[_Image, ...]) -> tuple[Any, ...]:
    """What DALI gets of one side: bytes; top and left, height and width of the part; height and width to come."""
    content = [np.frombuffer(image.content, np.uint8) for image in images]
    start = np.array([(0, left) for left, _, _ in (image.part for image in images)], np.int32)  # [N, 2]
    shape = np.array([(height, width) for _, width, height in (image.part for image in images)], np.int32)  # [N, 2]
    size = np.array([(height, width) for width, height in (image.size for image in images)], np.float32)  # [N, 2]
    return content, start, shape, size


def _one_line(error: Exception) -> str:
    """What DALI says, in one line and without its own tracebacks."""
    text = str(error).rsplit("encountered:", maxsplit=1)[-1]
    text = re.sub(r"Current pipeline object is no longer valid\.|Critical error in pipeline:|\[/[^\]]*\]", " ", text)
    return " ".join(text.split()).rstrip(" .:") or type(error).__name__


def _is_installed() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # there is no "nvidia" at all
        return False


def _how_to_install() -> str:
    """The package that goes with this torch."""
    if (torch.version.cuda or "13").startswith("12."):
        return "pip install 'cyclegan-fast[dali-cuda120]' brings nvidia-dali-cuda120, for a torch of CUDA 12"
    return "pip install 'cyclegan-fast[dali]' brings nvidia-dali-cuda130, for a torch of CUDA 13 or of none"
