"""The sample grids of a run, a file for each step: samples/step_00001000.jpg, and its images again out of that file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cyclegan_fast.documents import DocumentError, Number, check, parse_json
from cyclegan_fast.monitoring.grids import lay_out, reduced, sample_grid, save_grid

FOLDER = "samples"
DIRECTIONS = {"A": "A → B", "B": "B → A"}  # by the domain that is translated
COLUMNS = ("input", "translation", "reconstruction")
COLUMNS_OF_PAIRS = ("input", "translation", "partner")  # of a model of one direction, which learns from pairs
MAX_SIDE = 512  # pixels; larger images are reduced
_SHAPE = {"rows": [{"domain": str, "name": str, "boxes": [[Number(0, 2**20)]]}]}


class SampleRow(NamedTuple):
    """An image of a domain, translated and back."""

    domain: str
    """A or B."""
    name: str
    images: list[Image.Image]
    """RGB, one for each of `COLUMNS`, or of `COLUMNS_OF_PAIRS`."""


def save_samples(folder: Path, step: int, rows: Sequence[SampleRow], columns: Sequence[str] = COLUMNS) -> Image.Image:
    """Writes the grid of a step into the run's `folder`; where its images are is in the file's comment.

    Returns:
        The grid.

    Raises:
        UserError: The file cannot be written.
    """
    images = [[reduced(image, MAX_SIDE) for image in row.images] for row in rows]
    grid = sample_grid(images, columns)
    layout = lay_out([[image.size for image in row] for row in images], columns)
    found = [
        {"domain": row.domain, "name": row.name, "boxes": boxes} for row, boxes in zip(rows, layout.boxes, strict=True)
    ]
    save_grid(_path(folder, step), grid, json.dumps({"rows": found}, separators=(",", ":")))
    return grid


def sample_steps(folder: Path) -> list[int]:
    """Returns the steps of which a run's folder has a grid, in order."""
    names = [re.fullmatch(r"step_(\d+)\.jpg", path.name) for path in (folder / FOLDER).glob("step_*.jpg")]
    return sorted(int(name[1]) for name in names if name)


def sample_files(folder: Path) -> list[Path]:
    """Returns the grids of a run's folder, in the order of their steps."""
    return [_path(folder, step) for step in sample_steps(folder)]


def read_samples(folder: Path, step: int) -> list[SampleRow]:
    """Reads the images of a step's grid; none of a grid that an earlier version wrote, or that is damaged."""
    try:
        with Image.open(_path(folder, step), formats=("JPEG",)) as grid:
            found = parse_json(grid.info["comment"])
            check(found, _SHAPE)
            return [
                SampleRow(row["domain"], row["name"], [_cut(grid, box) for box in row["boxes"]])
                for row in found["rows"]
                if row["domain"] in DIRECTIONS and 0 < len(row["boxes"]) <= len(COLUMNS)
            ]
    except (OSError, ValueError, LookupError, TypeError, Image.DecompressionBombError):
        return []


def _cut(grid: Image.Image, box: Sequence[int]) -> Image.Image:
    left, top, right, bottom = box
    if not (left < right <= grid.width and top < bottom <= grid.height):
        raise DocumentError("an image lies outside the grid")
    return grid.crop((left, top, right, bottom)).convert("RGB")


def remove_samples_after(folder: Path, step: int) -> None:
    """Removes the grids of later steps, which will be done again, or are another run's."""
    for later in sample_steps(folder):
        if later > step:
            _path(folder, later).unlink(missing_ok=True)


def _path(folder: Path, step: int) -> Path:
    return folder / FOLDER / f"step_{step:08d}.jpg"
