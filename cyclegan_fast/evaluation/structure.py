"""Whether two images show the same structure, whatever their colors: edges, and brightness pixel by pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

BINS = 32  # of brightness, for the mutual information
_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601


def luminance(images: Tensor) -> Tensor:
    """Returns the brightness on the scale from 0 to 1, float64 [N, 1, H, W]: BT.601 of 3 channels, else their mean."""
    values = (images.double().clamp(-1, 1) + 1) / 2
    if images.shape[1] != 3:
        return values.mean(dim=1, keepdim=True)
    red, green, blue = values.split(1, dim=1)
    return _RGB[0] * red + _RGB[1] * green + _RGB[2] * blue


def gradient_correlation(one: Tensor, two: Tensor) -> Tensor:
    """Correlates the strengths of the edges of images [N, C, H, W] and [N, C', H', W'].

    The correlation coefficient of the magnitudes of Sobel's gradients of luminance, over all pixels (those at the
    border as if it were repeated). Magnitudes: an edge is one whichever of its sides is the brighter. If the sizes
    differ, the larger image is averaged down to the size of the other one.

    Returns:
        float64 [N] on the CPU, from -1 to 1. Where the strength is the same everywhere, as in a constant image, there
        is nothing to correlate: 1 if both images are so, 0 if one is. NaN if a pixel is.
    """
    x, y = (edge_strength(image).flatten(1) for image in _same_size(one, two))  # [N, H * W]
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    norm_x, norm_y = x.norm(dim=1), y.norm(dim=1)
    flat_x, flat_y = norm_x < 1e-9, norm_y < 1e-9
    correlation = (x * y).sum(dim=1) / (norm_x * norm_y).clamp(min=1e-18)
    correlation = torch.where(flat_x | flat_y, (flat_x & flat_y).double(), correlation.clamp(-1, 1))
    return torch.where((norm_x + norm_y).isnan(), torch.nan, correlation).cpu()


def edge_strength(images: Tensor) -> Tensor:
    """Returns the magnitude of Sobel's gradient of luminance, float64 [N, 1, H, W]."""
    padded = functional.pad(luminance(images), (1, 1, 1, 1), mode="replicate")
    across = _blur(padded[..., 2:] - padded[..., :-2], -2)
    down = _blur(padded[..., 2:, :] - padded[..., :-2, :], -1)
    return torch.hypot(across, down)


def mutual_information(one: Tensor, two: Tensor) -> Tensor:
    """Estimates the mutual information of the luminance of images [N, C, H, W] and [N, C', H', W'], pixel by pixel.

    Out of the joint histogram of 32 x 32 bins. It is 0 if the brightness of a pixel says nothing about that of the
    other image there, and the entropy of the image if it says all, 5 bits at most. The estimate is too high by about
    (I - 1)(J - 1) / (2 ln 2 N) bits for I and J bins in use and N pixels: by up to 0.17 bits with 64x64 pixels, 0.01
    with 256x256. So it compares images of one size.

    Returns:
        float64 [N] in bits, on the CPU; 0 of constant images, NaN if a pixel is.
    """
    x, y = map(luminance, _same_size(one, two))
    return torch.tensor([_information(*pair) for pair in zip(x, y, strict=True)], dtype=torch.float64)


def _information(x: Tensor, y: Tensor) -> float:
    """Of the pixels of two images [1, H, W] in [0, 1]."""
    if x.isnan().any() or y.isnan().any():
        return math.nan
    low, high = ((values * BINS).long().clamp(max=BINS - 1).flatten() for values in (x, y))
    joint = torch.bincount(low * BINS + high, minlength=BINS * BINS).double().view(BINS, BINS)  # whole numbers: exact
    products = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    used = joint > 0
    terms = joint[used] * (joint[used] * x.numel() / products[used]).log2()
    return max(0.0, float(terms.sum()) / x.numel())


def _blur(values: Tensor, axis: int) -> Tensor:
    """Weights 1, 2, 1 by 1/4, along an axis that becomes shorter by 2."""
    length = values.shape[axis] - 2
    one, two, three = (values.narrow(axis, start, length) for start in range(3))
    return (one + 2 * two + three) / 4


def _same_size(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Averages the larger one down."""
    height, width = (min(sides) for sides in zip(one.shape[2:], two.shape[2:], strict=True))
    first, second = (
        functional.interpolate(image.float(), (height, width), mode="area")
        if image.shape[2:] != (height, width)
        else image
        for image in (one, two)
    )
    return first, second
