"""Whether a training learns at 64, 128 and 256 pixels, in 16 bits and with five channels: by the commands, on files.

python -m benchmarks.quality.learning --out runs/learning                           every task, hours on a CPU
python -m benchmarks.quality.learning --out runs/learning --only "64 px" "128 px"   two of them

Each task renders scenes, trains by `python -m cyclegan_fast.train`, and translates testA and testB by
`python -m cyclegan_fast.translate`. Writes <out>/learning.json, with when, where and of which commit each was measured,
and a sheet of images for each task to look at. Exits with 1 where a translation is not nearer to the truth than the
untranslated input; a task of fewer steps than its own (--steps) is measured and not judged.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.quality.checkerboard import grid_energy
from benchmarks.results import Measured, origin_line, stamped, write_json
from cyclegan_fast.data.scenes import FACTS_NAME, render_dataset
from cyclegan_fast.images import ImageFile, list_images
from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.images.encode import encode_as
from cyclegan_fast.monitoring.events import read_events

Convert = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] -> [H, W, C]
SMALL_PATCHES = ["--discriminator", "n_layers", "--n-layers", "2"]
SMALL = ["--generator", "resnet_3blocks", "--ngf", "16", "--ndf", "32", *SMALL_PATCHES]
TINY = ["--generator", "resnet_2blocks", "--ngf", "8", "--ndf", "16", *SMALL_PATCHES]
TRAIN_IMAGES, TEST_IMAGES = 400, 20  # of each domain
SHOWN = 4  # test images of each direction
DIRECTIONS = {"AtoB": "A to B", "BtoA": "B to A"}


def grey_16_bits(pixels: np.ndarray) -> np.ndarray:
    """Luminance over the whole range of 16 bits, with values between those of 8 bits: uint16 [H, W, 1]."""
    luminance = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    return np.rint(luminance * 257).astype(np.uint16)[..., None]


def five_channels(pixels: np.ndarray) -> np.ndarray:
    """Red, green, blue, a band in which plants are bright, and blue inverted: uint8 [H, W, 5]."""
    red, green, blue = (pixels[..., i].astype(np.float64) for i in range(3))
    near_infrared = np.clip(1.6 * green - 0.6 * red, 0, 255)
    return np.stack([red, green, blue, near_infrared, 255 - blue], axis=-1).round().astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training on scenes."""

    size: int
    steps: int
    """Its own length, at which it is judged."""
    flags: list[str]
    """Other than the defaults, besides the sizes."""
    channels: int = 3
    convert: Convert | None = None
    """How its files are made from those of the scenes; None leaves them as they are."""

    @property
    def network(self) -> str:
        """What of its networks is not the default."""
        pairs = zip(self.flags[::2], self.flags[1::2], strict=True)
        return ", ".join(f"{flag.removeprefix('--')} {value}" for flag, value in pairs) or "the defaults"


TASKS = {
    "64 px": Task(size=64, steps=1000, flags=SMALL),
    "128 px": Task(size=128, steps=150, flags=["--generator", "resnet_6blocks", "--ngf", "16", "--ndf", "32"]),
    "256 px": Task(size=256, steps=300, flags=[]),
    "16 bits, 1 channel": Task(size=64, steps=480, flags=TINY, channels=1, convert=grey_16_bits),
    "5 channels": Task(size=64, steps=480, flags=TINY, channels=5, convert=five_channels),
}


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    sentences, failed = [], False
    for name in arguments.only or TASKS:
        task, folder = TASKS[name], arguments.out / name.replace(" ", "_").replace(",", "")
        found = learn(task, folder, arguments.steps or task.steps)
        results = arguments.out / "learning.json"
        stored = json.loads(results.read_text()) if results.exists() else {}
        stored[name] = stamped([found])
        write_json(results, stored)
        print("\n".join(table({name: stored[name]})), flush=True)
        missed = not_nearer(name, found)
        sentences += missed
        failed |= bool(missed) and is_judged(name, found)
    print("\n".join(sentences))
    return 1 if failed else 0


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, the results and the sheets")
    named = "; ".join(f'"{name}" ({task.steps:,} steps)' for name, task in TASKS.items())
    parser.add_argument("--only", nargs="+", metavar="TASK", help=f"of: {named}")
    parser.add_argument("--steps", type=int, help="of training, instead of each task's own")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.only or () if name not in TASKS]:
        parser.error(f"there is no task {'; '.join(unknown)}: choose from {'; '.join(TASKS)}")
    if arguments.steps is not None and arguments.steps < 1:
        parser.error("--steps must be at least 1")
    return arguments


def is_judged(name: str, task: dict[str, Any]) -> bool:
    """Returns whether what was found of a task is as long as the task's own training."""
    return bool(task["steps"] >= TASKS[name].steps)


def not_nearer(name: str, task: dict[str, Any]) -> list[str]:
    """Returns a sentence for each direction whose translations are not nearer to the truth than their inputs are."""
    sentences = []
    for direction, title in DIRECTIONS.items():
        translated, untranslated = (task[direction]["l1"][which] for which in ("translated", "untranslated"))
        if not translated < untranslated:  # NaN is not nearer
            judged = "" if is_judged(name, task) else f" (not judged below {TASKS[name].steps:,} steps)"
            sentences.append(
                f"{name}, {title}: no nearer to the truth than the untranslated images: {translated:.3f} from it after "
                f"{task['steps']:,} steps, those {untranslated:.3f}{judged}"
            )
    return sentences


def table(found: dict[str, Measured]) -> list[str]:
    """The results of tasks, by their names, in Markdown."""
    columns = ["", "network", "steps", "cycle loss of A, first tenth to last", "of B"]
    columns += ["A to B: difference to the truth", "B to A", "checkerboard of A to B (of real images)", "of B to A"]
    columns += ["files"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, measured in found.items():
        (task,) = measured["results"]
        losses = [" to ".join(f"{x:.2f}" for x in task["losses"][f"cycle_{side}"]) for side in "AB"]
        distances = [
            f"{task[direction]['l1']['translated']:.3f}, untranslated {task[direction]['l1']['untranslated']:.3f}"
            for direction in DIRECTIONS
        ]
        grids = [_grid_cell(task[direction]) for direction in DIRECTIONS]
        files = _files_cell(task["AtoB"]["files"])
        cells = [name, task["network"], f"{task['steps']:,}", *losses, *distances, *grids, files]
        lines.append(f"| {' | '.join(cells)} |")
    origins = sorted({origin_line(measured) for measured in found.values()})
    return [*lines, "", *(f"{line}.  " for line in origins)]


def _grid_cell(direction: dict[str, Any]) -> str:
    grids = direction.get("checkerboard")  # older results have none
    return "not measured" if grids is None else f"{grids['translated']:.1f} ({grids['real']:.1f})"


def _files_cell(kind: str) -> str:
    """Reads "uint16, 1 channel(s), 3763 values in one"; more values than 8 bits hold are worth a word."""
    match = re.fullmatch(r"uint(\d+), (\d+) channel\(s\), (\d+) values in one", kind)
    assert match is not None, kind
    bits, channels, values = map(int, match.groups())
    text = f"{bits} bits, {channels} {'channel' if channels == 1 else 'channels'}"
    return f"{text} ({values:,} values in one image)" if bits > 8 else text


def learn(task: Task, folder: Path, steps: int) -> dict[str, Any]:
    """Trains, translates the test images, and compares them with the hidden truth, their partners.

    Returns:
        ``network``; ``steps``; ``losses``: each one's mean over the first and the last tenth; ``AtoB`` and ``BtoA``:
        the kind of the files; the mean absolute difference to the truth of translations and of the input itself,
        of [0, 1]; and the checkerboard in translations and in the truth.
    """
    data, run = folder / "data", folder / "run"
    render(task, data)
    channels = ("--channels-A", task.channels, "--channels-B", task.channels)
    half = -(-steps // 200)  # epochs of up to 100 steps, half of them at the full rate
    _command(
        "train", "--data", data, "--out", run, "--resume", "auto", "--max-steps", steps, *task.flags, *channels,
        "--load-size", task.size * 286 // 256, "--crop-size", task.size, "--epoch-size", -(-steps // (2 * half)),
        "--n-epochs", half, "--n-epochs-decay", half, "--log-every", max(1, steps // 100),
        "--sample-every", 0, "--eval-every", 0,
    )  # fmt: skip
    found: dict[str, Any] = {"network": task.network, "steps": steps, "losses": _losses(run)}
    rows = []
    for direction, source, target in zip(DIRECTIONS, ("testA", "testB"), ("testB", "testA"), strict=True):
        output = folder / direction
        images = ("--input", data / source, "--output", output)
        _command("translate", "--engine", run, "--direction", direction, "--overwrite", *images)
        triples = [
            tuple(read_unscaled(ImageFile(path), task.channels) for path in three)
            for three in zip(*(list_images(f) for f in (data / source, output, data / target)), strict=True)
        ]
        found[direction] = _compare(triples)
        rows += triples[:SHOWN]
    _save_sheet(rows, folder / "sheet.png")
    return found


def render(task: Task, data: Path) -> None:
    """Renders the scenes, unless they are there, and turns their files into the kind of the task."""
    if (data / FACTS_NAME).exists():
        return
    render_dataset(data, task.size, TRAIN_IMAGES, TEST_IMAGES, seed=0)
    if task.convert is None:
        return
    for folder in ("trainA", "trainB", "testA", "testB"):
        for path in list_images(data / folder):
            pixels = task.convert(np.asarray(Image.open(path).convert("RGB")))
            path.with_suffix(".tif").write_bytes(encode_as("TIFF", pixels))
            path.unlink()


def _command(name: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", f"cyclegan_fast.{name}", *map(str, words)], check=True)


def _losses(run: Path) -> dict[str, list[float]]:
    logged = [event["losses"] for event in read_events(run) if "losses" in event]
    tenth = max(1, len(logged) // 10)
    parts = logged[:tenth], logged[-tenth:]
    return {name: [round(statistics.fmean(one[name] for one in part), 4) for part in parts] for name in logged[0]}


def _compare(triples: list[tuple[np.ndarray, ...]]) -> dict[str, Any]:
    """Compares input, translation and truth, each [H, W, C] as the file stores it."""
    translations = np.stack([translation for _, translation, _ in triples])
    scale = float(np.iinfo(translations.dtype).max)
    distance = {
        name: float(np.mean([np.abs(three[i] / scale - three[2] / scale).mean() for three in triples]))
        for i, name in enumerate(("untranslated", "translated"))
    }
    kind = f"{translations.dtype}, {translations.shape[-1]} channel(s), {len(np.unique(translations[0]))} values in one"
    real = np.stack([truth for _, _, truth in triples])
    grids = {"translated": _grid(translations / scale), "real": _grid(real / scale)}
    return {
        "files": kind,
        "l1": {name: round(value, 4) for name, value in distance.items()},
        "checkerboard": {name: round(value, 4) for name, value in grids.items()},
    }


def _grid(images: np.ndarray) -> float:
    """The checkerboard in images [N, H, W, C]: the larger of those of 2 and 4 pixels."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    return max(grid_energy(batch, period) for period in (2, 4))


def _save_sheet(rows: list[tuple[np.ndarray, ...]], path: Path) -> None:
    """Saves rows of input, translation and truth; channels beyond the third stand beside as grey images."""
    Image.fromarray(np.concatenate([np.concatenate([_shown(x) for x in row], axis=1) for row in rows])).save(path)


def _shown(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W', 3] of an image [H, W, C]."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    colors = [pixels[..., :3]] if pixels.shape[-1] >= 3 else []
    greys = [pixels[..., i : i + 1].repeat(3, axis=-1) for i in range(3 * len(colors), pixels.shape[-1])]
    return np.concatenate([*colors, *greys], axis=1)


if __name__ == "__main__":
    sys.exit(main())
