"""A folder of pictures translated into another: names, sub-folders, formats and sizes are kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cyclegan_fast.data import BadImageError, deep, index_domain
from cyclegan_fast.data.decode import FORMATS
from cyclegan_fast.engine.backends import Engine
from cyclegan_fast.engine.images import from_values, read_picture
from cyclegan_fast.engine.inference import check_batch_size, infer, tiling_for
from cyclegan_fast.engine.large import goes_by_rows, tiff_pixels, translate_tiff
from cyclegan_fast.engine.tiles import Tiling, check_tiling
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


@dataclass(frozen=True)
class Job:
    """One picture to translate."""

    source: Path
    target: Path


def plan_jobs(source: Path, output: Path, *, overwrite: bool = False) -> list[Job]:
    """Lists what to translate, sorted by path.

    Args:
        source: A picture, or a folder with pictures at any depth.
        output: Folder for the results, under the same names.
        overwrite: Whether results that exist may be replaced. The input never is.

    Raises:
        UserError: The input is missing or holds no picture, or a result would replace an input, or a file that exists.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist")
    if source.is_dir():
        if output.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{output} lies in the input folder {source}: choose an output folder outside it")
        jobs = [Job(path, output / path.relative_to(source)) for path in index_domain(source.parent, source.name)]
    else:
        jobs = [Job(source, output / source.name)]
    inputs = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in inputs:
            raise UserError(f"{job.target} is one of the inputs and would be overwritten: choose another output folder")
    taken = [job.target for job in jobs if job.target.exists()]
    if taken and not overwrite:
        raise UserError(f"{taken[0]} exists already ({len(taken)} files do): choose another folder, or say --overwrite")
    return jobs


class Done(NamedTuple):
    """What became of a picture."""

    job: Job
    fault: str = ""
    """What was wrong with it; empty if the result is written."""
    clipped: int = 0
    """Values that lay outside the range of the generator's images."""


def translate_files(
    engine: Engine, jobs: list[Job], *, batch_size: int = 8, tiling: Tiling | None = None
) -> Iterator[Done]:
    """Translates pictures, each written in one move, and yields what became of each.

    Args:
        engine: The generator.
        jobs: What to translate.
        batch_size: Pictures of one size, or tiles of one, that pass the network at a time.
        tiling: How large pictures are cut, as for `infer`. TIFFs that are cut are read and written in strips.

    Raises:
        UserError: A result cannot be written (the disk is full, say), or `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    if tiling is not None:
        check_tiling(engine, tiling)
    waiting: list[Job] = []
    for job in jobs:
        cut = tiling_for(engine, tiff_pixels(job.source), tiling)
        if cut is not None and goes_by_rows(job.source, engine.in_channels):
            yield from _translate_together(engine, waiting, batch_size, tiling)
            waiting = []
            yield _translate_in_strips(engine, job, cut, batch_size)
            continue
        waiting.append(job)
        if len(waiting) == batch_size:
            yield from _translate_together(engine, waiting, batch_size, tiling)
            waiting = []
    yield from _translate_together(engine, waiting, batch_size, tiling)


def _translate_together(engine: Engine, jobs: list[Job], batch_size: int, tiling: Tiling | None) -> Iterator[Done]:
    for done, content in _translate_chunk(engine, jobs, batch_size, tiling):
        if not done.fault:
            write_atomically(done.job.target, content)
        yield done


def _translate_in_strips(engine: Engine, job: Job, tiling: Tiling, batch_size: int) -> Done:
    try:
        return Done(
            job,
            clipped=translate_tiff(
                engine, job.source, job.target, tiling, batch_size=batch_size, follow=lambda _: None
            ),
        )
    except BadImageError as error:
        return Done(job, error.reason)


def _translate_chunk(
    engine: Engine, jobs: list[Job], batch_size: int, tiling: Tiling | None
) -> list[tuple[Done, bytes]]:
    """All in one call; if one of them is bad, each in a call of its own."""
    try:
        pictures = [read_picture(job.source, engine.in_form, engine.out_form) for job in jobs]
        made = infer(engine, [picture.values for picture in pictures], batch_size=batch_size, tiling=tiling)
        return [
            (
                Done(job, clipped=picture.clipped),
                _encode(from_values(values, picture.depth, engine.out_form), job.source),
            )
            for job, picture, values in zip(jobs, pictures, made, strict=True)
        ]
    except UserError as error:
        if len(jobs) > 1:
            return [result for job in jobs for result in _translate_chunk(engine, [job], 1, tiling)]
        return [(Done(jobs[0], error.reason if isinstance(error, BadImageError) else str(error)), b"")]


def _encode(pixels: np.ndarray, source: Path) -> bytes:
    """The bytes of [H, W, C] in the format that the source file really has, whatever its name says.

    Raises:
        UserError: That format cannot hold such pixels, or a package is missing that writes them.
    """
    kind, channels = _format_of(source), pixels.shape[2]
    colour, deep_pixels = channels == 3, pixels.dtype != np.uint8
    if kind != "TIFF" and (channels not in (1, 3) or pixels.dtype == np.float32):
        what = "floating-point values" if pixels.dtype == np.float32 else f"{channels} channels"
        raise UserError(f"the result has {what}, which {kind} cannot hold: give the picture as TIFF")
    try:
        if deep_pixels and colour and kind == "PNG":
            return deep.encode_png(pixels)
        if deep_pixels and colour and kind == "PPM":
            return deep.encode_ppm(pixels)
        if kind == "TIFF" and (channels not in (1, 3) or (deep_pixels and colour)):
            return deep.encode_tiff(pixels)
    except deep.MissingPackageError as error:
        raise UserError(str(error)) from error
    buffer = io.BytesIO()
    Image.fromarray(pixels if colour else pixels[..., 0]).save(buffer, kind, **_SAVE_OPTIONS.get(kind, {}))
    return buffer.getvalue()


def _format_of(source: Path) -> str:
    try:
        with Image.open(source, formats=FORMATS) as image:
            return "JPEG" if image.format == "MPO" else str(image.format)  # a stereo JPEG: its first picture
    except UnidentifiedImageError:
        return "TIFF"  # the one format that is read without Pillow
