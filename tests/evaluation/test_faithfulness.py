"""Faithfulness of translations: errors against float64, and what honest and deceiving generators get."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.evaluation.faithfulness import (
    MEAN_NOISE,
    SCORES,
    as_8bit,
    as_jpeg,
    error_map,
    hidden_information,
    mean_error,
    measure,
    with_noise,
)


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator) * 2 - 1


def unchanged(values: Tensor) -> Tensor:
    """A generator."""
    return values


def smooth(count: int, channels: int, height: int, width: int) -> Tensor:
    """Such as JPEG changes little."""
    x, y = torch.linspace(0, 3, width), torch.linspace(0, 2, height)[:, None]
    phases = torch.arange(count * channels).view(count, channels, 1, 1)
    return torch.sin(x + y + phases)


@pytest.mark.parametrize("shape", [(2, 3, 17, 23), (1, 1, 8, 8), (3, 5, 7, 1)])
def test_errors_are_mean_absolute_differences(shape: tuple[int, ...]) -> None:
    one, two = images(*shape), images(*shape, seed=1)
    difference = np.abs(one.double().numpy() - two.double().numpy()) / 2
    errors = error_map(one, two)
    assert errors.shape == (shape[0], 1, *shape[2:])
    assert np.allclose(errors[:, 0], difference.mean(axis=1), atol=1e-6)
    assert np.allclose(mean_error(errors), difference.mean(axis=(1, 2, 3)), atol=1e-7)


def test_rounding_to_8_bits_is_that_of_a_file() -> None:
    image = images(2, 3, 9, 11) * 1.2
    levels = np.clip(np.rint((image.double().numpy() + 1) * 127.5), 0, 255)
    assert np.allclose(as_8bit(image), levels / 127.5 - 1, atol=1e-6)
    assert torch.equal(as_8bit(as_8bit(image)), as_8bit(image))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_jpeg_is_that_of_pillow(channels: int) -> None:
    image = images(2, channels, 19, 26)
    stored = as_jpeg(image)
    levels = ((as_8bit(image) + 1) * 127.5).round().to(torch.uint8)
    planes = levels if channels == 3 else levels.flatten(0, 1)[:, None]
    for plane, found in zip(planes, stored if channels == 3 else stored.flatten(0, 1)[:, None], strict=True):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(plane.permute(1, 2, 0).numpy().squeeze())).save(file, "JPEG", quality=90)
        reread = np.array(Image.open(file)).reshape(19, 26, -1)
        assert np.array_equal(((found + 1) * 127.5).round().permute(1, 2, 0).numpy(), reread)


def test_noise_is_of_2_levels_and_the_same_in_every_batch() -> None:
    image = images(3, 3, 256, 256)
    noise = (with_noise(image) - image).double() * 127.5  # in levels
    assert noise.std().item() == pytest.approx(2, rel=0.01) and abs(noise.mean().item()) < 0.02
    assert noise.abs().mean().item() / 255 == pytest.approx(MEAN_NOISE, rel=0.01)
    assert torch.equal(with_noise(image)[1:2], with_noise(image[1:2]))


def test_the_hidden_score_is_defined_for_perfect_cycles() -> None:
    cycle = torch.tensor([0.0, MEAN_NOISE / 2, 0.1, math.nan], dtype=torch.float64)
    scores = hidden_information(cycle, torch.tensor([0.0, 2 * MEAN_NOISE, 0.3, 0.1], dtype=torch.float64))
    assert scores[:3].tolist() == pytest.approx([0, 2, 3]) and scores[3].isnan()


def test_an_honest_inverse_hides_nothing() -> None:
    image = smooth(3, 3, 41, 33)
    found = measure(image, -image, torch.neg, torch.neg)
    assert found.cycle.tolist() == [0, 0, 0]
    assert found.hidden.tolist() == pytest.approx([1] * 3, rel=0.05)
    assert (found.after_8bit <= 0.5 / 255 + 1e-9).all() and (found.after_jpeg < 2 / 255).all()
    assert found.gradient_correlation.tolist() == pytest.approx([1] * 3)
    blurred = measure(image, image, unchanged, lambda translations: translations * 0.9)
    assert (blurred.hidden + 0.01 >= 1).all() and (blurred.hidden < math.sqrt(2)).all()


def embed(images: Tensor) -> Tensor:
    """A translation that shows the same gray to everybody, and holds its input in less than half a level."""
    return images * (0.4 / 127.5)


def extract(translations: Tensor) -> Tensor:
    return (translations * (127.5 / 0.4)).clamp(-1, 1)


def test_a_cycle_that_hides_its_input_in_invisible_patterns_is_found() -> None:
    image = images(2, 3, 24, 31)
    found = measure(image, embed(image), embed, extract)
    assert found.cycle.max() < 1e-6  # which is all that training asks for
    assert (found.hidden > 50).all()
    for errors in (found.after_8bit, found.after_jpeg, found.after_noise):
        assert (errors > 0.2).all()


def test_patterns_that_8_bits_keep_are_lost_in_noise_and_jpeg() -> None:
    """The input's highest bit in the lowest one of the translation."""
    image = torch.where(images(2, 3, 32, 32) > 0, 1.0, -1.0)
    found = measure(
        image,
        (128 + (image > 0).float()) / 127.5 - 1,
        lambda images: (128 + (images > 0).float()) / 127.5 - 1,
        lambda translations: torch.where(((translations + 1) * 127.5).round() % 2 == 1, 1.0, -1.0),
    )
    assert found.after_8bit.max() == 0 and (found.after_noise > 0.3).all() and (found.after_jpeg > 0.1).all()
    assert (found.hidden > 50).all()


def test_the_map_shows_where_something_was_painted_in() -> None:
    image = smooth(1, 3, 32, 40)
    painted = image.clone()
    painted[:, :, 5:12, 20:30] = 1.0
    error = measure(image, painted, unchanged, unchanged).error[0, 0]
    inside = torch.zeros(32, 40, dtype=torch.bool)
    inside[5:12, 20:30] = True
    assert error[~inside].max() == 0 and error[inside].mean() > 0.1


def test_constant_images_have_defined_values() -> None:
    for value in (-1.0, 0.0, 1.0):
        constant = torch.full((1, 3, 16, 16), value)
        found = measure(constant, constant, unchanged, unchanged)
        numbers = torch.cat(found[: len(SCORES)])
        assert numbers.isfinite().all()
        assert found.cycle == 0 and found.gradient_correlation == 1 and found.mutual_information == 0


def test_nan_stays_nan_in_its_image_alone() -> None:
    image, translation = images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    translation[0, 0, 3, 3] = math.nan
    found = measure(image, translation, unchanged, unchanged)
    for numbers in found[: len(SCORES)]:
        assert numbers.isnan().tolist() == [True, False]


def test_other_channels_and_sizes_than_the_inputs() -> None:
    image = images(2, 5, 12, 14)

    def generator(values: Tensor) -> Tensor:
        return values[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)

    found = measure(
        image,
        images(2, 1, 24, 28),
        generator,
        lambda translations: translations[:, :, ::2, ::2].expand(-1, 5, -1, -1),
    )
    assert found.noise_error.shape == (2, 1, 12, 14) and found.retranslation_error.shape == (2, 1, 24, 28)
    assert torch.cat(found[: len(SCORES)]).isfinite().all()
    with pytest.raises(ValueError, match=r"shape \[2, 1, 12, 14\] for images of \[2, 5, 12, 14\]"):
        measure(image, image[:, :1], unchanged, unchanged)


def test_a_known_reconstruction_saves_a_pass() -> None:
    image, calls = images(1, 3, 9, 9), []

    def inverse(translations: Tensor) -> Tensor:
        calls.append(1)
        return translations * 0.5

    first = measure(image, image, unchanged, inverse)
    again = measure(image, image, unchanged, inverse, reconstructions=image * 0.5)
    assert len(calls) == 4 + 3
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


def test_what_the_reconstruction_does_not_repeat_is_found() -> None:
    image = images(2, 3, 10, 14)

    def painted(values: Tensor) -> Tensor:
        """In the left half a tree wherever the last digit of a value is odd."""
        trees = (values * 1000).int() % 2 == 1
        trees[..., 7:] = False
        return torch.where(trees, 1.0, values * 0.5)

    def inverse(translations: Tensor) -> Tensor:
        return torch.where(translations > 0.9, 0.2004, translations * 2)

    first = painted(image)
    found = measure(image, first, painted, inverse)
    difference = np.abs(first.numpy() - painted(found.noise_reconstruction).numpy()).mean(axis=1) / 2
    assert np.allclose(found.retranslation_error[:, 0], difference, atol=1e-6)
    assert np.allclose(found.retranslated, difference.mean(axis=(1, 2)), atol=1e-6)
    assert found.retranslation_error[..., 7:].max() < 0.03  # noise of 2 levels
    invented = (first == 1.0).any(dim=1, keepdim=True)
    assert invented.any() and found.retranslation_error[invented].mean() > 0.1
    with pytest.raises(ValueError, match="shape"):
        measure(image, image, lambda values: values[..., :-1], unchanged)
