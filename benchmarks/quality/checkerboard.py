"""A measure of the checkerboard that stride-2 transposed convolutions leave (Odena et al. 2016, distill.pub)."""

from __future__ import annotations

import torch
from torch import Tensor

NEARBY = (3, 4)  # bins from the peak, beyond what a Hann window spreads it over


def grid_energy(images: Tensor, period: int = 2) -> float:
    """Returns how far images of a set repeat every `period` pixels, beyond what their other details suggest.

    It is the power at the frequencies of that period (along x, along y and along both), over the power at frequencies
    nearby on the same line of the spectrum, geometrically averaged; the largest of the three, in the mean over images
    and channels. Photos have about 1. A pattern of amplitude a in noise of standard deviation s adds in the order of
    N a^2 / s^2, N being the number of pixels.

    Args:
        images: [N, C, S, S], S a multiple of `period` and at least 32.
        period: In pixels: 2 for the last transposed convolution, 4 for the one before.
    """
    side = images.shape[-1]
    if images.shape[-2] != side or side % period or side < 32:
        raise ValueError(f"images must be square, at least 32 pixels, and a multiple of {period}, got {images.shape}")
    window = torch.hann_window(side, dtype=torch.float64)
    detail = images.double() - images.double().mean(dim=(2, 3), keepdim=True)
    power = torch.fft.fft2(detail * window * window[:, None]).abs().square().mean(dim=(0, 1))  # [S, S]
    peak = side // period
    return float(torch.stack([_excess(power, peak, line) for line in ((0, 1), (1, 0), (1, 1))]).max())


def _excess(power: Tensor, peak: int, line: tuple[int, int]) -> Tensor:
    def at(frequency: int) -> Tensor:
        y, x = (frequency * step % len(power) for step in line)
        return power[y, x]

    around = [at(peak + sign * bins) for bins in NEARBY for sign in (1, -1)]
    return at(peak) / torch.stack(around).log().mean().exp()
