"""A block, the unit of bulk translation: some images, or one tar shard, translated by the code of the plain command."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.info import Precision
from cyclegan_fast.engine.load import Backend, load_engine
from cyclegan_fast.engine.tiling.tiling import Tiling
from cyclegan_fast.engine.translation.bulk.storage import ForbiddenError, LocalStorage, RemoteStorage, Storage
from cyclegan_fast.engine.translation.bulk.tar_shards import pack, unpack
from cyclegan_fast.engine.translation.files import TaskResult, translate_files
from cyclegan_fast.engine.translation.report import Outcome
from cyclegan_fast.engine.translation.tasks import Task
from cyclegan_fast.errors import StorageError, UserError
from cyclegan_fast.files import building_file, scratch_folder
from cyclegan_fast.images.metadata import KEEP, MetadataRules
from cyclegan_fast.monitoring.progress import Progress

CONNECTIONS = 16  # requests for one block at a time


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every process of a bulk translation has to know; it travels to each of them once."""

    input: Storage
    output: Storage
    engine: Path
    direction: Literal["AtoB", "BtoA"] | None = None
    device: str = "auto"
    precision: Precision | None = None
    backend: Backend = "auto"
    threads: int | None = None
    batch_size: int = 8
    tiling: Tiling | None = None
    metadata: MetadataRules = KEEP

    def load(self) -> Engine:
        """Loads the engine."""
        return load_engine(
            self.engine,
            direction=self.direction,
            device=self.device,
            precision=self.precision,
            backend=self.backend,
            threads=self.threads,
        )

    def is_in_place(self, block: Block) -> bool:
        """Whether a block's files are read and written where they are."""
        return not block.is_shard and isinstance(self.input, LocalStorage) and isinstance(self.output, LocalStorage)


class Block(NamedTuple):
    """Images and videos, or one tar shard."""

    names: tuple[tuple[str, str], ...]
    """Of each its name in the input, and that of its result in the output."""
    is_shard: bool = False

    @classmethod
    def from_json(cls, text: str) -> Block:
        """Reads a block that was written as JSON."""
        names, is_shard = json.loads(text)
        return cls(tuple((name, target) for name, target in names), is_shard)


class BlockResult(NamedTuple):
    """What became of a block."""

    written: list[str]
    """Names of the results in the output."""
    images: int
    """Images and videos that were tried."""
    outcomes: list[Outcome]
    """Of those of which something is to be reported."""
    seconds: float
    scale: tuple[float, float]
    """Values of the generator's images."""

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> BlockResult:
        """Reads what `to_json` made."""
        written, images, outcomes, seconds, scale = json.loads(text)
        return cls(written, images, [Outcome.from_values(values) for values in outcomes], seconds, tuple(scale))


def translate_block(engine: Engine, job: Job, block: Block, progress: Progress = lambda *_: None) -> BlockResult:
    """Translates a block, whose results are written each whole or not at all.

    Args:
        engine: The engine of the job.
        job: Where everything is, and how it is translated.
        block: What to translate.
        progress: Called with the images that are done, and how many there are.

    Raises:
        UserError: Nothing can be read or written, or a setting cannot be had.
    """
    start = time.perf_counter()
    with contextlib.nullcontext(Path()) if job.is_in_place(block) else scratch_folder() as scratch:
        translate = _translate_shard if block.is_shard else _translate_images
        written, outcomes, images = translate(engine, job, block, scratch, progress)
    reported = [outcome for outcome in outcomes if not outcome.is_plain]
    return BlockResult(written, images, reported, time.perf_counter() - start, engine.in_format.scale)


def _translate_images(
    engine: Engine, job: Job, block: Block, scratch: Path, progress: Progress
) -> tuple[list[str], list[Outcome], int]:
    """Translates images and videos: from and to their places on this machine, or else by way of a scratch folder.

    Returns:
        The names of the results, what became of the files, and how many they are.

    Raises:
        StorageError: There is no permission to read any file, a result cannot be stored, or a disk is full.
    """
    tasks: dict[Task, tuple[str, str]] = {}
    for i, (name, target) in enumerate(block.names):
        source = job.input.path_of(name) or scratch / f"{i}-input{PurePosixPath(name).suffix}"
        path = job.output.path_of(target) or scratch / f"{i}-output{PurePosixPath(target).suffix}"
        tasks[Task(source, path)] = name, target
    written: list[str] = []
    uploads: list[Future[None]] = []
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="cyclegan_fast.storage") as pool:
        fetched = pool.map(lambda task: _fetch(job.input, tasks[task][0], task.source), tasks)
        errors = {task: error for task, error in zip(tasks, fetched, strict=True) if error}
        outcomes = [_not_fetched(job, tasks[task][0], error) for task, error in errors.items()]
        readable = [task for task in tasks if task not in errors]
        for result in _translate_files(engine, job, readable, progress):
            name, target = tasks[result.task]
            outcomes.append(Outcome.of(result, _shown(job, name)))
            if not result.fault:
                written.append(target)
                if isinstance(job.output, RemoteStorage):
                    uploads.append(pool.submit(job.output.upload, result.task.target, target))
        for upload in uploads:
            upload.result()
    return written, outcomes, len(tasks)


def _translate_shard(
    engine: Engine, job: Job, block: Block, scratch: Path, progress: Progress
) -> tuple[list[str], list[Outcome], int]:
    """Translates the images of a tar shard into a shard of the same members, without those that were not translated.

    Returns:
        As for images; a shard that cannot be read counts as one.
    """
    ((name, target),) = block.names
    shard = job.input.path_of(name) or scratch / "input.tar"
    if unfetched := _fetch(job.input, name, shard):
        return [], [_not_fetched(job, name, unfetched)], 1
    try:
        members, note = unpack(shard, scratch)
    except UserError as error:
        return [], [Outcome(_shown(job, name), str(error))], 1
    tasks = {Task(path, path.with_name(f"output-{path.name}")): member for member, path in members.items()}
    outcomes = [Outcome(_shown(job, name), note=note)] if note else []
    results: dict[int, Path] = {}
    for result in _translate_files(engine, job, list(tasks), progress):
        member = tasks[result.task]
        outcomes.append(Outcome.of(result, f"{_shown(job, name)}:{member.name}"))
        if not result.fault:
            results[member.offset] = result.task.target
        result.task.source.unlink()
    if isinstance(job.output, LocalStorage):
        with building_file(job.output.path_of(target)) as partial:
            pack(shard, partial, results)
    else:
        pack(shard, scratch / "output.tar", results)
        job.output.upload(scratch / "output.tar", target)
    return [target], outcomes, len(tasks)


def _translate_files(engine: Engine, job: Job, tasks: list[Task], progress: Progress) -> Iterator[TaskResult]:
    return translate_files(
        engine, tasks, batch_size=job.batch_size, tiling=job.tiling, metadata=job.metadata, progress=progress
    )


def _fetch(storage: Storage, name: str, path: Path) -> UserError | None:
    """Brings a file of the input to a path, unless it is there by nature; returns what was wrong with it.

    Raises:
        StorageError: The disk of this machine is full, or there is no permission to read any file.
    """
    if isinstance(storage, LocalStorage):
        return None
    try:
        storage.download(name, path)
    except FileNotFoundError:
        return UserError("is not there any more")
    except ForbiddenError as error:
        return error
    except StorageError:  # ends it for all
        raise
    except UserError as error:
        return error
    return None


def _not_fetched(job: Job, name: str, error: UserError) -> Outcome:
    return Outcome(_shown(job, name), str(error).removeprefix(f"{_shown(job, name)}: "))


def _shown(job: Job, name: str) -> str:
    """What people read: the path or URL of an input."""
    return str(job.input.path_of(name) or f"{job.input}/{name}")
