"""L1, PSNR, SSIM and the color distance against independent implementations in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cyclegan_fast.evaluation.color import value_distance, value_distribution
from cyclegan_fast.evaluation.similarity import l1, psnr, ssim


def plain_ssim(x: np.ndarray, y: np.ndarray, size: int = 11) -> float:
    """Wang et al. 2004, position by position: [C, H, W] in [0, 1]."""
    r = np.arange(size) - size // 2
    w = np.exp(-(r[:, None] ** 2 + r[None] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    values = []
    for a, b in zip(x, y, strict=True):
        for i in range(a.shape[0] - size + 1):
            for j in range(a.shape[1] - size + 1):
                p, q = a[i : i + size, j : j + size], b[i : i + size, j : j + size]
                mp, mq = (w * p).sum(), (w * q).sum()
                vp, vq, cov = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(3, 24, 17), (1, 11, 13), (5, 30, 12)])
def test_ssim_equals_the_paper(shape: tuple[int, int, int]) -> None:
    x = torch.rand(shape)
    y = (x + 0.3 * torch.rand(shape)).clamp(0, 1)
    assert ssim(x, y) == pytest.approx(plain_ssim(x.double().numpy(), y.double().numpy()), abs=1e-10)
    assert ssim(x, x) == pytest.approx(1, abs=1e-12)
    assert ssim(x, y) == pytest.approx(ssim(y, x), abs=1e-12)


def test_ssim_of_images_below_11_pixels_takes_a_smaller_kernel() -> None:
    x, y = torch.rand(3, 8, 20), torch.rand(3, 8, 20)
    assert ssim(x, y) == pytest.approx(plain_ssim(x.double().numpy(), y.double().numpy(), size=7), abs=1e-10)
    assert ssim(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)) == pytest.approx(1e-4 / (1 + 1e-4))


def test_l1_and_psnr() -> None:
    x, y = torch.rand(3, 9, 7), torch.rand(3, 9, 7)
    difference = x.double().numpy() - y.double().numpy()
    assert l1(x, y) == pytest.approx(np.abs(difference).mean(), rel=1e-12)
    assert psnr(x, y) == pytest.approx(-10 * math.log10((difference**2).mean()), rel=1e-12)
    assert psnr(x, x) == 100
    assert all(math.isnan(metric(x, x * math.nan)) for metric in (l1, psnr, ssim))


def test_similarity_falls_with_noise() -> None:
    x, noise = torch.rand(3, 32, 32), torch.randn(3, 32, 32)
    noisy = [x + level * noise for level in (0, 0.01, 0.05, 0.2)]
    for metric, order in ((l1, 1), (psnr, -1), (ssim, -1)):
        values = [metric(x, y) for y in noisy]
        assert values == sorted(values, reverse=order < 0) and len(set(values)) == 4


def test_color_distance_is_the_wasserstein_distance_of_the_values() -> None:
    one = [torch.randint(256, (3, 6, 8)) / 255 for _ in range(4)]
    two = [torch.randint(100, (3, 8, 6)) / 255 for _ in range(4)]
    channels = [
        np.abs(
            np.sort(torch.stack([x[c].flatten() for x in one]).double().numpy().ravel())
            - np.sort(torch.stack([x[c].flatten() for x in two]).double().numpy().ravel())
        ).mean()
        for c in range(3)
    ]
    found = value_distance(value_distribution(one), value_distribution(two))
    assert found == pytest.approx(np.mean(channels), rel=1e-6)
    assert value_distance(value_distribution(one), value_distribution([x.flip(1) for x in one[::-1]])) == 0


def test_color_distance_of_black_and_white_is_1_and_nan_stays_nan() -> None:
    black, white = torch.zeros(1, 4, 4), torch.ones(1, 5, 3)
    assert value_distance(value_distribution([black]), value_distribution([white, white])) == pytest.approx(1)
    assert math.isnan(value_distance(value_distribution([black]), value_distribution([white, white * math.nan])))
