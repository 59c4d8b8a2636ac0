"""python -m cyclegan_fast.translate: translates images and videos with a trained generator."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NoReturn

from cyclegan_fast.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, run_command
from cyclegan_fast.cli.flags import Alone
from cyclegan_fast.errors import StorageError, UserError, reading_error
from cyclegan_fast.files import remove_leftovers

if TYPE_CHECKING:
    from cyclegan_fast.engine.translation.bulk.rank import Rank
    from cyclegan_fast.engine.translation.bulk.run import Ended
    from cyclegan_fast.engine.translation.report import Report
    from cyclegan_fast.engine.translation.tasks import Task

log = logging.getLogger(__name__)

_MAX_PROFILE = 2**24  # bytes


def translate(
    *,
    engine: Path,
    input: Path,
    output: Path,
    direction: Literal["AtoB", "BtoA"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    backend: Literal["auto", "torch", "onnxruntime", "openvino", "aoti", "tensorrt"] = "auto",
    batch_size: int = 8,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reconstruct: bool = False,
    faithfulness: bool = False,
    faithfulness_reference: str | None = None,
    back_engine: Path | None = None,
    metadata: Literal["keep", "technical", "none"] = "keep",
    profile: str = "keep",
    nodata: Literal["restore", "drop"] = "restore",
    statistics: Literal["tile", "reduced", "exact"] | None = None,
    tile: int = 1024,
    overlap: int | None = None,
    rank: str | None = None,
    ray: Annotated[str | None, Alone("local")] = None,
    ray_workers: int | None = None,
    block_size: int = 256,
) -> int:
    """Translates an image, a video, or all of them in a folder, with a trained generator.

    For example:
        python -m cyclegan_fast.translate --engine horse2zebra.onnx --input horses --output zebras
        python -m cyclegan_fast.translate --model latest_net_G_A.pth --input 'photos/**/*.jpg' --output out --resume
        python -m cyclegan_fast.translate --engine runs/horse2zebra --input ride.mp4 --output zebras
        python -m cyclegan_fast.translate --engine runs/horse2zebra --input horse.jpg --output zebra.png
        python -m cyclegan_fast.translate --engine horse2zebra.onnx --input horses --output zebras --rank 0/8

    Names, sub-folders, formats, sizes, bits and metadata are kept: 8-bit images give 8 bits, 16-bit ones 16, and
    floating-point TIFF the same. Videos (extra [video]) keep size, times of frames and sound. Files that cannot be
    translated are named at the end, and the status is then 2; all others are done.

    Args:
        engine: A run's folder (its newest checkpoint), RUN/best, a checkpoint, or an .onnx, .engine, .pt2 or
            .safetensors file, or a .pth of the reference; --model is the same.
        input: An image, a video, a folder of them, or a pattern in quotes: 'photos/**/*.jpg'. Or tar shards,
            'photos-{000..099}.tar', which become shards of the same names. With --rank or --ray also the URL of any
            of these that fsspec opens: s3://, gs:// and others.
        output: Folder for the results, which may not lie in the input folder; of one image or video also the file to
            write, such as zebra.png.
        direction: AtoB or BtoA, as in trainA and trainB. By default what the engine holds; AtoB if both.
        device: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
        precision: fp32, bf16, or on CUDA fp16: by default fp32, or an engine file's own.
        backend: What runs the engine: by default torch for weights, onnxruntime for .onnx (openvino for those of bf16
            on a CPU), aoti for .pt2, tensorrt for .engine.
        batch_size: Images of one size that pass the network at a time; fewer need less memory.
        threads: CPU threads that the engine computes on: by default one for each core, or OMP_NUM_THREADS, within the
            container's limit.
        resume: Leave out what has a result already, and do the rest: each is written whole or not at all.
        overwrite: Replace results that exist already.
        reconstruct: Translate each result back, too, and write grids of image, result and reconstruction into the
            folder reconstructions of the output, except of large TIFFs. Needs a run's folder or a checkpoint, or
            --back-engine.
        faithfulness: Measure how far each result can be trusted: faithfulness.csv, faithfulness.html with the ten worst
            images, and two maps of each in the folder faithfulness of the output. Needs what --reconstruct needs.
        faithfulness_reference: Folder of images whose translations are the measure of which results stand out, the
            faithfulness.csv of a generator that is known to be sound, or results for the results themselves. By
            default 50 of the test images that the run holds out (testA for AtoB) and that are not translated, where
            --engine is a run or a checkpoint and they are there; else the results. A flag means unlike those, and not
            invented.
        back_engine: The engine of the other direction, where --engine is a file that holds one alone.
        metadata: What results keep of the metadata of images: keep is all that is still true of them, technical the
            colour profile, resolution and georeference alone, without names, texts, and where and with which camera an
            image was taken.
        profile: The colour profile of results: keep is the input's own (none if its colours are others than the
            result's), none is none, and an .icc file that of the images that the generator was trained to make.
        nodata: What becomes of GDAL's nodata value in a TIFF: restore marks the same pixels of the result with it and
            moves others that have it by one level, drop leaves it out.
        statistics: Cut images that are larger than a tile, and take the mean and variance of instance norm from each
            tile, from a reduced copy of the image, or, which equals the result in one piece, from the image itself
            (exact, reduced: torch alone). By default images of more than 16 megapixels are cut, exactly if possible.
        tile: Pixels of a tile's side; with exact a strip has as many pixels as such a tile.
        overlap: Pixels that neighbouring tiles share; by default what the statistics ask for.
        rank: Which share of the input this process translates: 0/8 to 7/8 are eight processes, here or on other
            machines, that share the work. By default what torchrun sets, and without it all. What is missing is
            done by the same command again.
        ray: Share the work among the workers of a Ray cluster, each with an engine on a GPU of its own, or on CPUs
            where there is none: HOST:PORT, or auto for the cluster that this machine is part of. Without an address
            that of RAY_ADDRESS, or workers on this machine.
        ray_workers: How many; by default one for each GPU, or for each CPU (--threads of them).
        block_size: Images that a worker of --ray is given at a time, or that a rank records at a time: one that is
            killed repeats no more.

    Returns:
        Exit status: 0, 2 if a file could not be translated, or 130 if it was interrupted.
    """
    from cyclegan_fast.checkpoint import named_checkpoint
    from cyclegan_fast.engine import Tiling
    from cyclegan_fast.engine.inference import check_batch_size
    from cyclegan_fast.engine.translation.bulk.plan import is_shards
    from cyclegan_fast.engine.translation.bulk.rank import parse_rank, rank_of_environment
    from cyclegan_fast.images.metadata import MetadataRules

    check_batch_size(batch_size, "--batch-size")
    if block_size < 1:
        raise UserError(f"--block-size must be a whole number of at least 1, got {block_size}")
    if statistics is None and (tile != 1024 or overlap is not None):
        raise UserError("--tile and --overlap are about how images are cut: choose a way with --statistics")
    if resume and overwrite:
        raise UserError("--resume keeps the results that exist, --overwrite replaces them: use one of them")
    if faithfulness and resume:
        raise UserError("--faithfulness compares all results, and --resume leaves some out: use --overwrite")
    if faithfulness_reference is not None and not faithfulness:
        raise UserError("--faithfulness-reference is what --faithfulness compares with: give both, or leave it out")
    share = parse_rank(rank) if rank is not None else rank_of_environment()
    if share is not None and ray is not None:
        raise UserError(f"--ray shares the work by itself, and this process is {share}: leave out --rank and torchrun")
    if ray_workers is not None and ray is None:
        raise UserError("--ray-workers is about --ray: give both, or leave it out")
    is_bulk = share is not None or ray is not None or is_shards(input)
    if block_size != 256 and not is_bulk:
        raise UserError("--block-size is about bulk translations: give --rank or --ray, too, or leave it out")
    if block_size != 256 and is_shards(input):
        raise UserError("--block-size is about blocks of images, and a tar shard is one block: leave it out")
    needs_inverse = "--faithfulness" if faithfulness else "--reconstruct" if reconstruct else ""
    engine = named_checkpoint(engine)
    _check_inverse_flags(needs_inverse, engine, back_engine)
    settings: dict[str, Any] = {
        "direction": direction,
        "device": device,
        "precision": precision,
        "backend": backend,
        "threads": threads,
        "batch_size": batch_size,
        "tiling": None if statistics is None else Tiling(statistics, tile, overlap),
        "metadata": MetadataRules(metadata, _profile_bytes(profile), nodata),
    }
    restart: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    if not is_bulk:
        inverse = _Inverse(needs_inverse, back_engine or engine, reconstruct, faithfulness, faithfulness_reference)
        return _translate_files(input, output, engine, settings, inverse, **restart)
    if needs_inverse:
        raise UserError(f"{needs_inverse} needs one process, and files: leave it out, or shards, ranks and --ray")
    if ray is not None:
        return _translate_on_ray(input, output, engine, ray, ray_workers, settings, block_size=block_size, **restart)
    return _translate_share(input, output, engine, share, settings, block_size=block_size, **restart)


class _Inverse(NamedTuple):
    """What the generator of the other direction is loaded for."""

    flag: str
    """That asks for it; empty where none does."""
    engine: Path
    reconstruct: bool
    faithfulness: bool
    reference: str | None
    """What results are compared with."""


def _translate_files(
    input: Path,
    output: Path,
    engine: Path,
    settings: dict[str, Any],
    inverse: _Inverse,
    *,
    resume: bool,
    overwrite: bool,
) -> int:
    """Translates all files in this process, without a record; returns the exit status."""
    from cyclegan_fast.engine import load_engine
    from cyclegan_fast.engine.translation.faithfulness import FaithfulnessCheck, check_inverse, find_reference
    from cyclegan_fast.engine.translation.files import Reconstruction, translate_files
    from cyclegan_fast.engine.translation.report import Outcome, Report
    from cyclegan_fast.engine.translation.tasks import grid_of, plan_tasks
    from cyclegan_fast.monitoring.progress import ProgressBar

    reconstruct, faithfulness = inverse.reconstruct, inverse.faithfulness
    every = plan_tasks(input, output, overwrite=overwrite or resume, reconstruct=reconstruct, faithfulness=faithfulness)
    _clear_leftovers(every, output, reconstruct, faithfulness)
    tasks = [task for task in every if not (resume and task.target.is_file())]
    if inverse.flag and any(task.is_video for task in tasks):
        raise UserError(f"{inverse.flag} is for images, and the input holds videos: leave it out, or them")
    machine: dict[str, Any] = {name: settings[name] for name in ("device", "precision", "backend", "threads")}
    loaded, reconstruction, check = load_engine(engine, direction=settings["direction"], **machine), None, None
    if inverse.flag:
        back = load_engine(inverse.engine, direction="AtoB" if loaded.direction == "BtoA" else "BtoA", **machine)
        check_inverse(loaded, back)
        if reconstruct:
            reconstruction = Reconstruction(back, {task: grid_of(task, output) for task in tasks})
        if faithfulness:
            check = FaithfulnessCheck(loaded, back, output, tiling=settings["tiling"])
            reference = find_reference(inverse.reference, engine, loaded.direction, [task.source for task in tasks])
            if reference is not None:
                with ProgressBar("images of the reference") as progress, _libraries_suppressed():
                    check.measure_reference(reference, progress)
    report, start, interrupted = Report(), time.perf_counter(), False
    print_report = functools.partial(_print_report, report, len(every), len(every) - len(tasks), output, start)
    try:
        with ProgressBar("files") as progress, _libraries_suppressed():
            for result in translate_files(
                loaded,
                tasks,
                batch_size=settings["batch_size"],
                tiling=settings["tiling"],
                reconstruction=reconstruction,
                faithfulness=check,
                metadata=settings["metadata"],
                progress=progress,
            ):
                report.add([Outcome.of(result)], scale=loaded.in_format.scale)
    except KeyboardInterrupt:
        interrupted = True
    except StorageError:  # ends it for all, but what is done is done
        print_report()
        raise
    print_report()
    if check is not None:
        print(check.finish())
    if interrupted:
        again = "" if overwrite else "--overwrite starts anew" if faithfulness else "--resume goes on"
        _report_interruption(len(tasks) - report.count, again)
        return EXIT_INTERRUPTED
    return EXIT_USER_ERROR if report.faults else 0


def _translate_share(
    input: Path,
    output: Path,
    engine: Path,
    rank: Rank | None,
    settings: dict[str, Any],
    *,
    block_size: int,
    **restart: Any,
) -> int:
    """Translates the files of a rank, or all tar shards; returns the exit status."""
    from cyclegan_fast.engine.translation.bulk.rank import device_of_rank
    from cyclegan_fast.engine.translation.bulk.run import plan_job, run_bulk
    from cyclegan_fast.engine.translation.bulk.share import translate_here

    job, plan = plan_job(input, output, engine, settings | {"device": device_of_rank(settings["device"])})
    with _libraries_suppressed():
        translate = functools.partial(translate_here, job)
        ended = run_bulk(job, plan, translate, rank=rank, block_size=lambda _: block_size, **restart)
    return _status(ended, overwrite=restart["overwrite"])


def _translate_on_ray(
    input: Path,
    output: Path,
    engine: Path,
    address: str,
    count: int | None,
    settings: dict[str, Any],
    *,
    block_size: int,
    **restart: Any,
) -> int:
    """Translates all files by the workers of a Ray cluster; returns the exit status."""
    from cyclegan_fast.engine.translation.bulk.ray_cluster import connected
    from cyclegan_fast.engine.translation.bulk.ray_workers import find_workers, translate_on_ray
    from cyclegan_fast.engine.translation.bulk.run import plan_job, run_bulk

    job, plan = plan_job(input, output, engine, settings)
    with connected(address) as cluster:
        workers = find_workers(cluster, job.device, job.threads, count)
        log.info("%d worker%s on Ray, each with %s", workers.size, "s" * (workers.size > 1), workers.described)
        translate = functools.partial(translate_on_ray, cluster, job, workers)
        size = functools.partial(workers.block_size, max_size=block_size, batch_size=job.batch_size)
        ended = run_bulk(job, plan, translate, block_size=size, **restart)
    return _status(ended, overwrite=restart["overwrite"])


def _status(ended: Ended, *, overwrite: bool) -> int:
    """The exit status of a bulk translation."""
    if ended.interrupted:
        how = "--overwrite starts anew" if overwrite else "the same command does the rest"
        print(f"interrupted: {how}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_USER_ERROR if ended.report.faults else 0


def _check_inverse_flags(needed_for: str, engine: Path, back_engine: Path | None) -> None:
    """Checks that there is a generator of the other direction where a flag needs one, and only there.

    Raises:
        UserError: There is none, or nothing uses it.
    """
    if back_engine is not None and not needed_for:
        raise UserError(
            "--back-engine translates results back, as --reconstruct and --faithfulness do: give one of them, or leave "
            "it out"
        )
    if needed_for and back_engine is None and not engine.is_dir():
        raise UserError(
            f"{needed_for} needs both generators: give a run's folder or a checkpoint as --engine, or the file of the "
            "other direction as --back-engine"
        )


def _clear_leftovers(tasks: list[Task], output: Path, reconstruct: bool, faithfulness: bool) -> None:
    """Removes what a command that was killed left in the folders that are written into."""
    from cyclegan_fast.engine.translation.tasks import grid_of, maps_of

    folders = {task.target.parent for task in tasks}
    folders |= {grid_of(task, output).parent for task in tasks} if reconstruct else set()
    folders |= {path.parent for task in tasks for path in maps_of(task, output).values()} if faithfulness else set()
    for folder in folders:
        remove_leftovers(folder)


def _report_interruption(count: int, again: str) -> None:
    """Prints how many files are left, and which flag does them."""
    left = f"{count} {'was' if count == 1 else 'were'} left"
    print(f"interrupted, {left}" + f": the same command with {again}" * bool(again), file=sys.stderr)


def _print_report(report: Report, every: int, before: int, output: Path, start: float) -> None:
    """Prints what became of all files, of which some have results from before."""
    there = f", {before} of them from before" if before else ""
    speed = f" ({report.count / (time.perf_counter() - start):.1f} files/s)" if report.count else ""
    where = f"in {output}" if output.is_dir() else f"written: {output}"
    files = "file is" if every == 1 else "files are"
    print(f"{report.translated + before} of {every} {files} {where}{there}{speed}")
    report.print_details()


@contextlib.contextmanager
def _libraries_suppressed() -> Iterator[None]:
    """Suppresses what Pillow and tifffile print about damaged metadata: it is reported at the end, with its file."""
    log_of_tifffile = logging.getLogger("tifffile")
    level = log_of_tifffile.level
    log_of_tifffile.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
            yield
    finally:
        log_of_tifffile.setLevel(level)


def _profile_bytes(profile: str) -> bytes | None:
    """The content of an .icc file; None for "keep", and nothing for "none".

    Raises:
        UserError: There is no such file, or it is no profile.
    """
    from cyclegan_fast.images.metadata import is_profile

    if profile in ("keep", "none"):
        return None if profile == "keep" else b""
    try:
        with Path(profile).open("rb") as file:
            content = file.read(_MAX_PROFILE)
    except OSError as error:
        raise reading_error(
            f"--profile {profile}: {error.strerror or error}; give keep, none, or an .icc file", error
        ) from error
    if not is_profile(content):
        raise UserError(f"--profile {profile} is no colour profile: give keep, none, or an .icc file")
    return content


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words, by default those of this process; --model stands for --engine."""
    run_command(translate, words, aliases={"--model": "--engine"}, deprecated={"--both-ways": "--reconstruct"})


if __name__ == "__main__":
    main()
