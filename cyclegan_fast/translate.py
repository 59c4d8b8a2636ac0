"""python -m cyclegan_fast.translate: translates a picture, or a folder of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclegan_fast.cli import EXIT_USER_ERROR, run_command
from cyclegan_fast.errors import UserError

if TYPE_CHECKING:
    from cyclegan_fast.engine.files import Done


def translate(
    *,
    engine: Path,
    input: Path,
    output: Path,
    direction: Literal["AtoB", "BtoA"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    backend: Literal["auto", "torch", "onnxruntime", "openvino", "aoti"] = "auto",
    batch_size: int = 8,
    overwrite: bool = False,
    statistics: Literal["tile", "reduced", "exact"] | None = None,
    tile: int = 1024,
    overlap: int | None = None,
) -> int:
    """Translates a picture, or every picture in a folder, with a trained generator.

    Example: python -m cyclegan_fast.translate --engine horse2zebra.onnx --input horses --output zebras

    Names, sub-folders, formats, sizes and bits are kept: 8-bit pictures give 8 bits, 16-bit ones 16, and floating-point
    TIFF the same. Files that cannot be read are named at the end, and the status is then 2; all others are done.

    Args:
        engine: A run's folder (its newest checkpoint), a checkpoint, or an .onnx, .pt2, .safetensors or .pth file.
        input: A picture, or a folder of them.
        output: Folder for the results; it may not lie in the input folder.
        direction: AtoB or BtoA, as in trainA and trainB. By default what the engine holds; AtoB if both.
        device: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
        precision: fp32, bf16, or on CUDA fp16: by default fp32, or an engine file's own.
        backend: What runs the engine: by default torch for weights, onnxruntime for .onnx, aoti for .pt2.
        batch_size: Pictures of one size that pass the network at a time; fewer need less memory.
        overwrite: Replace results that exist already.
        statistics: Cut pictures that are larger than a tile, and take the mean and variance of instance norm from each
            tile, from a reduced copy of the picture, or, which equals the result in one piece, from the picture itself
            (exact, reduced: torch alone). By default pictures of more than 16 megapixels are cut, exactly if possible.
        tile: Pixels of a tile's side; with exact a strip has as many pixels as such a tile.
        overlap: Pixels that neighbouring tiles share; by default what the statistics ask for.

    Returns:
        Exit status: 0, or 2 if a file could not be translated.
    """
    from cyclegan_fast.engine import Tiling, load_engine
    from cyclegan_fast.engine.files import plan_jobs, translate_files
    from cyclegan_fast.engine.inference import check_batch_size

    check_batch_size(batch_size)
    if statistics is None and (tile != 1024 or overlap is not None):
        raise UserError("--tile and --overlap say how pictures are cut: say with --statistics which way")
    tiling = None if statistics is None else Tiling(statistics, tile, overlap)
    jobs = plan_jobs(input, output, overwrite=overwrite)
    loaded = load_engine(engine, direction=direction, device=device, precision=precision, backend=backend)
    start = time.perf_counter()
    results = _follow(translate_files(loaded, jobs, batch_size=batch_size, tiling=tiling), len(jobs))
    seconds = time.perf_counter() - start
    bad, clipped = [done for done in results if done.fault], [done for done in results if done.clipped]
    print(f"{len(jobs) - len(bad)} of {len(jobs)} pictures are in {output} ({len(jobs) / seconds:.1f} a second)")
    if clipped:
        low, high = loaded.in_form.scale
        count = sum(done.clipped for done in clipped)
        print(
            f"{count} values in {len(clipped)} pictures lay outside {low:g} to {high:g}, the range of training: clipped"
        )
    for done in bad:
        print(f"not translated: {done.job.source}: {done.fault}", file=sys.stderr)
    return EXIT_USER_ERROR if bad else 0


def _follow(results: Iterable[Done], total: int) -> list[Done]:
    """Shows the progress with its speed and the time left; returns the results."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    finished = []
    with Progress(*columns) as progress:
        task = progress.add_task("", total=total, speed="")
        for done in results:
            finished.append(done)
            speed = len(finished) / (progress.tasks[task].elapsed or 1)
            progress.update(task, completed=len(finished), speed=f"{speed:.1f} pictures/s")
    return finished


if __name__ == "__main__":
    run_command(translate)
