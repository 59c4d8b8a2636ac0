"""The metrics by which images are scored: their names, which of two values is the better one, what they need.

A score is named by its metric, for the mean over both directions, or by metric and direction: ``swd``, ``swd_AtoB``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cyclegan_fast.errors import UserError, did_you_mean

Direction = Literal["AtoB", "BtoA"]
DIRECTIONS: tuple[Direction, Direction] = ("AtoB", "BtoA")
OPPOSITE: dict[Direction, Direction] = {"AtoB": "BtoA", "BtoA": "AtoB"}
DEFAULT_SCORE = "swd"


class Metric(NamedTuple):
    """What a metric measures."""

    higher_is_better: bool
    title: str
    description: str
    needs: Literal["images", "reconstructions", "pairs", "features"] = "images"
    """images: test images of both domains. reconstructions: a generator for the way back, too. pairs: ``--paired``.
    features: a feature network."""


METRICS: dict[str, Metric] = {
    "swd": Metric(
        False,
        "Sliced Wasserstein distance",
        "distance of the translations' patches to those of the target's test images, over a Laplacian pyramid, x 1000",
    ),
    "color": Metric(
        False, "Colour distance", "distance of the translations' pixel values to those of the target's test images"
    ),
    "cycle_l1": Metric(
        False, "Cycle L1", "mean absolute difference of a test image and its reconstruction", "reconstructions"
    ),
    "cycle_ssim": Metric(
        True, "Cycle SSIM", "structural similarity of a test image and its reconstruction", "reconstructions"
    ),
    "hidden": Metric(
        False,
        "Hidden information",
        "error of the reconstruction after noise of 2 levels, by the error before: 1 where no patterns carry the input",
        "reconstructions",
    ),
    "structure": Metric(True, "Structure kept", "correlation of the edges of a test image and its translation"),
    "l1": Metric(False, "L1", "mean absolute difference of a translation and its partner", "pairs"),
    "psnr": Metric(True, "PSNR", "peak signal-to-noise ratio of a translation against its partner, in dB", "pairs"),
    "ssim": Metric(True, "SSIM", "structural similarity of a translation and its partner", "pairs"),
    "fid": Metric(False, "FID", "Fréchet distance of the features of translations and test images", "features"),
    "kid": Metric(False, "KID", "kernel distance of the features of translations and test images", "features"),
    "density": Metric(True, "Density", "how densely real features surround those of the translations", "features"),
    "coverage": Metric(True, "Coverage", "share of the test images that have a translation near them", "features"),
}


def find_metric(score: str) -> Metric:
    """Returns the metric of a score, which may end in a direction: that of ``swd_AtoB`` is ``swd``.

    Raises:
        UserError: There is no such score; the nearest one is named.
    """
    metric = METRICS.get(stem(score))
    if metric is None:
        known = [*METRICS, *(f"{name}_{direction}" for name in METRICS for direction in DIRECTIONS)]
        hint = did_you_mean(score, known) or f"; there are {', '.join(METRICS)}"
        raise UserError(f"unknown score '{score}'{hint}")
    return metric


def refuse_unscored(score: str, *, pairs: bool, features: bool, flag: str = "--paired") -> None:
    """Refuses a score that nothing is computed for.

    Args:
        score: Its name.
        pairs: Whether translations are compared with their partners.
        features: Whether features are.
        flag: What compares them with their partners.

    Raises:
        UserError: There is no such score, or it needs pairs or features.
    """
    needs = find_metric(score).needs
    if needs == "pairs" and not pairs:
        raise UserError(f"--score {score} compares an image with its partner: add {flag}, or choose another")
    if needs == "features" and not features:
        raise UserError(f"--score {score} compares features: name a network with --features, or choose another")


def stem(score: str) -> str:
    """Returns the name of a score's metric, without a direction."""
    for direction in DIRECTIONS:
        score = score.removesuffix(f"_{direction}")
    return score


def is_better(score: str, value: float | None, than: float | None) -> bool:
    """Returns whether a score's `value` is better than another one: strictly, and anything is better than none or NaN.

    Raises:
        UserError: There is no such score.
    """
    higher = find_metric(score).higher_is_better
    if value is None or math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value > than if higher else value < than


def best_record(records: Sequence[Mapping[str, Any]], score: str) -> Mapping[str, Any] | None:
    """Returns the record with the best ``record["scores"][score]``, the earliest of several; None if none has it.

    Raises:
        UserError: There is no such score.
    """
    best: Mapping[str, Any] | None = None
    for record in records:
        value = record.get("scores", {}).get(score)
        if is_better(score, value, None if best is None else best["scores"][score]):
            best = record
    return best


def score_records(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the records with scores by the protocol of the newest ones, which alone compare with each other."""
    found = [event for event in events if event.get("scores")]
    return [event for event in found if event.get("protocol") == found[-1].get("protocol")]
