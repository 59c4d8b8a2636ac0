"""How similar two images of the same scene are: L1, PSNR and SSIM, on values in [0, 1]."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

MAX_PSNR = 100.0  # dB, of images that are equal
_WINDOW, _SIGMA = 11, 1.5  # pixels; Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2


def l1(one: Tensor, two: Tensor) -> float:
    """Returns the mean absolute difference of two images [C, H, W]."""
    return float((one.double() - two.double()).abs().mean())


def psnr(one: Tensor, two: Tensor) -> float:
    """Returns the peak signal-to-noise ratio of two images [C, H, W] in dB, at most 100."""
    error = float((one.double() - two.double()).square().mean())
    return min(MAX_PSNR, -10 * math.log10(error)) if error > 0 else MAX_PSNR if error == 0 else math.nan


def ssim(one: Tensor, two: Tensor) -> float:
    """Returns the mean structural similarity of two images [C, H, W] (Wang, Bovik, Sheikh and Simoncelli 2004).

    With the paper's Gaussian weights of 11x11 pixels and its constants, over the positions where they fit into the
    image, and over the channels. Images with a shorter side take the largest odd kernel size that fits.
    """
    x, y = one.double(), two.double()
    means = _smooth(torch.stack([x, y, x * x, y * y, x * y]))  # [5, C, h, w]
    mean_x, mean_y = means[0], means[1]
    var_x, var_y, covariance = means[2] - mean_x**2, means[3] - mean_y**2, means[4] - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float((luminance * structure).mean())


PAIR_METRICS = {"l1": l1, "psnr": psnr, "ssim": ssim}  # of a translation and its partner


def _smooth(values: Tensor) -> Tensor:
    """Weights [..., H, W] by the Gaussian along both axes, without padding; by shifts, so without cuDNN."""
    size = min(_WINDOW, *(side - 1 + side % 2 for side in values.shape[-2:]))
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    bell = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = (bell / bell.sum()).tolist()
    for axis in (-2, -1):
        length = values.shape[axis] - size + 1
        parts = [weight * values.narrow(axis, i, length) for i, weight in enumerate(weights)]
        values = functools.reduce(torch.add, parts)
    return values
