"""A bulk translation from its plan to its report: the share of one rank, or all of it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cyclegan_fast.checkpoint.folder import find_checkpoint
from cyclegan_fast.engine.translation.bulk.blocks import Block, BlockResult, Job
from cyclegan_fast.engine.translation.bulk.manifest import FOLDER, Manifest
from cyclegan_fast.engine.translation.bulk.plan import Names, Plan, plan_bulk
from cyclegan_fast.engine.translation.bulk.rank import Rank
from cyclegan_fast.engine.translation.bulk.storage import LocalStorage, storage_at
from cyclegan_fast.engine.translation.report import Outcome, Report
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.monitoring.progress import Progress, ProgressBar

log = logging.getLogger(__name__)

FAULTS = "not_translated"  # .csv
MAX_NOTES = 10

Translate = Callable[[list[Block], Progress], Iterator[BlockResult]]
"""Translates blocks, and yields what became of each as soon as it is done."""


class Ended(NamedTuple):
    """How a bulk translation ended."""

    report: Report
    interrupted: bool = False


def plan_job(source: Path, output: Path, engine: Path, settings: dict[str, Any]) -> tuple[Job, Plan]:
    """Returns what is translated and how.

    Args:
        source: The input, as for `plan_bulk`.
        output: The folder of the results, or its URL.
        engine: Whatever holds the generator.
        settings: All else of a `Job`.

    Raises:
        UserError: One of them is not there, or they do not fit.
    """
    found, plan = _resolved(engine), plan_bulk(source, output)
    return Job(input=plan.input, output=storage_at(output), engine=found, **settings), plan


def _resolved(engine: Path) -> Path:
    """The very checkpoint or file that all processes load: a run may write newer ones meanwhile."""
    if not engine.exists():
        raise MissingFileError(f"{engine} does not exist")
    return (find_checkpoint(engine) if engine.is_dir() else engine).absolute()


def run_bulk(
    job: Job,
    plan: Plan,
    translate: Translate,
    *,
    block_size: Callable[[int], int],
    rank: Rank | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Ended:
    """Translates what is missing, records it, and reports.

    Args:
        job: What is translated, how and where to.
        plan: The files of all ranks.
        translate: What translates the blocks.
        block_size: Images in a block that is no tar shard, by how many files are missing.
        rank: Whose share of the files this process translates; None for all of them.
        resume: Take results of which there is no record as done.
        overwrite: Take nothing as done.

    Raises:
        UserError: Nothing can be read or written, or the results of other settings are there.
    """
    who = f"{rank}: " if rank else ""
    manifest = Manifest(job.output, _settings(job), rank.slug if rank else "all")
    every = list(rank.share(plan.names) if rank else plan.names)
    with _log_file(job, rank):
        missing = _missing(every, job, manifest, resume=resume, overwrite=overwrite)
        log.info("%s%s of %s %s to translate", who, f"{len(missing):,}", f"{len(every):,}", plan.unit)
        report, written, start = Report(MAX_NOTES), len(every) - len(missing), time.perf_counter()
        blocks, interrupted = plan.blocks(missing, block_size(len(missing))), False
        with contextlib.ExitStack() as stack:
            if blocks:
                manifest.open()
                stack.callback(manifest.close)
            progress = stack.enter_context(ProgressBar(plan.unit, who.removesuffix(": ")))
            try:
                for result in translate(blocks, progress):
                    manifest.add(result)
                    written += len(result.written)
                    report.add(result.outcomes, result.images - len(result.outcomes), result.scale)
            except KeyboardInterrupt:
                interrupted = True
        speed = f" ({report.count / (time.perf_counter() - start):,.1f} images/s)" if report.count else ""
        log.info("%s%s of %s %s are in %s%s", who, f"{written:,}", f"{len(every):,}", plan.unit, job.output, speed)
        if plan.are_shards:
            _add_earlier_faults(report, manifest, {target for _, target in every} - {target for _, target in missing})
        report.print_details()
    _write_faults(job, report, f"{FAULTS}-{rank.slug}.csv" if rank else f"{FAULTS}.csv")
    return Ended(report, interrupted)


def _settings(job: Job) -> dict[str, Any]:
    """Returns what shapes results, as the manifest holds it."""
    file = job.engine / "manifest.json" if job.engine.is_dir() else job.engine  # which has the digests of all files
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    profile = job.metadata.profile
    return {
        "engine": digest,
        "direction": job.direction,
        "precision": job.precision,
        "backend": job.backend,
        "tiling": None if job.tiling is None else dataclasses.asdict(job.tiling),
        "metadata": job.metadata.which,
        "profile": profile if profile is None else hashlib.sha256(profile).hexdigest(),
        "nodata": job.metadata.nodata,
    }


def _missing(names: Names, job: Job, manifest: Manifest, *, resume: bool, overwrite: bool) -> Names:
    """Returns the files that have no result yet.

    Raises:
        UserError: Results are there that are of other settings, or nobody knows of which.
    """
    done = manifest.load(overwrite=overwrite)
    if overwrite:
        return names
    present = job.output.present([target for _, target in names])
    if done is None and present and not resume:
        raise UserError(
            f"{job.output}/{min(present)} exists already ({len(present)} of {len(names)} results), with no record of "
            "how it was made: choose another output, or use --resume (do the rest) or --overwrite"
        )
    done = present if done is None else done & present
    return [(name, target) for name, target in names if target not in done]


def _add_earlier_faults(report: Report, manifest: Manifest, shards: set[str]) -> None:
    """Adds the images that earlier runs could not translate, of shards that they have written."""
    for shard, faults in manifest.faults.items():
        if shard in shards:
            report.add([Outcome(source, fault) for source, fault in faults.items()])


def _write_faults(job: Job, report: Report, name: str) -> None:
    """Writes the files that were not translated, with the reasons; where there is none, removes an older list."""
    if not report.faults:
        job.output.remove(name)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "reason"])
    writer.writerows(report.faults.items())
    job.output.write(name, text.getvalue().encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def _log_file(job: Job, rank: Rank | None) -> Iterator[None]:
    """Adds what a rank logs to a file of its own, where the output is a folder."""
    if rank is None or not isinstance(job.output, LocalStorage):
        yield
        return
    path = job.output.path_of(f"{FOLDER}/{rank.slug}.log")
    job.output.append(f"{FOLDER}/{rank.slug}.log", b"")  # whose errors are a user's
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("cyclegan_fast")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
