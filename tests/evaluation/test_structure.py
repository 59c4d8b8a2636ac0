"""Structure that two images share: references in float64 by other formulas, and images where nothing varies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from cyclegan_fast.evaluation.structure import gradient_correlation, luminance, mutual_information


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth ones, so that edges and brightness are related."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((count, channels, height, width)), (0, 0, 1.5, 1.5))
    return torch.from_numpy(np.clip(noise * 2, -1, 1)).float()


def reference_luminance(image: Tensor) -> np.ndarray:
    values = (image.double().numpy() + 1) / 2
    return np.tensordot([0.299, 0.587, 0.114], values, 1) if len(values) == 3 else values.mean(axis=0)


def reference_correlation(one: Tensor, two: Tensor) -> float:
    strengths = []
    for image in (one, two):
        brightness = reference_luminance(image)
        across, down = (ndimage.sobel(brightness, axis, mode="nearest") for axis in (0, 1))
        strengths.append(np.sqrt(across**2 + down**2).ravel())
    return float(np.corrcoef(strengths)[0, 1])


def entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def reference_information(one: Tensor, two: Tensor) -> float:
    """H(X) + H(Y) - H(X, Y)."""
    x, y = (reference_luminance(image).ravel() for image in (one, two))
    joint, _, _ = np.histogram2d(x, y, bins=32, range=[[0, 1], [0, 1]])
    return entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint.ravel())


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 33, 41), (1, 17, 16), (5, 9, 64), (2, 3, 2), (3, 1, 7)])
def test_equal_their_definitions_in_float64(channels: int, height: int, width: int) -> None:
    one, two = images(3, channels, height, width), images(3, 8 - channels, height, width, seed=1)
    two[:, 0] += one[:, 0]
    two.clamp_(-1, 1)
    found = gradient_correlation(one, two), mutual_information(one, two)
    assert all(values.dtype == torch.float64 and values.shape == (3,) for values in found)
    for i in range(3):
        assert float(found[0][i]) == pytest.approx(reference_correlation(one[i], two[i]), abs=1e-9)
        assert float(found[1][i]) == pytest.approx(reference_information(one[i], two[i]), abs=1e-9)


def test_an_image_shares_all_of_its_structure_with_itself_and_its_negative() -> None:
    one = images(2, 3, 40, 31)
    for other in (one, -one):
        assert gradient_correlation(one, other).tolist() == pytest.approx([1, 1])
    brightness = [np.histogram(reference_luminance(image), bins=32, range=(0, 1))[0] for image in one]
    assert mutual_information(one, one).tolist() == pytest.approx([entropy(counts) for counts in brightness])
    assert (mutual_information(one, -one) > 2).all()


def test_unrelated_images_share_none_but_the_stated_bias() -> None:
    one, two = torch.rand(4, 1, 256, 256) * 2 - 1, torch.rand(4, 1, 256, 256) * 2 - 1
    assert gradient_correlation(one, two).abs().max() < 0.02
    bias = 31 * 31 / (2 * np.log(2) * 256 * 256)  # of 32 bins in use on both sides
    assert mutual_information(one, two).tolist() == pytest.approx([bias] * 4, rel=0.2)


@pytest.mark.parametrize("value", [-1.0, 0.1, 1.0])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_constant_images_have_defined_values(channels: int, value: float) -> None:
    constant, varied = torch.full((1, channels, 13, 9), value), images(1, channels, 13, 9)
    assert gradient_correlation(constant, constant * 0.5).item() == 1
    assert gradient_correlation(constant, varied).item() == 0 == gradient_correlation(varied, constant).item()
    for pair in ((constant, constant), (constant, varied), (varied, constant)):
        assert mutual_information(*pair).item() == 0


def test_a_single_pixel_has_no_structure() -> None:
    one, two = torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1)
    assert gradient_correlation(one, two).item() == 1 and mutual_information(one, two).item() == 0


def test_nan_stays_nan_and_leaves_other_images_alone() -> None:
    one, two = images(3, 3, 12, 12), images(3, 3, 12, 12, seed=1)
    one[0, 1, 5, 5] = two[2, 0, 0, 0] = torch.nan
    for values in (gradient_correlation(one, two), mutual_information(one, two)):
        assert values.isnan().tolist() == [True, False, True]


def test_images_of_other_sizes_are_averaged_down() -> None:
    one = images(1, 3, 20, 24)
    large = one.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    assert gradient_correlation(one, large).item() == pytest.approx(1)
    assert mutual_information(large, one).item() == pytest.approx(mutual_information(one, one).item())


def test_luminance_is_that_of_bt601_or_the_mean() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    assert luminance(red).item() == pytest.approx(0.299)
    assert luminance(torch.cat([red, red[:, :2]], dim=1)).item() == pytest.approx(0.4)
    assert luminance(torch.full((1, 1, 1, 1), 3.0)).item() == 1  # beyond the range: as stored
