"""Scores of translations: against the test images of the target domain, their own reconstruction, and their partner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.evaluation.faithfulness import error_map, hidden_information, mean_error
from cyclegan_fast.evaluation.feature_distances import FEW_IMAGES
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.sets import Images, SetComparison, Summary, unit_range
from cyclegan_fast.evaluation.similarity import PAIR_METRICS, l1, ssim
from cyclegan_fast.evaluation.structure import gradient_correlation
from cyclegan_fast.metrics import DIRECTIONS, OPPOSITE, Direction

# The share that translations by exchanged generators must fall below, in both directions, of the distance of what is
# nearer: the own translations, or untranslated images. On scenes it was 0.46 to 0.64 where A and B were swapped, after
# 300 and 600 steps, and 1.3 and more where they were not. Generators that have not learned differ by chance, in one
# direction to either side; the larger of both shares was at least 0.95, of 200 pairs just initialised or young.
SWAPPED_SHARE = 0.8
SWAPPED = (
    "A and B of the test images seem to be swapped: the generators of the other direction come much nearer to them; if "
    "they are, exchange testA and testB, or --test-A and --test-B"
)


class Translated(NamedTuple):
    """A test image, translated and back, in [-1, 1]."""

    image: Tensor
    """[C', H, W]"""
    reconstruction: Tensor | None = None
    """[C, H, W]"""
    noise_reconstruction: Tensor | None = None
    """[C, H, W], of the translation with `faithfulness.with_noise`"""


@dataclass(frozen=True)
class Scores:
    """Numbers by the names of scores: ``swd_AtoB``, ``swd_BtoA``, and ``swd`` for the mean of both directions."""

    values: dict[str, float]
    spreads: dict[str, float] = field(default_factory=dict)
    """How uncertain some of them are: the standard deviation of swd over its repeats, the standard error of kid."""


class Scorer:
    """Scores translations of the same test images again and again.

    Args:
        images: The test images of A and of B as they are stored, at least one of each.
        device: Where the scores are computed.
        paired: The n-th image of A and the n-th of B are a pair.
        features: A network for FID, KID, density and coverage; None leaves those out.
    """

    def __init__(
        self,
        images: tuple[Images, Images],
        device: torch.device,
        *,
        paired: bool = False,
        features: FeatureNetwork | None = None,
    ) -> None:
        a, b = images
        self.images: dict[Direction, Images] = {"AtoB": a, "BtoA": b}  # by the direction that they take
        self.targets: dict[Direction, Images] = {"AtoB": b, "BtoA": a}
        self.paired = paired
        of_B = SetComparison((b, a), device, features)
        self.comparable = a[0].shape[2] == b[0].shape[2]  # images of A with images of B
        of_A = of_B if self.comparable else SetComparison((a, b), device, features)
        self.sets: dict[Direction, SetComparison] = {"AtoB": of_B, "BtoA": of_A}  # in the space of the target
        self.real: dict[Direction, Summary] = {}  # of the targets, once they are needed
        self.of_untranslated: Scores | None = None  # the same

    def score(self, translate: Mapping[Direction, Callable[[], Iterable[Translated]]]) -> Scores:
        """Scores the translations that each of `translate` returns, of all images of its direction, in their order."""
        scores = [self._score_direction(direction, translated()) for direction, translated in translate.items()]
        return with_means(scores)

    def untranslated(self) -> Scores:
        """Scores the test images of each domain as if they were translations; none if A and B differ in channels."""
        if self.of_untranslated is None:
            scores = map(self._untranslated, DIRECTIONS) if self.comparable else []
            self.of_untranslated = with_means(scores)
        return self.of_untranslated

    def halves(self) -> Scores:
        """Scores a half of each domain's test images by the other half: what as good translations would reach at best.

        As half as many images are farther apart by chance, the limit itself lies a little lower.
        """
        return with_means(_named(d, *self.sets[d].compare_halves(self.targets[d])) for d in DIRECTIONS)

    def seem_swapped(self, scores: Scores, exchanged: Mapping[Direction, Callable[[], Iterable[Tensor]]]) -> bool:
        """Returns whether the images of A look like those that the generators know as B, and the other way round.

        Each generator then gets images that look like its results, and leaves them nearly as they are; and those of the
        other one come much nearer to the test images than these do, and than images that nobody translated, in both
        directions.

        Args:
            scores: Those of the translations.
            exchanged: Returns the translations [C', H, W] in [-1, 1] of all images of a direction, in their order, by
                the generator of the other direction.
        """
        return (
            self.comparable
            and set(exchanged) == set(DIRECTIONS)
            and all(self._is_much_nearer(direction, exchanged[direction](), scores) for direction in DIRECTIONS)
        )

    def _is_much_nearer(self, direction: Direction, exchanged: Iterable[Tensor], scores: Scores) -> bool:
        name, sets, real = f"swd_{direction}", self.sets[direction], self._real(direction).projections
        stored = [as_stored(image, self.targets[direction][0].dtype) for image in exchanged]
        found = sets.swd.distance(sets.swd.project(map(sets.load, stored), len(stored)), real)
        untranslated = sets.swd.distance(self._real(OPPOSITE[direction]).projections, real).value
        nearest = min(scores.values[name], untranslated)
        margin = 3 * (found.spread + scores.spreads[name])
        return found.value < SWAPPED_SHARE * nearest and nearest - found.value > margin

    def _untranslated(self, direction: Direction) -> Scores:
        scores = self._compare(direction, self._real(OPPOSITE[direction]))
        if self.paired:
            of_pairs: dict[str, list[float]] = {name: [] for name in PAIR_METRICS}
            for pair in zip(self.images[direction], self.targets[direction], strict=True):
                image, partner = map(self.sets[direction].load, pair)
                for name, metric in PAIR_METRICS.items():
                    of_pairs[name].append(metric(image, partner))
            scores.values.update({f"{name}_{direction}": fmean(values) for name, values in of_pairs.items()})
        return scores

    def _score_direction(self, direction: Direction, translated: Iterable[Translated]) -> Scores:
        stored = list[np.ndarray]()
        of_images: dict[str, list[float]] = {}
        for i, found in enumerate(translated):
            stored.append(as_stored(found.image, self.targets[direction][0].dtype))
            for name, value in self._score_image(direction, i, found, stored[i]).items():
                of_images.setdefault(f"{name}_{direction}", []).append(value)
        scores = self._compare(direction, self.sets[direction].summarise(stored))
        scores.values.update({name: fmean(values) for name, values in of_images.items()})
        return scores

    def _score_image(self, direction: Direction, i: int, found: Translated, stored: np.ndarray) -> dict[str, float]:
        """Scores the i-th translation by its input, its reconstructions and, as it is stored, its partner."""
        load = self.sets[direction].load
        source = load(self.images[direction][i])  # [C, H, W] in [0, 1]
        signed = source[None] * 2 - 1  # [1, C, H, W] in [-1, 1]
        scores = {"structure": float(gradient_correlation(signed, found.image[None]))}
        if found.reconstruction is not None:
            reconstruction = unit_range(found.reconstruction)
            scores |= {"cycle_l1": l1(reconstruction, source), "cycle_ssim": ssim(reconstruction, source)}
            if found.noise_reconstruction is not None:
                backs = found.reconstruction, found.noise_reconstruction
                scores["hidden"] = float(hidden_information(*(mean_error(error_map(signed, x[None])) for x in backs)))
        if self.paired:
            translation, partner = load(stored), load(self.targets[direction][i])
            scores |= {name: metric(translation, partner) for name, metric in PAIR_METRICS.items()}
        return scores

    def _compare(self, direction: Direction, summary: Summary) -> Scores:
        """Compares a set of images with the test images of the direction's target."""
        return _named(direction, *self.sets[direction].compare(summary, self._real(direction)))

    def _real(self, direction: Direction) -> Summary:
        if direction not in self.real:
            self.real[direction] = self.sets[direction].summarise(self.targets[direction])
        return self.real[direction]


def as_stored(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """Turns an image [C, H, W] in [-1, 1] into the pixels [H, W, C] of a file: rounded to 8 or 16 bits, or float32.

    An image with NaN, which no integer holds, is float32 in any case.
    """
    pixels = image.permute(1, 2, 0)
    if not np.issubdtype(dtype, np.integer) or image.isnan().any():
        return pixels.float().cpu().contiguous().numpy()
    levels = np.iinfo(dtype).max
    return (unit_range(pixels) * levels).round().int().cpu().contiguous().numpy().astype(dtype)


def with_features(protocol: str, features: FeatureNetwork | None, *counts: int) -> str:
    """Adds to a protocol which features are compared, and whether sets of so many images are too small for FID."""
    if features is None:
        return protocol
    few = f"; FID says little of fewer than {FEW_IMAGES} images: prefer KID" * (min(counts) < FEW_IMAGES)
    return f"{protocol}; {features.protocol}{few}"


def _named(direction: Direction, values: Mapping[str, float], spreads: Mapping[str, float]) -> Scores:
    """Scores of a direction, whose names end in it."""
    named = ({f"{name}_{direction}": value for name, value in found.items()} for found in (values, spreads))
    return Scores(*named)


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
