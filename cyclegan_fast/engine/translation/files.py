"""Files translated into files: images are read and written by threads, while the engine computes."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from cyclegan_fast.device import usable_cores
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import check_batch_size, infer, tiling_for
from cyclegan_fast.engine.tiling.strips import ProgressCallback
from cyclegan_fast.engine.tiling.tiles import Tiling, check_tiling
from cyclegan_fast.engine.translation.jobs import Job
from cyclegan_fast.engine.translation.large_tiff import goes_by_rows, tiff_pixels, translate_tiff
from cyclegan_fast.engine.translation.video import find_ffmpeg, translate_video
from cyclegan_fast.errors import StorageError, UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.encode import encode_like
from cyclegan_fast.images.model_io import InputImage, from_values, read_input
from cyclegan_fast.monitoring.grids import encode, sample_grid


class Done(NamedTuple):
    """What became of an image or video."""

    job: Job
    fault: str = ""
    """What was wrong with it; empty if the result is written."""
    note: str = ""
    """What should be known of a result that is written."""
    clipped: int = 0
    """Values that lay outside the range of the generator's images."""


class Return(NamedTuple):
    """The way back, to see how much of an image comes home."""

    engine: Engine
    """Of the other direction."""
    grids: dict[Job, Path]
    """Files to write, each with an image, its translation, and that translated back."""


def translate_files(
    engine: Engine,
    jobs: list[Job],
    *,
    batch_size: int = 8,
    tiling: Tiling | None = None,
    back: Return | None = None,
    follow: ProgressCallback = lambda _: None,
) -> Iterator[Done]:
    """Translates images and videos, each written in one move, and yields in their order what became of each.

    Args:
        engine: The generator.
        jobs: What to translate.
        batch_size: Images of one size, or tiles of one, that pass the network at a time.
        tiling: How large images and frames are cut, as for `infer`. TIFFs that are cut go in strips.
        back: Translates the results back, too, and writes grids of both; of images that are read as a whole.
        follow: Is told the share that is done of a large image or a video.

    Raises:
        UserError: A result cannot be written (the disk is full, say), or a setting cannot be had.
    """
    check_batch_size(batch_size)
    if tiling is not None:
        check_tiling(engine, tiling)
    if any(job.is_video for job in jobs):
        find_ffmpeg()

    def way_of(job: Job) -> Literal["image", "video"] | Tiling:
        """A Tiling of what is read and written by rows."""
        if job.is_video:
            return "video"
        cut = tiling_for(engine, tiff_pixels(job.source), tiling)
        return cut if cut is not None and goes_by_rows(job.source, engine.in_channels) else "image"

    with ThreadPoolExecutor(min(4, usable_cores()), thread_name_prefix="cyclegan_fast.files") as pool:
        try:
            for way, some in groupby(jobs, way_of):
                if way == "image":
                    yield from _WholeImages(engine, batch_size, tiling, back, pool).translate(some)
                    continue
                for job in some:
                    if isinstance(way, Tiling):
                        one = functools.partial(_translate_rows, engine, job, batch_size, way, follow)
                    else:
                        one = functools.partial(_translate_video, engine, job, batch_size, tiling, follow)
                    yield _or_fault(job, one)
        finally:
            pool.shutdown(cancel_futures=True)


class _WholeImages:
    """Images that are read as a whole: while a batch is computed the next is read, and the last written."""

    def __init__(
        self, engine: Engine, batch_size: int, tiling: Tiling | None, back: Return | None, pool: ThreadPoolExecutor
    ) -> None:
        self._engine, self._batch_size, self._tiling = engine, batch_size, tiling
        self._back, self._pool = back, pool

    def translate(self, jobs: Iterator[Job]) -> Iterator[Done]:
        written: deque[Future[Done]] = deque()
        read = self._read_ahead(jobs)
        while batch := list(islice(read, self._batch_size)):
            written.extend(self._translate_batch(batch))
            while len(written) > self._batch_size:
                yield written.popleft().result()
        while written:
            yield written.popleft().result()

    def _read_ahead(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Future[InputImage]]]:
        waiting: deque[tuple[Job, Future[InputImage]]] = deque()
        for job in jobs:
            future = self._pool.submit(read_input, job.source, self._engine.in_format, self._engine.out_format)
            waiting.append((job, future))
            if len(waiting) > self._batch_size:
                yield waiting.popleft()
        yield from waiting

    def _translate_batch(self, batch: list[tuple[Job, Future[InputImage]]]) -> list[Future[Done]]:
        """All in one call; if that fails, each in a call of its own, so that the fault is its own."""
        results: dict[Job, Future[Done]] = {}
        good: dict[Job, InputImage] = {}
        for job, future in batch:
            try:
                good[job] = future.result()
            except BadImageError as error:
                results[job] = _finished(Done(job, error.reason))
        try:
            results |= self._compute(good)
        except UserError:
            for job, image in good.items():
                try:
                    results |= self._compute({job: image})
                except UserError as error:
                    results[job] = _finished(Done(job, str(error)))
        return [results[job] for job, _ in batch]

    def _compute(self, images: dict[Job, InputImage]) -> dict[Job, Future[Done]]:
        values = [image.values for image in images.values()]
        made = infer(self._engine, values, batch_size=self._batch_size, tiling=self._tiling)
        home: list[Tensor | None] = [None] * len(made)
        if self._back is not None:
            home = infer(self._back.engine, made, batch_size=self._batch_size, tiling=self._tiling)
        return {
            job: self._pool.submit(_or_fault, job, functools.partial(self._write, job, images[job], there, back))
            for job, there, back in zip(images, made, home, strict=True)
        }

    def _write(self, job: Job, image: InputImage, made: Tensor, home: Tensor | None) -> Done:
        content = encode_like(job.source, from_values(made, image.depth, self._engine.out_format))
        if self._back is not None and home is not None:
            grid = sample_grid([[image.values, made, home]], ["input", "translated", "and back"])
            write_atomically(self._back.grids[job], encode(grid, "PNG"))
        write_atomically(job.target, content)  # the last, which --resume looks for
        return Done(job, clipped=image.clipped)


def _finished(done: Done) -> Future[Done]:
    future: Future[Done] = Future()
    future.set_result(done)
    return future


def _translate_rows(engine: Engine, job: Job, batch_size: int, tiling: Tiling, follow: ProgressCallback) -> Done:
    clipped = translate_tiff(engine, job.source, job.target, tiling, batch_size=batch_size, follow=follow)
    return Done(job, clipped=clipped)


def _translate_video(
    engine: Engine, job: Job, batch_size: int, tiling: Tiling | None, follow: ProgressCallback
) -> Done:
    note = translate_video(engine, job.source, job.target, batch_size=batch_size, tiling=tiling, follow=follow)
    return Done(job, note=note)


def _or_fault(job: Job, translate: Callable[[], Done]) -> Done:
    """What is wrong with one file is no reason to leave out the others, as a full disk is."""
    try:
        return translate()
    except StorageError:
        raise
    except UserError as error:
        return Done(job, error.reason if isinstance(error, BadImageError) else str(error))
