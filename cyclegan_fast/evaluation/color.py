"""The distance of two sets of images by their pixel values alone: whether colours and brightness are right."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_STEPS = 4 * 255  # of [0, 1]; exact for images of 8 bits


def value_distribution(images: Iterable[Tensor]) -> Tensor:
    """Counts the pixel values of a set of images [C, H, W] in [0, 1].

    Returns:
        The share of the pixels up to each value, float64 [C, 1021], on the CPU; NaN if a pixel is.
    """
    total: Tensor | None = None
    for image in images:
        counts = torch.stack([_count(channel) for channel in image]).cpu()
        total = counts if total is None else total + counts
    assert total is not None
    return total.cumsum(dim=1) / total.sum(dim=1, keepdim=True)


def value_distance(one: Tensor, two: Tensor) -> float:
    """Returns the Wasserstein-1 distance of two distributions of `value_distribution`, the mean over channels.

    0 is the same values equally often, 1 is black against white.
    """
    return float((one - two).abs().sum(dim=1).mean() / _STEPS)


def _count(channel: Tensor) -> Tensor:
    """Histogram of the values [H, W], float64 [1021]."""
    if channel.isnan().any():
        return torch.full((_STEPS + 1,), torch.nan, dtype=torch.float64, device=channel.device)
    steps = (channel.double() * _STEPS).round().clamp(0, _STEPS).long()
    return torch.bincount(steps.flatten(), minlength=_STEPS + 1).double()
