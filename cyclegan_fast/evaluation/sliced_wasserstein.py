"""The sliced Wasserstein distance of two sets of images (Karras et al. 2018, section 5).

Patches of 7x7 pixels are drawn from each level of the images' Laplacian pyramids. Those of a set are normalised by
their mean and standard deviation in each channel, then projected onto random directions, and along each direction the
distance of the two sets is that of their sorted values. Details are as in the authors' code: 128 patches per image and
level, 4 repeats of 128 directions, the mean over levels, times 1000.

What differs, since test sets here are small (the authors' have 8,192 images):
- patches and directions are drawn from a fixed seed, and for both sets at the same relative positions: the same images
  give the same number, and a set is at distance 0 from itself;
- each repeat draws other patches, too, so that the spread over repeats includes that of the patches;
- both sets give equally many patches, however many images they have: 128 for each image of the larger set, and at most
  32,768 of a level;
- a channel that is constant stays 0 where the authors' code divides 0 by 0;
- sides need not be powers of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.evaluation.laplacian_pyramid import count_levels, laplacian_pyramid

PATCH = 7  # pixels
PATCHES_PER_IMAGE, MAX_PATCHES = 128, 2**15
DIRECTIONS_PER_REPEAT = 128
REPEATS = 4
SEED = 0
UNIT = 1000.0  # distances are stated times this, as in the paper


class Distance(NamedTuple):
    """A distance of two sets of images, times 1000."""

    value: float
    """The mean over levels and repeats."""
    spread: float
    """Standard deviation over the repeats."""
    levels: list[float]
    """The mean over repeats of each level, the finest first."""


class SlicedWasserstein:
    """Measures sliced Wasserstein distances of sets of images, all with the same patches and directions.

    Args:
        channels: Channels of the images.
        min_side: The shortest side of all images, in pixels, at least 7.
        images: Images of the largest set.
    """

    def __init__(self, *, channels: int, min_side: int, images: int) -> None:
        self.levels = count_levels(min_side)
        self.patches = min(images * PATCHES_PER_IMAGE, MAX_PATCHES)
        self.channels = channels
        rng = np.random.default_rng(SEED)
        self.positions = rng.random((REPEATS, self.levels, self.patches, 2))  # of the room that a patch has
        directions = rng.standard_normal((REPEATS, self.levels, DIRECTIONS_PER_REPEAT, channels * PATCH**2))
        self.directions = torch.from_numpy(directions / np.linalg.norm(directions, axis=-1, keepdims=True))

    def project(self, images: Iterable[Tensor], count: int) -> list[Tensor]:
        """Projects the patches of a set onto the directions.

        Args:
            images: [C, H, W] each, float, of any scale; they are used one after the other.
            count: How many there are, at least 1.

        Returns:
            For each level the sorted values along each direction, float32 [repeats, directions, patches].
        """
        drawn: list[list[Tensor]] = [[] for _ in range(self.levels)]
        for number, image in enumerate(images):
            for level, detail in enumerate(laplacian_pyramid(image.float(), self.levels)):
                drawn[level].append(self._draw(detail, self.positions[:, level, number::count]))
        return [self._sorted(level, torch.cat(parts, dim=1)) for level, parts in enumerate(drawn)]

    def distance(self, one: list[Tensor], two: list[Tensor]) -> Distance:
        """Measures the distance of two sets from what `project` returned for each."""
        by_level = torch.stack(
            [(a - b).abs().mean(dim=(1, 2), dtype=torch.float64) for a, b in zip(one, two, strict=True)]
        )
        by_level = UNIT * by_level.cpu()  # [levels, repeats]
        repeats = by_level.mean(dim=0)
        return Distance(float(repeats.mean()), float(repeats.std()), by_level.mean(dim=1).tolist())

    def _draw(self, detail: Tensor, positions: np.ndarray) -> Tensor:
        """Cuts the patches out of a level [C, H, W] at the relative positions [repeats, n, 2]: [repeats, n, C * 49]."""
        room = np.array(detail.shape[1:]) - PATCH + 1
        corners = torch.from_numpy((positions * room).astype(np.int64)).to(detail.device)  # [repeats, n, 2]
        windows = detail.unfold(1, PATCH, 1).unfold(2, PATCH, 1)  # [C, H - 6, W - 6, 7, 7], a view
        cut = windows[:, corners[..., 0], corners[..., 1]]  # [C, repeats, n, 7, 7]
        return cut.permute(1, 2, 0, 3, 4).flatten(2)

    def _sorted(self, level: int, patches: Tensor) -> Tensor:
        """Normalises the patches [repeats, n, C * 49] of a level and sorts their projections: [repeats, directions, n].

        In float64 up to the projection, which neither TF32 nor autocast then changes.
        """
        directions = self.directions[:, level].to(patches.device)
        projected = []
        for repeat in range(REPEATS):
            values = patches[repeat].double().unflatten(1, (self.channels, PATCH**2))
            std, mean = torch.std_mean(values, dim=(0, 2), correction=0, keepdim=True)
            normalised = ((values - mean) / torch.where(std == 0, 1.0, std)).flatten(1)
            projected.append((directions[repeat] @ normalised.T).float().sort(dim=1).values)
        return torch.stack(projected)
