"""How bulk translation grows from one process to two: ranks, and workers of Ray, beside the plain command.

    python -m benchmarks.bulk --out docs/results          minutes; bulk.json, and its table in bulk.md

Commands are those that a user gives, each with few and with many JPEGs, in turns. From both times follow what a command
takes to start and to end, and the images/s in between.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_serve import make_run
from benchmarks.results import origin, stamped, write_between_markers, write_json
from cyclegan_fast.config import ModelConfig

NETWORK = ModelConfig(generator="resnet_6blocks", ngf=32, ndf=16)
WAYS: dict[str, list[list[str]]] = {  # the flags of each process
    "plain": [[]],
    "1 rank": [["--rank", "0/1"]],
    "2 ranks": [["--rank", "0/2"], ["--rank", "1/2"]],
    "1 worker of Ray": [["--ray", "--ray-workers", "1"]],
    "2 workers of Ray": [["--ray", "--ray-workers", "2"]],
}


def make_images(folder: Path, count: int, side: int) -> Path:
    """A folder of different JPEGs."""
    folder.mkdir()
    for i in range(count):
        small = np.random.default_rng(i).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def seconds_of(way: Sequence[Sequence[str]], run: Path, images: Path, out: Path) -> float:
    """The seconds from the start of all processes to the end of the last one."""
    places = ["--engine", str(run), "--input", str(images), "--output", str(out)]
    command = [sys.executable, "-m", "cyclegan_fast.translate", *places, "--device", "cpu", "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    processes = [subprocess.Popen([*command, *flags], env=environment, stdout=subprocess.DEVNULL) for flags in way]
    assert [process.wait() for process in processes] == [0] * len(way)
    seconds = time.perf_counter() - start
    found, wanted = (sum(1 for _ in folder.glob("*.jpg")) for folder in (out, images))
    assert found == wanted
    return seconds


def measure(scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every way with few and with many images, in turns."""
    run = make_run(scratch / "run", NETWORK)
    few, many = (make_images(scratch / str(count), count, options.side) for count in (options.few, options.many))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for turn in range(options.rounds):
        for name, way in WAYS.items():
            first, second = (seconds_of(way, run, of, scratch / f"{name} {turn} {of.name}") for of in (few, many))
            times[name].append((first, second))
            print(f"{name}: {first:.1f} s, {second:.1f} s", flush=True)
    results = []
    for name, pairs in times.items():
        first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
        speed = (options.many - options.few) / (second - first)
        results.append(
            {
                "way": name,
                "images_per_second": speed,
                "start_and_end": first - options.few / speed,
                "seconds": second,
                "rounds": pairs,
            }
        )
    return results


def table(results: list[dict[str, Any]]) -> list[str]:
    """The measured part of the page."""
    alone = {"Ray" in one["way"]: one for one in results if one["way"].startswith("1 ")}
    lines = [
        "| | images/s | times one | to start and to end, s | with many images, s |",
        "|---|---|---|---|---|",
    ]
    for one in results:
        speed = one["images_per_second"]
        times = speed / alone["Ray" in one["way"]]["images_per_second"]
        lines.append(
            f"| {one['way']} | {speed:.1f} | {times:.2f} | {one['start_and_end']:.1f} | {one['seconds']:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--few", type=int, default=100, help="images")
    parser.add_argument("--many", type=int, default=500, help="images")
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(Path(scratch), options)
    measured = stamped(results)
    write_json(options.out / "bulk.json", measured)
    if (page := options.out / "bulk.md").exists():
        write_between_markers(page, [*origin(measured), "", *table(results), ""])


if __name__ == "__main__":
    main()
