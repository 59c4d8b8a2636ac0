"""python -m cyclegan_fast.translate: translates images and videos with a trained generator."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclegan_fast.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, run_command
from cyclegan_fast.errors import StorageError, UserError
from cyclegan_fast.logs import printable

if TYPE_CHECKING:
    from cyclegan_fast.engine import Engine
    from cyclegan_fast.engine.translation.files import Done


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
    resume: bool = False,
    overwrite: bool = False,
    reconstruct: bool = False,
    statistics: Literal["tile", "reduced", "exact"] | None = None,
    tile: int = 1024,
    overlap: int | None = None,
) -> int:
    """Translates an image, a video, or all of them in a folder, with a trained generator.

    For example:
        python -m cyclegan_fast.translate --engine horse2zebra.onnx --input horses --output zebras
        python -m cyclegan_fast.translate --model latest_net_G_A.pth --input 'photos/**/*.jpg' --output out --resume
        python -m cyclegan_fast.translate --engine runs/horse2zebra --input ride.mp4 --output zebras

    Names, sub-folders, formats, sizes and bits are kept: 8-bit images give 8 bits, 16-bit ones 16, and floating-point
    TIFF the same. Videos (through the program ffmpeg) keep size, frame rate and sound. Files that cannot be read are
    named at the end, and the status is then 2; all others are done.

    Args:
        engine: A run's folder (its newest checkpoint), a checkpoint, or an .onnx, .engine, .pt2 or .safetensors file,
            or a .pth of the reference; --model says the same.
        input: An image, a video, a folder of them, or a pattern in quotes: 'photos/**/*.jpg'.
        output: Folder for the results; it may not lie in the input folder.
        direction: AtoB or BtoA, as in trainA and trainB. By default what the engine holds; AtoB if both.
        device: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
        precision: fp32, bf16, or on CUDA fp16: by default fp32, or an engine file's own.
        backend: What runs the engine: by default torch for weights, onnxruntime for .onnx (openvino for those of bf16
            on a CPU), aoti for .pt2, tensorrt for .engine.
        batch_size: Images of one size that pass the network at a time; fewer need less memory.
        resume: Leave out what has a result already, and do the rest: each is written whole or not at all.
        overwrite: Replace results that exist already.
        reconstruct: Translate each result back, too, and write grids of image, result and return into the folder
            reconstruct of the output, except of large TIFFs. Needs a run's folder or a checkpoint.
        statistics: Cut images that are larger than a tile, and take the mean and variance of instance norm from each
            tile, from a reduced copy of the image, or, which equals the result in one piece, from the image itself
            (exact, reduced: torch alone). By default images of more than 16 megapixels are cut, exactly if possible.
        tile: Pixels of a tile's side; with exact a strip has as many pixels as such a tile.
        overlap: Pixels that neighbouring tiles share; by default what the statistics ask for.

    Returns:
        Exit status: 0, 2 if a file could not be translated, or 130 if it was interrupted.
    """
    from cyclegan_fast.engine import Tiling, load_engine
    from cyclegan_fast.engine.inference import check_batch_size
    from cyclegan_fast.engine.translation.files import Return, translate_files
    from cyclegan_fast.engine.translation.jobs import grid_of, plan_jobs

    check_batch_size(batch_size)
    if statistics is None and (tile != 1024 or overlap is not None):
        raise UserError("--tile and --overlap say how images are cut: say with --statistics which way")
    if resume and overwrite:
        raise UserError("--resume keeps the results that exist, --overwrite replaces them: say one of them")
    tiling = None if statistics is None else Tiling(statistics, tile, overlap)
    every = plan_jobs(input, output, overwrite=overwrite or resume, reconstruct=reconstruct)
    jobs = [job for job in every if not (resume and job.target.is_file())]
    if reconstruct and not engine.is_dir():
        raise UserError("--reconstruct needs both generators: give a run's folder or a checkpoint as --engine")
    if reconstruct and any(job.is_video for job in jobs):
        raise UserError("--reconstruct makes grids of images, and the input holds videos: leave it out, or them")

    def load(way: Literal["AtoB", "BtoA"] | None) -> Engine:
        return load_engine(engine, direction=way, device=device, precision=precision, backend=backend)

    loaded, back = load(direction), None
    if reconstruct:
        other = load("AtoB" if loaded.direction == "BtoA" else "BtoA")
        back = Return(other, {job: grid_of(job, output) for job in jobs})
    results: list[Done] = []
    start, interrupted = time.perf_counter(), False
    try:
        with _Progress(len(jobs)) as progress:
            options = {"batch_size": batch_size, "tiling": tiling, "back": back, "follow": progress.within}
            for done in translate_files(loaded, jobs, **options):  # type: ignore[arg-type]
                results.append(done)
                progress.advance()
    except KeyboardInterrupt:
        interrupted = True
    except StorageError:  # ends it for all, but what is done is done
        _tell(results, len(every), len(jobs), output, time.perf_counter() - start, loaded)
        raise
    status = _tell(results, len(every), len(jobs), output, time.perf_counter() - start, loaded)
    if interrupted:
        left = f"{len(jobs) - len(results)} were left"
        how = "" if overwrite else ": the same command with --resume goes on"
        print(f"interrupted, {left}{how}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


def _tell(results: list[Done], every: int, asked: int, output: Path, seconds: float, engine: Engine) -> int:
    """Says what became of all; returns the exit status."""
    bad, clipped = [done for done in results if done.fault], [done for done in results if done.clipped]
    kept = every - asked
    there = f", {kept} of them from before" if kept else ""
    speed = f" ({len(results) / seconds:.1f} a second)" if results else ""
    print(f"{len(results) - len(bad) + kept} of {every} files are in {output}{there}{speed}")
    if clipped:
        low, high = engine.in_format.scale
        count = sum(done.clipped for done in clipped)
        print(
            f"{count} values in {len(clipped)} images lay outside {low:g} to {high:g}, the range of training: clipped"
        )
    for done in results:
        if done.note:
            print(printable(f"note: {done.job.source}: {done.note}"), file=sys.stderr)
    for done in bad:
        print(printable(f"not translated: {done.job.source}: {done.fault}"), file=sys.stderr)
    return EXIT_USER_ERROR if bad else 0


class _Progress:
    """Shows how many files are done, with the speed and the time left."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
        self._bar, self._done = Progress(*columns), 0
        self._task = self._bar.add_task("", total=total, speed="")

    def advance(self) -> None:
        """One more file is done."""
        self._done += 1
        self._show(0.0)

    def within(self, share: float) -> None:
        """Of the file at work, a large one, this share is done."""
        self._show(min(share, 0.99))

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, share: float) -> None:
        elapsed = self._bar.tasks[self._task].elapsed or 1
        speed = f"{self._done / elapsed:.1f} files/s" if not share else f"{share:.0%} of a large one"
        self._bar.update(self._task, completed=self._done + share, speed=speed)


def main(words: list[str]) -> None:
    """Runs the command with these words; --model stands for --engine."""
    flag, sign = "--model", "="
    said = [f"--engine{word[len(flag) :]}" if word.split(sign)[0] == flag else word for word in words]
    run_command(translate, said)


if __name__ == "__main__":
    main(sys.argv[1:])
