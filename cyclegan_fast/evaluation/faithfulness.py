"""How far a translation can be trusted to show what its input shows: numbers and maps, without any truth.

The cycle error alone proves little: a generator may hide its input in patterns that nobody sees, and read them back
(Chu, Zhmoginov and Sandler 2017, "CycleGAN, a master of steganography"). Such patterns do not survive a file of 8 bits,
a JPEG, or a little noise, so the reconstruction is also made of translations that went through those.

All errors are mean absolute differences on the scale from 0 to 1; images are [N, C, H, W] in [-1, 1].
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.evaluation.structure import gradient_correlation, mutual_information

NOISE_LEVELS = 2.0  # standard deviation, in levels of 255
JPEG_QUALITY = 90
MEAN_NOISE = NOISE_LEVELS / 255 * math.sqrt(2 / math.pi)  # its mean absolute value, about 1.6 levels
_SEED = 18

Translate = Callable[[Tensor], Tensor]  # [N, C, H, W] -> [N, C', H', W']


class Faithfulness(NamedTuple):
    """What was measured, float64 [N] each on the CPU where nothing else is stated."""

    cycle: Tensor
    """Error of the reconstruction."""
    after_8bit: Tensor
    """The same, of a translation that was rounded to 8 bits."""
    after_jpeg: Tensor
    """Of one that was stored as JPEG of quality 90."""
    after_noise: Tensor
    """Of one with Gaussian noise of 2 levels."""
    hidden: Tensor
    """`hidden_information`: about 1 where nothing is hidden."""
    gradient_correlation: Tensor
    """-1 to 1: whether edges are where the input has them."""
    mutual_information: Tensor
    """Bits: what the brightness of the translation says about that of the input, pixel by pixel."""
    retranslated: Tensor
    """Difference of the translation and that of its reconstruction after noise."""
    error: Tensor
    """Map of `cycle`, float32 [N, 1, H, W]."""
    noise_error: Tensor
    """Map of `after_noise`, which hidden patterns cannot lower."""
    retranslation_error: Tensor
    """Map of `retranslated`, float32 [N, 1, H', W']: what may be invented."""
    reconstruction: Tensor
    """From the translation as it is, [N, C, H, W]."""
    noise_reconstruction: Tensor
    """From the one with noise."""


SCORES = Faithfulness._fields[: Faithfulness._fields.index("error")]
"""The numbers of an image."""
MAPS = {"retranslation": "retranslation_error", "reconstruction": "noise_error"}
"""The maps that people see, of what may be invented and of what may be lost, and the fields that they are in."""


def measure(
    images: Tensor,
    translations: Tensor,
    generator: Translate,
    inverse: Translate,
    reconstructions: Tensor | None = None,
) -> Faithfulness:
    """Measures how faithful translations are.

    What a generator reads in its input is in the reconstruction as well, and is translated alike again. What it invents
    is decided by details that the reconstruction does not repeat: so one is translated a second time, that after noise,
    as no hidden pattern helps it.

    Args:
        images: The inputs, [N, C, H, W].
        translations: What the generator made of them, [N, C', H', W'].
        generator: What made the translations, [N, C, H, W] -> [N, C', H', W'].
        inverse: The generator of the other direction, [N, C', H', W'] -> [N, C, H, W].
        reconstructions: What `inverse` makes of `translations`, if that is known: one pass less.

    Raises:
        ValueError: The inverse returns images of another shape than the inputs, or the generator other ones than the
            translations.
    """
    if reconstructions is None:
        reconstructions = inverse(translations)
    noisy = inverse(with_noise(translations))
    error, noise_error = error_map(images, reconstructions), error_map(images, noisy)
    retranslation_error = error_map(translations, generator(noisy))
    cycle, after_noise = mean_error(error), mean_error(noise_error)
    return Faithfulness(
        cycle=cycle,
        after_8bit=mean_error(error_map(images, inverse(as_8bit(translations)))),
        after_jpeg=mean_error(error_map(images, inverse(as_jpeg(translations)))),
        after_noise=after_noise,
        hidden=hidden_information(cycle, after_noise),
        gradient_correlation=gradient_correlation(images, translations),
        mutual_information=mutual_information(images, translations),
        retranslated=mean_error(retranslation_error),
        error=error,
        noise_error=noise_error,
        retranslation_error=retranslation_error,
        reconstruction=reconstructions,
        noise_reconstruction=noisy,
    )


def error_map(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Returns the absolute difference, the mean over channels, on the scale from 0 to 1: float32 [N, 1, H, W].

    Raises:
        ValueError: The shapes differ.
    """
    if images.shape != reconstructions.shape:
        raise ValueError(f"reconstructions of shape {list(reconstructions.shape)} for images of {list(images.shape)}")
    return (images.float() - reconstructions.float()).abs().mean(dim=1, keepdim=True) / 2


def mean_error(error: Tensor) -> Tensor:
    """Returns the mean of each map [N, 1, H, W], float64 [N] on the CPU."""
    return error.double().mean(dim=(1, 2, 3)).cpu()


def hidden_information(cycle: Tensor, after_noise: Tensor) -> Tensor:
    """Returns the error after noise by the error before, where the latter counts as that of the noise at least.

    An inverse that passes noise on as it is has 1 if the cycle is perfect, and between 1 and sqrt(2) if it is not; one
    that removes noise stays at 1 or below. One that reads hidden patterns loses them: 2 and far more.

    Args:
        cycle: Errors of the reconstructions, any shape.
        after_noise: The same after noise.
    """
    return after_noise / cycle.clamp(min=MEAN_NOISE)  # clamp keeps NaN


def as_8bit(images: Tensor) -> Tensor:
    """Returns images as a file of 8 bits gives them back: clipped and rounded to 255 levels."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def with_noise(images: Tensor) -> Tensor:
    """Returns images with Gaussian noise of 2 levels of 255, the same for each image of that size in any batch."""
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(images.shape[1:], generator=generator) * (NOISE_LEVELS / 127.5)
    return images.float() + noise.to(images.device)


def as_jpeg(images: Tensor) -> Tensor:
    """Returns images as a JPEG of quality 90 gives them back (Pillow's, with its subsampling of colors).

    Images that have neither 1 nor 3 channels are stored channel by channel.
    """
    levels = ((images.float() + 1) * 127.5).nan_to_num().round().clamp(0, 255).to(torch.uint8).cpu()
    stored = torch.stack(
        [torch.from_numpy(_store(image.permute(1, 2, 0).numpy())).permute(2, 0, 1) for image in levels]
    )
    stored_values = stored.to(images.device).float() / 127.5 - 1
    return torch.where(images.isnan(), images.float(), stored_values)  # no file makes a number of what is none


def _store(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] through JPEG."""
    channels = pixels.shape[2]
    if channels not in (1, 3):
        return np.concatenate([_store(pixels[..., i : i + 1]) for i in range(channels)], axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels)).save(
        file, "JPEG", quality=JPEG_QUALITY
    )
    with Image.open(file) as image:
        return np.array(image).reshape(pixels.shape)
