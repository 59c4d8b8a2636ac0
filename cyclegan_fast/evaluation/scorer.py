"""Scores of translations: against the test images of the target domain, their own reconstruction, and their partner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.evaluation.color import value_distance, value_distribution
from cyclegan_fast.evaluation.similarity import l1, psnr, ssim
from cyclegan_fast.evaluation.sliced_wasserstein import SlicedWasserstein
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.metrics import DIRECTIONS, Direction

Images = Sequence[np.ndarray]  # [H, W, C] each: uint8, uint16, or float32 in [-1, 1]


class Translated(NamedTuple):
    """A test image, translated and back, in [-1, 1]."""

    image: Tensor
    """[C', H, W]"""
    reconstruction: Tensor | None = None
    """[C, H, W]"""


@dataclass(frozen=True)
class Scores:
    """Numbers by the names of scores: ``swd_AtoB``, ``swd_BtoA``, and ``swd`` for the mean of both directions."""

    values: dict[str, float]
    spreads: dict[str, float] = field(default_factory=dict)
    """How uncertain some of them are: the standard deviation of swd over its repeats, the standard error of kid."""


class Summary(NamedTuple):
    """What a set of images is compared by."""

    projections: list[Tensor]
    values: Tensor


class Scorer:
    """Scores translations of the same test images again and again.

    Args:
        images: The test images of A and of B as they are stored, at least one of each.
        device: Where the scores are computed.
        paired: The n-th image of A and the n-th of B are a pair.
    """

    def __init__(self, images: tuple[Images, Images], device: torch.device, *, paired: bool = False) -> None:
        self.images: dict[Direction, Images] = {"AtoB": images[0], "BtoA": images[1]}  # by the direction they take
        self.targets: dict[Direction, Images] = {"AtoB": images[1], "BtoA": images[0]}
        self.device, self.paired = device, paired
        sides = [side for image in (*images[0], *images[1]) for side in image.shape[:2]]
        size = {"min_side": min(sides), "images": max(map(len, images))}
        of_B = SlicedWasserstein(channels=images[1][0].shape[2], **size)
        same = images[0][0].shape[2] == images[1][0].shape[2]
        self.swd: dict[Direction, SlicedWasserstein] = {
            "AtoB": of_B,
            "BtoA": of_B if same else SlicedWasserstein(channels=images[0][0].shape[2], **size),
        }
        self.real: dict[Direction, Summary] = {}  # of the targets, once they are needed

    def score(self, translate: Mapping[Direction, Callable[[], Iterable[Translated]]]) -> Scores:
        """Scores the translations that each of `translate` returns, of all images of its direction, in their order."""
        scores = [self._score_direction(direction, translated()) for direction, translated in translate.items()]
        return with_means(scores)

    def untranslated(self) -> Scores:
        """Scores the test images of each domain as if they were translations; none if A and B differ in channels."""
        if self.swd["AtoB"] is not self.swd["BtoA"]:
            return Scores({})
        return with_means([self._compare(direction, self._real(_other(direction))) for direction in DIRECTIONS])

    def _score_direction(self, direction: Direction, translated: Iterable[Translated]) -> Scores:
        stored: list[np.ndarray] = []
        similar: dict[str, list[float]] = {}

        def note(name: str, value: float) -> None:
            similar.setdefault(f"{name}_{direction}", []).append(value)

        for i, found in enumerate(translated):
            stored.append(as_stored(found.image, self.targets[direction][0].dtype))
            if found.reconstruction is not None:
                source, reconstruction = self._load(self.images[direction][i]), unit_range(found.reconstruction)
                note("cycle_l1", l1(reconstruction, source))
                note("cycle_ssim", ssim(reconstruction, source))
            if self.paired:
                image, partner = self._load(stored[i]), self._load(self.targets[direction][i])
                for name, metric in (("l1", l1), ("psnr", psnr), ("ssim", ssim)):
                    note(name, metric(image, partner))
        scores = self._compare(direction, self._summary(direction, stored))
        scores.values.update({name: fmean(values) for name, values in similar.items()})
        return scores

    def _compare(self, direction: Direction, summary: Summary) -> Scores:
        """Compares a set of images with the test images of the direction's target."""
        real = self._real(direction)
        distance = self.swd[direction].distance(summary.projections, real.projections)
        values = {f"swd_{direction}": distance.value, f"color_{direction}": value_distance(summary.values, real.values)}
        return Scores(values, {f"swd_{direction}": distance.spread})

    def _real(self, direction: Direction) -> Summary:
        if direction not in self.real:
            self.real[direction] = self._summary(direction, self.targets[direction])
        return self.real[direction]

    def _summary(self, direction: Direction, images: Images) -> Summary:
        projections = self.swd[direction].project(map(self._load, images), len(images))
        return Summary(projections, value_distribution(map(self._load, images)))

    def _load(self, pixels: np.ndarray) -> Tensor:
        """Returns stored pixels [H, W, C] as [C, H, W] in [0, 1]."""
        return unit_range(to_model_range(torch.from_numpy(pixels)[None].to(self.device))[0])


def unit_range(image: Tensor) -> Tensor:
    """Turns [-1, 1] into float32 in [0, 1]; what lies outside is clipped, as in a file."""
    return ((image.float() + 1) / 2).clamp(0, 1)


def as_stored(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """Turns an image [C, H, W] in [-1, 1] into the pixels [H, W, C] of a file: rounded to 8 or 16 bits, or float32."""
    pixels = image.permute(1, 2, 0)
    if not np.issubdtype(dtype, np.integer):
        return pixels.float().cpu().contiguous().numpy()
    levels = np.iinfo(dtype).max
    return (unit_range(pixels) * levels).round().int().cpu().contiguous().numpy().astype(dtype)


def with_means(scores: Iterable[Scores]) -> Scores:
    """Joins scores of single directions and adds the mean of both, named without a direction."""
    values: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for one in scores:
        values |= one.values
        spreads |= one.spreads
    there, back = (f"_{direction}" for direction in DIRECTIONS)
    for name in [name.removesuffix(there) for name in values if name.endswith(there)]:
        if name + back in values:
            values[name] = fmean((values[name + there], values[name + back]))
        if name + there in spreads and name + back in spreads:
            spreads[name] = math.hypot(spreads[name + there], spreads[name + back]) / 2
    return Scores(values, spreads)


def _other(direction: Direction) -> Direction:
    return "BtoA" if direction == "AtoB" else "AtoB"
