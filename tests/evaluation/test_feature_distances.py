"""FID, KID, density and coverage against their definitions, torchmetrics and scipy, in float64."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation.feature_distances import density_and_coverage, frechet_distance, kernel_distance


def features(count: int, size: int, *, shift: float = 0.0) -> Tensor:
    """Correlated features with means of their own, float64 [count, size]."""
    mixing = torch.rand(size, size, dtype=torch.float64) / math.sqrt(size)
    return torch.randn(count, size, dtype=torch.float64) @ mixing + shift * torch.rand(size, dtype=torch.float64)


def plain_fid(x: np.ndarray, y: np.ndarray) -> float:
    """As clean-fid computes it."""
    linalg = pytest.importorskip("scipy.linalg")
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    difference = x.mean(axis=0) - y.mean(axis=0)
    root = linalg.sqrtm(s1 @ s2)
    return float(difference @ difference + np.trace(s1) + np.trace(s2) - 2 * np.trace(root.real))


@pytest.mark.parametrize(("m", "n", "size"), [(200, 130, 24), (64, 65, 8), (70, 300, 37)])
def test_fid_equals_clean_fids_formula(m: int, n: int, size: int) -> None:
    x, y = features(m, size), features(n, size, shift=0.5)
    assert frechet_distance(x, y) == pytest.approx(plain_fid(x.numpy(), y.numpy()), rel=1e-6)


def test_fid_equals_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = features(150, 32), features(90, 32, shift=0.5)
    expected = fid._compute_fid(x.mean(dim=0), x.T.cov(), y.mean(dim=0), y.T.cov())
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)


def test_fid_of_fewer_images_than_features_is_exact() -> None:
    """In a rotated space the features fill, where the square roots are those of small full matrices."""
    small, other = features(200, 6), features(150, 6, shift=1.0)
    wide = torch.linalg.qr(torch.randn(400, 6, dtype=torch.float64)).Q  # orthonormal columns
    expected = frechet_distance(small, other)
    assert frechet_distance(small @ wide.T, other @ wide.T) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(small[:9] @ wide.T, other[:7] @ wide.T) == pytest.approx(
        frechet_distance(small[:9], other[:7]), rel=1e-9
    )


def test_fid_of_gaussians_of_one_dimension() -> None:
    x, y = torch.randn(50, 1, dtype=torch.float64), 3 * torch.randn(60, 1, dtype=torch.float64) + 2
    expected = float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)


def plain_mmd(x: Tensor, y: Tensor) -> float:
    """Image by image."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    within = [
        statistics.fmean(kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) for s in (x, y)
    ]
    return within[0] + within[1] - 2 * statistics.fmean(kernel(a, b) for a in x for b in y)


def test_kid_and_its_standard_error_equal_their_definitions() -> None:
    x, y = features(9, 5), features(7, 5, shift=1.0)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(plain_mmd(x, y), rel=1e-10)
    variance = 0.0
    for without in (
        [plain_mmd(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(len(x))],
        [plain_mmd(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(len(y))],
    ):
        variance += (len(without) - 1) * float(np.var(without))
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-8)


def test_kid_equals_torchmetrics_and_clean_fids_formula() -> None:
    x, y = features(60, 16), features(60, 16, shift=0.3)
    k = [((a @ b.T / 16 + 1) ** 3).numpy() for a, b in ((x, x), (y, y), (x, y))]
    t = (k[0] + k[1]).sum() - np.trace(k[0] + k[1])
    clean_fid = (t / 59 - k[2].sum() * 2 / 60) / 60
    assert kernel_distance(x, y).value == pytest.approx(clean_fid, rel=1e-6)
    kid = pytest.importorskip("torchmetrics.image.kid")
    assert kernel_distance(x, y).value == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-6)


def test_kid_has_no_bias_and_its_standard_error_is_right() -> None:
    """Of many pairs of sets of one distribution: the mean is 0, the spread what the standard errors say."""
    generator = torch.Generator().manual_seed(0)
    found = [
        kernel_distance(*(torch.randn(40, 8, dtype=torch.float64, generator=generator) for _ in range(2)))
        for _ in range(200)
    ]
    values = np.array([one.value for one in found])
    spread = values.std()
    assert abs(values.mean()) < 3 * spread / math.sqrt(len(values))
    assert 0.8 < np.mean([one.standard_error for one in found]) / spread < 1.6


def plain_density_and_coverage(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    radii = [sorted(float((a - b).norm()) for b in real)[k] for a in real]
    inside = [[float((a - b).norm()) < r for b in fake] for a, r in zip(real, radii, strict=True)]
    return sum(map(sum, inside)) / (k * len(fake)), statistics.fmean(any(row) for row in inside)


def test_density_and_coverage_equal_their_definitions() -> None:
    real, fake = features(30, 6), features(23, 6, shift=0.5)
    for nearest in (3, 5):
        expected = plain_density_and_coverage(fake, real, nearest)
        assert density_and_coverage(fake, real, nearest) == pytest.approx(expected, rel=1e-12)
    assert density_and_coverage(fake + 100, real) == (0, 0)
    collapsed = real[:1].expand(23, -1) + 1e-6  # in the neighbourhoods of a few
    density, coverage = density_and_coverage(collapsed, real)
    assert density > 0 and 0 < coverage < 0.7


def test_large_sets_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(23, 4), features(17, 4, shift=0.2)
    whole = kernel_distance(x, y), density_and_coverage(y, x)
    monkeypatch.setattr("cyclegan_fast.evaluation.feature_distances._CHUNK", 5)
    assert kernel_distance(x, y) == pytest.approx(whole[0]) and density_and_coverage(y, x) == pytest.approx(whole[1])


def test_nan_stays_nan() -> None:
    x = features(20, 4)
    bad = x.clone()
    bad[3, 2] = math.nan
    assert math.isnan(frechet_distance(x, bad)) and math.isnan(kernel_distance(bad, x).value)
    assert all(map(math.isnan, density_and_coverage(bad, x)))


def test_too_few_images_are_one_sentence() -> None:
    x = features(20, 4)
    for measure, count in ((frechet_distance, 1), (kernel_distance, 2)):
        with pytest.raises(UserError, match=f"needs at least {count + 1} images of each set, got {count} and 20"):
            measure(x[:count], x)
    with pytest.raises(UserError, match="density and coverage needs at least 6 images"):
        density_and_coverage(x, x[:5])
