"""The page of ``translate --faithfulness``: the images that stand out most, with their numbers and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from PIL import Image
from torch import Tensor

from cyclegan_fast.monitoring.chart import number
from cyclegan_fast.monitoring.grids import reduced, to_image
from cyclegan_fast.monitoring.markup import el
from cyclegan_fast.monitoring.page import ImageBlock, breakable, image_cards, section, table_card, write_page

COLUMNS = (
    *("input", "translation", "reconstruction", "reconstruction after noise"),
    *("may be invented: translated again", "may be lost: input and reconstruction"),
)
TITLES = {
    "cycle": "Cycle error",
    "after_8bit": "after 8 bits",
    "after_jpeg": "after JPEG",
    "after_noise": "after noise",
    "hidden": "Hidden",
    "gradient_correlation": "Gradient correlation",
    "mutual_information": "Mutual information (bits)",
    "retranslated": "Retranslated",
}
_SIDE = 320  # pixels of an image on the page


class WorstImage(NamedTuple):
    """An image on the page."""

    name: str
    images: Sequence[Tensor | Image.Image]
    """One for each of `COLUMNS`: [C, H, W] in [-1, 1], or of PIL."""
    scores: Mapping[str, float]
    reasons: Sequence[str]
    """Why it stands out; empty if it does not."""


def write_faithfulness_page(
    path: Path, worst: Sequence[WorstImage], *, medians: Mapping[str, float], count: int, verdict: str
) -> Path:
    """Writes the page.

    Args:
        path: The .html file.
        worst: The images to show, the worst first.
        medians: Of the scores of all images.
        count: How many there are.
        verdict: How many stand out, and from what.
    """
    head = el(
        "header",
        el("h1", "Can these images be trusted?"),
        el("p", f"{verdict[0].upper()}{verdict[1:]}.", class_="summary"),
        el("p", "A flag means unlike the images compared with, and not invented: a reason to look, no proof; neither "
           "is its absence. Errors are mean absolute differences, from 0 to 1. Hidden is about 1 where the "
           "reconstruction reads what the translation shows, and 2 and more where noise that nobody sees ruins it. "
           "One map shows what may be invented, the difference of the translation and that of the reconstruction after "
           "noise; the other what may be lost, the difference of the input and this reconstruction. On both black is "
           "none, violet 0.01, red 0.06, pale yellow 0.25 and more."),
    )  # fmt: skip
    body = [_row(f"{i}. {Path(one.name).name}", one.scores) for i, one in enumerate(worst, 1)]
    table = table_card(("", *TITLES.values()), [_row(f"Median of {count}", medians), *body])
    cards = [_card(i, one) for i, one in enumerate(worst, 1)]
    return write_page(path, "Faithfulness", head, section("Numbers", table), section("The worst first", *cards))


def _card(rank: int, one: WorstImage) -> Element:
    shown = [reduced(image if isinstance(image, Image.Image) else to_image(image), _SIDE) for image in one.images]
    title = f"{rank}. {Path(one.name).name}"
    flag = f"Flagged: {'; '.join(one.reasons)}." if one.reasons else "Not flagged."
    return el(
        "div",
        image_cards([ImageBlock(title=title, columns=COLUMNS, rows=[shown])]),
        el("p", el("b", flag), " ", *breakable(one.name), class_="hint"),
    )


def _row(name: str, scores: Mapping[str, float]) -> Element:
    cells = (el("td", "not a number" if math.isnan(scores[key]) else number(scores[key])) for key in TITLES)
    return el("tr", el("th", name, scope="row"), *cells)
