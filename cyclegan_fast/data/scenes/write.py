"""Writes the scenes data set: four folders of JPEG files, and the truth beside them for the score alone."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cyclegan_fast.data.scenes.layout import CLASSES, Scene, class_map, draw_scene
from cyclegan_fast.data.scenes.render import PALETTE, render_labels, render_photo
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.processes import end_with_parent

FACTS_NAME = "scenes.json"
TRUTH_FOLDER = "truth"
_SIDES = (32, 1024)  # pixels
_CHUNK = 25  # scenes that a process takes at a time


def render_dataset(out: Path, size: int, train: int, test: int, seed: int) -> None:
    """Renders the data set into the folder `out`.

    trainA and trainB show different scenes, `train` each. The `test` test scenes exist in both domains under the
    same names; their class maps lie in `truth` as one-channel PNG files. `scenes.json` tells classes, palette, size
    and seed. The same arguments give the same pixels.

    Raises:
        UserError: sizes or counts out of range, or a folder that already holds other files.
    """
    if not _SIDES[0] <= size <= _SIDES[1]:
        raise UserError(f"--size must be from {_SIDES[0]} to {_SIDES[1]} pixels, got {size}")
    if train < 1 or test < 0:
        raise UserError(f"--train must be at least 1 and --test at least 0, got {train} and {test}")
    jobs = _jobs(train, test)
    for folder in {folder for folder, _, _ in jobs}:
        _make_empty(out / folder)
    metadata = {"classes": list(CLASSES), "palette": PALETTE.tolist(), "size": size, "train": train, "test": test}
    _run(functools.partial(_write_one, out, size, seed), jobs)
    (out / FACTS_NAME).write_text(json.dumps({**metadata, "seed": seed}, indent=1) + "\n")


Job = tuple[str, str, int]  # folder, file name without ending, scene number


def _jobs(train: int, test: int) -> list[Job]:
    """Every file of the data set. The test scenes have the first numbers."""
    tests = [(folder, f"{i:05d}", i) for i in range(test) for folder in ("testA", "testB", TRUTH_FOLDER)]
    train_A = [("trainA", f"{i:05d}", test + 2 * i) for i in range(train)]
    train_B = [("trainB", f"{i:05d}", test + 2 * i + 1) for i in range(train)]
    return tests + train_A + train_B


def _make_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: already holds files; name a new folder with --out, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)


def _run(write: Callable[[Job], None], jobs: list[Job]) -> None:
    """Does the jobs on every core. The processes only run numpy and Pillow, so they may be forked."""
    processes = usable_cores()
    if processes == 1 or len(jobs) <= 2 * _CHUNK or not hasattr(os, "fork"):
        for job in jobs:
            write(job)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), end_with_parent) as pool:
        for _ in pool.map(write, jobs, chunksize=_CHUNK):
            pass


def _write_one(out: Path, size: int, seed: int, job: Job) -> None:
    folder, name, number = job
    scene = draw_scene(seed, number)
    if folder == TRUTH_FOLDER:
        Image.fromarray(class_map(scene, size)).save(out / folder / f"{name}.png")
    else:
        pixels = _renderer(folder)(scene, size)
        Image.fromarray(pixels).save(out / folder / f"{name}.jpg", quality=95, subsampling=0)


def _renderer(folder: str) -> Callable[[Scene, int], np.ndarray]:
    return render_labels if folder.endswith("A") else render_photo
