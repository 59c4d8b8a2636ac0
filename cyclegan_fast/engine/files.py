"""A folder of pictures translated into another: names, sub-folders, formats and sizes are kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cyclegan_fast.data import BadImageError, index_domain
from cyclegan_fast.engine.backends import Engine
from cyclegan_fast.engine.inference import check_batch_size, infer
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


def translate_files(engine: Engine, jobs: list[Job], *, batch_size: int = 8) -> Iterator[tuple[Job, str | None]]:
    """Translates pictures, each written in one move, and yields each job with what was wrong with it, or None.

    Raises:
        UserError: A result cannot be written (the disk is full, say), or `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    for start in range(0, len(jobs), batch_size):
        for job, made in _translate_chunk(engine, jobs[start : start + batch_size], batch_size):
            if isinstance(made, Image.Image):
                write_atomically(job.target, _encode(made, job.source))
                yield job, None
            else:
                yield job, made


def _translate_chunk(engine: Engine, jobs: list[Job], batch_size: int) -> list[tuple[Job, Image.Image | str]]:
    """All in one call; if one of them is bad, each in a call of its own."""
    try:
        made = infer(engine, [job.source for job in jobs], batch_size=batch_size)
        return list(zip(jobs, made, strict=True))
    except UserError as error:
        if len(jobs) > 1:
            return [result for job in jobs for result in _translate_chunk(engine, [job], 1)]
        return [(jobs[0], error.reason if isinstance(error, BadImageError) else str(error))]


def _encode(image: Image.Image, source: Path) -> bytes:
    """The bytes of a picture in the format that the source file really has, whatever its name says."""
    with Image.open(source) as original:
        found = original.format or "PNG"
    kind = "JPEG" if found == "MPO" else found  # a stereo JPEG, of which the first picture was translated
    buffer = io.BytesIO()
    image.save(buffer, kind, **_SAVE_OPTIONS.get(kind, {}))
    return buffer.getvalue()
