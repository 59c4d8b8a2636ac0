"""Trains each recipe's stand-in by the commands that docs/gallery.md shows, and writes that page and its images.

    python -m benchmarks.gallery [--only seasons geometry] [--page]

runs the commands in the repository's root: scenes go to data/gallery, runs to runs/gallery. A run that was broken off
continues, one that is finished stays. --page writes the page and the images of what is finished, and trains nothing.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.results import write_between_markers
from cyclegan_fast.data.scenes import CLASSES, TRUTH_FOLDER
from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.metrics import OPPOSITE, Direction
from cyclegan_fast.monitoring.grids import sample_grid
from cyclegan_fast.monitoring.run_status import read_status

ROOT = Path(__file__).resolve().parent.parent
DATA, RUNS = Path("data/gallery"), Path("runs/gallery")
PAGE, IMAGES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "images" / "gallery"

SIZE = 64  # pixels
SHOWN = 4  # the first test scenes
ENLARGED = 2  # times, as shown
GAP = 8  # pixels between the two directions
QUALITY = 75  # of the JPEG files
SQUARE = 8  # pixels
COLUMNS = ("input", "translated", "reconstructed", "true counterpart")
SETTINGS = (
    "--generator resnet_3blocks --ngf 16 --ndf 32 --discriminator n_layers --n-layers 2 --preprocess resize_and_crop "
    f"--load-size {SIZE} --crop-size {SIZE} --lr 4e-4 --n-epochs 3 --n-epochs-decay 3"
)
Pixels = np.ndarray  # uint8 [N, H, W, 3]


@dataclass(frozen=True)
class Recipe:
    """A use of the paper, and the scenes that stand in for its images."""

    name: str
    """Of the scenes' kind."""
    title: str
    config: str
    domains: tuple[str, str]
    seen: str
    """What to see in the images, for the page."""
    flags: str = ""
    """What the stand-in needs besides the recipe's and `SETTINGS`."""
    objects: tuple[str, ...] = ()
    """The classes that should change, where the rest should stay."""

    @property
    def render(self) -> str:
        """The command that renders the scenes."""
        return (
            f"python -m cyclegan_fast.dataset scenes --kind {self.name} --out {DATA / self.name} "
            f"--size {SIZE} --train 300 --test 50"
        )

    @property
    def train(self) -> str:
        """The command that trains."""
        words = f"--config configs/{self.config}.yaml --data {DATA / self.name} --out {RUNS / self.name}"
        return f"python -m cyclegan_fast.train {words} {SETTINGS} {self.flags}".rstrip()

    @property
    def translate(self) -> str:
        """The command that translates A to B."""
        return (
            f"python -m cyclegan_fast.translate --engine {RUNS / self.name} --direction AtoB "
            f"--input {DATA / self.name / 'testA'} --output translated/{self.name}"
        )


RECIPES = (
    Recipe(
        *("style", "Collection style transfer", "style", ("painting", "photo")),
        """The painter's palette is learned in both directions: violet hills, a violet road, lights in yellow. Strokes
        come and go, too, but not where the true ones are, which nobody could know; so the mean colours of squares
        say more than single pixels. At this size and length edges stay soft, and small things, such as houses, get
        noise.""",
    ),
    Recipe(
        *("transfiguration", "Object transfiguration", "transfiguration", ("plain houses", "striped houses")),
        """Houses get stripes and lose them; trees, road and lake stay what they are. The stripes begin elsewhere than
        the true ones, so single pixels of a house are as far from the truth as before, and its mean colour is not;
        without stripes, pixels come closer, too. What should stay is drawn anew, and less sharp than it was. With
        `--lambda-identity 0`, as in the paper, a run on scenes like these went wrong: after 800 steps trees had the
        stripes, and houses had become trees. A cycle allows kinds to change places; the identity loss shows the
        generator trees that are to stay trees.""",
        flags="--lambda-identity 0.5",
        objects=("house",),
    ),
    Recipe(
        *("seasons", "Season transfer", "seasons", ("summer", "winter")),
        """Each material finds its other one: grass and snow, lake and ice, green trees and grey ones, blue sky and
        pale sky, and red roofs come back from white ones. Three quarters of the difference between the two are gone.
        What winter hardly shows is lost in part, such as the outline of hills in snow, and with it their outline in the
        summer made of it; the dashes of the road and the windows of houses are smeared.""",
    ),
    Recipe(
        *("enhancement", "Photo enhancement", "enhancement", ("phone", "camera")),
        """Noise and grey go, colours come, and hills and sky are put out of focus, while trees in front keep their
        edges. The network is small for that: houses and the near road get coloured speckles that neither domain has.
        The other way round it adds noise, drawn into its pattern rather than at random, and sharpens hills it cannot
        have seen; what it draws there is invented.""",
    ),
    Recipe(
        *("geometry", "Another geometry", "transfiguration", ("houses", "trees")),
        """The paper had little success where shapes must change, such as dogs into cats (section 6). Here it goes half
        way: houses become trees and trees houses, in the right places and colours; perhaps since most of them are
        smaller than the 34 pixels that the discriminator sees at once, which were not varied. But many keep the outline
        of what they were: the wide house by the lake becomes a wide bush where a tall fir should stand. And what should
        have stayed is worse than it was, so that on the whole the images are farther from the truth.""",
        objects=("house",),
    ),
)


UNFAMILIAR = "unfamiliar"  # name of an image
UNFAMILIAR_SEEN = """The run of striped houses has seen summer alone. Given winter, it does not leave the image as it
    is: snow becomes sky and water, the road a hedge, and of the houses little is left. The paper
    shows the same of a horse with a rider, since no rider was in its training set (section 6).
    Nothing in one image tells; beside the translations of images that are like those of training it
    does: `--faithfulness` flagged 50 of these 50."""


def run(command: str) -> None:
    """Runs a command of the page in the repository's root, with this Python."""
    program, *words = shlex.split(command)
    assert program == "python"
    print(command, flush=True)
    if status := subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode:
        sys.exit(status)


def train(recipe: Recipe) -> None:
    """Renders the scenes and trains, each unless it is done."""
    if not (ROOT / DATA / recipe.name).exists():
        run(recipe.render)
    out = ROOT / RUNS / recipe.name
    run(recipe.train if not out.exists() else f"python -m cyclegan_fast.train --out {out} --resume auto")


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


def translations(recipe: Recipe, direction: Direction) -> Translations:
    """Translates all test images of a direction, and back."""
    source, target = direction.split("to")
    there, back = (load_engine(ROOT / RUNS / recipe.name, direction=d) for d in (direction, OPPOSITE[direction]))
    inputs = test_images(recipe, source)
    translated = np.asarray(infer(there, inputs))
    return Translations(inputs, translated, np.asarray(infer(back, translated)), test_images(recipe, target))


def test_images(recipe: Recipe, domain: str) -> Pixels:
    """Reads testA or testB in the order of the scenes."""
    paths = sorted((ROOT / DATA / recipe.name / f"test{domain}").iterdir())
    return np.stack([np.asarray(Image.open(path)) for path in paths])


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


def scores(recipe: Recipe, of: dict[Direction, Translations]) -> list[str]:
    """The table of a recipe: both directions, beside the images as they were."""
    a, b = recipe.domains
    lines = [f"| L1, lower is better | {a} to {b} | untranslated | {b} to {a} | untranslated |", "|---" * 5 + "|"]

    def add(name: str, compare: Callable[[Pixels, Pixels], float]) -> None:
        pairs = [(found.translated, found.inputs, found.counterparts) for found in of.values()]
        cells = [f"{compare(images, true):.3f}" for *both, true in pairs for images in both]
        lines.append(f"| {name} | {' | '.join(cells)} |")

    add("to the true counterpart", l1)
    if recipe.objects:
        inside = np.isin(class_maps(recipe), [CLASSES.index(name) for name in recipe.objects])
        add(f"... where there are {recipe.domains[0]}", lambda x, y: l1(x, y, inside))
        add("... of the mean colour there", lambda x, y: l1(mean_colours(x, inside), mean_colours(y, inside)))
        add("... elsewhere", lambda x, y: l1(x, y, ~inside))
    add(f"... of the means of {SQUARE}x{SQUARE} pixels", lambda x, y: l1(coarse(x), coarse(y)))
    cells = [f"{l1(found.reconstructed, found.inputs):.3f} | " for found in of.values()]
    lines.append(f"| of the reconstruction to the input | {'| '.join(cells)}|")
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


def section(recipe: Recipe) -> list[str]:
    """Writes a recipe's image; returns its part of the page."""
    of: dict[Direction, Translations] = {d: translations(recipe, d) for d in OPPOSITE}
    a, b = recipe.domains
    status = read_status(ROOT / RUNS / recipe.name)
    assert status is not None, recipe.name
    IMAGES.mkdir(parents=True, exist_ok=True)
    draw(of).save(IMAGES / f"{recipe.name}.jpg", quality=QUALITY, optimize=True)
    return [
        f"## {recipe.title}",
        "",
        *textwrap.wrap(" ".join(recipe.seen.split()), 120),
        "",
        f"![Four test scenes: {a} translated to {b} and back, {b} translated to {a} and back]"
        f"(images/gallery/{recipe.name}.jpg)",
        "",
        f"*Left {a} to {b}, right {b} to {a}, after {status.step:,} steps; each half: {', '.join(COLUMNS)}.*",
        "",
        *scores(recipe, of),
        "",
        *(f"    {command}" for command in (recipe.render, recipe.train, recipe.translate)),
        "",
    ]


def unfamiliar() -> list[str]:
    """Writes the image of winter scenes, translated by the run that saw summer alone; returns the part of the page."""
    named = {recipe.name: recipe for recipe in RECIPES}
    winter, houses = named["seasons"], named["transfiguration"]
    there, back = (load_engine(ROOT / RUNS / houses.name, direction=direction) for direction in OPPOSITE)
    inputs = test_images(winter, "B")[: 2 * SHOWN]
    translated = np.asarray(infer(there, inputs))
    shown = list(zip(inputs, translated, np.asarray(infer(back, translated)), strict=True))
    rows = [[enlarged(image) for image in (*shown[i], *shown[i + SHOWN])] for i in range(SHOWN)]
    sample_grid(rows, COLUMNS[:3] * 2).save(IMAGES / f"{UNFAMILIAR}.jpg", quality=QUALITY, optimize=True)
    return [
        "## What it cannot do: images unlike those of training",
        "",
        *textwrap.wrap(" ".join(UNFAMILIAR_SEEN.split()), 120),
        "",
        "![Eight winter scenes, translated by a run that has seen summer alone: snow becomes water, a road a hedge]"
        f"(images/gallery/{UNFAMILIAR}.jpg)",
        "",
        f"*Two scenes in a row; of each: {', '.join(COLUMNS[:3])}.*",
        "",
        f"    {unfamiliar_command()}",
        "",
    ]


def unfamiliar_command() -> str:
    """The command of that part, whose images are those of the seasons."""
    words = f"--engine {RUNS / 'transfiguration'} --direction AtoB --input {DATA / 'seasons' / 'testB'}"
    check = f"--faithfulness --faithfulness-reference {DATA / 'transfiguration' / 'testA'}"
    return f"python -m cyclegan_fast.translate {words} --output translated/{UNFAMILIAR} {check}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[recipe.name for recipe in RECIPES], help="train these alone")
    parser.add_argument("--page", action="store_true", help="write the page, and train nothing")
    args: Any = parser.parse_args(words)
    for recipe in RECIPES:
        if not args.page and recipe.name in (args.only or [recipe.name]):
            train(recipe)
    if args.page or not args.only:
        trained = [recipe for recipe in RECIPES if is_trained(recipe)]
        parts = [section(recipe) for recipe in trained]
        if {"transfiguration", "seasons"} <= {recipe.name for recipe in trained}:
            parts.append(unfamiliar())
        write_between_markers(PAGE, [line for part in parts for line in part])


if __name__ == "__main__":
    main()
