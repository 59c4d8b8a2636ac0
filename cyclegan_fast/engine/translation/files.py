"""Files translated into files: images are read and written by threads, while the engine computes."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from cyclegan_fast.device import usable_cores
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import check_batch_size, tiling_for, translate_values
from cyclegan_fast.engine.info import EngineInfo
from cyclegan_fast.engine.tiling.tiling import Tiling, check_tiling
from cyclegan_fast.engine.translation.faithfulness import FaithfulnessCheck
from cyclegan_fast.engine.translation.large_tiff import goes_by_rows, tiff_pixels, translate_tiff
from cyclegan_fast.engine.translation.nodata import nodata_to_restore, restore_nodata
from cyclegan_fast.engine.translation.tasks import Task
from cyclegan_fast.engine.translation.video import translate_video
from cyclegan_fast.engine.translation.video_reader import import_av
from cyclegan_fast.errors import StorageError, UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.images.encode import encode_as, format_for, same_format
from cyclegan_fast.images.image_file import ImageFile, as_image_file
from cyclegan_fast.images.metadata import KEEP, Change, LeftOut, MetadataRules, carry_over, metadata_for
from cyclegan_fast.images.model_io import InputImage, from_values, read_input
from cyclegan_fast.logs import warn_once
from cyclegan_fast.monitoring.grids import encode, sample_grid
from cyclegan_fast.monitoring.progress import Progress

log = logging.getLogger(__name__)


class TaskResult(NamedTuple):
    """What became of an image or video."""

    task: Task
    fault: str = ""
    """What was wrong with it; empty if the result is written."""
    note: str = ""
    """What should be known of a result that is written."""
    clipped: int = 0
    """Values that lay outside the range of the generator's images."""
    left_out: LeftOut = LeftOut()
    """Metadata of the input that the result lacks."""


class Reconstruction(NamedTuple):
    """The translation back, which shows how much of an image is kept."""

    engine: Engine
    """Of the other direction."""
    grids: dict[Task, Path]
    """Files to write, each with an image, its translation and its reconstruction."""


def translate_files(
    engine: Engine,
    tasks: list[Task],
    *,
    batch_size: int = 8,
    tiling: Tiling | None = None,
    reconstruction: Reconstruction | None = None,
    faithfulness: FaithfulnessCheck | None = None,
    metadata: MetadataRules = KEEP,
    progress: Progress = lambda *_: None,
) -> Iterator[TaskResult]:
    """Translates images and videos, each written in one move, and yields in their order what became of each.

    Whatever is wrong with one file becomes its fault, and the others are done.

    Args:
        engine: The generator.
        tasks: What to translate.
        batch_size: Images of one size, or tiles of one, that pass the network at a time.
        tiling: How large images and frames are cut, as for `infer`. TIFFs that are cut go in strips.
        reconstruction: Translates the results back, too, and writes grids; of images that are read as a whole.
        faithfulness: Measures the results; of images that are read as a whole.
        metadata: What the results keep of the metadata of images.
        progress: Called with the files that are done, and how many there are; of a large one with fractions.

    Raises:
        UserError: Nothing can be written (the disk is full, for example), or a setting cannot be had.
    """
    check_batch_size(batch_size)
    if tiling is not None:
        check_tiling(engine, tiling)
    if any(task.is_video for task in tasks):
        import_av()
    finished = 0

    def within(done: float, total: float) -> None:
        progress(finished + min(done / total, 0.99), len(tasks))

    def results() -> Iterator[TaskResult]:
        for kind, some in groupby(tasks, functools.partial(_kind_of, engine=engine, tiling=tiling)):
            if kind == "image":
                pipeline = _ImagePipeline(engine, batch_size, tiling, reconstruction, faithfulness, metadata, pool)
                yield from pipeline.translate(some)
                continue
            if faithfulness is not None:
                warn_once(log, "large TIFFs that are translated in strips have no faithfulness scores")
            for task in some:
                if isinstance(kind, Tiling):
                    one = functools.partial(_translate_rows, engine, task, batch_size, kind, metadata, within)
                else:
                    one = functools.partial(_translate_video, engine, task, batch_size, tiling, within)
                yield _or_fault(task, one)

    with ThreadPoolExecutor(min(4, usable_cores()), thread_name_prefix="cyclegan_fast.files") as pool:
        try:
            for result in results():
                finished += 1
                progress(finished, len(tasks))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def _kind_of(task: Task, *, engine: Engine, tiling: Tiling | None) -> Literal["image", "video"] | Tiling:
    """How a file is translated; a Tiling of what is read and written by rows."""
    if task.is_video:
        return "video"
    try:
        cut = tiling_for(engine, tiff_pixels(task.source), tiling)
        if cut is None or not same_format(task.source, task.target):
            return "image"
        return cut if goes_by_rows(task.source, engine.in_channels) else "image"
    except Exception:  # whatever is wrong with the file is found again, and reported, when it is read
        return "image"


class _ImagePipeline:
    """Images that are read as a whole: while a batch is computed the next is read, and the last written."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        tiling: Tiling | None,
        reconstruction: Reconstruction | None,
        faithfulness: FaithfulnessCheck | None,
        metadata: MetadataRules,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._engine, self._batch_size, self._tiling = engine, batch_size, tiling
        self._reconstruction, self._metadata, self._pool = reconstruction, metadata, pool
        self._faithfulness = faithfulness

    def translate(self, tasks: Iterator[Task]) -> Iterator[TaskResult]:
        written: deque[Future[TaskResult]] = deque()
        read = self._read_ahead(tasks)
        while batch := list(islice(read, self._batch_size)):
            written.extend(self._translate_batch(batch))
            while len(written) > self._batch_size:
                yield written.popleft().result()
        while written:
            yield written.popleft().result()

    def _read_ahead(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Future[InputImage]]]:
        waiting: deque[tuple[Task, Future[InputImage]]] = deque()
        for task in tasks:
            future = self._pool.submit(read_input, task.source, self._engine.in_format, self._engine.out_format)
            waiting.append((task, future))
            if len(waiting) > self._batch_size:
                yield waiting.popleft()
        yield from waiting

    def _translate_batch(self, batch: list[tuple[Task, Future[InputImage]]]) -> list[Future[TaskResult]]:
        """All in one call; if that fails, each in a call of its own, so that the fault is its own."""
        results: dict[Task, Future[TaskResult]] = {}
        images: dict[Task, InputImage] = {}
        for task, future in batch:
            try:
                images[task] = future.result()
            except Exception as error:
                results[task] = _finished(TaskResult(task, _describe(error, task)))
        try:
            results |= self._compute(images)
        except Exception:
            for task, image in images.items():
                try:
                    results |= self._compute({task: image})
                except Exception as error:
                    results[task] = _finished(TaskResult(task, _describe(error, task)))
        return [results[task] for task, _ in batch]

    def _compute(self, images: dict[Task, InputImage]) -> dict[Task, Future[TaskResult]]:
        values = [image.values for image in images.values()]
        outputs = translate_values(self._engine, values, batch_size=self._batch_size, tiling=self._tiling)
        back: list[Tensor | None] = [None] * len(outputs)
        if self._reconstruction is not None:
            inverse = self._reconstruction.engine
            back = [*translate_values(inverse, outputs, batch_size=self._batch_size, tiling=self._tiling)]
        if self._faithfulness is not None:
            for (task, image), output, again in zip(images.items(), outputs, back, strict=True):
                self._faithfulness.add(task, image.values, output, again)
        return {
            task: self._pool.submit(_or_fault, task, functools.partial(self._write, task, image, output, again))
            for (task, image), output, again in zip(images.items(), outputs, back, strict=True)
        }

    def _write(self, task: Task, image: InputImage, output: Tensor, back: Tensor | None) -> TaskResult:
        kind = format_for(task.target, task.source)
        content, left_out = encode_translation(
            as_image_file(task.source), kind, image, output, self._engine.info, self._metadata
        )
        if self._reconstruction is not None and back is not None:
            grid = sample_grid([[image.values, output, back]], ["input", "translated", "reconstruction"])
            write_atomically(self._reconstruction.grids[task], encode(grid, "PNG"))
        write_atomically(task.target, content)  # the last, which --resume looks for
        return TaskResult(task, clipped=image.clipped, left_out=left_out)


def encode_translation(
    source: ImageFile, kind: str, image: InputImage, output: Tensor, info: EngineInfo, rules: MetadataRules
) -> tuple[bytes, LeftOut]:
    """Encodes a translation with the metadata of its input.

    Args:
        source: The input.
        kind: The format, such as PNG.
        image: The input as it was read.
        output: Its translation, float32 [C', H', W'] in [-1, 1].
        info: About the engine that made it.
        rules: What is kept of the metadata.

    Returns:
        The content of the file, and which metadata it lacks.

    Raises:
        UserError: That format cannot hold it.
    """
    pixels = from_values(output, image.depth, info.out_format)
    (height, width), (new_height, new_width) = image.values.shape[1:], pixels.shape[:2]
    change = Change((width, height), (new_width, new_height), pixels.shape[2])
    metadata = metadata_for(source, rules)
    if kind == "TIFF" and (nodata := nodata_to_restore(metadata, info.in_format.channels, pixels.dtype, rules)):
        stored = read_unscaled(source, info.in_format.channels)  # again, as few images have such a value
        restore_nodata(pixels, nodata, lambda low, high: stored[low:high], change)
    return carry_over(encode_as(kind, pixels), kind, metadata, change, rules), metadata.left_out


def _finished(result: TaskResult) -> Future[TaskResult]:
    future: Future[TaskResult] = Future()
    future.set_result(result)
    return future


def _translate_rows(
    engine: Engine, task: Task, batch_size: int, tiling: Tiling, metadata: MetadataRules, progress: Progress
) -> TaskResult:
    clipped, left_out = translate_tiff(
        engine, task.source, task.target, tiling, batch_size=batch_size, metadata=metadata, progress=progress
    )
    return TaskResult(task, clipped=clipped, left_out=left_out)


def _translate_video(
    engine: Engine, task: Task, batch_size: int, tiling: Tiling | None, progress: Progress
) -> TaskResult:
    note = translate_video(engine, task.source, task.target, batch_size=batch_size, tiling=tiling, progress=progress)
    return TaskResult(task, note=note)


def _or_fault(task: Task, translate: Callable[[], TaskResult]) -> TaskResult:
    """What is wrong with one file is no reason to leave out the others, as a full disk is."""
    try:
        return translate()
    except StorageError:
        raise
    except Exception as error:
        return TaskResult(task, _describe(error, task))


def _describe(error: Exception, task: Task) -> str:
    """A fault in a sentence: our own, or of an exception that nobody expected, its type and message."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, UserError):
        return str(error)
    log.debug("%s", task.source, exc_info=error)
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
