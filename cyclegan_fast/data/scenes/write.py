"""Writes a scenes data set: four folders of JPEG files, and the truth beside them for the score alone."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from cyclegan_fast.data.scenes.kinds import KINDS
from cyclegan_fast.data.scenes.layout import CLASSES, draw_scene
from cyclegan_fast.data.scenes.render import PALETTE
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.files import building_new_folder
from cyclegan_fast.processes import end_with_parent

FACTS_NAME = "scenes.json"
TRUTH_FOLDER = "truth"
_SIDES = (32, 1024)  # pixels
_CHUNK = 25  # scenes that a process takes at a time


def render_dataset(
    out: Path, size: int, train: int, test: int, seed: int, kind: str = "labels", *, paired: bool = False
) -> None:
    """Renders a data set into the folder `out`, which is whole or not there at all, whenever the process is killed.

    trainA and trainB show different scenes, `train` each; with `paired` the same ones, under one name. The `test` test
    scenes exist in both domains under the same names; the class maps of domain A lie in `truth` as one-channel PNG
    files. `scenes.json` tells the kind of scenes, classes, palette, size and seed. The same arguments give the same
    pixels.

    Raises:
        UserError: Sizes or counts out of range, an unknown kind, or a folder that already holds files.
        OSError: The folder cannot be written.
    """
    if not _SIDES[0] <= size <= _SIDES[1]:
        raise UserError(f"--size must be from {_SIDES[0]} to {_SIDES[1]} pixels, got {size}")
    if train < 1 or test < 0:
        raise UserError(f"--train must be at least 1 and --test at least 0, got {train} and {test}")
    if kind not in KINDS:
        raise UserError(f"--kind must be one of {', '.join(KINDS)}, got {kind}{did_you_mean(kind, KINDS)}")
    facts = {"kind": kind, "classes": list(CLASSES), "palette": PALETTE.tolist(), "size": size, "seed": seed}
    facts |= {"paired": True} if paired else {}
    with building_new_folder(out) as partial:
        jobs = _jobs(train, test, paired)
        for folder in {folder for folder, _, _ in jobs}:
            (partial / folder).mkdir()
        _run(functools.partial(_write_one, partial, kind, size, seed), jobs)
        content = json.dumps({**facts, "train": train, "test": test}, indent=1)
        (partial / FACTS_NAME).write_text(f"{content}\n")


Job = tuple[str, str, int]  # folder, file name without ending, scene number


def _jobs(train: int, test: int, paired: bool) -> list[Job]:
    """Every file of the data set. The test scenes have the first numbers."""
    tests = [(folder, f"{i:05d}", i) for i in range(test) for folder in ("testA", "testB", TRUTH_FOLDER)]
    train_A = [("trainA", f"{i:05d}", test + 2 * i) for i in range(train)]
    train_B = [("trainB", f"{i:05d}", test + 2 * i + (not paired)) for i in range(train)]
    return tests + train_A + train_B


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


def _write_one(out: Path, kind: str, size: int, seed: int, job: Job) -> None:
    folder, name, number = job
    scene, domains = draw_scene(seed, number), KINDS[kind]
    if folder == TRUTH_FOLDER:
        Image.fromarray(domains.render_truth(scene, size)).save(out / folder / f"{name}.png")
    else:
        render = domains.render_A if folder.endswith("A") else domains.render_B
        Image.fromarray(render(scene, size)).save(out / folder / f"{name}.jpg", quality=95, subsampling=0)
