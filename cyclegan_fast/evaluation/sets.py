"""Distances of two sets of images, however many and whatever they show: swd, color, and those of features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.evaluation.color import value_distance, value_distribution
from cyclegan_fast.evaluation.feature_distances import (
    FEW_IMAGES,
    NEAREST,
    density_and_coverage,
    frechet_distance,
    kernel_distance,
)
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.sliced_wasserstein import SlicedWasserstein
from cyclegan_fast.images.tensors import as_tensor, to_model_range
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

Images = Sequence[np.ndarray]  # [H, W, C] each: uint8, uint16, or float32 in [-1, 1]
Values = dict[str, float]  # by the name of a metric


class Summary(NamedTuple):
    """What a set of images is compared by."""

    projections: list[Tensor]
    values: Tensor
    features: Tensor | None
    """float64 [N, D]"""


class SetComparison:
    """Compares sets of images of equally many channels.

    Args:
        sets: All that are to be compared, at least one image in each.
        device: Where that is computed.
        features: A network for the distances of features; None leaves those out.
    """

    def __init__(self, sets: Sequence[Images], device: torch.device, features: FeatureNetwork | None = None) -> None:
        self.device, self.features = device, features
        sides = [side for images in sets for image in images for side in image.shape[:2]]
        self.swd = SlicedWasserstein(channels=sets[0][0].shape[2], min_side=min(sides), images=max(map(len, sets)))

    def summarise(self, images: Images) -> Summary:
        """Computes what a set is compared by."""
        projections = self.swd.project(map(self.load, images), len(images))
        features = None if self.features is None else self.features.extract(map(self.load, images))
        return Summary(projections, value_distribution(map(self.load, images)), features)

    def compare(self, images: Summary, real: Summary) -> tuple[Values, Values]:
        """Returns the distances of a set to a real one, and how uncertain some are; warns of too few for FID."""
        if images.features is not None and real.features is not None:
            fewest = min(len(images.features), len(real.features))
            if fewest < FEW_IMAGES:
                warn_once(log, f"FID of {fewest} images says little, as it is far too high with few: prefer KID")
        return self._distances(images, real)

    def compare_halves(self, images: Images) -> tuple[Values, Values]:
        """Compares every second image of a set with the others; nothing where there is but one.

        They are a yardstick for `compare`, which warns of too few images.
        """
        if len(images) < 2:
            return {}, {}
        return self._distances(self.summarise(images[1::2]), self.summarise(images[::2]))

    def _distances(self, images: Summary, real: Summary) -> tuple[Values, Values]:
        distance = self.swd.distance(images.projections, real.projections)
        values = {"swd": distance.value, "color": value_distance(images.values, real.values)}
        spreads = {"swd": distance.spread}
        if images.features is not None and real.features is not None:
            _add_features(images.features, real.features, values, spreads)
        return values, spreads

    def load(self, pixels: np.ndarray) -> Tensor:
        """Returns stored pixels [H, W, C] as [C, H, W] in [0, 1]."""
        return unit_range(to_model_range(as_tensor(pixels)[None].to(self.device))[0])


def _add_features(fake: Tensor, real: Tensor, values: Values, spreads: Values) -> None:
    """Adds what as many images allow."""
    fewest = min(len(fake), len(real))
    if fewest >= 2:
        values["fid"] = frechet_distance(fake, real)
    if fewest >= 3:
        values["kid"], spreads["kid"] = kernel_distance(fake, real)
    if len(real) > NEAREST:
        values["density"], values["coverage"] = density_and_coverage(fake, real)


def unit_range(image: Tensor) -> Tensor:
    """Turns [-1, 1] into float32 in [0, 1]; what lies outside is clipped, as in a file."""
    return ((image.float() + 1) / 2).clamp(0, 1)
