"""The sliced Wasserstein distance against an independent implementation in float64, and its order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclegan_fast.evaluation.laplacian_pyramid import count_levels, laplacian_pyramid
from cyclegan_fast.evaluation.sliced_wasserstein import Distance, SlicedWasserstein


def smooth_images(count: int, shape: tuple[int, int, int], seed: int, *, coarse: int = 6) -> list[Tensor]:
    """Random images with details at several scales, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, *shape)
    for side in (coarse, 3 * coarse):
        noise = torch.rand(count, shape[0], side, side, generator=generator)
        images += torch.nn.functional.interpolate(noise, size=shape[1:], mode="bicubic") / 2
    return list(images.clamp(0, 1))


def distance(one: Sequence[Tensor], two: Sequence[Tensor]) -> Distance:
    shapes = [image.shape for image in (*one, *two)]
    min_side = min(side for shape in shapes for side in shape[1:])
    swd = SlicedWasserstein(channels=shapes[0][0], min_side=min_side, images=max(len(one), len(two)))
    return swd.distance(swd.project(one, len(one)), swd.project(two, len(two)))


def blur(image: np.ndarray) -> np.ndarray:
    """5x5 binomial filter of [H, W], pixel by pixel."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    padded = np.pad(image, 2, mode="reflect")
    return np.array(
        [[(padded[i : i + 5, j : j + 5] * kernel).sum() for j in range(image.shape[1])] for i in range(image.shape[0])]
    )


def plain_pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Levels of [C, H, W], by the definition."""
    found = []
    for _ in range(levels - 1):
        small = np.stack([blur(channel)[::2, ::2] for channel in image])
        spread = np.zeros_like(image)
        spread[:, ::2, ::2] = small
        found.append(image - np.stack([4 * blur(channel) for channel in spread]))
        image = small
    return [*found, image]


def plain_distance(one: list[np.ndarray], two: list[np.ndarray], swd: SlicedWasserstein) -> np.ndarray:
    """Distances [levels, repeats], patch by patch in float64."""
    found = np.zeros((swd.levels, len(swd.positions)))
    for level in range(swd.levels):
        for repeat in range(len(found[0])):
            sets = []
            for images in (one, two):
                pyramids = [plain_pyramid(image, swd.levels)[level] for image in images]
                patches = []
                for k in range(swd.patches):
                    detail = pyramids[k % len(images)]
                    y, x = (
                        int(u * (side - 6))
                        for u, side in zip(swd.positions[repeat, level, k], detail.shape[1:], strict=True)
                    )
                    patches.append(detail[:, y : y + 7, x : x + 7])
                block = np.stack(patches)
                block = block - block.mean(axis=(0, 2, 3), keepdims=True)
                block = block / block.std(axis=(0, 2, 3), keepdims=True)
                sets.append(np.sort(block.reshape(len(block), -1) @ swd.directions[repeat, level].numpy().T, axis=0))
            found[level, repeat] = 1000 * np.abs(sets[0] - sets[1]).mean()
    return found


@pytest.mark.parametrize("shape", [(3, 32, 35), (1, 33, 47), (5, 19, 17)])
def test_equals_the_definition_in_float64(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.evaluation.sliced_wasserstein.PATCHES_PER_IMAGE", 20)
    monkeypatch.setattr("cyclegan_fast.evaluation.sliced_wasserstein.DIRECTIONS_PER_REPEAT", 16)
    seed = int(torch.randint(2**31, ()))
    one, two = smooth_images(3, shape, seed), smooth_images(2, shape, seed + 1, coarse=4)
    swd = SlicedWasserstein(channels=shape[0], min_side=min(shape[1:]), images=3)
    found = swd.distance(swd.project(one, 3), swd.project(two, 2))
    expected = plain_distance([x.double().numpy() for x in one], [x.double().numpy() for x in two], swd)
    assert found.levels == pytest.approx(expected.mean(axis=1).tolist(), rel=1e-4)
    assert found.value == pytest.approx(expected.mean(), rel=1e-4)
    assert found.spread == pytest.approx(expected.mean(axis=0).std(ddof=1), rel=1e-3)


def test_a_set_is_at_0_from_itself_and_farther_the_more_noise_is_added() -> None:
    images = smooth_images(6, (3, 40, 40), seed=1)
    noise = smooth_images(6, (3, 40, 40), seed=2, coarse=13)
    found = [
        distance(images, [x + level * n for x, n in zip(images, noise, strict=True)])
        for level in (0, 0.05, 0.1, 0.2, 0.4)
    ]
    values = [one.value for one in found]
    assert values[0] == found[0].spread == 0
    for near, far in itertools.pairwise(found):
        assert far.value - near.value > 3 * max(far.spread, near.spread)


def test_other_images_of_the_same_kind_are_nearer_than_those_of_another_kind() -> None:
    images = smooth_images(24, (3, 48, 48), seed=3)
    same = distance(images[:12], images[12:])
    other = distance(images[:12], smooth_images(12, (3, 48, 48), seed=4, coarse=24))
    assert same.value > 0
    assert other.value - same.value > 5 * (same.spread + other.spread)


def test_the_same_number_every_time_and_nothing_of_torchs_random_numbers_is_used() -> None:
    one, two = smooth_images(4, (3, 32, 32), seed=5), smooth_images(3, (3, 32, 32), seed=6)
    before = torch.random.get_rng_state()
    assert distance(one, two) == distance(one, two)
    assert torch.equal(before, torch.random.get_rng_state())
    assert distance(one, two).value == pytest.approx(distance(two, one).value, rel=1e-12)


def test_constant_images_are_far_from_others_and_nan_stays_nan() -> None:
    images = smooth_images(4, (1, 32, 32), seed=7)
    collapsed = [torch.full((1, 32, 32), 0.5)] * 4
    assert distance(images, collapsed).value > 300
    assert distance(collapsed, collapsed).value == 0
    assert np.isnan(distance(images, [*images[:3], torch.full((1, 32, 32), torch.nan)]).value)


def test_levels_go_down_to_16_pixels() -> None:
    assert [count_levels(side) for side in (7, 16, 30, 31, 32, 64, 256, 1024)] == [1, 1, 1, 2, 2, 3, 5, 7]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 45, 37)])
def test_the_levels_of_a_pyramid_add_up_to_the_image(shape: tuple[int, int, int]) -> None:
    image = torch.rand(shape, dtype=torch.float64)
    found = laplacian_pyramid(image, 2)
    for level, expected in zip(found, plain_pyramid(image.numpy(), 2), strict=True):
        torch.testing.assert_close(level, torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert laplacian_pyramid(torch.full(shape, 0.3, dtype=torch.float64), 2)[0].abs().max() < 1e-12
