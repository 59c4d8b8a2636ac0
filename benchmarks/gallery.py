"""Runs the commands of docs/gallery.md as they stand there, for each recipe's stand-in, and writes that page.

    python -m benchmarks.gallery [--only seasons geometry] [--page]

runs the commands in the repository's root: scenes go to data/gallery, runs and translations to runs/gallery. A run that
was broken off continues, one that is finished stays. --page trains nothing: it translates by what is finished. The
images and the scores come from the files that the commands wrote; the scores go to docs/results/gallery.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.gallery_recipes import (
    DATA,
    RECIPES,
    RUNS,
    UNFAMILIAR,
    UNFAMILIAR_SEEN,
    Recipe,
    folders,
    unfamiliar_command,
)
from benchmarks.results import Measured, origin_line, stamped, write_between_markers, write_json
from cyclegan_fast.data.scenes import CLASSES, TRUTH_FOLDER
from cyclegan_fast.metrics import OPPOSITE, Direction
from cyclegan_fast.monitoring.grids import sample_grid
from cyclegan_fast.monitoring.run_status import read_status

ROOT = Path(__file__).resolve().parent.parent
PAGE, IMAGES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "images" / "gallery"
NUMBERS = ROOT / "docs" / "results" / "gallery.json"

SHOWN = 4  # the first test scenes
UNFAMILIAR_IN_A_ROW = 2  # scenes
ENLARGED = 2  # times, as shown
GAP = 8  # pixels between the two directions
QUALITY = 75  # of the JPEG files
SQUARE = 8  # pixels
COLUMNS = ("input", "translated", "reconstructed", "true counterpart")
Pixels = np.ndarray  # uint8 [N, H, W, 3]
Scores = dict[str, list[float | None]]
"""By name: A to B, untranslated, B to A, untranslated; None where there is no such score."""


def run(command: str) -> None:
    """Runs a command of the page in the repository's root, with this Python."""
    program, *words = shlex.split(command)
    assert program == "python"
    print(command, flush=True)
    if status := subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode:
        sys.exit(status)


def render(recipe: Recipe) -> None:
    """Renders the scenes, unless they are there."""
    if not (ROOT / DATA / recipe.name).exists():
        run(recipe.render)


def train(recipe: Recipe) -> None:
    """Renders the scenes and trains, each unless it is done."""
    render(recipe)
    out = RUNS / recipe.name
    run(recipe.train if not (ROOT / out).exists() else f"python -m cyclegan_fast.train --out {out} --resume auto")


def is_trained(recipe: Recipe) -> bool:
    """Whether its run has come to its end."""
    status = read_status(ROOT / RUNS / recipe.name)
    return status is not None and status.state == "finished"


class Translations(NamedTuple):
    """The test images of one domain and what became of them."""

    inputs: Pixels
    translated: Pixels
    reconstructed: Pixels
    counterparts: Pixels
    """The same scenes as the other domain shows them."""


def run_translations(commands: Sequence[str]) -> None:
    """Runs commands that translate; what they wrote before is replaced."""
    for command in commands:
        words = shlex.split(command)
        shutil.rmtree(ROOT / words[words.index("--output") + 1], ignore_errors=True)
        run(command)


def read_translations(recipe: Recipe, direction: Direction) -> Translations:
    """Reads the test images of a direction, and what the commands have made of them."""
    source, target = (DATA / recipe.name / f"test{domain}" for domain in direction.split("to"))
    names = names_in(source)
    return Translations(*(read(folder, names) for folder in (source, *folders(recipe.name, direction), target)))


def names_in(folder: Path) -> list[str]:
    """The images of a folder of the scenes, in their order."""
    return sorted(path.name for path in (ROOT / folder).iterdir())


def read(folder: Path, names: Sequence[str]) -> Pixels:
    return np.stack([np.asarray(Image.open(ROOT / folder / name)) for name in names])


def l1(images: Pixels, others: Pixels, where: np.ndarray | None = None) -> float:
    """Mean absolute difference in [0, 1] units; of the pixels in `where`, bool [N, H, W], alone."""
    error = np.abs(images.astype(float) - others).mean(axis=3) / 255
    return float(error.mean() if where is None else error[where].mean())


def coarse(images: Pixels) -> Pixels:
    """Colours without textures and edges: the means of squares of `SQUARE` pixels a side."""
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // SQUARE, SQUARE, width // SQUARE, SQUARE, channels)
    return squares.mean(axis=(2, 4))


def mean_colours(images: Pixels, where: np.ndarray) -> Pixels:
    """The mean colour of the pixels in `where`, bool [N, H, W], of each image that has such: [n, 1, 1, 3]."""
    chosen = zip(images[where.any(axis=(1, 2))], where[where.any(axis=(1, 2))], strict=True)
    return np.stack([image[pixels].mean(axis=0) for image, pixels in chosen])[:, None, None]


def scores(recipe: Recipe, of: dict[Direction, Translations]) -> Scores:
    """Scores both directions, beside the images as they were."""
    found: Scores = {}

    def add(name: str, compare: Callable[[Pixels, Pixels], float]) -> None:
        pairs = [(one.translated, one.inputs, one.counterparts) for one in of.values()]
        found[name] = [round(compare(images, true), 4) for *both, true in pairs for images in both]

    add("to the true counterpart", l1)
    if recipe.objects:
        inside = np.isin(class_maps(recipe), [CLASSES.index(name) for name in recipe.objects])
        add(f"... where there are {recipe.domains[0]}", lambda x, y: l1(x, y, inside))
        add("... of the mean colour there", lambda x, y: l1(mean_colours(x, inside), mean_colours(y, inside)))
        add("... elsewhere", lambda x, y: l1(x, y, ~inside))
    add(f"... of the means of {SQUARE}x{SQUARE} pixels", lambda x, y: l1(coarse(x), coarse(y)))
    there, back = (round(l1(one.reconstructed, one.inputs), 4) for one in of.values())
    found["of the reconstruction to the input"] = [there, None, back, None]
    return found


def table(recipe: Recipe, found: Scores) -> list[str]:
    """The scores of a recipe in Markdown."""
    a, b = recipe.domains
    lines = [f"| L1, lower is better | {a} to {b} | untranslated | {b} to {a} | untranslated |", "|---" * 5 + "|"]
    for name, values in found.items():
        lines.append(f"| {name} |" + "".join(" |" if value is None else f" {value:.3f} |" for value in values))
    return lines


def class_maps(recipe: Recipe) -> np.ndarray:
    """Reads the truth of the test scenes of A, uint8 [N, H, W]."""
    paths = sorted((ROOT / DATA / recipe.name / TRUTH_FOLDER).iterdir())
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def draw(of: dict[Direction, Translations]) -> Image.Image:
    """Lays the first test images out: a row for each scene, the columns of both directions side by side."""
    there, back = of.values()
    gap = Image.new("RGB", (GAP, 1), "white")
    rows = [[*(enlarged(x[i]) for x in there), gap, *(enlarged(x[i]) for x in back)] for i in range(SHOWN)]
    return sample_grid(rows, [*COLUMNS, "", *COLUMNS])


def enlarged(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.BICUBIC)


def measure(recipe: Recipe) -> Measured:
    """Translates the test images of a recipe by its run, draws the image, and scores."""
    run_translations(recipe.translations)
    of: dict[Direction, Translations] = {direction: read_translations(recipe, direction) for direction in OPPOSITE}
    status = read_status(ROOT / RUNS / recipe.name)
    assert status is not None, recipe.name
    save(draw(of), recipe.name)
    return stamped([{"steps": status.step, "scores": scores(recipe, of)}])


def save(image: Image.Image, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    image.save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True)


def section(recipe: Recipe, measured: Measured) -> list[str]:
    """A recipe's part of the page."""
    (found,) = measured["results"]
    a, b = recipe.domains
    return [
        f"## {recipe.title}",
        "",
        *textwrap.wrap(" ".join(recipe.seen.split()), 120),
        "",
        f"![Four test scenes: {a} translated to {b} and back, {b} translated to {a} and back]"
        f"(images/gallery/{recipe.name}.jpg)",
        "",
        f"*Left {a} to {b}, right {b} to {a}, after {found['steps']:,} steps; each half: {', '.join(COLUMNS)}.*",
        "",
        *table(recipe, found["scores"]),
        "",
        f"{origin_line(measured)}:",
        "",
        *(f"    {command}" for command in (recipe.render, recipe.train, *recipe.translations)),
        "",
    ]


def measure_unfamiliar() -> Measured:
    """Runs that command on the scenes of the seasons, draws the image, and counts what was flagged."""
    render(next(recipe for recipe in RECIPES if recipe.name == "seasons"))
    run_translations([unfamiliar_command()])
    there, _ = folders(UNFAMILIAR, "AtoB")
    source = DATA / "seasons" / "testB"
    names = names_in(source)[: SHOWN * UNFAMILIAR_IN_A_ROW]
    pairs = [[enlarged(image) for image in pair] for pair in zip(read(source, names), read(there, names), strict=True)]
    rows = [[*chain(*pairs[i : i + UNFAMILIAR_IN_A_ROW])] for i in range(0, len(pairs), UNFAMILIAR_IN_A_ROW)]
    save(sample_grid(rows, COLUMNS[:2] * UNFAMILIAR_IN_A_ROW), UNFAMILIAR)
    with (ROOT / there / "faithfulness.csv").open(encoding="utf-8", newline="") as file:
        flags = [row["flagged"] for row in csv.DictReader(file)]
    return stamped([{"images": len(flags), "flagged": flags.count("yes")}])


def unfamiliar_section(measured: Measured) -> list[str]:
    """The part of the page about winter scenes."""
    (found,) = measured["results"]
    return [
        "## What it cannot do: images unlike those of training",
        "",
        *textwrap.wrap(" ".join(UNFAMILIAR_SEEN.format(**found).split()), 120),
        "",
        "![Winter scenes, translated by a run that has seen summer alone: snow becomes water, a road a hedge]"
        f"(images/gallery/{UNFAMILIAR}.jpg)",
        "",
        f"*{UNFAMILIAR_IN_A_ROW} scenes in a row; of each: {', '.join(COLUMNS[:2])}.*",
        "",
        f"{origin_line(measured)}:",
        "",
        f"    {unfamiliar_command()}",
        "",
    ]


def is_new(measured: Measured, before: Measured | None) -> bool:
    """Whether numbers differ from stored ones, which otherwise keep the commit that trained for them."""
    return before is None or measured["results"] != before["results"]


def page_lines(numbers: dict[str, Measured]) -> list[str]:
    """What stands between the markers of the page."""
    parts = [section(recipe, numbers[recipe.name]) for recipe in RECIPES if recipe.name in numbers]
    parts += [unfamiliar_section(numbers[UNFAMILIAR])] if UNFAMILIAR in numbers else []
    return [line for part in parts for line in part]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[recipe.name for recipe in RECIPES], help="these alone")
    parser.add_argument("--page", action="store_true", help="train nothing")
    args: Any = parser.parse_args(words)
    chosen = [recipe for recipe in RECIPES if recipe.name in (args.only or [recipe.name])]
    for recipe in [] if args.page else chosen:
        train(recipe)
    numbers: dict[str, Measured] = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    found = {recipe.name: measure(recipe) for recipe in chosen if is_trained(recipe)}
    if "transfiguration" in found:
        found[UNFAMILIAR] = measure_unfamiliar()
    numbers |= {name: one for name, one in found.items() if is_new(one, numbers.get(name))}
    write_json(NUMBERS, numbers)
    write_between_markers(PAGE, page_lines(numbers))


if __name__ == "__main__":
    main()
